//! What a process takes, from /proc.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result};

/// What a process takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Memory in RAM, in kB.
    pub(crate) rss: u64,
    /// The same, a page that is shared by several counted in parts.
    pub(crate) pss: u64,
    pub(crate) descriptors: usize,
    pub(crate) threads: usize,
}

/// Looks at a process.
///
/// # Errors
/// If it is not there any more.
pub(crate) fn taken(pid: u32) -> Result<Taken> {
    let rollup =
        fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).context("vipd does not run any more")?;
    let kilobytes = |key: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(key));
        let number = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok());
        number.with_context(|| format!("smaps_rollup has no {key}"))
    };
    let entries =
        |folder: &str| -> Result<usize> { Ok(fs::read_dir(format!("/proc/{pid}/{folder}"))?.count()) };
    Ok(Taken {
        rss: kilobytes("Rss:")?,
        pss: kilobytes("Pss:")?,
        descriptors: entries("fd")?,
        threads: entries("task")?,
    })
}

/// What a process has open: how many of each sort.
///
/// # Errors
/// If it is not there any more.
pub(crate) fn open_files(pid: u32) -> Result<BTreeMap<String, usize>> {
    let mut sorts = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let Ok(name) = fs::read_link(entry?.path()) else { continue };
        let name = name.to_string_lossy().into_owned();
        let sort = name.split_once(":[").map_or_else(|| name.clone(), |(sort, _)| sort.to_owned());
        *sorts.entry(sort).or_insert(0) += 1;
    }
    Ok(sorts)
}

/// Memory may be so much larger at the end than at the beginning: this part of it, and so many kB.
const MARGIN: (u64, u64) = (5, 1024);

/// The medians of the first tenth of some figures after the warm-up, which is a tenth as well, and of the last.
pub(crate) fn ends(figures: &[u64]) -> [u64; 2] {
    let tenth = (figures.len() / 10).max(1);
    let first = figures.iter().skip(tenth).take(tenth).copied().collect();
    let last = figures.iter().rev().take(tenth).copied().collect();
    [median(first), median(last)]
}

/// The most kB that memory may be in the end, where it was so many at first.
pub(crate) fn flat(first: u64) -> u64 {
    first + first * MARGIN.0 / 100 + MARGIN.1
}

fn median(mut numbers: Vec<u64>) -> u64 {
    numbers.sort_unstable();
    numbers.get(numbers.len() / 2).copied().unwrap_or(0)
}
