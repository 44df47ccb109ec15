//! `vipd backend`: takes a backend out of use, and back.

use std::process::ExitCode;

use super::ask::{ask, strange};
use super::{Answer, Maintained, Request};
use crate::{cli, print};

/// Gives the command to the vipd behind a socket, and tells what it means for each balancer that has the backend.
pub(crate) fn backend(command: &cli::Backend) -> ExitCode {
    let (options, request) = match command {
        cli::Backend::Drain(options) => (options, Request::DrainBackend { backend: options.backend.clone() }),
        cli::Backend::Enable(options) => {
            (options, Request::EnableBackend { backend: options.backend.clone() })
        }
    };
    match ask(&options.socket, &request) {
        Ok(Answer::Backends(maintained)) => print(&maintained.iter().map(line).collect::<String>()),
        Ok(Answer::Begun { .. } | Answer::Leads { .. } | Answer::LogLevel { .. } | Answer::Refused(_)) => {
            strange(&options.socket)
        }
        Err(code) => code,
    }
}

/// What it means for one balancer, as a line with its end.
pub(super) fn line(maintained: &Maintained) -> String {
    let Maintained { balancer, backend, open, drained, replaced } = maintained;
    let what = match (drained, replaced) {
        (true, true) => "gets no new connections",
        (true, false) => "is drained, and gets new connections all the same: no other backend can take them",
        (false, _) => "gets new connections",
    };
    format!("{balancer}: {backend} {what}; {open} open\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_command_means_is_told_for_each_balancer() {
        let maintained = |drained, replaced| Maintained {
            balancer: "api".to_owned(),
            backend: "master-1".to_owned(),
            open: 3,
            drained,
            replaced,
        };
        assert_eq!(line(&maintained(true, true)), "api: master-1 gets no new connections; 3 open\n");
        assert!(line(&maintained(true, false)).contains("no other backend can take them"));
        assert_eq!(line(&maintained(false, true)), "api: master-1 gets new connections; 3 open\n");
    }
}
