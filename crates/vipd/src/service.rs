//! What the service manager is told, where one has started this process and wants to hear of it: sd_notify(3).
//!
//! ```text
//!   READY=1 STATUS=…                       all is started: sockets are open, this node takes part
//!   STATUS=…                               who leads, what has become of the addresses
//!   RELOADING=1 MONOTONIC_USEC=… … READY=1 around a SIGHUP
//!   WATCHDOG=1                             the main loop runs, from itself
//!   MAINPID=… WATCHDOG=1                   another process is the service now (SIGUSR2); nothing follows
//!   STOPPING=1                             a stop was asked for
//! ```
//!
//! The whole protocol is a datagram of text lines, so that it takes no crate. The manager may be a thing that stands still: what is
//! said by the main loop itself never waits for it, and what else is said waits for a second.

use std::cell::Cell;
use std::io;
use std::time::Duration;

use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, sendto, socket_with,
};
use rustix::time::{ClockId, clock_gettime};
use tokio::net::UnixDatagram;
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

/// Where to tell it.
const SOCKET: &str = "NOTIFY_SOCKET";

/// How long the manager waits for a sign of life, in microseconds.
const WATCHDOG: &str = "WATCHDOG_USEC";

/// Whose signs of life these are, where not everybody's. A successor is not told: its process is not known before it runs.
pub(crate) const WATCHDOG_PROCESS: &str = "WATCHDOG_PID";

/// How long a manager that doesn't read is waited for.
const TELL_MAX: Duration = Duration::from_secs(1);

/// The service manager; or nobody, who is told nothing.
pub(crate) struct Service {
    address: Option<SocketAddrUnix>,
    /// Whether this process is the service, as far as the manager knows: it heeds nobody else.
    heard: Cell<bool>,
    /// How often it wants a sign of life, if it does.
    watchdog: Option<Duration>,
}

/// The main loop's signs of life.
pub(crate) struct Watchdog<'a> {
    service: &'a Service,
    interval: Duration,
    due: Instant,
}

impl Service {
    /// The manager that the environment names.
    pub(crate) fn find() -> Self {
        let address = std::env::var(SOCKET).ok().and_then(|name| match address(&name) {
            Ok(address) => Some(address),
            Err(error) => {
                warn!(socket = name, %error, "the service manager can't be told anything: {SOCKET} is no socket's address");
                None
            }
        });
        let read = |name| std::env::var(name).ok();
        let watchdog =
            interval(read(WATCHDOG).as_deref(), read(WATCHDOG_PROCESS).as_deref(), std::process::id());
        Self { watchdog: watchdog.filter(|_| address.is_some()), address, heard: Cell::new(true) }
    }

    /// Says whether the manager heeds this process.
    pub(crate) fn set_heard(&self, heard: bool) {
        self.heard.set(heard);
    }

    /// Says that all is started. Whether there is a leader or a backend yet is not part of it: these are others' doing, on hosts that
    /// may be about to start in their turn.
    pub(crate) async fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}")).await;
    }

    /// Says what this node is now.
    pub(crate) async fn status(&self, status: &str) {
        self.tell(&format!("STATUS={status}")).await;
    }

    /// Says that the configuration is about to be read again.
    pub(crate) async fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}")).await;
    }

    /// Says that it was, with whatever outcome.
    pub(crate) async fn reloaded(&self) {
        self.tell("READY=1").await;
    }

    /// Says that a stop was asked for.
    pub(crate) async fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=stopping: addresses are handed over, connections drain").await;
    }

    /// Says that from now on another process is the service. This one isn't heeded any more.
    pub(crate) async fn hand_over(&self, process: u32) {
        self.tell(&format!("MAINPID={process}\nWATCHDOG=1")).await;
        self.set_heard(false);
    }

    /// The signs of life, if any are wanted: two in the time that the manager waits, as sd_watchdog_enabled(3) advises.
    pub(crate) fn watchdog(&self) -> Option<Watchdog<'_>> {
        let interval = self.watchdog? / 2;
        // It waits from the word on that all is started.
        Some(Watchdog { service: self, interval, due: Instant::now() + interval })
    }

    async fn tell(&self, words: &str) {
        let Some(address) = self.address.as_ref().filter(|_| self.heard.get()) else { return };
        let send = async {
            let socket = socket()?;
            connect(&socket, address)?;
            UnixDatagram::from_std(socket.into())?.send(words.as_bytes()).await
        };
        match timeout(TELL_MAX, send).await {
            Ok(Ok(_)) => debug!(words, "the service manager knows"),
            Ok(Err(error)) => warn!(words, %error, "the service manager can't be told"),
            Err(_) => warn!(words, "the service manager doesn't listen"),
        }
    }
}

impl Watchdog<'_> {
    /// Gives a sign if one is due. One that the manager has no room for is due again the next time.
    pub(crate) fn tick(&mut self, now: Instant) {
        if !self.service.heard.get() {
            // The one before gives its last sign together with the word that this process is the service now, a moment after this one
            // begins to count as heard.
            self.due = now + self.interval;
            return;
        }
        let Some(address) = self.service.address.as_ref().filter(|_| self.due <= now) else { return };
        let told = socket().and_then(|socket| {
            Ok(sendto(&socket, b"WATCHDOG=1", SendFlags::DONTWAIT | SendFlags::NOSIGNAL, address)?)
        });
        match told {
            Ok(_) => self.due = now + self.interval,
            Err(error) => debug!(%error, "the service manager does not hear that the main loop runs"),
        }
    }
}

fn socket() -> io::Result<std::os::fd::OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?)
}

/// A path, or after an `@` a name in the kernel's own list.
fn address(name: &str) -> io::Result<SocketAddrUnix> {
    match name.strip_prefix('@') {
        Some(name) => Ok(SocketAddrUnix::new_abstract_name(name.as_bytes())?),
        None if name.starts_with('/') => Ok(SocketAddrUnix::new(name)?),
        None => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// How long the manager waits for a sign of this process's life, if it does.
fn interval(micros: Option<&str>, process: Option<&str>, own: u32) -> Option<Duration> {
    if process.is_some_and(|process| process.parse() != Ok(own)) {
        return None;
    }
    let micros: u64 = micros?.parse().ok()?;
    (micros > 0).then(|| Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_of_life_are_wanted_of_the_named_process_alone() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(interval(Some("10000000"), None, 7), seconds(10));
        assert_eq!(interval(Some("10000000"), Some("7"), 7), seconds(10));
        assert_eq!(interval(Some("10000000"), Some("8"), 7), None);
        assert_eq!(interval(Some("10000000"), Some(""), 7), None);
        assert_eq!(interval(None, Some("7"), 7), None);
        for nothing in ["0", "", "-1", "10s"] {
            assert_eq!(interval(Some(nothing), None, 7), None, "{nothing}");
        }
    }

    #[test]
    fn a_socket_has_a_path_or_an_abstract_name() {
        assert_eq!(
            address("/run/systemd/notify").unwrap().path().unwrap().to_str(),
            Ok("/run/systemd/notify")
        );
        assert_eq!(address("@vipd/test").unwrap().abstract_name(), Some(&b"vipd/test"[..]));
        for wrong in ["", "notify", "vsock:2:1234"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
        assert!(address(&format!("/{}", "x".repeat(200))).is_err());
    }
}
