//! A snapshot of the balancer, as plain data.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::account::Ending;
use crate::backends::BackendsHandle;
use crate::tally::ChecksStatus;
use crate::{Frontends, Health};

/// Ways in which a flow can end.
const ENDS: usize = Ending::WORDS.len();

/// The balancer at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// In the order of the configuration, and after them those that have left it and still have connections.
    pub frontends: Vec<FrontendStatus>,
}

/// One frontend at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrontendStatus {
    /// Its name.
    pub name: String,
    /// It is no part of the configuration any more, and is shown until its last connection has ended.
    pub leaving: bool,
    /// The addresses it really listens on.
    pub listen: Vec<SocketAddr>,
    /// The port of the same addresses that clients connect to, where the kernel leads it to these.
    pub redirected: Option<u16>,
    /// The kernel leads connections to the backends by itself: of these only those that are open are counted, every few seconds.
    pub forwarded: bool,
    /// Flows now.
    pub connections: usize,
    /// Most flows it may hold.
    pub max_connections: usize,
    /// Connections accepted since start.
    pub accepted: u64,
    /// Connections reset because no backend could be reached.
    pub refused: u64,
    /// Connections reset because their client's host had as many as it may have, or because a proxy did not say on whose behalf it came.
    pub rejected: u64,
    /// Connections on which nobody seemed to wait for an answer, ended so that another backend gets its share.
    pub rebalanced: u64,
    /// Connections that were ended since they had lasted for long enough.
    pub aged: u64,
    /// In the order in which they were given, and after them those that have left and still have connections.
    pub backends: Vec<BackendStatus>,
}

/// A connection that the kernel led to a backend and was made to forget: its client learns of its end when it sends something next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Who began it.
    pub client: SocketAddr,
    /// Where its client connected: the virtual IP, and the frontend's port.
    pub server: SocketAddr,
}

/// One backend at one moment, as one frontend sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendStatus {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// It has left the frontend: it gets no new connections and is shown until its last one has ended.
    pub leaving: bool,
    /// It was [taken out of use](crate::BackendsHandle::set_drained): it gets new connections only while there is no other.
    pub drained: bool,
    /// So says the set of backends: see [`Backend::cordoned`](crate::Backend::cordoned).
    pub cordoned: bool,
    /// What the checks found.
    pub health: Health,
    /// What it gets, in thousandths of what its policy would give it: less than all of it in the
    /// [slow start](crate::Frontend::slow_start) of one that has come back.
    pub share: u32,
    /// Since when it has been found so.
    pub since: std::time::Instant,
    /// Flows now, including those still connecting.
    pub connections: usize,
    /// Connections made since it came.
    pub total: u64,
    /// Connects that failed or took too long.
    pub connect_failures: u64,
    /// Flows that left it for another backend before the client noticed.
    pub retries: u64,
    /// How its checks went.
    pub checks: ChecksStatus,
    /// How flows ended that it had taken, by the words of the access log.
    pub ends: [(&'static str, u64); ENDS],
    /// Why the latest check failed; `None` once the backend has become ready again.
    pub last_error: Option<String>,
    /// Bytes sent to the backend.
    pub bytes_to_backend: u64,
    /// Bytes sent to clients.
    pub bytes_to_client: u64,
}

/// Reads the status of a balancer; cheap to clone and valid after the balancer is gone (it then shows the
/// end).
#[derive(Debug, Clone)]
pub struct Monitor {
    frontends: watch::Receiver<Frontends>,
    changes: watch::Receiver<u64>,
}

impl Monitor {
    pub(crate) fn new(frontends: watch::Receiver<Frontends>, changes: watch::Receiver<u64>) -> Self {
        Self { frontends, changes }
    }

    /// Counts the changes of any backend's health, and those of a frontend's backends, so that they can be
    /// awaited.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    pub(crate) fn backends(&self) -> BackendsHandle {
        BackendsHandle::new(self.frontends.clone())
    }

    /// The state of every frontend and backend as of now.
    #[must_use]
    pub fn status(&self) -> Status {
        let now = Instant::now().into_std();
        let frontends = Arc::clone(&self.frontends.borrow());
        let shown = frontends.iter().map(|frontend| frontend.status(now));
        // The control thread may not have seen the last connection end yet.
        Status { frontends: shown.filter(|frontend| !frontend.leaving || frontend.connections > 0).collect() }
    }
}
