//! The tables of the fence, as messages to the kernel.

use crate::address::Address;
use nft::attribute::{
    CHAIN_HOOK, CHAIN_NAME, CHAIN_TABLE, CHAIN_TYPE, ELEMENTS_LIST, ELEMENTS_SET, ELEMENTS_TABLE, RULE_CHAIN,
    RULE_EXPRESSIONS, RULE_TABLE, SET_FLAGS, SET_ID, SET_KEY_LENGTH, SET_KEY_TYPE, SET_NAME, SET_TABLE,
    TABLE_FLAGS, TABLE_NAME,
};
use nft::{Attributes, Batch, Family, Header, Meta, Step, Verb, octets, protocol_family};
use std::net::IpAddr;
use std::time::Duration;

/// The fence of one address.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fenced {
    ip: IpAddr,
    /// Of each of its tables: it follows from the address, so that whoever has the address next finds what was left.
    name: String,
}

/// The fences of addresses that move together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tables(Vec<Fenced>);

impl Tables {
    pub(super) fn new(addresses: &[Address]) -> Self {
        let named = |ip: IpAddr| Fenced { ip, name: table_name(ip) };
        Self(addresses.iter().map(|address| named(address.ip)).collect())
    }

    /// Those that a rehearsal makes: nobody's addresses, of both families.
    pub(super) fn specimen() -> Self {
        let fenced = |ip| Fenced { ip, name: "vipd-check".to_owned() };
        Self(vec![fenced(IpAddr::from([0_u8; 4])), fenced(IpAddr::from([0_u16; 8]))])
    }

    /// Makes all tables, in place of any that are there; open for this long, or closed.
    pub(super) fn install(&self, open_for: Option<u64>) -> Batch {
        let mut batch = Batch::begin(Family::Inet);
        self.each(&mut batch, |fenced, family, batch| {
            fenced.clear(batch);
            fenced.make(family, batch);
            if open_for.is_some() {
                fenced.element(Verb::NewElement, open_for, batch);
            }
        });
        batch
    }

    /// Opens for as long as will be said, again and again.
    pub(super) fn renewal(&self) -> Renewal {
        let mut times = Vec::new();
        let batch = self.arm(|fenced, batch| {
            fenced.element(Verb::NewElement, Some(0), batch);
            times.push(batch.bytes().len());
        });
        Renewal { batch, times }
    }

    /// Closes.
    pub(super) fn close(&self) -> Batch {
        self.arm(|_, _| {})
    }

    /// Takes the elements out, and does something in their place.
    fn arm(&self, mut instead: impl FnMut(&Fenced, &mut Batch)) -> Batch {
        let mut batch = Batch::begin(Family::Inet);
        self.each(&mut batch, |fenced, _, batch| {
            // An element that is there keeps its time (before Linux 6.12), and one that is not can't be taken out: so it
            // is put in, out and in again, which for those who look is one step.
            fenced.element(Verb::NewElement, None, batch);
            fenced.element(Verb::DeleteElement, None, batch);
            instead(fenced, batch);
        });
        batch.end()
    }

    /// Takes all tables away, whether or not they are there.
    pub(super) fn remove(&self) -> Batch {
        let mut batch = Batch::begin(Family::Inet);
        self.each(&mut batch, |fenced, _, batch| fenced.clear(batch));
        batch.end()
    }

    fn each(&self, batch: &mut Batch, mut what: impl FnMut(&Fenced, Family, &mut Batch)) {
        for fenced in &self.0 {
            batch.turn_to(Family::Inet);
            what(fenced, Family::Inet, batch);
            // ARP is a family of its own.
            if fenced.ip.is_ipv4() {
                batch.turn_to(Family::Arp);
                what(fenced, Family::Arp, batch);
            }
        }
    }
}

