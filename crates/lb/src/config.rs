//! What a balancer is told: plain data, with the defaults in one place.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};

use crate::Error;
use crate::client::Network;
use crate::forward::{Forward, Protocol};
use crate::proxy_protocol::ProxyProtocol;
use crate::roster::{Flaw, Roster};

/// Backends of one frontend. Candidates are ordered per connection, so the list must stay short; 255
/// control-plane nodes are more than etcd could ever serve.
pub const MAX_BACKENDS: usize = 255;

/// File descriptors kept back from [`Limits::default`]: listeners, held probe connections, runtimes, log,
/// netlink.
const RESERVED_FILES: u64 = 256;

/// File descriptors of one flow: the client's connection and the backend's.
const FILES_PER_FLOW: u64 = 2;

/// Upper end of the default limit where the file limit is huge or absent; at about 2 kB each this is 2 GB.
const MOST_FLOWS: u64 = 1 << 20;

/// A whole balancer.
#[derive(Debug, Clone)]
pub struct Config {
    /// The ports it serves.
    pub frontends: Vec<Frontend>,
    /// Threads that carry flows, at least 1. One per core is best for throughput.
    pub workers: usize,
}

/// One port and the backends behind it.
#[derive(Debug, Clone)]
pub struct Frontend {
    /// Its name in logs and status.
    pub name: String,
    /// Where clients reach it.
    pub listen: Listen,
    /// Where its connections go: at most [`MAX_BACKENDS`], each address once. None is for one that is told
    /// them later; until then it refuses its clients.
    pub backends: Vec<Backend>,
    /// How a backend is chosen among equally healthy ones.
    pub policy: Policy,
    /// For how long the share of new connections of a backend grows that has become ready again, is new while the balancer runs, or was
    /// taken back into use: from a tenth of what the policy would give it to all of it, evenly. `None`: it has all of it at once.
    pub slow_start: Option<Duration>,
    /// How the health of its backends is found out.
    pub check: Check,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// How much it may hold.
    pub limits: Limits,
    /// Flows whose client connected to one of these are reset when that leaves this node.
    pub virtual_ips: Vec<IpAddr>,
    /// How many connections a second may be ended, at most, so that their clients connect anew where a backend has fewer than its share;
    /// those alone that have been silent for some seconds, or whose clients have only listened. `None`: never.
    pub rebalance: Option<NonZeroUsize>,
    /// Proxies that say by a header of the PROXY protocol, of either version, on whose behalf they come. They must; from anybody else, such a
    /// header is the client's own word, and goes to the backend.
    pub proxies: Vec<Network>,
    /// Clients whose connections come to the backends from the client's own address, where that can be (IPv4 to IPv4, IPv6 to IPv6, and not to a
    /// backend on the client's host). It takes the capability `NET_ADMIN` or `NET_RAW`, and a network that leads the answers back here.
    pub transparent_source: Vec<Network>,
    /// How its backends are told who the client is, where they expect that.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Whether a line is logged for each connection that has ended, with the target `access`.
    pub access_log: bool,
}

/// The addresses a frontend binds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// Every address of the host, IPv4 and IPv6 (IPv4 alone where IPv6 is off).
    Any {
        /// TCP port; 0 lets the kernel choose.
        port: u16,
    },
    /// These addresses only. They need not exist yet (`IP_FREEBIND`), so a standby binds the virtual IP too.
    Addresses {
        /// Addresses, at least one.
        ips: Vec<IpAddr>,
        /// TCP port; 0 lets the kernel choose one per address.
        port: u16,
    },
    /// These addresses as above, at a port that clients don't know: while an address is on this host, the kernel leads
    /// to it what comes for `port`, also where another program listens on that port of every address. See
    /// [`redirect`](crate::redirect).
    Redirected {
        /// Addresses, at least one.
        ips: Vec<IpAddr>,
        /// TCP port that clients connect to.
        port: u16,
        /// TCP port that is listened on; 0 lets the kernel choose one per address.
        own: u16,
    },
    /// No socket: the kernel leads connections to the backends by itself. See [`forward`](crate::forward).
    Forwarded(Forward),
    /// Nowhere: its backends are judged, and no connection goes to them.
    Nowhere,
}

impl Listen {
    /// The port that clients connect to.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Any { port }
            | Self::Addresses { port, .. }
            | Self::Redirected { port, .. }
            | Self::Forwarded(Forward { port, .. }) => Some(*port),
            Self::Nowhere => None,
        }
    }

    /// What clients send.
    pub(crate) fn protocol(&self) -> Protocol {
        match self {
            Self::Forwarded(Forward { protocol, .. }) => *protocol,
            Self::Any { .. } | Self::Addresses { .. } | Self::Redirected { .. } | Self::Nowhere => {
                Protocol::Tcp
            }
        }
    }

    /// The port that is listened on.
    #[must_use]
    pub fn own_port(&self) -> Option<u16> {
        match self {
            Self::Any { port } | Self::Addresses { port, .. } | Self::Redirected { own: port, .. } => {
                Some(*port)
            }
            Self::Forwarded(_) | Self::Nowhere => None,
        }
    }
}

