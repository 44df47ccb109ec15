//! Tickles: what makes a client notice that its connection ended with the host that had it.
//!
//! ```text
//!  client, idle                        new owner of the virtual IP
//!     │ ◀──── SYN and ACK, of another sequence ─── │   this packet
//!     │ ──── ACK: "I am here, in this sequence" ─▶ │   RFC 5961 §4, RFC 9293 §3.10.7.4
//!     │ ◀──────────────── RST of that sequence ─── │   the kernel: it knows no such connection
//!   knows
//! ```
//!
//! Without it, a client that sends nothing learns of a move by its own keepalive, after tens of seconds or never. A
//! connection that still stands answers in the same way, and its other end has heard that before: nothing happens. So a
//! list of connections that is out of date does no harm.
//!
//! An ACK without SYN would do as well, were it not for firewalls that go by the kernel's memory of connections and drop
//! what fits none (`ct state invalid drop`). The client's would drop that ACK, as it lies in no window; the new owner's
//! would have remembered it, and drop the client's answer. A SYN with an ACK may belong to a connection of which the
//! memory is out of date, so the one lets it pass; and it can't begin one, so the other remembers nothing.

use std::net::{IpAddr, SocketAddr};

use pnet_packet::ip::IpNextHeaderProtocols;
use pnet_packet::ipv4::{self, MutableIpv4Packet};
use pnet_packet::ipv6::MutableIpv6Packet;
use pnet_packet::tcp::{self, MutableTcpPacket, TcpFlags};

/// A connection of a client to a virtual IP, as its two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Connection {
    client: SocketAddr,
    server: SocketAddr,
}

impl Connection {
    /// The connection between these ends; `None` if there can't be one, as between two families of addresses.
    ///
    /// IPv4 addresses that are written as IPv6 ones (RFC 4291 §2.5.5.2) are taken as what they are.
    #[must_use]
    pub fn new(client: SocketAddr, server: SocketAddr) -> Option<Self> {
        let plain = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
        let (client, server) = (plain(client), plain(server));
        let an_end =
            |end: SocketAddr| end.port() != 0 && !end.ip().is_unspecified() && !end.ip().is_multicast();
        (client.is_ipv4() == server.is_ipv4() && an_end(client) && an_end(server))
            .then_some(Self { client, server })
    }

    /// The client's end.
    #[must_use]
    pub fn client(&self) -> SocketAddr {
        self.client
    }

    /// The virtual IP's end.
    #[must_use]
    pub fn server(&self) -> SocketAddr {
        self.server
    }

