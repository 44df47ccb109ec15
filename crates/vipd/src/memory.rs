//! Memory that stays in RAM.
//!
//! A page of the main loop that the kernel has put aside, be it to swap or, as part of the program's file, by dropping it, takes a
//! disk to come back: on a host that is short of memory that is longer than a lease. Locked pages stay.

use std::fs;
use std::io;

use rustix::io::Errno;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::CapabilitySet;

/// What the operator can do where it is not permitted.
pub(crate) const HELP: &str =
    "add IPC_LOCK to the container's or the unit's capabilities, or lift its limit of locked memory";

/// Locks all of this process's memory: what there is, and what comes later.
///
/// A page is locked when it is first touched: the stacks of threads are reserved by the megabyte and used by the kilobyte.
///
/// # Errors
/// It is not permitted without a limit, or the kernel refuses. Nothing has changed then.
pub(crate) fn lock() -> io::Result<()> {
    if !permit()? {
        return Err(Errno::PERM.into());
    }
    Ok(mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)?)
}

/// Whether [`lock`] is permitted.
///
/// # Errors
/// The kernel doesn't tell.
pub(crate) fn is_permitted() -> io::Result<bool> {
    Ok(is_capable()? || getrlimit(Resource::Memlock).maximum.is_none())
}

/// Sees to it that the limit is none. What is locked counts by its reserved size, so that under a limit, whatever it is, it would
/// be memory that can't be had, at any later time.
fn permit() -> io::Result<bool> {
    let limit = getrlimit(Resource::Memlock);
    if is_capable()? || limit.current.is_none() {
        return Ok(true);
    }
    if limit.maximum.is_some() {
        return Ok(false);
    }
    setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None })?;
    Ok(true)
}

/// Whether this process has IPC_LOCK where it counts, which is in the first user namespace.
fn is_capable() -> io::Result<bool> {
    if !rustix::thread::capabilities(None)?.effective.contains(CapabilitySet::IPC_LOCK) {
        return Ok(false);
    }
    // A kernel without user namespaces has no such file.
    Ok(fs::read_to_string("/proc/self/uid_map").map_or(true, |map| is_first_namespace(&map)))
}

/// Whether a user namespace with this map of users (user_namespaces(7)) is the first one: all are themselves in it.
fn is_first_namespace(map: &str) -> bool {
    map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capability_counts_in_the_first_user_namespace_alone() {
        assert!(is_first_namespace("         0          0 4294967295\n"));
        assert!(!is_first_namespace("         0       1000          1\n"));
        assert!(!is_first_namespace("         0          0 4294967295\n 4294967295 1 1\n"));
        assert!(!is_first_namespace(""));
    }
}
