//! The kernel's memory of connections (ctnetlink): which there are, and an order to forget one.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::RecvFlags;

use crate::message::{ACKNOWLEDGE, Attributes, REQUEST};
use crate::reading::{DONE, DUMP, find, next_message};
use crate::rule::{octets, protocol_family};
use crate::socket::{self, ERROR};

/// What a connection consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `IPPROTO_TCP`
    Tcp = 6,
    /// `IPPROTO_UDP`: datagrams between the same two ends.
    Udp = 17,
}

/// A connection that the kernel remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// What it consists of.
    pub protocol: Protocol,
    /// Who began it.
    pub client: SocketAddr,
    /// Where its first packet went.
    pub wanted: SocketAddr,
    /// Who answers; another than `wanted` where it was led elsewhere.
    pub answering: SocketAddr,
    /// Both ends may still send: it is neither closed nor resting.
    pub is_open: bool,
    /// Its first packet has had no answer.
    pub is_unanswered: bool,
    /// The kernel's number for it, which no later connection between the same ends has.
    id: Option<[u8; 4]>,
    zone: Option<[u8; 2]>,
}

/// A way to the memory of the network namespace that it was opened in. Needs the capability `NET_ADMIN`.
#[derive(Debug)]
pub struct Memory(OwnedFd);

impl Memory {
    /// Opens one.
    ///
    /// # Errors
    ///
    /// This kernel knows no netfilter, or no descriptor is left.
    pub fn open() -> io::Result<Self> {
        Ok(Self(socket::open()?))
    }

    /// Shows each connection of this protocol whose first packet went to this port, over IPv4 and IPv6. What begins or ends meanwhile may be
    /// shown or not.
    ///
    /// # Errors
    ///
    /// This kernel doesn't tell (`CONFIG_NF_CT_NETLINK`), or not to this process.
    pub fn each(&self, protocol: Protocol, port: u16, mut show: impl FnMut(Flow)) -> io::Result<()> {
        for any in [IpAddr::from([0; 4]), IpAddr::from([0_u16; 8])] {
            self.send(GET, DUMP, any, &filter(protocol, port))?;
            while self.receive(|kind, body| {
                if kind == NEW
                    && let Some(flow) =
                        parse(body).filter(|flow| flow.protocol == protocol && flow.wanted.port() == port)
                {
                    show(flow);
                }
            })? {}
        }
        Ok(())
    }

