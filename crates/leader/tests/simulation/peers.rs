//! Members of an election among static peers: what they are here, what goes wrong, and the tests.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration, time::Instant};

use fastrand::Rng;
use leader::{
    Leadership, NodeId, Timing,
    member::{Config, Member},
    peers::Key,
    quorum,
};

use super::{Running, Seen, await_agreement, explain, report, schedules};
use crate::world::{Nanos, Nothing, Party, Scale, Violation, What, World, nanos};

/// As many as take some seconds.
const SCHEDULES: u64 = 3_000;

/// Things go wrong for so many leases, and then all is well for so many.
const CHAOS_LEASES: u64 = 14;
const HEALED_LEASES: u64 = 8;

/// After healing, somebody leads within so many leases: a restarted voter's abstention (1.2), the wait of members that
/// are all ineligible (1), a term lost to a split vote and its hand-over to a better member, on slow clocks.
const LEADER_WITHIN_LEASES: u64 = 5;

impl Party for Member {
    type Setup = Config;
    type Parcel = Vec<u8>;
    type Service = Nothing;

    fn start(setup: &Config, incarnation: u64, seed: u64, now: Instant) -> Self {
        Self::new(setup, incarnation, seed, now).expect("the configuration is good")
    }

    fn take(&mut self, from: usize, parcel: Vec<u8>, now: Instant) {
        self.handle_datagram(address(from), &parcel, now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.election.handle_timeout(now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.election.poll_timeout()
    }

    fn poll_parcel(&mut self, now: Instant) -> Option<(usize, Vec<u8>)> {
        let mut bytes = Vec::with_capacity(192);
        let to = self.poll_datagram(now, &mut bytes)?;
        Some((usize::from(to.port()), bytes))
    }

    fn poll_event(&mut self) -> Option<String> {
        while self.poll_complaint().is_some() {}
        self.election.poll_event().map(|event| format!("{event:?}"))
    }

    fn lease_end(&self, now: Instant) -> Option<Instant> {
        self.election.lease_end(now)
    }

    fn set_eligible(&mut self, eligible: bool, now: Instant) {
        self.election.set_eligible(eligible, now);
    }

    fn find_segment_free(&mut self, now: Instant) {
        self.election.set_segment(quorum::Segment::Free, now);
    }

    fn confirm_standby(&mut self, now: Instant) {
        self.election.confirm_standby(now);
    }

    fn step_down(&mut self, to: Option<usize>, now: Instant) {
        // It may be no leader, or alone, or the one that is named; then it says so and nothing happens.
        let _outcome = self.election.step_down(to.map(name).as_ref(), now);
    }

    fn stop(&mut self, now: Instant) {
        self.election.stop(now);
    }

    fn has_left(&self, now: Instant) -> bool {
        self.election.has_left(now)
    }

    fn describe(parcel: &Vec<u8>) -> String {
        format!("({} bytes, type {})", parcel.len(), parcel[2])
    }
}

fn address(n: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], u16::try_from(n).expect("few nodes")))
}

fn name(n: usize) -> NodeId {
    NodeId::new(&format!("n{n}")).expect("a good name")
}

/// What all members of a world have in common.
pub(crate) struct Common {
    pub(crate) nodes: usize,
    pub(crate) timing: Timing,
    pub(crate) signed: bool,
    pub(crate) preempt: bool,
    pub(crate) witness: Option<usize>,
}

pub(crate) fn config(rng: &mut Rng, n: usize, common: &Common) -> Config {
    let Common { nodes, timing, signed, preempt, witness } = *common;
    let peers: BTreeMap<_, _> = (0..nodes).filter(|m| *m != n).map(|m| (name(m), address(m))).collect();
    Config {
        quorum: quorum::Config {
            me: name(n),
            members: (0..nodes).map(name).collect(),
            witnesses: witness.map(name).into_iter().collect(),
            timing,
            priority: rng.u8(99..=101),
            preempt,
            preempt_delay: timing.lease() * rng.u32(0..3),
            start_as_leader: false,
            tie_break: None,
        },
        listen: address(n),
        peers,
        subject: None,
        keys: if signed { vec![Key::new(1, &[7; 16]).expect("long enough")] } else { Vec::new() },
        version: String::new(),
    }
}

