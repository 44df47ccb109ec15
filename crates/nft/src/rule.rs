//! What a rule consists of: expressions that load, compare and decide, one after the other.

use std::net::IpAddr;

use crate::message::Attributes;

impl Attributes {
    /// Adds an element to the list of a set's: for ever, or for so many milliseconds.
    #[must_use]
    pub fn element(self, key: &[u8], milliseconds: Option<u64>) -> Self {
        const LIST_ELEMENT: u16 = 1;
        let element = Self::default().nest(1, &Self::default().bytes(1, key));
        let element = match milliseconds {
            Some(milliseconds) => element.long(4, milliseconds),
            None => element,
        };
        self.nest(LIST_ELEMENT, &element)
    }

    /// Adds: only if the set, of the same table, doesn't have the register's value, go on.
    #[must_use]
    pub fn must_not_be_in(self, set: &str) -> Self {
        const INVERTED: u32 = 1;
        self.expression("lookup", &Self::default().text(1, set).number(2, REGISTER).number(5, INVERTED))
    }

    /// Adds: the packet ends here.
    #[must_use]
    pub fn discard(self) -> Self {
        const DROP: u32 = 0;
        let verdict = Self::default().number(1, DROP);
        let data = Self::default().nest(2, &verdict);
        self.expression("immediate", &Self::default().number(1, VERDICT_REGISTER).nest(2, &data))
    }

    /// Adds an expression to the list of a rule's.
    fn expression(self, name: &str, data: &Self) -> Self {
        const LIST_ELEMENT: u16 = 1;
        self.nest(LIST_ELEMENT, &Self::default().text(1, name).nest(2, data))
    }

    /// Adds: only if the register has this value, go on.
    #[must_use]
    pub fn must_equal(self, value: &[u8]) -> Self {
        const EQUAL: u32 = 0;
        let value = Self::default().bytes(1, value);
        self.expression("cmp", &Self::default().number(1, REGISTER).number(2, EQUAL).nest(3, &value))
    }

    /// Adds: load what is known about the packet.
    #[must_use]
    pub fn load_meta(self, key: Meta) -> Self {
        self.expression("meta", &Self::default().number(1, REGISTER).number(2, key as u32))
    }

    /// Adds: load bytes of the packet's header.
    #[must_use]
    pub fn load_header(self, header: Header, offset: u32, length: u32) -> Self {
        let data = Self::default().number(1, REGISTER).number(2, header as u32);
        self.expression("payload", &data.number(3, offset).number(4, length))
    }

    /// Adds: load of what kind the destination is to this host (`RTN_LOCAL` and so on), in its own byte order.
    #[must_use]
    pub fn load_destination_kind(self) -> Self {
        const KIND_OF_ADDRESS: u32 = 3;
        const OF_DESTINATION: u32 = 2;
        let data = Self::default().number(1, REGISTER).number(2, KIND_OF_ADDRESS).number(3, OF_DESTINATION);
        self.expression("fib", &data)
    }

    /// Adds: lead the connection there.
    #[must_use]
    pub fn lead_to(self, ip: IpAddr, port: u16) -> Self {
        const DESTINATION: u32 = 1;
        let data = Self::default().number(1, DESTINATION).number(2, protocol_family(ip).into());
        self.value(REGISTER, &octets(ip))
            .value(SECOND_REGISTER, &port.to_be_bytes())
            .expression("nat", &data.number(3, REGISTER).number(5, SECOND_REGISTER))
    }

    /// Adds: go on in another chain of the table.
    #[must_use]
    pub fn jump(self, chain: &str) -> Self {
        const JUMP: i32 = -3;
        let verdict = Self::default().bytes(1, &JUMP.to_be_bytes()).text(2, chain);
        let data = Self::default().nest(2, &verdict);
        self.expression("immediate", &Self::default().number(1, VERDICT_REGISTER).nest(2, &data))
    }

    /// Adds: put a value into a register.
    fn value(self, register: u32, value: &[u8]) -> Self {
        let value = Self::default().bytes(1, value);
        self.expression("immediate", &Self::default().number(1, register).nest(2, &value))
    }
}

/// What the kernel knows about a packet.
#[derive(Clone, Copy, Debug)]
pub enum Meta {
    /// `NFPROTO_IPV4` or `NFPROTO_IPV6`, one byte.
    Family = 15,
    /// The protocol above IP, one byte.
    Protocol = 16,
}

/// The headers of a packet.
#[derive(Clone, Copy, Debug)]
pub enum Header {
    /// IP's, or the whole of ARP's.
    Network = 1,
    /// That of the protocol above IP.
    Transport = 2,
}

/// The bytes of an address, as a packet has them.
#[must_use]
pub fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// `NFPROTO_IPV4` or `NFPROTO_IPV6`.
#[must_use]
pub fn protocol_family(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 2 } else { 10 }
}

/// The one that all expressions of ours use, one after the other: 16 bytes.
const REGISTER: u32 = 1;
/// The one beside it.
const SECOND_REGISTER: u32 = 2;
/// Where a verdict goes.
const VERDICT_REGISTER: u32 = 0;
