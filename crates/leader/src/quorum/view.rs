//! What there is to see of a member, from within this process and from other members.

use std::time::{Duration, Instant};

use crate::{Leadership, message::Gossip, node::NodeId};

use super::{Departure, Election, Settings, Standing};

impl Election {
    /// Who leads.
    pub fn leadership(&self, now: Instant) -> Leadership {
        match &self.standing {
            Standing::Leading { candidacy, until, .. } if now < *until => {
                Leadership::Leader { term: candidacy.term, until: *until }
            }
            Standing::Following
            | Standing::Canvassing(_)
            | Standing::Requesting { .. }
            | Standing::Leading { .. }
            | Standing::HandingOver { .. } => {
                let leader = self.roster.leader(now).map(|(place, _)| self.members.name(place).clone());
                Leadership::Follower { leader }
            }
        }
    }

    /// The end of this node's lease, if it leads.
    pub fn lease_end(&self, now: Instant) -> Option<Instant> {
        match &self.standing {
            Standing::Leading { until, .. } => Some(*until).filter(|until| now < *until),
            Standing::Following
            | Standing::Canvassing(_)
            | Standing::Requesting { .. }
            | Standing::HandingOver { .. } => None,
        }
    }

    /// What another member said of itself last, and when.
    pub fn peer(&self, name: &NodeId) -> Option<(&Gossip, Instant)> {
        let place = self.members.place_of_other(name)?;
        self.roster.peer(place).map(|peer| (&peer.gossip, peer.heard))
    }

    /// Whether majorities of a member's set and of this node's are sure to meet.
    pub fn agrees_on_members(&self, gossip: &Gossip) -> bool {
        self.members.meets(&gossip.members)
    }

    /// Whether a member that says this of itself is what this node's configuration says: a witness, or none.
    pub fn agrees_on_witness(&self, name: &NodeId, gossip: &Gossip) -> bool {
        self.members.place_of_other(name).is_none_or(|place| self.members.is_witness(place) == gossip.witness)
    }

    /// The lease this member is configured with.
    pub fn lease(&self) -> Duration {
        self.settings.timing.lease()
    }

    /// What this member says of itself now.
    pub fn gossip(&self, now: Instant) -> Gossip {
        let Settings { timing, priority, start_as_leader, witness, version, preempt_delay, .. } =
            &self.settings;
        Gossip {
            eligible: self.eligible,
            start_as_leader: *start_as_leader,
            preempting: self.challenging_since.is_some_and(|since| since + *preempt_delay <= now),
            abstaining: self.voter.abstention(now).is_some(),
            stopping: !self.wishes_to_lead(now),
            resting: matches!(self.departure, Departure::Resting { until } if now < until),
            leading: self.lease_end(now).is_some(),
            witness: *witness,
            priority: *priority,
            term: self.term,
            lease: timing.lease(),
            members: self.members.set(),
            version: *version,
            tie: self.tie(now),
        }
    }
}
