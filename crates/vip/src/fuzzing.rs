//! What fuzzing calls, and `cargo test` with the corpus: each entry takes bytes as they would come from outside, whatever they are, and
//! asserts what must hold of what is made of them. `fuzz/` has the targets of the same names; `docs/fuzzing.md` says what each is for.

use crate::address::Mac;
use crate::linux;
use crate::linux::Protocol;
pub use crate::linux::fuzzing::link_news;
use crate::lookout::Lookout;
use crate::relay::{Errand, Fate, OFFLOAD_LEN, Relay};
use crate::tickle::Connection;
use crate::{arp, ndp};
use pnet_packet::icmpv6::{MutableIcmpv6Packet, checksum};
use pnet_packet::ipv6::Ipv6Packet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// An entry, with the name of its target and corpus.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("address_resolution", address_resolution),
    ("neighbour_discovery", neighbour_discovery),
    ("relayed_frame", relayed_frame),
    ("client", client),
    ("link_news", link_news),
];

const OWN: Mac = [0x02, 0, 0, 0, 0, 0x0a];
const SUCCESSOR: Mac = [0x02, 0, 0, 0, 0, 0x0b];
const VIPS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 0, 0, 162)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x162))];
const ETHERNET_LEN: usize = 14;
const IPV6_LEN: usize = 40;

/// A lookout hears a frame while it looks for both addresses.
fn overheard(frame: &[u8]) {
    let mut lookout = Lookout::new(OWN, None, &VIPS, VIPS[0]);
    let now = tokio::time::Instant::now().into_std();
    assert!(!lookout.ask(Duration::from_millis(20), now).is_empty());
    lookout.hear(frame);
    let look = lookout.conclude().expect("one was begun");
    assert_ne!(look.owner, Some(OWN), "it takes itself for another");
}

/// A frame of ARP.
///
/// What is read is written in the same octets; and a claim names who sent it.
pub fn address_resolution(frame: &[u8]) {
    let read = arp::Repr::parse(frame);
    if let Some(read) = read {
        assert_eq!(read.emit()[..], frame[..arp::FRAME_LEN]);
        assert_eq!(linux::claim(Protocol::Arp, frame), Some((read.sender_ip.into(), read.sender_mac)));
    }
    assert!(read.is_some() || linux::claim(Protocol::Arp, frame).is_none());
    overheard(frame);
}

/// A frame of neighbour discovery: as it is, and with what would have a sender's kernel fill in.
///
/// What is read is written as it was read.
pub fn neighbour_discovery(frame: &[u8]) {
    discovery_as_it_is(frame);
    let mut frame = frame.to_vec();
    if frame.len() < ETHERNET_LEN + IPV6_LEN + 24 {
        return;
    }
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    let length = u16::try_from(frame.len() - ETHERNET_LEN - IPV6_LEN).unwrap_or(u16::MAX);
    let ip = &mut frame[ETHERNET_LEN..];
    ip[0] = 0x60;
    ip[4..6].copy_from_slice(&length.to_be_bytes());
    (ip[6], ip[7]) = (58, 255);
    let (header, body) = ip.split_at_mut(IPV6_LEN);
    let header = Ipv6Packet::new(header).expect("a whole header");
    let (source, destination) = (header.get_source(), header.get_destination());
    body[1] = 0;
    let mut message = MutableIcmpv6Packet::new(body).expect("longer than a header");
    let sum = checksum(&message.to_immutable(), &source, &destination);
    message.set_checksum(sum);
    discovery_as_it_is(&frame);
}

fn discovery_as_it_is(frame: &[u8]) {
    let read = ndp::Repr::parse(frame);
    if let Some(read) = read {
        assert_eq!(ndp::Repr::parse(&read.emit()), Some(read));
    }
    let claim = linux::claim(Protocol::NeighborDiscovery, frame);
    assert!(claim.is_none_or(|(ip, _)| ip.is_ipv6() && read.is_some()));
    overheard(frame);
}

