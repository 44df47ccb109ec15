//! A running daemon, without addresses: balancing, status, stopping. What needs a network of its own is the lab's.

#![expect(clippy::unwrap_used, reason = "a test that can't go on says where")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;

/// Longer than anything here takes on a busy machine.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// A vipd that ends with the test.
struct Daemon {
    child: Child,
    socket: PathBuf,
    log: BufReader<std::process::ChildStderr>,
}

impl Daemon {
    /// Starts one, and waits until it says that it has started.
    fn start(name: &str, config: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&folder).unwrap();
        let (file, socket) = (folder.join("config.yaml"), folder.join("vipd.sock"));
        fs::write(&file, config).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_vipd"))
            .args(["start", "-c"])
            .arg(&file)
            .arg("--socket")
            .arg(&socket)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut daemon = Self { child, socket, log };
        daemon.read_until("backend health changed");
        daemon
    }

    /// Reads the log up to a line with these words.
    fn read_until(&mut self, words: &str) -> String {
        let mut seen = String::new();
        loop {
            let mut line = String::new();
            assert_ne!(self.log.read_line(&mut line).unwrap(), 0, "the log ended without `{words}`: {seen}");
            seen.push_str(&line);
            if line.contains(words) {
                return seen;
            }
        }
    }

    fn status(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_vipd"))
            .args(["status", "--socket"])
            .arg(&self.socket)
            .args(arguments)
            .output()
            .unwrap()
    }

    /// Asks it to stop, and gives its exit status and the rest of its log.
    fn stop(mut self) -> (ExitStatus, String) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap(), rest)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A backend that greets and closes, and its address.
fn backend() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.unwrap().write_all(b"hello");
        }
    });
    format!("{{address: {}, port: {}}}", address.ip(), address.port())
}

/// A port that is free now.
fn free_port() -> u16 {
    TcpListener::bind("[::]:0").unwrap().local_addr().unwrap().port()
}

fn balancer(port: u16) -> String {
    format!(
        "loadBalancers:\n- name: api\n  port: {port}\n  check: {{type: none}}\n  backends: [{}]\n\
         - name: checked\n  port: {}\n  check: {{type: tcp}}\n  backends: [{}]\n",
        backend(),
        free_port(),
        backend()
    )
}

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
    assert!(snapshot["owner"].is_null(), "{text}");
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
