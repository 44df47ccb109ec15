//! Commands of `vipd status --watch`: what came of one is a line on the screen, not an exit code.

use std::path::Path;

use super::ask::carry_out;
use super::backend::line;
use super::{Answer, Refusal, Request};

/// A command that a person may give while looking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Hands all addresses of this node over, to the best other one.
    StepDown,
    /// Takes a backend out of use.
    Drain(String),
    /// Takes it back.
    Enable(String),
}

/// Has the vipd behind a status socket do it, and waits until that is done; what came of it, in a line.
pub(crate) fn obey(status: &Path, order: Order) -> String {
    let request = match order {
        Order::StepDown => Request::StepDown { to: None, vip: None },
        Order::Drain(backend) => Request::DrainBackend { backend },
        Order::Enable(backend) => Request::EnableBackend { backend },
    };
    match carry_out(status, &request) {
        Ok(Answer::Leads { node }) => format!("{node} leads"),
        Ok(Answer::Backends(maintained)) => {
            let lines: Vec<String> = maintained.iter().map(|one| line(one).trim_end().to_owned()).collect();
            lines.join("; ")
        }
        Ok(Answer::Refused(Refusal { text, .. })) => format!("refused: {text}"),
        Ok(Answer::Begun { .. }) => "the address is being handed over".to_owned(),
        // Nobody has asked for it.
        Ok(Answer::LogLevel { .. }) => "no answer of a vipd came".to_owned(),
        Err(error) => format!("{error:#}"),
    }
}
