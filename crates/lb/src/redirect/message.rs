//! Messages to nf_tables, as bytes: netlink(7) headers, nested attributes, and a batch of them that is taken as a whole.
//!
//! By hand, as they are few: of what a rule of ours consists of, the crates for netlink know half, and would be asked to
//! pass the rest through as bytes.

use std::net::IpAddr;

/// Several messages that the kernel carries out together, or not at all.
#[derive(Debug)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    /// What each message is for; its place is its sequence number.
    steps: Vec<Step>,
    /// Where the last message that changes something begins.
    last: usize,
}

/// What a message of a batch is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Begins or ends the batch.
    Frame,
    /// Takes away the table that may be left from an earlier process.
    Replace,
    /// Makes the table.
    Table,
    /// Makes a chain.
    Chain,
    /// Makes a rule.
    Rule,
    /// Takes rules or the table away.
    Remove,
}

/// Attributes of a message, one after the other, each with its length and padded to four bytes.
#[derive(Debug, Default)]
pub(super) struct Attributes(Vec<u8>);

/// What is done with a thing of nf_tables.
#[derive(Clone, Copy, Debug)]
pub(super) enum Verb {
    NewTable,
    DeleteTable,
    NewChain,
    NewRule,
    DeleteRule,
}

impl Batch {
    /// Begins a batch.
    pub(super) fn begin() -> Self {
        let mut batch = Self { bytes: Vec::new(), steps: Vec::new(), last: 0 };
        batch.put(Step::Frame, BATCH_BEGIN, REQUEST, &Attributes::default());
        batch
    }

    /// Adds a message.
    pub(super) fn add(&mut self, step: Step, verb: Verb, attributes: &Attributes) {
        let (number, flags) = match verb {
            Verb::NewTable => (0, CREATE),
            Verb::DeleteTable => (2, 0),
            Verb::NewChain => (3, CREATE),
            Verb::NewRule => (6, CREATE | APPEND),
            Verb::DeleteRule => (8, 0),
        };
        self.last = self.bytes.len();
        self.put(step, (SUBSYSTEM << 8) | number, REQUEST | flags, attributes);
    }

    /// Has the last message answered, and ends the batch: it will be carried out.
    pub(super) fn end(mut self) -> Self {
        self.want_answer();
        self.put(Step::Frame, BATCH_END, REQUEST, &Attributes::default());
        self
    }

    /// Has the last message answered, and leaves the batch without an end: the kernel tries it and takes it back, which is
    /// how `nft --check` does it.
    pub(super) fn rehearsal(mut self) -> Self {
        self.want_answer();
        self
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What the message of this sequence number is for.
    pub(super) fn step(&self, sequence: u32) -> Option<Step> {
        self.steps.get(usize::try_from(sequence).ok()?).copied()
    }

    fn want_answer(&mut self) {
        let flags = self.last + 6..self.last + 8;
        let now = u16::from_ne_bytes([self.bytes[flags.start], self.bytes[flags.start + 1]]);
        self.bytes[flags].copy_from_slice(&(now | ACKNOWLEDGE).to_ne_bytes());
    }

    fn put(&mut self, step: Step, kind: u16, flags: u16, attributes: &Attributes) {
        let Attributes(attributes) = attributes;
        // The frame of a batch belongs to no family, and names the part of netfilter that the batch is for.
        let (family, resource) = if step == Step::Frame { (0, SUBSYSTEM) } else { (FAMILY_INET, 0) };
        let length = u32::try_from(HEADER + attributes.len()).expect("a message has a few hundred bytes");
        let sequence = u32::try_from(self.steps.len()).expect("a batch has a few dozen messages");
        self.steps.push(step);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(sequence.to_ne_bytes());
        // From whom: the kernel knows.
        self.bytes.extend([0; 4]);
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        self.bytes.extend(attributes);
    }
}

impl Attributes {
    /// Adds bytes.
    pub(super) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length =
            u16::try_from(ATTRIBUTE_HEADER + value.len()).expect("an attribute has a few hundred bytes");
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Adds a number.
    pub(super) fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Adds a text.
    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// Adds attributes as one.
    pub(super) fn nest(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }

    /// Adds an expression to the list of a rule's.
    fn expression(self, name: &str, data: &Self) -> Self {
        const LIST_ELEMENT: u16 = 1;
        self.nest(LIST_ELEMENT, &Self::default().text(1, name).nest(2, data))
    }

    /// Adds: only if the register has this value, go on.
    pub(super) fn must_equal(self, value: &[u8]) -> Self {
        const EQUAL: u32 = 0;
        let value = Self::default().bytes(1, value);
        self.expression("cmp", &Self::default().number(1, REGISTER).number(2, EQUAL).nest(3, &value))
    }

    /// Adds: load what is known about the packet.
    pub(super) fn load_meta(self, key: Meta) -> Self {
        self.expression("meta", &Self::default().number(1, REGISTER).number(2, key as u32))
    }

    /// Adds: load bytes of the packet's header.
    pub(super) fn load_header(self, header: Header, offset: u32, length: u32) -> Self {
        let data = Self::default().number(1, REGISTER).number(2, header as u32);
        self.expression("payload", &data.number(3, offset).number(4, length))
    }

    /// Adds: load of what kind the destination is to this host (`RTN_LOCAL` and so on), in its own byte order.
    pub(super) fn load_destination_kind(self) -> Self {
        const KIND_OF_ADDRESS: u32 = 3;
        const OF_DESTINATION: u32 = 2;
        let data = Self::default().number(1, REGISTER).number(2, KIND_OF_ADDRESS).number(3, OF_DESTINATION);
        self.expression("fib", &data)
    }

    /// Adds: lead the connection there.
    pub(super) fn lead_to(self, ip: IpAddr, port: u16) -> Self {
        const DESTINATION: u32 = 1;
        let data = Self::default().number(1, DESTINATION).number(2, protocol_family(ip).into());
        self.value(REGISTER, &octets(ip))
            .value(SECOND_REGISTER, &port.to_be_bytes())
            .expression("nat", &data.number(3, REGISTER).number(5, SECOND_REGISTER))
    }

    /// Adds: go on in another chain of the table.
    pub(super) fn jump(self, chain: &str) -> Self {
        const VERDICT_REGISTER: u32 = 0;
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
pub(super) enum Meta {
    /// `NFPROTO_IPV4` or `NFPROTO_IPV6`, one byte.
    Family = 15,
    /// The protocol above IP, one byte.
    Protocol = 16,
}

/// The headers of a packet.
#[derive(Clone, Copy, Debug)]
pub(super) enum Header {
    Network = 1,
    Transport = 2,
}

/// The bytes of an address, as a packet has them.
pub(super) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// `NFPROTO_IPV4` or `NFPROTO_IPV6`.
pub(super) fn protocol_family(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 2 } else { 10 }
}

/// Header of netlink, and of netfilter in it.
const HEADER: usize = 16 + 4;
const ATTRIBUTE_HEADER: usize = 4;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// `NFNL_SUBSYS_NFTABLES`
const SUBSYSTEM: u16 = 10;
/// `NFPROTO_INET`: IPv4 and IPv6.
const FAMILY_INET: u8 = 1;
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const NESTED: u16 = 0x8000;
/// The one that all expressions of ours use, one after the other: 16 bytes.
const REGISTER: u32 = 1;
/// The one beside it.
const SECOND_REGISTER: u32 = 2;
