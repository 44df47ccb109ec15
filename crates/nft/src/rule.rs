//! What a rule consists of: expressions that load, compare and decide, one after the other.

use std::net::IpAddr;

use crate::message::Attributes;
use crate::set::Unnamed;

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
    pub(crate) fn expression(self, name: &str, data: &Self) -> Self {
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

    /// Adds: only if the register has another value, go on.
    #[must_use]
    pub fn must_differ(self, value: &[u8]) -> Self {
        const NOT_EQUAL: u32 = 1;
        let value = Self::default().bytes(1, value);
        self.expression("cmp", &Self::default().number(1, REGISTER).number(2, NOT_EQUAL).nest(3, &value))
    }

    /// Adds: only if the register, a number of the machine's own order, has any of these bits, go on.
    #[must_use]
    pub fn must_have(self, bits: u32) -> Self {
        self.keep(&bits.to_ne_bytes()).must_differ(&[0; 4])
    }

    /// Adds: of what is in the register, keep these bits.
    #[must_use]
    pub fn keep(self, bits: &[u8]) -> Self {
        let value = |bytes: &[u8]| Self::default().bytes(1, bytes);
        let length = u32::try_from(bits.len()).expect("a register has 16 bytes");
        let data = Self::default().number(1, REGISTER).number(2, REGISTER).number(3, length);
        let none = vec![0; bits.len()];
        self.expression("bitwise", &data.nest(4, &value(bits)).nest(5, &value(&none)))
    }

    /// Adds: only if the set has what is in the register, and in those after it, go on.
    #[must_use]
    pub fn must_be_in(self, set: Unnamed) -> Self {
        let data = Self::default().text(1, set.name).number(2, REGISTER).number(4, set.id);
        self.expression("lookup", &data)
    }

    /// Adds: only if the map has what is in the register, go on, with its value in the register's place and in those after it.
    #[must_use]
    pub fn look_up(self, map: Unnamed) -> Self {
        let data = Self::default().text(1, map.name).number(2, REGISTER).number(3, REGISTER);
        self.expression("lookup", &data.number(4, map.id))
    }

    /// Adds: load a number below this one, the next with each packet.
    #[must_use]
    pub fn load_turn(self, below: u32) -> Self {
        const IN_TURN: u32 = 0;
        self.expression("numgen", &Self::default().number(1, REGISTER).number(2, below).number(3, IN_TURN))
    }

    /// Adds: load a number below this one that follows from bytes of the packet's header (Jenkins' hash); the same on every host.
    #[must_use]
    pub fn load_hash(self, header: Header, offset: u32, length: u32, below: u32) -> Self {
        const JENKINS: u32 = 0;
        let load = Self::default().number(1, SECOND_REGISTER).number(2, header as u32);
        // Without a seed of ours, the kernel takes one by chance.
        let hash = Self::default().number(1, SECOND_REGISTER).number(2, REGISTER).number(3, length);
        self.expression("payload", &load.number(3, offset).number(4, length))
            .expression("hash", &hash.number(4, below).number(5, SEED).number(7, JENKINS))
    }

    /// Adds: load what is known about the packet's connection.
    #[must_use]
    pub fn load_connection(self, key: Connection) -> Self {
        self.load_connection_at(key, REGISTER)
    }

    /// Adds: load the address that answers the packet's connection, and after it its port, as keys with a port have them.
    #[must_use]
    pub fn load_answering(self, ip: IpAddr) -> Self {
        self.load_connection_at(Connection::answering_address(ip), REGISTER)
            .load_connection_at(Connection::AnsweringPort, after(ip))
    }

    /// Adds: load the addresses that the packet comes from and goes to, one after the other.
    #[must_use]
    pub fn load_both_addresses(self, ip: IpAddr) -> Self {
        let (source, destination, length) = if ip.is_ipv4() { (12, 16, 4) } else { (8, 24, 16) };
        let load = |register, offset| {
            let data = Self::default().number(1, register).number(2, Header::Network as u32);
            data.number(3, offset).number(4, length)
        };
        self.expression("payload", &load(REGISTER, source))
            .expression("payload", &load(after(ip), destination))
    }

    fn load_connection_at(self, key: Connection, register: u32) -> Self {
        let (number, direction) = key.numbers();
        let data = Self::default().number(1, register).number(2, number);
        let data = match direction {
            Some(direction) => data.bytes(3, &[direction]),
            None => data,
        };
        self.expression("ct", &data)
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
        const OF_DESTINATION: u32 = 2;
        self.load_kind(OF_DESTINATION)
    }

    /// Adds: the same of the source.
    #[must_use]
    pub fn load_source_kind(self) -> Self {
        const OF_SOURCE: u32 = 1;
        self.load_kind(OF_SOURCE)
    }

    fn load_kind(self, of: u32) -> Self {
        const KIND_OF_ADDRESS: u32 = 3;
        let data = Self::default().number(1, REGISTER).number(2, KIND_OF_ADDRESS).number(3, of);
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

    /// Adds: lead the connection to the address, of this one's family, and the port that are in the register and after it.
    #[must_use]
    pub fn lead_to_found(self, ip: IpAddr) -> Self {
        const DESTINATION: u32 = 1;
        let data = Self::default().number(1, DESTINATION).number(2, protocol_family(ip).into());
        self.expression("nat", &data.number(3, REGISTER).number(5, after(ip)))
    }

    /// Adds: let the connection come from this host, by the address that the packet leaves with.
    #[must_use]
    pub fn masquerade(self) -> Self {
        self.expression("masq", &Self::default())
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
    /// Number of the interface that it leaves by, four bytes in the machine's own order.
    LeavesBy = 5,
}

/// What the kernel knows about a packet's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// `IPS_*`, four bytes in the machine's own order.
    Status,
    /// The IPv4 address that its first packet went to.
    WantedIpv4,
    /// The IPv6 address that its first packet went to.
    WantedIpv6,
    /// The port that its first packet went to.
    WantedPort,
    /// The IPv4 address that answers come from.
    AnsweringIpv4,
    /// The IPv6 address that answers come from.
    AnsweringIpv6,
    /// The port that answers come from.
    AnsweringPort,
}

impl Connection {
    /// The address that its first packet went to, of this one's family.
    #[must_use]
    pub fn wanted_address(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::WantedIpv4 } else { Self::WantedIpv6 }
    }

    fn answering_address(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::AnsweringIpv4 } else { Self::AnsweringIpv6 }
    }

    /// `NFT_CT_*`, and of which direction's packets: 0 for those of who began it, 1 for the answers.
    fn numbers(self) -> (u32, Option<u8>) {
        match self {
            Self::Status => (2, None),
            Self::WantedIpv4 => (20, Some(0)),
            Self::WantedIpv6 => (22, Some(0)),
            Self::WantedPort => (12, Some(0)),
            Self::AnsweringIpv4 => (19, Some(1)),
            Self::AnsweringIpv6 => (21, Some(1)),
            Self::AnsweringPort => (11, Some(1)),
        }
    }
}

/// The register after an address of this family that is in the first one.
fn after(ip: IpAddr) -> u32 {
    // Registers are 16 bytes, and the first four of those at once are numbered from 8 by four bytes each.
    if ip.is_ipv4() { SECOND_QUARTER } else { SECOND_REGISTER }
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
/// The second four bytes of the first one.
const SECOND_QUARTER: u32 = 9;
/// Of hashes: any would do, as long as it is the same everywhere.
const SEED: u32 = 0x7669_7064;
/// Where a verdict goes.
const VERDICT_REGISTER: u32 = 0;
