//! A lab ends as a whole, however it ends, and never touches the host.

#![expect(clippy::unwrap_used, reason = "part of tests, outside the functions that clippy knows as such")]

#[expect(dead_code, reason = "these tests look at the lab from outside")]
mod enclosed;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};

use enclosed::{PROGRAM, skipped_without_root};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// What an enclosure has of its own.
const KINDS: [&str; 3] = ["pid", "net", "mnt"];
/// The kernel ends a namespace in milliseconds.
const PATIENCE: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };

/// A command that makes what a lab makes: a daemon that left its session, and one in a network namespace without a name.
const BUSY: &str =
    "setsid -f sleep 600; unshare -n setsid -f sleep 600; ip netns add named; echo up; sleep 600";

/// An outer process and everything in its enclosure, as the host sees it.
struct Running {
    outer: Child,
    /// The PID and network namespaces, as `pid:[…]` and `net:[…]`.
    namespaces: BTreeSet<String>,
    processes: Vec<OwnedFd>,
    /// Keeps the kernel from giving the numbers of these namespaces to others while this test looks for them.
    pinned: Vec<fs::File>,
}

impl Running {
    /// Starts the program and waits for the line "up" on its standard output.
    fn start(args: &[&str]) -> Self {
        let outer = Command::new(PROGRAM).args(args).stdout(Stdio::piped()).spawn().unwrap();
        let mut running =
            Self { outer, namespaces: BTreeSet::new(), processes: Vec::new(), pinned: Vec::new() };
        let output = BufReader::new(running.outer.stdout.take().unwrap());
        let up = output.lines().map_while(Result::ok).any(|line| line == "up");
        assert!(up, "the command inside did not come up: {:?}", running.outer.wait());
        let host = own_namespaces("self").unwrap();
        let init = children_of(running.outer.id()).into_iter().next().expect("the outer process has a child");
        let pid_namespace = namespace(&init, "pid").unwrap();
        for pid in all_processes() {
            if namespace(&pid, "pid").as_ref() == Some(&pid_namespace) {
                running.namespaces.extend(own_namespaces(&pid).unwrap_or_default());
                let files = KINDS.map(|kind| fs::File::open(format!("/proc/{pid}/ns/{kind}")));
                running.pinned.extend(files.into_iter().flatten());
                let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
                running.processes.extend(pidfd_open(pid, PidfdFlags::empty()));
            }
        }
        running.namespaces.retain(|namespace| !host.contains(namespace));
        running
    }

    /// Sends a signal to the outer process only and waits for its end and the end of all processes inside;
    /// returns what is left of it all.
    fn end(&mut self, signal: Signal) -> (ExitStatus, Vec<String>) {
        kill_process(Pid::from_child(&self.outer), signal).unwrap();
        let status = self.outer.wait().unwrap();
        for process in &self.processes {
            let mut exited = [PollFd::new(process, PollFlags::IN)];
            assert_eq!(poll(&mut exited, Some(&PATIENCE)), Ok(1), "a process of the lab lives on");
        }
        let left = references_to(&self.namespaces);
        self.pinned.clear();
        (status, left)
    }
}

impl Drop for Running {
    /// A test that fails leaves nothing running either.
    fn drop(&mut self) {
        self.outer.kill().ok();
        self.outer.wait().ok();
    }
}

fn all_processes() -> Vec<String> {
    let names = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).collect()
}

fn children_of(parent: u32) -> Vec<String> {
    let is_child = |pid: &String| {
        // The name in parentheses may hold spaces; the parent is the second field after it.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after = stat.rsplit(") ").next().unwrap_or_default();
        after.split(' ').nth(1) == Some(parent.to_string().as_str())
    };
    all_processes().into_iter().filter(is_child).collect()
}

fn namespace(pid: &str, kind: &str) -> Option<String> {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok().map(|link| link.display().to_string())
}

fn own_namespaces(pid: &str) -> Option<BTreeSet<String>> {
    KINDS.into_iter().map(|kind| namespace(pid, kind)).collect()
}

