//! `vipd step-down`: hands the lead to another node, and waits until that leads.

use std::process::ExitCode;

use super::ask::{ask, strange};
use super::{Answer, Request};
use crate::{cli, print};

/// Gives the command to the vipd behind a socket. Tells the new leader once there is one; the exit code says why not.
pub(crate) fn step_down(options: &cli::StepDown) -> ExitCode {
    let to = options.to.as_ref().map(|node| node.as_str().to_owned());
    match ask(&options.socket, &Request::StepDown { to, vip: options.vip }) {
        Ok(Answer::Leads { node }) => print(&format!("{node} leads\n")),
        Ok(Answer::Begun { .. } | Answer::Backends(_) | Answer::LogLevel { .. } | Answer::Refused(_)) => {
            strange(&options.socket)
        }
        Err(code) => code,
    }
}
