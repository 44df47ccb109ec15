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
pub(crate) mod kube_vip;
mod parse;
mod reader;
mod source;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) use self::diagnostic::{Diagnostic, Severity};

/// Where the status socket is, unless the file or the command line says otherwise.
pub(crate) const SOCKET_DEFAULT: &str = "/run/vipd/vipd.sock";

pub(crate) use self::value::is_label;

/// A configuration that fits together.
#[derive(Debug)]
pub(crate) struct Config {
    /// This node's name in logs and status.
    pub(crate) node: String,
    /// The virtual addresses and who decides where they are; `None` where vipd only balances.
    pub(crate) vip: Option<Vip>,
    /// The load balancers; `None` where vipd only holds an address.
    pub(crate) balancer: Option<Balancer>,
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
}

/// The virtual addresses of a configuration.
#[derive(Debug)]
pub(crate) struct Vip {
    /// The interface that the addresses go on.
    pub(crate) interface: Interface,
    /// The addresses, which move together.
    pub(crate) addresses: Vec<vip::Address>,
    /// Whether moves are announced by gratuitous ARP and unsolicited neighbour advertisements.
    pub(crate) announce: bool,
    /// Who decides.
    pub(crate) election: Election,
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

/// The load balancers of a configuration.
#[derive(Debug)]
pub(crate) struct Balancer {
    /// What runs.
    pub(crate) config: lb::Config,
    /// The frontends, by name, whose backends are the control-plane nodes that the API tells, and the port that these
    /// are reached at. Backends that `config` gives them are the ones known beforehand; there may be none.
    pub(crate) discovered: BTreeMap<String, u16>,
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
    let text = source::Text::read(file).map_err(|finding| vec![*finding])?;
    let mirror = parse::parse(&text).map_err(|finding| vec![*finding])?;
    build::build(&source::Source::Text(text), mirror, overrides)
}

#[cfg(test)]
mod tests;
