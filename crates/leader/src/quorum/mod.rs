//! Election among static peers by majority lease.
//!
//! [`Election`] is one member of it as a pure machine: messages and time in, messages and deadlines out. The story is
//! told at the [crate's root](crate); the promises it keeps are `tests/contract.rs`.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{
    Term,
    dice::Dice,
    message::{Body, Gossip, Message, Round, Version},
    node::{Incarnation, Instance, Process},
    timing::exclusion,
};

use self::{
    candidate::{Candidacy, Canvass},
    members::{Members, Votes},
    roster::{Peer, Roster},
    tie_break::Watch,
    voter::Voter,
};
pub use self::{
    config::{Config, ConfigError},
    event::{Cause, Event, Impediment, Loss, Segment, StepDownError, Transmit},
    tie_break::{Arbitration, Sight},
};
pub use crate::message::TieBreak;

mod ballot;
mod candidate;
mod config;
mod event;
mod handover;
mod members;
mod roster;
mod tie_break;
mod turn;
mod view;
mod voter;

/// A member is told as lost after so many leases of silence: decisions need one, log lines shouldn't flap.
const LOST_AFTER_LEASES: u32 = 3;

/// What one input may put into the queues: a round of requests, a release and an announcement to each of 14 others, or
/// as many events. More means that the driver doesn't drain.
const QUEUE_MAX: usize = 128;

/// One member of an election.
///
/// ```text
///                       its vote is free, and the wait of its rank is over
///        ┌──────────┐ ──────────────────────────────────────▶ ┌────────────┐
///        │ Following│                                         │ Canvassing │
///        └──────────┘ ◀────────────────────────────────────── └────────────┘
///          ▲  ▲    │     refused (until then), unanswered           │ a majority would grant
///          │  │    │                                                ▼
///          │  │    └───── named successor by a release ──────▶ ┌────────────┐
///          │  └────────────────────────────────────────────────│ Requesting │
///          │        refused, or no majority: all released      └────────────┘
///          │                                                        │ a majority granted a round
///          │       now ≥ until                                      ▼
///          ├──────────────────────────────────────────────────┌────────────┐ ◀─┐ a later round
///          │                                                  │  Leading   │ ──┘ was granted
///          │                                                  └────────────┘
///          │  confirmed: release, with the successor's name         │ stepping down, ineligible, preempted
///          │  now ≥ until: the lease lapses, nothing is released    ▼
///          └──────────────────────────────────────────────────┌─────────────┐
///                                                             │ HandingOver │
///                                                             └─────────────┘
/// ```
///
/// The voter in it is independent of this: it grants to whoever is first, itself included.
///
/// Feed it one input, then drain [`poll_transmit`](Self::poll_transmit) and [`poll_event`](Self::poll_event), and call
/// [`handle_timeout`](Self::handle_timeout) no later than [`poll_timeout`](Self::poll_timeout).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Election {
    me: Process,
    members: Members,
    settings: Settings,
    voter: Voter,
    roster: Roster,
    /// Members that were told as heard and not yet as lost; for the log only.
    present: Votes,
    standing: Standing,
    /// The highest term that was seen anywhere.
    term: Term,
    /// The last question asked.
    round: Round,
    eligible: bool,
    /// Since when it has been eligible under a leader of lower priority.
    challenging_since: Option<Instant>,
    bootstrap: Bootstrap,
    /// What the segment shows, where it votes.
    watch: Option<Watch>,
    departure: Departure,
    releasing: Option<Releasing>,
    started: Instant,
    next_beat: Instant,
    /// Before this it doesn't stand, free or not.
    quiet_until: Instant,
    stand_at: Option<Instant>,
    /// Candidacies that failed in a row.
    failures: u32,
    jitter: Duration,
    dice: Dice,
    /// Members that were sent something since the last heartbeat.
    spoken_to: Votes,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
}

/// The part of the configuration that doesn't change and isn't the member set.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Settings {
    timing: crate::Timing,
    priority: u8,
    preempt: bool,
    preempt_delay: Duration,
    start_as_leader: bool,
    witness: bool,
    version: Version,
}

/// What a member is doing about its own lead.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Standing {
    Following,
    Canvassing(Canvass),
    Requesting { candidacy: Candidacy, give_up: Instant },
    Leading { candidacy: Candidacy, until: Instant, alone: bool },
    HandingOver { term: Term, until: Instant, successor: Option<usize> },
}

/// The right to lead alone before any other member was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Bootstrap {
    right: bool,
    segment_was_free: bool,
}

/// Whether this member wishes to lead.
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

/// A release that is repeated, as a datagram may be lost.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Releasing {
    term: Term,
    successor: Option<usize>,
    left: u8,
}

