//! What follows from a look at the Lease.

use std::time::Instant;

use super::{
    Election, Event, Loss, Standing,
    record::{Observed, Record, Sight, claim_end},
};

/// Between two looks that are no further apart than this, no Lease is made, acted upon and deleted by hand.
const GAP_RETRIES: u32 = 3;

/// Whose claim a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// This process wrote it.
    Own,
    /// An earlier process of this node wrote it, and is gone; or somebody wrote it by hand over another's claim.
    Inherited,
    /// It has this node's name, and somebody else wrote it.
    Twin,
    /// It has another node's name.
    Foreign,
    /// Its holder let go of it.
    Released,
    /// It has no holder, and none let go of it: somebody struck it out.
    Cleared,
}

impl Election {
    /// Takes a state of the Lease that is not older than what is known.
    pub(super) fn see(&mut self, observed: Observed, now: Instant) {
        self.look_at = now + self.look_interval();
        self.must_look = false;
        self.last_seen_at = now;
        let claim = self.claim(&observed.record);
        if self.record() != Some(&observed.record) {
            self.count_stray_claims(&observed.record, claim, now);
            self.warn_of(&observed.record, claim);
            self.seen_at = now;
            self.segment_free = false;
            self.draw_jitter();
        }
        self.inherited = claim == Claim::Inherited;
        self.blank = false;
        self.sight = Sight::Seen(observed);
        self.judge(claim, now);
    }

    /// Takes the store's word that there is no Lease. Claims that were made in it live on.
    pub(super) fn see_none(&mut self, now: Instant) {
        self.look_at = now + self.look_interval();
        self.must_look = false;
        // In a gap, after a pause or without an API, a Lease may have been made and deleted again.
        let gap = self.is_stale(now);
        self.last_seen_at = now;
        if self.sight != Sight::Absent || gap {
            // Whoever leads knows that no other claim was alive. Anybody else may have missed one that was made since the last
            // sight.
            if self.lease_end(now).is_none() {
                self.stray_claims_end = self.stray_claims_end.max(now + self.timing.lease_duration());
            }
            self.sight = Sight::Absent;
            self.segment_free = false;
            self.seen_at = now;
            self.draw_jitter();
        }
        if let Standing::Leading { renew_at, .. } = &mut self.standing {
            // Whoever leads by it puts it back.
            *renew_at = now;
        }
    }

    /// Whether the absence of a Lease was seen too long ago to build upon: nothing but the store's word protects a first write.
    pub(super) fn is_stale(&self, now: Instant) -> bool {
        let gap = now.saturating_duration_since(self.last_seen_at);
        self.sight == Sight::Absent && gap > self.timing.retry_period() * GAP_RETRIES
    }

    /// Whose claim a record is.
    pub(super) fn claim(&self, record: &Record) -> Claim {
        match &record.holder {
            None if record.is_released() => Claim::Released,
            None => Claim::Cleared,
            Some(holder) if **holder != *self.me.as_str() => Claim::Foreign,
            Some(_) if record.renewed.is_some_and(|stamp| self.written.contains(&stamp)) => Claim::Own,
            // Only the first sight of all can be of what a predecessor left behind.
            Some(_) if self.sight == Sight::Unseen => Claim::Inherited,
            Some(_) if self.inherited && self.record() == Some(record) => Claim::Inherited,
            Some(_) => Claim::Twin,
        }
    }

    /// Until when another process may act upon what is in sight.
    pub(super) fn claim_in_sight(&self) -> Option<Instant> {
        let record = self.record()?;
        match self.claim(record) {
            Claim::Inherited if self.segment_free => None,
            Claim::Foreign | Claim::Twin | Claim::Inherited => {
                Some(claim_end(record, self.seen_at, self.timing.lease_duration()))
            }
            Claim::Own | Claim::Released | Claim::Cleared => None,
        }
    }

    /// Keeps count of the claims that a new record doesn't end: whoever made them acts upon them until their time is over.
    ///
    /// By the rules a Lease changes hands when its holder has released it or its time is over, and its count of
    /// transitions rises. Whatever else replaces a claim, a hand or a new object, was no business of its holder.
    fn count_stray_claims(&mut self, record: &Record, claim: Claim, now: Instant) {
        if claim == Claim::Cleared {
            // The last claim may have been one that this process never saw.
            let end = claim_end(record, now, self.timing.lease_duration());
            self.stray_claims_end = self.stray_claims_end.max(end);
        }
        let (Some(end), Some(known)) = (self.claim_in_sight(), self.record()) else { return };
        let same_holder = record.holder == known.holder;
        let by_the_rules = same_holder || claim == Claim::Released || record.transitions > known.transitions;
        if !by_the_rules {
            self.stray_claims_end = self.stray_claims_end.max(end);
        }
    }

    fn warn_of(&mut self, record: &Record, claim: Claim) {
        if claim == Claim::Twin && !self.twin {
            self.tell(Event::Twin);
        }
        self.twin = claim == Claim::Twin;
        let Some(holder) = record.holder.clone().filter(|_| claim == Claim::Foreign) else { return };
        let known = self.record().is_some_and(|known| known.holder.as_ref() == Some(&holder));
        if let Some(duration) = record.duration
            && duration > self.timing.lease_duration()
            && !known
        {
            self.tell(Event::LongLease { holder, duration });
        }
    }

    /// Lets go of a lead that the Lease contradicts.
    fn judge(&mut self, claim: Claim, now: Instant) {
        let holder = self.record().and_then(|record| record.holder.clone());
        match (&mut self.standing, claim) {
            (Standing::Following, _)
            | (
                Standing::Leading { .. } | Standing::HandingOver { .. } | Standing::Releasing { .. },
                Claim::Own,
            ) => {}
            // Nobody has taken it yet: write the name in again, before somebody does.
            (Standing::Leading { renew_at, .. }, Claim::Cleared) => *renew_at = now,
            (Standing::Leading { term, .. }, _) => {
                let term = *term;
                let loss = match claim {
                    Claim::Foreign => holder.map_or(Loss::Released, Loss::Taken),
                    Claim::Twin | Claim::Inherited => Loss::Twin,
                    Claim::Released | Claim::Own | Claim::Cleared => Loss::Released,
                };
                self.lose(term, loss);
            }
            (Standing::HandingOver { term, .. } | Standing::Releasing { term, .. }, _) => {
                // There is nothing left of one's own to release.
                let term = *term;
                self.standing = Standing::Following;
                self.tell(Event::Released { term });
            }
        }
    }
}
