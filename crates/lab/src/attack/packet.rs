//! Packets as an attacker makes them.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::arp::Mac;

/// Where vipd's peers talk to each other in the lab.
pub(super) const PEER_PORT: u16 = 10_000;

const IPV4_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const TCP_HEADER: usize = 20;
const UDP: u8 = 17;
const TCP: u8 = 6;
const ICMPV6: u8 = 58;

/// An IPv4 header (RFC 791) without its checksum, which the kernel fills in.
fn header(protocol: u8, from: Ipv4Addr, to: Ipv4Addr, content: usize) -> Vec<u8> {
    let length = u16::try_from(IPV4_HEADER + content).expect("an attacker's packets are short");
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet
}

/// A datagram (RFC 768) without a checksum.
pub(super) fn datagram(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), content: &[u8]) -> Vec<u8> {
    let mut packet = header(UDP, from.0, to.0, UDP_HEADER + content.len());
    packet.extend(from.1.to_be_bytes());
    packet.extend(to.1.to_be_bytes());
    packet.extend(u16::try_from(UDP_HEADER + content.len()).expect("it is short").to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(content);
    packet
}

/// What one of vipd's datagrams says first: its version, the key's number, that it asks for a lease. The rest is noise.
pub(super) fn forged(from: Ipv4Addr, to: Ipv4Addr, noise: &mut fastrand::Rng) -> Vec<u8> {
    let mut content = [0; 160];
    noise.fill(&mut content);
    content[..4].copy_from_slice(&[1, 1, 6, 0]);
    datagram((from, PEER_PORT), (to, PEER_PORT), &content)
}

/// The first packet of a connection (RFC 9293).
pub(super) fn syn(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), sequence: u32) -> Vec<u8> {
    const OFFSET: u8 = 5 << 4;
    const SYN: u8 = 2;
    let mut packet = header(TCP, from.0, to.0, TCP_HEADER);
    let mut segment = Vec::with_capacity(TCP_HEADER);
    segment.extend(from.1.to_be_bytes());
    segment.extend(to.1.to_be_bytes());
    segment.extend(sequence.to_be_bytes());
    segment.extend([0, 0, 0, 0, OFFSET, SYN, 0xff, 0xff, 0, 0, 0, 0]);
    let length = [0, 20];
    let sum =
        checksum([&from.0.octets()[..], &to.0.octets(), &[0, TCP], &length, &segment].concat().as_slice());
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    packet.extend(segment);
    packet
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks(2).map(|two| u32::from(two[0]) << 8 | u32::from(*two.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("it was folded")
}

/// An ARP reply (RFC 826): `ip` is at `mac`. To all it is a gratuitous one (RFC 5944).
pub(super) fn arp_reply(ip: Ipv4Addr, mac: Mac, to: (Ipv4Addr, Mac)) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42);
    frame.extend(to.1);
    frame.extend(mac);
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 2]);
    frame.extend(mac);
    frame.extend(ip.octets());
    frame.extend(to.1);
    frame.extend(to.0.octets());
    frame
}

/// A neighbour advertisement (RFC 4861) to all nodes: `ip` is at `mac`, overriding what they know.
pub(super) fn advertisement(ip: Ipv6Addr, mac: Mac) -> Vec<u8> {
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    const OVERRIDE: u8 = 0x20;
    let mut message = vec![136, 0, 0, 0, OVERRIDE, 0, 0, 0];
    message.extend(ip.octets());
    message.extend([2, 1]);
    message.extend(mac);
    let length = u16::try_from(message.len()).expect("it has 32 bytes");
    let pseudo =
        [&ip.octets()[..], &ALL_NODES.octets(), &[0, 0], &length.to_be_bytes(), &[0, 0, 0, ICMPV6], &message];
    let sum = checksum(&pseudo.concat());
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = vec![0x33, 0x33, 0, 0, 0, 1];
    frame.extend(mac);
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend(length.to_be_bytes());
    frame.extend([ICMPV6, 255]);
    frame.extend(ip.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(message);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_that_of_the_rfc() {
        // The example of RFC 1071, §3: the sum is ddf2.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }

    #[test]
    fn packets_say_how_long_they_are() {
        let here = Ipv4Addr::LOCALHOST;
        for packet in [datagram((here, 1), (here, 2), b"word"), syn((here, 1), (here, 2), 7)] {
            assert_eq!(usize::from(u16::from_be_bytes([packet[2], packet[3]])), packet.len());
        }
        assert_eq!(arp_reply(here, [1; 6], (here, [2; 6])).len(), 42);
        assert_eq!(advertisement(Ipv6Addr::LOCALHOST, [1; 6]).len(), 14 + 40 + 32);
    }
}
