//! ARP for IPv4 over Ethernet (RFC 826, RFC 5227): the frames that claim an address and the ones that ask for it.

use crate::address::Mac;
use pnet_packet::Packet as _;
use pnet_packet::arp::{ArpHardwareTypes, ArpOperation, ArpPacket, MutableArpPacket};
use pnet_packet::ethernet::{EtherTypes, EthernetPacket, MutableEthernetPacket};
use std::net::Ipv4Addr;

/// What an ARP packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Asks who has the target address (1).
    Request,
    /// Says that the sender has it (2).
    Reply,
}

/// One ARP packet with the Ethernet header around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr {
    /// Ethernet source.
    pub source: Mac,
    /// Ethernet destination.
    pub destination: Mac,
    /// Request or reply.
    pub operation: Operation,
    /// Hardware address of the sender.
    pub sender_mac: Mac,
    /// Protocol address of the sender: the one that it claims; 0.0.0.0 in a probe.
    pub sender_ip: Ipv4Addr,
    /// Hardware address of the target.
    pub target_mac: Mac,
    /// Protocol address of the target.
    pub target_ip: Ipv4Addr,
}

/// Octets of an ARP frame, without the padding that Ethernet adds.
pub const FRAME_LEN: usize = ETHERNET_LEN + ARP_LEN;

impl Repr {
    /// A gratuitous request: sender and target are the address itself, the target's hardware address is empty
    /// (an ARP announcement, RFC 5227 §3). Linux takes it over an entry of any age.
    #[must_use]
    pub fn gratuitous_request(mac: Mac, ip: Ipv4Addr) -> Self {
        Self {
            source: mac,
            destination: BROADCAST,
            operation: Operation::Request,
            sender_mac: mac,
            sender_ip: ip,
            target_mac: NOBODY,
            target_ip: ip,
        }
    }

    /// A gratuitous reply. Linux counts it as gratuitous, and so takes it over an entry younger than a second, only
    /// when the target's hardware address is the sender's; some switches and routers heed replies alone.
    #[must_use]
    pub fn gratuitous_reply(mac: Mac, ip: Ipv4Addr) -> Self {
        Self { operation: Operation::Reply, target_mac: mac, ..Self::gratuitous_request(mac, ip) }
    }

    /// A probe (RFC 5227 §2.1.1): asks without a sender address, so that nobody's cache changes.
    #[must_use]
    pub fn probe(mac: Mac, ip: Ipv4Addr) -> Self {
        Self { sender_ip: Ipv4Addr::UNSPECIFIED, ..Self::gratuitous_request(mac, ip) }
    }

    /// Reads a frame; `None` if it isn't ARP for IPv4 over Ethernet, is too short, or is neither request nor reply.
    #[must_use]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let ethernet = EthernetPacket::new(frame)?;
        if ethernet.get_ethertype() != EtherTypes::Arp {
            return None;
        }
        let arp = ArpPacket::new(ethernet.payload())?;
        let lengths = (arp.get_hw_addr_len(), arp.get_proto_addr_len());
        if arp.get_hardware_type() != ArpHardwareTypes::Ethernet
            || arp.get_protocol_type() != EtherTypes::Ipv4
            || lengths != (MAC_LEN, IPV4_LEN)
        {
            return None;
        }
        Some(Self {
            source: ethernet.get_source().octets(),
            destination: ethernet.get_destination().octets(),
            operation: Operation::from_wire(arp.get_operation())?,
            sender_mac: arp.get_sender_hw_addr().octets(),
            sender_ip: arp.get_sender_proto_addr(),
            target_mac: arp.get_target_hw_addr().octets(),
            target_ip: arp.get_target_proto_addr(),
        })
    }

    /// Writes the frame.
    #[must_use]
    pub fn emit(&self) -> [u8; FRAME_LEN] {
        let mut frame = [0; FRAME_LEN];
        let (header, body) = frame.split_at_mut(ETHERNET_LEN);
        let mut ethernet = MutableEthernetPacket::new(header).expect("the header has its own length");
        ethernet.set_source(self.source.into());
        ethernet.set_destination(self.destination.into());
        ethernet.set_ethertype(EtherTypes::Arp);
        let mut arp = MutableArpPacket::new(body).expect("the body has the packet's length");
        arp.set_hardware_type(ArpHardwareTypes::Ethernet);
        arp.set_protocol_type(EtherTypes::Ipv4);
        arp.set_hw_addr_len(MAC_LEN);
        arp.set_proto_addr_len(IPV4_LEN);
        arp.set_operation(self.operation.to_wire());
        arp.set_sender_hw_addr(self.sender_mac.into());
        arp.set_sender_proto_addr(self.sender_ip);
        arp.set_target_hw_addr(self.target_mac.into());
        arp.set_target_proto_addr(self.target_ip);
        frame
    }
}

impl Operation {
    fn from_wire(operation: ArpOperation) -> Option<Self> {
        match operation.0 {
            1 => Some(Self::Request),
            2 => Some(Self::Reply),
            _ => None,
        }
    }

    fn to_wire(self) -> ArpOperation {
        match self {
            Self::Request => ArpOperation(1),
            Self::Reply => ArpOperation(2),
        }
    }
}

/// Every station of the segment.
pub const BROADCAST: Mac = [0xff; 6];

const NOBODY: Mac = [0; 6];
const MAC_LEN: u8 = 6;
const IPV4_LEN: u8 = 4;
const ETHERNET_LEN: usize = 14;
const ARP_LEN: usize = 28;

#[cfg(test)]
mod tests;
