//! What an election gives out: messages to send, and changes worth a line in a log.

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepDownError {
    /// There is nothing to hand over.
    #[error("this node does not lead")]
    NotLeader,
    /// Nobody could take over.
    #[error("no other eligible member was heard within the last lease")]
    NoSuccessor,
    /// The process is stopping, or has stopped.
    #[error("the election has been stopped")]
    Stopped,
}