/// Everything but this test that still refers to one of the namespaces: processes, open files, mounts.
/// A zombie is only a number that its parent has not read yet.
fn references_to(namespaces: &BTreeSet<String>) -> Vec<String> {
    let mut found = Vec::new();
    let own = std::process::id().to_string();
    let status = |pid: &str| fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    for pid in all_processes() {
        if pid == own || status(&pid).contains("State:\tZ") {
            continue;
        }
        for folder in ["ns", "fd"] {
            for entry in fs::read_dir(format!("/proc/{pid}/{folder}")).into_iter().flatten().flatten() {
                let target = fs::read_link(entry.path()).unwrap_or_default().display().to_string();
                if namespaces.contains(&target) {
                    found.push(format!("{} -> {target}", entry.path().display()));
                }
            }
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    found.extend(
        mounts.lines().filter(|line| namespaces.iter().any(|it| line.contains(it))).map(str::to_owned),
    );
    found
}

#[test]
fn sigkill_of_the_outer_process_leaves_no_process_and_no_namespace() {
    if skipped_without_root() {
        return;
    }
    let mut running = Running::start(&["isolated", "--", "sh", "-c", BUSY]);
    assert!(running.processes.len() >= 4, "init, sh, two daemons: {}", running.processes.len());
    assert!(running.namespaces.len() >= 4, "the nameless network is seen: {:?}", running.namespaces);
    assert!(!references_to(&running.namespaces).is_empty(), "this test sees references while there are some");

    let (_, left) = running.end(Signal::KILL);

    assert_eq!(left, Vec::<String>::new());
}

#[test]
fn sigterm_is_passed_on_and_leaves_nothing() {
    if skipped_without_root() {
        return;
    }
    let mut running = Running::start(&["isolated", "--", "sh", "-c", BUSY]);

    let (status, left) = running.end(Signal::TERM);

    assert_eq!(status.code(), Some(128 + 15));
    assert_eq!(left, Vec::<String>::new());
}

#[test]
fn ctrl_c_is_passed_on_and_leaves_nothing() {
    if skipped_without_root() {
        return;
    }
    let command = format!("trap 'exit 3' INT; {BUSY} & wait");
    let mut running = Running::start(&["isolated", "--", "sh", "-c", &command]);

    let (status, left) = running.end(Signal::INT);

    assert_eq!(status.code(), Some(3));
    assert_eq!(left, Vec::<String>::new());
}

#[test]
fn sigkill_of_a_lab_with_busy_daemons_leaves_nothing() {
    if skipped_without_root() {
        return;
    }
    // The case that once locked up a machine: keepalived with adverts every 10 ms.
    let up = ["exec", "--system", "keepalived-minimum", "--", "sh", "-c", "echo up; sleep 600"];
    let mut running = Running::start(&up);
    // init, lab, sh; three backends, three haproxy, three keepalived and their children
    assert!(running.processes.len() >= 12, "{}", running.processes.len());
    // PID, mounts; the networks of the switch, the client and three nodes (nobody runs on the onlooker)
    assert!(running.namespaces.len() >= 7, "{:?}", running.namespaces);

    let (_, left) = running.end(Signal::KILL);

    assert_eq!(left, Vec::<String>::new());
}

#[test]
fn a_running_lab_is_not_seen_on_the_host() {
    if skipped_without_root() {
        return;
    }
    let up = ["exec", "--system", "keepalived-tuned", "--", "sh", "-c", "echo up; sleep 600"];
    let mut running = Running::start(&up);

    let interfaces = fs::read_to_string("/proc/net/dev").unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let addresses = fs::read_to_string("/proc/net/fib_trie").unwrap();

    for name in ["switch:", "master-1:", "client:"] {
        assert!(!interfaces.contains(name), "{name} is an interface of the host:\n{interfaces}");
    }
    assert!(!mounts.contains("vipd-lab") && !mounts.contains("/run/netns/master-1"), "{mounts}");
    assert!(!addresses.contains("10.0.0.162"), "the host has the virtual IP");
    assert!(!fs::exists("/run/vipd-lab").unwrap() && !fs::exists("/run/netns/master-1").unwrap());
    running.end(Signal::TERM);
}

#[test]
fn two_labs_run_side_by_side() {
    if skipped_without_root() {
        return;
    }
    let up = ["exec", "--system", "keepalived-tuned", "--", "sh", "-c", "echo up; sleep 600"];
    let mut first = Running::start(&up);
    let mut second = Running::start(&up);

    assert!(first.namespaces.is_disjoint(&second.namespaces));
    first.end(Signal::TERM);
    second.end(Signal::TERM);
}

#[test]
fn the_exit_code_of_the_command_is_passed_through() {
    if skipped_without_root() {
        return;
    }
    let status = Command::new(PROGRAM).args(["isolated", "--", "sh", "-c", "exit 42"]).status().unwrap();

    assert_eq!(status.code(), Some(42));
}
