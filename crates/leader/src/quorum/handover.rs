//! Leaving the lead on purpose: first the address, then the lease, then the successor.

use std::time::Instant;

use crate::{
    Term,
    message::{Body, Gossip},
    node::{Instance, NodeId, Process},
};

use super::{Cause, Departure, Election, Event, Releasing, Standing, StepDownError};

/// How often a release is repeated, once a heartbeat, unless a leader is heard before. Losing three datagrams in a row
/// costs no safety, only the rest of the lease.
const RELEASE_REPEATS: u8 = 3;

/// How long a member that stepped down by command leaves the lead to others.
const REST_LEASES: u32 = 10;

impl Election {
    /// Begins to hand over by an operator's command, to the member that is named or to the best that is fit; gives the
    /// likely successor.
    ///
    /// The node is a follower at once. Its lease is released when [`confirm_standby`](Self::confirm_standby) says that
    /// nothing is held any more. For ten leases it leaves the lead to others, whatever its priority, as long as one of them
    /// is fit.
    ///
    /// # Errors
    ///
    /// If it doesn't lead, or nobody could take over, or not the one that is named; nothing has changed then.
    pub fn step_down(&mut self, to: Option<&NodeId>, now: Instant) -> Result<NodeId, StepDownError> {
        self.expire(now);
        let Standing::Leading { .. } = self.standing else { return Err(StepDownError::NotLeader) };
        let lease = self.lease();
        let successor = match to {
            Some(name) => self.named(name, now)?,
            None => self
                .roster
                .successor(&self.members, lease, now, |gossip| gossip.eligible && !gossip.resting)
                .ok_or(StepDownError::NoSuccessor)?,
        };
        self.departure = Departure::Resting { until: now + lease * REST_LEASES };
        self.begin_hand_over(Cause::Command, Some(successor), now);
        self.settle(now);
        Ok(self.members.name(successor).clone())
    }

    /// Never leads again; if it leads now, it hands over to the best member there is.
    pub fn stop(&mut self, now: Instant) {
        self.expire(now);
        self.departure = Departure::Stopped;
        match self.standing {
            Standing::Leading { .. } => {
                let successor = self.any_successor(now);
                self.begin_hand_over(Cause::Shutdown, successor, now);
            }
            Standing::Requesting { .. } => self.give_up(now, now),
            Standing::Canvassing(_) => self.standing = Standing::Following,
            Standing::Following | Standing::HandingOver { .. } => {}
        }
        self.settle(now);
        self.announce(now);
    }

    /// Whether a stopped member has nothing left to do: its lease is released, and its successor leads.
    pub fn has_left(&self, now: Instant) -> bool {
        let released = match &self.standing {
            Standing::Following => true,
            Standing::Canvassing(_)
            | Standing::Requesting { .. }
            | Standing::Leading { .. }
            | Standing::HandingOver { .. } => false,
        };
        let awaited = self.releasing.as_ref().is_some_and(|releasing| releasing.successor.is_some());
        released && self.departure == Departure::Stopped && (!awaited || self.roster.leader(now).is_some())
    }

    /// Takes the word of whoever acts upon this election that nothing of the address is left on this machine.
    ///
    /// If this node is handing over, its lease is released now and the successor named.
    pub fn confirm_standby(&mut self, now: Instant) {
        self.expire(now);
        if let Standing::HandingOver { term, successor, .. } = self.standing {
            let lease = self.lease();
            let named = successor.filter(|place| self.roster.could_lead(*place, &self.members, lease, now));
            let successor = named.or_else(|| self.any_successor(now));
            self.standing = Standing::Following;
            self.quiet_until = if successor.is_some() { now + lease / 2 } else { now };
            self.draw_jitter();
            self.release(term, successor, now);
            let to = successor.map(|place| self.members.name(place).clone());
            self.tell(Event::Released { term, to });
        }
        self.settle(now);
    }

    /// Who should lead in place of this member, and why, as the members are now.
    pub(super) fn heir(&self, now: Instant) -> Option<(Cause, usize)> {
        let successor = |wanted: &dyn Fn(&Gossip) -> bool| {
            self.roster.successor(&self.members, self.lease(), now, wanted)
        };
        if self.eligible {
            let challenges = |gossip: &Gossip| gossip.preempting && gossip.eligible && !gossip.resting;
            let challenger = successor(&|gossip| challenges(gossip) && self.outranks_me(gossip));
            challenger.map(|heir| (Cause::Preempted, heir))
        } else {
            // Nobody healthier: better an unfit leader than none.
            successor(&|gossip| gossip.eligible).map(|heir| (Cause::Ineligible, heir))
        }
    }

