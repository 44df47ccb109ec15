//! A storm: faults in a row, drawn from a seed, each judged by what a client and an onlooker saw.
//!
//! The seed decides what is done to whom, for how long and after which pause. What comes of it is the kernel's and the
//! machine's doing as well: the same seed is the same storm, not the same figures.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;
use tokio::time::Instant;

use crate::demo::{Console, readable};
use crate::fault::{Fault, Observation};
use crate::lab::Lab;
use crate::network::NODES;
use crate::system::{Pace, System};

mod promise;

use promise::{answered_within, owned_within};

/// The first owner must be there by then, real apiservers included.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// Between two faults, all must be well for this long: two owners that follow each other show in it.
const CALM: Duration = Duration::from_millis(500);
/// How long the calm after a fault may take. A machine that is busy makes it long, a system that is stuck endless.
const PATIENCE: Duration = Duration::from_secs(60);
/// Among peers, a fault lasts from the one to the other, short ones as often as long ones; see [`lasts`].
const LASTS: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(5)];
/// The longest pause before one, beyond the calm: longer than any timer of an election.
const PAUSE_MAX: Duration = Duration::from_millis(300);

/// One fault of a storm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blow {
    /// What is done.
    pub fault: Fault,
    /// To whom: the node that is so many places after the owner.
    pub victim: usize,
    /// How long it lasts.
    pub lasts: Duration,
    /// How long nothing happens before.
    pub pause: Duration,
}

/// A storm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What it was drawn from.
    pub seed: u64,
    /// The faults in their order.
    pub blows: Vec<Blow>,
}

impl Plan {
    /// Draws a storm of so many faults for a system from a seed; of all there are but a starved machine and a command, if nothing else is
    /// said, and without etcd's where there is none.
    pub fn new(system: System, seed: u64, faults: usize, scenarios: Option<Vec<Fault>>) -> Self {
        let suits = |fault: &Fault| {
            // No system is to survive the one, and the other is no fault: a vipd may refuse it.
            !matches!(fault, Fault::Starved | Fault::StepDown)
                && (*fault != Fault::EtcdKilled || system.lease().is_some())
        };
        let scenarios = scenarios.unwrap_or_else(|| Fault::ALL.into_iter().filter(suits).collect());
        let mut dice = fastrand::Rng::with_seed(seed);
        let blows = (0..faults).filter_map(|_| {
            let fault = *dice.choice(&scenarios)?;
            Some(blow(&mut dice, fault, lasts(system)))
        });
        Self { seed, blows: blows.collect() }
    }
}

/// How long a fault lasts at least and at most: where a Lease decides, more of them than among peers reach its end.
fn lasts(system: System) -> [Duration; 2] {
    let [shortest, longest] = LASTS;
    system
        .lease()
        .map_or(LASTS, |pace| [shortest.max(pace.retry_period() / 5), longest.max(3 * pace.lease_duration())])
}

fn blow(dice: &mut fastrand::Rng, fault: Fault, lasts: [Duration; 2]) -> Blow {
    // The owner twice as often as both others together; what only an owner has can be taken from it alone.
    let victim = if matches!(fault, Fault::AddressDeleted | Fault::StepDown) {
        0
    } else {
        [0, 0, 0, 0, 1, 2][dice.usize(..6)]
    };
    let [shortest, longest] = lasts.map(|lasts| lasts.as_secs_f64());
    let lasts = Duration::from_secs_f64(shortest * (longest / shortest).powf(dice.f64()));
    Blow { fault, victim, lasts, pause: PAUSE_MAX.mul_f64(dice.f64()) }
}

/// What came of one fault.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What was done.
    pub blow: Blow,
    /// To whom.
    pub node: usize,
    /// What was seen from the fault until all was well again.
    pub seen: Observation,
    /// Whether it was well again.
    pub recovered: bool,
    /// How long nobody may have answered for the address, where that is judged.
    pub owned_within: Option<Duration>,
}

impl Outcome {
    /// Whether never two nodes answered, no two held the address where one could let go, one answered again in time, and all was well
    /// again.
    pub fn passed(&self) -> bool {
        self.recovered
            && self.is_owned_in_time()
            && self.seen.answered_at_once <= 1
            && self.seen.longest_overlap() <= self.blow.fault.overlap_allowed()
    }

