//! How a balancer ends, and what flows are told from outside.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::rebalance::Shed;

/// How a drained balancer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Drained {
    /// Flows that were open when the deadline had passed, and were reset.
    pub reset: usize,
}

/// The three lives of a balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Running,
    /// Listeners are closed, flows go on.
    Draining,
    /// Everything is reset.
    Stopped,
}

/// What the control thread wants of the workers. A state rather than messages: however late a worker looks,
/// it misses nothing, and nothing piles up.
#[derive(Debug, Clone)]
pub(crate) struct Orders {
    pub(crate) phase: Phase,
    /// The virtual IPs that are on this node.
    pub(crate) held: Arc<BTreeSet<IpAddr>>,
    /// Times that these have changed; what isn't among them has no flows any more.
    pub(crate) moves: u64,
    /// What is to be moved to other backends, and how often that was said.
    pub(crate) shed: Arc<[Shed]>,
    pub(crate) sheds: u64,
    /// Times that any backend has died, and that the flows of one are to end whose port has closed; which, its
    /// [`Member`](crate::pool::Member) tells.
    pub(crate) deaths: u64,
    /// Times that any backend's port was found closed; which, its [`Member`](crate::pool::Member) tells.
    pub(crate) closures: u64,
}

/// Why a flow is ended from outside, the strongest last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    /// Nobody seems to wait for an answer on it, and another backend has fewer than its share.
    Rebalanced,
    /// It is silent, and has lasted for long enough.
    Aged,
    /// Its backend takes no connections any more. A flow that has not heard from it yet goes to another; others go on.
    BackendClosed,
    /// Its idle timeout has passed.
    Idle,
    /// It has lasted for long enough, and more, without a moment of silence.
    Overdue,
    /// Its backend is dead. A flow that has not heard from it yet goes to another.
    BackendDead,
    /// The virtual IP that its client reached has left this node.
    VirtualIpLost,
    /// The balancer stops.
    Stopped,
}

impl fmt::Display for End {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Rebalanced => "another backend has fewer connections",
            Self::Aged | Self::Overdue => "it has lasted for long enough",
            Self::BackendClosed => "the backend's port is closed",
            Self::Idle => "idle for too long",
            Self::BackendDead => "the backend is dead",
            Self::VirtualIpLost => "the virtual IP has left",
            Self::Stopped => "the balancer stops",
        })
    }
}
