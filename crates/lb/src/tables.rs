//! What tables of ours in nf_tables have in common, whatever their rules are for.
//!
//! A frontend has two: one with the rules, which goes with the process that made it, also by SIGKILL, and one that stays.
//! Only the first packet of a connection meets the rules; the kernel remembers the rest, as long as any rule in it translates
//! addresses. The second table, which does nothing, makes it remember beyond the process.
//!
//! What a table is, is pure; [`kernel`] has it made.

pub(crate) mod kernel;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nft::attribute::{
    CHAIN_HOOK, CHAIN_NAME, CHAIN_TABLE, CHAIN_TYPE, RULE_CHAIN, RULE_EXPRESSIONS, RULE_TABLE, TABLE_FLAGS,
    TABLE_NAME,
};
use nft::conntrack::Protocol;
use nft::{Attributes, Batch, Family, Header, Meta, Step, Verb, protocol_family};

/// The names of a frontend's two tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Names {
    /// Of the table with the rules.
    pub(crate) rules: String,
    /// Of the table that makes the kernel remember flows beyond the process.
    flows: String,
}

/// What happens to a table when its process is no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tie {
    /// It goes too, and nobody else can take it away before (Linux 5.12).
    Owned,
    /// It stays.
    Loose,
}

impl Names {
    /// They follow from what clients connect to, so that a process finds what an earlier one left.
    pub(crate) fn new(ips: impl Iterator<Item = IpAddr>, protocol: Protocol, port: u16) -> Self {
        let first = ips.min().map_or_else(|| "any".to_owned(), |ip| ip.to_string());
        let protocol = match protocol {
            Protocol::Tcp => "",
            Protocol::Udp => "-udp",
        };
        // A colon is no part of a name for `nft`.
        Self::of(format!("vipd-{}-{port}{protocol}", first.replace(':', "-")))
    }

    /// Of tables that are tried and not made.
    pub(crate) fn specimen() -> Self {
        Self::of("vipd-check".to_owned())
    }

    fn of(rules: String) -> Self {
        Self { flows: format!("{rules}-flows"), rules }
    }

    /// Begins a batch with the table and an empty [`WAYS`], in place of what an earlier process may have left.
    pub(crate) fn begin(&self, tie: Tie) -> Batch {
        let mut batch = Batch::begin(Family::Inet);
        clear(&mut batch, &self.rules);
        self.make(batch, tie)
    }

    /// The same in place of what this process has under this name.
    pub(crate) fn begin_again(&self, tie: Tie) -> Batch {
        // It is there, and belongs to this process: it can't be made once more without saying so.
        let batch = self.remove_rules();
        self.make(batch, tie)
    }

    fn make(&self, mut batch: Batch, tie: Tie) -> Batch {
        clear(&mut batch, &self.flows);
        let flags = match tie {
            Tie::Owned => OWNER,
            Tie::Loose => 0,
        };
        batch.add(Step::Table, Verb::NewTable, &self.rules(TABLE_NAME).number(TABLE_FLAGS, flags));
        batch.add(Step::Chain, Verb::NewChain, &self.rules(CHAIN_TABLE).text(CHAIN_NAME, WAYS));
        batch
    }

    /// Adds what leads to [`WAYS`], and, for a table that goes with the process, the one that stays.
    pub(crate) fn lead(&self, batch: &mut Batch, tie: Tie, port: u16) {
        for (chain, hook) in LED {
            self.hook(batch, chain, hook, BEFORE_OTHERS);
            self.rule(batch, chain, &Attributes::default().jump(WAYS));
        }
        if tie == Tie::Owned {
            self.remember_flows(batch, port);
        }
    }

    /// Adds a chain that translates addresses.
    pub(crate) fn hook(&self, batch: &mut Batch, chain: &str, hook: u32, priority: i32) {
        batch.add(Step::Chain, Verb::NewChain, &hooked(&self.rules, chain, hook, priority));
    }

    /// Adds a rule to the end of a chain.
    pub(crate) fn rule(&self, batch: &mut Batch, chain: &str, expressions: &Attributes) {
        let attributes = self.rules(RULE_TABLE).text(RULE_CHAIN, chain);
        batch.add(Step::Rule, Verb::NewRule, &attributes.nest(RULE_EXPRESSIONS, expressions));
    }

    /// Takes away all rules of a chain.
    pub(crate) fn empty(&self, batch: &mut Batch, chain: &str) {
        let attributes = self.rules(RULE_TABLE).text(RULE_CHAIN, chain);
        batch.add(Step::Remove, Verb::DeleteRule, &attributes);
    }

