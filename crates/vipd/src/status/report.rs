//! The snapshot: a fold of what the parts publish. The one source for JSON and people.

use std::time::{Duration, Instant};

use leader::Leadership;
use leader::peers::PeerStatus;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::daemon::owner::Monitor;
use crate::daemon::parts::Parts;
use crate::web::health::Vitals;

/// One look at a running vipd. Times are milliseconds before the look, or left from it on.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Snapshot {
    /// This node's name.
    pub(crate) node: String,
    /// vipd's version.
    pub(crate) version: String,
    /// The process.
    pub(crate) pid: u32,
    /// Since vipd started.
    pub(crate) up_ms: u64,
    /// Whether a stop was asked for: the address is handed over, connections drain.
    pub(crate) stopping: bool,
    /// The addresses and the election; absent where vipd only balances.
    pub(crate) owner: Option<Owner>,
    /// The load balancers.
    pub(crate) load_balancers: Vec<Frontend>,
    /// The backends of the health check, where there are no load balancers.
    pub(crate) health_check: Vec<Backend>,
}

/// The addresses and who has them.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Owner {
    /// Who leads, as far as this node knows.
    pub(crate) leader: Option<String>,
    /// What elects: peers, or none.
    pub(crate) election: String,
    /// How often the lead went from one node to another, as this one saw it.
    pub(crate) transitions: u64,
    /// The term that this node leads in.
    pub(crate) term: Option<u64>,
    /// What is left of this node's own lease.
    pub(crate) lease_left_ms: Option<u64>,
    /// The interface.
    pub(crate) interface: String,
    /// Whether it is up, with a carrier.
    pub(crate) link_up: bool,
    /// The addresses, with their prefixes.
    pub(crate) addresses: Vec<String>,
    /// standby, claiming, active or releasing.
    pub(crate) state: String,
    /// How often the address was put back after something else had removed it.
    pub(crate) repairs: u64,
    /// How often another host was heard using the address.
    pub(crate) conflicts: u64,
    /// The other members; empty where a Lease decides.
    pub(crate) peers: Vec<Peer>,
    /// The Lease that decides, if one does.
    pub(crate) lease: Option<Lease>,
}

/// A Kubernetes Lease and how this node gets on with it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Lease {
    /// Its namespace and name.
    pub(crate) name: String,
    /// What this node calls itself in it.
    pub(crate) identity: String,
    /// Who holds it, by its own word.
    pub(crate) holder: Option<String>,
    /// How often it has changed hands.
    pub(crate) transitions: i32,
    /// The apiserver that answered last.
    pub(crate) server: Option<String>,
    /// Whether a watch of it is open.
    pub(crate) watching: bool,
    /// Where the credentials are from.
    pub(crate) credentials: Option<String>,
    /// Why the last request failed, until one succeeds.
    pub(crate) trouble: Option<String>,
    /// Requests so far.
    pub(crate) requests: u64,
    /// Those that no apiserver carried out.
    pub(crate) failures: u64,
}

/// Another member of the election.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Peer {
    /// Its name.
    pub(crate) id: String,
    /// Its address.
    pub(crate) address: String,
    /// When it was last heard.
    pub(crate) heard_ms: Option<u64>,
    /// Whether it says that it can serve.
    pub(crate) eligible: Option<bool>,
    /// Its priority.
    pub(crate) priority: Option<u8>,
    /// Its version.
    pub(crate) version: Option<String>,
    /// Whether its messages are signed with a peer key.
    pub(crate) authenticated: bool,
    /// Why its messages don't count.
    pub(crate) trouble: Option<String>,
}

/// A load balancer.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Frontend {
    /// Its name.
    pub(crate) name: String,
    /// Where it listens.
    pub(crate) listen: Vec<String>,
    /// The port of the same addresses that clients connect to, where the kernel redirects that.
    #[serde(default)]
    pub(crate) redirected: Option<u16>,
    /// Open connections.
    pub(crate) connections: usize,
    /// The most it holds; further ones wait.
    pub(crate) max_connections: usize,
    /// Connections accepted so far.
    pub(crate) accepted: u64,
    /// Connections that no backend could take.
    pub(crate) refused: u64,
    /// The servers behind it.
    pub(crate) backends: Vec<Backend>,
}

/// A server behind a load balancer.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Backend {
    /// Its name.
    pub(crate) name: String,
    /// Its address.
    pub(crate) address: String,
    /// unknown, ready, draining or dead.
    pub(crate) health: String,
    /// For how long it has been so.
    pub(crate) since_ms: u64,
    /// Open connections.
    pub(crate) connections: usize,
    /// Connections so far.
    pub(crate) total: u64,
    /// Connects that failed.
    pub(crate) connect_failures: u64,
    /// Connections that went to another backend before the client noticed.
    pub(crate) retries: u64,
    /// Why the latest check failed.
    pub(crate) last_error: Option<String>,
    /// Bytes sent to it.
    pub(crate) bytes_to_backend: u64,
    /// Bytes it sent.
    pub(crate) bytes_to_client: u64,
}

impl Snapshot {
    /// What readiness is judged from, where the main loop ran this long ago.
    pub(crate) fn vitals(self, silence: Duration) -> Vitals {
        Vitals {
            silence,
            stopping: self.stopping,
            leader: self.owner.map(|owner| owner.leader),
            listening: self
                .load_balancers
                .into_iter()
                .map(|frontend| (frontend.name, !frontend.listen.is_empty()))
                .collect(),
        }
    }
}