fn timing(rng: &mut Rng) -> Timing {
    let heartbeat = Duration::from_millis(rng.u64(4..=40));
    Timing::new(heartbeat, heartbeat * rng.u32(30..=50) / 10).expect("at least three heartbeats")
}

fn world(
    seed: u64,
    nodes: usize,
    timing: Timing,
    transcript: bool,
    change: impl Fn(&mut quorum::Config),
) -> World<Member> {
    let mut rng = Rng::with_seed(seed);
    let signed = rng.u8(0..8) == 0;
    let preempt = rng.bool();
    // Somewhat less fails where fewer can lead, and a witness has to be seen not to.
    let witness = (nodes > 2 && rng.u8(0..4) == 0).then(|| nodes - 1);
    let common = Common { nodes, timing, signed, preempt, witness };
    let mut configs: Vec<Config> = (0..nodes).map(|n| config(&mut rng, n, &common)).collect();
    configs.iter_mut().for_each(|config| change(&mut config.quorum));
    let lease = nanos(timing.lease());
    let scale = Scale {
        lease,
        timer_grain: nanos(timing.heartbeat()) / 8,
        // The rates span what separates the lease from the voter's exclusion, guard and all.
        rates: (920_000, 1_100_000),
        delay: lease / 200,
    };
    World::new(rng, configs, Nothing, scale, transcript)
}

fn schedule(seed: u64, transcript: bool) -> (World<Member>, Result<Seen, Violation>) {
    let _running = Running(seed);
    let mut rng = Rng::with_seed(seed);
    let nodes = *rng.choice(&[1, 3, 3, 3, 3, 5]).expect("not empty");
    let mut world = world(rng.u64(..), nodes, timing(&mut rng), transcript, |_| {});
    let outcome = live_through(&mut world, &mut rng);
    (world, outcome)
}

fn live_through(world: &mut World<Member>, rng: &mut Rng) -> Result<Seen, Violation> {
    let lease = world.scale.lease;
    let calm = rng.u8(0..4) == 0;
    for n in 0..world.nodes.len() {
        world.schedule(rng.u64(0..lease), What::Start(n));
    }
    let chaos_end = CHAOS_LEASES * lease;
    let mut at = 0;
    while at < chaos_end {
        at += rng.u64(lease / 16..lease * if calm { 6 } else { 2 });
        world.schedule(at, What::Fault);
    }
    let mut seen = Seen::default();
    world.run(chaos_end, |world| {
        seen.leaders += u64::from(world.leader().is_some());
        no_witness_leads(world);
        go_wrong(world, rng);
    })?;

    world.heal();
    seen.recovery = await_agreement(world, LEADER_WITHIN_LEASES, HEALED_LEASES, all_agree)?;
    Ok(seen)
}

/// Well after healing one leads that may, and all the others know whom to follow.
fn all_agree(world: &World<Member>) -> Result<(), Violation> {
    let leader = world.leader().ok_or_else(|| Violation("nobody leads in the end".to_owned()))?;
    no_witness_leads(world);
    for n in (0..world.nodes.len()).filter(|n| *n != leader) {
        let member = world.party(n).ok_or_else(|| Violation(format!("n{n} isn't up in the end")))?;
        let follows = Leadership::Follower { leader: Some(name(leader)) };
        if member.election.leadership(world.local_now(n)) != follows {
            return Err(Violation(format!("n{n} doesn't follow n{leader} in the end")));
        }
    }
    Ok(())
}

fn no_witness_leads(world: &World<Member>) {
    if let Some(n) = world.leader() {
        let gossip = world.party(n).map(|member| member.election.gossip(world.local_now(n)));
        assert!(gossip.is_some_and(|gossip| !gossip.witness), "n{n} leads, a witness");
    }
}

