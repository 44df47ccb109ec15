//! Joins the election, the address and the balancer, and keeps them until a stop is asked for.
//!
//! One thread of real-time priority runs the election, the address and this; the balancer has threads of its own, so
//! that no amount of traffic delays a lease. [`Wiring`] is the only place where the three meet:
//!
//! ```text
//!  leader ──Leadership──▶ lease end ──▶ vip ──State──▶ active? ──▶ lb
//!    ▲  ▲                                │               │
//!    │  └── confirm_standby ◀── Standby ─┤               │
//!    └───── set_eligible ◀── link up? ───┴── usable? ◀───┘
//! ```

mod bootstrap;
pub(crate) mod parts;
mod wiring;

use std::process::ExitCode;

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime;
use tokio::task::LocalSet;
use tracing::{debug, info, warn};

use crate::cli::Start;
use crate::config::{self, Config, Severity};
use crate::signals::Signals;
use crate::{exit, fail, logging, scheduling, tell};

use parts::Parts;
use wiring::Wiring;

/// `vipd start`: runs until a signal asks for a stop.
pub(crate) fn start(options: &Start) -> ExitCode {
    if let Err(error) = logging::begin(&options.log_level, options.log_format) {
        return fail(exit::USAGE, &error);
    }
    // Before the configuration is read: how many connections there may be follows from it.
    open_files();
    let (mut config, warnings) = match config::load(&options.config, options.overrides()) {
        Ok(loaded) => loaded,
        Err(findings) => {
            findings.iter().for_each(|finding| tell(&finding.to_string()));
            return ExitCode::from(exit::CONFIG);
        }
    };
    for finding in &warnings {
        debug_assert_eq!(finding.severity, Severity::Warning);
        tell(&finding.to_string());
    }
    if let Some(socket) = &options.socket {
        config.socket.clone_from(socket);
    }
    match scheduling::raise() {
        Ok(()) => debug!("the election runs with real-time priority"),
        Err(error) => debug!(%error, "the election runs with ordinary priority"),
    }
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return fail(exit::OSERR, &anyhow::Error::new(error).context("failed to start the event loop"));
        }
    };
    match LocalSet::new().block_on(&runtime, run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(code_of(&error), &error),
    }
}

/// Lifts the soft limit of open files, which is for programs that use select(2), to the hard one.
fn open_files() {
    let limit = getrlimit(Resource::Nofile);
    let lifted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, lifted) {
        debug!(%error, limit = limit.current, "the limit of open files stays as it is");
    }
}

/// The exit code of what ended the daemon: a missing capability is not a broken kernel.
fn code_of(error: &anyhow::Error) -> u8 {
    let kind =
        error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>()).map(std::io::Error::kind);
    match kind {
        Some(std::io::ErrorKind::PermissionDenied) => exit::NOPERM,
        Some(std::io::ErrorKind::AddrInUse | std::io::ErrorKind::NotFound) => exit::CONFIG,
        Some(_) => exit::OSERR,
        None => exit::CONFIG,
    }
}

async fn run(config: Config) -> anyhow::Result<()> {
    let mut signals = Signals::listen().context("failed to listen for signals")?;
    announce(&config);
    let mut parts = Parts::start(config).await?;
    let outcome = Wiring::new(&parts).run(&mut parts, &mut signals).await;
    parts.stop(&mut signals).await;
    outcome
}

/// The line that tells what this process is going to be.
fn announce(config: &Config) {
    let version = env!("CARGO_PKG_VERSION");
    let node = config.node.as_str();
    let balancers = config.balancer.as_ref().map_or(0, |balancer| balancer.frontends.len());
    let Some(vip) = &config.vip else {
        info!(version, node, balancers, "vipd starts: balancing only, no virtual address");
        return;
    };
    let addresses = vip.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let peers = vip.election.peers.len();
    let election = if peers == 0 { "none" } else { "peers" };
    info!(version, node, addresses, interface = vip.interface, election, peers, balancers, "vipd starts");
    if peers > 0 && vip.election.keys.is_empty() {
        warn!(
            "peers are not authenticated: any host of the segment can pose as one; set `peerKeys` on every host"
        );
    }
}
