//! The socket for commands: who may give them, what is refused, and what becomes of a backend. What moves an address is the lab's.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::rig::{Daemon, Enclosed, PATIENCE, balancer, free_port};

fn command_socket(daemon: &Daemon) -> PathBuf {
    let mut path = daemon.socket.clone().into_os_string();
    path.push(".command");
    path.into()
}

/// Runs `vipd step-down`, perhaps by another program.
fn step_down(by: &[&str], socket: &Path, to: Option<&str>) -> Output {
    let words = [by, &[env!("CARGO_BIN_EXE_vipd"), "step-down", "--socket"]].concat();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg(socket);
    if let Some(to) = to {
        command.args(["--to", to]);
    }
    command.output().unwrap()
}

/// A balancer that says when it serves health over HTTP: by then its sockets are there.
fn serving() -> String {
    format!("healthPort: {}\n{}", free_port(), balancer(free_port()))
}

#[track_caller]
fn refused(output: &Output, code: i32, words: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(output.stdout.is_empty());
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains(words), "{text}");
}

/// Writes these bytes; gives what is answered.
fn say(daemon: &Daemon, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(command_socket(daemon)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line
}

#[test]
fn a_vipd_without_an_address_has_nothing_to_hand_over() {
    let daemon = Daemon::serving("commands", &serving(), &[]);
    // Whoever says nothing keeps nobody else from being heard.
    let silent = UnixStream::connect(command_socket(&daemon)).unwrap();
    refused(&step_down(&[], &daemon.socket, None), 69, "only balances");
    refused(&step_down(&[], &daemon.socket, Some("b")), 69, "only balances");
    assert!(daemon.status(&[]).status.success(), "and the status is told as before");

    let mut line = String::new();
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    BufReader::new(silent).read_line(&mut line).unwrap();
    assert!(line.contains("no command came within a second"), "{line}");
    for nonsense in
        [&b"{\"do\":\"fly\"}\n"[..], b"{\"do\":\"step-down\",\"to\":7}\n", b"\xff\n", &[b'x'; 511]]
    {
        // Perhaps unanswered, as it is no text or a line without an end; but not obeyed.
        let answer = say(&daemon, nonsense);
        assert!(answer.is_empty() || answer.contains("not-understood"), "{answer}");
    }
    let mode = fs::metadata(command_socket(&daemon)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);

    let socket = command_socket(&daemon);
    let (exit, log) = daemon.stop();
    assert!(exit.success(), "{log}");
    assert!(!socket.exists(), "the socket was left behind");
}

/// Runs `vipd backend`.
fn backend(daemon: &Daemon, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vipd"));
    command.arg("backend").args(words).arg("--socket").arg(&daemon.socket).output().unwrap()
}

#[test]
fn a_backend_is_taken_out_of_use_and_back_and_the_status_shows_it() {
    let daemon = Daemon::serving("commands-backend", &serving(), &[]);
    let status =
        || -> serde_json::Value { serde_json::from_slice(&daemon.status(&["--json"]).stdout).unwrap() };
    let of_api = |status: &serde_json::Value| status["load_balancers"][0]["backends"][0].clone();
    let address = of_api(&status())["address"].as_str().unwrap().to_owned();
    assert_eq!(of_api(&status())["drained"], false);

    let drained = backend(&daemon, &["drain", &address]);

    assert!(drained.status.success(), "{drained:?}");
    let text = String::from_utf8(drained.stdout).unwrap();
    assert!(text.starts_with(&format!("api: {address} is drained")) && text.contains("no other"), "{text}");
    assert_eq!(of_api(&status())["drained"], true);
    let shown = String::from_utf8(daemon.status(&[]).stdout).unwrap();
    assert!(shown.contains(&format!("{address} ready, drained by command")), "{shown}");

    let enabled = backend(&daemon, &["enable", &address]);

    assert!(String::from_utf8(enabled.stdout).unwrap().contains("gets new connections; 0 open"));
    assert_eq!(of_api(&status())["drained"], false);
    refused(
        &backend(&daemon, &["drain", "10.9.9.9"]),
        69,
        "no backend is called 10.9.9.9; there is 127.0.0.1",
    );
    refused(&backend(&daemon, &["enable", &"x".repeat(600)]), 69, "");
}

/// Runs `vipd log-level`.
fn log_level(daemon: &Daemon, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vipd"));
    command.arg("log-level").args(words).arg("--socket").arg(&daemon.socket).output().unwrap()
}

#[test]
fn what_is_logged_changes_while_it_runs() {
    let mut daemon = Daemon::serving("commands-log-level", &serving(), &[]);
    let shown = |output: Output| {
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(shown(log_level(&daemon, &[])), "info\n");

    assert_eq!(shown(log_level(&daemon, &["info,vipd=debug"])), "info,vipd=debug\n");

    daemon.read_until("the log level has changed, by command level=\"info,vipd=debug\" before=\"info\"");
    // A conversation that ends in the middle is worth a line at that level.
    drop(UnixStream::connect(command_socket(&daemon)).unwrap());
    for nonsense in ["loud", "info,lb=loud", "", "info,=,"] {
        refused(&log_level(&daemon, &[nonsense]), 64, "is not a log level");
    }
    // Nor by whoever asks without this vipd's own command.
    let answer = say(&daemon, b"{\"do\":\"log-level\",\"level\":\"loud\"}\n");
    assert!(answer.contains("no-level") && answer.contains("`loud`"), "{answer}");
    assert_eq!(shown(log_level(&daemon, &[])), "info,vipd=debug\n", "nothing has changed");

    // The change is told whatever the level is.
    assert_eq!(shown(log_level(&daemon, &["error"])), "error\n");
    let before = daemon.read_until("by command level=\"error\"");
    assert!(before.contains("DEBUG vipd"), "{before}");
    let (exit, log) = daemon.stop();
    assert!(exit.success() && log.is_empty(), "{log}");
}

#[test]
fn those_who_are_neither_root_nor_of_the_group_may_not() {
    let Some(_root) = Enclosed::new("to be somebody else") else { return };
    let folder = std::env::temp_dir().join(format!("vipd-commands-{}", std::process::id()));
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    let socket = folder.join("vipd.sock");
    let binary = folder.join("vipd");
    // Not by this process: what another thread starts meanwhile would have it open for writing, and nobody could run it.
    assert!(Command::new("cp").arg(env!("CARGO_BIN_EXE_vipd")).arg(&binary).status().unwrap().success());
    let config = format!("socket: {}\n{}", socket.display(), serving());
    let file = folder.join("config.yaml");
    fs::write(&file, config).unwrap();
    let mut child = Command::new(&binary)
        .args(["start", "-c"])
        .arg(&file)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("serves metrics and health") {
        line.clear();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "it ended");
    }

    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let output = Command::new("setpriv")
        .args(nobody)
        .arg(&binary)
        .args(["step-down", "--socket"])
        .arg(&socket)
        .output()
        .unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    fs::remove_dir_all(&folder).unwrap();
    refused(&output, 77, "only root and vipd's own group may ask");
}

#[test]
fn without_an_election_there_is_nobody_to_hand_over_to() {
    let Some(enclosed) = Enclosed::new("an address") else { return };
    let config = "vip: 10.99.0.1\ninterface: lo\nsingleNode: true\n";
    let mut daemon = enclosed.launch("commands-single", config, None);
    // The election begins when the sockets are there.
    daemon.read_until("became leader");
    refused(&step_down(&[], &daemon.socket, None), 69, "there is no election");
}
