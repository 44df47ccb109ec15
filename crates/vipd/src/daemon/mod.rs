//! Joins the election, the address and the balancer, and keeps them until a stop is asked for.
//!
//! One thread of real-time priority runs the election, the address and this; the balancer has threads of its own, so
//! that no amount of traffic delays a lease, and so has what is served over HTTP ([`crate::web`]). [`wiring`] is the only place where the three meet:
//!
//! ```text
//!  leader ──Leadership──▶ lease end ──▶ vip ──State──▶ active? ──▶ lb
//!    ▲  ▲                                │               │
//!    │  └── confirm_standby ◀── Standby ─┤               │
//!    └───── set_eligible ◀── link up? ───┴── usable? ◀───┘
//! ```

mod apiservers;
mod bootstrap;
pub(crate) mod clients;
mod endpoints;
mod file_watch;
mod handing;
mod heart;
pub(crate) mod interface;
mod kube_vip;
pub(crate) mod moves;
mod names;
pub(crate) mod notes;
mod own;
pub(crate) mod owner;
pub(crate) mod parts;
mod predecessor;
mod record;
mod reload;
pub(crate) mod resolution;
mod standing;
mod successor;
pub(crate) mod tie_break;
mod wiring;
pub(crate) mod witness;

use std::collections::BTreeMap;
use std::fmt;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime;
use tokio::sync::oneshot;
use tokio::task::{LocalSet, spawn_local};
use tracing::{debug, info, warn};

use crate::cli::{LogFormat, Manager, Start};
use crate::config::kube_vip::Settings;
use crate::config::{self, Config, Diagnostic, Election, Severity, Vip};
use crate::confinement::Confinement;
use crate::service::Service;
use crate::signals::Signals;
use crate::{check, exit, fail, listed, logging, memory, punctuality, scheduling, tell};

pub(crate) use heart::Pulse;
pub(crate) use successor::Successor;

use endpoints::ApiBackends;
use heart::Heart;
use parts::Parts;
use predecessor::Predecessor;
use reload::Reload;
use resolution::Resolution;
use standing::Standings;
use successor::Succession;

/// How long files and names that are just being read or looked up keep the process from ending.
const SHUTDOWN_MAX: Duration = Duration::from_secs(1);

/// `vipd start`: runs until a signal asks for a stop.
pub(crate) fn start(options: &Start) -> ExitCode {
    let confinement = Confinement::unless(options.unconfined);
    if let Err(error) = logging::begin(&options.log_level, options.log_format) {
        return fail(exit::USAGE, &error);
    }
    // Before the configuration is read: how many connections there may be follows from it.
    open_files();
    let (mut config, warnings) = match config::load(&options.config, options.overrides()) {
        Ok(loaded) => loaded,
        Err(findings) => return refuse(&findings),
    };
    tell_warnings(&warnings);
    if let Some(socket) = &options.socket {
        config.socket.clone_from(socket);
    }
    block_on(async {
        let signals = Signals::listen().context("failed to listen for signals")?;
        let reload = Reload::listen(Some((&options.config, options.overrides())));
        let reload = reload.context("failed to listen for signals")?;
        run(Setup { config, door: "file", names: Vec::new(), confinement }, signals, reload).await
    })
}

/// `vipd manager`: the same, set up by kube-vip's flags and environment.
pub(crate) fn manager(options: &Manager) -> ExitCode {
    let confinement = Confinement::unless(options.unconfined);
    let settings = Settings::gather(&options.flags, &environment());
    if let Err(error) = logging::begin(settings.log_level(), LogFormat::Text) {
        return fail(exit::USAGE, &error);
    }
    open_files();
    // Before anything is looked up: what is wrong anyway need not wait for a name server.
    if let Err(findings) = settings.check() {
        return refuse(&findings);
    }
    let socket = options.socket.clone();
    let mut refused = None;
    let code = block_on(async {
        let mut signals = Signals::listen().context("failed to listen for signals")?;
        let reload = Reload::listen(None).context("failed to listen for signals")?;
        let lookups = tokio::select! {
            lookups = kube_vip::look_up(&settings) => lookups?,
            signal = signals.next() => {
                info!(signal, "vipd stopped");
                return Ok(());
            }
        };
        let (mut config, warnings) = match settings.build(&lookups) {
            Ok(built) => built,
            Err(findings) => {
                refused = Some(findings);
                return Ok(());
            }
        };
        tell_warnings(&warnings);
        if let Some(socket) = socket {
            config.socket = socket;
        }
        let names = kube_vip::followed(&settings, &lookups);
        let door = "kube-vip's flags and environment";
        run(Setup { config, door, names, confinement }, signals, reload).await
    });
    refused.map_or(code, |findings| refuse(&findings))
}

