//! Where does this connection go? A TCP balancer with three-answer health checks.
//!
//! ```text
//!  client ──accept──▶ worker ──candidates──▶ Pool ◀──health── probe ──TLS──▶ backend
//!                       │                                       │
//!                       └──────────── flow: relay ──────────────┴────TCP───▶ backend
//! ```
//!
//! * `age`, [`health`], [`policy`], `pool`, `roster`, `slow_start`, `source_hash`, `http`, `first_flight` and `proxy_protocol` are pure: they name no socket, no clock
//!   and no runtime.
//! * `probe` and `probes` ask the backends, `tcp`, `flow`, `relay`, `leg`, `reactor` and `executor` move the bytes, `control`, `supervisor` and
//!   `drain` begin and end it all; `change`, `layout` and `floor` make another configuration of it while it runs.
//! * [`forward`] has the kernel lead connections to backends without us.
//! * [`transparent`] has connections come to backends from the client's own address.
//! * [`certificate`] asks a server for which names its certificate is, for a check before the start.
//! * [`redirect`] has the kernel lead here what comes for a port that the host's own apiserver has.
//!
//! Each worker is an OS thread with its own tasks and its own listening sockets, so a flow lives its whole
//! life on one thread and shares nothing but counters. Probes live on a thread of their own: a worker busy
//! with bulk data must not make a healthy backend look late.

mod account;
mod age;
mod backends;
mod board;
pub mod certificate;
mod change;
mod client;
mod config;
mod control;
mod drain;
mod error;
mod executor;
mod first_flight;
mod floor;
mod flow;
pub mod forward;
mod frontend;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod health;
mod http;
mod lane;
mod layout;
mod leg;
mod listen;
pub mod policy;
mod pool;
mod probe;
mod probes;
mod proxy_protocol;
mod reactor;
mod readiness;
mod rebalance;
pub mod redirect;
mod redirects;
mod relay;
mod room;
mod roster;
mod silence;
mod slow_start;
mod socket;
mod source_hash;
mod sources;
mod status;
mod supervisor;
mod tables;
mod tally;
mod target;
mod tcp;
mod tls;
pub mod transparent;
mod worker;

use std::collections::BTreeSet;
use std::net::{IpAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

pub use backends::{BackendsHandle, Maintained};
pub use client::Network;
pub use config::{
    Backend, Ca, Check, CheckKind, Config, Frontend, Limits, Listen, MAX_BACKENDS, Policy, Timeouts, files_of,
};
pub use control::ConfigHandle;
pub use drain::Drained;
pub use error::{Error, SetBackendsError, Wanted};
pub use health::Health;

pub use proxy_protocol::ProxyProtocol;
pub use status::{BackendStatus, Ended, FrontendStatus, Monitor, Status};
pub use tally::{CHECK_BOUNDS_MS, ChecksStatus};

use control::{Command, Control};

/// A running balancer: its worker threads, its probes and its listening sockets.
///
/// Dropping it resets every flow and joins the threads; [`Balancer::drain`] is the gentle end.
#[derive(Debug)]
pub struct Balancer {
    monitor: Monitor,
    usable: watch::Receiver<bool>,
    /// `None` once dropped, which is the order to stop.
    commands: Option<mpsc::Sender<Command>>,
    threads: Vec<JoinHandle<()>>,
    ended: Option<mpsc::Receiver<Vec<Ended>>>,
}

impl Balancer {
    /// Binds every frontend and starts the threads; no port conflict is left to show later.
    ///
    /// `held` tells which virtual IPs are on this node. Whenever that changes, the flows whose client reached one of the
    /// frontend's `virtual_ips` that isn't among them are reset at once. A dropped sender changes nothing.
    ///
    /// # Errors
    ///
    /// An address that can't be bound, a configuration that can't work, or a thread that can't be started.
    /// Nothing is left running or bound.
    pub fn start(config: Config, held: watch::Receiver<BTreeSet<IpAddr>>) -> Result<Self, Error> {
        Self::succeed(config, held, Vec::new())
    }

    /// The same in the place of a balancer of another process, from which these listening sockets are
    /// ([`ConfigHandle::listeners`]). Those at addresses that the configuration names are used, and lose no connection; the others are
    /// closed.
    ///
    /// # Errors
    ///
    /// Those of [`Balancer::start`].
    pub fn succeed(
        config: Config,
        held: watch::Receiver<BTreeSet<IpAddr>>,
        listeners: Vec<TcpListener>,
    ) -> Result<Self, Error> {
        let (commands, control) = Control::prepare(config, held, listeners)?;
        let (monitor, usable) = (control.board().monitor(), control.board().usable());
        // On an error in here the returned parts are dropped: workers stop because nobody commands them.
        let (threads, ended) = control.spawn()?;
        Ok(Self { monitor, usable, commands: Some(commands), threads, ended: Some(ended) })
    }

    /// The state of every frontend and backend as of now.
    #[must_use]
    pub fn status(&self) -> Status {
        self.monitor.status()
    }

    /// A handle that reads the status from elsewhere, also while this balancer drains.
    #[must_use]
    pub fn monitor(&self) -> Monitor {
        self.monitor.clone()
    }

    /// A handle that gives the balancer another configuration.
    #[must_use]
    pub fn configuration(&self) -> ConfigHandle {
        ConfigHandle::new(self.commands.as_ref())
    }

    /// A handle that changes the backends.
    #[must_use]
    pub fn backends(&self) -> BackendsHandle {
        self.monitor.backends()
    }

    /// False while some frontend has no backend, or none that is not dead.
    #[must_use]
    pub fn usable(&self) -> watch::Receiver<bool> {
        self.usable.clone()
    }

    /// Hears of connections that the kernel was made to forget because their backend is dead, so that their clients can be told; for one
    /// listener. It needn't be heard.
    pub fn take_ended(&mut self) -> Option<mpsc::Receiver<Vec<Ended>>> {
        self.ended.take()
    }

    /// Stops accepting, lets the flows end by themselves until `deadline` has passed, resets the rest and
    /// joins every thread.
    ///
    /// Connections already waiting in the accept queues are served. Dropping the future resets everything at
    /// once.
    pub async fn drain(mut self, deadline: Duration) -> Drained {
        let (reply, done) = oneshot::channel();
        let Some(commands) = self.commands.as_ref() else { return Drained::default() };
        if commands.send(Command::Drain { deadline, reply }).await.is_err() {
            return Drained::default();
        }
        let drained = done.await.unwrap_or_default();
        self.join();
        drained
    }

    fn join(&mut self) {
        self.commands = None;
        for thread in self.threads.drain(..) {
            let name = thread.thread().name().unwrap_or_default().to_owned();
            if thread.join().is_err() {
                tracing::error!(thread = name, "balancer thread panicked");
            }
        }
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.join();
    }
}

/// The state that every thread of one balancer shares.
type Frontends = Arc<[Arc<frontend::Shared>]>;
