//! A port that another program has too, such as kube-apiserver's on `*:6443`: nobody else can listen on the virtual IP
//! there, but the kernel can lead to the balancer's own port what comes for it.
//!
//! ```text
//!                          ┌───────────── this host ───────────────┐
//!  client ──▶ VIP:6443 ────┼─ VIP is here? ─yes─▶ VIP:16443 balancer ──▶ backends, NODE:6443
//!  local process ──▶ ──────┼─      │ no                             │
//!                          │       └─▶ goes on to the host that has it
//!  client ──▶ NODE:6443 ───┼─────────────────────▶ *:6443 apiserver │
//!                          └────────────────────────────────────────┘
//!
//!  table inet vipd-10.0.0.162-6443 {        # flags owner: goes with the process that made it, also by SIGKILL
//!    chain balancer { ip daddr 10.0.0.162 tcp dport 6443 fib daddr type local dnat ip to 10.0.0.162:16443 }
//!    chain prerouting { type nat hook prerouting priority dstnat - 10; jump balancer }
//!    chain output { type nat hook output priority -110; jump balancer }
//!  }
//!  table inet vipd-10.0.0.162-6443-flows {  # of no process
//!    chain places { type nat hook prerouting priority dstnat - 10; }
//!    chain memory { meta l4proto tcp dnat ip to 127.0.0.1:6443 }
//!  }
//! ```
//!
//! * Only the port changes. The balancer's socket has the virtual IP as its address, on the standby too
//!   (`IP_FREEBIND`), so nothing new listens on the hosts' own addresses, and flows are known as the virtual IP's.
//! * Whether the virtual IP is here, the kernel's routes say, for every connection anew (`fib`). A move needs nothing
//!   from this program, and what a standby sends to the virtual IP leaves for its owner. A connection that a standby had
//!   begun and that nobody answered ends, when the virtual IP comes to it, at its own apiserver.
//! * What the balancer sends goes to the backends' own addresses, which no rule names.
//! * Only the first packet of a connection meets the rules; the kernel remembers the rest, as long as any rule in it
//!   translates addresses. So the ways to the rules go when the balancer stops accepting, the rules when its last flow
//!   has ended.
//! * A process that is killed closes its files in no order to count on: once the table is gone, the ends of its flows
//!   would leave from a port that no client knows, and a client that says nothing would wait for ever. So that the
//!   kernel goes on remembering, a second table stays that does nothing, until vipd starts or stops here again.
//! * Ten before what others do to destinations: where kube-proxy or a container engine publishes the same port on every
//!   address of the host, the virtual IP's is still ours.
//!
//! What the rules are is pure; [`netlink`] tells the kernel.

mod netlink;

use std::net::{IpAddr, SocketAddr};

use nft::attribute::{
    CHAIN_HOOK, CHAIN_NAME, CHAIN_TABLE, CHAIN_TYPE, RULE_CHAIN, RULE_EXPRESSIONS, RULE_TABLE, TABLE_FLAGS,
    TABLE_NAME,
};
use nft::{Attributes, Batch, Family, Header, Meta, Step, Verb, octets, protocol_family};

pub use netlink::{Error, rehearse};

pub(crate) use netlink::Redirect;

/// The table of one frontend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    name: String,
    /// Name of the table that makes the kernel remember flows beyond the process.
    flows: String,
    /// The port that clients connect to.
    port: u16,
    /// Where the balancer listens: the addresses are those that clients connect to.
    listen: Vec<SocketAddr>,
}

/// What happens to a table when its process is no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tie {
    /// It goes too, and nobody else can take it away before (Linux 5.12).
    Owned,
    /// It stays.
    Loose,
}

impl Table {
    /// The table for a port and the balancer's own sockets.
    ///
    /// Its name follows from what clients connect to, so that a process finds what an earlier one left.
    pub(crate) fn new(port: u16, listen: Vec<SocketAddr>) -> Self {
        let first = listen.iter().map(SocketAddr::ip).min();
        // A colon is no part of a name for `nft`.
        let first = first.map(|ip| ip.to_string().replace(':', "-")).unwrap_or_default();
        Self::named_as(format!("vipd-{first}-{port}"), port, listen)
    }

