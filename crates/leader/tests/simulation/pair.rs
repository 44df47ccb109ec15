//! Two members and what breaks the tie between them, each at a cable of its own: at most one leads whatever is cut, except where
//! nothing passes between the two and both see the tie-break.

use std::time::{Duration, Instant};

use fastrand::Rng;
use leader::{
    Timing,
    member::{Config, Member},
    quorum::{self, TieBreak},
};

use super::{Running, Seen, await_agreement, explain, peers, report, schedules};
use crate::world::{Nanos, Party, Scale, Sent, Service, Sight, Violation, What, World, nanos};

const SCHEDULES: u64 = 3_000;
const CHAOS_LEASES: u64 = 30;
const HEALED_LEASES: u64 = 8;
/// As among three; and where both have lost sight of each other in between, one of them lets go first.
const LEADER_WITHIN_LEASES: u64 = 6;

/// One of the two.
struct Half(Member);

/// It answers for itself, and to nothing else.
#[derive(Debug)]
struct Gateway;

impl Service<Vec<u8>> for Gateway {
    fn places(&self) -> usize {
        1
    }

    fn deliver(&mut self, at: usize, _: usize, _: Vec<u8>, _: &mut Rng) -> Vec<Sent<Vec<u8>>> {
        panic!("nobody sends a message to {at}")
    }

    fn wake(&mut self, at: usize, _: usize, _: Vec<u8>, _: &mut Rng) -> Vec<Sent<Vec<u8>>> {
        panic!("{at} sends nothing to itself")
    }
}

impl Party for Half {
    type Setup = Config;
    type Parcel = Vec<u8>;
    type Service = Gateway;

    fn start(setup: &Config, incarnation: u64, seed: u64, now: Instant) -> Self {
        Self(<Member as Party>::start(setup, incarnation, seed, now))
    }

    fn take(&mut self, from: usize, parcel: Vec<u8>, now: Instant) {
        self.0.take(from, parcel, now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.0.handle_timeout(now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        Party::poll_timeout(&self.0)
    }

    fn poll_parcel(&mut self, now: Instant) -> Option<(usize, Vec<u8>)> {
        self.0.poll_parcel(now)
    }

    fn poll_event(&mut self) -> Option<String> {
        self.0.poll_event()
    }

    fn lease_end(&self, now: Instant) -> Option<Instant> {
        self.0.lease_end(now)
    }

    fn set_eligible(&mut self, eligible: bool, now: Instant) {
        self.0.set_eligible(eligible, now);
    }

    fn find_segment_free(&mut self, now: Instant) {
        self.0.find_segment_free(now);
    }

    fn confirm_standby(&mut self, now: Instant) {
        self.0.confirm_standby(now);
    }

    fn step_down(&mut self, to: Option<usize>, now: Instant) {
        self.0.step_down(to, now);
    }

    fn stop(&mut self, now: Instant) {
        self.0.stop(now);
    }

    fn has_left(&self, now: Instant) -> bool {
        self.0.has_left(now)
    }

    fn describe(parcel: &Vec<u8>) -> String {
        <Member as Party>::describe(parcel)
    }

    fn looks(&self, now: Instant) -> Option<Duration> {
        self.0.election.arbitration(now).looks
    }

    fn see(&mut self, Sight { asked, answered, owned, contested }: Sight, now: Instant) {
        self.0.election.handle_sight(quorum::Sight { asked, answered, owned, contested }, now);
    }
}

/// Where the tie-break is on the network.
const TIE_BREAK: usize = 2;

fn world(seed: u64, transcript: bool, change: impl Fn(&mut quorum::Config)) -> World<Half> {
    let mut rng = Rng::with_seed(seed);
    let heartbeat = Duration::from_millis(rng.u64(20..=60));
    let timing =
        Timing::new(heartbeat, heartbeat * rng.u32(30..=50) / 10).expect("at least three heartbeats");
    let common =
        peers::Common { nodes: 2, timing, signed: rng.u8(0..8) == 0, preempt: rng.bool(), witness: None };
    let mut configs: Vec<Config> = (0..2).map(|n| peers::config(&mut rng, n, &common)).collect();
    for config in &mut configs {
        config.quorum.tie_break = Some(TieBreak::named("gateway"));
        change(&mut config.quorum);
    }
    let lease = nanos(timing.lease());
    let scale =
        Scale { lease, timer_grain: nanos(heartbeat) / 8, rates: (950_000, 1_050_000), delay: lease / 200 };
    World::new(rng, configs, Gateway, scale, transcript)
}

/// What is cut; one thing at a time, each for as long as it takes to come of it what may.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// The cable of a node, or of the tie-break.
    Cable(usize),
    /// What one of these sends, or what it gets.
    Outgoing(usize),
    Incoming(usize),
    /// The one's frames don't get to the other.
    OneWay(usize, usize),
    /// Neither's messages get to the other; who has an address is still told.
    Filtered,
    FilteredOneWay(usize, usize),
    /// Nothing at all passes between the two: the one cut that may have two owners.
    Between,
}

impl Cut {
    fn draw(rng: &mut Rng) -> Self {
        let (end, node) = (rng.usize(0..=TIE_BREAK), rng.usize(0..2));
        match rng.u8(0..6) {
            0 => Self::Cable(end),
            1 => Self::Outgoing(end),
            2 => Self::Incoming(end),
            3 => Self::OneWay(node, 1 - node),
            4 => Self::Filtered,
            _ => Self::FilteredOneWay(node, 1 - node),
        }
    }