    /// Hands over where the state of the members asks for it.
    pub(super) fn yield_lead(&mut self, now: Instant) {
        if let Some((cause, heir)) = self.heir(now) {
            self.begin_hand_over(cause, Some(heir), now);
        }
    }

    /// Passes a lead on that was won in this very input: nobody has seen it, so nobody has to let go of anything.
    pub(super) fn pass_on(&mut self, term: Term, heir: usize, now: Instant) {
        self.standing = Standing::Following;
        self.quiet_until = now + self.lease() / 2;
        self.release(term, Some(heir), now);
        self.tell(Event::Released { term, to: Some(self.members.name(heir).clone()) });
    }

    /// Leads no more, by word of its own. The voters' promises stand until the release, or until they lapse.
    pub(super) fn begin_hand_over(&mut self, cause: Cause, successor: Option<usize>, now: Instant) {
        if let Standing::Leading { candidacy, until, .. } = &self.standing {
            assert!(now < *until, "what time has ended is ended before anything else");
            let (term, until) = (candidacy.term, *until);
            self.standing = Standing::HandingOver { term, until, successor };
            let to = successor.map(|place| self.members.name(place).clone());
            self.tell(Event::HandingOver { term, cause, to });
        }
    }

    /// The member that an operator named, if it can take over.
    fn named(&self, name: &NodeId, now: Instant) -> Result<usize, StepDownError> {
        if *name == self.me.node {
            return Err(StepDownError::Itself);
        }
        let Some(place) = self.members.place_of_other(name) else {
            let known = self.members.others().map(|place| self.members.name(place).clone()).collect();
            return Err(StepDownError::Unknown { node: name.clone(), known });
        };
        let leader = (self.lease(), self.eligible);
        match self.roster.impediment(place, &self.members, leader, now) {
            Some(impediment) => Err(StepDownError::Impeded { node: name.clone(), impediment }),
            None => Ok(place),
        }
    }

    fn any_successor(&self, now: Instant) -> Option<usize> {
        self.roster.successor(&self.members, self.lease(), now, |_| true)
    }

    /// Gives back a term of this process: to itself first, then to all others.
    pub(super) fn release(&mut self, term: Term, successor: Option<usize>, now: Instant) {
        let instance = self.instance(term);
        self.voter.release(&instance);
        assert!(self.lease_end(now).is_none(), "only a follower releases");
        self.releasing = Some(Releasing { term, successor, left: RELEASE_REPEATS });
        self.send_release(now);
    }

    fn send_release(&mut self, now: Instant) {
        if let Some(Releasing { term, successor, .. }) = &self.releasing {
            let successor = successor.map(|place| self.members.name(place).clone());
            let body = Body::Release { term: *term, successor };
            self.send_all(&body, now);
        }
    }

    pub(super) fn repeat_release(&mut self, now: Instant) {
        if self.roster.leader(now).is_some() {
            self.releasing = None;
        }
        if let Some(releasing) = &mut self.releasing {
            if releasing.left == 0 {
                self.releasing = None;
                return;
            }
            releasing.left -= 1;
            self.send_release(now);
        }
    }

    /// Takes a release of another member. A copy of one that is known changes nothing, as time has gone on since.
    pub(super) fn take_release(
        &mut self,
        place: usize,
        from: &Process,
        term: Term,
        successor: Option<NodeId>,
        now: Instant,
    ) {
        let known = self.roster.has_released(place, from.incarnation, term);
        let released = Instance { holder: from.clone(), term };
        let freed = self.note_release(&released);
        if known {
            return;
        }
        let idle = matches!(self.standing, Standing::Following | Standing::Canvassing(_));
        match successor {
            Some(name) if name == self.me.node => {
                if idle && self.may_stand(now) {
                    self.stand(Some(released), now);
                }
            }
            Some(_) if idle => {
                // The successor has the right of way for a while.
                self.standing = Standing::Following;
                self.quiet_until = now + self.lease() / 2;
            }
            None if idle && freed => self.quiet_until = now,
            Some(_) | None => {}
        }
    }
}
