//! A log whose reader has stopped to read: its pipe is full, and stays so.

use std::fs::File;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use rustix::io::ioctl_fionread;
use rustix::pipe::fcntl_setpipe_size;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::time::Instant;

use super::rig::{Daemon, Enclosed, PATIENCE};

/// A host that leads alone, as two others are not there.
const CONFIG: &str = "localPeer: {id: a, address: 127.0.0.1, port: 10000}\nremotePeers:\n\
    - {id: b, address: 127.0.0.2, port: 10000}\n- {id: c, address: 127.0.0.3, port: 10000}\n\
    vip: 10.9.9.9\ninterface: eth0\nstartAsLeader: true\ntiming: {heartbeat: 50ms, lease: 1s}\n";

const BEGIN: &str = "ip link set lo up && ip link add eth0 type veth peer name other && ip link set eth0 up && \
    ip link set other up && VIPD_LOG=trace exec \"$0\" \"$@\"";

/// Longer than a lease.
const LEASES: Duration = Duration::from_secs(3);

/// More than a pipe holds as lines of a log, and fewer than the socket's buffer.
const SOME: usize = 100;

/// A leader whose log is not read any more, and who has something to log.
struct Unread {
    daemon: Daemon,
    /// In its namespace. Each datagram from here is a line of its log.
    stranger: UdpSocket,
}

impl Unread {
    fn new(name: &str) -> Option<Self> {
        let network = Enclosed::new("a vipd with an address")?;
        let mut daemon = network.launch_by(&["sh", "-c", BEGIN], name, CONFIG, None);
        daemon.read_until("became leader");
        let namespace = File::open(format!("/proc/{}/ns/net", daemon.child.id())).unwrap();
        let entering = thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            UdpSocket::bind("127.0.0.1:0").unwrap()
        });
        let unread = Self { daemon, stranger: entering.join().unwrap() };
        let size = fcntl_setpipe_size(unread.daemon.log.get_ref(), 4096).unwrap();
        let began = Instant::now();
        // Full as far as a line more doesn't fit; what comes then fills the queue.
        while unread.waiting() + 512 < u64::try_from(size).unwrap() {
            unread.make_noise();
            assert!(began.elapsed() < PATIENCE, "{} of {size} bytes are full", unread.waiting());
        }
        Some(unread)
    }

    /// How much of the log waits to be read.
    fn waiting(&self) -> u64 {
        ioctl_fionread(self.daemon.log.get_ref()).unwrap()
    }

    /// Has it log some lines; they are logged when this returns, as the main loop has answered a question after them.
    fn make_noise(&self) {
        for _ in 0..SOME {
            self.stranger.send_to(b"noise", "127.0.0.1:10000").unwrap();
        }
        self.lease_left();
    }

    fn lease_left(&self) -> (Option<u64>, Option<u64>) {
        let output = self.daemon.status(&["--json"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (told["owners"][0]["lease_left_ms"].as_u64(), told["owners"][0]["term"].as_u64())
    }
}

#[test]
fn a_leader_whose_log_is_not_read_keeps_its_lease_and_says_afterwards_how_much_was_lost() {
    let Some(unread) = Unread::new("unread-lease") else { return };
    let (_, term) = unread.lease_left();
    assert!(term.is_some());
    let began = Instant::now();
    let mut asked = 0;
    // The queue holds some thousand lines.
    while began.elapsed() < LEASES || asked * SOME < 10_000 {
        unread.make_noise();
        let (left, now) = unread.lease_left();
        assert!(left.is_some() && now == term, "{left:?} ms left in term {now:?}, of {term:?}");
        asked += 1;
    }
    let Unread { mut daemon, .. } = unread;
    let read = daemon.read_until("lines of the log were dropped");
    assert!(read.lines().count() < asked * SOME, "nothing was dropped");
    let (exit, log) = daemon.stop();
    assert!(exit.success() && log.contains("vipd stopped"), "{log}");
    assert!(!read.contains("lost leadership") && !log.contains("lost leadership"), "{log}");
}

#[test]
fn a_stop_does_not_wait_for_a_reader() {
    let Some(Unread { mut daemon, .. }) = Unread::new("unread-stop") else { return };
    daemon.terminate();
    let began = Instant::now();
    let exit = daemon.child.wait().unwrap();
    assert!(exit.success(), "{exit}");
    assert!(began.elapsed() < PATIENCE);
}
