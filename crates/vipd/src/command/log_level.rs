//! `vipd log-level`: what is logged, and something else from now on.

use std::process::ExitCode;

use super::ask::{ask, strange};
use super::{Answer, Request};
use crate::{cli, exit, fail, logging, print};

/// Asks the vipd behind a socket what it logs, or tells it. A level that means nothing is not even sent.
pub(crate) fn log_level(options: &cli::LogLevel) -> ExitCode {
    if let Some(Err(error)) = options.level.as_deref().map(logging::filter) {
        return fail(exit::USAGE, &error);
    }
    match ask(&options.socket, &Request::LogLevel { level: options.level.clone() }) {
        Ok(Answer::LogLevel { level }) => print(&format!("{level}\n")),
        Ok(Answer::Begun { .. } | Answer::Leads { .. } | Answer::Backends(_) | Answer::Refused(_)) => {
            strange(&options.socket)
        }
        Err(code) => code,
    }
}
