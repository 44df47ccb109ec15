//! A running daemon, without addresses: balancing, status, metrics and health, stopping. What needs a network of its own is the lab's.

#![expect(clippy::unwrap_used, reason = "a test that can't go on says where")]

use std::fs;
use std::io::{BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

mod access_log;
mod alone;
mod commands;
mod confinement;
mod health;
mod held;
mod late;
mod memory;
mod names;
mod openmetrics;
mod reload;
mod rig;
mod secrets;
mod service;
mod succession;
mod traffic;
mod unfit;
mod unread;
mod web;
mod witness;

use rig::{Daemon, PATIENCE, balancer, free_port};

#[test]
fn balancers_alone_need_no_address_and_no_root() {
    let port = free_port();
    let daemon = Daemon::start("alone", &balancer(port));
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut greeting = String::new();
    client.read_to_string(&mut greeting).unwrap();
    assert_eq!(greeting, "hello");

    let status = daemon.status(&["--json"]);
    assert!(status.status.success());
    let text = String::from_utf8(status.stdout).unwrap();
    let snapshot: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(snapshot["owners"].as_array().unwrap().is_empty(), "{text}");
    assert_eq!(snapshot["load_balancers"][0]["name"], "api", "{text}");
    assert_eq!(snapshot["load_balancers"][0]["accepted"], 1, "{text}");
    let people = String::from_utf8(daemon.status(&[]).stdout).unwrap();
    assert!(people.contains("balancer   api on"), "{people}");

    // A connection that its client keeps open would have its time before the stop.
    drop(client);
    let socket = daemon.socket.clone();
    let (exit, log) = daemon.stop();
    assert!(exit.success(), "{log}");
    assert!(log.contains("vipd stopped"), "{log}");
    assert!(!socket.exists(), "the status socket was left behind");
}

#[test]
fn a_log_that_nobody_reads_any_more_ends_nothing() {
    let mut daemon = Daemon::start("unread", &balancer(free_port()));
    let mut other = Command::new(env!("CARGO_BIN_EXE_vipd"))
        .arg("version")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The end of a container runtime, or of a pager: the pipe has no reader, and the next line can't be written.
    drop(std::mem::replace(&mut daemon.log, BufReader::new(other.stderr.take().unwrap())));
    assert!(other.wait().unwrap().success());

    // A stop is logged, too.
    daemon.terminate();
    let exit = daemon.child.wait().unwrap();

    assert!(exit.success(), "{exit}");
}

#[test]
fn a_port_in_use_is_refused_at_start_with_the_way_out() {
    let taken = TcpListener::bind("[::]:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("taken.yaml");
    fs::write(&file, balancer(port)).unwrap();
    let run = |command: &str| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_vipd")).args([command, "-c"]).arg(&file).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for command in ["start", "check"] {
        let (code, text) = run(command);
        assert_eq!(code, Some(78), "{command}: {text}");
        assert!(text.contains(&port.to_string()) && text.contains("ss -l"), "{command}: {text}");
    }
}

#[test]
fn a_second_daemon_does_not_take_the_socket_of_the_first() {
    let first = Daemon::start("socket", &balancer(free_port()));
    let mut second = Daemon::start("socket", &balancer(free_port()));
    // The second goes on without one; the first still answers.
    let pid = |daemon: &Daemon| -> u64 {
        let snapshot: serde_json::Value = serde_json::from_slice(&daemon.status(&["--json"]).stdout).unwrap();
        snapshot["pid"].as_u64().unwrap()
    };
    assert_eq!(pid(&second), u64::from(first.child.id()));
    assert!(second.child.try_wait().unwrap().is_none(), "the second gave up");
}
