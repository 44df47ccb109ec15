//! Two members, of which one is silent: the segment votes in its place.
//!
//! Neither of two members has a majority alone. With a tie-break the driver looks at the segment they share while the other is
//! silent: does the tie-break (a gateway, say) answer, and does anybody answer for the virtual addresses? What it saw comes in as
//! [`Sight`]s.
//!
//! ```text
//!  leader     last grant        silent: looks            each good sight is worth a lease from when it was asked
//!             ├──────────── lease ──────┼──────▶│ ├─────────── lease ─────────▶│
//!  follower   last word      silent: looks, says so      an exclusion of good sights without a hole      one more
//!             ├───────────────┼─────────┼─────┼─────┼─────┼─────┼─────┼─────┼─────┼─── stands ───────────┼ leads
//! ```
//!
//! A leader that is cut off from the segment has no sight that is worth anything, and its lease is over an exclusion after the last
//! that was. A follower waits for as long as a voter would, and sees in all that time that nobody has the addresses: a leader that
//! is still there answers for them, however silent it is otherwise.
//!
//! What is left are cuts through which one of them sees less than the other. A follower that misses the leader says so in all its
//! messages, and begins to count only then: a leader that hears it gets no vote of the segment any more. A leader that is asked for a
//! vote in a higher term lets go. Only where nothing at all passes between the two, and both see the tie-break, two lead.

use std::time::{Duration, Instant};

use crate::{
    Term,
    message::{Gossip, Tie, TieBreak},
    node::{Instance, NodeId},
    timing::Timing,
};

use super::{Cause, Departure, Election, Event, Standing};

/// The other member is missed after one and a half heartbeats: one was lost or is late.
const PATIENCE_HALF_HEARTBEATS: u32 = 3;

/// Two looks at the segment per heartbeat, while it is looked at: a lost frame delays nothing much.
const LOOKS_PER_HEARTBEAT: u32 = 2;

/// Gateways answer ARP when they come to it; several looks have to go into a lease all the same. Shorter heartbeats would make
/// a broadcast storm of the looks, too.
pub(super) const HEARTBEAT_MIN: Duration = Duration::from_millis(20);

/// What one look at the segment showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sight {
    /// When it was looked: before the first question left.
    pub asked: Instant,
    /// The tie-break answered.
    pub answered: bool,
    /// Another station than this node has a virtual address, or says so.
    pub owned: bool,
    /// Another station looks at the segment in the same way, sees the tie-break, and comes first by an order that both know. It is the
    /// other member, so silent as it is; of two that look for the same reason at the same time one has to wait.
    pub contested: bool,
}

impl Sight {
    /// Whether a vote can come of it.
    fn is_good(self) -> bool {
        self.answered && !self.owned
    }
}

/// What there is to know of the segment's vote, from outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arbitration {
    /// The segment is to be looked at now and again, at this interval; otherwise its vote isn't needed.
    pub looks: Option<Duration>,
    /// Until when this member leads by the segment's vote.
    pub leads_until: Option<Instant>,
}

/// What a member with a tie-break has seen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Watch {
    rule: TieBreak,
    looking: bool,
    missing: bool,
    blind: bool,
    series: Option<Series>,
    /// The last message of the other member that kept the segment from voting in its place.
    word: Option<Instant>,
    /// Its last sign that was no message, the last one of those that did the same, and the last that said it may be counting.
    sign: Option<Instant>,
    word_sign: Option<Instant>,
    missed: Option<Instant>,
    voted_until: Option<Instant>,
}

/// Good sights without a hole, each newer than the last word of the other member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Series {
    first: Instant,
    last: Instant,
}

impl Watch {
    /// A watch that has seen nothing.
    pub(super) fn new(rule: TieBreak) -> Self {
        Self {
            rule,
            looking: false,
            missing: false,
            blind: false,
            series: None,
            word: None,
            sign: None,
            word_sign: None,
            missed: None,
            voted_until: None,
        }
    }

    /// Takes a sight into the series, which it may end or begin.
    fn note(&mut self, sight: Sight, last_word: Instant, hole: Duration) {
        if !sight.is_good() || sight.contested || sight.asked <= last_word {
            self.series = None;
            return;
        }
        let first = match self.series {
            Some(series) if sight.asked <= series.last => return,
            Some(series) if last_word < series.first && sight.asked <= series.last + hole => series.first,
            Some(_) | None => sight.asked,
        };
        self.series = Some(Series { first, last: sight.asked });
    }
}

/// Silence for so long, or a hole of so long between sights, counts.
fn patience(timing: Timing) -> Duration {
    timing.heartbeat() * PATIENCE_HALF_HEARTBEATS / 2
}

/// Whether a member that says this may be counting the segment's vote.
fn counts(gossip: &Gossip) -> bool {
    gossip.leading || gossip.tie.is_some_and(|tie| tie.missing && !tie.blind)
}