    /// Makes the kernel remember flows beyond the process: a chain gives it the places where it translates, rules, although
    /// nothing leads to them, the memory of connections.
    fn remember_flows(&self, batch: &mut Batch, port: u16) {
        let flows = |attribute| named(&self.flows, attribute);
        batch.add(Step::Table, Verb::NewTable, &flows(TABLE_NAME).number(TABLE_FLAGS, 0));
        let [(_, hook), _] = LED;
        batch.add(Step::Chain, Verb::NewChain, &hooked(&self.flows, "places", hook, BEFORE_OTHERS));
        batch.add(Step::Chain, Verb::NewChain, &flows(CHAIN_TABLE).text(CHAIN_NAME, "memory"));
        // One for each family, as each has a memory of its own.
        for nowhere in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            let never = Attributes::default().load_meta(Meta::Family).must_equal(&[protocol_family(nowhere)]);
            let never =
                never.load_meta(Meta::Protocol).must_equal(&[Protocol::Tcp as u8]).lead_to(nowhere, port);
            let attributes = flows(RULE_TABLE).text(RULE_CHAIN, "memory");
            batch.add(Step::Rule, Verb::NewRule, &attributes.nest(RULE_EXPRESSIONS, &never));
        }
    }

    /// Takes away what leads to the rules: no connection that begins now meets them, and those that did, go on.
    pub(crate) fn close(&self) -> Batch {
        let mut batch = Batch::begin(Family::Inet);
        for (chain, _) in LED {
            self.empty(&mut batch, chain);
        }
        batch.end()
    }

    /// Takes away everything, and with it the flows.
    pub(crate) fn remove(&self) -> Batch {
        let mut batch = self.remove_rules();
        clear(&mut batch, &self.flows);
        batch.end()
    }

    /// Takes away the rules; the flows go on. The batch has no end yet.
    pub(crate) fn remove_rules(&self) -> Batch {
        let mut batch = Batch::begin(Family::Inet);
        batch.add(Step::Remove, Verb::DeleteTable, &self.rules(TABLE_NAME));
        batch
    }

    /// The beginning of what is said of the table with the rules or of something in it, where this attribute has its name.
    pub(crate) fn rules(&self, attribute: u16) -> Attributes {
        named(&self.rules, attribute)
    }
}

/// What comes to this port of addresses of this family.
pub(crate) fn to_port(
    family: IpAddr,
    protocol: Protocol,
    port: u16,
    to: impl FnOnce(Attributes) -> Attributes,
) -> Attributes {
    // As `nft` itself writes it: each comparison loads anew.
    let family = Attributes::default().load_meta(Meta::Family).must_equal(&[protocol_family(family)]);
    to(family)
        .load_meta(Meta::Protocol)
        .must_equal(&[protocol as u8])
        .load_header(Header::Transport, 2, 2)
        .must_equal(&port.to_be_bytes())
        // Whether an address is here, the kernel's routes say, for every connection anew.
        .load_destination_kind()
        .must_equal(&LOCAL.to_ne_bytes())
}

/// Where an IP header has the destination, and how long that is.
pub(crate) fn destination(family: IpAddr) -> (u32, u32) {
    if family.is_ipv4() { (16, 4) } else { (24, 16) }
}

/// Where an IP header has the source.
pub(crate) fn source(family: IpAddr) -> (u32, u32) {
    if family.is_ipv4() { (12, 4) } else { (8, 16) }
}

fn named(table: &str, attribute: u16) -> Attributes {
    Attributes::default().text(attribute, table)
}

/// Takes a table away that may be there: it is made before it is deleted, so that there is one to delete.
fn clear(batch: &mut Batch, table: &str) {
    batch.add(Step::Replace, Verb::NewTable, &named(table, TABLE_NAME).number(TABLE_FLAGS, 0));
    batch.add(Step::Replace, Verb::DeleteTable, &named(table, TABLE_NAME));
}

fn hooked(table: &str, chain: &str, hook: u32, priority: i32) -> Attributes {
    let hook = Attributes::default().number(1, hook).bytes(2, &priority.to_be_bytes());
    let attributes = named(table, CHAIN_TABLE).text(CHAIN_NAME, chain);
    attributes.nest(CHAIN_HOOK, &hook).text(CHAIN_TYPE, "nat")
}

/// The chain with the rules that say where a connection goes.
pub(crate) const WAYS: &str = "balancer";
/// The chains that lead there, with the number of what each is hooked to: before the route of a packet that arrives is
/// chosen, and after that of one that this host sends.
const LED: [(&str, u32); 2] = [("prerouting", 0), ("output", 3)];
/// Ten before `dstnat`: where kube-proxy or a container engine publishes the same port on every address of the host, it is
/// still ours.
const BEFORE_OTHERS: i32 = -110;
/// `RTN_LOCAL`
pub(crate) const LOCAL: u32 = 2;
/// `NFT_TABLE_F_OWNER`
const OWNER: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_named_after_what_clients_connect_to_whatever_the_order() {
        let named = |ips: &[&str], port| {
            Names::new(ips.iter().map(|ip| ip.parse().unwrap()), Protocol::Tcp, port).rules
        };
        assert_eq!(named(&["10.0.0.9", "fd00::9"], 6443), "vipd-10.0.0.9-6443");
        assert_eq!(named(&["fd00::9", "10.0.0.9"], 6443), "vipd-10.0.0.9-6443");
        assert_eq!(named(&["fd00::9"], 1), "vipd-fd00--9-1");
        assert_eq!(named(&[], 8443), "vipd-any-8443");
        assert_eq!(Names::new([].into_iter(), Protocol::Udp, 53).rules, "vipd-any-53-udp");
    }
}
