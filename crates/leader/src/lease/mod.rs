//! Election by Kubernetes Lease, compatible with client-go's.
//!
//! # The story
//!
//! The store behind the apiservers is the one thing that all nodes agree about. A Lease object in it names its holder, and
//! for how long others have to believe that. Each write carries the version that it replaces, so of two that want the
//! same version one wins.
//!
//! **Nobody's clock is believed.** A Lease carries times, and none of them is compared with anything: clocks of two hosts
//! differ. Whoever wants the Lease waits for its whole duration from the moment when it *saw* the last change, on its own
//! clock; a holder leads until the renew deadline, which is shorter, counted from *before* its last granted request left.
//! So a holder is out before another may be in, as long as their clocks run at about the same rate:
//!
//! ```text
//!  holder     asks    granted                          out
//!             ├──────────┼───────────────────────────────┤
//!  another          sees the change                          may take it
//!                      ├─────────── lease duration ─────────────┤
//! ```
//!
//! **What was seen late is safe, what was seen twice is harmless.** A watch may lag, a server may be cut off from its store, an
//! answer may get lost after the write was applied. A write on the strength of an old sight meets a newer version, and fails.
//!
//! **A claim outlives its record.** A Lease that is deleted, or rewritten by hand, tells nothing to the one that leads by it. So
//! the claims that were ever seen, or may have been missed, are waited for, whatever the Lease says now; only a release by the
//! holder itself ends one early. A process that begins has seen none. Where it finds no Lease, or one in its own name, it
//! waits for a whole one like everybody else, unless the segment itself shows, afterwards, that nobody has the address.
//!
//! **When a leader leaves,** its address is withdrawn first; then it strikes its name from the Lease, and adds who should be next. The
//! others watch, so that takes as long as two writes.
//!
//! `tests/contract` has each rule by name, `tests/mutations` breaks each of them once, and `tests/simulation` runs whole
//! participants on servers that are slow, cut off, or lose answers.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{Leadership, NodeId, Term, dice::Dice, quorum::Segment};

pub use self::{
    event::{Cause, Event, Loss},
    record::{Observed, Record, Stamp, Version},
    request::{Ask, Reply, Request, RequestId},
    timing::{Timing, TimingError},
};
use self::{
    record::{RELEASED_DURATION, Sight, claim_end},
    request::Outstanding,
};

mod asking;
mod event;
mod leaving;
mod record;
mod request;
mod sight;
mod timing;

/// What one input may put into the queue; more means that the driver doesn't drain.
const EVENTS_MAX: usize = 32;

/// Own writes whose answers were lost, newest last. Two are enough to know any record as one's own; more would only be
/// written by a node that gets no answers for many lease durations.
const WRITTEN_MAX: usize = 16;

/// How one participant is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The holder identity that it writes.
    pub me: NodeId,
    /// How fast it is.
    pub timing: Timing,
    /// Whether it leads on past its deadline while no server answers. Two may lead then.
    pub preserve: bool,
}

/// One participant.
///
/// ```text
///                 a write of this node's name was granted
///   ┌───────────┐ ─────────────────────────────────────▶ ┌─────────┐ ◀─┐ a renewal
///   │ Following │                                         │ Leading │ ──┘ was granted
///   └───────────┘ ◀───────────────────────────────────── └─────────┘
///     ▲       ▲     now ≥ until; the Lease has another         │ stepping down, stopping, ineligible
///     │       │     holder                                     ▼
///     │       │                                           ┌─────────────┐
///     │       └────────────────────────────────────────── │ HandingOver │
///     │             unconfirmed for a lease duration      └─────────────┘
///     │                                                        │ nothing is held any more
///     │             released, or taken, or given up       ┌───────────┐
///     └────────────────────────────────────────────────── │ Releasing │
///                                                         └───────────┘
/// ```
///
/// Feed it one input, then drain [`poll_request`](Self::poll_request) and [`poll_event`](Self::poll_event), and call
/// [`handle_timeout`](Self::handle_timeout) no later than [`poll_timeout`](Self::poll_timeout).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Election {
    me: NodeId,
    timing: Timing,
    preserve: bool,
    standing: Standing,
    sight: Sight,
    /// When what is in sight was seen for the first time, and when it was last.
    seen_at: Instant,
    last_seen_at: Instant,
    /// Until when somebody may act upon a claim of another process that is in the Lease no more, and wasn't taken over by
    /// the rules.
    stray_claims_end: Instant,
    /// No record has been seen yet: who may act upon one is not known.
    blank: bool,
    /// Since what is in sight was seen, the segment was found free of the address.
    segment_free: bool,
    /// What is in sight was written in this node's name by an earlier process, which is gone.
    inherited: bool,
    /// A twin was told of, and seems to live on.
    twin: bool,
    /// Writes in a row that met another version, or none.
    setbacks: u32,
    /// Stamps of own writes that may be in the Lease.
    written: VecDeque<Stamp>,
    watching: bool,
    eligible: bool,
    /// Who could lead in place of this node.
    successor: Option<NodeId>,
    /// Whom an operator named to do so, from one hand-over until the next lead.
    named: Option<NodeId>,
    departure: Departure,
    outstanding: Option<Outstanding>,
    requests: u64,
    /// What is in sight can't be built upon: look before anything else.
    must_look: bool,
    /// No request leaves before this.
    quiet_until: Instant,
    /// When to look, if nothing is heard until then.
    look_at: Instant,
    /// The small random part of the wait for a Lease that is free.
    jitter: Duration,
    dice: Dice,
    events: VecDeque<Event>,
}