/// One more thing goes wrong, or is mended.
fn go_wrong(world: &mut World<Member>, rng: &mut Rng) {
    let nodes = world.nodes.len();
    let n = match world.leader() {
        // Most interesting things happen to leaders.
        Some(leader) if rng.bool() => leader,
        Some(_) | None => rng.usize(0..nodes),
    };
    let lease = world.scale.lease;
    match rng.u8(0..18) {
        0 | 1 => {
            world.crash(n);
            world.schedule(rng.u64(0..2 * lease), What::Start(n));
        }
        2..=4 => world.pause(n, rng.u64(lease / 8..3 * lease)),
        5 => {
            for other in 0..nodes {
                world.network.blocked[n][other] = true;
                world.network.blocked[other][n] = rng.bool();
            }
            world.note(|_| format!("n{n} is cut off"));
        }
        6 | 7 => {
            let other = rng.usize(0..nodes);
            world.network.blocked[n][other] = true;
            world.note(|_| format!("n{n} ✗ n{other}"));
        }
        8..=10 => {
            world.network.blocked.iter_mut().for_each(|row| row.fill(false));
            world.note(|_| "the network is whole".to_owned());
        }
        11 => set_quality(world, rng, lease),
        12 | 13 => world.step_down(n, rng.bool().then(|| rng.usize(0..nodes))),
        14 => world.stop(n),
        15 | 16 => world.set_eligible(n, rng.bool()),
        _ => (0..nodes).for_each(|n| world.set_eligible(n, rng.bool())),
    }
}

fn set_quality(world: &mut World<Member>, rng: &mut Rng, lease: Nanos) {
    world.network.loss = *rng.choice(&[0.0, 0.05, 0.3]).expect("not empty");
    world.network.duplication = *rng.choice(&[0.0, 0.1, 0.5]).expect("not empty");
    world.network.replay = *rng.choice(&[0.0, 0.1]).expect("not empty");
    world.network.delay = *rng.choice(&[lease / 200, lease / 20, lease / 4]).expect("not empty");
    world.network.rare_delay = *rng.choice(&[lease / 50, lease / 2, 3 * lease]).expect("not empty");
    world.note(|world| {
        let network = &world.network;
        format!("loss {}, duplication {}, delay {}", network.loss, network.duplication, network.delay)
    });
}

#[test]
fn at_most_one_leads_at_any_time_and_one_again_after_healing() {
    let seen = schedules(SCHEDULES, |seed| {
        let (_, outcome) = schedule(seed, false);
        outcome.map_err(|violation| explain(schedule(seed, true).0.transcript, seed, &violation))
    });
    report("members", &seen, LEADER_WITHIN_LEASES);
}

/// How many bootstraps are simulated.
const BOOTSTRAPS: u64 = 200;

/// The premise of leading alone holds here: the network loses nothing, and one starts before the others.
#[test]
fn the_one_that_starts_as_leader_leads_from_the_first_node_on_and_never_beside_another() {
    for seed in 0..BOOTSTRAPS {
        let _running = Running(seed);
        let mut rng = Rng::with_seed(seed);
        let timing = timing(&mut rng);
        let lease = nanos(timing.lease());
        let nodes = *rng.choice(&[2, 3]).expect("not empty");
        let mut world = world(rng.u64(..), nodes, timing, false, |config| {
            config.start_as_leader = config.me.as_str() == "n0";
            config.priority = 100;
        });
        world.start(0);
        world.find_segment_free(0);
        for n in 1..nodes {
            world.schedule(rng.u64(3 * lease..20 * lease), What::Start(n));
        }
        let mut outcome = world.run(3 * lease, |_| {});
        while outcome.is_ok() && world.now < 25 * lease {
            assert_eq!(world.leader(), Some(0), "the lead stays where it was when others join");
            outcome = world.run(world.now + lease / 16, |_| {});
        }
        outcome.and_then(|()| all_agree(&world)).map_err(|violation| violation.0).expect("one leads");
    }
}
