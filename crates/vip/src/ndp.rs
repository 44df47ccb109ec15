//! Neighbour discovery for IPv6 over Ethernet (RFC 4861): the advertisement that claims an address and the
//! solicitation that asks for it.

use crate::address::Mac;
use pnet_packet::ethernet::{EtherTypes, EthernetPacket, MutableEthernetPacket};
use pnet_packet::icmpv6::ndp::{
    MutableNeighborAdvertPacket, MutableNeighborSolicitPacket, NeighborAdvertFlags, NeighborAdvertPacket,
    NeighborSolicitPacket,
};
use pnet_packet::icmpv6::{Icmpv6Packet, Icmpv6Types, MutableIcmpv6Packet, checksum};
use pnet_packet::ip::IpNextHeaderProtocols;
use pnet_packet::ipv6::{Ipv6Packet, MutableIpv6Packet};
use std::net::Ipv6Addr;

/// One neighbour discovery message with the IPv6 and Ethernet headers around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr {
    /// Ethernet source.
    pub source_mac: Mac,
    /// Ethernet destination.
    pub destination_mac: Mac,
    /// IPv6 source.
    pub source: Ipv6Addr,
    /// IPv6 destination.
    pub destination: Ipv6Addr,
    /// The message itself.
    pub message: Message,
}

/// The two messages that matter for owning an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Neighbour solicitation (type 135, RFC 4861 §4.3).
    Solicitation {
        /// The address that is asked for.
        target: Ipv6Addr,
        /// The source link-layer address option; not sent from the unspecified address.
        link_layer: Option<Mac>,
    },
    /// Neighbour advertisement (type 136, RFC 4861 §4.4).
    Advertisement {
        /// The address that is claimed.
        target: Ipv6Addr,
        /// R: the sender is a router.
        router: bool,
        /// S: answers a solicitation.
        solicited: bool,
        /// O: replaces the cached link-layer address.
        replace: bool,
        /// The target link-layer address option.
        link_layer: Option<Mac>,
    },
}

impl Repr {
    /// An unsolicited advertisement to all nodes: O=1, S=0, R=0, with the link-layer address (RFC 4861 §7.2.6).
    ///
    /// Its source is the advertised address: it is the one address that an owner certainly has (a link-local one may be
    /// missing, and would have to be looked up and followed), so the frame depends on nothing but the ownership.
    #[must_use]
    pub fn unsolicited_advertisement(mac: Mac, ip: Ipv6Addr) -> Self {
        Self {
            source_mac: mac,
            destination_mac: multicast_mac(ALL_NODES),
            source: ip,
            destination: ALL_NODES,
            message: Message::Advertisement {
                target: ip,
                router: false,
                solicited: false,
                replace: true,
                link_layer: Some(mac),
            },
        }
    }

    /// A solicitation from the unspecified address, as duplicate address detection sends it (RFC 4862 §5.4.2): nobody's
    /// cache changes, and the owner answers to all nodes.
    #[must_use]
    pub fn probe(mac: Mac, ip: Ipv6Addr) -> Self {
        let group = solicited_node(ip);
        Self {
            source_mac: mac,
            destination_mac: multicast_mac(group),
            source: Ipv6Addr::UNSPECIFIED,
            destination: group,
            message: Message::Solicitation { target: ip, link_layer: None },
        }
    }

    /// A solicitation from an address of this node's own (RFC 4861 §7.2.2): the owner answers to that alone.
    #[must_use]
    pub fn solicitation(mac: Mac, own: Ipv6Addr, ip: Ipv6Addr) -> Self {
        let message = Message::Solicitation { target: ip, link_layer: Some(mac) };
        Self { source: own, message, ..Self::probe(mac, ip) }
    }

    /// Reads a frame; `None` if it is no solicitation or advertisement that RFC 4861 §7.1 lets a node take: hop limit
    /// 255, code 0, right checksum, a target that is not multicast, and no option of length 0.
    ///
    /// A message behind extension headers is not read either.
    #[must_use]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let ethernet = EthernetPacket::new(frame)?;
        if ethernet.get_ethertype() != EtherTypes::Ipv6 {
            return None;
        }
        let ip = Ipv6Packet::new(frame.get(ETHERNET_LEN..)?)?;
        if ip.get_version() != 6
            || ip.get_next_header() != IpNextHeaderProtocols::Icmpv6
            || ip.get_hop_limit() != HOP_LIMIT
        {
            return None;
        }
        let body = frame.get(ICMP_AT..)?.get(..usize::from(ip.get_payload_length()))?;
        let icmp = Icmpv6Packet::new(body)?;
        let (source, destination) = (ip.get_source(), ip.get_destination());
        if icmp.get_icmpv6_code().0 != 0 || icmp.get_checksum() != checksum(&icmp, &source, &destination) {
            return None;
        }
        Some(Self {
            source_mac: ethernet.get_source().octets(),
            destination_mac: ethernet.get_destination().octets(),
            source,
            destination,
            message: Message::parse(body)?,
        })
    }

    /// Writes the frame.
    #[must_use]
    pub fn emit(&self) -> Vec<u8> {
        let message = self.message.emit();
        let mut frame = vec![0; ICMP_AT + message.len()];
        let mut ethernet = MutableEthernetPacket::new(&mut frame).expect("longer than the header");
        ethernet.set_source(self.source_mac.into());
        ethernet.set_destination(self.destination_mac.into());
        ethernet.set_ethertype(EtherTypes::Ipv6);
        let mut ip = MutableIpv6Packet::new(&mut frame[ETHERNET_LEN..]).expect("longer than the header");
        ip.set_version(6);
        ip.set_payload_length(u16::try_from(message.len()).expect("a message has 24 or 32 octets"));
        ip.set_next_header(IpNextHeaderProtocols::Icmpv6);
        ip.set_hop_limit(HOP_LIMIT);
        ip.set_source(self.source);
        ip.set_destination(self.destination);
        let body = &mut frame[ICMP_AT..];
        body.copy_from_slice(&message);
        let mut icmp = MutableIcmpv6Packet::new(body).expect("longer than the header");
        icmp.set_checksum(checksum(&icmp.to_immutable(), &self.source, &self.destination));
        frame
    }
}

