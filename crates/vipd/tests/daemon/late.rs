//! A host that wakes vipd late: refused for a profile that it can't keep, warned of where the operator insists.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::rig::Enclosed;

/// Takes the processor from a process, again and again: for longer than `default` permits, and shorter than `relaxed` does.
struct Disturbance {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

const TAKEN: Duration = Duration::from_millis(40);
const GIVEN: Duration = Duration::from_millis(4);

impl Disturbance {
    fn of(pid: Pid) -> Self {
        let (end, ended) = channel();
        let thread = thread::spawn(move || {
            let mut is_over = false;
            while !is_over {
                let _ = kill_process(pid, Signal::STOP);
                is_over = ended.recv_timeout(TAKEN).is_ok();
                let _ = kill_process(pid, Signal::CONT);
                is_over |= ended.recv_timeout(GIVEN).is_ok();
            }
        });
        Self { end: Some(end), thread: Some(thread) }
    }
}

impl Drop for Disturbance {
    fn drop(&mut self) {
        let _ = self.end.take().unwrap().send(());
        self.thread.take().unwrap().join().unwrap();
    }
}

fn alone(timing: &str) -> String {
    format!("vip: 10.9.9.9\ninterface: lo\nsingleNode: true\ntiming: {timing}\n")
}

const REFUSAL: &str = "this host can't keep `timing: fast`: of ";

#[test]
fn a_host_that_cannot_keep_a_profile_is_refused_and_told_which_it_can() {
    let Some(network) = Enclosed::new("a vipd with an address") else { return };
    let mut daemon = network.launch("late-profile", &alone("fast"), None);
    daemon.read_until("vipd starts");
    let disturbance = Disturbance::of(Pid::from_child(&daemon.child));
    let mut log = String::new();
    daemon.log.read_to_string(&mut log).unwrap();
    drop(disturbance);
    assert_eq!(daemon.child.wait().unwrap().code(), Some(69), "{log}");
    let last = log.lines().last().unwrap();
    assert!(last.starts_with(&format!("error: {REFUSAL}")), "{log}");
    assert!(last.contains(" and 2 ms are permitted; "), "{log}");
    assert!(last.contains("write `timing: relaxed` on every host, which permits 200 ms"), "{log}");
    assert!(!log.contains("became leader"), "{log}");

    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("late-check.yaml");
    fs::write(&file, alone("fast")).unwrap();
    let mut check = Command::new("unshare")
        .args(["--net", "sh", "-c", "ip link set lo up && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_vipd")])
        .args(["check", "-c"])
        .arg(&file)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let disturbance = Disturbance::of(Pid::from_child(&check));
    let mut said = String::new();
    check.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    drop(disturbance);
    assert_eq!(check.wait().unwrap().code(), Some(69), "{said}");
    assert!(said.contains(&format!("error: {REFUSAL}")), "{said}");
    assert!(said.contains("help: ") && said.contains("`timing: relaxed`"), "{said}");
}

#[test]
fn durations_of_the_operators_own_are_warned_about_and_obeyed() {
    let Some(network) = Enclosed::new("a vipd with an address") else { return };
    let mut daemon = network.launch("late-durations", &alone("{heartbeat: 3ms, lease: 13ms}"), None);
    daemon.read_until("vipd starts");
    let disturbance = Disturbance::of(Pid::from_child(&daemon.child));
    let log = daemon.read_until("this host can't keep a heartbeat of 3 ms with a lease of 13 ms");
    assert!(log.lines().last().unwrap().contains("WARN"), "{log}");
    // While it runs, it says so too; once, however long it goes on.
    daemon.read_until("the election is woken late");
    drop(disturbance);
    let told: serde_json::Value = serde_json::from_slice(&daemon.status(&["--json"]).stdout).unwrap();
    assert_eq!(told["main_loop"]["late"], true, "{told}");
    assert_eq!(told["main_loop"]["delay_permitted_us"], 2000, "{told}");
    assert!(told["main_loop"]["delay_max_us"].as_u64().unwrap() > 15_000, "{told}");
    let people = String::from_utf8(daemon.status(&[]).stdout).unwrap();
    assert!(people.contains("2.0 ms permitted: too late, leases may be lost"), "{people}");
    let (exit, log) = daemon.stop();
    assert!(exit.success(), "{log}");
    assert!(!log.contains("the election is woken late"), "{log}");
}
