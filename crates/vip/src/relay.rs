//! Frames that still come for addresses which this node has given up in good order, and the short time in which they are
//! passed on.
//!
//! A client sends to the station that it heard of last. In the milliseconds between the withdrawal of an address here and
//! the successor's first announcement that is still this node; and what a client sends then, the beginning of a
//! connection for example, it would send again after a second. So the frames are caught, held back until the successor
//! is heard announcing, and passed on to its hardware address: as they are, but for one hop less to live.
//!
//! ```text
//!  begin                  the successor is heard                    over
//!  ├── frames are held back ──┼── those held, and all others, go to it ─┤
//!  │   (SUCCESSOR_WITHIN)     │   (FOLLOWS_FOR)                         │
//! ```
//!
//! Relaying is not owning: nobody is answered, by whatever protocol, and the address is not here. It follows only an address that
//! was given up by word while its lease lived; when a lease has run out, another may have the address already.
//!
//! A connection that this node has accepted ends with the move. In its last moments here that may be one that is no older than the
//! client's own knowledge of it: were it reset at once, the client's connect would fail. So connections are
//! [spared](Farewell::spares) for a moment, and while frames are held back, those that tell of a connection made here are not
//! among them: the successor would answer with a reset.
//!
//! [`Farewell`] is the driver's part, [`Relay`] that of whoever catches the frames.

use crate::address::Mac;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

/// How long a successor may need until it announces itself. Peers hand over in milliseconds, a Lease in some tens; after a second
/// the client itself sends again.
pub const SUCCESSOR_WITHIN: Duration = Duration::from_millis(500);

/// How long frames are passed on after the successor was heard: its announcements at 0, 50 and 200 ms have been sent by then, for
/// a client that has missed the first.
pub const FOLLOWS_FOR: Duration = Duration::from_millis(300);

/// How long after that connections made here are left alone: so long a client may need to be told by its own kernel that it is
/// connected, also on a busy machine.
pub const SPARED_FOR: Duration = Duration::from_millis(50);

/// What is to be done with frames for addresses that are given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errand {
    /// The station that they go to; while there is none, they are held back.
    pub to: Option<Mac>,
    /// From then on they are nobody's business here.
    pub until: Instant,
}

/// When frames are relayed, and to whom: a function of (state, input, now).
#[derive(Clone, Debug, Default)]
pub struct Farewell {
    errand: Option<Errand>,
    /// When the successor was heard.
    heard: Option<Instant>,
}

impl Farewell {
    /// The addresses are about to be given up by word.
    pub fn begin(&mut self, now: Instant) {
        *self = Self { errand: Some(Errand { to: None, until: now + SUCCESSOR_WITHIN }), heard: None };
    }

    /// Another station announces that it has one of the addresses; they move together. The last to say so counts, and the
    /// time is not extended a second time: so it is bounded, whatever is heard.
    pub fn handle_claim(&mut self, mac: Mac, now: Instant) {
        if let Some(errand) = self.errand(now) {
            let until = if errand.to.is_some() { errand.until } else { now + FOLLOWS_FOR };
            self.errand = Some(Errand { to: Some(mac), until });
            self.heard.get_or_insert(now);
        }
    }

    /// Ends it at once: the addresses are wanted here again, or the link is gone.
    pub fn end(&mut self) {
        *self = Self::default();
    }

    /// What is to be done now.
    #[must_use]
    pub fn errand(&self, now: Instant) -> Option<Errand> {
        self.errand.filter(|errand| now < errand.until)
    }

    /// Whether connections that were made here to the addresses are to be left alone for now.
    #[must_use]
    pub fn spares(&self, now: Instant) -> bool {
        self.errand(now).is_some() && self.heard.is_none_or(|heard| now < heard + SPARED_FOR)
    }

    /// When the next of the answers above changes by itself.
    #[must_use]
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let spared_until = self.heard.map(|heard| heard + SPARED_FOR).filter(|until| now < *until);
        self.errand.map(|errand| spared_until.map_or(errand.until, |until| until.min(errand.until)))
    }
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It has been rewritten, and is to be sent.
    Passed,
    /// It waits for the successor.
    Held,
    /// It isn't to be relayed, or too many wait.
    Dropped,
}