/// What this node is doing about its own lead.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Standing {
    Following,
    Leading { term: Term, until: Instant, renew_at: Instant, preserved: bool },
    HandingOver { term: Term, give_up: Instant },
    Releasing { term: Term, give_up: Instant, not_before: Instant },
}

/// Whether this node wishes to lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Departure {
    Staying,
    /// It stepped down by command, and leaves the lead to others for a while.
    Resting {
        until: Instant,
    },
    /// It never stands again.
    Stopped,
}

/// The reasons to wake.
#[derive(Clone, Copy, Debug)]
enum Timer {
    /// Something is to be asked.
    Ask,
    /// The answer is not waited for any longer.
    Unanswered,
    /// The own lease ends.
    LeaseEnd,
    /// A hand-over has taken too long.
    GiveUp,
}

impl Timer {
    const ALL: [Self; 4] = [Self::Ask, Self::Unanswered, Self::LeaseEnd, Self::GiveUp];
}

impl Election {
    /// A participant that has seen nothing yet. The seed is for the small random waits.
    pub fn new(config: &Config, seed: u64, now: Instant) -> Self {
        Self {
            me: config.me.clone(),
            timing: config.timing,
            preserve: config.preserve,
            standing: Standing::Following,
            sight: Sight::Unseen,
            seen_at: now,
            last_seen_at: now,
            stray_claims_end: now,
            blank: true,
            segment_free: false,
            inherited: false,
            twin: false,
            setbacks: 0,
            written: VecDeque::new(),
            watching: false,
            eligible: true,
            successor: None,
            named: None,
            departure: Departure::Staying,
            outstanding: None,
            requests: 0,
            must_look: true,
            quiet_until: now,
            look_at: now,
            jitter: Duration::ZERO,
            dice: Dice::seeded(seed),
            events: VecDeque::new(),
        }
    }

    /// Takes the answer to a request.
    pub fn handle_reply(&mut self, id: RequestId, reply: Reply, now: Instant) {
        self.expire(now);
        let Some(outstanding) = self.outstanding.take_if(|outstanding| outstanding.id == id) else { return };
        self.take_reply(&outstanding, reply, now);
    }

    /// Takes what a watch tells of the Lease; possibly late.
    pub fn handle_seen(&mut self, observed: Observed, now: Instant) {
        self.expire(now);
        match self.sight.observed().map(|known| observed.version.is_older_than(&known.version)) {
            // Older than what is known already.
            Some(Some(true)) => {}
            None | Some(Some(false)) => self.see(observed, now),
            Some(None) if self.sight.observed() == Some(&observed) => {}
            // Which of the two is newer, only the store can tell.
            Some(None) => self.must_look = true,
        }
    }

    /// Takes the news of a watch that the Lease was deleted. A watch may lag, so the store is asked.
    pub fn handle_deleted(&mut self, now: Instant) {
        self.expire(now);
        self.must_look = true;
    }

    /// Says whether a watch is open: without one the Lease is looked at in turns.
    pub fn set_watching(&mut self, watching: bool, now: Instant) {
        self.expire(now);
        if self.watching != watching {
            self.watching = watching;
            // What happened in between is not known.
            self.look_at = if watching { now + self.look_interval() } else { now };
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.expire(now);
    }

    /// Says whether this node is fit to lead, and who else is. An unfit leader hands over, so whoever says so has made sure
    /// that another is fitter.
    pub fn set_eligible(&mut self, eligible: bool, successor: Option<NodeId>, now: Instant) {
        self.expire(now);
        self.successor = successor;
        if self.eligible && !eligible && matches!(self.standing, Standing::Leading { .. }) {
            self.begin_hand_over(Cause::Ineligible, None, now);
        }
        self.eligible = eligible;
    }

    /// Says what a probe for the virtual address has found just now. Where nobody has it, nobody acts upon a claim that was made
    /// before the probe; what was claimed after it, a write on the strength of an earlier sight will meet.
    pub fn set_segment(&mut self, segment: Segment, now: Instant) {
        self.expire(now);
        self.segment_free = segment == Segment::Free && self.sight != Sight::Unseen;
        if self.segment_free && self.blank {
            self.stray_claims_end = now;
        }
    }

    /// What made requests fail has changed: the next leaves at once.
    pub fn retry_now(&mut self, now: Instant) {
        self.expire(now);
        self.quiet_until = now;
    }

    /// A change that is worth a line in a log.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        Timer::ALL.into_iter().filter_map(|timer| self.deadline(timer)).min()
    }

