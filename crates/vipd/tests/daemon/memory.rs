//! Whether an owner of an address stays in RAM.

use std::fs;
use std::process::Command;

use super::rig::{Daemon, Enclosed};

const ALONE: &str = "vip: 10.9.9.9\ninterface: lo\nsingleNode: true\n";

/// How much the kernel has locked of a process, in kB.
fn locked(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn told(daemon: &Daemon) -> (bool, String) {
    let snapshot: serde_json::Value = serde_json::from_slice(&daemon.status(&["--json"]).stdout).unwrap();
    let people = String::from_utf8(daemon.status(&[]).stdout).unwrap();
    (snapshot["owners"][0]["memory_locked"].as_bool().unwrap(), people)
}

#[test]
fn memory_is_locked_where_that_is_permitted_and_else_it_is_told_that_it_is_not() {
    let Some(network) = Enclosed::new("a vipd with an address") else { return };
    let said = "memory is not locked";
    // The most that a process without the capability may lock, as on most hosts: eight megabytes.
    let limit = ["prlimit", "--memlock=8388608:8388608"];
    let mut free = network.launch_by(&limit, "memory-free", ALONE, None);
    let log = free.read_until("became leader");
    if log.contains(said) {
        skip("to lock memory takes the capability IPC_LOCK, which root lacks on this machine");
    } else {
        assert!(locked(&free) > 1000, "{} kB are locked", locked(&free));
        let (is_locked, people) = told(&free);
        assert!(is_locked && !people.contains(said), "{people}");
    }

    let mut limited = network.launch_by(&limit, "memory-limited", ALONE, Some("-ipc_lock"));
    let log = limited.read_until("became leader");
    assert_eq!(log.matches(said).count(), 1, "{log}");
    assert!(log.contains("IPC_LOCK"), "{log}");
    assert_eq!(locked(&limited), 0);
    let (is_locked, people) = told(&limited);
    assert!(!is_locked && people.contains(said), "{people}");

    // No limit is as good as the capability; the soft one can be lifted.
    let lift = ["prlimit", "--memlock=65536:unlimited"];
    if !Command::new(lift[0]).args([lift[1], "true"]).status().unwrap().success() {
        return skip("to lift a limit takes the capability SYS_RESOURCE, which root lacks on this machine");
    }
    let mut unlimited = network.launch_by(&lift, "memory-unlimited", ALONE, Some("-ipc_lock"));
    let log = unlimited.read_until("became leader");
    assert!(!log.contains(said), "{log}");
    assert!(locked(&unlimited) > 1000, "{} kB are locked", locked(&unlimited));
}

/// Where the tests' root is in a container, it has not all rights.
fn skip(why: &str) {
    #[expect(clippy::print_stderr, reason = "a skip is said aloud")]
    {
        eprintln!("SKIPPED: {why}");
    }
}
