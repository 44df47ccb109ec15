//! What is told of a row of failovers, and whether all of it held.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::demo::readable;
use crate::fault::{Fault, Observation};
use crate::lab::Lab;
use crate::network::NODES;
use crate::taken::{Taken, ends, flat, taken};

/// Descriptors that may be more: checks of backends have connections of their own, which come and go.
const FILES_MARGIN: u64 = 4;
/// Threads that may be more: those that wait for a file or a name end some seconds after their last one.
const THREADS_MARGIN: u64 = 4;
/// After fewer failovers than these, a process may still be warming up, and what it takes says nothing.
const JUDGED_FROM: usize = 200;
/// The parts of a distribution that are told, in thousandths.
const PARTS: [usize; 5] = [500, 900, 990, 999, 1000];

/// One failover, and what was seen of it until all was well again.
#[derive(Debug, Clone)]
pub(super) struct Failover {
    fault: Fault,
    /// Who had the address before and after.
    nodes: [usize; 2],
    silence: Duration,
    unanswered: Duration,
    overlap: Duration,
    answered_at_once: usize,
}

impl Failover {
    pub(super) fn new(fault: Fault, nodes: [usize; 2], seen: &Observation) -> Self {
        Self {
            fault,
            nodes,
            silence: seen.service.silence,
            unanswered: seen.unanswered,
            overlap: seen.longest_overlap(),
            answered_at_once: seen.answered_at_once,
        }
    }

    /// Whether never two nodes answered.
    ///
    /// How long two have the address is told and not judged: of two that have it one is silenced by the fence, and the kernel may need a
    /// while to take an address off where other things hold its lock, as in hours there will be some.
    pub(super) fn passed(&self) -> bool {
        self.answered_at_once <= 1
    }

    pub(super) fn line(&self) -> String {
        format!(
            "{} from {} to {}: silence {}, nobody {}, two addresses {}, {} answered at once{}",
            self.fault,
            NODES[self.nodes[0]],
            NODES[self.nodes[1]],
            readable(self.silence),
            readable(self.unanswered),
            readable(self.overlap),
            self.answered_at_once,
            if self.passed() { "" } else { "  FAILED" }
        )
    }
}

/// All that came of them.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) failovers: Vec<Failover>,
    looks: Vec<Look>,
    /// How often the address had moved by itself when it was to be moved.
    pub(super) unasked: usize,
    /// What is other than it was before.
    left: Vec<String>,
}

/// What a vipd took that had no address, while none ended: an owner has its clients' connections besides.
#[derive(Debug, Clone, Copy)]
struct Look {
    node: usize,
    pid: u32,
    taken: Taken,
}

impl Report {
    /// Looks at what the vipds take that have no address.
    ///
    /// # Errors
    /// If one doesn't run.
    pub(super) fn look(&mut self, lab: &mut Lab) -> Result<()> {
        let holders = lab.holders();
        for (node, one) in lab.nodes.iter_mut().enumerate().filter(|(node, _)| !holders.contains(node)) {
            let pid = one.process("vipd")?.pid().context("vipd runs")?;
            self.looks.push(Look { node, pid, taken: taken(pid)? });
        }
        Ok(())
    }

    /// Compares what each node's network held before with what it holds at the end.
    pub(super) fn left_behind(&mut self, before: &[String], after: &[String]) {
        for ((name, before), after) in NODES.iter().zip(before).zip(after) {
            let lines = |text: &str, other: &str, sign: char| -> Vec<String> {
                let new = text.lines().filter(|line| !other.lines().any(|one| one == *line));
                new.map(|line| format!("{name}: {sign} {line}")).collect()
            };
            self.left.extend(lines(after, before, '+'));
            self.left.extend(lines(before, after, '-'));
        }
    }

    /// Whether everything held.
    pub(super) fn passed(&self) -> bool {
        self.failovers.iter().all(Failover::passed)
            && self.left.is_empty()
            && self.growth().iter().all(|growth| growth.holds)
    }

    /// A line for those who wait.
    pub(super) fn so_far(&self) -> String {
        let silences = sorted(self.failovers.iter().map(|one| one.silence));
        let failed = self.failovers.iter().filter(|one| !one.passed()).count();
        let memory =
            self.looks.last().map(|look| format!("; {} takes {} kB", NODES[look.node], look.taken.rss));
        format!(
            "silence: median {}, worst {}; {failed} failed{}",
            readable(part(&silences, 500)),
            readable(part(&silences, 1000)),
            memory.unwrap_or_default()
        )
    }

