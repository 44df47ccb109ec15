//! What a load costs: time of processors, and memory.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// One tick of /proc/stat on every Linux (`USER_HZ`, proc(5)).
const TICK: Duration = Duration::from_millis(10);

/// How long the machine's processors have been busy since it started, all of them and with everything: programs, the kernel for them, and
/// interrupts, in which most of a network's work is done.
///
/// # Errors
/// If /proc/stat can't be read.
pub(super) fn busy() -> Result<Duration> {
    let text = fs::read_to_string("/proc/stat").context("failed to read /proc/stat")?;
    let line = text.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<u32> =
        line.split_ascii_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    // user nice system idle iowait irq softirq; what a hypervisor took is no work of ours.
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = ticks[..] else {
        anyhow::bail!("/proc/stat begins with {line:?}")
    };
    Ok(TICK * (user + nice + system + irq + softirq))
}

/// Memory of a process group in kB, as the kernel shares it out among those who share a page (PSS). Sockets are the kernel's, and not in it.
///
/// # Errors
/// If there is no such group.
pub(super) fn memory(group: u32) -> Result<u64> {
    let mut sum = None;
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let Ok(stat) = fs::read_to_string(path.join("stat")) else { continue };
        // Behind the name, which may contain anything: state, parent, group.
        let of_group = stat.rsplit(')').next().and_then(|rest| rest.split_ascii_whitespace().nth(2));
        if of_group.and_then(|word| word.parse().ok()) != Some(group) {
            continue;
        }
        let Ok(rollup) = fs::read_to_string(path.join("smaps_rollup")) else { continue };
        let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
        let pss = pss.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        *sum.get_or_insert(0) += pss.unwrap_or(0);
    }
    sum.with_context(|| format!("no process is in group {group}"))
}