/// What each renewal of a lease tells the kernel. It is made once, and only its times are written anew: no renewal takes memory.
#[derive(Debug)]
pub(super) struct Renewal {
    batch: Batch,
    /// Where the time of each element ends in it.
    times: Vec<usize>,
}

impl Renewal {
    /// Opens for this many milliseconds from now, instead of those that are left.
    pub(super) fn open_for(&mut self, milliseconds: u64) -> &Batch {
        for end in &self.times {
            self.batch.rewrite_long(*end, milliseconds);
        }
        &self.batch
    }
}

impl Fenced {
    /// It is made before it is taken away, so that there is one to take away.
    fn clear(&self, batch: &mut Batch) {
        let table = Attributes::default().text(TABLE_NAME, &self.name);
        batch.add(Step::Replace, Verb::NewTable, &table);
        batch.add(Step::Replace, Verb::DeleteTable, &Attributes::default().text(TABLE_NAME, &self.name));
    }

    fn make(&self, family: Family, batch: &mut Batch) {
        let table = Attributes::default().text(TABLE_NAME, &self.name).number(TABLE_FLAGS, 0);
        batch.add(Step::Table, Verb::NewTable, &table);
        let (kind, length) = if self.ip.is_ipv4() { (IPV4_ADDRESS, 4) } else { (IPV6_ADDRESS, 16) };
        let set = Attributes::default().text(SET_TABLE, &self.name).text(SET_NAME, ARMED);
        let set = set.number(SET_FLAGS, ELEMENTS_TIME_OUT).number(SET_KEY_TYPE, kind);
        batch.add(Step::Set, Verb::NewSet, &set.number(SET_KEY_LENGTH, length).number(SET_ID, 1));
        match family {
            Family::Arp => self.chain("output", ARP_OUTPUT, self.arp(), batch),
            Family::Inet => {
                self.chain("input", INPUT, self.input(), batch);
                if self.ip.is_ipv6() {
                    self.chain("output", OUTPUT, self.advertisement(), batch);
                }
            }
        }
    }

    fn chain(&self, name: &str, hook: u32, rule: Attributes, batch: &mut Batch) {
        let hook = Attributes::default().number(1, hook).number(2, PRIORITY);
        let chain = Attributes::default().text(CHAIN_TABLE, &self.name).text(CHAIN_NAME, name);
        batch.add(Step::Chain, Verb::NewChain, &chain.nest(CHAIN_HOOK, &hook).text(CHAIN_TYPE, "filter"));
        let attributes = Attributes::default().text(RULE_TABLE, &self.name).text(RULE_CHAIN, name);
        batch.add(Step::Rule, Verb::NewRule, &attributes.nest(RULE_EXPRESSIONS, &rule));
    }

    /// What comes for the address.
    fn input(&self) -> Attributes {
        // Where an IP header has the destination.
        let (offset, length) = if self.ip.is_ipv4() { (16, 4) } else { (24, 16) };
        let family = Attributes::default().load_meta(Meta::Family).must_equal(&[protocol_family(self.ip)]);
        self.unless_armed(family, Header::Network, offset, length)
    }

    /// What says by ARP that the address is here: answers, requests that name it as their sender, and gratuitous ones.
    fn arp(&self) -> Attributes {
        // The sender's address, after Ethernet's six bytes of hardware address (RFC 826).
        self.unless_armed(Attributes::default(), Header::Network, 14, 4)
    }

    /// What says so by neighbour discovery (RFC 4861 section 4.4).
    fn advertisement(&self) -> Attributes {
        let kind = Attributes::default()
            .load_meta(Meta::Protocol)
            .must_equal(&[ICMPV6])
            .load_header(Header::Transport, 0, 1)
            .must_equal(&[NEIGHBOUR_ADVERTISEMENT]);
        self.unless_armed(kind, Header::Transport, 8, 16)
    }

