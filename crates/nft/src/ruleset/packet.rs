//! The packet that rules are asked about: the first of its kind, so that no connection is known yet.

use std::net::{IpAddr, SocketAddr};

/// `NFPROTO_IPV4`
pub(super) const IPV4: u8 = 2;
/// `NFPROTO_IPV6`
pub(super) const IPV6: u8 = 10;

/// A packet that begins something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// What it carries.
    pub transport: Transport,
    /// Where it comes from; `None` for a client's, which may be anywhere.
    pub source: Option<SocketAddr>,
    /// Where it goes; of the same IP version.
    pub destination: SocketAddr,
    /// The interface that it comes in by; `None` if it isn't known.
    pub comes_by: Option<String>,
}

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP
    Tcp = 6,
    /// UDP
    Udp = 17,
}

/// Which part of a packet a rule looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Network,
    Transport,
}

impl Packet {
    /// The number of its IP version in netfilter.
    pub(super) fn protocol_family(&self) -> u8 {
        if self.destination.is_ipv4() { IPV4 } else { IPV6 }
    }

    /// Bytes of one of its headers, as far as all of them are known.
    pub(super) fn bytes(&self, part: Part, offset: usize, length: usize) -> Option<Vec<u8>> {
        let header = match part {
            Part::Network => self.network(),
            Part::Transport => self.ports(),
        };
        header.get(offset..offset.checked_add(length)?)?.iter().copied().collect()
    }

    fn network(&self) -> Vec<Option<u8>> {
        let octets = |ip: Option<IpAddr>, length: usize| match ip {
            Some(ip) => crate::octets(ip).into_iter().map(Some).collect(),
            None => vec![None; length],
        };
        let source = self.source.map(|source| source.ip());
        // Offsets of the protocol, and of the source, which the destination follows.
        let (protocol, addresses, length) = if self.destination.is_ipv4() { (9, 12, 4) } else { (6, 8, 16) };
        let mut header = vec![None; addresses];
        header[protocol] = Some(self.transport as u8);
        header.extend(octets(source, length));
        header.extend(octets(Some(self.destination.ip()), length));
        header
    }

    fn ports(&self) -> Vec<Option<u8>> {
        let source = self.source.map(|source| source.port().to_be_bytes());
        let source = source.map_or([None; 2], |port| port.map(Some));
        let destination = self.destination.port().to_be_bytes().map(Some);
        [source, destination].concat()
    }
}
