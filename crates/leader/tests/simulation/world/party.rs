//! What the world must know of a participant in an election, and of what stands between them.

use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

use fastrand::Rng;

use super::Nanos;

/// One process that takes part in an election: a machine and as much of a driver as it needs.
pub(crate) trait Party: Sized {
    /// What it is set up with, and keeps from one start to the next.
    type Setup;
    /// What travels.
    type Parcel: Clone;
    /// What answers at the places behind those of the parties.
    type Service: Service<Self::Parcel>;

    fn start(setup: &Self::Setup, incarnation: u64, seed: u64, now: Instant) -> Self;
    fn take(&mut self, from: usize, parcel: Self::Parcel, now: Instant);
    fn handle_timeout(&mut self, now: Instant);
    fn poll_timeout(&self) -> Option<Instant>;
    fn poll_parcel(&mut self, now: Instant) -> Option<(usize, Self::Parcel)>;
    fn poll_event(&mut self) -> Option<String>;
    fn lease_end(&self, now: Instant) -> Option<Instant>;
    fn set_eligible(&mut self, eligible: bool, now: Instant);
    fn find_segment_free(&mut self, now: Instant);
    fn confirm_standby(&mut self, now: Instant);
    /// In favour of the party at this place, if one is named.
    fn step_down(&mut self, to: Option<usize>, now: Instant);
    fn stop(&mut self, now: Instant);
    fn has_left(&self, now: Instant) -> bool;
    fn describe(parcel: &Self::Parcel) -> String;

    /// At which interval it wants to look at the segment, if it does.
    fn looks(&self, _now: Instant) -> Option<Duration> {
        None
    }

    /// What a look has shown.
    fn see(&mut self, _sight: Sight, _now: Instant) {}
}

/// One look at the segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sight {
    pub(crate) asked: Instant,
    pub(crate) answered: bool,
    pub(crate) owned: bool,
    pub(crate) contested: bool,
}

/// Something that parties talk to, at places of its own on the network.
pub(crate) trait Service<P> {
    /// How many places it has.
    fn places(&self) -> usize;
    /// A parcel has arrived at one of them.
    fn deliver(&mut self, at: usize, from: usize, parcel: P, rng: &mut Rng) -> Vec<Sent<P>>;
    /// A parcel that it sent to itself is due.
    fn wake(&mut self, at: usize, from: usize, parcel: P, rng: &mut Rng) -> Vec<Sent<P>>;
}

/// What a service does next.
pub(crate) enum Sent<P> {
    /// It answers.
    ToParty { from: usize, to: usize, after: Nanos, parcel: P },
    /// It goes on later with what somebody sent.
    ToItself { at: usize, from: usize, after: Nanos, parcel: P },
}

/// For parties that only talk to each other.
#[derive(Debug, Default)]
pub(crate) struct Nothing;

impl<P: Debug> Service<P> for Nothing {
    fn places(&self) -> usize {
        0
    }

    fn deliver(&mut self, at: usize, _: usize, parcel: P, _: &mut Rng) -> Vec<Sent<P>> {
        panic!("nobody is at {at} to take {parcel:?}")
    }

    fn wake(&mut self, at: usize, _: usize, parcel: P, _: &mut Rng) -> Vec<Sent<P>> {
        panic!("nobody is at {at} to go on with {parcel:?}")
    }
}
