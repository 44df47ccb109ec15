//! What an election gives out: messages to send, and changes worth a line in a log.

use std::fmt;

use crate::{Term, message::Message, node::NodeId};

/// A message, and the member it is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Transmit {
    /// The receiver.
    pub to: NodeId,
    /// What to send.
    pub message: Message,
}

/// A change that an operator cares about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// This node leads from now on.
    Elected {
        /// The term.
        term: Term,
        /// Alone by right of bootstrap, without a majority.
        alone: bool,
    },
    /// This node leads by the vote of the segment, the other member being silent.
    SegmentVoted {
        /// The term.
        term: Term,
    },
    /// This node leads no more.
    Lost {
        /// The term.
        term: Term,
        /// Why.
        loss: Loss,
    },
    /// It stopped leading in favour of another, and waits for its address to be withdrawn.
    HandingOver {
        /// The term.
        term: Term,
        /// Why.
        cause: Cause,
        /// The successor, if there is one.
        to: Option<NodeId>,
    },
    /// The address is withdrawn and the term released.
    Released {
        /// The term.
        term: Term,
        /// The successor, if there is one.
        to: Option<NodeId>,
    },
    /// A member was heard for the first time, or again.
    PeerHeard(NodeId),
    /// A member has been silent for three leases.
    PeerLost(NodeId),
}

/// Why a leader leads no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Loss {
    /// No majority renewed its lease in time.
    NoMajority,
    /// It led alone, and somebody else holds the address.
    Occupied,
    /// It was handing over, and nobody confirmed within the lease that the address is withdrawn.
    Unconfirmed,
}

/// Why a leader hands over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// An operator asked for it.
    Command,
    /// The process ends.
    Shutdown,
    /// It became ineligible, and another member is eligible.
    Ineligible,
    /// A member with a higher priority claims its right.
    Preempted,
    /// The other member leads, or is about to, in a later term: the two had lost sight of each other.
    Outranked,
}

/// What an address probe of the segment found; it decides about leading alone at bootstrap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Segment {
    /// Nobody has looked yet.
    #[default]
    Unknown,
    /// Nobody answers for the virtual address.
    Free,
    /// Another machine answers for it.
    Occupied,
}

/// Why a hand-over by command is not begun. The leader stays what it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepDownError {
    /// There is nothing to hand over.
    #[error("this node does not lead")]
    NotLeader,
    /// Nobody could take over.
    #[error("no other eligible member was heard within the last lease")]
    NoSuccessor,
    /// The named successor is this node.
    #[error("this node can't be its own successor; name another")]
    Itself,
    /// The named successor is none of those that are known.
    #[error("there is no other node {node}; there is {}", listed(.known))]
    Unknown {
        /// The name.
        node: NodeId,
        /// Those that could be named.
        known: Vec<NodeId>,
    },
    /// The named successor can't take over.
    #[error("{node} can't take over now: {impediment}")]
    Impeded {
        /// The name.
        node: NodeId,
        /// Why.
        impediment: Impediment,
    },
    /// The other nodes are not known here, so none can be named.
    #[error("which other nodes there are is not known here, so none can be named")]
    Unknowable,
    /// The process is stopping, or has stopped.
    #[error("the election has been stopped")]
    Stopped,
}

fn listed(names: &[NodeId]) -> String {
    match names {
        [] => "no other".to_owned(),
        names => names.iter().map(NodeId::as_str).collect::<Vec<_>>().join(", "),
    }
}

/// What keeps a member from taking over, though it was named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Impediment {
    /// It is dead, cut off, or was never there.
    Unheard,
    /// It votes, and never leads.
    Witness,
    /// It is about to stop.
    Stopping,
    /// It stepped down by command itself.
    Resting,
    /// It was started lately, and doesn't vote for anybody yet, itself included.
    Abstaining,
    /// It can't serve, and the leader can.
    Unfit,
    /// It would get no votes.
    Mismatch,
}

impl fmt::Display for Impediment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unheard => "it was not heard within the last lease",
            Self::Witness => "it is a witness, which votes and never leads",
            Self::Stopping => "it is about to stop",
            Self::Resting => "it stepped down a moment ago, and rests",
            Self::Abstaining => "it was started a moment ago",
            Self::Unfit => "it says that it can't serve",
            Self::Mismatch => "its lease or its members are not this node's",
        })
    }
}
