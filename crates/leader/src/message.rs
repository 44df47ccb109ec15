//! What members say to each other.

use std::{fmt, time::Duration};

use crate::{
    Term,
    node::{Instance, MemberSet, NodeId, fnv},
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
    /// It is about to stop, or rests: it does not wish to lead.
    pub stopping: bool,
    /// It stepped down by command a moment ago, and leaves the lead to others as long as one of them is fit. Said beside
    /// `stopping`, which is what releases before this one understand.
    pub resting: bool,
    /// It is inside its own lease.
    pub leading: bool,
    /// It votes and never leads. Such a member doesn't wish to lead either, which is all that releases before it need to know.
    pub witness: bool,
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
    /// Its tie-break, if it has one.
    pub tie: Option<Tie>,
}

/// What a member with a tie-break says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tie {
    /// Which it is.
    pub rule: TieBreak,
    /// It hasn't heard the other member lately, and may be about to count the segment's vote.
    pub missing: bool,
    /// ... and may not, as the segment has shown it nothing to count yet. It can neither lead nor vote then, whoever hears it.
    pub blind: bool,
}

/// What an election is about, where the same hosts hold several: any 16 bytes, the same in all members' configurations.
///
/// Members of different elections that reach each other by mistake take no notice of each other, so that no node counts votes
/// about one thing as votes about another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Subject(pub [u8; 16]);

/// A short stand-in for what decides between two members, so that both can see whether they mean the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TieBreak(pub(crate) u32);

impl TieBreak {
    /// The stand-in for this description, which is the same in both members' configurations.
    pub fn named(description: &str) -> Self {
        Self(fnv(description))
    }
}

impl Gossip {
    /// Whether it is about to stop for good.
    pub(crate) fn is_leaving(&self) -> bool {
        self.stopping && !self.resting
    }
}

/// A software version as it travels: at most 32 bytes, printable. It comes with every message, so it is a value that takes no memory
/// of its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version {
    len: u8,
    /// Zeroes behind the text.
    bytes: [u8; Self::BYTES_MAX],
}

impl Version {
    /// Room for `v1.22.333-rc.4+deadbeef` and some more.
    pub(crate) const BYTES_MAX: usize = 32;

    /// Takes a text, replaces what isn't printable by `?` and cuts off what is too long.
    pub fn new(text: &str) -> Self {
        let mut version = Self { len: 0, bytes: [0; Self::BYTES_MAX] };
        for c in text.chars().map(|c| if c.is_control() { '?' } else { c }) {
            let room = &mut version.bytes[usize::from(version.len)..];
            if c.len_utf8() > room.len() {
                break;
            }
            version.len +=
                u8::try_from(c.encode_utf8(room).len()).expect("a character has four bytes at most");
        }
        version
    }

    /// The version as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).expect("it is made of whole characters")
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Version").field(&self.as_str()).finish()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
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
