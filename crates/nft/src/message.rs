//! Messages to nf_tables, as bytes: netlink(7) headers, nested attributes, and a batch of them that is taken as a whole.
//!
//! By hand, as they are few: of what a rule of ours consists of, the crates for netlink know half, and would be asked to
//! pass the rest through as bytes.

/// Several messages that the kernel carries out together, or not at all.
#[derive(Debug)]
pub struct Batch {
    bytes: Vec<u8>,
    /// What each message is for; its place is its sequence number.
    steps: Vec<Step>,
    /// Where the last message that changes something begins.
    last: usize,
    /// Of what family the next message is.
    family: Family,
    /// Sets without a name that it makes.
    sets: u32,
}

/// A family of tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `NFPROTO_INET`: IPv4 and IPv6.
    Inet = 1,
    /// `NFPROTO_ARP`
    Arp = 3,
}

/// What a message of a batch is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Begins or ends the batch.
    Frame,
    /// Takes away the table that may be left from an earlier process.
    Replace,
    /// Makes the table.
    Table,
    /// Makes a set.
    Set,
    /// Makes a chain.
    Chain,
    /// Makes a rule.
    Rule,
    /// Puts an element into a set, or takes it out.
    Element,
    /// Makes a time limit of connections.
    Timeout,
    /// Takes rules or the table away.
    Remove,
}

/// Attributes of a message, one after the other, each with its length and padded to four bytes.
#[derive(Debug, Default)]
pub struct Attributes(Vec<u8>);

/// What is done with a thing of nf_tables.
#[derive(Clone, Copy, Debug)]
pub enum Verb {
    /// Makes a table; one that is there already stays.
    NewTable,
    /// Takes a table away, with all that is in it.
    DeleteTable,
    /// Makes a chain.
    NewChain,
    /// Adds a rule to the end of a chain.
    NewRule,
    /// Takes away a rule, or all of a chain's.
    DeleteRule,
    /// Makes a set.
    NewSet,
    /// Puts elements into a set; one that is there already stays, with the time that it has.
    NewElement,
    /// Takes elements out of a set.
    DeleteElement,
    /// Makes an object that rules refer to by its name.
    NewObject,
}

impl Batch {
    /// Begins a batch for tables of this family.
    #[must_use]
    pub fn begin(family: Family) -> Self {
        let mut batch = Self { bytes: Vec::new(), steps: Vec::new(), last: 0, family, sets: 0 };
        batch.put(Step::Frame, BATCH_BEGIN, REQUEST, &Attributes::default());
        batch
    }

    /// Goes on with tables of this family.
    pub fn turn_to(&mut self, family: Family) {
        self.family = family;
    }

    /// A number for one more set, which none of this batch has.
    pub(crate) fn number_set(&mut self) -> u32 {
        self.sets += 1;
        // Sets with a name take low ones.
        UNNAMED + self.sets
    }

    /// Adds a message.
    pub fn add(&mut self, step: Step, verb: Verb, attributes: &Attributes) {
        let (number, flags) = match verb {
            Verb::NewTable => (0, CREATE),
            Verb::DeleteTable => (2, 0),
            Verb::NewChain => (3, CREATE),
            Verb::NewRule => (6, CREATE | APPEND),
            Verb::DeleteRule => (8, 0),
            Verb::NewSet => (9, CREATE),
            Verb::NewElement => (12, CREATE),
            Verb::DeleteElement => (14, 0),
            Verb::NewObject => (18, CREATE),
        };
        self.last = self.bytes.len();
        self.put(step, (SUBSYSTEM << 8) | number, REQUEST | flags, attributes);
    }

    /// Has the last message answered, and ends the batch: it will be carried out.
    #[must_use]
    pub fn end(mut self) -> Self {
        self.want_answer();
        self.put(Step::Frame, BATCH_END, REQUEST, &Attributes::default());
        self
    }

    /// Has the last message answered, and leaves the batch without an end: the kernel tries it and takes it back, which is
    /// how `nft --check` does it.
    #[must_use]
    pub fn rehearsal(mut self) -> Self {
        self.want_answer();
        self
    }

    /// What is to be sent.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What the message of this sequence number is for.
    #[must_use]
    pub fn step(&self, sequence: u32) -> Option<Step> {
        self.steps.get(usize::try_from(sequence).ok()?).copied()
    }

    /// Writes another [`long`](Attributes::long) over the one that ends at this place, so that a batch can be sent again without being
    /// made again.
    pub fn rewrite_long(&mut self, end: usize, value: u64) {
        let bytes = value.to_be_bytes();
        self.bytes[end - bytes.len()..end].copy_from_slice(&bytes);
    }

    fn want_answer(&mut self) {
        let flags = self.last + 6..self.last + 8;
        let now = u16::from_ne_bytes([self.bytes[flags.start], self.bytes[flags.start + 1]]);
        self.bytes[flags].copy_from_slice(&(now | ACKNOWLEDGE).to_ne_bytes());
    }

    fn put(&mut self, step: Step, kind: u16, flags: u16, attributes: &Attributes) {
        // The frame of a batch belongs to no family, and names the part of netfilter that the batch is for.
        let (family, resource) = if step == Step::Frame { (0, SUBSYSTEM) } else { (self.family as u8, 0) };
        let sequence = u32::try_from(self.steps.len()).expect("a batch has a few dozen messages");
        self.steps.push(step);
        attributes.write(kind, flags, (sequence, family, resource), &mut self.bytes);
    }
}

impl Attributes {
    /// A message of one family with these.
    pub(crate) fn message(&self, kind: u16, flags: u16, family: u8) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write(kind, flags, (0, family, 0), &mut bytes);
        bytes
    }

    fn write(
        &self,
        kind: u16,
        flags: u16,
        (sequence, family, resource): (u32, u8, u16),
        bytes: &mut Vec<u8>,
    ) {
        let length = u32::try_from(HEADER + self.0.len()).expect("a message has some kB");
        bytes.extend(length.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        // From whom: the kernel knows.
        bytes.extend([0; 4]);
        bytes.extend([family, 0]);
        bytes.extend(resource.to_be_bytes());
        bytes.extend(&self.0);
    }

    /// The bytes so far.
    #[cfg(test)]
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Adds a number in the machine's own order.
    pub(crate) fn native(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// Adds bytes.
    #[must_use]
    pub fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(ATTRIBUTE_HEADER + value.len()).expect("an attribute has less than 64 kB");
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Adds a number.
    #[must_use]
    pub fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Adds a number that may be large.
    #[must_use]
    pub fn long(self, kind: u16, value: u64) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Adds a text.
    #[must_use]
    pub fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// Adds attributes as one.
    #[must_use]
    pub fn nest(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }
}

/// Header of netlink, and of netfilter in it.
const HEADER: usize = 16 + 4;
const ATTRIBUTE_HEADER: usize = 4;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// `NFNL_SUBSYS_NFTABLES`
const SUBSYSTEM: u16 = 10;
/// From here on, sets without a name are numbered.
const UNNAMED: u32 = 1 << 16;
/// `NLM_F_REQUEST`
pub(crate) const REQUEST: u16 = 1;
/// `NLM_F_ACK`
pub(crate) const ACKNOWLEDGE: u16 = 4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const NESTED: u16 = 0x8000;