/// Whether a member that says this keeps the segment from voting in its place: it hears this one, or may be counting itself.
fn is_word(gossip: &Gossip) -> bool {
    gossip.leading || gossip.tie.is_none_or(|tie| !tie.missing || !tie.blind)
}

impl Election {
    /// Takes what a look at the segment showed. Without effect in an election without a tie-break.
    pub fn handle_sight(&mut self, sight: Sight, now: Instant) {
        self.expire(now);
        // Nobody has seen what is still to come.
        let sight = Sight { asked: sight.asked.min(now), ..sight };
        let (last_word, hole) = (self.last_word(), patience(self.settings.timing));
        let Some(watch) = &mut self.watch else { return };
        watch.note(sight, last_word, hole);
        match self.standing {
            Standing::Leading { .. } if sight.is_good() && self.may_count_as_leader(now) => {
                self.prolong_by_sight(sight.asked, now);
            }
            Standing::Requesting { .. } if self.segment_supports(now) => {
                self.take_segment_vote(sight.asked, now);
            }
            Standing::Canvassing(_) if self.segment_supports(now) => self.stand(None, now),
            Standing::Following
            | Standing::Canvassing(_)
            | Standing::Requesting { .. }
            | Standing::Leading { .. }
            | Standing::HandingOver { .. } => {}
        }
        self.settle(now);
    }

    /// Takes an authentic sign of the other member that may be a recording. It may as well come from a process that doesn't hear this
    /// one, and so can't prove that it is alive: then silence of the other member is no silence, and it may be counting.
    pub fn handle_sign(&mut self, from: &NodeId, gossip: &Gossip, now: Instant) {
        self.expire(now);
        let known = self.members.place_of_other(from).is_some();
        if let Some(watch) = self.watch.as_mut().filter(|_| known) {
            watch.sign = Some(now);
            if is_word(gossip) {
                watch.word_sign = Some(now);
            }
            if counts(gossip) {
                watch.missed = Some(now);
            }
        }
        self.settle(now);
    }

    /// Takes note of a message of the other member.
    pub(super) fn note_word(&mut self, gossip: &Gossip, now: Instant) {
        if let Some(watch) = self.watch.as_mut().filter(|_| is_word(gossip)) {
            watch.word = Some(now);
        }
    }

    /// What the driver is to do about the segment, and what came of it.
    pub fn arbitration(&self, now: Instant) -> Arbitration {
        let Some(watch) = &self.watch else { return Arbitration::default() };
        let interval = self.settings.timing.heartbeat() / LOOKS_PER_HEARTBEAT;
        let by_segment =
            watch.voted_until.filter(|until| self.lease_end(now).is_some_and(|end| end <= *until));
        Arbitration { looks: watch.looking.then_some(interval), leads_until: by_segment }
    }

    /// Whether so much good was seen that the segment votes for this member's candidacy.
    pub(super) fn segment_supports(&self, now: Instant) -> bool {
        let (hole, span) = (patience(self.settings.timing), self.settings.timing.exclusion());
        let last_word = self.last_word();
        let seen =
            self.watch.as_ref().and_then(|watch| watch.series).is_some_and(|Series { first, last }| {
                last_word < first && first + span <= last && now <= last + hole + hole
            });
        seen && self.agrees_on_tie_break()
    }

    /// The rule and the state of it, as they travel.
    pub(super) fn tie(&self, now: Instant) -> Option<Tie> {
        let watch = self.watch.as_ref()?;
        Some(Tie { rule: watch.rule, missing: self.misses(now), blind: self.is_blind(now) })
    }

    /// Whether a member's tie-break is this node's, as far as both have one.
    pub fn agrees_on_rule(&self, gossip: &Gossip) -> bool {
        match (&self.watch, &gossip.tie) {
            (Some(watch), Some(tie)) => tie.rule == watch.rule,
            (Some(_) | None, _) => true,
        }
    }

    /// When the other member will be missed, when the segment may vote in its place, or when the lease has gone without a renewal
    /// for as long; `None` once all that is so.
    pub(super) fn look_at(&self) -> Option<Instant> {
        let watch = self.watch.as_ref()?;
        let patience = patience(self.settings.timing);
        let missed = (!watch.missing).then(|| self.last_heard() + patience);
        let silent = (!watch.looking && self.takes_part()).then(|| self.last_word() + patience);
        let stale = (!watch.looking).then(|| self.stale_at()).flatten();
        [missed, silent, stale].into_iter().flatten().min()
    }

    /// Begins or ends to look, and tells the other member at once when it is missed, and when something is seen.
    pub(super) fn watch_segment(&mut self, now: Instant) {
        let (missing, blind) = (self.misses(now), self.is_blind(now));
        let silent = self.last_word() + patience(self.settings.timing) <= now;
        let stale = self.stale_at().is_some_and(|at| at <= now);
        let takes_part = self.takes_part();
        let Some(watch) = &mut self.watch else { return };
        watch.looking = takes_part && (silent || stale);
        let missed = std::mem::replace(&mut watch.missing, missing) != missing && missing;
        let sees = std::mem::replace(&mut watch.blind, blind) != blind && missing;
        if missed || sees {
            self.announce(now);
        }
    }