/// Frames that come for an address which has left: each with its length in two octets before it, sent to this station, and some for one
/// of the addresses. The successor is heard of after the first half.
///
/// One that is passed on goes to the successor, in its own length, with one hop less to live and a checksum that is as right as it was;
/// what waits keeps to its bound, and each is counted once.
pub fn relayed_frame(bytes: &[u8]) {
    let now = tokio::time::Instant::now().into_std();
    let until = now + Duration::from_millis(300);
    let mut relay = Relay::new(OWN, VIPS.to_vec(), Errand { to: None, until });
    let mut parcels = parcels(bytes);
    let half = parcels.len() / 2;
    let (mut held, mut seen) = (0_u64, 0_u64);
    for (place, parcel) in parcels.iter_mut().enumerate() {
        if place == half {
            relay.set_errand(Errand { to: Some(SUCCESSOR), until });
            while let Some(passed) = relay.poll_held(now) {
                assert_eq!(passed[OFFLOAD_LEN..][..6], SUCCESSOR);
                held += 1;
            }
        }
        let before = parcel.clone();
        seen += 1;
        match relay.handle_parcel(parcel, now) {
            Fate::Passed => look_at_passed(&before, parcel),
            Fate::Held => assert!(place < half && *parcel == before),
            Fate::Dropped => {}
        }
    }
    let tally = relay.tally();
    assert_eq!(tally.passed + tally.dropped, seen, "{held} were held");
}

fn parcels(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut parcels = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<2>() {
        let [flags, length] = *length;
        let (frame, rest) = rest.split_at(usize::from(length).min(rest.len()));
        bytes = rest;
        let mut parcel = vec![0; OFFLOAD_LEN];
        parcel.extend_from_slice(frame);
        let frame = &mut parcel[OFFLOAD_LEN..];
        if flags & 1 == 0 && frame.len() >= 12 {
            frame[..6].copy_from_slice(&OWN);
        }
        // For one of the addresses, which bytes alone hardly ever are.
        if flags & 2 == 0 && frame.len() >= ETHERNET_LEN + 20 {
            frame[12..14].copy_from_slice(&[0x08, 0x00]);
            frame[ETHERNET_LEN + 16..ETHERNET_LEN + 20].copy_from_slice(&[10, 0, 0, 162]);
        } else if flags & 4 == 0 && frame.len() >= ETHERNET_LEN + IPV6_LEN {
            frame[12..14].copy_from_slice(&[0x86, 0xdd]);
            if let IpAddr::V6(ip) = VIPS[1] {
                frame[ETHERNET_LEN + 24..ETHERNET_LEN + 40].copy_from_slice(&ip.octets());
            }
        }
        parcels.push(parcel);
    }
    parcels
}

fn look_at_passed(before: &[u8], after: &[u8]) {
    assert_eq!(before.len(), after.len());
    let (before, after) = (&before[OFFLOAD_LEN..], &after[OFFLOAD_LEN..]);
    assert_eq!(after[..6], SUCCESSOR);
    assert_eq!(after[6..12], OWN);
    let (old, new) = (&before[ETHERNET_LEN..], &after[ETHERNET_LEN..]);
    if old[0] >> 4 == 4 {
        assert_eq!(new[8], old[8] - 1);
        let length = usize::from(old[0] & 0xf) * 4;
        if let (Some(old), Some(new)) = (old.get(..length), new.get(..length)) {
            assert_eq!(sum(old) == 0xffff, sum(new) == 0xffff, "the checksum was right, or wrong, before");
        }
    } else {
        assert_eq!(new[7], old[7] - 1);
        assert_eq!(new[8..], old[8..]);
    }
}

/// The ones' complement sum of a header, which is all ones where its checksum is right (RFC 1071).
fn sum(header: &[u8]) -> u32 {
    let words = header.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum
}

/// A client as a peer describes it, by whom packets are sent.
///
/// One description is one connection; the packet has its length, and goes to nobody but a host.
pub fn client(bytes: &[u8]) {
    let Some(connection) = Connection::from_bytes(bytes) else { return };
    assert_eq!(connection.to_bytes(), bytes);
    assert_eq!(Connection::new(connection.client(), connection.server()), Some(connection));
    let (client, server) = (connection.client().ip(), connection.server().ip());
    assert!(!client.is_multicast() && !client.is_unspecified());
    assert_eq!(client.is_ipv4(), server.is_ipv4());
    assert_eq!(connection.tickle().len(), if client.is_ipv4() { 40 } else { 60 });
}

#[cfg(test)]
#[path = "../../../fuzz/kept.rs"]
mod kept;