    /// Both ends in few bytes: 12 for IPv4, 36 for IPv6.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(36);
        for end in [self.client, self.server] {
            match end.ip() {
                IpAddr::V4(ip) => bytes.extend(ip.octets()),
                IpAddr::V6(ip) => bytes.extend(ip.octets()),
            }
            bytes.extend(end.port().to_be_bytes());
        }
        bytes
    }

    /// The connection that was written so; `None` if none was.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let end = |bytes: &[u8]| {
            let (ip, port) = bytes.split_last_chunk::<2>()?;
            let ip = match ip.len() {
                4 => IpAddr::from(<[u8; 4]>::try_from(ip).ok()?),
                16 => IpAddr::from(<[u8; 16]>::try_from(ip).ok()?),
                _ => return None,
            };
            Some(SocketAddr::new(ip, u16::from_be_bytes(*port)))
        };
        let (client, server) = bytes.split_at(bytes.len() / 2);
        let connection = Self::new(end(client)?, end(server)?)?;
        // An IPv4 address in the form of an IPv6 one was not written here.
        (connection.to_bytes() == bytes).then_some(connection)
    }

    /// The packet from the virtual IP to the client, from its IP header on: 40 bytes for IPv4, 60 for IPv6.
    #[must_use]
    pub fn tickle(&self) -> Vec<u8> {
        match (self.server.ip(), self.client.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut bytes = vec![0; IPV4_HEADER + TCP_HEADER];
                self.acknowledge(&mut bytes[IPV4_HEADER..], |segment| {
                    tcp::ipv4_checksum(&segment, &source, &destination)
                });
                let mut packet = MutableIpv4Packet::new(&mut bytes).expect("room for a header");
                packet.set_version(4);
                packet.set_header_length(5);
                packet.set_total_length(40);
                packet.set_ttl(HOPS);
                packet.set_next_level_protocol(IpNextHeaderProtocols::Tcp);
                packet.set_source(source);
                packet.set_destination(destination);
                let checksum = ipv4::checksum(&packet.to_immutable());
                packet.set_checksum(checksum);
                bytes
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut bytes = vec![0; IPV6_HEADER + TCP_HEADER];
                self.acknowledge(&mut bytes[IPV6_HEADER..], |segment| {
                    tcp::ipv6_checksum(&segment, &source, &destination)
                });
                let mut packet = MutableIpv6Packet::new(&mut bytes).expect("room for a header");
                packet.set_version(6);
                packet.set_payload_length(20);
                packet.set_next_header(IpNextHeaderProtocols::Tcp);
                packet.set_hop_limit(HOPS);
                packet.set_source(source);
                packet.set_destination(destination);
                bytes
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
                unreachable!("the constructor takes ends of one family")
            }
        }
    }

    /// Fills in the segment, of number 0 in sequence 0. Whether these lie in the past, as almost always, or, by chance, in
    /// the client's window: it answers.
    fn acknowledge(&self, bytes: &mut [u8], checksum: impl FnOnce(tcp::TcpPacket<'_>) -> u16) {
        let mut segment = MutableTcpPacket::new(bytes).expect("room for a header");
        segment.set_source(self.server.port());
        segment.set_destination(self.client.port());
        segment.set_data_offset(5);
        segment.set_flags(TcpFlags::SYN | TcpFlags::ACK);
        segment.set_window(u16::MAX);
        let checksum = checksum(segment.to_immutable());
        segment.set_checksum(checksum);
    }
}

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const TCP_HEADER: usize = 20;
/// As Linux sends.
const HOPS: u8 = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    fn end(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn there_is_a_connection_only_between_two_ends_of_one_family() {
        let vip = end("10.0.0.162:6443");
        assert!(Connection::new(end("10.0.0.9:40000"), vip).is_some());
        for nobody in ["[fd00::9]:40000", "10.0.0.9:0", "0.0.0.0:40000", "224.0.0.1:40000"] {
            assert_eq!(Connection::new(end(nobody), vip), None, "{nobody}");
        }
        let mapped = Connection::new(end("[::ffff:10.0.0.9]:40000"), vip).unwrap();
        assert_eq!(mapped, Connection::new(end("10.0.0.9:40000"), vip).unwrap());
        assert_eq!(mapped.client(), end("10.0.0.9:40000"));
        assert_eq!(mapped.server(), vip);
    }

    /// Another implementation reads what this one writes.
    fn read(connection: Connection) {
        let bytes = connection.tickle();
        let packet = SlicedPacket::from_ip(&bytes).unwrap();
        let Some(TransportSlice::Tcp(segment)) = &packet.transport else { panic!("{packet:?}") };
        let checksum = match packet.net.as_ref().unwrap() {
            NetSlice::Ipv4(ip) => {
                let header = ip.header();
                assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
                assert_eq!(IpAddr::from(header.source_addr()), connection.server().ip());
                assert_eq!(IpAddr::from(header.destination_addr()), connection.client().ip());
                segment.calc_checksum_ipv4(header.source(), header.destination())
            }
            NetSlice::Ipv6(ip) => {
                let header = ip.header();
                assert_eq!(IpAddr::from(header.source_addr()), connection.server().ip());
                assert_eq!(IpAddr::from(header.destination_addr()), connection.client().ip());
                segment.calc_checksum_ipv6(header.source(), header.destination())
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(segment.checksum(), checksum.unwrap());
        assert_eq!(segment.source_port(), connection.server().port());
        assert_eq!(segment.destination_port(), connection.client().port());
        let others = segment.fin() || segment.rst() || segment.psh() || segment.urg();
        assert!(segment.syn() && segment.ack() && !others && segment.payload().is_empty());
    }

    proptest! {
        #[test]
        fn a_tickle_is_a_syn_and_an_ack_from_the_virtual_ip(
            client: [u8; 4], server: [u8; 4], client6: [u8; 16], server6: [u8; 16], ports: [u16; 2],
        ) {
            let pairs = [(IpAddr::from(client), IpAddr::from(server)), (client6.into(), server6.into())];
            for (client, server) in pairs {
                let ends = (SocketAddr::new(client, ports[0]), SocketAddr::new(server, ports[1]));
                if let Some(connection) = Connection::new(ends.0, ends.1) {
                    read(connection);
                    prop_assert_eq!(Connection::from_bytes(&connection.to_bytes()), Some(connection));
                }
            }
        }

        #[test]
        fn bytes_are_a_connection_or_none_and_one_connection_has_one_form(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..40),
                prop::collection::vec(any::<u8>(), 12),
                prop::collection::vec(any::<u8>(), 36),
            ],
        ) {
            if let Some(connection) = Connection::from_bytes(&bytes) {
                prop_assert_eq!(connection.to_bytes(), bytes);
            }
        }
    }
}
