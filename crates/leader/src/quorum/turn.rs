//! Whose turn it is: rank and waits, preemption, and the right to lead alone.

use std::time::{Duration, Instant};

use super::{Departure, Election, members::Votes};

impl Election {
    /// When this member would stand, as far as can be told now.
    pub(super) fn plan(&self, now: Instant) -> Option<Instant> {
        if self.settings.witness {
            return None;
        }
        match self.departure {
            Departure::Stopped => return None,
            Departure::Resting { until } if now < until && self.roster.has_eligible(now) => {
                return Some(until);
            }
            Departure::Resting { .. } | Departure::Staying => {}
        }
        let timing = &self.settings.timing;
        let free = self.voter.free_for(&self.me).map_or(self.quiet_until, |free| free.max(self.quiet_until));
        // Of those heard until now, only the ones that will still count as alive then have a say in the order.
        let rank = self.roster.rank(&self.members, &self.gossip(now), free.max(now));
        let unfit = if self.eligible { Duration::ZERO } else { timing.lease() };
        Some(free + timing.rank_step() * rank + self.jitter + unfit)
    }

    /// Throws anew for the small wait that keeps equals apart; wider after candidacies that failed.
    pub(super) fn draw_jitter(&mut self) {
        let step = self.settings.timing.rank_step();
        let limit = match self.failures {
            _ if self.members.count() == 1 => Duration::ZERO,
            0 => step / 4,
            failures => step * (1 << failures.min(3)),
        };
        self.jitter = self.dice.below(limit);
    }

    /// Keeps count of how long it has had the right to preempt the leader.
    pub(super) fn challenge(&mut self, now: Instant) {
        let may = self.settings.preempt && self.eligible && self.wishes_to_lead(now);
        let lower = match self.roster.leader(now) {
            Some((_, leader)) => leader.gossip.priority < self.settings.priority,
            // Between two leaders the count goes on.
            None => self.challenging_since.is_some(),
        };
        let challenging = may && lower && self.lease_end(now).is_none();
        self.challenging_since = challenging.then(|| self.challenging_since.unwrap_or(now));
    }

    /// Whether so many votes carry a candidacy of this node.
    pub(super) fn enough(&self) -> impl Fn(Votes) -> bool + use<> {
        let majority = self.members.majority();
        let (mine, alone) = (self.members.mine(), self.may_lead_alone());
        move |votes| votes.count() >= majority || (alone && votes.contains(mine))
    }

    /// Whether it is no witness, and has neither been stopped, nor stepped down by command a moment ago.
    pub(super) fn wishes_to_lead(&self, now: Instant) -> bool {
        match self.departure {
            Departure::Staying => !self.settings.witness,
            Departure::Resting { until } => until <= now,
            Departure::Stopped => false,
        }
    }

    pub(super) fn may_lead_alone(&self) -> bool {
        self.bootstrap.right && self.bootstrap.segment_was_free
    }
}
