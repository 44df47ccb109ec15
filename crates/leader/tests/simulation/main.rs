//! Whole participants of both elections on a seeded network in virtual time: at most one leader after every step, and one
//! again soon after everything is healed.
//!
//! `VIPD_SIM_SEEDS=100000` runs so many schedules; `VIPD_SIM_SEED=17` runs the one, and a failed one prints what happened
//! in it.

use self::world::{Party, Violation, World};

mod lease;
mod pair;
mod peers;
mod store;
mod world;

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

/// Fails with the last lines of what happened in a schedule.
fn explain(transcript: Option<Vec<String>>, seed: u64, Violation(what): &Violation) -> String {
    let lines = transcript.expect("asked for");
    let last = lines.len().saturating_sub(160);
    format!("{what}\nVIPD_SIM_SEED={seed} shows it again; the last steps were\n{}", lines[last..].join("\n"))
}

/// After healing somebody leads within so many leases, and so many later all agree about whom to follow; gives how long the first
/// took, in thousandths of a lease.
fn await_agreement<P: Party>(
    world: &mut World<P>,
    within: u64,
    calm: u64,
    all_agree: impl Fn(&World<P>) -> Result<(), Violation>,
) -> Result<u64, Violation> {
    let lease = world.scale.lease;
    let healed = world.now;
    let bound = healed + within * lease;
    while world.leader().is_none() {
        if world.now >= bound {
            return Err(Violation(format!("nobody leads {within} leases after healing")));
        }
        world.run(world.now + lease / 64, |_| {})?;
    }
    let recovery = (world.now - healed) * 1000 / lease;
    world.run(bound + calm * lease, |_| {})?;
    // A hand-over may be under way just now, and its owner may be late.
    let last = world.now + within * lease;
    while let Err(violation) = all_agree(world) {
        if world.now >= last {
            return Err(violation);
        }
        world.run(world.now + lease / 16, |_| {})?;
    }
    Ok(recovery)
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {text:?}")))
}

/// Runs as many schedules as are asked for, or the one.
fn schedules(default: u64, one: impl Fn(u64) -> Result<Seen, String>) -> Vec<Seen> {
    let seeds = match number("VIPD_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("VIPD_SIM_SEEDS").unwrap_or(default),
    };
    seeds.map(|seed| one(seed).unwrap_or_else(|explanation| panic!("{explanation}"))).collect()
}

#[expect(clippy::print_stdout, reason = "the figures of a simulation are its result")]
fn report(who: &str, seen: &[Seen], bound: u64) {
    let mut recovery: Vec<u64> = seen.iter().map(|seen| seen.recovery).collect();
    recovery.sort_unstable();
    let at = |percent: usize| recovery[(recovery.len() - 1) * percent / 100] as f64 / 1000.0;
    println!(
        "{} schedules of {who}; a leader after healing: half within {}, 99 % within {}, all within {} leases (bound: {bound})",
        seen.len(),
        at(50),
        at(99),
        at(100)
    );
    let leaders: u64 = seen.iter().map(|seen| seen.leaders).sum();
    let alone = seen.len() == 1;
    assert!(alone || leaders > seen.len() as u64, "a schedule in which nobody ever leads proves nothing");
}
