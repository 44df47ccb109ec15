//! Configuration: one YAML file in the form that kube-vip 0.1 introduced, extended in the same style.
//!
//! ```text
//!  text ──parse──▶ File (every key optional) ──build──▶ Config (can't be wrong) + findings
//! ```
//!
//! [`load`] is the one way in. What it returns has been checked as far as a file can be without looking at the
//! machine; the machine itself is [`crate::check`]'s question.

mod build;
mod diagnostic;
mod file;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub(crate) mod kube_vip;
mod parse;
mod reader;
mod source;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) use self::diagnostic::{Diagnostic, Severity};
pub(crate) use self::source::Text;

/// Where the status socket is, unless the file or the command line says otherwise.
pub(crate) const SOCKET_DEFAULT: &str = "/run/vipd/vipd.sock";

pub(crate) use self::value::is_label;

/// A configuration that fits together.
#[derive(Debug)]
pub(crate) struct Config {
    /// This node's name in logs and status.
    pub(crate) node: String,
    /// The virtual addresses and who decides where they are: one where they move together, and one for each address where
    /// they are spread over the nodes. None where vipd only balances.
    pub(crate) vips: Vec<Vip>,
    /// The elections of others that this node votes in, where it never has their addresses itself; never beside `vips`.
    pub(crate) witnesses: Vec<Witness>,
    /// The load balancers; `None` where vipd only holds an address.
    pub(crate) balancer: Option<Balancer>,
    /// How the API is reached, where it tells backends and no election asks it.
    pub(crate) discovery: Option<leader::kubernetes::Access>,
    /// What the Kubernetes API is told of this node, beside the election; `None`: nothing.
    pub(crate) record: Option<Record>,
    /// The check of this host's own apiserver, where there is an address and no balancer.
    pub(crate) health_check: Option<lb::Config>,
    /// The status socket.
    pub(crate) socket: PathBuf,
    /// Where metrics and health are served over HTTP; `None`: nowhere.
    pub(crate) metrics: Option<SocketAddr>,
    /// Where health alone is served over HTTP; `None`: nowhere.
    pub(crate) health: Option<SocketAddr>,
    /// How long open connections may go on after a stop was asked for.
    pub(crate) drain_timeout: Duration,
    /// Whether the file is read again when it has changed, and not at SIGHUP alone.
    pub(crate) reload_on_change: bool,
}

impl Config {
    /// The folders that vipd writes in while it runs: those of its sockets, and of what it remembers of the cluster.
    pub(crate) fn folders(&self) -> Vec<PathBuf> {
        let elections = self.vips.iter().filter_map(|vip| match &vip.election {
            Election::Kubernetes(election) => Some(&election.access),
            Election::Peers(_) => None,
        });
        let memories = elections.chain(&self.discovery).filter_map(|access| access.memory.as_ref());
        let files = memories.chain([&self.socket]);
        files.filter_map(|file| file.parent().map(Path::to_owned)).collect()
    }
}

/// What the Kubernetes API is told of a node.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// The node's name there.
    pub(crate) node: String,
    /// How the API is reached.
    pub(crate) access: leader::kubernetes::Access,
    /// The Lease that elects, if one does: its namespace and name.
    pub(crate) lease: Option<(String, String)>,
    /// Whether moves are written as Events.
    pub(crate) events: bool,
    /// The address that the label of its owner's Node names; `None`: there is no label.
    pub(crate) label: Option<IpAddr>,
}

/// Virtual addresses that move together.
#[derive(Debug)]
pub(crate) struct Vip {
    /// The interface that the addresses go on.
    pub(crate) interface: Interface,
    /// The addresses.
    pub(crate) addresses: Vec<vip::Address>,
    /// Whether moves are announced by gratuitous ARP and unsolicited neighbour advertisements.
    pub(crate) announce: bool,
    /// Who decides.
    pub(crate) election: Election,
    /// Whether vipd refuses to run where this host can't keep the election's timing: so it does for a profile, which promises
    /// something by its name; who writes durations of his own is warned and obeyed.
    pub(crate) refuses_late_hosts: bool,
    /// What decides between two hosts of which one is silent.
    pub(crate) tie_break: Option<TieBreak>,
}

