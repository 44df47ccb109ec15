//! Threads that send, as an attacker would.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::time::Instant;

use crate::namespace::Namespace;

/// A thread that does something again and again until it's told to stop, and counts.
#[derive(Debug)]
pub(super) struct Sender {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Sender {
    /// Calls `turn` until this is stopped or dropped; what it returns is added up.
    pub(super) fn start(mut turn: impl FnMut() -> u64 + Send + 'static) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("attacker".to_owned()).spawn(move || {
            let mut sent = 0;
            while !stopped.load(Ordering::Relaxed) {
                sent += turn();
            }
            sent
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Ends it; how much it did.
    pub(super) fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map_or(0, |thread| thread.join().unwrap_or(0))
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// A socket whose packets have the IPv4 header that they are given, the sender's address with it.
pub(super) struct Raw(Socket);

impl Raw {
    pub(super) fn open(from: &Namespace) -> Result<Self> {
        let raw = || Ok(Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255)))?);
        from.within(raw).map(Self)
    }

    /// Sends a packet to where its header says; a full queue loses it, as a wire would. How many were sent.
    pub(super) fn send(&self, packet: &[u8]) -> u64 {
        let to: [u8; 4] = packet[16..20].try_into().expect("it has a header");
        u64::from(self.0.send_to(packet, &SocketAddr::from((to, 0)).into()).is_ok())
    }
}

/// A pace: so many things a second, in portions of a millisecond.
pub(super) struct Pace {
    per_portion: u64,
    next: Instant,
}

impl Pace {
    const PORTION: Duration = Duration::from_millis(1);

    pub(super) fn per_second(number: u64) -> Self {
        Self { per_portion: (number / 1000).max(1), next: Instant::now() }
    }

    /// Waits for the next portion, and says how many it has. What wasn't done in time isn't made up for.
    pub(super) fn portion(&mut self) -> u64 {
        let now = Instant::now();
        if let Some(wait) = self.next.checked_duration_since(now) {
            pause(wait);
        }
        self.next = self.next.max(now) + Self::PORTION;
        self.per_portion
    }
}

/// Holds an attacker's thread back: the pace of what it does to others, not a wait for something.
#[expect(clippy::disallowed_methods, reason = "a thread of its own, which awaits nothing")]
pub(super) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// What isn't there yet is no error where one looks again.
pub(super) fn nothing_yet(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}
