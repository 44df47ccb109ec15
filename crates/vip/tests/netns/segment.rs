//! A segment for the tests: a switch and stations, each in a network namespace of its own.
//!
//! Nothing has a name outside: when the last descriptor closes, also because the process was killed, the kernel removes
//! the namespaces and what is in them.

use rustix::thread::{LinkNameSpaceType, UnshareFlags};
use socket2::{Domain, Protocol, Socket, Type};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use vip::address::Mac;

/// A network namespace that lives as long as this.
#[derive(Clone)]
pub(crate) struct Namespace {
    file: Arc<File>,
}

/// Stations on a bridge. Their interface is `eth0`, with the addresses 10.0.0.n/24 and fd00::n/64, n from 1.
pub(crate) struct Segment {
    pub(crate) switch: Namespace,
    pub(crate) stations: Vec<Namespace>,
}

impl Segment {
    /// Builds it; `None`, said aloud, without the rights to.
    pub(crate) fn new(stations: usize) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: network namespaces need root");
            return None;
        }
        let switch = Namespace::new();
        switch.ip("link add br0 type bridge forward_delay 0 mcast_snooping 0");
        switch.ip("link set br0 up");
        let segment = Self { switch, stations: (0..stations).map(|_| Namespace::new()).collect() };
        for (n, station) in (1..).zip(&segment.stations) {
            segment.plug(n);
            station.ip("link set lo up");
            // Ready at once: the tests don't wait for duplicate address detection of what isn't tested.
            station.ip(&format!("address add 10.0.0.{n}/24 dev eth0"));
            station.ip(&format!("address add fd00::{n}/64 dev eth0 nodad"));
        }
        Some(segment)
    }

    /// Makes station n an `eth0` on the bridge's port `p<n>`.
    pub(crate) fn plug(&self, n: usize) {
        let station = &self.stations[n - 1];
        let mac = mac(n).map(|octet| format!("{octet:02x}")).join(":");
        self.switch
            .ip(&format!("link add p{n} type veth peer name eth0 address {mac} netns {}", station.path()));
        self.switch.ip(&format!("link set p{n} master br0 up"));
        station.ip("link set eth0 up");
        // The carrier comes at once, the bridge hears of it up to a second later and drops frames until then.
        let carrier = || station.ip("-o link show dev eth0").contains("LOWER_UP");
        let forwards = || self.switch.ip(&format!("-d -o link show dev p{n}")).contains("state forwarding");
        eventually("the port forwards", || carrier() && forwards());
    }
}

/// An `nft` that waits for words. It ends with this.
pub(crate) struct Nft(Child);

impl Nft {
    pub(crate) fn say(&mut self, words: &str) {
        let input = self.0.stdin.as_mut().expect("it is piped");
        writeln!(input, "{words}").expect("it reads");
        input.flush().expect("it reads");
    }
}

