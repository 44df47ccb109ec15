//! Who answers for the virtual IP: an ARP request every 10 ms, and the Ethernet addresses in the answers.
//!
//! Each request carries a sender address of its own (10.0.0.200 to .249, in turn), which the answer repeats:
//! so an answer is known to belong to its request, and two answers to one request are two owners at once.

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, Read as _};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::time::Instant;
use tracing::warn;

use crate::journal::Journal;
use crate::network::{Host, VIP};
use crate::sys;

/// Time between two requests.
pub const INTERVAL: Duration = Duration::from_millis(10);
/// How long an answer is waited for; ten requests are open at a time.
const PATIENCE: Duration = Duration::from_millis(100);
/// Sender addresses in turn: a multiple of the open requests.
const TAGS: u8 = 50;
const FIRST_TAG: u8 = 200;
/// Requests remembered: ten minutes.
const MEMORY: usize = 60_000;

const ETHERTYPE_ARP: u16 = 0x0806;
const REQUEST: u16 = 1;
const REPLY: u16 = 2;
const FRAME_LENGTH: usize = 42;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// One request and who answered it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// When the request left.
    pub at: Instant,
    /// The Ethernet addresses in the answers.
    pub answers: BTreeSet<Mac>,
}

/// Asks until it is dropped.
#[derive(Debug)]
pub struct ArpObserver {
    rounds: Arc<Journal<Round>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl ArpObserver {
    /// Starts to ask from a host.
    ///
    /// # Errors
    /// If the raw socket cannot be had.
    pub fn start(host: &Host) -> Result<Self> {
        let socket = host.namespace.within(|| open(host.interface))?;
        let rounds = Arc::new(Journal::new(MEMORY));
        let stop = Arc::new(AtomicBool::new(false));
        let asker = Asker {
            socket,
            mac: host.mac,
            network: host.address,
            open: VecDeque::new(),
            rounds: Arc::clone(&rounds),
        };
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("arp".to_owned()).spawn(move || {
            if let Err(error) = asker.run(&stopped) {
                warn!(%error, "the ARP observer ended");
            }
        })?;
        Ok(Self { rounds, stop, thread: Some(thread) })
    }

    /// The requests whose time for answers is over.
    pub fn rounds(&self) -> &Journal<Round> {
        &self.rounds
    }
}

impl Drop for ArpObserver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// The most answers to one request since an instant, and for how long more than one answered, all in all.
pub fn at_once<'a>(rounds: impl Iterator<Item = &'a Round>, from: Instant) -> (usize, Duration) {
    let counts = rounds.filter(|round| round.at >= from).map(|round| round.answers.len());
    counts.fold((0, Duration::ZERO), |(most, time), count| {
        (most.max(count), if count > 1 { time + INTERVAL } else { time })
    })
}

/// The longest time since an instant in which nobody answered: from a request without an answer to the next one with one, or to the
/// last one.
pub fn longest_unanswered<'a>(rounds: impl Iterator<Item = &'a Round>, from: Instant) -> Duration {
    let mut longest = Duration::ZERO;
    let mut since = None;
    for round in rounds.filter(|round| round.at >= from) {
        let began = *since.get_or_insert(round.at);
        longest = longest.max(round.at - began);
        if !round.answers.is_empty() {
            since = None;
        }
    }
    longest
}

fn open(interface: u32) -> Result<Socket> {
    let protocol = Protocol::from(i32::from(ETHERTYPE_ARP.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), Some(protocol))
        .context("failed to open a raw socket")?;
    socket.bind(&sys::link_layer_address(ETHERTYPE_ARP, interface))?;
    Ok(socket)
}

struct Asker {
    socket: Socket,
    mac: Mac,
    network: Ipv4Addr,
    open: VecDeque<(u8, Round)>,
    rounds: Arc<Journal<Round>>,
}

