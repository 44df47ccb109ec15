//! The snapshot: a fold of what the parts publish. The one source for JSON and people.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use leader::peers::Note;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::owner::{Owner, OwnerWatch};
use super::timeline::timeline;
use crate::daemon::parts::Parts;
use crate::daemon::{Pulse, notes};
use crate::punctuality::Punctuality;
use crate::scheduling;
use crate::web::Told;
use crate::web::health::Vitals;

/// One look at a running vipd. Times are milliseconds before the look, or left from it on.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Snapshot {
    /// This node's name.
    pub(crate) node: String,
    /// vipd's version.
    pub(crate) version: String,
    /// The process.
    pub(crate) pid: u32,
    /// Since vipd started.
    pub(crate) up_ms: u64,
    /// Whether a stop was asked for: the address is handed over, connections drain.
    pub(crate) stopping: bool,
    /// How late the thread of the election and the address is woken.
    #[serde(default)]
    pub(crate) main_loop: MainLoop,
    /// The addresses and the election that decides where they are; one for each address where these are spread over the nodes, and
    /// none where vipd only balances.
    pub(crate) owners: Vec<Owner>,
    /// The load balancers.
    pub(crate) load_balancers: Vec<Frontend>,
    /// The backends of the health check, where there are no load balancers.
    pub(crate) health_check: Vec<Backend>,
    /// This is another node's, and was too long to be told whole: backends are missing.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) cut: bool,
    /// What the other nodes of the election said of themselves last, by name. Nodes of an election by Lease are asked by each other where
    /// they serve metrics.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) others: BTreeMap<String, Other>,
}

/// What another node said of itself.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Other {
    /// How long ago: its times are as of then.
    pub(crate) told_ms: u64,
    /// Its status; absent if this release can't read it.
    pub(crate) status: Option<Box<Snapshot>>,
}

/// The main loop, and how late it was woken within the last minute.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(crate) struct MainLoop {
    /// Whether it has real-time priority.
    pub(crate) realtime: bool,
    /// One wake-up in a hundred came later than this.
    pub(crate) delay_p99_us: u64,
    /// The latest.
    pub(crate) delay_max_us: u64,
    /// What the election's timing permits; absent where none of milliseconds is held.
    pub(crate) delay_permitted_us: Option<u64>,
    /// Whether it is later than that.
    pub(crate) late: bool,
}

/// A load balancer.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Frontend {
    /// Its name.
    pub(crate) name: String,
    /// It is no part of the configuration any more; its connections go on.
    #[serde(default)]
    pub(crate) leaving: bool,
    /// Where it listens.
    pub(crate) listen: Vec<String>,
    /// The port of the same addresses that clients connect to, where the kernel redirects that.
    #[serde(default)]
    pub(crate) redirected: Option<u16>,
    /// The kernel carries the connections: it tells which are open, and nothing else is counted.
    #[serde(default)]
    pub(crate) forwarded: bool,
    /// Open connections.
    pub(crate) connections: usize,
    /// The most it holds; further ones wait.
    pub(crate) max_connections: usize,
    /// Connections accepted so far.
    pub(crate) accepted: u64,
    /// Connections reset because their client's host had as many as it may have.
    #[serde(default)]
    pub(crate) rejected: u64,
    /// Connections on which nobody seemed to wait for an answer, ended so that another backend gets its share.
    #[serde(default)]
    pub(crate) rebalanced: u64,
    /// Connections that were ended since they had lasted for long enough.
    #[serde(default)]
    pub(crate) aged: u64,
    /// Connections that no backend could take.
    pub(crate) refused: u64,
    /// The servers behind it.
    pub(crate) backends: Vec<Backend>,
}

