//! vipd: one highly available endpoint for a Kubernetes control plane.
//!
//! ```text
//!  config.yaml ──▶ Config ─┬─▶ leader::peers ──watch<Leadership>──┐
//!                          │        ▲ eligible?                   ▼ may hold until T
//!                          ├─▶ lb::Balancer ◀──watch<active>── vip::Driver ──▶ kernel, segment
//!                          └─▶ status socket ◀── watches of all three; command socket ──▶ leader
//! ```
//!
//! The crates `leader`, `vip` and `lb` answer one question each and don't know one another. This one reads the
//! configuration, joins them ([`daemon`]), and tells what they do ([`status`]). The binary is [`main`] and nothing else; it is a
//! library so that what it reads from outside can be reached by what fuzzes it.

mod check;
mod cli;
mod command;
mod config;
mod confinement;
mod convert;
mod daemon;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod logging;
mod manifest;
mod memory;
mod punctuality;
#[cfg(test)]
mod reference;
mod sample;
mod scheduling;
mod service;
mod signals;
mod status;
mod web;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use cli::{Cli, Command, Sample};

/// Exit codes, those of sysexits.h.
mod exit {
    /// The command line was used wrongly.
    pub(crate) const USAGE: u8 = 64;
    /// What was given can be read, and is not enough.
    pub(crate) const DATAERR: u8 = 65;
    /// Nobody answers where an answer was expected.
    pub(crate) const UNAVAILABLE: u8 = 69;
    /// Something that should not happen.
    pub(crate) const SOFTWARE: u8 = 70;
    /// A system call failed for a reason that configuration can't mend.
    pub(crate) const OSERR: u8 = 71;
    /// Not now; the same may succeed a moment later.
    pub(crate) const TEMPFAIL: u8 = 75;
    /// A capability or a permission is missing.
    pub(crate) const NOPERM: u8 = 77;
    /// The configuration can't be used.
    pub(crate) const CONFIG: u8 = 78;
}

/// Runs the command that the process was started with, and gives its exit code, which is one of sysexits.h.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse_from(cli::arguments(std::env::args_os())) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers, not mistakes; clap prints each to the right stream.
            let code = if error.use_stderr() { ExitCode::from(exit::USAGE) } else { ExitCode::SUCCESS };
            return error.print().map_or_else(|_| ExitCode::from(exit::SOFTWARE), |()| code);
        }
    };
    let code = run(cli.command);
    logging::finish();
    code
}

fn run(command: Command) -> ExitCode {
    match command {
        Command::Start(start) => daemon::start(&start),
        Command::Manager(options) => daemon::manager(&options),
        Command::Manifest(options) => manifest::print(&options),
        Command::Check(options) => check::check(&options),
        Command::Convert(options) => convert::convert(&options),
        Command::Sample(Sample::Config) => print(sample::CONFIG),
        Command::Sample(Sample::Manifest(options)) => match sample::manifest(&options) {
            Ok(document) => print(&document),
            Err(error) => fail(exit::USAGE, &error),
        },
        Command::Status(options) => status::show(&options),
        Command::Health(options) => status::health(&options),
        Command::StepDown(options) => command::step_down(&options),
        Command::Backend(command) => command::backend(&command),
        Command::LogLevel(options) => command::log_level(&options),
        Command::Version => print(&format!("vipd {}\n", env!("CARGO_PKG_VERSION"))),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "vipd", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
    }
}

/// Writes a whole document to standard output. A reader that has gone away (`| head`) is no failure.
fn print(document: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(document.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            fail(exit::OSERR, &anyhow::Error::new(error).context("failed to write to standard output"))
        }
    }
}

/// Names or addresses, one after the other, for a sentence.
fn listed<T: ToString>(things: impl IntoIterator<Item = T>) -> String {
    things.into_iter().map(|thing| thing.to_string()).collect::<Vec<_>>().join(", ")
}

/// Writes lines for an operator to standard error.
fn tell(text: &str) {
    if logging::say(text) {
        return;
    }
    // Where even that is closed, the exit code is all that is left to say it with.
    let _ = writeln!(io::stderr().lock(), "{}", logging::for_stderr(text));
}

/// Says what went wrong, with its causes, and gives the exit code.
fn fail(code: u8, error: &anyhow::Error) -> ExitCode {
    tell(&format!("error: {error:#}"));
    ExitCode::from(code)
}
