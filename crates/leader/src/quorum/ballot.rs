//! Questions and answers: how a member asks for votes, and how it gives its own.

use std::time::Instant;

use crate::{
    Term,
    message::{Ballot, Body, Gossip, Objection, Round},
    node::{Instance, Process},
};

use super::{
    Departure, Election, Event, Standing,
    candidate::{Candidacy, Canvass, Refusals},
    members::Votes,
};

/// A candidacy gives up after two and a half heartbeats: three rounds of requests, and time for their answers.
const GIVE_UP_HALF_HEARTBEATS: u32 = 5;

// As a voter.
impl Election {
    pub(super) fn answer_canvass(&mut self, place: usize, from: &Process, round: Round, now: Instant) {
        let body = match self.unfit(place).or_else(|| self.voter.objection(from, now)) {
            None => Body::Support { round },
            Some(objection) => Body::Refuse { ballot: Ballot::Canvass { round }, objection },
        };
        self.send(place, body, now);
    }

    pub(super) fn answer_request(
        &mut self,
        place: usize,
        from: &Process,
        (term, round): (Term, Round),
        released: Option<Instance>,
        now: Instant,
    ) {
        if let Some(released) = released {
            // The successor may be faster than the release that named it.
            self.note_release(&released);
        }
        self.give_way(&from.node, place, term, now);
        let body = match self.grant(place, from, term, now) {
            Ok(()) => Body::Grant { term, round },
            Err(objection) => Body::Refuse { ballot: Ballot::Request { term, round }, objection },
        };
        self.send(place, body, now);
    }

    /// Gives the vote of this member, if it is free.
    fn grant(&mut self, place: usize, from: &Process, term: Term, now: Instant) -> Result<(), Objection> {
        if let Some(objection) = self.unfit(place) {
            return Err(objection);
        }
        if self.roster.has_released(place, from.incarnation, term) {
            return Err(Objection::Released);
        }
        let mine = self.lease();
        let lease = self.roster.peer(place).map_or(mine, |peer| peer.gossip.lease);
        let instance = Instance { holder: from.clone(), term };
        let granted = self.voter.grant(&instance, lease, now);
        if granted.is_ok() {
            self.failures = 0;
            if let Standing::Canvassing(_) = self.standing {
                self.standing = Standing::Following;
            }
        }
        granted
    }

    /// Why a member may not be voted for at all, whoever else has the vote.
    fn unfit(&self, place: usize) -> Option<Objection> {
        let gossip = &self.roster.peer(place)?.gossip;
        if !self.members.meets(&gossip.members) {
            return Some(Objection::Members);
        }
        (gossip.lease > self.lease()).then_some(Objection::Lease)
    }

    /// Remembers a release of another member, and takes back the promise if it was for that.
    pub(super) fn note_release(&mut self, instance: &Instance) -> bool {
        if let Some(place) = self.members.place_of_other(&instance.holder.node) {
            self.roster.note_released(place, instance.holder.incarnation, instance.term);
        }
        self.voter.release(instance)
    }
}

// As a candidate.
impl Election {
    /// Asks who would grant, without disturbing anybody.
    pub(super) fn canvass(&mut self, now: Instant) {
        let mut support = Votes::default();
        support.insert(self.members.mine());
        if self.enough()(support) || self.segment_supports(now) {
            self.stand(None, now);
            return;
        }
        self.round.0 += 1;
        let round = self.round;
        let until = now + self.settings.timing.heartbeat();
        self.standing =
            Standing::Canvassing(Canvass { round, support, refusals: Refusals::default(), until });
        self.send_all(&Body::Canvass { round }, now);
    }

    pub(super) fn take_support(&mut self, place: usize, round: Round, now: Instant) {
        let enough = self.enough();
        if let Standing::Canvassing(canvass) = &mut self.standing
            && canvass.round == round
        {
            canvass.support.insert(place);
            canvass.refusals.withdraw(place);
            if enough(canvass.support) {
                self.stand(None, now);
            }
        }
    }

    /// Begins a candidacy: raises the term, and asks for votes.
    pub(super) fn stand(&mut self, released: Option<Instance>, now: Instant) {
        self.term = self.term.next();
        self.releasing = None;
        let heartbeat = self.settings.timing.heartbeat();
        let give_up = now + heartbeat * GIVE_UP_HALF_HEARTBEATS / 2;
        self.next_beat = now + heartbeat;
        self.standing = Standing::Requesting { candidacy: Candidacy::new(self.term, released), give_up };
        self.start_round(now);
    }