    fn named_as(name: String, port: u16, listen: Vec<SocketAddr>) -> Self {
        Self { flows: format!("{name}-flows"), name, port, listen }
    }

    /// One that leads from nowhere to nowhere, for a rehearsal.
    fn specimen() -> Self {
        let listen = [IpAddr::from([0_u8; 4]), IpAddr::from([0_u16; 8])].map(|ip| SocketAddr::new(ip, 1));
        Self::named_as("vipd-check".to_owned(), 1, listen.to_vec())
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Everything, in place of what an earlier process may have left under this name.
    fn install(&self, tie: Tie) -> Batch {
        let mut batch = Batch::begin(Family::Inet);
        for name in [&self.name, &self.flows] {
            clear(&mut batch, name);
        }
        let flags = match tie {
            Tie::Owned => OWNER,
            Tie::Loose => 0,
        };
        batch.add(Step::Table, Verb::NewTable, &self.named(TABLE_NAME).number(TABLE_FLAGS, flags));
        batch.add(Step::Chain, Verb::NewChain, &self.named(CHAIN_TABLE).text(CHAIN_NAME, REDIRECT));
        for listen in &self.listen {
            let rule = rule(listen.ip(), self.port, listen.port());
            let attributes = self.named(RULE_TABLE).text(RULE_CHAIN, REDIRECT);
            batch.add(Step::Rule, Verb::NewRule, &attributes.nest(RULE_EXPRESSIONS, &rule));
        }
        for (chain, hook) in HOOKED {
            batch.add(Step::Chain, Verb::NewChain, &hooked(&self.name, chain, hook));
            let attributes = self.named(RULE_TABLE).text(RULE_CHAIN, chain);
            let jump = Attributes::default().jump(REDIRECT);
            batch.add(Step::Rule, Verb::NewRule, &attributes.nest(RULE_EXPRESSIONS, &jump));
        }
        if tie == Tie::Owned {
            self.remember_flows(&mut batch);
        }
        batch
    }

    /// Makes the kernel remember flows beyond the process: a chain gives it the places where it translates, a rule, although
    /// nothing leads to it, the memory of connections.
    fn remember_flows(&self, batch: &mut Batch) {
        let flows = |attribute| named(&self.flows, attribute);
        batch.add(Step::Table, Verb::NewTable, &flows(TABLE_NAME).number(TABLE_FLAGS, 0));
        let [(_, hook), _] = HOOKED;
        batch.add(Step::Chain, Verb::NewChain, &hooked(&self.flows, "places", hook));
        batch.add(Step::Chain, Verb::NewChain, &flows(CHAIN_TABLE).text(CHAIN_NAME, "memory"));
        let never = Attributes::default().load_meta(Meta::Protocol).must_equal(&[TCP]);
        let never = never.lead_to(IpAddr::from([127, 0, 0, 1]), self.port);
        let attributes = flows(RULE_TABLE).text(RULE_CHAIN, "memory");
        batch.add(Step::Rule, Verb::NewRule, &attributes.nest(RULE_EXPRESSIONS, &never));
    }

    /// Takes away what leads to the rules: no connection that begins now comes to the balancer, and those that did, go on.
    fn close(&self) -> Batch {
        let mut batch = Batch::begin(Family::Inet);
        for (chain, _) in HOOKED {
            let attributes = self.named(RULE_TABLE).text(RULE_CHAIN, chain);
            batch.add(Step::Remove, Verb::DeleteRule, &attributes);
        }
        batch.end()
    }

    /// Takes everything away.
    fn remove(&self) -> Batch {
        let mut batch = Batch::begin(Family::Inet);
        batch.add(Step::Remove, Verb::DeleteTable, &self.named(TABLE_NAME));
        clear(&mut batch, &self.flows);
        batch.end()
    }

    fn named(&self, attribute: u16) -> Attributes {
        named(&self.name, attribute)
    }
}

/// The beginning of what is said of a table or of something in it, where this attribute has the table's name.
fn named(table: &str, attribute: u16) -> Attributes {
    Attributes::default().text(attribute, table)
}

/// Takes a table away that may be there: it is made before it is deleted, so that there is one to delete.
fn clear(batch: &mut Batch, table: &str) {
    batch.add(Step::Replace, Verb::NewTable, &named(table, TABLE_NAME).number(TABLE_FLAGS, 0));
    batch.add(Step::Replace, Verb::DeleteTable, &named(table, TABLE_NAME));
}

/// A chain of a table that translates addresses.
fn hooked(table: &str, chain: &str, hook: u32) -> Attributes {
    let hook = Attributes::default().number(1, hook).bytes(2, &PRIORITY.to_be_bytes());
    let attributes = named(table, CHAIN_TABLE).text(CHAIN_NAME, chain);
    attributes.nest(CHAIN_HOOK, &hook).text(CHAIN_TYPE, "nat")
}

/// TCP to this port of this address, while the address is this host's, goes to the other port.
fn rule(ip: IpAddr, port: u16, to: u16) -> Attributes {
    // Where an IP header has the destination.
    let (offset, length) = if ip.is_ipv4() { (16, 4) } else { (24, 16) };
    Attributes::default()
        .load_meta(Meta::Family)
        .must_equal(&[protocol_family(ip)])
        .load_header(Header::Network, offset, length)
        .must_equal(&octets(ip))
        .load_meta(Meta::Protocol)
        .must_equal(&[TCP])
        .load_header(Header::Transport, 2, 2)
        .must_equal(&port.to_be_bytes())
        .load_destination_kind()
        .must_equal(&LOCAL.to_ne_bytes())
        .lead_to(ip, to)
}

/// The chain with the rules.
const REDIRECT: &str = "balancer";
/// The chains that lead there, with the number of what each is hooked to: before the route of a packet that arrives is
/// chosen, and after that of one that this host sends.
const HOOKED: [(&str, u32); 2] = [("prerouting", 0), ("output", 3)];
/// Ten before `dstnat`.
const PRIORITY: i32 = -110;
/// `RTN_LOCAL`
const LOCAL: u32 = 2;
const TCP: u8 = 6;
/// `NFT_TABLE_F_OWNER`
const OWNER: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_named_after_what_clients_connect_to_whatever_the_order() {
        let named = |listen: [&str; 2]| {
            Table::new(6443, listen.map(|at| at.parse().unwrap()).to_vec()).name().to_owned()
        };
        assert_eq!(named(["10.0.0.9:16443", "[fd00::9]:16443"]), "vipd-10.0.0.9-6443");
        assert_eq!(named(["[fd00::9]:1", "10.0.0.9:2"]), "vipd-10.0.0.9-6443");
        assert_eq!(Table::new(1, vec!["[fd00::9]:1".parse().unwrap()]).name(), "vipd-fd00--9-1");
    }