    /// Who leads.
    pub fn leadership(&self, now: Instant) -> Leadership {
        match &self.standing {
            Standing::Leading { term, until, .. } if now < *until => {
                Leadership::Leader { term: *term, until: *until }
            }
            Standing::Following
            | Standing::Leading { .. }
            | Standing::HandingOver { .. }
            | Standing::Releasing { .. } => Leadership::Follower { leader: self.holder(now) },
        }
    }

    /// The end of this node's lease, if it leads.
    pub fn lease_end(&self, now: Instant) -> Option<Instant> {
        self.leadership(now).lease_end(now)
    }

    /// The Lease as it was seen last.
    pub fn record(&self) -> Option<&Record> {
        self.sight.observed().map(|observed| &observed.record)
    }

    /// When that was first seen: the latest change of the Lease.
    pub fn record_seen(&self) -> Option<Instant> {
        self.record().map(|_| self.seen_at)
    }

    /// How fast it is.
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// Another node that holds the Lease, unless its time is over.
    fn holder(&self, now: Instant) -> Option<NodeId> {
        let record = self.record()?;
        let holder = record.holder.as_ref().filter(|holder| ***holder != *self.me.as_str())?;
        let alive = now < claim_end(record, self.seen_at, self.timing.lease_duration());
        NodeId::new(holder).ok().filter(|_| alive)
    }

    fn deadline(&self, timer: Timer) -> Option<Instant> {
        match (timer, &self.standing) {
            (Timer::Ask, _) => self.next_ask().map(|(at, _)| at),
            (Timer::Unanswered, _) => self.outstanding.as_ref().map(|outstanding| outstanding.expires),
            (Timer::LeaseEnd, Standing::Leading { until, .. }) => Some(*until),
            (Timer::GiveUp, Standing::HandingOver { give_up, .. } | Standing::Releasing { give_up, .. }) => {
                Some(*give_up)
            }
            (Timer::LeaseEnd | Timer::GiveUp, _) => None,
        }
    }

    /// Ends what time has ended.
    fn expire(&mut self, now: Instant) {
        if self.outstanding.as_ref().is_some_and(|outstanding| outstanding.expires <= now) {
            self.outstanding = None;
        }
        match self.standing {
            Standing::Leading { term, until, preserved, .. } if until <= now => {
                if self.preserve {
                    self.go_on(term, preserved, now);
                } else {
                    self.lose(term, Loss::Expired);
                }
            }
            Standing::HandingOver { term, give_up } | Standing::Releasing { term, give_up, .. }
                if give_up <= now =>
            {
                self.standing = Standing::Following;
                self.tell(Event::NotReleased { term });
            }
            Standing::Following
            | Standing::Leading { .. }
            | Standing::HandingOver { .. }
            | Standing::Releasing { .. } => {}
        }
    }

    /// Leads on without a renewal, as it was configured to: by one retry period after the other, so that a frozen process
    /// does not.
    fn go_on(&mut self, term: Term, preserved: bool, now: Instant) {
        let until = now + self.timing.retry_period() * 2;
        if !preserved {
            self.tell(Event::Preserved { term });
        }
        self.standing = Standing::Leading { term, until, renew_at: now, preserved: true };
    }

    fn lose(&mut self, term: Term, loss: Loss) {
        self.standing = Standing::Following;
        self.draw_jitter();
        self.tell(Event::Lost { term, loss });
    }

    fn tell(&mut self, event: Event) {
        assert!(self.events.len() < EVENTS_MAX, "every input is followed by a drain");
        self.events.push_back(event);
    }

    /// Throws anew for the small wait that keeps participants apart.
    fn draw_jitter(&mut self) {
        self.jitter = self.dice.below(self.timing.retry_period() / JITTER_DIVISOR);
    }
}

/// A tenth of a retry period keeps two candidates from writing at once, most of the time, and delays nobody by much.
const JITTER_DIVISOR: u32 = 10;