/// The reasons to wake.
#[derive(Clone, Copy, Debug)]
enum Timer {
    /// A heartbeat is due. Silence of others is noticed at this grain too.
    Beat,
    /// The vote is free and the wait of the rank is over.
    Stand,
    /// A canvass found no majority.
    CanvassEnd,
    /// A candidacy found no majority.
    GiveUp,
    /// The own lease ends.
    LeaseEnd,
    /// The other member will be missed.
    Look,
}

impl Timer {
    const ALL: [Self; 6] =
        [Self::Beat, Self::Stand, Self::CanvassEnd, Self::GiveUp, Self::LeaseEnd, Self::Look];
}

impl Election {
    /// A member in a new incarnation. It abstains from voting at first, unless it is the only member.
    ///
    /// # Errors
    ///
    /// Refuses a configuration that makes no election.
    pub fn new(
        config: &Config,
        version: &str,
        incarnation: Incarnation,
        seed: u64,
        now: Instant,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        let members = Members::new(config);
        let timing = config.timing;
        let alone = members.count() == 1;
        let mut election = Self {
            me: Process { node: config.me.clone(), incarnation },
            settings: Settings {
                timing,
                priority: config.priority,
                preempt: config.preempt,
                preempt_delay: config.preempt_delay,
                start_as_leader: config.start_as_leader,
                witness: config.witnesses.contains(&config.me),
                version: Version::new(version),
            },
            voter: Voter::abstaining_until((!alone).then(|| now + timing.exclusion())),
            roster: Roster::new(members.count(), timing.lease()),
            present: Votes::default(),
            standing: Standing::Following,
            term: Term(0),
            round: Round(0),
            eligible: true,
            challenging_since: None,
            bootstrap: Bootstrap { right: config.start_as_leader, segment_was_free: false },
            watch: config.tie_break.map(Watch::new),
            departure: Departure::Staying,
            releasing: None,
            started: now,
            next_beat: now,
            quiet_until: now,
            stand_at: None,
            failures: 0,
            jitter: Duration::ZERO,
            dice: Dice::seeded(seed),
            spoken_to: Votes::default(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            members,
        };
        election.draw_jitter();
        election.stand_at = election.plan(now);
        Ok(election)
    }

    /// Takes a message of a member that is known to be fresh and authentic.
    pub fn handle_message(&mut self, from: &Process, message: Message, now: Instant) {
        let Some(place) = self.members.place_of_other(&from.node) else { return };
        self.expire(now);
        self.hear(place, from, message.gossip, now);
        match message.body {
            Body::Alive => {}
            Body::Canvass { round } => self.answer_canvass(place, from, round, now),
            Body::Support { round } => self.take_support(place, round, now),
            Body::Request { term, round, released } => {
                self.answer_request(place, from, (term, round), released, now);
            }
            Body::Grant { term, round } => self.take_grant(place, term, round, now),
            Body::Refuse { ballot, objection } => self.take_refusal(place, ballot, objection, now),
            Body::Release { term, successor } => self.take_release(place, from, term, successor, now),
        }
        self.settle(now);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.expire(now);
        if self.next_beat <= now {
            self.beat(now);
        }
        self.settle(now);
    }

    /// Says whether this node is fit to lead. An unfit leader leads on as long as nobody fitter is there.
    pub fn set_eligible(&mut self, eligible: bool, now: Instant) {
        self.expire(now);
        if self.eligible != eligible {
            self.eligible = eligible;
            self.settle(now);
            self.announce(now);
        }
    }

    /// Says what a probe for the virtual address found. See [`Config::start_as_leader`].
    pub fn set_segment(&mut self, segment: Segment, now: Instant) {
        self.expire(now);
        match segment {
            Segment::Unknown => {}
            Segment::Free => self.bootstrap.segment_was_free = true,
            Segment::Occupied => {
                self.bootstrap.right = false;
                if let Standing::Leading { candidacy, alone: true, .. } = &self.standing {
                    let term = candidacy.term;
                    self.lose(term, Loss::Occupied, now);
                }
            }
        }
        self.settle(now);
    }

    /// A message to send. To be sent after the input that caused it, never before.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// A change that is worth a line in a log.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        Timer::ALL.into_iter().filter_map(|timer| self.deadline(timer)).min()
    }

    fn deadline(&self, timer: Timer) -> Option<Instant> {
        match (timer, &self.standing) {
            (Timer::Beat, _) => Some(self.next_beat),
            (Timer::Look, _) => self.look_at(),
            (Timer::Stand, Standing::Following) => self.stand_at,
            (Timer::CanvassEnd, Standing::Canvassing(canvass)) => Some(canvass.until),
            (Timer::GiveUp, Standing::Requesting { give_up, .. }) => Some(*give_up),
            (Timer::LeaseEnd, Standing::Leading { until, .. } | Standing::HandingOver { until, .. }) => {
                Some(*until)
            }
            (Timer::Stand | Timer::CanvassEnd | Timer::GiveUp | Timer::LeaseEnd, _) => None,
        }
    }

