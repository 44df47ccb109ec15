//! What came of an attack, and whether everything held.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::Attack;
use crate::demo::readable;
use crate::fault::Observation;
use crate::lab::Lab;

/// Memory that an attack may cost a vipd, in kB: what hundreds of connections, and buffers that have grown once, take.
const MEMORY_MAX: u64 = 16 * 1024;
/// Lines that one may cost in a node's log.
const LINES_MAX: usize = 40;

/// What came of one.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What was done.
    pub attack: Attack,
    /// What was seen until all was well again.
    pub seen: Observation,
    /// The most nodes that answered for the address at once, the attacker not among them.
    pub answered_at_once: usize,
    /// Whether one node held the address and every request was answered in the end.
    pub recovered: bool,
    /// By how much the memory of a vipd grew at most, in kB.
    pub grown: u64,
    /// What each node's vipd said.
    pub said: Vec<Vec<String>>,
    /// Whether one has said so far what is to be said of it. What goes on is told once a minute, so not in each try.
    pub told: bool,
    /// How much was done.
    pub did: String,
}

impl Outcome {
    /// Whether everything held.
    pub fn passed(&self) -> bool {
        self.faults().is_empty()
    }

    /// What didn't.
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut not = |holds: bool, what: String| {
            if !holds {
                faults.push(what);
            }
        };
        not(self.recovered, "all was not well again".to_owned());
        not(self.answered_at_once <= 1, format!("{} nodes answered at once", self.answered_at_once));
        not(
            self.seen.overlaps.is_empty(),
            format!("two addresses for {}", readable(self.seen.longest_overlap())),
        );
        let moves = self.seen.moves.len();
        not(self.attack.moves().is_none_or(|wanted| wanted == (moves > 0)), format!("{moves} moves"));
        let (good, failed) = (self.seen.service.good, self.seen.service.failures());
        not(
            !self.attack.is_unfelt() || failed * 100 <= good,
            format!("{failed} of {} requests", good + failed),
        );
        not(self.grown <= MEMORY_MAX, format!("memory grew by {} kB", self.grown));
        not(self.lines() <= LINES_MAX, format!("{} lines in a log", self.lines()));
        not(self.told, format!("nobody said {:?}", self.attack.told().unwrap_or_default()));
        faults
    }

    /// The most lines in one node's log.
    fn lines(&self) -> usize {
        self.said.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// A line for those who wait.
    pub(super) fn line(&self) -> String {
        let faults = self.faults();
        let mut text = format!(
            "{:<11} silence {}, {} requests answered, {} failed, {} moves, memory +{} kB, {} lines{}{}",
            self.attack.name(),
            readable(self.seen.service.silence),
            self.seen.service.good,
            self.seen.service.failures(),
            self.seen.moves.len(),
            self.grown,
            self.lines(),
            if self.did.is_empty() { String::new() } else { format!("; {}", self.did) },
            if faults.is_empty() { String::new() } else { format!("  FAILED: {}", faults.join(", ")) }
        );
        if !faults.is_empty() {
            for line in self.said.iter().flatten() {
                text += &format!("\n    {line}");
            }
        }
        text
    }
}

/// A line for each kind.
pub(super) fn table(outcomes: &[Outcome]) -> String {
    let mut kinds: BTreeMap<Attack, Vec<&Outcome>> = BTreeMap::new();
    for outcome in outcomes {
        kinds.entry(outcome.attack).or_default().push(outcome);
    }
    let mut text = format!(
        "\n{:<11} {:>5} {:>11} {:>13} {:>6} {:>15} {:>9} {:>8} {:>8} {:>10} {:>7}\n",
        "attack",
        "tries",
        "two answers",
        "two addresses",
        "moves",
        "silence: median",
        "worst",
        "answered",
        "failed",
        "memory +kB",
        "lines"
    );
    for (attack, ones) in kinds {
        let mut silences: Vec<Duration> = ones.iter().map(|one| one.seen.service.silence).collect();
        silences.sort_unstable();
        text += &format!(
            "{:<11} {:>5} {:>11} {:>13} {:>6} {:>15} {:>9} {:>8} {:>8} {:>10} {:>7}\n",
            attack.name(),
            ones.len(),
            ones.iter().filter(|one| one.answered_at_once > 1).count(),
            ones.iter().filter(|one| !one.seen.overlaps.is_empty()).count(),
            ones.iter().map(|one| one.seen.moves.len()).sum::<usize>(),
            readable(silences[silences.len() / 2]),
            readable(silences[silences.len() - 1]),
            ones.iter().map(|one| one.seen.service.good).sum::<usize>(),
            ones.iter().map(|one| one.seen.service.failures()).sum::<usize>(),
            ones.iter().map(|one| one.grown).max().unwrap_or(0),
            ones.iter().map(|one| one.lines()).max().unwrap_or(0),
        );
    }
    let failed = outcomes.iter().filter(|one| !one.passed()).count();
    text += &if failed == 0 {
        format!(
            "passed: {} attacks; the address was where it should be, and all was well again",
            outcomes.len()
        )
    } else {
        format!("FAILED: {failed} of {} attacks", outcomes.len())
    };
    text
}

/// How much the vipds have said so far.
pub(super) struct Said(Vec<usize>);

impl Said {
    pub(super) fn so_far(lab: &mut Lab) -> Result<Self> {
        logs(lab).map(|logs| Self(logs.iter().map(Vec::len).collect()))
    }

    /// What each has said since. A vipd that was started again has a log of its own.
    pub(super) fn since(self, lab: &mut Lab) -> Result<Vec<Vec<String>>> {
        let new = logs(lab)?.into_iter().zip(self.0);
        Ok(new
            .map(|(lines, old)| lines.get(old..).map_or_else(|| lines.clone(), <[String]>::to_vec))
            .collect())
    }
}

/// Whether a vipd has said something so far.
pub(super) fn is_told(lab: &mut Lab, phrase: &str) -> Result<bool> {
    Ok(logs(lab)?.iter().flatten().any(|line| line.contains(phrase)))
}

fn logs(lab: &mut Lab) -> Result<Vec<Vec<String>>> {
    let of = |node: &mut crate::node::Node| {
        let path = node.process("vipd")?.log().to_owned();
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(text.lines().map(str::to_owned).collect())
    };
    lab.nodes.iter_mut().map(of).collect()
}