    /// Has it forgotten; false if it was already. Its next packet is that of a new connection.
    ///
    /// # Errors
    ///
    /// This process may not.
    pub fn forget(&self, flow: &Flow) -> io::Result<bool> {
        self.send(DELETE, ACKNOWLEDGE, flow.client.ip(), &named(flow))?;
        match self.receive(|_, _| ()) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn send(&self, kind: u16, flags: u16, family: IpAddr, attributes: &Attributes) -> io::Result<()> {
        let message = attributes.message((SUBSYSTEM << 8) | kind, REQUEST | flags, protocol_family(family));
        Ok(socket::send(&self.0, &message)?)
    }

    /// Takes the next part of an answer; false when it was the last.
    fn receive(&self, mut show: impl FnMut(u16, &[u8])) -> io::Result<bool> {
        let mut part = [0; PART];
        let (length, _) = rustix::net::recv(&self.0, &mut part, RecvFlags::empty())?;
        let mut rest = part.get(..length).unwrap_or_default();
        let mut goes_on = true;
        while let Some((kind, body)) = next_message(&mut rest) {
            match kind {
                DONE => goes_on = false,
                ERROR => {
                    if let Some(errno) = socket::failure(body) {
                        return Err(errno.into());
                    }
                    goes_on = false;
                }
                kind if kind >> 8 == SUBSYSTEM => show(kind & 0xff, body.get(FAMILY..).unwrap_or_default()),
                _ => {}
            }
        }
        Ok(goes_on)
    }
}

/// Those to this port alone, for a kernel that can choose (Linux 5.8); another tells of all.
fn filter(protocol: Protocol, port: u16) -> Attributes {
    const NUMBER_AND_DESTINATION: u32 = (1 << 3) | (1 << 5);
    let protocol = Attributes::default().bytes(PROTOCOL_NUMBER, &[protocol as u8]);
    let protocol = protocol.bytes(DESTINATION_PORT, &port.to_be_bytes());
    let chosen = Attributes::default().native(1, NUMBER_AND_DESTINATION).native(2, 0);
    let tuple = Attributes::default().nest(TUPLE_PROTOCOL, &protocol);
    Attributes::default().nest(ORIGINAL, &tuple).nest(FILTER, &chosen)
}

/// What tells the kernel which one is meant.
fn named(flow: &Flow) -> Attributes {
    let [source, destination] = if flow.client.is_ipv4() { [1, 2] } else { [3, 4] };
    let addresses = Attributes::default()
        .bytes(source, &octets(flow.client.ip()))
        .bytes(destination, &octets(flow.wanted.ip()));
    let protocol = Attributes::default()
        .bytes(PROTOCOL_NUMBER, &[flow.protocol as u8])
        .bytes(SOURCE_PORT, &flow.client.port().to_be_bytes())
        .bytes(DESTINATION_PORT, &flow.wanted.port().to_be_bytes());
    let tuple = Attributes::default().nest(TUPLE_ADDRESSES, &addresses).nest(TUPLE_PROTOCOL, &protocol);
    let mut attributes = Attributes::default().nest(ORIGINAL, &tuple);
    if let Some(id) = flow.id {
        attributes = attributes.bytes(ID, &id);
    }
    if let Some(zone) = flow.zone {
        attributes = attributes.bytes(ZONE, &zone);
    }
    attributes
}

/// A connection of a dump; `None` where it is of another protocol, or not whole.
pub(crate) fn parse(body: &[u8]) -> Option<Flow> {
    let (protocol, client, wanted) = ends(find(body, ORIGINAL)?)?;
    let (_, answering, _) = ends(find(body, REPLY)?)?;
    let status = find(body, STATUS).and_then(|status| Some(u32::from_be_bytes(*status.first_chunk()?)));
    let state = find(body, PROTOCOL_STATE).and_then(|state| find(find(state, 1)?, 1)?.first().copied());
    let (is_open, is_unanswered) = match protocol {
        Protocol::Tcp => {
            (state.is_some_and(|state| (SYN_SENT..=LAST_ACK).contains(&state)), state == Some(SYN_SENT))
        }
        // It is remembered as long as it lasts.
        Protocol::Udp => (true, status.is_some_and(|status| status & ANSWERED == 0)),
    };
    Some(Flow {
        protocol,
        client,
        wanted,
        answering,
        is_open,
        is_unanswered,
        id: find(body, ID).and_then(|id| id.try_into().ok()),
        zone: find(body, ZONE).and_then(|zone| zone.try_into().ok()),
    })
}

/// Where packets of one direction come from and go to.
fn ends(tuple: &[u8]) -> Option<(Protocol, SocketAddr, SocketAddr)> {
    let addresses = find(tuple, TUPLE_ADDRESSES)?;
    let protocol = find(tuple, TUPLE_PROTOCOL)?;
    let number = *find(protocol, PROTOCOL_NUMBER)?.first()?;
    let kind = [Protocol::Tcp, Protocol::Udp].into_iter().find(|kind| *kind as u8 == number)?;
    let ipv4 = |kind| Some(IpAddr::from(Ipv4Addr::from(*find(addresses, kind)?.first_chunk::<4>()?)));
    let ipv6 = |kind| Some(IpAddr::from(Ipv6Addr::from(*find(addresses, kind)?.first_chunk::<16>()?)));
    let port = |kind| Some(u16::from_be_bytes(*find(protocol, kind)?.first_chunk()?));
    let source = SocketAddr::new(ipv4(1).or_else(|| ipv6(3))?, port(SOURCE_PORT)?);
    let destination = SocketAddr::new(ipv4(2).or_else(|| ipv6(4))?, port(DESTINATION_PORT)?);
    Some((kind, source, destination))
}

/// `NFNL_SUBSYS_CTNETLINK`
const SUBSYSTEM: u16 = 1;
/// `IPCTNL_MSG_CT_NEW`
const NEW: u16 = 0;
/// `IPCTNL_MSG_CT_GET`
const GET: u16 = 1;
/// `IPCTNL_MSG_CT_DELETE`
const DELETE: u16 = 2;
/// Header of netfilter in a message.
const FAMILY: usize = 4;
/// As much as the kernel gives at a time.
const PART: usize = 32 * 1024;
/// `CTA_TUPLE_ORIG`
const ORIGINAL: u16 = 1;
/// `CTA_TUPLE_REPLY`
const REPLY: u16 = 2;
/// `CTA_STATUS`
const STATUS: u16 = 3;
/// `IPS_SEEN_REPLY`
const ANSWERED: u32 = 1 << 1;
/// `CTA_PROTOINFO`
const PROTOCOL_STATE: u16 = 4;
/// `CTA_ID`
const ID: u16 = 12;
/// `CTA_ZONE`
const ZONE: u16 = 18;
/// `CTA_FILTER`
const FILTER: u16 = 25;
const TUPLE_ADDRESSES: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const PROTOCOL_NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;
/// `TCP_CONNTRACK_SYN_SENT`
const SYN_SENT: u8 = 1;
/// `TCP_CONNTRACK_LAST_ACK`
const LAST_ACK: u8 = 6;

#[cfg(test)]
mod tests {
    use super::*;