/// A server behind a load balancer.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Backend {
    /// Its name.
    pub(crate) name: String,
    /// Its address.
    pub(crate) address: String,
    /// unknown, ready, draining or dead.
    pub(crate) health: String,
    /// For how long it has been so.
    pub(crate) since_ms: u64,
    /// What it gets of what the policy would give it: less than 100 in its slow start.
    #[serde(default = "whole")]
    pub(crate) share_percent: u32,
    /// It was taken out of use by `vipd backend drain`.
    #[serde(default)]
    pub(crate) drained: bool,
    /// Its node is cordoned.
    #[serde(default)]
    pub(crate) cordoned: bool,
    /// Open connections.
    pub(crate) connections: usize,
    /// Connections so far.
    pub(crate) total: u64,
    /// Connects that failed.
    pub(crate) connect_failures: u64,
    /// Connections that went to another backend before the client noticed.
    pub(crate) retries: u64,
    /// Why the latest check failed.
    pub(crate) last_error: Option<String>,
    /// Bytes sent to it.
    pub(crate) bytes_to_backend: u64,
    /// Bytes it sent.
    pub(crate) bytes_to_client: u64,
    /// Told as metrics, and nowhere else.
    #[serde(skip)]
    pub(crate) tally: Tally,
}

/// How a backend's checks went, and how its connections ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// The checks.
    pub(crate) checks: lb::ChecksStatus,
    /// How many connections ended in which way.
    pub(crate) ends: Vec<(&'static str, u64)>,
}

impl Snapshot {
    /// What readiness is judged from, where the main loop ran this long ago.
    pub(crate) fn vitals(self, silence: Duration) -> Vitals {
        Vitals {
            silence,
            stopping: self.stopping,
            leaders: self.owners.into_iter().map(|owner| owner.leader).collect(),
            listening: self
                .load_balancers
                .into_iter()
                .map(|frontend| (frontend.name, !frontend.listen.is_empty()))
                .collect(),
        }
    }
}

/// What a snapshot is folded from. A clone reads the same sources, from whatever thread.
#[derive(Clone)]
pub(crate) struct Reporter {
    node: String,
    started: tokio::time::Instant,
    stopping: watch::Receiver<bool>,
    pulse: Pulse,
    realtime: bool,
    owners: Vec<OwnerWatch>,
    balancer: Option<lb::Monitor>,
    health_check: Option<lb::Monitor>,
    others: Option<Told>,
}

impl Reporter {
    /// Begins to watch the parts, and what `others` say where peers don't tell; to be called on the main loop's thread.
    pub(crate) fn new(node: String, parts: &Parts, pulse: Pulse, others: Option<Told>) -> Self {
        Self {
            node,
            started: tokio::time::Instant::now(),
            stopping: parts.stopping.subscribe(),
            pulse,
            realtime: scheduling::is_raised(),
            owners: OwnerWatch::all(parts),
            balancer: parts.balancer.as_ref().map(lb::Balancer::monitor),
            health_check: parts.health_check.as_ref().map(lb::Balancer::monitor),
            others: others.or_else(|| notes::exchange(parts).map(|notes| notes.heard())),
        }
    }

    /// One without parts of its own.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn of_others(others: Told, pulse: Pulse) -> Self {
        let (_, stopping) = watch::channel(false);
        Self {
            node: "master-1".to_owned(),
            started: tokio::time::Instant::now(),
            stopping,
            pulse,
            realtime: false,
            owners: Vec::new(),
            balancer: None,
            health_check: None,
            others: Some(others),
        }
    }

    /// Looks at everything once, and at what the other nodes have told.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let now = leader::clock::now();
        let others = self.others.as_ref().map(|others| others.borrow().clone()).unwrap_or_default();
        let other = |note: &Note| Other {
            told_ms: millis(now.saturating_duration_since(note.heard)),
            status: serde_json::from_slice(&note.bytes).ok(),
        };
        let others: BTreeMap<String, Other> =
            others.iter().map(|(name, note)| (name.to_string(), other(note))).collect();
        let mut snapshot = self.own();
        for owner in &mut snapshot.owners {
            let told = others.values().filter_map(|other| Some((other.told_ms, other.status.as_ref()?)));
            let told = told.filter_map(|(age, status)| {
                Some((age, status.owners.iter().find(|other| other.addresses == owner.addresses)?))
            });
            owner.moves = timeline(owner, told);
        }
        Snapshot { others, ..snapshot }
    }

    /// Looks at everything of this node once.
    pub(crate) fn own(&self) -> Snapshot {
        let now = tokio::time::Instant::now();
        let std_now = now.into_std();
        let frontends = |monitor: Option<&lb::Monitor>| -> Vec<Frontend> {
            let status = monitor.map(lb::Monitor::status);
            status
                .iter()
                .flat_map(|status| &status.frontends)
                .map(|status| frontend(status, std_now))
                .collect()
        };
        Snapshot {
            node: self.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            up_ms: millis(now - self.started),
            stopping: *self.stopping.borrow(),
            main_loop: main_loop(&self.pulse.punctuality(), self.realtime),
            owners: self
                .owners
                .iter()
                .map(|owner| owner.snapshot(&self.node, leader::clock::now()))
                .collect(),
            load_balancers: frontends(self.balancer.as_ref()),
            health_check: frontends(self.health_check.as_ref())
                .into_iter()
                .flat_map(|frontend| frontend.backends)
                .collect(),
            cut: false,
            others: BTreeMap::new(),
        }
    }
}

