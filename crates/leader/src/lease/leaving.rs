//! Leaving the lead on purpose: first the address, then the Lease.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use crate::{NodeId, quorum::StepDownError};

use super::{
    Cause, Departure, Election, Event, RELEASED_DURATION, Record, Stamp, Standing, request::Purpose,
};

/// How long a release waits for the answer to a renewal that is under way. Answered, it can name the version that it
/// replaces; unanswered, it has to look first.
const RENEWAL_PATIENCE: Duration = Duration::from_millis(100);

impl Election {
    /// Begins to hand over by an operator's command, to the node that is named if one is; gives the successor that the Lease
    /// will name, if one is known. Those that can be named are told, where they are known.
    ///
    /// The node is a follower at once. Its Lease is released when [`confirm_standby`](Self::confirm_standby) says that
    /// nothing is held any more. It leaves the lead to others for a lease duration.
    ///
    /// # Errors
    ///
    /// If it doesn't lead, or there is no other node of that name; nothing has changed then.
    pub fn step_down(
        &mut self,
        to: Option<&NodeId>,
        known: Option<&BTreeSet<NodeId>>,
        now: Instant,
    ) -> Result<Option<NodeId>, StepDownError> {
        self.expire(now);
        let Standing::Leading { .. } = self.standing else { return Err(StepDownError::NotLeader) };
        if let Some(name) = to {
            self.check_successor(name, known)?;
        }
        self.departure = Departure::Resting { until: now + self.timing.lease_duration() };
        self.begin_hand_over(Cause::Command, to, now);
        Ok(self.heir().cloned())
    }

    /// Never leads again; if it leads now, it hands over.
    pub fn stop(&mut self, now: Instant) {
        self.expire(now);
        self.departure = Departure::Stopped;
        if let Standing::Leading { .. } = self.standing {
            self.begin_hand_over(Cause::Shutdown, None, now);
        }
    }

    /// Whether a stopped participant has nothing left to do.
    pub fn has_left(&self) -> bool {
        let asks = self.outstanding.as_ref().is_some_and(|asked| asked.purpose != Purpose::Look);
        self.departure == Departure::Stopped && self.standing == Standing::Following && !asks
    }

    /// Takes the word of whoever acts upon this election that nothing of the address is left on this machine.
    ///
    /// If this node is handing over, its Lease is released now.
    pub fn confirm_standby(&mut self, now: Instant) {
        self.expire(now);
        if let Standing::HandingOver { term, give_up } = self.standing {
            let asked = self.outstanding.as_ref().map(|outstanding| outstanding.started);
            let not_before = asked.map_or(now, |asked| asked + RENEWAL_PATIENCE).max(now);
            self.quiet_until = now;
            self.standing = Standing::Releasing { term, give_up, not_before };
        }
    }

    /// Whether the node that an operator named is one that could take over. What no election tells here is whether a vipd
    /// runs there: others take the Lease a moment later if it doesn't.
    fn check_successor(&self, name: &NodeId, known: Option<&BTreeSet<NodeId>>) -> Result<(), StepDownError> {
        if *name == self.me {
            return Err(StepDownError::Itself);
        }
        let known = known.ok_or(StepDownError::Unknowable)?;
        if known.contains(name) {
            return Ok(());
        }
        let known = known.iter().filter(|node| **node != self.me).cloned().collect();
        Err(StepDownError::Unknown { node: name.clone(), known })
    }

    /// Who should be next: the one that an operator named for this hand-over, or else whom the program knows to be fit.
    fn heir(&self) -> Option<&NodeId> {
        self.named.as_ref().or(self.successor.as_ref())
    }

    pub(super) fn begin_hand_over(&mut self, cause: Cause, named: Option<&NodeId>, now: Instant) {
        if let Standing::Leading { term, .. } = self.standing {
            self.named = named.cloned();
            // By then the Lease has lapsed by itself.
            let give_up = now + self.timing.lease_duration();
            self.standing = Standing::HandingOver { term, give_up };
            self.tell(Event::HandingOver { term, cause, to: self.heir().cloned() });
        }
    }

    /// The record of a Lease that this node let go of, as client-go writes it, and who should be next.
    pub(super) fn released(&self, stamp: Stamp) -> Record {
        Record {
            holder: None,
            duration: Some(RELEASED_DURATION),
            acquired: Some(stamp),
            renewed: Some(stamp),
            transitions: self.record().map_or(0, |record| record.transitions),
            successor: self.heir().cloned(),
        }
    }
}