    fn is_owned_in_time(&self) -> bool {
        self.owned_within.is_none_or(|within| self.seen.unanswered <= within)
    }
}

/// Runs a storm over a system and tells of each fault; true if all passed.
///
/// # Errors
/// If the lab cannot be brought up or a fault cannot be made.
pub async fn run(lab: &mut Lab, system: System, plan: &Plan, json: Option<&Path>) -> Result<bool> {
    let console = Console;
    console.line(format!("{system}: {} faults from the seed {}", plan.blows.len(), plan.seed));
    lab.start_backends().await?;
    lab.start_system(system)?;
    lab.await_owner(START_PATIENCE, |_| true).await?;
    lab.set_probing(true).await?;
    let mut outcomes = Vec::new();
    let mut from = Instant::now();
    for (number, blow) in (1..).zip(&plan.blows) {
        let outcome = strike(lab, system, *blow, &mut from)
            .await
            .with_context(|| format!("fault {number} ({})", blow.fault))?;
        console.line(format!("{number:>4}  {}", line(&outcome)));
        outcomes.push(outcome);
        if let Some(path) = json {
            let rows: Vec<_> = outcomes.iter().map(row).collect();
            std::fs::write(path, serde_json::to_string_pretty(&rows)? + "\n")
                .with_context(|| format!("failed to write {}", path.display()))?;
        }
    }
    console.line(format!("\n{}", table(system, &outcomes)));
    let failed = outcomes.iter().filter(|outcome| !outcome.passed()).count();
    console.line(if failed == 0 {
        format!("passed: {} faults, never two nodes that answered, always one again", outcomes.len())
    } else {
        format!("FAILED: {failed} of {} faults; once more with --seed {}", outcomes.len(), plan.seed)
    });
    Ok(failed == 0)
}

/// Lets one fault happen, undoes it, and waits until all is well. What is seen of it begins where that of the one before
/// ended, so that nothing is left out.
async fn strike(lab: &mut Lab, system: System, blow: Blow, from: &mut Instant) -> Result<Outcome> {
    if system.lease().is_some() {
        // A member of etcd that is not back when the next one is taken would leave no majority.
        for place in 0..NODES.len() {
            lab.backend_ready(place).await?;
        }
    }
    let calm = system.lease().map_or(CALM, Pace::retry_period).max(CALM);
    let owner = lab.calm(calm, PATIENCE).await?;
    let node = (owner + blow.victim) % NODES.len();
    // A fault has a time to begin and one to end, and nothing to wait for.
    tokio::time::sleep(blow.pause).await;
    lab.inflict(blow.fault, node).await?;
    tokio::time::sleep(blow.lasts).await;
    lab.undo(blow.fault, node).await?;
    let recovered = lab.calm(CALM, PATIENCE).await.is_ok();
    let seen = lab.observe(std::mem::replace(from, Instant::now()));
    Ok(Outcome { blow, node, seen, recovered, owned_within: owned_within(system, blow.fault) })
}

fn line(outcome: &Outcome) -> String {
    let Outcome { blow, node, seen, .. } = outcome;
    format!(
        "{:<17} {} {} for {:>8}: silence {:>8}, nobody {:>8}, {} moves, two addresses {:>8}, {} answered at once{}",
        blow.fault.name(),
        NODES[*node],
        if blow.victim == 0 { "(owner)" } else { "       " },
        readable(blow.lasts),
        readable(seen.service.silence),
        readable(seen.unanswered),
        seen.moves.len(),
        readable(seen.longest_overlap()),
        seen.answered_at_once,
        if outcome.passed() { "" } else { "  FAILED" }
    )
}