    /// Lets go for one that asks for votes in a higher term: it hasn't heard this member for long, so both would lead.
    pub(super) fn give_way(&mut self, rival: &NodeId, place: usize, term: Term, now: Instant) {
        let Standing::Leading { candidacy, .. } = &self.standing else { return };
        // Two can only reach the same term out of sight of each other; then the smaller name leads on.
        let outranked = candidacy.term < term || (candidacy.term == term && *rival < self.me.node);
        if self.watch.is_some() && outranked {
            self.begin_hand_over(Cause::Outranked, Some(place), now);
        }
    }

    /// The last message or sign of the other member that keeps the segment from voting in its place, or this one's own beginning.
    fn last_word(&self) -> Instant {
        let words = self.watch.as_ref().and_then(|watch| watch.word.max(watch.word_sign));
        words.unwrap_or(self.started).max(self.started)
    }

    /// The last message or sign at all.
    fn last_heard(&self) -> Instant {
        let heard = self.other().map(|(_, heard)| heard);
        let sign = self.watch.as_ref().and_then(|watch| watch.sign);
        heard.max(sign).unwrap_or(self.started).max(self.started)
    }

    fn takes_part(&self) -> bool {
        self.departure != Departure::Stopped
    }

    /// Whether it misses the other member, and has seen nothing that could be counted.
    fn is_blind(&self, now: Instant) -> bool {
        let nothing = self.watch.as_ref().is_some_and(|watch| watch.series.is_none());
        nothing && self.misses(now) && self.lease_end(now).is_none()
    }

    /// What the one other member said last, and when.
    fn other(&self) -> Option<(&Gossip, Instant)> {
        let place = self.members.others().next()?;
        self.roster.peer(place).map(|peer| (&peer.gossip, peer.heard))
    }

    fn misses(&self, now: Instant) -> bool {
        self.watch.is_some() && self.last_heard() + patience(self.settings.timing) <= now
    }

    /// When a lease that isn't renewed shows that the other member grants nothing.
    fn stale_at(&self) -> Option<Instant> {
        match self.standing {
            Standing::Leading { until, .. } => Some(until - self.lease() + patience(self.settings.timing)),
            Standing::Following
            | Standing::Canvassing(_)
            | Standing::Requesting { .. }
            | Standing::HandingOver { .. } => None,
        }
    }

    /// Whether the two, as far as they have heard of each other, have the same election and the same tie-break.
    fn agrees_on_tie_break(&self) -> bool {
        self.other().is_none_or(|(gossip, _)| {
            gossip.members == self.members.set()
                && gossip.lease == self.lease()
                && self.agrees_on_rule(gossip)
        })
    }

    /// A leader is renewed by the segment unless the other member misses it, or leads: then that one is counting, too.
    ///
    /// What it said an exclusion ago is over: a lease of this member's that was there then is, too, and one that it has won since
    /// was won against its silence.
    fn may_count_as_leader(&self, now: Instant) -> bool {
        let told = self.other().filter(|(gossip, _)| counts(gossip)).map(|(_, heard)| heard);
        let missed = told.max(self.watch.as_ref().and_then(|watch| watch.missed));
        let rival = missed.is_some_and(|missed| now < missed + self.settings.timing.exclusion());
        !rival && self.agrees_on_tie_break()
    }

    /// Leads on by the vote of the segment and its own.
    fn prolong_by_sight(&mut self, asked: Instant, now: Instant) {
        let until = asked + self.lease();
        let Standing::Leading { candidacy, .. } = &self.standing else { return };
        let instance = Instance { holder: self.me.clone(), term: candidacy.term };
        // Its own vote is its own; from now on for longer than what is counted from the question.
        let own = self.voter.grant(&instance, self.lease(), now);
        if own.is_ok() && now < until {
            self.extend(until, now);
            self.note_segment_vote(until);
        }
    }

    /// Counts the vote of the segment for the last round that was begun before it was looked at.
    fn take_segment_vote(&mut self, asked: Instant, now: Instant) {
        let (lease, enough) = (self.lease(), self.enough());
        let Some(place) = self.members.others().next() else { return };
        let Standing::Requesting { candidacy, .. } = &mut self.standing else { return };
        if let Some(round) = candidacy.round_at(asked)
            && let Some(until) = candidacy.count(round, place, lease, enough)
            && now < until
        {
            self.extend(until, now);
            self.note_segment_vote(until);
        }
    }

    fn note_segment_vote(&mut self, until: Instant) {
        let Standing::Leading { candidacy, .. } = &self.standing else { return };
        let term = candidacy.term;
        let Some(watch) = &mut self.watch else { return };
        let renewed = watch.voted_until.is_some_and(|last| until <= last + self.settings.timing.lease());
        watch.voted_until = Some(until);
        if !renewed {
            self.tell(Event::SegmentVoted { term });
        }
    }
}