/// The environment, without what is not text: no setting is.
pub(crate) fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

fn refuse(findings: &[Diagnostic]) -> ExitCode {
    findings.iter().for_each(|finding| tell(&finding.to_string()));
    ExitCode::from(exit::CONFIG)
}

fn tell_warnings(warnings: &[Diagnostic]) {
    for finding in warnings {
        debug_assert_eq!(finding.severity, Severity::Warning);
        tell(&finding.to_string());
    }
}

/// Runs on this thread, in a real-time class where the kernel permits it.
fn block_on(running: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
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
    let ended = LocalSet::new().block_on(&runtime, running);
    // A name server may be silent for longer than anybody waits for this process to end.
    runtime.shutdown_timeout(SHUTDOWN_MAX);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(code_of(&error), &error),
    }
}

/// Tries, before an election of short deadlines begins, whether this host wakes vipd in time for them.
///
/// # Errors
/// It demonstrably doesn't, and the timing is a profile; durations of the operator's own are warned about.
async fn refuse_to_be_late(vip: &Vip) -> anyhow::Result<()> {
    let Some(timing) = vip.timing().filter(|timing| punctuality::is_worth_a_trial(timing)) else {
        return Ok(());
    };
    let Some(trial) = punctuality::measure(timing).await else { return Ok(()) };
    let Some(refusal) = trial.refusal(timing, scheduling::is_raised()) else {
        debug!(delay = ?trial.delay(), permitted = ?timing.tolerance(), "this host wakes vipd in time");
        return Ok(());
    };
    let text = format!("{refusal}; {}", refusal.help());
    if vip.refuses_late_hosts {
        return Err(Lacking { code: exit::UNAVAILABLE, text }.into());
    }
    warn!("{text}");
    Ok(())
}

