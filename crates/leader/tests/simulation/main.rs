//! Whole members on a seeded network in virtual time: at most one leader after every step, and one again soon after
//! everything is healed.
//!
//! `VIPD_SIM_SEEDS=100000` runs so many schedules; `VIPD_SIM_SEED=17` runs the one and prints what happened in it.

use std::time::Duration;

use fastrand::Rng;
use leader::{Leadership, Timing};

use self::world::{Nanos, Violation, What, World, nanos};

mod world;

/// As many as take some seconds.
const SCHEDULES: u64 = 3_000;

/// Things go wrong for so many leases, and then all is well for so many.
const CHAOS_LEASES: u64 = 14;
const HEALED_LEASES: u64 = 8;

/// After healing, somebody leads within so many leases: a restarted voter's abstention (1.2), the wait of members that
/// are all ineligible (1), a term lost to a split vote and its hand-over to a better member, on slow clocks.
const LEADER_WITHIN_LEASES: u64 = 5;

/// What a schedule showed.
#[derive(Default)]
struct Seen {
    /// From healing to the first leader, in thousandths of a lease.
    recovery: u64,
    /// How often somebody led when the next thing went wrong.
    leaders: u64,
}

/// Names the schedule if a machine's own assertion ends it.
struct Running(u64);

#[expect(clippy::print_stderr, reason = "the one line that a reader of a failed test needs")]
impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("VIPD_SIM_SEED={} shows it again", self.0);
        }
    }
}

fn timing(rng: &mut Rng) -> Timing {
    let heartbeat = Duration::from_millis(rng.u64(4..=40));
    Timing::new(heartbeat, heartbeat * rng.u32(30..=50) / 10).expect("at least three heartbeats")
}

fn schedule(seed: u64, transcript: bool) -> (World, Result<Seen, Violation>) {
    let _running = Running(seed);
    let mut rng = Rng::with_seed(seed);
    let nodes = *rng.choice(&[1, 3, 3, 3, 3, 5]).expect("not empty");
    let mut world = World::new(rng.u64(..), nodes, timing(&mut rng), transcript);
    let outcome = live_through(&mut world, &mut rng);
    (world, outcome)
}

fn live_through(world: &mut World, rng: &mut Rng) -> Result<Seen, Violation> {
    let lease = nanos(world.timing.lease());
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
        go_wrong(world, rng);
    })?;

    world.heal();
    let healed = world.now;
    let bound = healed + LEADER_WITHIN_LEASES * lease;
    while world.leader().is_none() {
        if world.now >= bound {
            return Err(Violation(format!("nobody leads {LEADER_WITHIN_LEASES} leases after healing")));
        }
        world.run(world.now + lease / 64, |_| {})?;
    }
    seen.recovery = (world.now - healed) * 1000 / lease;
    world.run(bound + HEALED_LEASES * lease, |_| {})?;
    // A hand-over to a better member may be under way just now, and its owner may be late.
    let last = world.now + LEADER_WITHIN_LEASES * lease;
    while let Err(violation) = all_agree(world) {
        if world.now >= last {
            return Err(violation);
        }
        world.run(world.now + lease / 16, |_| {})?;
    }
    Ok(seen)
}

/// Well after healing one leads, and all the others know whom to follow.
fn all_agree(world: &World) -> Result<(), Violation> {
    let leader = world.leader().ok_or_else(|| Violation("nobody leads in the end".to_owned()))?;
    for n in (0..world.nodes.len()).filter(|n| *n != leader) {
        let member =
            world.member(n).ok_or_else(|| Violation(format!("{} isn't up in the end", world.name(n))))?;
        let follows = Leadership::Follower { leader: Some(world.name(leader).clone()) };
        if member.election.leadership(world.local_now(n)) != follows {
            return Err(Violation(format!(
                "{} doesn't follow {} in the end",
                world.name(n),
                world.name(leader)
            )));
        }
    }
    Ok(())
}

/// One more thing goes wrong, or is mended.
fn go_wrong(world: &mut World, rng: &mut Rng) {
    let nodes = world.nodes.len();
    let n = match world.leader() {
        // Most interesting things happen to leaders.
        Some(leader) if rng.bool() => leader,
        Some(_) | None => rng.usize(0..nodes),
    };
    let lease = nanos(world.timing.lease());
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
            world.note(|world| format!("{} is cut off", world.name(n)));
        }
        6 | 7 => {
            let other = rng.usize(0..nodes);
            world.network.blocked[n][other] = true;
            world.note(|world| format!("{} ✗ {}", world.name(n), world.name(other)));
        }
        8..=10 => {
            world.network.blocked.iter_mut().for_each(|row| row.fill(false));
            world.note(|_| "the network is whole".to_owned());
        }
        11 => set_quality(world, rng, lease),
        12 | 13 => world.step_down(n),
        14 => world.stop(n),
        15 | 16 => world.set_eligible(n, rng.bool()),
        _ => (0..nodes).for_each(|n| world.set_eligible(n, rng.bool())),
    }
}

fn set_quality(world: &mut World, rng: &mut Rng, lease: Nanos) {
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

/// Runs a schedule again with a transcript, and fails with its last lines.
fn explain(seed: u64, Violation(what): &Violation) -> ! {
    let (world, _) = schedule(seed, true);
    let lines = world.transcript.expect("asked for");
    let last = lines.len().saturating_sub(120);
    panic!("{what}\nVIPD_SIM_SEED={seed} shows it again; the last steps were\n{}", lines[last..].join("\n"));
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {text:?}")))
}

#[test]
fn at_most_one_leads_at_any_time_and_one_again_after_healing() {
    if let Some(seed) = number("VIPD_SIM_SEED") {
        let (world, outcome) = schedule(seed, true);
        println!("{}", world.transcript.expect("asked for").join("\n"));
        outcome.map(|_| ()).map_err(|violation| violation.0).expect("the schedule is survived");
        return;
    }
    let schedules = number("VIPD_SIM_SEEDS").unwrap_or(SCHEDULES);
    let (mut recovery, mut leaders) = (Vec::new(), 0);
    for seed in 0..schedules {
        match schedule(seed, false).1 {
            Ok(seen) => {
                recovery.push(seen.recovery);
                leaders += seen.leaders;
            }
            Err(violation) => explain(seed, &violation),
        }
    }
    recovery.sort_unstable();
    let at = |percent: usize| recovery[(recovery.len() - 1) * percent / 100] as f64 / 1000.0;
    println!(
        "{schedules} schedules; a leader after healing: half within {}, 99 % within {}, all within {} leases (bound: {LEADER_WITHIN_LEASES})",
        at(50),
        at(99),
        at(100)
    );
    assert!(leaders > schedules, "a schedule in which nobody ever leads proves nothing");
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
        let mut world = World::with(rng.u64(..), nodes, timing, false, |config| {
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
