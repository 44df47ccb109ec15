//! `vipd check`: the configuration, and whether this machine can run it.
//!
//! Nothing is changed: sockets are bound and closed again, probes ask the segment for owners of the address, and rules are made and taken
//! back by the kernel itself. Each look is bounded in time. What can't be looked at is said, and no look is left out in silence.
//!
//! | module | its question |
//! |---|---|
//! | `subjects` | What is looked at, and why does it matter? |
//! | `finding` | What does a look say? |
//! | `examination` | Which looks does a configuration need, and which of them at the same time? |
//! | `machine` | May vipd do its work here, and in time? |
//! | `interface` | Is there a place for the addresses? |
//! | `settings` | Which of the kernel's settings are in the way? (sysctl) |
//! | `segment` | Who else is on the segment? |
//! | `overhearing` | What do peers that run say, and is it understood here? |
//! | `ports`, `holders` | Which ports are taken, and by whom? |
//! | `rules` | Would the kernel take vipd's rules, and do others' let its packets through? |
//! | `cluster` | What does the API permit? |
//! | `certificates` | Are the servers' certificates for the virtual address? |

mod certificates;
mod cluster;
mod examination;
mod finding;
mod holders;
mod interface;
mod machine;
mod overhearing;
mod ports;
mod rules;
mod segment;
mod settings;
mod subjects;

use std::process::ExitCode;

use serde_json::json;
use tokio::runtime;

use crate::config::{self, Config, Diagnostic, Overrides, Severity};
use crate::{cli, exit, fail, print, tell};

pub(crate) use finding::Finding;
use finding::Verdict;
use subjects as about;

/// The form of what `--json` prints. Another number is another form; what is added keeps it.
const FORM: u32 = 1;

/// The first capability that the addresses of a configuration need and this process has not.
pub(crate) fn lacking(config: &Config) -> Option<Finding> {
    machine::for_addresses(config).into_iter().find(|finding| finding.verdict == Verdict::Bad)
}

/// Checks and prints; the exit code is that of the first thing that would keep vipd from working.
pub(crate) fn check(options: &cli::Check) -> ExitCode {
    let (config, diagnostics) = match config::load(&options.config, Overrides::default()) {
        Ok((config, warnings)) => (Some(config), warnings),
        Err(findings) => (None, findings),
    };
    let mut findings: Vec<Finding> = diagnostics.iter().map(told).collect();
    if !options.json {
        diagnostics.iter().for_each(|finding| tell(&finding.to_string()));
    }
    if let Some(config) = config {
        let fits = format!("{}: the configuration fits together", options.config.display());
        let fits = Finding::good(&about::CONFIGURATION, fits);
        if !options.json {
            tell(&fits.lines());
        }
        findings.push(fits);
        if !options.config_only {
            match examine(&config, options) {
                Ok(found) => findings.extend(found),
                Err(error) => {
                    let error = anyhow::Error::new(error).context("failed to start the event loop");
                    return fail(exit::OSERR, &error);
                }
            }
        }
    }
    let worst = findings.iter().find(|finding| finding.verdict == Verdict::Bad);
    let code = worst.map_or(0, |finding| finding.code);
    if options.json {
        let list: Vec<_> = findings.iter().map(Finding::json).collect();
        let document = json!({ "form": FORM, "exit": code, "findings": list });
        print(&format!("{document:#}\n"));
    }
    ExitCode::from(code)
}

/// Looks at the machine, and prints for people.
fn examine(config: &Config, options: &cli::Check) -> std::io::Result<Vec<Finding>> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let findings = runtime.block_on(examination::examine(config, options.endpoint.as_deref()));
    // A name server may be silent for longer than anybody waits for the answer.
    runtime.shutdown_background();
    if !options.json {
        findings.iter().for_each(|finding| tell(&finding.lines()));
    }
    Ok(findings)
}

/// What is wrong with the file, as a finding.
fn told(diagnostic: &Diagnostic) -> Finding {
    let mut text = diagnostic.origin.clone();
    if let Some(place) = diagnostic.place {
        text += &format!(":{}:{}", place.line, place.column);
    }
    text += &format!(": {}", diagnostic.message);
    match diagnostic.severity {
        Severity::Warning => Finding::doubtful(&about::CONFIGURATION, text, &diagnostic.help),
        Severity::Error => Finding::bad(&about::CONFIGURATION, exit::CONFIG, text, &diagnostic.help),
    }
}