    fn send(&mut self, place: usize, body: Body, now: Instant) {
        assert!(self.transmits.len() < QUEUE_MAX, "every input is followed by a drain");
        self.spoken_to.insert(place);
        let message = Message { gossip: self.gossip(now), body };
        self.transmits.push_back(Transmit { to: self.members.name(place).clone(), message });
    }

    fn send_all(&mut self, body: &Body, now: Instant) {
        for place in self.members.others() {
            self.send(place, body.clone(), now);
        }
    }

    /// Tells everybody at once what otherwise the next heartbeat would tell.
    fn announce(&mut self, now: Instant) {
        self.send_all(&Body::Alive, now);
    }

    fn tell(&mut self, event: Event) {
        assert!(self.events.len() < QUEUE_MAX, "every input is followed by a drain");
        self.events.push_back(event);
    }

    /// Writes down what a message says of its sender, whatever else it is about.
    fn hear(&mut self, place: usize, from: &Process, gossip: Gossip, now: Instant) {
        self.term = self.term.max(gossip.term.min(Term::ADOPTED_MAX));
        // A predecessor of this process may have been configured like that peer, and have promised that much.
        self.voter.abstain_longer(self.started + exclusion(gossip.lease), now);
        if !gossip.abstaining && std::mem::take(&mut self.bootstrap.right) {
            // From here on a majority is needed. The newcomer has kept its vote for this node, so ask for it at once.
            self.next_beat = now;
        }
        self.note_word(&gossip, now);
        self.roster.hear(place, from, gossip, now);
        if !self.present.contains(place) {
            self.present.insert(place);
            self.tell(Event::PeerHeard(self.members.name(place).clone()));
        }
    }

    /// Ends what time has ended.
    fn expire(&mut self, now: Instant) {
        match &self.standing {
            Standing::Leading { candidacy, until, .. } if *until <= now => {
                let term = candidacy.term;
                self.lose(term, Loss::NoMajority, now);
            }
            Standing::HandingOver { term, until, .. } if *until <= now => {
                let term = *term;
                self.lose(term, Loss::Unconfirmed, now);
            }
            Standing::Requesting { give_up, .. } if *give_up <= now => self.give_up(now, now),
            Standing::Canvassing(canvass) if canvass.until <= now => {
                self.quiet_until = canvass.until;
                self.standing = Standing::Following;
                self.draw_jitter();
            }
            Standing::Following
            | Standing::Canvassing(_)
            | Standing::Requesting { .. }
            | Standing::Leading { .. }
            | Standing::HandingOver { .. } => {}
        }
        let lost: Vec<usize> = self
            .present_peers()
            .filter(|(_, peer)| self.lost_at(peer) <= now)
            .map(|(place, _)| place)
            .collect();
        for place in lost {
            self.present.remove(place);
            self.tell(Event::PeerLost(self.members.name(place).clone()));
        }
    }

    /// Stops leading without a release: whoever acted upon the lease may need its guard to let go.
    fn lose(&mut self, term: Term, loss: Loss, now: Instant) {
        self.standing = Standing::Following;
        self.quiet_until = now;
        self.draw_jitter();
        self.tell(Event::Lost { term, loss });
    }

    /// A heartbeat: the leader and candidates ask for another round, the others show that they live.
    fn beat(&mut self, now: Instant) {
        let heartbeat = self.settings.timing.heartbeat();
        // After a pause there is no use in catching up.
        self.next_beat =
            Some(self.next_beat + heartbeat).filter(|next| now < *next).unwrap_or(now + heartbeat);
        self.repeat_release(now);
        match self.standing {
            Standing::Leading { .. } | Standing::Requesting { .. } => self.start_round(now),
            Standing::Following | Standing::Canvassing(_) | Standing::HandingOver { .. } => {
                // Whoever got an answer to something since the last beat needs no other sign of life.
                for place in self.members.others() {
                    if !self.spoken_to.contains(place) {
                        self.send(place, Body::Alive, now);
                    }
                }
            }
        }
        self.spoken_to = Votes::default();
    }

    /// Takes the decisions that follow from the state after an input.
    fn settle(&mut self, now: Instant) {
        self.watch_segment(now);
        self.challenge(now);
        if let Standing::Leading { .. } = self.standing {
            self.yield_lead(now);
        }
        self.stand_at = self.plan(now);
        if self.standing == Standing::Following && self.stand_at.is_some_and(|at| at <= now) {
            self.canvass(now);
        }
    }

    fn present_peers(&self) -> impl Iterator<Item = (usize, &Peer)> {
        let present = self.members.others().filter(|place| self.present.contains(*place));
        present.filter_map(|place| Some((place, self.roster.peer(place)?)))
    }

    fn lost_at(&self, peer: &Peer) -> Instant {
        peer.heard + self.settings.timing.lease() * LOST_AFTER_LEASES
    }

    fn instance(&self, term: Term) -> Instance {
        Instance { holder: self.me.clone(), term }
    }
}
