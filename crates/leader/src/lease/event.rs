//! Changes worth a line in a log.

use std::{sync::Arc, time::Duration};

use crate::{NodeId, Term};

/// A change that an operator cares about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// This node leads from now on.
    Elected {
        /// The number of changes of holder that the Lease counts.
        term: Term,
    },
    /// This node leads no more.
    Lost {
        /// The term.
        term: Term,
        /// Why.
        loss: Loss,
    },
    /// The deadline has passed with no apiserver in reach, and this node leads on, as it was configured to.
    Preserved {
        /// The term.
        term: Term,
    },
    /// It stopped leading on purpose, and waits for its address to be withdrawn.
    HandingOver {
        /// The term.
        term: Term,
        /// Why.
        cause: Cause,
        /// Who should follow, if one is known to be fit.
        to: Option<NodeId>,
    },
    /// The address is withdrawn and the Lease released.
    Released {
        /// The term.
        term: Term,
    },
    /// The Lease was not released in time; it lapses by itself.
    NotReleased {
        /// The term.
        term: Term,
    },
    /// Another process writes this node's name into the Lease.
    Twin,
    /// Somebody holds the Lease for longer than this node's own lease duration.
    LongLease {
        /// The holder.
        holder: Arc<str>,
        /// What it says.
        duration: Duration,
    },
}

/// Why a leader leads no more.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Loss {
    /// No renewal was granted in time.
    Expired,
    /// The Lease has another holder.
    Taken(Arc<str>),
    /// The Lease was released, and not by this process.
    Released,
    /// The Lease has this node's name, and not from this process.
    Twin,
}

/// Why a leader hands over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// An operator asked for it.
    Command,
    /// The process ends.
    Shutdown,
    /// It became ineligible, and another node is fit to lead.
    Ineligible,
}