    /// Asks everybody for a lease from now on, this member first.
    pub(super) fn start_round(&mut self, now: Instant) {
        let (Standing::Requesting { candidacy, .. } | Standing::Leading { candidacy, .. }) =
            &mut self.standing
        else {
            return;
        };
        let (term, released) = (candidacy.term, candidacy.released.clone());
        self.round.0 += 1;
        let round = self.round;
        candidacy.begin(round, now);
        let instance = Instance { holder: self.me.clone(), term };
        match self.voter.grant(&instance, self.lease(), now) {
            Ok(()) => self.take_grant(self.members.mine(), term, round, now),
            Err(_) => {
                // Its own vote is promised to another, or it abstains: it can't want what it wouldn't grant.
                assert!(self.lease_end(now).is_none(), "a leader's own vote is its own");
                self.standing = Standing::Following;
                return;
            }
        }
        self.send_all(&Body::Request { term, round, released }, now);
    }

    pub(super) fn take_grant(&mut self, voter: usize, term: Term, round: Round, now: Instant) {
        let (lease, enough) = (self.lease(), self.enough());
        let (Standing::Requesting { candidacy, .. } | Standing::Leading { candidacy, .. }) =
            &mut self.standing
        else {
            return;
        };
        if candidacy.term != term {
            return;
        }
        if let Some(until) = candidacy.count(round, voter, lease, enough)
            && now < until
        {
            self.extend(until, now);
        }
    }

    /// Leads until then.
    pub(super) fn extend(&mut self, end: Instant, now: Instant) {
        let alone = self.may_lead_alone();
        assert!(now < end && end <= now + self.lease(), "a lease is counted from its request");
        match &mut self.standing {
            Standing::Leading { until, alone: was_alone, .. } => {
                *until = end.max(*until);
                *was_alone = alone;
            }
            Standing::Requesting { candidacy, .. } => {
                let (term, candidacy) = (candidacy.term, candidacy.clone());
                if let Some((_, heir)) = self.heir(now) {
                    self.pass_on(term, heir, now);
                    return;
                }
                self.standing = Standing::Leading { candidacy, until: end, alone };
                self.failures = 0;
                self.tell(Event::Elected { term, alone });
                self.announce(now);
            }
            Standing::Following | Standing::Canvassing(_) | Standing::HandingOver { .. } => {
                unreachable!("only a candidacy gathers grants")
            }
        }
        if let Standing::Leading { candidacy, until, .. } = &self.standing {
            assert!(
                self.voter.keeps(&candidacy.instance(&self.me), *until),
                "a leader's own vote outlasts its lease"
            );
        }
    }

    pub(super) fn take_refusal(&mut self, place: usize, ballot: Ballot, objection: Objection, now: Instant) {
        // What time alone doesn't mend is worth asking again now and then; and so is a voter that names a time beyond
        // any promise this member knows.
        let longest = self.settings.timing.exclusion();
        let free_at = now + objection.remaining().unwrap_or(longest).min(longest);
        let spare = self.members.count() - self.members.majority();
        match (ballot, &mut self.standing) {
            (Ballot::Canvass { round }, Standing::Canvassing(canvass)) if canvass.round == round => {
                canvass.support.remove(place);
                canvass.refusals.insert(place, free_at);
                let wanted = self.members.majority() - canvass.support.count();
                let refused = canvass.refusals.count();
                if let Some(free_at) = canvass.refusals.free_at(wanted) {
                    // Repeated exactly when enough voters are free; sooner only if those still silent could decide it.
                    canvass.until = if refused > spare { free_at } else { canvass.until.min(free_at) };
                }
            }
            (Ballot::Request { term, .. }, Standing::Requesting { candidacy, .. })
                if candidacy.term == term =>
            {
                candidacy.refusals.insert(place, free_at);
                if candidacy.refusals.count() > spare {
                    let wanted = candidacy.refusals.count() - spare;
                    let retry_at = candidacy.refusals.free_at(wanted).unwrap_or(now);
                    self.give_up(retry_at, now);
                }
            }
            (Ballot::Canvass { .. } | Ballot::Request { .. }, _) => {}
        }
    }

    /// Ends a candidacy that can't win, and gives back the votes it got, so that another can have them at once.
    ///
    /// It never led in this term and never will: grants that come late find no candidacy to count for.
    pub(super) fn give_up(&mut self, retry_at: Instant, now: Instant) {
        if let Standing::Requesting { candidacy, .. } = &self.standing {
            let term = candidacy.term;
            self.standing = Standing::Following;
            self.failures = self.failures.saturating_add(1);
            self.quiet_until = retry_at;
            self.draw_jitter();
            self.release(term, None, now);
        }
    }

    /// Whether this member may answer to being named as successor.
    pub(super) fn may_stand(&self, now: Instant) -> bool {
        !self.settings.witness
            && self.departure != Departure::Stopped
            && self.voter.objection(&self.me, now).is_none()
    }

    /// Whether a gossiping member would be preferred to this one by priority alone.
    pub(super) fn outranks_me(&self, gossip: &Gossip) -> bool {
        gossip.priority > self.settings.priority
    }
}
