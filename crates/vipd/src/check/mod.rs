//! `vipd check`: the configuration, and whether this machine can run it.
//!
//! Nothing is changed: sockets are bound and closed again, and a probe asks the segment for owners of the address.

mod machine;
mod segment;

use std::process::ExitCode;

use tokio::runtime;

use crate::config::{self, Config, Overrides};
use crate::{cli, exit, fail, tell};

/// What one look at the machine found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    Doubtful,
    Bad,
}

/// One finding: what was looked at, what was found, and the way out.
#[derive(Debug)]
pub(crate) struct Finding {
    verdict: Verdict,
    /// The exit code, where this is the worst.
    pub(crate) code: u8,
    text: String,
    help: Option<String>,
}

impl Finding {
    fn good(text: impl Into<String>) -> Self {
        Self { verdict: Verdict::Good, code: 0, text: text.into(), help: None }
    }

    fn doubtful(text: impl Into<String>, help: impl Into<String>) -> Self {
        Self { verdict: Verdict::Doubtful, code: 0, text: text.into(), help: Some(help.into()) }
    }

    /// What was found and the way out, in one line.
    pub(crate) fn line(&self) -> String {
        self.help.as_ref().map_or_else(|| self.text.clone(), |help| format!("{}; {help}", self.text))
    }

    fn bad(code: u8, text: impl Into<String>, help: impl Into<String>) -> Self {
        Self { verdict: Verdict::Bad, code, text: text.into(), help: Some(help.into()) }
    }
}

/// The first capability that the addresses of a configuration need and this process has not.
pub(crate) fn lacking(config: &Config) -> Option<Finding> {
    machine::for_addresses(config).into_iter().find(|finding| finding.verdict == Verdict::Bad)
}

/// Checks and prints; the exit code is that of the first thing that would keep vipd from working.
pub(crate) fn check(options: &cli::Check) -> ExitCode {
    let config = match config::load(&options.config, Overrides::default()) {
        Ok((config, warnings)) => {
            warnings.iter().for_each(|finding| tell(&finding.to_string()));
            config
        }
        Err(findings) => {
            findings.iter().for_each(|finding| tell(&finding.to_string()));
            return ExitCode::from(exit::CONFIG);
        }
    };
    tell(&format!("ok: {}: the configuration fits together", options.config.display()));
    if options.config_only {
        return ExitCode::SUCCESS;
    }
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return fail(exit::OSERR, &anyhow::Error::new(error).context("failed to start the event loop"));
        }
    };
    let findings = runtime.block_on(machine::examine(&config));
    // A name server may be silent for longer than anybody waits for the answer.
    runtime.shutdown_background();
    for finding in &findings {
        let word = match finding.verdict {
            Verdict::Good => "ok",
            Verdict::Doubtful => "warning",
            Verdict::Bad => "error",
        };
        tell(&format!("{word}: {}", finding.text));
        if let Some(help) = &finding.help {
            tell(&format!("  help: {help}"));
        }
    }
    let worst = findings.iter().find(|finding| finding.verdict == Verdict::Bad);
    worst.map_or(ExitCode::SUCCESS, |finding| ExitCode::from(finding.code))
}