fn main_loop(told: &Punctuality, realtime: bool) -> MainLoop {
    MainLoop {
        realtime,
        delay_p99_us: micros(told.delays.p99),
        delay_max_us: micros(told.delays.max),
        delay_permitted_us: told.tolerance.map(micros),
        late: told.is_late,
    }
}

fn frontend(status: &lb::FrontendStatus, now: Instant) -> Frontend {
    Frontend {
        name: status.name.clone(),
        leaving: status.leaving,
        listen: status.listen.iter().map(ToString::to_string).collect(),
        redirected: status.redirected,
        forwarded: status.forwarded,
        connections: status.connections,
        max_connections: status.max_connections,
        accepted: status.accepted,
        refused: status.refused,
        rebalanced: status.rebalanced,
        aged: status.aged,
        rejected: status.rejected,
        backends: status.backends.iter().map(|status| backend(status, now)).collect(),
    }
}

fn backend(status: &lb::BackendStatus, now: Instant) -> Backend {
    Backend {
        name: status.name.clone(),
        address: status.address.to_string(),
        health: format!("{:?}", status.health).to_lowercase(),
        since_ms: millis(now.saturating_duration_since(status.since)),
        share_percent: status.share / 10,
        drained: status.drained,
        cordoned: status.cordoned,
        connections: status.connections,
        total: status.total,
        connect_failures: status.connect_failures,
        retries: status.retries,
        last_error: status.last_error.clone(),
        bytes_to_backend: status.bytes_to_backend,
        bytes_to_client: status.bytes_to_client,
        tally: Tally { checks: status.checks.clone(), ends: status.ends.to_vec() },
    }
}

/// What every backend of a vipd had that told nothing of shares.
fn whole() -> u32 {
    100
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_false(flag: &bool) -> bool {
    !flag
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// All names of keys, but those that are themselves values: names of nodes, reasons, bounds.
    fn keys(value: &Value, of: &str, found: &mut std::collections::BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    if !["others", "count", "took"].contains(&of) {
                        found.insert(key.clone());
                    }
                    keys(value, key, found);
                }
            }
            Value::Array(values) => values.iter().for_each(|value| keys(value, of, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn every_key_is_documented() {
        let mut snapshot: Snapshot = serde_json::from_str(include_str!("sample.json")).unwrap();
        let owner = &mut snapshot.owners[0];
        let lease = r#"{"name": "", "identity": "", "holder": null, "transitions": 0, "server": null, "watching": true,
            "credentials": null, "trouble": null, "requests": 0, "failures": 0}"#;
        owner.lease = Some(serde_json::from_str(lease).unwrap());
        let tie_break =
            r#"{"rule": "", "address": null, "answers": null, "needed": true, "votes_for_this_node": true}"#;
        owner.tie_break = Some(serde_json::from_str(tie_break).unwrap());
        snapshot.cut = true;
        let mut found = std::collections::BTreeSet::new();
        keys(&serde_json::to_value(&snapshot).unwrap(), "", &mut found);
        let document = include_str!("../../../../docs/status.md");
        let missing: Vec<_> = found.iter().filter(|key| !document.contains(&format!("`{key}`"))).collect();
        assert!(
            found.len() > 80 && missing.is_empty(),
            "of {} keys, docs/status.md lacks {missing:?}",
            found.len()
        );
    }
}