/// A line for each kind of fault.
fn table(system: System, outcomes: &[Outcome]) -> String {
    let mut kinds: BTreeMap<Fault, Vec<&Outcome>> = BTreeMap::new();
    for outcome in outcomes {
        kinds.entry(outcome.blow.fault).or_default().push(outcome);
    }
    let mut text = format!(
        "{:<17} {:>6} {:>15} {:>10} {:>14} {:>8} {:>12} {:>11}\n",
        "fault",
        "times",
        "silence: median",
        "worst",
        "nobody: worst",
        "promised",
        "beyond that",
        "two answers"
    );
    for (fault, outcomes) in kinds {
        let mut silences: Vec<Duration> = outcomes.iter().map(|one| one.seen.service.silence).collect();
        silences.sort_unstable();
        let nobody = outcomes.iter().map(|one| one.seen.unanswered).max().unwrap_or_default();
        // By Lease it is an owner that is promised, among peers an answer.
        let (promised, beyond) = match owned_within(system, fault) {
            Some(within) => (Some(within), outcomes.iter().filter(|one| !one.is_owned_in_time()).count()),
            None => {
                let within = answered_within(system, fault);
                (
                    within,
                    silences.iter().filter(|silence| within.is_some_and(|within| **silence > within)).count(),
                )
            }
        };
        let double = outcomes.iter().filter(|one| one.seen.answered_at_once > 1).count();
        text += &format!(
            "{:<17} {:>6} {:>15} {:>10} {:>14} {:>8} {:>12} {:>11}\n",
            fault.name(),
            outcomes.len(),
            readable(silences[silences.len() / 2]),
            readable(silences[silences.len() - 1]),
            readable(nobody),
            promised.map_or_else(|| "-".to_owned(), readable),
            promised.map_or_else(|| "-".to_owned(), |_| beyond.to_string()),
            double
        );
    }
    text
}

fn row(outcome: &Outcome) -> serde_json::Value {
    let Outcome { blow, node, seen, recovered, owned_within } = outcome;
    let milliseconds = |duration: Duration| duration.as_secs_f64() * 1000.0;
    json!({
        "fault": blow.fault.name(),
        "node": NODES[*node],
        "owner": blow.victim == 0,
        "lasts_ms": milliseconds(blow.lasts),
        "silence_ms": milliseconds(seen.service.silence),
        "failed": seen.service.failures(),
        "moves": seen.moves.len(),
        "two_addresses_ms": milliseconds(seen.longest_overlap()),
        "answered_at_once": seen.answered_at_once,
        "unanswered_ms": milliseconds(seen.unanswered),
        "owned_within_ms": owned_within.map(milliseconds),
        "recovered": recovered,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prober::Service;
    use crate::system::{Balancer, Timing};

    #[test]
    fn the_same_seed_is_the_same_storm() {
        let peers = System::Vipd(Timing::Default);
        let plan = Plan::new(peers, 7, 500, None);
        assert_eq!(plan, Plan::new(peers, 7, 500, None));
        assert_ne!(plan, Plan::new(peers, 8, 500, None));
        let kinds: std::collections::BTreeSet<_> = plan.blows.iter().map(|blow| blow.fault).collect();
        assert_eq!(kinds.len(), Fault::ALL.len() - 3, "all but a starved machine, a command and etcd's");
        assert!(plan.blows.iter().all(|blow| LASTS[0] <= blow.lasts && blow.lasts <= LASTS[1]));
        let few = Plan::new(peers, 7, 50, Some(vec![Fault::Sigstop]));
        assert!(few.blows.iter().all(|blow| blow.fault == Fault::Sigstop));
    }

    #[test]
    fn nobody_may_answer_for_longer_than_a_lease_promises() {
        let blow = Blow { fault: Fault::Sigkill, victim: 0, lasts: LASTS[0], pause: Duration::ZERO };
        let seen = |seconds| Observation {
            service: Service::default(),
            overlaps: Vec::new(),
            moves: Vec::new(),
            answered_at_once: 1,
            answered_overlap: Duration::ZERO,
            unanswered: Duration::from_secs(seconds),
            holders: [0].into(),
        };
        let passed = |system, seconds| {
            let owned_within = owned_within(system, blow.fault);
            Outcome { blow, node: 0, seen: seen(seconds), recovered: true, owned_within }.passed()
        };
        let lease = System::VipdLease(Pace::Two, Balancer::Off);
        assert!(passed(lease, 6) && !passed(lease, 7));
        assert!(passed(System::Vipd(Timing::Default), 7), "how fast peers are is told, not judged");
    }

    #[test]
    fn where_a_lease_decides_etcd_is_struck_too_and_faults_outlast_it() {
        let slow = System::VipdLease(Pace::Fifteen, Balancer::Off);
        let plan = Plan::new(slow, 7, 500, None);
        assert!(plan.blows.iter().any(|blow| blow.fault == Fault::EtcdKilled));
        let longest = plan.blows.iter().map(|blow| blow.lasts).max().unwrap();
        assert!(longest > Pace::Fifteen.lease_duration(), "{longest:?}");
    }
}
