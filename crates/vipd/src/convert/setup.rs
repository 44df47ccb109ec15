//! The setup that files describe, whatever their form: addresses, hosts, balancers. What each reader fills, and [`super::write`] writes.

use std::net::IpAddr;

use super::report::At;

/// A value and where it was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said<T> {
    /// The value.
    pub(super) value: T,
    /// Where.
    pub(super) at: At,
    /// In which words.
    pub(super) words: Vec<String>,
}

impl<T> Said<T> {
    /// A value that these words say.
    pub(super) fn new(value: T, at: &At, words: &[String]) -> Self {
        Self { value, at: at.clone(), words: words.to_vec() }
    }
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Setup {
    /// What moves together, in the order of the files.
    pub(super) instances: Vec<Instance>,
    /// Names of instances that are of one sync group.
    pub(super) together: Vec<Vec<String>>,
    /// This host's own address.
    pub(super) local: Option<Said<IpAddr>>,
    /// The other hosts' addresses.
    pub(super) peers: Vec<Said<IpAddr>>,
    /// The port of this host's own apiserver, where a script asks it.
    pub(super) watched: Option<Said<u16>>,
    /// The balancers.
    pub(super) balancers: Vec<Balancer>,
    /// Threads that carry connections.
    pub(super) workers: Option<u64>,
    /// How long connections may go on after a stop, in milliseconds.
    pub(super) drain: Option<u64>,
    /// Whether a page of figures was served.
    pub(super) metrics: bool,
}

/// Addresses that one election is about.
#[derive(Debug)]
pub(super) struct Instance {
    /// Its name.
    pub(super) name: String,
    /// Where it begins.
    pub(super) at: At,
    /// Its first line.
    pub(super) words: Vec<String>,
    /// Where its addresses go.
    pub(super) interface: Option<Said<String>>,
    /// The addresses, with their prefix length.
    pub(super) addresses: Vec<Said<Virtual>>,
    /// Whether this host is the one that it is meant for.
    pub(super) master: bool,
    /// The larger, the more this host is preferred.
    pub(super) priority: Option<Said<u8>>,
    /// It stays where it is.
    pub(super) stays: Option<Said<()>>,
    /// How long a preferred host waits before it takes the address back, in milliseconds.
    pub(super) delay: Option<Said<u64>>,
}

/// A virtual address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Virtual {
    /// The address.
    pub(super) ip: IpAddr,
    /// Its prefix length.
    pub(super) prefix: u8,
    /// The interface, where it isn't the instance's.
    pub(super) device: Option<String>,
}

/// A port that clients connect to, and the servers behind it.
#[derive(Clone, Debug)]
pub(super) struct Balancer {
    /// Its name.
    pub(super) name: String,
    /// Where it is said.
    pub(super) at: At,
    /// In which words.
    pub(super) words: Vec<String>,
    /// The port.
    pub(super) port: u16,
    /// The addresses it listens on; `None` is every address.
    pub(super) binds: Vec<Option<IpAddr>>,
    /// The servers.
    pub(super) backends: Vec<Backend>,
    /// The order in which they are tried.
    pub(super) policy: Option<&'static str>,
    /// How they are judged.
    pub(super) check: Check,
    /// How long one may take to be connected to, in milliseconds.
    pub(super) connect: Option<u64>,
    /// How long a connection may be silent.
    pub(super) idle: Option<Idle>,
    /// How many connections there may be.
    pub(super) max_connections: Option<u64>,
    /// For how long the share of a backend grows that has come back, in milliseconds.
    pub(super) slow_start: Option<u64>,
    /// Whether each connection is logged.
    pub(super) access_log: bool,
    /// How backends are told who the client is.
    pub(super) proxy_protocol: Option<&'static str>,
    /// Whether every client has to say on whose behalf it comes.
    pub(super) accepts_proxy: bool,
    /// Whether the kernel carries the connections.
    pub(super) by_kernel: bool,
    /// Whether it is about datagrams.
    pub(super) udp: bool,
}

impl Balancer {
    /// One with nothing said but its place.
    pub(super) fn new(name: &str, at: &At, words: &[String], port: u16) -> Self {
        Self {
            name: name.to_owned(),
            at: at.clone(),
            words: words.to_vec(),
            port,
            binds: Vec::new(),
            backends: Vec::new(),
            policy: None,
            check: Check::default(),
            connect: None,
            idle: None,
            max_connections: None,
            slow_start: None,
            access_log: false,
            proxy_protocol: None,
            accepts_proxy: false,
            by_kernel: false,
            udp: false,
        }
    }
}

/// How long a connection may be silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Idle {
    /// So many milliseconds.
    For(u64),
    /// As long as it likes.
    Ever,
}

/// A server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Backend {
    /// Its name, where it has one.
    pub(super) name: Option<String>,
    /// Its address, or a DNS name.
    pub(super) host: String,
    /// Its port.
    pub(super) port: u16,
    /// Where it is said.
    pub(super) at: At,
    /// In which words.
    pub(super) words: Vec<String>,
}

impl Backend {
    /// Its address, where it is known by that.
    pub(super) fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

/// How servers are judged; times in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Check {
    /// What is asked, where it isn't what vipd asks by itself.
    pub(super) kind: Option<&'static str>,
    /// The path.
    pub(super) path: Option<String>,
    /// How often.
    pub(super) interval: Option<u64>,
    /// How long an answer may take.
    pub(super) timeout: Option<u64>,
    /// Good answers in a row.
    pub(super) rise: Option<u32>,
    /// Bad answers in a row.
    pub(super) fall: Option<u32>,
}

/// Splits off the port of `ADDRESS:PORT`, `[ADDRESS]:PORT`, `IPV6:PORT` or `:PORT`; `None` where there is none.
pub(super) fn host_and_port(text: &str) -> Option<(&str, &str)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        return port.strip_prefix(':').map(|port| (host, port));
    }
    text.rsplit_once(':')
}
