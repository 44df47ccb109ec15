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
