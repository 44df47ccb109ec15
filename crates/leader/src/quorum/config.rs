//! What an election is told before it starts.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    Timing,
    message::TieBreak,
    node::{MEMBERS_MAX, NodeId},
};

use super::tie_break;

/// What one member is told about itself and the others.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub me: NodeId,
    /// All members, this node included.
    pub members: BTreeSet<NodeId>,
    /// Those of them that vote and never lead. A member that isn't among these in its own configuration may lead, whatever
    /// those of others say: each says of itself what it is.
    pub witnesses: BTreeSet<NodeId>,
    /// How fast the election runs; the same for all members.
    pub timing: Timing,
    /// Higher is preferred among members that are equally eligible.
    pub priority: u8,
    /// Whether this node takes the lead from a leader of lower priority.
    pub preempt: bool,
    /// How long it has to be eligible before it does so.
    pub preempt_delay: Duration,
    /// Whether it may lead alone before another member was heard; true at one member at most.
    ///
    /// It is for the hour when the first node is installed and needs the address that all others will use. The right is
    /// there only while no member that can vote was heard since the process began, and only after a probe found nobody
    /// answering for the address ([`Segment::Free`](super::Segment::Free)). The first such member, or anybody who
    /// answers for the address, ends it for the life of the process.
    ///
    /// Members that start later abstain for one exclusion, and keep their vote for the leader they hear in that time. So
    /// with two or three members the lead doesn't move when the second joins. With four or more there is no majority
    /// between the second and the third: list as members only the nodes that exist, and add one at a time.
    ///
    /// What this can't promise: a node that is restarted, hears no member *and* sees nobody answer for the address
    /// leads, though the others may have a leader behind the same broken link.
    pub start_as_leader: bool,
    /// What decides between two members of which one is silent: the segment, looked at as this says. The same on both.
    pub tie_break: Option<TieBreak>,
}

impl Config {
    /// Whether an election can be held with it.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if !self.members.contains(&self.me) {
            return Err(ConfigError::NotMember { me: self.me.clone() });
        }
        if self.members.len() > MEMBERS_MAX {
            return Err(ConfigError::TooMany { members: self.members.len() });
        }
        let mut earlier: Vec<&NodeId> = Vec::with_capacity(self.members.len());
        for member in &self.members {
            if let Some(other) = earlier.iter().find(|other| other.hash4() == member.hash4()) {
                return Err(ConfigError::Alike { one: (*other).clone(), other: member.clone() });
            }
            earlier.push(member);
        }
        if let Some(stranger) = self.witnesses.iter().find(|witness| !self.members.contains(witness)) {
            return Err(ConfigError::StrangeWitness { witness: stranger.clone() });
        }
        if self.witnesses.len() == self.members.len() {
            return Err(ConfigError::OnlyWitnesses);
        }
        if self.start_as_leader && self.witnesses.contains(&self.me) {
            return Err(ConfigError::LeadingWitness { me: self.me.clone() });
        }
        if self.tie_break.is_some() && (self.members.len() != 2 || !self.witnesses.is_empty()) {
            return Err(ConfigError::TieOfMany { members: self.members.len() });
        }
        let heartbeat = self.timing.heartbeat();
        if self.tie_break.is_some() && heartbeat < tie_break::HEARTBEAT_MIN {
            return Err(ConfigError::TieTooFast { heartbeat });
        }
        Ok(())
    }
}

/// A configuration that makes no election.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The node itself isn't a member.
    #[error("this node, {me}, is not among the members; add it")]
    NotMember {
        /// This node.
        me: NodeId,
    },
    /// More members than a message has room for.
    #[error("{members} members are too many; at most {MEMBERS_MAX} can take part")]
    TooMany {
        /// How many.
        members: usize,
    },
    /// Two names have the same short hash, by a chance of one in forty million for fifteen members.
    #[error("the names {one} and {other} can't be told apart in messages; rename one of the two")]
    Alike {
        /// The one.
        one: NodeId,
        /// The other.
        other: NodeId,
    },
    /// A witness that is no member has no vote.
    #[error("the witness {witness} is not among the members; add it")]
    StrangeWitness {
        /// The witness.
        witness: NodeId,
    },
    /// Nobody could ever lead.
    #[error("all members are witnesses, which never lead; make at least one of them an ordinary member")]
    OnlyWitnesses,
    /// A witness can't have the right to lead alone.
    #[error("this node, {me}, is a witness and never leads; give the right to start as leader to another")]
    LeadingWitness {
        /// This node.
        me: NodeId,
    },
    /// Where more than two can lead or vote, majorities decide; two with different tie-breaks in a larger set would not exclude
    /// each other.
    #[error(
        "a tie-break decides between two members that may both lead; there are {members}, or one is a witness"
    )]
    TieOfMany {
        /// How many members there are.
        members: usize,
    },
    /// Looks at the segment take their time.
    #[error(
        "a heartbeat of {heartbeat:?} is too short for a tie-break, which has to answer several times in a lease; \
         it needs {:?} or more",
        tie_break::HEARTBEAT_MIN
    )]
    TieTooFast {
        /// The heartbeat.
        heartbeat: Duration,
    },
}