    /// The tables.
    pub(super) fn tell(&self) -> String {
        let mut kinds: BTreeMap<&str, Vec<&Failover>> = BTreeMap::new();
        for one in &self.failovers {
            kinds.entry(one.fault.name()).or_default().push(one);
        }
        kinds.insert("all", self.failovers.iter().collect());
        let mut text = format!(
            "\n{:<13} {:>6} | silence: median, 90 %, 99 %, 99.9 %, worst            | nobody, worst | two addresses, worst | two answers\n",
            "fault", "times"
        );
        for (name, ones) in kinds {
            let silences = sorted(ones.iter().map(|one| one.silence));
            let worst =
                |of: fn(&Failover) -> Duration| ones.iter().map(|one| of(one)).max().unwrap_or_default();
            text += &format!(
                "{name:<13} {:>6} | {} | {:>13} | {:>20} | {:>11}\n",
                ones.len(),
                words(&PARTS.map(|thousandths| part(&silences, thousandths))),
                readable(worst(|one| one.unanswered)),
                readable(worst(|one| one.overlap)),
                ones.iter().filter(|one| one.answered_at_once > 1).count()
            );
        }
        text += "\nvipds that lived through the first part, medians of the tenth after the warm-up and of the last\n";
        if self.failovers.len() < JUDGED_FROM {
            text += &format!("       not judged: fewer than {JUDGED_FROM} failovers\n");
        }
        for growth in self.growth() {
            text += &format!("{:<6} {}\n", if growth.holds { "ok" } else { "FAILED" }, growth.what);
        }
        text += &format!("       {} moves that nobody asked for came in between\n", self.unasked);
        for line in &self.left {
            text += &format!("FAILED left behind on {line}\n");
        }
        let failed = self.failovers.iter().filter(|one| !one.passed()).count();
        text += &if self.passed() {
            format!(
                "passed: {} failovers, never two nodes that answered, always one again",
                self.failovers.len()
            )
        } else {
            format!("FAILED: {failed} of {} failovers, and what is marked above", self.failovers.len())
        };
        text
    }

    /// What each vipd took at first and at last, where there were enough failovers to judge by.
    fn growth(&self) -> Vec<Growth> {
        let mut told = Vec::new();
        if self.failovers.len() < JUDGED_FROM {
            return told;
        }
        for (node, name) in NODES.iter().enumerate() {
            let looks: Vec<&Look> = self.looks.iter().filter(|look| look.node == node).collect();
            let medians =
                |of: fn(&Taken) -> u64| ends(&looks.iter().map(|look| of(&look.taken)).collect::<Vec<_>>());
            let [memory, memory_last] = medians(|taken| taken.rss);
            let [files, files_last] = medians(|taken| taken.descriptors as u64);
            let [threads, threads_last] = medians(|taken| taken.threads as u64);
            let same = looks.first().zip(looks.last()).is_some_and(|(first, last)| first.pid == last.pid);
            told.push(Growth {
                what: format!(
                    "{name}: rss {memory} to {memory_last} kB, descriptors {files} to {files_last}, threads {threads} to {threads_last}{}",
                    if same { "" } else { ", not the same process" }
                ),
                holds: same
                    && memory_last <= flat(memory)
                    && files_last <= files + FILES_MARGIN
                    && threads_last <= threads + THREADS_MARGIN,
            });
        }
        told
    }

    /// Writes every single result.
    ///
    /// # Errors
    /// If the file can't be written.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let milliseconds = |duration: Duration| duration.as_secs_f64() * 1000.0;
        let rows: Vec<_> = self
            .failovers
            .iter()
            .map(|one| {
                json!({
                    "fault": one.fault.name(),
                    "from": NODES[one.nodes[0]],
                    "to": NODES[one.nodes[1]],
                    "silence_ms": milliseconds(one.silence),
                    "unanswered_ms": milliseconds(one.unanswered),
                    "two_addresses_ms": milliseconds(one.overlap),
                    "answered_at_once": one.answered_at_once,
                })
            })
            .collect();
        let text = serde_json::to_string_pretty(&rows)? + "\n";
        std::fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))
    }
}

struct Growth {
    what: String,
    holds: bool,
}

fn sorted(durations: impl Iterator<Item = Duration>) -> Vec<Duration> {
    let mut durations: Vec<Duration> = durations.collect();
    durations.sort_unstable();
    durations
}

/// The duration that so many thousandths don't exceed: the nearest rank.
fn part(sorted: &[Duration], thousandths: usize) -> Duration {
    let rank = (sorted.len() * thousandths).div_ceil(1000).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

/// Some of a distribution, as people read them.
fn words(durations: &[Duration]) -> String {
    durations.iter().map(|one| format!("{:>9}", readable(*one))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prober::Service;

    #[test]
    fn a_part_is_the_nearest_rank() {
        let hundred: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        let parts = PARTS.map(|thousandths| part(&hundred, thousandths).as_millis());
        assert_eq!(parts, [50, 90, 99, 100, 100]);
        assert_eq!(part(&[], 500), Duration::ZERO);
    }

    #[test]
    fn what_grew_or_stayed_behind_fails() {
        let taken = |rss, descriptors| Taken { rss, pss: rss, descriptors, threads: 4 };
        let report = |last| {
            let look = |at: usize| Look {
                node: at % NODES.len(),
                pid: 1,
                taken: if at < 240 { taken(10_000, 40) } else { last },
            };
            let seen = Observation {
                service: Service::default(),
                overlaps: Vec::new(),
                moves: Vec::new(),
                answered_at_once: 1,
                answered_overlap: Duration::ZERO,
                unanswered: Duration::ZERO,
                holders: [1].into(),
            };
            let failovers = vec![Failover::new(Fault::StepDown, [0, 1], &seen); JUDGED_FROM];
            Report { failovers, looks: (0..300).map(look).collect(), ..Report::default() }
        };
        assert!(report(taken(10_100, 41)).passed());
        assert!(!report(taken(12_000, 41)).passed());
        assert!(!report(taken(10_100, 60)).passed());
        let mut left = report(taken(10_000, 40));
        left.left_behind(&["a\nb".to_owned()], &["a\nb\nc".to_owned()]);
        assert!(!left.passed() && left.tell().contains("master-1: + c"), "{}", left.tell());
    }
}