    fn flow() -> Flow {
        Flow {
            protocol: Protocol::Tcp,
            client: "10.0.0.3:40000".parse().unwrap(),
            wanted: "10.0.0.9:6443".parse().unwrap(),
            answering: "10.0.0.2:6443".parse().unwrap(),
            is_open: true,
            is_unanswered: false,
            id: Some([1, 2, 3, 4]),
            zone: None,
        }
    }

    fn told(flow: &Flow) -> Vec<u8> {
        let answer = Flow { client: flow.answering, wanted: "10.0.0.1:40000".parse().unwrap(), ..*flow };
        let reply = named(&answer);
        let reply = find(reply.as_bytes(), ORIGINAL).unwrap().to_vec();
        let state = Attributes::default().nest(1, &Attributes::default().bytes(1, &[3]));
        named(flow).bytes(REPLY, &reply).nest(PROTOCOL_STATE, &state).as_bytes().to_vec()
    }

    #[test]
    fn what_names_a_flow_is_read_as_it_is_written() {
        assert_eq!(parse(&told(&flow())), Some(flow()));
        let ipv6 = Flow {
            client: "[fd00::3]:40000".parse().unwrap(),
            wanted: "[fd00::9]:6443".parse().unwrap(),
            zone: Some([0, 7]),
            ..flow()
        };
        let (_, client, wanted) = ends(find(named(&ipv6).as_bytes(), ORIGINAL).unwrap()).unwrap();
        assert_eq!((client, wanted), (ipv6.client, ipv6.wanted));
        assert_eq!(find(named(&ipv6).as_bytes(), ZONE), Some(&[0, 7][..]));
        let datagrams = Flow { protocol: Protocol::Udp, ..flow() };
        assert_eq!(parse(&told(&datagrams)), Some(datagrams));
    }

    #[test]
    fn what_is_cut_off_anywhere_is_no_flow_and_no_panic() {
        let whole = told(&flow());
        // The state comes last.
        let stateless = whole.len() - 16;
        for length in 0..whole.len() {
            let parsed = parse(&whole[..length]);
            assert!(length >= stateless || parsed.is_none(), "{length}: {parsed:?}");
            let _ = next_message(&mut &whole[..length]);
        }
        for byte in 0..whole.len() {
            let mut wrong = whole.clone();
            wrong[byte] ^= 0xff;
            let _ = parse(&wrong);
        }
    }
}
