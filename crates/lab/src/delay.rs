//! A slow cable: each frame of a host is held back for a while, either way.
//!
//! ```text
//!   host ens3 ──── port `master-1` ──▶ relay, a thread ──▶ `master-1.far` ──── `master-1.sw`, a port of the switch
//!                                  ◀──                 ◀──
//! ```
//!
//! The kernel here has no netem. The thread reads frames from one side with a packet socket, and writes them to the other
//! when their time has come. With jitter each frame has a delay of its own, and one may overtake another.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags};
use socket2::{Domain, Socket, Type};
use tokio::time::Instant;
use tracing::warn;

use crate::sys;

/// How slow a cable is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slowness {
    /// Every frame is held back for that long, each way.
    pub latency: Duration,
    /// And for up to so much more, drawn for each frame.
    pub jitter: Duration,
}

/// Frames held back at a time; what comes beyond is lost, as in any queue. A client and two peers send a few hundred in
/// the longest delay.
const QUEUE_MAX: usize = 4096;
/// The largest frame that one piece of work of the kernel's segmentation can be, with the header that says so.
const FRAME_MAX: usize = 1 << 17;
/// How soon the thread sees that it is to end.
const STOP_INTERVAL: Duration = Duration::from_millis(20);

/// `ETH_P_ALL`: frames of every protocol.
const ALL_PROTOCOLS: u16 = 3;

/// Relays until it is dropped.
#[derive(Debug)]
pub(crate) struct Relay {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Starts to relay between two interfaces of the calling thread's namespace.
    ///
    /// # Errors
    /// If a packet socket or the thread can't be had.
    pub(crate) fn start(interfaces: [u32; 2], slowness: Slowness, seed: u64) -> Result<Self> {
        let sides = [open(interfaces[0])?, open(interfaces[1])?];
        let stop = Arc::new(AtomicBool::new(false));
        let mut cable = Cable {
            sides,
            slowness,
            dice: fastrand::Rng::with_seed(seed),
            queue: BinaryHeap::new(),
            count: 0,
            buffer: vec![0; FRAME_MAX],
        };
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("delay".to_owned()).spawn(move || {
            if let Err(error) = cable.run(&stopped) {
                warn!(%error, "a slow cable is torn");
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// A frame, with the kernel's header before it: when it is due, its number, the side it came from.
type Held = Reverse<(Instant, u64, usize, Vec<u8>)>;

struct Cable {
    sides: [Socket; 2],
    slowness: Slowness,
    dice: fastrand::Rng,
    queue: BinaryHeap<Held>,
    /// Frames so far: those due at the same instant leave in the order in which they came.
    count: u64,
    buffer: Vec<u8>,
}

impl Cable {
    fn run(&mut self, stop: &AtomicBool) -> io::Result<()> {
        while !stop.load(Ordering::Relaxed) {
            self.release();
            self.wait()?;
            for side in 0..self.sides.len() {
                self.take(side)?;
            }
        }
        Ok(())
    }

    fn wait(&self) -> io::Result<()> {
        let due = self.queue.peek().map_or(STOP_INTERVAL, |Reverse((due, ..))| {
            due.saturating_duration_since(Instant::now()).min(STOP_INTERVAL)
        });
        let left = Timespec { tv_sec: 0, tv_nsec: due.as_nanos().try_into().unwrap_or(i64::MAX) };
        let mut sides = [0, 1].map(|side| PollFd::new(&self.sides[side], PollFlags::IN));
        match poll(&mut sides, Some(&left)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes all frames that are there on one side.
    fn take(&mut self, side: usize) -> io::Result<()> {
        loop {
            let length = match rustix::net::recv(&self.sides[side], &mut self.buffer[..], RecvFlags::DONTWAIT)
            {
                Ok((length, _)) => length,
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(()),
                // The port is down: nothing comes, and when it is up again, frames do.
                Err(rustix::io::Errno::NETDOWN) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            if self.queue.len() < QUEUE_MAX {
                let due =
                    Instant::now() + self.slowness.latency + self.slowness.jitter.mul_f64(self.dice.f64());
                self.count += 1;
                self.queue.push(Reverse((due, self.count, side, self.buffer[..length].to_vec())));
            }
        }
    }

    /// Sends on whatever is due.
    fn release(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((due, ..))) = self.queue.peek()
            && *due <= now
        {
            if let Some(Reverse((_, _, side, frame))) = self.queue.pop() {
                // A frame that the other side doesn't take is lost, as on any cable.
                rustix::net::send(&self.sides[1 - side], &frame, SendFlags::DONTWAIT).ok();
            }
        }
    }
}

/// A packet socket for what enters by an interface, whatever it is. Each frame has a header before it, by which the kernel
/// says what is left to do about its checksum and its size; sent with the frame, it tells the kernel to do so.
fn open(interface: u32) -> Result<Socket> {
    let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), None)
        .context("failed to open a packet socket")?;
    sys::set_packet_option(&socket, sys::PacketOption::Header)?;
    sys::set_packet_option(&socket, sys::PacketOption::IgnoreOutgoing)?;
    socket
        .bind(&sys::link_layer_address(ALL_PROTOCOLS, interface))
        .context("failed to bind a packet socket")?;
    Ok(socket)
}