/// Whose answer breaks a tie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TieBreak {
    /// That of the router that the default route of the addresses' interface leads to.
    Gateway,
    /// That of the host with this address.
    Address(IpAddr),
}

impl fmt::Display for TieBreak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gateway => f.write_str("gateway"),
            Self::Address(ip) => ip.fmt(f),
        }
    }
}

impl Vip {
    /// The timing of an election that counts in milliseconds; a Lease's is of seconds.
    pub(crate) fn timing(&self) -> Option<&leader::Timing> {
        match &self.election {
            Election::Peers(election) => Some(&election.quorum.timing),
            Election::Kubernetes(_) => None,
        }
    }
}

/// What a witness votes about.
#[derive(Debug)]
pub(crate) struct Witness {
    /// The addresses, which it never has.
    pub(crate) addresses: Vec<vip::Address>,
    /// The election, of which it is a member.
    pub(crate) election: leader::peers::Config,
}

/// Where the addresses go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Interface {
    /// On the interface of this name.
    Named(String),
    /// On that of the default route, which is looked up at start.
    DefaultRoute,
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => f.write_str(name),
            Self::DefaultRoute => f.write_str("that of the default route"),
        }
    }
}

/// Who decides where the addresses are.
#[derive(Debug)]
pub(crate) enum Election {
    /// A majority of static peers; with no peers, this node alone.
    Peers(leader::peers::Config),
    /// A Kubernetes Lease.
    Kubernetes(leader::kubernetes::Config),
}

impl Election {
    /// What this node is called in it.
    pub(crate) fn me(&self) -> &leader::NodeId {
        match self {
            Self::Peers(config) => &config.quorum.me,
            Self::Kubernetes(config) => &config.me,
        }
    }
}

/// The load balancers of a configuration.
#[derive(Debug)]
pub(crate) struct Balancer {
    /// What runs.
    pub(crate) config: lb::Config,
    /// The frontends, by name, whose backends are the control-plane nodes that the API tells, and the port that these
    /// are reached at. Backends that `config` gives them are the ones known beforehand; there may be none.
    pub(crate) discovered: BTreeMap<String, u16>,
    /// The frontends, by name, of which some backends are known by a name only, and all of their backends. `config` gives them
    /// the others.
    pub(crate) named: Named,
}

/// All backends of the frontends that have some by name, by the frontend's name.
pub(crate) type Named = BTreeMap<String, Vec<Listed>>;

/// A server behind a load balancer, as the file lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Listed {
    /// By its address.
    Known(lb::Backend),
    /// By a DNS name: each address of it is a backend.
    Named {
        /// What they are called.
        name: String,
        /// The name to be looked up.
        host: String,
        /// Where they listen.
        port: u16,
    },
}

/// Command-line overrides, as kube-vip 0.1's `start` had them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Overrides {
    /// `--disableVIP`: balance only.
    pub(crate) disable_vip: bool,
    /// `--singleNode`: no election.
    pub(crate) single_node: bool,
    /// `--startAsLeader`: this node may lead alone while it is the first.
    pub(crate) start_as_leader: bool,
}

/// Reads, parses and checks a configuration file.
///
/// # Errors
/// Every finding (warnings too) where at least one of them is an error.
pub(crate) fn load(file: &Path, overrides: Overrides) -> Result<(Config, Vec<Diagnostic>), Vec<Diagnostic>> {
    let text = Text::read(file).map_err(|finding| vec![*finding])?;
    load_text(text, overrides)
}

/// The same with a text that has been read.
///
/// # Errors
/// As for [`load`].
pub(crate) fn load_text(
    text: Text,
    overrides: Overrides,
) -> Result<(Config, Vec<Diagnostic>), Vec<Diagnostic>> {
    let mirror = parse::parse(&text).map_err(|finding| vec![*finding])?;
    build::build(&source::Source::Text(text), mirror, overrides)
}

#[cfg(test)]
mod tests;