    #[test]
    fn every_message_of_a_batch_is_whole_and_known_by_its_number() {
        let listen = ["10.0.0.9:16443", "[fd00::9]:16444"].map(|at| at.parse().unwrap());
        let batch = Table::new(6443, listen.to_vec()).install(Tie::Owned).end();

        let mut rest = batch.bytes();
        let mut steps = Vec::new();
        while let Some((length, _)) = rest.split_first_chunk::<4>() {
            let length = usize::try_from(u32::from_ne_bytes(*length)).unwrap();
            let (message, others) = rest.split_at(length);
            assert!(length >= 20 && length.is_multiple_of(4));
            let sequence = u32::from_ne_bytes(message[8..12].try_into().unwrap());
            steps.push(batch.step(sequence).unwrap());
            rest = others;
        }

        let table = [&[Step::Frame][..], &[Step::Replace; 4], &[Step::Table]].concat();
        let redirect = [Step::Chain, Step::Rule, Step::Rule];
        let hooked = [Step::Chain, Step::Rule, Step::Chain, Step::Rule];
        let flows = [Step::Table, Step::Chain, Step::Chain, Step::Rule];
        assert_eq!(steps, [&table[..], &redirect, &hooked, &flows, &[Step::Frame]].concat());
        assert_eq!(batch.step(u32::try_from(steps.len()).unwrap()), None);
    }
}
