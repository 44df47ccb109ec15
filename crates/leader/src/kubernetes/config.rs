//! What an election by Lease is configured by.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use crate::{NodeId, lease::Timing};

/// One participant of an election by Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The holder identity that this node writes: its node name in lower case, as kube-vip has it.
    pub me: NodeId,
    /// The namespace of the Lease.
    pub namespace: String,
    /// The name of the Lease.
    pub name: String,
    /// How fast the election runs.
    pub timing: Timing,
    /// Whether a holder that can reach no apiserver at all leads on past its deadline. Two nodes may lead then, if it is
    /// only this node that can't reach one.
    pub preserve: bool,
    /// Annotations that are put on the Lease with each write.
    pub annotations: BTreeMap<String, String>,
    /// How the API is reached.
    pub access: Access,
}

/// How the Kubernetes API is reached: with which credentials, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The kubeconfig files to try, the first that exists and is let in first. With none of them, the ServiceAccount of the
    /// pod is used.
    pub kubeconfigs: Vec<PathBuf>,
    /// This node's own apiserver.
    pub own: SocketAddr,
    /// Other apiservers that are known beforehand.
    pub servers: Vec<SocketAddr>,
    /// The port of the apiservers of control-plane nodes that are discovered.
    pub port: u16,
    /// Addresses that the API is never reached at: the virtual ones, which may be elsewhere, or nowhere.
    pub never: BTreeSet<IpAddr>,
    /// The file that remembers the control-plane nodes, for a start without an API.
    pub memory: Option<PathBuf>,
}