    /// Those packets that have the address at this place end here while the set doesn't have it.
    fn unless_armed(&self, those: Attributes, header: Header, offset: u32, length: u32) -> Attributes {
        those
            .load_header(header, offset, length)
            .must_equal(&octets(self.ip))
            // As `nft` itself writes it: each comparison loads anew.
            .load_header(header, offset, length)
            .must_not_be_in(ARMED)
            .discard()
    }

    fn element(&self, verb: Verb, milliseconds: Option<u64>, batch: &mut Batch) {
        let element = Attributes::default().element(&octets(self.ip), milliseconds);
        let attributes = Attributes::default().text(ELEMENTS_TABLE, &self.name).text(ELEMENTS_SET, ARMED);
        batch.add(Step::Element, verb, &attributes.nest(ELEMENTS_LIST, &element));
    }
}

/// Name of the tables of an address. A colon is no part of a name for `nft`.
pub(super) fn table_name(ip: IpAddr) -> String {
    format!("vipd-fence-{ip}").replace(':', "-")
}

/// Returns how many milliseconds an element is given that is to live this long.
///
/// The kernel counts its own ticks, of 1 to 10 ms, the one that runs among them: so this rounds up to whole ticks, and the
/// element ends less than a tick before or after. Rounded down, a lease of a few ticks would leave gaps between its renewals.
pub(super) fn milliseconds(open_for: Duration, tick: Duration) -> u64 {
    let tick = tick.max(Duration::from_millis(1)).as_nanos();
    let ticks = open_for.as_nanos().div_ceil(tick);
    u64::try_from((ticks * tick).div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// The set that has the address while it may be answered for.
const ARMED: &str = "armed";
/// `NFT_SET_TIMEOUT`
const ELEMENTS_TIME_OUT: u32 = 0x10;
/// `ipv4_addr`, as `nft` counts its types.
const IPV4_ADDRESS: u32 = 7;
/// `ipv6_addr`
const IPV6_ADDRESS: u32 = 8;
/// `NF_INET_LOCAL_IN`
const INPUT: u32 = 1;
/// `NF_INET_LOCAL_OUT`
const OUTPUT: u32 = 3;
/// `NF_ARP_OUT`
const ARP_OUTPUT: u32 = 1;
/// `filter`
const PRIORITY: u32 = 0;
const ICMPV6: u8 = 58;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_lives_for_whole_ticks_and_never_for_ever() {
        let ms = Duration::from_millis;
        assert_eq!(milliseconds(ms(150), ms(4)), 152);
        assert_eq!(milliseconds(ms(152), ms(4)), 152);
        assert_eq!(milliseconds(Duration::from_nanos(1), ms(10)), 10);
        // 300 ticks a second: the kernel rounds down to the ticks that were meant.
        assert_eq!(milliseconds(ms(15), Duration::from_nanos(3_333_333)), 17);
        assert_eq!(milliseconds(Duration::from_secs(60), Duration::ZERO), 60_000);
    }

    #[test]
    fn a_renewal_differs_from_the_next_in_its_times_alone() {
        let addresses = ["10.0.0.162/24", "fd00::162/64"].map(|address| address.parse().unwrap());
        let tables = Tables::new(&addresses);
        let mut renewal = tables.renewal();
        for milliseconds in [152, 10, u64::MAX] {
            let anew =
                tables.arm(|fenced, batch| fenced.element(Verb::NewElement, Some(milliseconds), batch));
            assert_eq!(renewal.open_for(milliseconds).bytes(), anew.bytes());
        }
        // ARP and IP of the one address, IP of the other.
        assert_eq!(renewal.times.len(), 3);
        assert!(tables.close().bytes().len() < renewal.open_for(1).bytes().len());
    }

    #[test]
    fn tables_are_named_after_their_address() {
        assert_eq!(table_name("10.0.0.162".parse().unwrap()), "vipd-fence-10.0.0.162");
        assert_eq!(table_name("fd00::162".parse().unwrap()), "vipd-fence-fd00--162");
    }
}