/// What a snapshot is folded from. A clone reads the same sources, from whatever thread.
#[derive(Clone)]
pub(crate) struct Reporter {
    node: String,
    started: tokio::time::Instant,
    stopping: watch::Receiver<bool>,
    owner: Option<OwnerWatch>,
    balancer: Option<lb::Monitor>,
    health_check: Option<lb::Monitor>,
}

#[derive(Clone)]
struct OwnerWatch {
    election: &'static str,
    transitions: watch::Receiver<u64>,
    interface: String,
    addresses: Vec<String>,
    leadership: watch::Receiver<Leadership>,
    monitor: Monitor,
    address: vip::driver::Handle,
}

impl Reporter {
    /// Begins to watch the parts.
    pub(crate) fn new(node: String, parts: &Parts) -> Self {
        Self {
            node,
            started: tokio::time::Instant::now(),
            stopping: parts.stopping.subscribe(),
            owner: parts.owner.as_ref().map(|owner| OwnerWatch {
                election: owner.monitor.kind(),
                transitions: parts.transitions.subscribe(),
                interface: owner.interface.clone(),
                addresses: owner.addresses.iter().map(ToString::to_string).collect(),
                leadership: owner.election.leadership(),
                monitor: owner.monitor.clone(),
                address: owner.address.clone(),
            }),
            balancer: parts.balancer.as_ref().map(lb::Balancer::monitor),
            health_check: parts.health_check.as_ref().map(lb::Balancer::monitor),
        }
    }

    /// Looks at everything once.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let now = tokio::time::Instant::now();
        let std_now = now.into_std();
        let frontends = |monitor: Option<&lb::Monitor>| -> Vec<Frontend> {
            let status = monitor.map(lb::Monitor::status);
            status
                .iter()
                .flat_map(|status| &status.frontends)
                .map(|status| frontend(status, std_now))
                .collect()
        };
        Snapshot {
            node: self.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            up_ms: millis(now - self.started),
            stopping: *self.stopping.borrow(),
            owner: self.owner.as_ref().map(|owner| owner.snapshot(&self.node, std_now)),
            load_balancers: frontends(self.balancer.as_ref()),
            health_check: frontends(self.health_check.as_ref())
                .into_iter()
                .flat_map(|frontend| frontend.backends)
                .collect(),
        }
    }
}

impl OwnerWatch {
    fn snapshot(&self, node: &str, now: Instant) -> Owner {
        let leadership = self.leadership.borrow().clone();
        let left = leadership.lease_end(now).map(|until| millis(until - now));
        let (leader, term) = match leadership {
            Leadership::Leader { term, .. } if left.is_some() => (Some(node.to_owned()), Some(term.0)),
            Leadership::Leader { .. } => (None, None),
            Leadership::Follower { leader } => (leader.map(|leader| leader.to_string()), None),
        };
        let status = self.address.status();
        let (peers, lease) = match &self.monitor {
            Monitor::Peers(monitor) => {
                (monitor.peers().borrow().iter().map(|peer| self::peer(peer, now)).collect(), None)
            }
            Monitor::Lease(monitor) => (Vec::new(), Some(lease(&monitor.status().borrow()))),
        };
        Owner {
            leader,
            election: self.election.to_owned(),
            transitions: *self.transitions.borrow(),
            term,
            lease_left_ms: left,
            interface: self.interface.clone(),
            link_up: *self.address.link_up().borrow(),
            addresses: self.addresses.clone(),
            state: format!("{:?}", *self.address.state().borrow()).to_lowercase(),
            repairs: status.repairs,
            conflicts: status.conflicts,
            peers,
            lease,
        }
    }
}

fn lease(status: &leader::kubernetes::Status) -> Lease {
    Lease {
        name: status.lease.clone(),
        identity: status.identity.to_string(),
        holder: status.holder.clone(),
        transitions: status.transitions,
        server: status.server.map(|server| server.to_string()),
        watching: status.watching,
        credentials: status.credentials.clone(),
        trouble: status.trouble.clone(),
        requests: status.requests,
        failures: status.failures,
    }
}

fn peer(status: &PeerStatus, now: Instant) -> Peer {
    let said = status.said.as_ref();
    Peer {
        id: status.id.to_string(),
        address: status.address.to_string(),
        heard_ms: status.heard.map(|heard| millis(now.saturating_duration_since(heard))),
        eligible: said.map(|said| said.eligible),
        priority: said.map(|said| said.priority),
        version: said.map(|said| said.version.to_string()),
        authenticated: status.authenticated,
        trouble: status.mismatch.as_ref().map(ToString::to_string),
    }
}

fn frontend(status: &lb::FrontendStatus, now: Instant) -> Frontend {
    Frontend {
        name: status.name.clone(),
        listen: status.listen.iter().map(ToString::to_string).collect(),
        redirected: status.redirected,
        connections: status.connections,
        max_connections: status.max_connections,
        accepted: status.accepted,
        refused: status.refused,
        backends: status.backends.iter().map(|status| backend(status, now)).collect(),
    }
}

fn backend(status: &lb::BackendStatus, now: Instant) -> Backend {
    Backend {
        name: status.name.clone(),
        address: status.address.to_string(),
        health: format!("{:?}", status.health).to_lowercase(),
        since_ms: millis(now.saturating_duration_since(status.since)),
        connections: status.connections,
        total: status.total,
        connect_failures: status.connect_failures,
        retries: status.retries,
        last_error: status.last_error.clone(),
        bytes_to_backend: status.bytes_to_backend,
        bytes_to_client: status.bytes_to_client,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