/// How many frames were relayed, and how many were not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Rewritten and given out.
    pub passed: u64,
    /// Dropped, or still held back when the time was over.
    pub dropped: u64,
}

/// The frames of one errand.
///
/// A parcel is a frame with the [`OFFLOAD_LEN`] octets before it that tell a network card how to cut it into segments and where
/// its checksum goes. They are not looked at: what the kernel has put together on receipt, it takes apart when sending.
#[derive(Debug)]
pub struct Relay {
    own: Mac,
    addresses: Vec<IpAddr>,
    errand: Errand,
    held: VecDeque<Held>,
    octets: usize,
    tally: Tally,
}

/// A parcel that waits.
#[derive(Debug)]
struct Held {
    parcel: Vec<u8>,
    /// The connection that it begins.
    begins: Option<Flow>,
}

impl Relay {
    /// A relay of the interface with this hardware address, for frames to these addresses.
    #[must_use]
    pub fn new(own: Mac, addresses: Vec<IpAddr>, errand: Errand) -> Self {
        Self { own, addresses, errand, held: VecDeque::new(), octets: 0, tally: Tally::default() }
    }

    /// Sets what is to be done from now on.
    pub fn set_errand(&mut self, errand: Errand) {
        self.errand = errand;
    }

    /// Takes a parcel that has come.
    pub fn handle_parcel(&mut self, parcel: &mut [u8], now: Instant) -> Fate {
        let fate = match parcel.get_mut(OFFLOAD_LEN..) {
            Some(frame) if now < self.errand.until && self.is_ours(frame) => match self.errand.to {
                // What the successor sends here for the address isn't sent back to it.
                Some(to) if source(frame) == to => Fate::Dropped,
                Some(to) if readdress(frame, self.own, to) => Fate::Passed,
                Some(_) => Fate::Dropped,
                None => self.hold(parcel),
            },
            Some(_) | None => Fate::Dropped,
        };
        match fate {
            Fate::Passed => self.tally.passed += 1,
            Fate::Held => {}
            Fate::Dropped => self.tally.dropped += 1,
        }
        fate
    }

    /// Gives the next of those that were held back, rewritten, once the successor is known.
    pub fn poll_held(&mut self, now: Instant) -> Option<Vec<u8>> {
        let to = self.errand.to.filter(|_| now < self.errand.until)?;
        while let Some(Held { mut parcel, .. }) = self.held.pop_front() {
            self.octets -= parcel.len();
            let frame = &mut parcel[OFFLOAD_LEN..];
            if source(frame) != to && readdress(frame, self.own, to) {
                self.tally.passed += 1;
                return Some(parcel);
            }
            self.tally.dropped += 1;
        }
        None
    }

    /// What has become of the frames so far; those that still wait count as dropped.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let waiting = u64::try_from(self.held.len()).unwrap_or(u64::MAX);
        Tally { dropped: self.tally.dropped + waiting, ..self.tally }
    }

    fn hold(&mut self, parcel: &[u8]) -> Fate {
        let segment = Segment::parse(&parcel[OFFLOAD_LEN..]);
        if let Some(segment) = segment.as_ref().filter(|segment| !segment.begins) {
            // The connection was made here, before the address was gone: its beginning is nothing to the successor.
            self.forget(segment.flow);
            if segment.is_bare {
                return Fate::Dropped;
            }
        }
        if self.held.len() == HELD_MAX || self.octets + parcel.len() > HELD_OCTETS_MAX {
            return Fate::Dropped;
        }
        self.octets += parcel.len();
        let begins = segment.filter(|segment| segment.begins).map(|segment| segment.flow);
        self.held.push_back(Held { parcel: parcel.to_vec(), begins });
        Fate::Held
    }

    fn forget(&mut self, flow: Flow) {
        let at = self.held.iter().position(|held| held.begins == Some(flow));
        if let Some(held) = at.and_then(|at| self.held.remove(at)) {
            self.octets -= held.parcel.len();
            self.tally.dropped += 1;
        }
    }

    /// Whether a frame was sent to this station, by another, for one of the addresses.
    fn is_ours(&self, frame: &[u8]) -> bool {
        let for_me = frame.get(..6) == Some(&self.own[..]) && source(frame) != self.own;
        for_me && destination(frame).is_some_and(|ip| self.addresses.contains(&ip))
    }
}