/// Keeps the owner of an address in RAM, where that is permitted; says whether it is.
fn lock_memory() -> bool {
    match memory::lock() {
        Ok(()) => {
            debug!("memory is locked");
            true
        }
        Err(error) => {
            let help = memory::HELP;
            info!(%error, help, "memory is not locked: a host that is short of it may stall the election");
            false
        }
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

/// What this machine lacks to do what the configuration asks for.
#[derive(Debug)]
struct Lacking {
    /// The exit code.
    code: u8,
    /// What, and what would be right.
    text: String,
}

impl fmt::Display for Lacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Lacking {}

/// The exit code of what ended the daemon: a missing capability is not a broken kernel.
fn code_of(error: &anyhow::Error) -> u8 {
    if let Some(lacking) = error.downcast_ref::<Lacking>() {
        return lacking.code;
    }
    // Without that part of the kernel, another configuration works.
    let lacks = |cause: &(dyn std::error::Error + 'static)| {
        matches!(cause.downcast_ref(), Some(lb::redirect::Error::Unsupported { .. }))
    };
    if error.chain().any(lacks) {
        return exit::CONFIG;
    }
    let kind =
        error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>()).map(std::io::Error::kind);
    match kind {
        Some(std::io::ErrorKind::PermissionDenied) => exit::NOPERM,
        Some(std::io::ErrorKind::AddrInUse | std::io::ErrorKind::NotFound) => exit::CONFIG,
        Some(_) => exit::OSERR,
        None => exit::CONFIG,
    }
}

/// What is run.
struct Setup {
    config: Config,
    /// What the configuration came from.
    door: &'static str,
    /// What addresses were taken from.
    names: Vec<names::Followed>,
    confinement: Option<Confinement>,
}

/// Runs until a signal.
async fn run(setup: Setup, mut signals: Signals, reload: Reload) -> anyhow::Result<()> {
    let Setup { mut config, door, names, confinement } = setup;
    announce(&config, door);
    let predecessor = Predecessor::find()?;
    let takes_over = predecessor.is_some();
    confinement.into_iter().for_each(|confinement| confinement.complete(&config.folders(), takes_over));
    let service = Rc::new(Service::find());
    service.set_heard(predecessor.is_none());
    let succession =
        signals.succession().map(Succession::new).transpose().context("failed to find this program")?;
    let mut is_locked = false;
    if let Some(vip) = config.vips.first() {
        // A node that leads and can't hold the address would keep it from all others.
        if let Some(finding) = check::lacking(&config) {
            return Err(Lacking { code: finding.code, text: finding.line() }.into());
        }
        is_locked = lock_memory();
        let fit = async {
            interface::appeared(&vip.interface).await?;
            refuse_to_be_late(vip).await
        };
        tokio::select! {
            fit = fit => fit?,
            signal = signals.next() => {
                info!(signal, "vipd stopped");
                return Ok(());
            }
        }
    }
    let (heart, pulse) = Heart::new(config.vips.first().and_then(Vip::timing));
    let work = async {
        let watch = config.reload_on_change;
        let resolution = tokio::select! {
            resolution = Resolution::begin(config.balancer.as_mut()) => resolution,
            signal = signals.next() => {
                info!(signal, "vipd stopped");
                return Ok(());
            }
        };
        let access = config.discovery.take().zip(config.balancer.as_mut());
        let (endpoints, asking) =
            access.map(|(access, balancer)| ApiBackends::start(access, balancer)).unzip();
        let mut parts = Parts::start(config, is_locked, pulse, predecessor, &service).await?;
        let mut tasks = Vec::from_iter(asking);
        if let Some(balancer) = &parts.balancer {
            tasks.push(spawn_local(Rc::clone(&resolution).follow(balancer.backends())));
            tasks.extend(endpoints.clone().map(|known| spawn_local(known.follow(balancer.backends()))));
        }
        let standings = spawn_local(Standings::of(&parts, Rc::clone(&service)).follow());
        let adjustable = parts.adjustable(resolution, endpoints);
        tasks.push(spawn_local(reload.follow(adjustable, watch, Rc::clone(&service))));
        if let Some(succession) = succession {
            let (taken, taking) = oneshot::channel();
            signals.expect_successor(taking);
            tasks.push(spawn_local(succession.follow(parts.listeners(), Rc::clone(&service), taken)));
        }
        if !names.is_empty() {
            tasks.push(spawn_local(names::follow(names)));
        }
        let outcome = wiring::run(&mut parts, &mut signals).await;
        for task in tasks {
            task.abort();
            let _ = task.await;
        }
        let successor = signals.successor();
        parts.stop(&mut signals, successor).await;
        // It has ended with the order to stop.
        let _ = standings.await;
        outcome
    };
    heart.beat_during(work, service.watchdog()).await
}

/// The line that tells what this process is going to be.
fn announce(config: &Config, door: &str) {
    let version = env!("CARGO_PKG_VERSION");
    let node = config.node.as_str();
    for (name, port) in config.balancer.iter().flat_map(|balancer| &balancer.discovered) {
        info!(name, port, "backends are the control-plane nodes, as the API tells them");
    }
    let balancers = config.balancer.as_ref().map_or(0, |balancer| balancer.config.frontends.len());
    if let Some(witness) = config.witnesses.first() {
        let addresses = listed(config.witnesses.iter().flat_map(|witness| &witness.addresses));
        let peers = witness.election.peers.len();
        info!(
            version,
            node,
            door,
            addresses,
            peers,
            balancers,
            "vipd starts: a witness, which votes and never has the addresses"
        );
        warn_of_strangers(&witness.election);
        return;
    }
    let Some(vip) = config.vips.first() else {
        info!(version, node, door, balancers, "vipd starts: balancing only, no virtual address");
        return;
    };
    let addresses = listed(config.vips.iter().flat_map(|vip| &vip.addresses));
    let elections = config.vips.len();
    let interface = &vip.interface;
    match &vip.election {
        Election::Peers(election) => {
            let peers = election.peers.len();
            let kind = if peers == 0 { "none" } else { "peers" };
            info!(version, node, door, addresses, %interface, election = kind, elections, peers, balancers, "vipd starts");
            warn_of_strangers(election);
        }
        Election::Kubernetes(election) => {
            let lease = format!("{}/{}", election.namespace, election.name);
            info!(version, node, door, addresses, %interface, election = "kubernetes", lease, balancers, "vipd starts");
        }
    }
}

fn warn_of_strangers(election: &leader::peers::Config) {
    if !election.peers.is_empty() && election.keys.is_empty() {
        warn!(
            "peers are not authenticated: any host of the segment can pose as one; set `peerKeys` on every host"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_can_not_redirect_a_port_asks_for_another_configuration() {
        let code = |source| {
            let error = lb::Error::Redirect { frontend: "api".to_owned(), port: 6443, source };
            code_of(&anyhow::Error::new(error).context("failed to start the balancer"))
        };
        assert_eq!(code(lb::redirect::Error::Unsupported { missing: "nf_tables" }), exit::CONFIG);
        assert_eq!(code(lb::redirect::Error::Taken { table: "vipd-10.0.0.9-6443".to_owned() }), exit::CONFIG);
        let denied = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        assert_eq!(code(lb::redirect::Error::Refused { what: "table", source: denied }), exit::NOPERM);
    }
}