    fn make(self, world: &mut World<Half>) {
        let ends = 0..=TIE_BREAK;
        match self {
            Self::Cable(end) => {
                Self::Outgoing(end).make(world);
                Self::Incoming(end).make(world);
            }
            Self::Outgoing(end) => ends.for_each(|other| world.network.blocked[end][other] = true),
            Self::Incoming(end) => ends.for_each(|other| world.network.blocked[other][end] = true),
            Self::OneWay(from, to) => world.network.blocked[from][to] = true,
            Self::Filtered => (0..2).for_each(|n| world.network.filtered[n][1 - n] = true),
            Self::FilteredOneWay(from, to) => world.network.filtered[from][to] = true,
            Self::Between => (0..2).for_each(|n| world.network.blocked[n][1 - n] = true),
        }
        world.note(|_| format!("cut: {self:?}"));
    }
}

fn mend(world: &mut World<Half>) {
    world.network.blocked.iter_mut().for_each(|row| row.fill(false));
    world.network.filtered.iter_mut().for_each(|row| row.fill(false));
    world.note(|_| "the network is whole".to_owned());
}

fn schedule(seed: u64, transcript: bool) -> (World<Half>, Result<Seen, Violation>) {
    let _running = Running(seed);
    let mut rng = Rng::with_seed(seed);
    let mut world = world(rng.u64(..), transcript, |_| {});
    let outcome = live_through(&mut world, &mut rng);
    (world, outcome)
}

fn live_through(world: &mut World<Half>, rng: &mut Rng) -> Result<Seen, Violation> {
    let lease = world.scale.lease;
    // They don't begin in the same instant out of each other's hearing; see the documentation.
    world.start(0);
    world.schedule(rng.u64(0..4 * lease), What::Start(1));
    let chaos_end = CHAOS_LEASES * lease;
    let mut at = 3 * lease;
    while at < chaos_end {
        world.schedule(at, What::Fault);
        at += rng.u64(lease / 4..lease * 4);
    }
    // Messages that are lost or late are another matter than a network that carries them one way only: both together are two faults.
    let lossy = rng.bool();
    let mut seen = Seen::default();
    world.run(chaos_end, |world| {
        seen.leaders += u64::from(world.leader().is_some());
        go_wrong(world, rng, lossy);
    })?;
    world.heal();
    seen.recovery = await_agreement(world, LEADER_WITHIN_LEASES, HEALED_LEASES, all_agree)?;
    Ok(seen)
}

fn go_wrong(world: &mut World<Half>, rng: &mut Rng, lossy: bool) {
    let lease = world.scale.lease;
    let n = match world.leader() {
        Some(leader) if rng.bool() => leader,
        Some(_) | None => rng.usize(0..2),
    };
    match rng.u8(0..14) {
        0..=4 if !lossy => {
            mend(world);
            Cut::draw(rng).make(world);
        }
        0..=4 => {
            world.network.loss = *rng.choice(&[0.0, 0.05, 0.3]).expect("not empty");
            world.network.duplication = *rng.choice(&[0.0, 0.1, 0.5]).expect("not empty");
            world.network.rare_delay = *rng.choice(&[lease / 50, lease / 2, 3 * lease]).expect("not empty");
        }
        5 | 6 => mend(world),
        7 | 8 => {
            world.crash(n);
            world.schedule(rng.u64(0..6 * lease), What::Start(n));
        }
        9 | 10 => world.pause(n, rng.u64(lease / 8..3 * lease)),
        11 => world.step_down(n, rng.bool().then(|| rng.usize(0..2))),
        12 => world.stop(n),
        _ => world.set_eligible(n, rng.bool()),
    }
}

fn all_agree(world: &World<Half>) -> Result<(), Violation> {
    let leader = world.leader().ok_or_else(|| Violation("nobody leads in the end".to_owned()))?;
    let other = world.party(1 - leader).ok_or_else(|| Violation("one isn't up in the end".to_owned()))?;
    let other = other.0.election.leadership(world.local_now(1 - leader));
    if let leader::Leadership::Follower { leader: Some(_) } = other {
        return Ok(());
    }
    Err(Violation(format!("the other says {other:?}")))
}

#[test]
fn of_two_at_most_one_leads_whatever_is_cut() {
    let seen = schedules(SCHEDULES, |seed| {
        let (_, outcome) = schedule(seed, false);
        outcome.map_err(|violation| explain(schedule(seed, true).0.transcript, seed, &violation))
    });
    report("two with a tie-break", &seen, LEADER_WITHIN_LEASES);
}

/// What is promised of one fault that lasts: who leads while it does.
fn lasting(seed: u64, fault: impl Fn(&mut World<Half>, usize)) -> (usize, World<Half>) {
    let _running = Running(seed);
    let mut world = world(seed, false, |_| {});
    let lease = world.scale.lease;
    world.start(0);
    world.start(1);
    world.run(6 * lease, |_| {}).expect("all is well");
    let leader = world.leader().expect("one leads");
    fault(&mut world, leader);
    world.run(12 * lease, |_| {}).expect("at most one leads");
    (leader, world)
}

const LASTING: u64 = 300;

#[test]
fn who_leads_while_something_is_cut_or_dead() {
    type Fault = fn(&mut World<Half>, usize);
    let same: [Fault; 7] = [
        |world, leader| Cut::Cable(1 - leader).make(world),
        |world, leader| Cut::Outgoing(1 - leader).make(world),
        |world, leader| Cut::Incoming(1 - leader).make(world),
        |world, leader| Cut::OneWay(1 - leader, leader).make(world),
        |world, _| Cut::Cable(TIE_BREAK).make(world),
        |world, _| Cut::Filtered.make(world),
        |world, leader| world.crash(1 - leader),
    ];
    let other: [Fault; 6] = [
        |world, leader| Cut::Cable(leader).make(world),
        |world, leader| Cut::Outgoing(leader).make(world),
        |world, leader| Cut::Incoming(leader).make(world),
        |world, leader| Cut::OneWay(leader, 1 - leader).make(world),
        |world, leader| world.crash(leader),
        |world, leader| world.pause(leader, 20 * world.scale.lease),
    ];
    for seed in 0..LASTING {
        for (number, fault) in same.into_iter().enumerate() {
            let (leader, world) = lasting(seed, fault);
            assert_eq!(world.leader(), Some(leader), "the owner stays: {number}, seed {seed}");
        }
        for (number, fault) in other.into_iter().enumerate() {
            let (leader, world) = lasting(seed, fault);
            assert_eq!(world.leader(), Some(1 - leader), "the other takes over: {number}, seed {seed}");
        }
    }
}

#[test]
fn a_dead_tie_break_and_a_dead_owner_are_one_too_many() {
    for seed in 0..LASTING {
        let (_, world) = lasting(seed, |world, leader| {
            Cut::Cable(TIE_BREAK).make(world);
            world.crash(leader);
        });
        assert_eq!(world.leader(), None, "seed {seed}");
    }
}

/// The one cut with two leaders: it takes nothing from between them, and both see the tie-break. It ends with the cut.
#[test]
fn two_that_nothing_passes_between_and_that_both_see_the_tie_break_lead_until_they_hear_each_other() {
    for seed in 0..LASTING {
        let _running = Running(seed);
        let mut world = world(seed, false, |config| config.preempt = false);
        let lease = world.scale.lease;
        world.start(0);
        world.start(1);
        world.run(6 * lease, |_| {}).expect("all is well");
        let first = world.leader().expect("one leads");
        Cut::Between.make(&mut world);
        pass(&mut world, 6 * lease);
        assert!(leads(&world, 0) && leads(&world, 1), "nobody could tell the two apart, seed {seed}");

        mend(&mut world);
        // A heartbeat at most, and then the way of one message.
        pass(&mut world, lease / 2);
        assert!(!leads(&world, first), "the one with the lower term has let go, seed {seed}");
        assert!(leads(&world, 1 - first), "the other leads on, seed {seed}");
        // What acts upon its lease may be as late as the lease.
        pass(&mut world, lease);
        world.run(world.now + 6 * lease, |_| {}).expect("one is left");
        assert_eq!(world.leader(), Some(1 - first), "seed {seed}");
    }
}

/// Lets time pass, whoever leads.
fn pass(world: &mut World<Half>, time: Nanos) {
    let end = world.now + time;
    while world.now < end {
        let _two = world.run(end, |_| {});
    }
}

fn leads(world: &World<Half>, n: usize) -> bool {
    world.party(n).is_some_and(|half| half.lease_end(world.local_now(n)).is_some())
}