impl Drop for Nft {
    fn drop(&mut self) {
        // At the end of its input it ends by itself.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

impl Namespace {
    fn new() -> Self {
        let thread = std::thread::spawn(|| {
            // SAFETY: only the network namespace of this short-lived thread changes, and no memory is shared through it.
            #[expect(unsafe_code, reason = "rustix marks unshare as unsafe for flags that aren't used here")]
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.expect("root may unshare");
            File::open("/proc/thread-self/ns/net").expect("a thread has a namespace")
        });
        Self { file: Arc::new(thread.join().expect("the thread doesn't panic")) }
    }

    /// Runs this on a thread of its own inside the namespace.
    pub(crate) fn enter<R: Send>(&self, inside: impl FnOnce() -> R + Send) -> R {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                rustix::thread::move_into_link_name_space(
                    self.file.as_fd(),
                    Some(LinkNameSpaceType::Network),
                )
                .expect("root may enter a namespace");
                inside()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a future on a runtime of its own inside the namespace.
    pub(crate) fn run<R: Send>(&self, inside: impl Future<Output = R> + Send) -> R {
        self.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime can be had").block_on(inside)
        })
    }

    /// Runs `ip` with these words and returns what it prints.
    pub(crate) fn ip(&self, words: &str) -> String {
        let (printed, failed) = self.try_ip(words);
        assert!(failed.is_empty(), "ip {words}: {failed}");
        printed
    }

    /// Runs `ip`; returns what it prints and what it complains.
    pub(crate) fn try_ip(&self, words: &str) -> (String, String) {
        let output =
            self.enter(|| Command::new("ip").args(words.split(' ')).output().expect("ip is installed"));
        let text = |bytes| String::from_utf8(bytes).expect("ip prints text");
        (text(output.stdout), text(output.stderr))
    }

    /// Runs these lines in one `ip`.
    pub(crate) fn ip_batch(&self, lines: &str) {
        self.enter(|| {
            let child = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn();
            let mut child = child.expect("ip is installed");
            let mut input = child.stdin.take().expect("it is piped");
            input.write_all(lines.as_bytes()).expect("ip reads its input");
            drop(input);
            assert!(child.wait().expect("ip ends").success(), "ip -batch failed");
        });
    }

    /// Runs `nft` with these words and returns what it prints.
    pub(crate) fn nft(&self, words: &str) -> String {
        let output =
            self.enter(|| Command::new("nft").args(words.split(' ')).output().expect("nft is installed"));
        assert!(output.status.success(), "nft {words}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("nft prints text")
    }

    /// Starts an `nft` that keeps what it makes for itself as long as it runs.
    pub(crate) fn nft_that_waits(&self) -> Nft {
        self.enter(|| {
            let child = Command::new("nft").arg("-i").stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
            Nft(child.expect("nft is installed"))
        })
    }

    /// Whether the address stands on eth0.
    pub(crate) fn has(&self, ip: &str) -> bool {
        self.ip("-o address show dev eth0").contains(&format!(" {ip}/"))
    }

    /// Captures what arrives on eth0 and what leaves it.
    pub(crate) fn capture(&self) -> Capture {
        let socket = self.enter(|| {
            let all = Protocol::from(i32::from(ETH_P_ALL.to_be()));
            Socket::new(Domain::PACKET, Type::RAW, Some(all)).expect("root may capture")
        });
        Capture::start(socket)
    }

    /// By which `ip` finds it.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }
}

/// Hardware address of station n.
pub(crate) fn mac(n: usize) -> Mac {
    [0x02, 0, 0, 0, 0, u8::try_from(n).expect("few stations")]
}

/// Waits until it is so; fails the test if it takes far too long.
pub(crate) fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Frames of a namespace, each with its time.
pub(crate) struct Capture {
    frames: Receiver<(Instant, Vec<u8>)>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    fn start(mut socket: Socket) -> Self {
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a socket takes a timeout");
        let ends = Arc::new(AtomicBool::new(false));
        let (sender, frames) = channel();
        let end = Arc::clone(&ends);
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !end.load(Ordering::Relaxed) {
                if let Ok(length) = socket.read(&mut buffer) {
                    let _ = sender.send((Instant::now(), buffer[..length].to_vec()));
                }
            }
        });
        Self { frames, ends, thread: Some(thread) }
    }

    /// Waits for the next frame that this picks.
    pub(crate) fn next<T>(&self, pick: impl Fn(&[u8]) -> Option<T>) -> (Instant, T) {
        loop {
            let (at, frame) = self.frames.recv_timeout(PATIENCE).expect("waited in vain for a frame");
            if let Some(picked) = pick(&frame) {
                return (at, picked);
            }
        }
    }

    /// Returns those of the frames so far that this picks.
    pub(crate) fn so_far<T>(&self, pick: impl Fn(&[u8]) -> Option<T>) -> Vec<(Instant, T)> {
        self.frames.try_iter().filter_map(|(at, frame)| pick(&frame).map(|picked| (at, picked))).collect()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Far beyond what anything here takes: the machines that run this are busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

const ETH_P_ALL: u16 = 3;
