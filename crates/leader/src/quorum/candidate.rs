//! The half of a member that asks for votes: canvass, candidacy, and the rounds that renew a lease.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{
    Term,
    message::Round,
    node::{Instance, Process},
};

use super::members::Votes;

/// Rounds that may still be answered. Older ones are given up: with at least three heartbeats to a lease and a round
/// per heartbeat, four cover a lease of the usual ratio, and a grant that late is worth next to nothing.
const ROUNDS_MAX: usize = 4;

/// What a candidacy of this node has gathered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Candidacy {
    pub(super) term: Term,
    /// The instance that named this node its successor.
    pub(super) released: Option<Instance>,
    rounds: VecDeque<Attempt>,
    pub(super) refusals: Refusals,
}

/// One round of requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Attempt {
    round: Round,
    /// Before the first request left.
    started: Instant,
    votes: Votes,
}

impl Candidacy {
    /// A candidacy that has asked nobody yet.
    pub(super) fn new(term: Term, released: Option<Instance>) -> Self {
        Self { term, released, rounds: VecDeque::with_capacity(ROUNDS_MAX), refusals: Refusals::default() }
    }

    /// The candidacy as something that is granted and released.
    pub(super) fn instance(&self, me: &Process) -> Instance {
        Instance { holder: me.clone(), term: self.term }
    }

    /// Begins a round. Its lease is counted from now, before any request leaves.
    pub(super) fn begin(&mut self, round: Round, now: Instant) {
        if self.rounds.len() == ROUNDS_MAX {
            self.rounds.pop_front();
        }
        self.rounds.push_back(Attempt { round, started: now, votes: Votes::default() });
    }

    /// The last round that was begun then, or before.
    pub(super) fn round_at(&self, then: Instant) -> Option<Round> {
        self.rounds.iter().rev().find(|attempt| attempt.started <= then).map(|attempt| attempt.round)
    }

    /// Counts a voter for a round. Once there are enough, gives the end of the lease that this round is worth; it and
    /// all earlier rounds have nothing more to give.
    pub(super) fn count(
        &mut self,
        round: Round,
        voter: usize,
        lease: Duration,
        enough: impl Fn(Votes) -> bool,
    ) -> Option<Instant> {
        let at = self.rounds.iter().position(|attempt| attempt.round == round)?;
        let attempt = &mut self.rounds[at];
        attempt.votes.insert(voter);
        self.refusals.withdraw(voter);
        if !enough(attempt.votes) {
            return None;
        }
        let until = attempt.started + lease;
        self.rounds.drain(..=at);
        Some(until)
    }
}

/// A canvass: who would grant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Canvass {
    pub(super) round: Round,
    pub(super) support: Votes,
    pub(super) refusals: Refusals,
    /// When it is over, and perhaps repeated.
    pub(super) until: Instant,
}

/// Who refused, and when they may change their mind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Refusals(Vec<(usize, Instant)>);

impl Refusals {
    /// Notes that a voter refused; a later refusal of the same voter replaces it.
    pub(super) fn insert(&mut self, voter: usize, free_at: Instant) {
        self.withdraw(voter);
        self.0.push((voter, free_at));
    }

    /// Forgets a voter's refusal.
    pub(super) fn withdraw(&mut self, voter: usize) {
        self.0.retain(|(refuser, _)| *refuser != voter);
    }

    /// How many voters refused.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// When so many of those who refused will be free.
    pub(super) fn free_at(&self, wanted: usize) -> Option<Instant> {
        let mut free: Vec<Instant> = self.0.iter().map(|(_, free_at)| *free_at).collect();
        free.sort_unstable();
        free.get(wanted.checked_sub(1)?).copied()
    }
}
