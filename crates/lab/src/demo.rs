//! The demonstration: five faults, one after the other, and what a client saw of each.

use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::fault::{Fault, Trial, names};
use crate::lab::Lab;
use crate::network::{CLIENT, NODES};
use crate::prober::INTERVAL;
use crate::system::System;

/// The first owner must be there by then, real apiservers and slow systems included.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// The steps, in order.
pub const STEPS: [Fault; 5] =
    [Fault::ApiserverKilled, Fault::LinkDown, Fault::Sigterm, Fault::AddressDeleted, Fault::Sigkill];

/// Writes lines for people; a reader that went away is no reason to stop.
#[derive(Debug, Default)]
pub struct Console;

impl Console {
    /// Writes one line.
    pub fn line(&self, text: impl AsRef<str>) {
        let mut out = io::stdout().lock();
        writeln!(out, "{}", text.as_ref()).ok();
        out.flush().ok();
    }
}

/// A duration as people read it.
pub fn readable(duration: Duration) -> String {
    let milliseconds = duration.as_secs_f64() * 1000.0;
    if milliseconds < 9_999.5 {
        format!("{milliseconds:.0} ms")
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}

/// Brings up backends and a system and tells what is there.
///
/// # Errors
/// If something does not come up.
pub async fn bring_up(lab: &mut Lab, system: System, began: Instant, console: &Console) -> Result<()> {
    let hosts = lab.nodes.iter().zip(NODES).map(|(node, name)| format!("{name} {}", node.host.address));
    console.line(format!(
        "network   {}, {CLIENT} {} on one switch ({})",
        hosts.collect::<Vec<_>>().join(", "),
        lab.client.address,
        readable(began.elapsed())
    ));
    let backends = Started::now();
    lab.start_backends().await?;
    console
        .line(format!("backends  an apiserver on port 6443 of every node, all ready ({})", backends.took()));
    let start = Started::now();
    lab.start_system(system)?;
    let owner = lab.await_owner(START_PATIENCE, |_| true).await?;
    console.line(format!(
        "{:<9} runs on every node; {} owns the VIP ({})",
        system,
        NODES[owner],
        start.took()
    ));
    Ok(())
}

/// A stopwatch.
#[derive(Debug)]
pub struct Started(tokio::time::Instant);

impl Started {
    /// Starts it.
    pub fn now() -> Self {
        Self(tokio::time::Instant::now())
    }

    /// What it shows, for people.
    pub fn took(&self) -> String {
        readable(self.0.elapsed())
    }

    /// The moment of its start.
    pub fn at(&self) -> Instant {
        self.0.into_std()
    }
}

/// Runs the demonstration; true if every step passed.
///
/// # Errors
/// If the lab cannot be brought up or a fault cannot be made.
pub async fn run(lab: &mut Lab, system: System, began: Instant) -> Result<bool> {
    let console = Console;
    bring_up(lab, system, began, &console).await?;
    lab.set_probing(true).await?;
    console.line(format!(
        "client    a new HTTPS request to https://{}/readyz every {} ms\n",
        system.frontend(),
        INTERVAL.as_millis()
    ));
    let mut trials = Vec::new();
    for (number, fault) in (1..).zip(STEPS) {
        let trial = lab.trial(fault).await.with_context(|| format!("step {number} ({fault})"))?;
        console.line(format!("{number}. {}", sentence(&trial)));
        console.line(format!("   {}", result(&trial)));
        trials.push(trial);
    }
    console.line(format!("\n{}", table(&trials)));
    let passed = trials.iter().all(Trial::passed);
    console.line(if passed {
        "The address came back each time, and never did two nodes answer for it. Two had it only where the owner was killed, \
         until the kernel took it off."
    } else {
        "NOT as it should be: see the steps marked FAILED."
    });
    Ok(passed)
}

fn sentence(trial: &Trial) -> String {
    let owner = NODES[trial.owner];
    match trial.fault {
        Fault::ApiserverKilled => {
            format!("SIGKILL of the apiserver on the owner, {owner}; later started again")
        }
        Fault::LinkDown => format!("the cable of the owner, {owner}, is pulled; later plugged in again"),
        Fault::Sigterm => format!("the owner, {owner}, is stopped by SIGTERM; later started again"),
        Fault::AddressDeleted => format!("somebody deletes the VIP from the owner, {owner}, by hand"),
        Fault::Sigkill => format!("SIGKILL of the owner, {owner}; later started again"),
        Fault::Sigstop => format!("the owner, {owner}, is frozen by SIGSTOP; later continued"),
        // None of its steps.
        Fault::SigkillTwo
        | Fault::Unplugged
        | Fault::Partitioned
        | Fault::Mute
        | Fault::Deaf
        | Fault::Loss1
        | Fault::Loss10
        | Fault::Loss30
        | Fault::Latency
        | Fault::Jitter
        | Fault::Starved
        | Fault::RollingRestart
        | Fault::EtcdKilled
        | Fault::StepDown => format!("{} for the owner, {owner}; later undone", trial.fault),
    }
}

fn result(trial: &Trial) -> String {
    let seen = &trial.seen;
    let mut text = format!(
        "{} → {}, silence {}, {} requests failed of {}, owners at once: {}",
        NODES[trial.owner],
        names(&seen.holders),
        readable(seen.service.silence),
        seen.service.failures(),
        seen.service.failures() + seen.service.good,
        seen.owners_at_once(),
    );
    if !seen.overlaps.is_empty() {
        text += &format!(
            " (two addresses for {}, but {} answered ARP)",
            readable(seen.longest_overlap()),
            if seen.answered_at_once > 1 { "both" } else { "only one" }
        );
    }
    if !seen.service.failed.is_empty() {
        let classes = seen.service.failed.iter().map(|(verdict, count)| format!("{count} {verdict}"));
        text += &format!(" [{}]", classes.collect::<Vec<_>>().join(", "));
    }
    if !trial.recovered {
        text += " — the service did not come back";
    }
    if !trial.passed() {
        text += " — FAILED";
    }
    text
}

fn table(trials: &[Trial]) -> String {
    let mut text = format!(
        "{:<18} {:<21} {:>10} {:>8} {:>15}  \n",
        "fault", "owner", "silence", "failed", "owners at once"
    );
    for trial in trials {
        let seen = &trial.seen;
        text += &format!(
            "{:<18} {:<21} {:>10} {:>8} {:>15}  {}\n",
            trial.fault.name(),
            format!("{} → {}", NODES[trial.owner], names(&seen.holders)),
            readable(seen.service.silence),
            seen.service.failures(),
            seen.owners_at_once(),
            if trial.passed() { "ok" } else { "FAILED" }
        );
    }
    text
}