impl Message {
    fn parse(body: &[u8]) -> Option<Self> {
        let options = body.get(FIXED_LEN..)?;
        let message = match Icmpv6Packet::new(body)?.get_icmpv6_type() {
            Icmpv6Types::NeighborSolicit => Self::Solicitation {
                target: NeighborSolicitPacket::new(body)?.get_target_addr(),
                link_layer: link_layer(options, SOURCE_LINK_LAYER)?,
            },
            Icmpv6Types::NeighborAdvert => {
                let advert = NeighborAdvertPacket::new(body)?;
                let flags = advert.get_flags();
                Self::Advertisement {
                    target: advert.get_target_addr(),
                    router: flags & NeighborAdvertFlags::Router != 0,
                    solicited: flags & NeighborAdvertFlags::Solicited != 0,
                    replace: flags & NeighborAdvertFlags::Override != 0,
                    link_layer: link_layer(options, TARGET_LINK_LAYER)?,
                }
            }
            _ => return None,
        };
        (!message.target().is_multicast()).then_some(message)
    }

    fn emit(&self) -> Vec<u8> {
        let (kind, link_layer) = match self {
            Self::Solicitation { link_layer, .. } => (SOURCE_LINK_LAYER, link_layer),
            Self::Advertisement { link_layer, .. } => (TARGET_LINK_LAYER, link_layer),
        };
        let mut body = vec![0; FIXED_LEN];
        match *self {
            Self::Solicitation { target, .. } => {
                let mut packet = MutableNeighborSolicitPacket::new(&mut body).expect("the packet's length");
                packet.set_icmpv6_type(Icmpv6Types::NeighborSolicit);
                packet.set_target_addr(target);
            }
            Self::Advertisement { target, router, solicited, replace, .. } => {
                let mut packet = MutableNeighborAdvertPacket::new(&mut body).expect("the packet's length");
                packet.set_icmpv6_type(Icmpv6Types::NeighborAdvert);
                let flag = |set: bool, flag: u8| if set { flag } else { 0 };
                packet.set_flags(
                    flag(router, NeighborAdvertFlags::Router)
                        | flag(solicited, NeighborAdvertFlags::Solicited)
                        | flag(replace, NeighborAdvertFlags::Override),
                );
                packet.set_target_addr(target);
            }
        }
        if let Some(mac) = link_layer {
            body.extend([kind, 1]);
            body.extend(mac);
        }
        body
    }

    fn target(&self) -> Ipv6Addr {
        match self {
            Self::Solicitation { target, .. } | Self::Advertisement { target, .. } => *target,
        }
    }
}

/// Returns the first link-layer address option of this kind; `None` if the options are malformed (RFC 4861 §4.6).
///
/// Read here and not by `pnet_packet`, whose own reader overflows on an option of 256 octets and more.
fn link_layer(mut options: &[u8], kind: u8) -> Option<Option<Mac>> {
    let mut found = None;
    while let [this, length, rest @ ..] = options {
        let octets = usize::from(*length) * 8;
        let option = rest.get(..octets.checked_sub(2)?)?;
        if *this == kind && found.is_none() {
            // An Ethernet address fills one unit of eight octets exactly (RFC 2464 §6).
            found = Some(Mac::try_from(option).ok()?);
        }
        options = &options[octets..];
    }
    options.is_empty().then_some(found)
}

/// Returns the Ethernet address of a multicast group (RFC 2464 §7).
fn multicast_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

/// Returns the group that a node joins for its address (RFC 4291 §2.7.1).
fn solicited_node(ip: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = ip.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, u16::from_be_bytes([0xff, a]), u16::from_be_bytes([b, c]))
}

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// A message that has passed a router has a lower one and is refused (RFC 4861 §7.1).
const HOP_LIMIT: u8 = 255;

const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;
const ETHERNET_LEN: usize = 14;
const ICMP_AT: usize = ETHERNET_LEN + 40;
const FIXED_LEN: usize = 24;

#[cfg(test)]
mod tests;
