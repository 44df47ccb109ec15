//! What a service manager hears (sd_notify(3)), and the journal.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::rig::{Daemon, Enclosed, PATIENCE, balancer, free_port};

/// The socket of a service manager.
pub(crate) struct Manager {
    socket: UnixDatagram,
    name: String,
}

impl Manager {
    /// One with a path.
    pub(crate) fn at(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("notify.sock");
        let _ = fs::remove_file(&path);
        Self::on(UnixDatagram::bind(&path).unwrap(), path.to_str().unwrap().to_owned())
    }

    /// One with a name in the kernel's own list.
    fn without_a_path(name: &str) -> Self {
        let name = format!("{name}-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        Self::on(UnixDatagram::bind_addr(&address).unwrap(), format!("@{name}"))
    }

    fn on(socket: UnixDatagram, name: String) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, name }
    }

    /// What NOTIFY_SOCKET says.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What is said next.
    fn next(&self) -> io::Result<String> {
        let mut told = [0; 512];
        let length = self.socket.recv(&mut told)?;
        Ok(String::from_utf8(told[..length].to_vec()).unwrap())
    }

    /// Waits for words that begin like this. Signs of life come between all others.
    #[track_caller]
    pub(crate) fn hears(&self, words: &str) -> String {
        let mut before = Vec::new();
        loop {
            match self.next() {
                Ok(told) if told.starts_with(words) => return told,
                Ok(told) => before.push(told),
                Err(error) => panic!("no `{words}` was heard, but {before:?}: {error}"),
            }
        }
    }
}

fn started(manager: &Manager, name: &str, config: &str) -> Daemon {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vipd"));
    command.env("NOTIFY_SOCKET", manager.name());
    Daemon::run(command, name, config, &[])
}

#[test]
fn a_start_a_reload_and_a_stop_are_told() {
    let manager = Manager::without_a_path("vipd-service-reload");
    let port = free_port();
    let config = balancer(port);
    let daemon = started(&manager, "service-reload", &config);
    let pid = Pid::from_child(&daemon.child);
    let told = manager.next().unwrap();
    assert_eq!(told, "READY=1\nSTATUS=balances only: no virtual address");
    // Whoever heard that may connect.
    std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    daemon.answers();

    for text in [config.as_str(), "loadBalancers: [\n"] {
        fs::write(daemon.socket.with_file_name("config.yaml"), text).unwrap();
        kill_process(pid, Signal::HUP).unwrap();
        let told = manager.next().unwrap();
        let micros = told.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(micros.parse::<u64>().unwrap() > 0);
        assert_eq!(manager.next().unwrap(), "READY=1", "whatever came of it");
    }

    daemon.terminate();
    assert!(manager.next().unwrap().starts_with("STOPPING=1\nSTATUS=stopping"));
    let (exit, log) = daemon.stop();
    assert!(exit.success(), "{log}");
}

#[test]
fn the_status_follows_leader_and_address() {
    let Some(place) = Enclosed::new("a vipd with an address") else { return };
    let manager = Manager::at("service-status");
    let config = "vip: 10.9.9.9\ninterface: lo\nsingleNode: true\n";
    let script = format!("ip link set lo up && NOTIFY_SOCKET={} exec \"$0\" \"$@\"", manager.name());
    let daemon = place.launch_by(&["sh", "-c", &script], "service-status", config, None);
    let told = manager.next().unwrap();
    assert!(told.starts_with("READY=1\nSTATUS=") && !told.contains("active"), "{told}");
    let told = manager.hears("STATUS=this node leads, 10.9.9.9/32 on lo: active");
    assert_eq!(told.lines().count(), 1);
    let (exit, log) = daemon.stop();
    assert!(exit.success(), "{log}");
    manager.hears("STOPPING=1");
}

#[test]
fn a_main_loop_that_stands_still_gives_no_sign_of_life() {
    let manager = Manager::at("service-watchdog");
    let mut command = Command::new(env!("CARGO_BIN_EXE_vipd"));
    command.env("NOTIFY_SOCKET", manager.name()).env("WATCHDOG_USEC", "1000000");
    let daemon = Daemon::run(command, "service-watchdog", &balancer(free_port()), &[]);
    for _ in 0..3 {
        manager.hears("WATCHDOG=1");
    }
    let pid = Pid::from_child(&daemon.child);
    kill_process(pid, Signal::STOP).unwrap();
    // What was said before it stood still.
    manager.socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let last = std::iter::from_fn(|| manager.next().ok()).take(10).count();
    assert!(last < 10, "it goes on");
    kill_process(pid, Signal::CONT).unwrap();
    manager.socket.set_read_timeout(Some(PATIENCE)).unwrap();
    manager.hears("WATCHDOG=1");
    let (exit, log) = daemon.stop();
    assert!(exit.success(), "{log}");
}

/// Starts a vipd whose standard error is a socket, and tells it of the journal; gives the lines of its log.
fn journalled(name: &str, config: &str, journal: bool, format: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("config.yaml");
    fs::write(&file, config).unwrap();
    let (own, other) = UnixStream::pair().unwrap();
    let stat = rustix::fs::fstat(&other).unwrap();
    let inode = if journal { stat.st_ino } else { stat.st_ino + 1 };
    let mut child = Command::new(env!("CARGO_BIN_EXE_vipd"))
        .args(["start", "--log-format", format, "-c"])
        .arg(&file)
        .arg("--socket")
        .arg(folder.join("vipd.sock"))
        .env("JOURNAL_STREAM", format!("{}:{inode}", stat.st_dev))
        .stderr(Stdio::from(OwnedFd::from(other)))
        .spawn()
        .unwrap();
    let mut lines = Vec::new();
    for line in BufReader::new(own).lines() {
        let line = line.unwrap();
        if line.contains("vipd starts") {
            kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        }
        lines.push(line);
    }
    child.wait().unwrap();
    lines
}

#[test]
fn the_journal_is_told_how_much_a_line_matters() {
    // The host of a peer is warned about, as it has no key.
    let config = "localPeer: {id: a, address: 127.0.0.1, port: 10000, witness: true}\nremotePeers: [{id: b, address: 127.0.0.2, port: 10000}, {id: c, address: 127.0.0.3, port: 10000}]\nvip: 10.9.9.9\n";
    for format in ["text", "json"] {
        let lines = journalled("service-journal", config, true, format);
        let with = |words: &str, priority: &str| {
            let line = lines.iter().find(|line| line.contains(words));
            assert!(line.is_some_and(|line| line.starts_with(priority)), "{words}: {lines:?}");
        };
        with("vipd starts", "<6>");
        with("peers are not authenticated", "<4>");
        assert!(lines.iter().all(|line| line.starts_with('<')), "{lines:?}");
    }
    let refused = journalled("service-journal-refused", "loadBalancers: [{port: 1}]\n", true, "text");
    assert!(refused.len() > 1 && refused.iter().all(|line| line.starts_with("<3>")), "{refused:?}");
    let elsewhere = journalled("service-journal-elsewhere", config, false, "text");
    assert!(elsewhere.iter().all(|line| !line.starts_with('<')), "{elsewhere:?}");
}