/// One server that connections can go to. Its address tells which it is, its name is for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// Its name in logs and status.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Whoever runs it is about to take it away: it gets new connections only while there is no other, as if it was
    /// [taken out of use](crate::BackendsHandle::set_drained).
    pub cordoned: bool,
}

/// The rule that orders equally healthy backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// Of two random backends the one with fewer open connections (“power of two choices”).
    #[default]
    LeastConnections,
    /// Each in turn, over all workers.
    RoundRobin,
    /// The one that the client's address is meant for, by a hash of both addresses: the same of every balancer, at any time, as long as
    /// it is there.
    SourceHash,
}

/// How backends are asked for their health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What is asked.
    pub kind: CheckKind,
    /// From the start of one check to the start of the next; 1 s.
    pub interval: Duration,
    /// For connecting, the TLS handshake and the answer together; 2 s, which is what etcd's own check inside
    /// `/readyz` may take.
    pub timeout: Duration,
    /// Better results in a row that a backend needs to be judged better; 2.
    pub rise: u32,
    /// Worse results in a row that a backend needs to be judged worse; 3. A refused connection needs no
    /// second.
    pub fall: u32,
}

/// What a check asks a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckKind {
    /// As [`CheckKind::Https`]; but a backend that speaks no TLS or no HTTP, or does not know the path (404),
    /// is judged by its connection alone. Suits any TCP service. One that says nothing is taken for such a service only while no
    /// other backend of the frontend has spoken TLS.
    Auto {
        /// Path of the request.
        path: String,
        /// Who must have signed the backend's certificate.
        ca: Ca,
    },
    /// A TCP connection must be possible, and stay.
    Tcp,
    /// `GET path` over TLS must be answered: 2xx and 3xx are ready; 401 and 403 are alive and count as ready, unless another
    /// backend has told more, which makes this one for a minute one that is starting; anything else is draining.
    Https {
        /// Path of the request.
        path: String,
        /// Who must have signed the backend's certificate.
        ca: Ca,
    },
    /// Nothing is asked; every backend counts as ready, and failed connects go to the next one.
    None,
}

/// Who must have signed a backend's certificate for its health answer to count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ca {
    /// Anyone. An attacker who can answer in a backend's place can then make it look healthy; he gains no
    /// data by that, because clients do their own TLS through the balancer and check for themselves.
    None,
    /// One of these certificates, in PEM.
    Pem(Vec<u8>),
}

/// How long the parts of a flow may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For connecting to one backend; 2 s (one lost SYN is repeated after 1 s). While others are left, they are tried after 0.3 s,
    /// and this one again when none has answered.
    pub connect: Duration,
    /// Without a byte in either direction until a flow is reset; 1 h (watches, `exec`, `logs -f`). `None`:
    /// for ever. Up to an eighth more may pass.
    pub idle: Option<Duration>,
    /// From the beginning of a flow to its end, a tenth more or less, drawn for each. From then on it is closed in good order as soon as it
    /// is silent for some seconds, and a quarter of that time later, 5 s at least and 15 min at most, without a silence. `None`, the
    /// default: a flow lasts as long as its ends want.
    pub max_age: Option<Duration>,
    /// `TCP_USER_TIMEOUT` of both legs: unacknowledged data, or a receive window that stays closed, for this
    /// long ends a flow; 2 min. The kernel also counts a live peer that does not read (a paused pager), so
    /// shorter values cut such clients off.
    pub user_timeout: Duration,
    /// Silence before a TCP keepalive probe is sent, and from one to the next, on both legs; 15 s. The flow
    /// ends when they stay unanswered for `user_timeout`.
    pub keepalive: Duration,
    /// From when a backend's port was found closed, on a host that is there, until flows to the backend are reset; 10 s. A process that
    /// was told to end closes its port first and answers what it has begun, a kube-apiserver for up to a minute. If it is gone, its
    /// kernel has ended its connections already.
    pub closing: Duration,
}

/// How much a frontend may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Flows at one time. Beyond it connections wait in the kernel's accept queue.
    ///
    /// Default: (soft limit of open files − 256) / 2, at least 1 and at most 1 048 576.
    pub max_connections: usize,
    /// Those of one client host at one time, an IPv4 address or a /64 of IPv6. Beyond it connections are reset. Default: no bound of its
    /// own.
    pub per_source: Option<NonZeroUsize>,
}

impl Default for Check {
    fn default() -> Self {
        Self {
            kind: CheckKind::Auto { path: "/readyz".into(), ca: Ca::None },
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(2),
            rise: 2,
            fall: 3,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            idle: Some(Duration::from_secs(3600)),
            max_age: None,
            user_timeout: Duration::from_secs(120),
            keepalive: Duration::from_secs(15),
            closing: Duration::from_secs(10),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_connections: flows_within(getrlimit(Resource::Nofile).current), per_source: None }
    }
}

