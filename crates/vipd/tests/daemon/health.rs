//! `vipd health`, as a kubelet's probe runs it.

use std::process::{Command, Output};

use rustix::process::{Pid, Signal, kill_process};

use super::rig::{Daemon, Enclosed, balancer, free_port};

pub(crate) fn health(daemon: &Daemon, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vipd"))
        .args(["health", "--socket"])
        .arg(&daemon.socket)
        .args(arguments)
        .output()
        .unwrap()
}

/// Asserts that all is well, and that nothing else is said.
pub(crate) fn assert_well(daemon: &Daemon, arguments: &[&str]) {
    let output = health(daemon, arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), &*output.stdout, &*text), (Some(0), &b"ok\n"[..], ""), "{arguments:?}");
}

/// Asserts that it is not, and that one line says why.
pub(crate) fn assert_unwell(daemon: &Daemon, arguments: &[&str], reason: &str) {
    let output = health(daemon, arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), &*output.stdout), (Some(69), &b""[..]), "{arguments:?}: {text}");
    assert!(text.lines().count() == 1 && text.contains(reason), "{arguments:?}: {text}");
}

#[test]
fn a_vipd_that_stands_still_is_not_alive_until_it_goes_on() {
    let daemon = Daemon::start("health-stopped", &balancer(free_port()));
    assert_well(&daemon, &[]);
    assert_well(&daemon, &["--ready"]);
    let pid = Pid::from_child(&daemon.child);
    kill_process(pid, Signal::STOP).unwrap();
    for arguments in [&[][..], &["--ready"]] {
        assert_unwell(&daemon, arguments, "has not answered for 5 s");
    }
    kill_process(pid, Signal::CONT).unwrap();
    assert_well(&daemon, &[]);
    assert_well(&daemon, &["--ready"]);
}

#[test]
fn one_that_was_killed_is_told_from_one_that_runs() {
    let mut daemon = Daemon::start("health-killed", &balancer(free_port()));
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
    assert!(daemon.socket.exists(), "the socket of a killed process stays");
    assert_unwell(&daemon, &[], "no vipd runs here");
}

/// Neither a dead apiserver nor the want of any keeps a vipd from living: it has to be there when they come.
#[test]
fn a_node_without_any_apiserver_is_alive() {
    let dead = free_port();
    let config = format!(
        "loadBalancers:\n- name: api\n  port: {}\n  check: {{type: tcp, interval: 50ms, fall: 1}}\n  \
         backends: [{{address: 127.0.0.1, port: {dead}}}]\n",
        free_port()
    );
    let mut daemon = Daemon::launch("health-dead", &config, &[]);
    daemon.read_until("to=dead");
    assert_well(&daemon, &[]);
    assert_well(&daemon, &["--ready"]);
}

#[test]
fn a_node_that_knows_no_leader_is_alive_and_not_ready() {
    let Some(network) = Enclosed::new("a vipd with an address") else { return };
    // No apiserver answers there, and no kubeconfig says how to ask: before `kubeadm init` it is like that.
    let config = "vip: 10.9.9.9\ninterface: lo\nelection: kubernetes\n\
                  kubernetes: {kubeconfig: /nonexistent/admin.conf, server: '127.0.0.1:9'}\n";
    let mut daemon = network.launch("health-leaderless", config, None);
    daemon.read_until("no credentials");
    assert_well(&daemon, &[]);
    assert_unwell(&daemon, &["--ready"], "this vipd is not ready: election: no leader is known");
}
