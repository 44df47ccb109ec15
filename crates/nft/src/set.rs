//! Sets and maps without a name, which belong to the one rule that looks into them and end with it.

use std::net::IpAddr;

use crate::attribute::{
    ELEMENTS_LIST, ELEMENTS_SET, ELEMENTS_SET_ID, ELEMENTS_TABLE, SET_DESCRIPTION, SET_FLAGS, SET_ID,
    SET_KEY_LENGTH, SET_KEY_TYPE, SET_NAME, SET_TABLE, SET_USER_DATA, SET_VALUE_LENGTH, SET_VALUE_TYPE,
};
use crate::message::{Attributes, Batch, Step, Verb};

/// What keys or values are: so `nft` prints them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A number of four bytes, in the machine's own order.
    Number,
    /// An IPv4 address.
    Ipv4,
    /// An IPv6 address.
    Ipv6,
    /// An IPv4 address and a port, which is padded to four bytes.
    Ipv4Port,
    /// An IPv6 address and a port, which is padded to four bytes.
    Ipv6Port,
    /// Two IPv4 addresses.
    Ipv4Pair,
    /// Two IPv6 addresses.
    Ipv6Pair,
}

impl Kind {
    /// An address of this one's family.
    #[must_use]
    pub fn address(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::Ipv4 } else { Self::Ipv6 }
    }

    /// An address of this one's family, and a port.
    #[must_use]
    pub fn address_and_port(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::Ipv4Port } else { Self::Ipv6Port }
    }

    /// Two addresses of this one's family.
    #[must_use]
    pub fn two_addresses(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::Ipv4Pair } else { Self::Ipv6Pair }
    }

    /// Its number, as `nft` counts: those of a pair follow each other, with six bits each.
    fn number(self) -> u32 {
        const INTEGER: u32 = 4;
        const IPV4: u32 = 7;
        const IPV6: u32 = 8;
        const SERVICE: u32 = 13;
        let pair = |first, second| (first << 6) | second;
        match self {
            Self::Number => INTEGER,
            Self::Ipv4 => IPV4,
            Self::Ipv6 => IPV6,
            Self::Ipv4Port => pair(IPV4, SERVICE),
            Self::Ipv6Port => pair(IPV6, SERVICE),
            Self::Ipv4Pair => pair(IPV4, IPV4),
            Self::Ipv6Pair => pair(IPV6, IPV6),
        }
    }

    /// How many bytes one has.
    fn length(self) -> u32 {
        match self {
            Self::Number | Self::Ipv4 => 4,
            Self::Ipv4Port | Self::Ipv4Pair => 8,
            Self::Ipv6 => 16,
            Self::Ipv6Port => 20,
            Self::Ipv6Pair => 32,
        }
    }
}

/// A set or map that a batch makes, for a rule of the same batch to look into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unnamed {
    pub(crate) name: &'static str,
    pub(crate) id: u32,
}

/// One element: its key, and its value where it is a map's.
pub type Element = (Vec<u8>, Option<Vec<u8>>);

impl Batch {
    /// Adds a set, or a map where there is a kind of values, with all its elements, to a table.
    ///
    /// Keys and values have the length of their kind.
    pub fn add_unnamed(
        &mut self,
        table: &str,
        keys: Kind,
        values: Option<Kind>,
        elements: &[Element],
    ) -> Unnamed {
        let name = if values.is_some() { "__map%d" } else { "__set%d" };
        let set = Unnamed { name, id: self.number_set() };
        let flags = UNNAMED | CONSTANT | if values.is_some() { MAP } else { 0 };
        let count = u32::try_from(elements.len()).expect("a set has some thousand elements");
        let mut attributes = Attributes::default()
            .text(SET_TABLE, table)
            .text(SET_NAME, name)
            .number(SET_FLAGS, flags)
            .number(SET_KEY_TYPE, keys.number())
            .number(SET_KEY_LENGTH, keys.length())
            .number(SET_ID, set.id)
            .nest(SET_DESCRIPTION, &Attributes::default().number(DESCRIPTION_SIZE, count));
        if let Some(values) = values {
            attributes =
                attributes.number(SET_VALUE_TYPE, values.number()).number(SET_VALUE_LENGTH, values.length());
        }
        if keys == Kind::Number {
            attributes = attributes.bytes(SET_USER_DATA, &keys_of_the_machine());
        }
        self.add(Step::Set, Verb::NewSet, &attributes);
        for some in elements.chunks(AT_A_TIME) {
            let list = some
                .iter()
                .fold(Attributes::default(), |list, (key, value)| list.element_with(key, value.as_deref()));
            let attributes = Attributes::default()
                .text(ELEMENTS_TABLE, table)
                .text(ELEMENTS_SET, name)
                .number(ELEMENTS_SET_ID, set.id);
            self.add(Step::Element, Verb::NewElement, &attributes.nest(ELEMENTS_LIST, &list));
        }
        set
    }
}

impl Attributes {
    /// Adds an element to the list of a set's or map's.
    fn element_with(self, key: &[u8], value: Option<&[u8]>) -> Self {
        const LIST_ELEMENT: u16 = 1;
        const KEY: u16 = 1;
        const VALUE: u16 = 2;
        const BYTES: u16 = 1;
        let mut element = Self::default().nest(KEY, &Self::default().bytes(BYTES, key));
        if let Some(value) = value {
            element = element.nest(VALUE, &Self::default().bytes(BYTES, value));
        }
        self.nest(LIST_ELEMENT, &element)
    }
}

/// Without this, `nft` prints numbers in the network's order: a type, a length, and a number of four bytes.
fn keys_of_the_machine() -> [u8; 6] {
    const BYTE_ORDER_OF_KEYS: u8 = 0;
    const OF_THE_MACHINE: u32 = 1;
    let [a, b, c, d] = OF_THE_MACHINE.to_ne_bytes();
    [BYTE_ORDER_OF_KEYS, 4, a, b, c, d]
}

/// Elements of one message: the longest take 64 bytes, and a list of them must stay below 64 kB.
const AT_A_TIME: usize = 500;
/// `NFT_SET_ANONYMOUS`
const UNNAMED: u32 = 1;
/// `NFT_SET_CONSTANT`
const CONSTANT: u32 = 2;
/// `NFT_SET_MAP`
const MAP: u32 = 8;
/// `NFTA_SET_DESC_SIZE`
const DESCRIPTION_SIZE: u16 = 1;