/// Descriptors that so many flows take, with what is kept back.
#[must_use]
pub fn files_of(flows: u64) -> u64 {
    flows.saturating_mul(FILES_PER_FLOW).saturating_add(RESERVED_FILES)
}

/// Flows that fit under a soft limit of open files.
fn flows_within(files: Option<u64>) -> usize {
    let flows = files.map_or(MOST_FLOWS, |files| files.saturating_sub(RESERVED_FILES) / FILES_PER_FLOW);
    usize::try_from(flows.clamp(1, MOST_FLOWS)).unwrap_or(usize::MAX)
}

impl Config {
    /// Refuses what can't work, before anything is bound.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        if self.workers == 0 {
            return Err(Error::NoWorkers);
        }
        self.frontends.iter().try_for_each(Frontend::validate)
    }
}

impl Frontend {
    fn validate(&self) -> Result<(), Error> {
        let refuse = |reason: &'static str| Err(Error::Impossible { frontend: self.name.clone(), reason });
        match Roster::check(&self.backends) {
            Ok(()) => {}
            Err(Flaw::TooMany) => return refuse("it has more than 255 backends"),
            Err(Flaw::Twice(_)) => return refuse("it has two backends of one address"),
        }
        match &self.listen {
            Listen::Addresses { ips, .. } | Listen::Redirected { ips, .. } if ips.is_empty() => {
                return refuse("it has no address to listen on");
            }
            Listen::Redirected { port, own, .. } if port == own || *port == 0 => {
                return refuse(
                    "the port that is redirected must be another than the one it listens on, and not 0",
                );
            }
            Listen::Redirected { ips, port, own } => {
                let circles = |at: &SocketAddr| ips.contains(&at.ip()) && [*port, *own].contains(&at.port());
                if self.backends.iter().any(|backend| circles(&backend.address)) {
                    return refuse("it is its own backend: its connections would go in circles");
                }
            }
            Listen::Forwarded(Forward { port: 0, .. }) => {
                return refuse("the kernel leads no connections from port 0");
            }
            Listen::Forwarded(Forward { ips, port, .. }) => {
                let circles = |backend: &Backend| {
                    backend.address.port() == *port && (ips.is_empty() || ips.contains(&backend.address.ip()))
                };
                if self.backends.iter().any(circles) {
                    return refuse("it is its own backend: its connections would go in circles");
                }
            }
            Listen::Any { .. } | Listen::Addresses { .. } | Listen::Nowhere => {}
        }
        if self.limits.max_connections == 0 {
            return refuse("it may hold no connection (maxConnections is 0)");
        }
        if self.check.rise == 0 || self.check.fall == 0 {
            return refuse("rise and fall of the check count from 1");
        }
        if self.check.interval.is_zero() || self.check.timeout.is_zero() {
            return refuse("interval and timeout of the check must be longer than 0");
        }
        if self.policy == Policy::SourceHash && self.rebalance.is_some() {
            return refuse(
                "by source hash, a connection that is to be moved to another backend comes back to the same",
            );
        }
        if self.slow_start.is_some_and(|slow_start| slow_start.is_zero()) {
            return refuse("a slow start must be longer than 0");
        }
        if self.timeouts.connect.is_zero() || self.timeouts.idle.is_some_and(|idle| idle.is_zero()) {
            return refuse("the connect and idle timeouts must be longer than 0");
        }
        if self.timeouts.max_age.is_some_and(|age| age.is_zero()) {
            return refuse("a connection must be allowed to last for longer than 0");
        }
        match &self.check.kind {
            CheckKind::Auto { path, .. } | CheckKind::Https { path, .. } if !is_request_path(path) => {
                refuse("the path of the check must begin with / and hold no blanks or control characters")
            }
            CheckKind::Auto { .. } | CheckKind::Https { .. } | CheckKind::Tcp | CheckKind::None => Ok(()),
        }
    }
}

/// True for what may stand in an HTTP request line (RFC 9112 §3.2.1): a blank or line break would start
/// something else.
fn is_request_path(path: &str) -> bool {
    path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_limit_is_half_of_the_files_that_are_left() {
        assert_eq!(flows_within(Some(1024)), 384);
        assert_eq!(flows_within(Some(100)), 1);
        assert_eq!(flows_within(None), 1 << 20);
        assert_eq!(flows_within(Some(u64::MAX)), 1 << 20);
    }

    #[test]
    fn a_path_with_a_line_break_is_refused() {
        assert!(is_request_path("/readyz?verbose"));
        for bad in ["", "readyz", "/a b", "/a\r\nHost: x", "/ä"] {
            assert!(!is_request_path(bad), "{bad:?}");
        }
    }
}