impl Asker {
    fn run(mut self, stop: &AtomicBool) -> io::Result<()> {
        rustix::process::setpriority_process(None, -10).ok();
        let mut next = Instant::now();
        let mut turn = 0;
        while !stop.load(Ordering::Relaxed) {
            let tag = FIRST_TAG + turn;
            turn = (turn + 1) % TAGS;
            let at = Instant::now();
            match self.socket.send(&request(self.mac, self.tagged(tag))) {
                Ok(_) => self.open.push_back((tag, Round { at, answers: BTreeSet::new() })),
                // The client's own link is never taken down; a full queue is not worth a word.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            next = (next + INTERVAL).max(at);
            self.listen_until(next)?;
            while let Some((_, round)) = self.open.pop_front_if(|(_, round)| round.at + PATIENCE < next) {
                self.rounds.push(round);
            }
        }
        Ok(())
    }

    fn listen_until(&mut self, end: Instant) -> io::Result<()> {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let left = Timespec { tv_sec: 0, tv_nsec: left.as_nanos().try_into().unwrap_or(i64::MAX) };
            match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&left)) {
                Ok(0) => return Ok(()),
                Ok(_) => self.receive()?,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn receive(&mut self) -> io::Result<()> {
        let mut frame = [0; 128];
        match (&self.socket).read(&mut frame) {
            Ok(length) => {
                let Some((target, mac)) = parse_answer(&frame[..length], self.mac) else { return Ok(()) };
                let tag = target.octets()[3];
                if target == self.tagged(tag) {
                    let asked = self.open.iter_mut().rev().find(|(open, _)| *open == tag);
                    asked.map(|(_, round)| round.answers.insert(mac));
                }
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn tagged(&self, tag: u8) -> Ipv4Addr {
        let [a, b, c, _] = self.network.octets();
        Ipv4Addr::new(a, b, c, tag)
    }
}

/// An ARP request for the virtual IP (RFC 826), Ethernet header included.
fn request(mac: Mac, sender: Ipv4Addr) -> [u8; FRAME_LENGTH] {
    let mut frame = [0; FRAME_LENGTH];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&ETHERTYPE_ARP.to_be_bytes());
    // Ethernet, IPv4, six and four bytes.
    frame[14..20].copy_from_slice(&[0, 1, 8, 0, 6, 4]);
    frame[20..22].copy_from_slice(&REQUEST.to_be_bytes());
    frame[22..28].copy_from_slice(&mac);
    frame[28..32].copy_from_slice(&sender.octets());
    frame[38..42].copy_from_slice(&VIP.octets());
    frame
}

/// Reads a reply to us about the virtual IP: the address it was asked from, and who answers.
fn parse_answer(frame: &[u8], me: Mac) -> Option<(Ipv4Addr, Mac)> {
    let frame = frame.get(..FRAME_LENGTH)?;
    let to_me = frame[..6] == me && frame[12..14] == ETHERTYPE_ARP.to_be_bytes();
    let reply = frame[14..20] == [0, 1, 8, 0, 6, 4] && frame[20..22] == REPLY.to_be_bytes();
    let about_vip = frame[28..32] == VIP.octets();
    if !(to_me && reply && about_vip) {
        return None;
    }
    let mac: Mac = frame[22..28].try_into().ok()?;
    let asked_from: [u8; 4] = frame[38..42].try_into().ok()?;
    Some((asked_from.into(), mac))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: Mac = [2, 0, 10, 0, 0, 10];
    const OWNER: Mac = [2, 0, 10, 0, 0, 163];

    fn reply() -> [u8; FRAME_LENGTH] {
        let mut frame = request(OWNER, VIP);
        frame[..6].copy_from_slice(&ME);
        frame[20..22].copy_from_slice(&REPLY.to_be_bytes());
        frame[32..38].copy_from_slice(&ME);
        frame[38..42].copy_from_slice(&[10, 0, 0, 207]);
        frame
    }

    #[test]
    fn a_reply_names_the_request_it_answers_and_who_answers() {
        assert_eq!(parse_answer(&reply(), ME), Some((Ipv4Addr::new(10, 0, 0, 207), OWNER)));
    }

    #[test]
    fn a_gratuitous_announcement_or_a_short_frame_is_no_answer() {
        let mut gratuitous = reply();
        gratuitous[..6].fill(0xff);
        assert_eq!(parse_answer(&gratuitous, ME), None);
        assert_eq!(parse_answer(&request(OWNER, VIP), ME), None);
        for length in 0..FRAME_LENGTH {
            assert_eq!(parse_answer(&reply()[..length], ME), None, "{length} bytes");
        }
    }

    #[test]
    fn nobody_has_it_from_the_first_request_without_an_answer_to_the_next_with_one() {
        let start = Instant::now();
        let round = |turn: u32, answers: &[Mac]| Round {
            at: start + INTERVAL * turn,
            answers: answers.iter().copied().collect(),
        };
        let mut rounds =
            vec![round(0, &[]), round(1, &[OWNER]), round(2, &[]), round(3, &[]), round(5, &[ME])];
        assert_eq!(longest_unanswered(rounds.iter(), start), INTERVAL * 3);
        assert_eq!(longest_unanswered(rounds.iter(), start + INTERVAL * 3), INTERVAL * 2);
        assert_eq!(longest_unanswered(rounds[1..2].iter(), start), Duration::ZERO);
        rounds.extend([round(6, &[]), round(16, &[])]);
        assert_eq!(longest_unanswered(rounds.iter(), start), INTERVAL * 10);
    }

    #[test]
    fn two_answers_to_one_request_are_two_at_once() {
        let at = Instant::now();
        let round = |answers: &[Mac]| Round { at, answers: answers.iter().copied().collect() };
        let rounds = [round(&[OWNER]), round(&[OWNER, ME]), round(&[])];

        assert_eq!(at_once(rounds.iter(), at), (2, INTERVAL));
        assert_eq!(at_once(rounds.iter(), at + INTERVAL), (0, Duration::ZERO));
    }
}