/// Both ends of a connection.
type Flow = (SocketAddr, SocketAddr);

/// What a TCP segment says of its connection.
struct Segment {
    flow: Flow,
    /// It is the first.
    begins: bool,
    /// It acknowledges something, and says nothing else.
    is_bare: bool,
}

impl Segment {
    /// Reads a frame whose packet is for one of the addresses; `None` if there is no TCP right behind the fixed header.
    fn parse(frame: &[u8]) -> Option<Self> {
        let ip = frame.get(ETHERNET_LEN..)?;
        let (client, protocol, header, total): (IpAddr, u8, usize, usize) = if ip[0] >> 4 == 4 {
            let source: [u8; 4] = ip[12..16].try_into().ok()?;
            let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
            (Ipv4Addr::from(source).into(), ip[9], usize::from(ip[0] & 0xf) * 4, total)
        } else {
            let source: [u8; 16] = ip[8..24].try_into().ok()?;
            let total = 40 + usize::from(u16::from_be_bytes([ip[4], ip[5]]));
            (Ipv6Addr::from(source).into(), ip[6], 40, total)
        };
        let tcp = ip.get(header..).filter(|tcp| protocol == TCP && tcp.len() >= 20)?;
        let port = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
        let server = destination(frame)?;
        let flags = tcp[13] & (FIN | SYN | RST | ACK);
        Some(Self {
            flow: (SocketAddr::new(client, port(0)), SocketAddr::new(server, port(2))),
            begins: flags == SYN,
            is_bare: flags == ACK && header + usize::from(tcp[12] >> 4) * 4 == total,
        })
    }
}

fn source(frame: &[u8]) -> Mac {
    frame.get(6..12).and_then(|octets| octets.try_into().ok()).unwrap_or_default()
}

/// Returns the address that the packet in a frame is for.
fn destination(frame: &[u8]) -> Option<IpAddr> {
    let ip = frame.get(ETHERNET_LEN..)?;
    match frame.get(12..14)? {
        IPV4 => {
            let octets: [u8; 4] = ip.get(16..20)?.try_into().ok()?;
            (ip[0] >> 4 == 4 && ip[0] & 0xf >= 5).then(|| Ipv4Addr::from(octets).into())
        }
        IPV6 => {
            let octets: [u8; 16] = ip.get(24..40)?.try_into().ok()?;
            (ip[0] >> 4 == 6).then(|| Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

/// Addresses a frame to another station, with one hop less to live as if a router had passed it on: so one that nodes send round in a
/// circle, each of them believing that the next has the address, ends. Returns false for one that has no hop left.
fn readdress(frame: &mut [u8], from: Mac, to: Mac) -> bool {
    let ip = &mut frame[ETHERNET_LEN..];
    if ip[0] >> 4 == 4 {
        if ip[8] <= 1 {
            return false;
        }
        ip[8] -= 1;
        // RFC 1141: the checksum is the complement of a sum that has become less by one in a high octet.
        let sum = u32::from(u16::from_be_bytes([ip[10], ip[11]])) + 0x0100;
        let [.., high, low] = (sum + u32::from(sum >= 0xffff)).to_be_bytes();
        ip[10..12].copy_from_slice(&[high, low]);
    } else {
        if ip[7] <= 1 {
            return false;
        }
        ip[7] -= 1;
    }
    frame[..6].copy_from_slice(&to);
    frame[6..12].copy_from_slice(&from);
    true
}

/// Octets before a frame: `struct virtio_net_hdr` of the kernel.
pub const OFFLOAD_LEN: usize = 10;

/// Frames that wait for the successor. A move takes some milliseconds; a balancer that accepts 100 000 connections a second has
/// several hundred begun in that time.
const HELD_MAX: usize = 1024;

/// And their octets. Connections that stand end with the move, but their windows' worth of data comes all the same, and must not leave
/// those out that begin.
const HELD_OCTETS_MAX: usize = 4 << 20;

const ETHERNET_LEN: usize = 14;
const IPV4: &[u8] = &[0x08, 0x00];
const IPV6: &[u8] = &[0x86, 0xdd];
const TCP: u8 = 6;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

#[cfg(test)]
mod tests;
