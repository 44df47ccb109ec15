//! What members say to each other.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    Term,
    node::{Instance, MemberSet, NodeId},
};

/// One message of one member to another: what it says of itself, and what it wants.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Message {
    /// What every message carries.
    pub gossip: Gossip,
    /// What this one is about.
    pub body: Body,
}

/// What a member says of itself in every message.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Gossip {
    /// It is fit to lead.
    pub eligible: bool,
    /// It is the one that may lead alone before any other was ever heard.
    pub start_as_leader: bool,
    /// It has the right to replace the leader, and its delay is over.
    pub preempting: bool,
    /// It was started lately and grants nothing yet.
    pub abstaining: bool,
    /// It is about to stop, or stepped down by command: it does not wish to lead.
    pub stopping: bool,
    /// It is inside its own lease.
    pub leading: bool,
    /// Higher is preferred.
    pub priority: u8,
    /// The highest term it knows.
    pub term: Term,
    /// The lease it is configured with, and asks for.
    pub lease: Duration,
    /// The members it is configured with.
    pub members: MemberSet,
    /// The software it runs.
    pub version: Version,
}

/// A software version as it travels: at most 32 bytes, printable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version(Arc<str>);

impl Version {
    /// Room for `v1.22.333-rc.4+deadbeef` and some more.
    pub(crate) const BYTES_MAX: usize = 32;

    /// Takes a text, replaces what isn't printable by `?` and cuts off what is too long.
    pub fn new(text: &str) -> Self {
        let mut kept = String::with_capacity(Self::BYTES_MAX);
        for c in text.chars().map(|c| if c.is_control() { '?' } else { c }) {
            if kept.len() + c.len_utf8() > Self::BYTES_MAX {
                break;
            }
            kept.push(c);
        }
        Self(kept.into())
    }

    /// The version as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The number of a question that its asker counts, so that an answer finds what it answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Round(pub u64);

/// What a message is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Body {
    /// Nothing but the gossip: the heartbeat of those who don't lead.
    Alive,
    /// Would you grant me a lease now? Changes nothing at the voter.
    Canvass {
        /// Which question this is.
        round: Round,
    },
    /// I would.
    Support {
        /// The question.
        round: Round,
    },
    /// Grant me a lease, or renew it, of the length in the gossip.
    Request {
        /// The candidacy.
        term: Term,
        /// The attempt within it.
        round: Round,
        /// The instance whose holder named the sender its successor, for a voter that hasn't heard of the release yet.
        released: Option<Instance>,
    },
    /// Granted, from the receipt of the request on.
    Grant {
        /// The candidacy.
        term: Term,
        /// The attempt.
        round: Round,
    },
    /// Neither supported nor granted.
    Refuse {
        /// What was asked.
        ballot: Ballot,
        /// Why not.
        objection: Objection,
    },
    /// The sender will never again act upon this term of its own.
    Release {
        /// The term; with the sender's process it names the instance.
        term: Term,
        /// Who shall stand at once.
        successor: Option<NodeId>,
    },
}

/// The question that a refusal answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ballot {
    /// A [`Body::Canvass`].
    Canvass {
        /// The question.
        round: Round,
    },
    /// A [`Body::Request`].
    Request {
        /// The candidacy.
        term: Term,
        /// The attempt.
        round: Round,
    },
}

/// Why a voter refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Objection {
    /// The vote is promised to another process.
    Promised {
        /// For so long.
        remaining: Duration,
    },
    /// The voter was started lately and can't know what its predecessor promised.
    Abstaining {
        /// For so long.
        remaining: Duration,
    },
    /// The member sets differ by more than one member: their majorities may not meet.
    Members,
    /// The lease that is asked for is longer than the voter's own.
    Lease,
    /// The candidate has released this term.
    Released,
}

impl Objection {
    /// How long the objection stands, if time alone mends it.
    pub fn remaining(&self) -> Option<Duration> {
        match self {
            Self::Promised { remaining } | Self::Abstaining { remaining } => Some(*remaining),
            Self::Members | Self::Lease | Self::Released => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_cut_at_a_character_and_made_printable() {
        assert_eq!(Version::new("0.1.0").as_str(), "0.1.0");
        assert_eq!(Version::new("a\nb").as_str(), "a?b");
        assert_eq!(Version::new(&"é".repeat(20)).as_str(), "é".repeat(16));
    }
}
