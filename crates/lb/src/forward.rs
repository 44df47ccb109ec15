//! The kernel's data path: nf_tables leads each connection to a backend, and no byte of it comes to this process.
//!
//! ```text
//!                      ┌────────────── this host ──────────────┐
//!  client ──▶ VIP:6443 ┼─ slot by turn or by source ─▶ dnat ───┼─▶ backend
//!         ◀────────────┼─ VIP:6443 ◀─ connection's memory ◀────┼── answers come here: masqueraded, or routed so
//!                      └───────────────────────────────────────┘
//!
//!  table inet vipd-10.0.0.162-6443 {        # flags owner
//!    ct timeout handshake { protocol tcp; policy = { syn_sent : 3s, syn_recv : 3s } }
//!    chain balancer { ip daddr 10.0.0.162 tcp dport 6443 fib daddr type local tcp flags syn / syn,ack
//!                     ct timeout set "handshake" dnat ip to numgen inc mod 3 map { 0 : 10.0.0.163 . 6443, 1 : 10.0.0.164 . 6443, 2 : 10.0.0.165 . 6443 } }
//!    chain prerouting { type nat hook prerouting priority dstnat - 10; jump balancer }
//!    chain output { type nat hook output priority -110; jump balancer }
//!    chain postrouting { type nat hook postrouting priority srcnat - 10;
//!                        ct status dnat … ct original ip daddr 10.0.0.162 ct original proto-dst 6443 oif != "lo" masquerade }
//!  }
//!  table inet vipd-10.0.0.162-6443-flows { … }   # of no process, as in `redirect`
//! ```
//!
//! * Backends come and go by one transaction that replaces the rules with their map; no packet sees half of it.
//! * A backend on this host sees its clients' own addresses. The others would answer their clients directly, which know no such
//!   connection: so connections that leave this host come from it, unless the hosts' routes lead the answers here
//!   ([`Forward::keep_source`]); then only those do whose client is the backend itself, or this host.
//! * A flow is the kernel's: it goes on when this process ends. Those to a backend that is dead, and those to a virtual IP that
//!   has left, are [forgotten](driver): their clients' next packet begins no connection, so it is led nowhere, and this host's TCP,
//!   which knows no such connection, answers with a reset.
//! * Datagrams between the same two ends are one flow, as long as the kernel remembers it (`net.netfilter.nf_conntrack_udp_timeout`); how
//!   many it remembers is bounded (`nf_conntrack_max`). One that is forgotten goes on with another backend.
//! * There is no second try: who connects to a backend whose host is dead, and not yet known to be, waits.
//!
//! What the rules are is pure.

mod driver;
mod slots;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use nft::set::Element;
use nft::{Attributes, Batch, Connection, Family, Header, Kind, Meta, octets};

use crate::config::Policy;
use crate::redirect;
use crate::tables::{LOCAL, Names, Tie, WAYS, destination, kernel, source, to_port};

pub use nft::conntrack::Protocol;

pub(crate) use driver::{Driver, Path};

/// What the kernel is to lead to backends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// What is led there.
    pub protocol: Protocol,
    /// Addresses, while they are on this host; none stands for every address of this host.
    pub ips: Vec<IpAddr>,
    /// The port that clients connect to; not 0.
    pub port: u16,
    /// Backends see their clients' own addresses. Their answers must come to this host by the network's routes.
    pub keep_source: bool,
}

/// The backends that are in use, with their weights: how many connections each gets of so many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) by_source: bool,
    pub(crate) backends: Vec<(SocketAddr, u32)>,
}

impl Choice {
    pub(crate) fn new(policy: Policy, backends: Vec<(SocketAddr, u32)>) -> Self {
        let by_source = match policy {
            Policy::SourceHash => true,
            Policy::LeastConnections | Policy::RoundRobin => false,
        };
        // Nobody from elsewhere can be led to an address that every host has. Where discovery knows only of this host's own apiserver,
        // connections are left to that: at a port that is the same, it listens on the virtual address, too.
        let led = backends.into_iter().filter(|(backend, _)| !backend.ip().is_loopback());
        // A hash has a client come to the same backend whenever it comes: there, none is given less.
        let mut backends: Vec<_> =
            led.map(|(backend, weight)| (backend, if by_source { 1 } else { weight })).collect();
        let common =
            backends.iter().fold(0, |common, (_, weight)| greatest_common_divisor(common, *weight)).max(1);
        backends.iter_mut().for_each(|(_, weight)| *weight /= common);
        Self { by_source, backends }
    }
}

/// The tables of one frontend.
#[derive(Debug, Clone)]
struct Table {
    names: Names,
    forward: Forward,
    /// Half-open connections are forgotten after [`HANDSHAKE`], and not when the host forgets others.
    hurries: bool,
}

impl Table {
    fn new(forward: Forward) -> Self {
        let names = Names::new(forward.ips.iter().copied(), forward.protocol, forward.port);
        let hurries = forward.protocol == Protocol::Tcp;
        Self { names, forward, hurries }
    }

    /// Everything but the backends.
    fn install(&self, tie: Tie) -> Batch {
        let mut batch = self.names.begin(tie);
        if self.hurries {
            let seconds = u32::try_from(HANDSHAKE.as_secs()).unwrap_or(u32::MAX);
            batch.add_handshake_timeout(&self.names.rules, HANDSHAKES, seconds);
        }
        self.names.lead(&mut batch, tie, self.forward.port);
        self.names.hook(&mut batch, LEAVING, POSTROUTING, BEFORE_OTHERS);
        batch
    }

    /// These backends in place of those before. The batch has no end yet.
    fn set(&self, choice: &Choice) -> Batch {
        let mut batch = Batch::begin(Family::Inet);
        for chain in [WAYS, LEAVING] {
            self.names.empty(&mut batch, chain);
        }
        self.add(&mut batch, choice);
        batch
    }

    fn add(&self, batch: &mut Batch, choice: &Choice) {
        for family in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
            let of_family = |ip: IpAddr| ip.is_ipv4() == family.is_ipv4();
            let ips: Vec<_> = self.forward.ips.iter().copied().filter(|ip| of_family(*ip)).collect();
            let backends: Vec<_> =
                choice.backends.iter().copied().filter(|(backend, _)| of_family(backend.ip())).collect();
            if (ips.is_empty() && !self.forward.ips.is_empty()) || backends.is_empty() {
                continue;
            }
            self.lead(batch, choice.by_source, family, &ips, &backends);
            self.leave(batch, family, &ips, &backends);
        }
    }

    /// The rule that chooses.
    fn lead(
        &self,
        batch: &mut Batch,
        by_source: bool,
        family: IpAddr,
        ips: &[IpAddr],
        backends: &[(SocketAddr, u32)],
    ) {
        let slots = if by_source {
            slots::by_source(&backends.iter().map(|(backend, _)| *backend).collect::<Vec<_>>())
        } else {
            slots::in_turn(backends)
        };
        let numbered = (0_u32..).zip(&slots);
        let elements: Vec<Element> = numbered
            .map(|(slot, backend)| (slot.to_ne_bytes().to_vec(), Some(with_port(*backend))))
            .collect();
        let kind = Some(Kind::address_and_port(family));
        let map = batch.add_unnamed(&self.names.rules, Kind::Number, kind, &elements);
        let below = u32::try_from(slots.len()).unwrap_or(u32::MAX);
        let rule = to_port(family, self.forward.protocol, self.forward.port, |packets| {
            let (offset, length) = destination(family);
            if !ips.is_empty() {
                let packets = packets.load_header(Header::Network, offset, length);
                return self.must_be_of(batch, packets, family, ips);
            }
            // From elsewhere, no answer comes to an address that every host has for itself.
            match family {
                IpAddr::V4(_) => packets.load_header(Header::Network, offset, 1).must_differ(&[LOOPBACK_NET]),
                IpAddr::V6(_) => packets
                    .load_header(Header::Network, offset, length)
                    .must_differ(&Ipv6Addr::LOCALHOST.octets()),
            }
        });
        // What belongs to no connection that the kernel remembers, is this host's own to reset.
        let rule = match self.forward.protocol {
            Protocol::Tcp => {
                rule.load_header(Header::Transport, TCP_FLAGS, 1).keep(&[SYN | ACK]).must_equal(&[SYN])
            }
            Protocol::Udp => rule,
        };
        let rule = if self.hurries { rule.give_timeout(HANDSHAKES) } else { rule };
        let rule = if by_source {
            let (offset, length) = source(family);
            rule.load_hash(Header::Network, offset, length, below)
        } else {
            rule.load_turn(below)
        };
        self.names.rule(batch, WAYS, &rule.look_up(map).lead_to_found(family));
    }

    /// The rules that let connections come from this host.
    fn leave(&self, batch: &mut Batch, family: IpAddr, ips: &[IpAddr], backends: &[(SocketAddr, u32)]) {
        let distinct: BTreeSet<SocketAddr> = backends.iter().map(|(backend, _)| *backend).collect();
        if !self.forward.keep_source {
            let rule = self.ours(batch, family, ips, &distinct);
            return self.names.rule(batch, LEAVING, &rule.masquerade());
        }
        let rule = self.ours(batch, family, ips, &distinct).load_source_kind();
        self.names.rule(batch, LEAVING, &rule.must_equal(&LOCAL.to_ne_bytes()).masquerade());
        let kind = Kind::two_addresses(family);
        let hosts: BTreeSet<IpAddr> = distinct.iter().map(SocketAddr::ip).collect();
        let itself: Vec<Element> = hosts.iter().map(|ip| (octets(*ip).repeat(2), None)).collect();
        let itself = batch.add_unnamed(&self.names.rules, kind, None, &itself);
        let rule = self.ours(batch, family, ips, &distinct).load_both_addresses(family).must_be_in(itself);
        self.names.rule(batch, LEAVING, &rule.masquerade());
    }

    /// What leaves this host of connections that were led to a backend here.
    fn ours(
        &self,
        batch: &mut Batch,
        family: IpAddr,
        ips: &[IpAddr],
        backends: &BTreeSet<SocketAddr>,
    ) -> Attributes {
        let rule = Attributes::default()
            .load_meta(Meta::Family)
            .must_equal(&[nft::protocol_family(family)])
            .load_connection(Connection::Status)
            .must_have(LED_ELSEWHERE)
            .load_meta(Meta::Protocol)
            .must_equal(&[self.forward.protocol as u8])
            .load_connection(Connection::WantedPort)
            .must_equal(&self.forward.port.to_be_bytes());
        let rule = if ips.is_empty() {
            // Others lead connections of this port elsewhere, too.
            let kind = Kind::address_and_port(family);
            let backends: Vec<Element> = backends.iter().map(|backend| (with_port(*backend), None)).collect();
            let set = batch.add_unnamed(&self.names.rules, kind, None, &backends);
            rule.load_answering(family).must_be_in(set)
        } else {
            self.must_be_of(batch, rule.load_connection(Connection::wanted_address(family)), family, ips)
        };
        rule.load_meta(Meta::LeavesBy).must_differ(&LOOPBACK.to_ne_bytes())
    }

    /// Only if the address that was loaded is one of these, all of this family, go on.
    fn must_be_of(&self, batch: &mut Batch, rule: Attributes, family: IpAddr, ips: &[IpAddr]) -> Attributes {
        if let [ip] = ips {
            return rule.must_equal(&octets(*ip));
        }
        let elements: Vec<Element> = ips.iter().map(|ip| (octets(*ip), None)).collect();
        rule.must_be_in(batch.add_unnamed(&self.names.rules, Kind::address(family), None, &elements))
    }
}

/// Has a table made, with [`Table::hurries`] where the kernel can.
fn hurried<R>(
    table: &mut Table,
    make: impl Fn(&Table) -> Result<R, redirect::Error>,
) -> Result<R, redirect::Error> {
    match make(table) {
        Err(error) if error.is_about_timeouts() => {
            table.hurries = false;
            make(table)
        }
        made => made,
    }
}

/// Tries whether the kernel would lead connections to backends, and changes nothing. False: it would, and would not tie that to
/// the life of the process.
///
/// # Errors
///
/// Those of doing it.
pub fn rehearse() -> Result<bool, redirect::Error> {
    let ips = vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    let forward = Forward { protocol: Protocol::Tcp, ips: ips.clone(), port: 1, keep_source: true };
    let mut table = Table { names: Names::specimen(), ..Table::new(forward) };
    let backends: Vec<_> = ips.into_iter().map(|ip| (SocketAddr::new(ip, 1), 1)).collect();
    hurried(&mut table, |table| {
        kernel::rehearse(&table.names.rules, |tie| {
            let mut batch = table.install(tie);
            for by_source in [false, true] {
                table.add(&mut batch, &Choice { by_source, backends: backends.clone() });
            }
            batch.rehearsal()
        })
    })
}

fn greatest_common_divisor(mut one: u32, mut other: u32) -> u32 {
    while other != 0 {
        (one, other) = (other, one % other);
    }
    one
}

/// An address and a port, as keys and values have them: the port is padded to four bytes.
fn with_port(address: SocketAddr) -> Vec<u8> {
    let [high, low] = address.port().to_be_bytes();
    [&octets(address.ip())[..], &[high, low, 0, 0]].concat()
}

/// Where a TCP header has its flags (RFC 9293 §3.1).
const TCP_FLAGS: u32 = 13;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// How long the kernel remembers a connection whose handshake makes no step. A flood of them takes this host's ports towards the
/// backends, some 64 500 for each, as long as they are remembered: a minute, if nobody says otherwise. Within this time a client that
/// hears nothing has asked once more, and a backend answered once more, after a second (RFC 6298).
const HANDSHAKE: Duration = Duration::from_secs(3);
/// The name of what says so.
const HANDSHAKES: &str = "handshake";
/// The chain of what leaves this host.
const LEAVING: &str = "postrouting";
/// `NF_INET_POST_ROUTING`
const POSTROUTING: u32 = 4;
/// Ten before `srcnat`: what a container engine or kube-proxy lets come from this host, it decides after us.
const BEFORE_OTHERS: i32 = 90;
/// `IPS_DST_NAT`
const LED_ELSEWHERE: u32 = 1 << 5;
/// The first byte of 127.0.0.0/8.
const LOOPBACK_NET: u8 = 127;
/// The number of `lo` in every network namespace.
const LOOPBACK: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_as_small_as_they_can_be_and_an_address_that_every_host_has_is_nowhere_to_be_led() {
        let weighed = |weights: [u32; 3]| {
            let backends =
                (1..).zip(weights).map(|(n, weight)| (SocketAddr::from(([10, 0, 0, n], 1)), weight));
            let choice = Choice::new(Policy::RoundRobin, backends.collect());
            choice.backends.iter().map(|(_, weight)| *weight).collect::<Vec<_>>()
        };
        assert_eq!(weighed([10, 10, 10]), [1, 1, 1]);
        assert_eq!(weighed([10, 10, 4]), [5, 5, 2]);
        let at = |ip: &str| (SocketAddr::new(ip.parse().unwrap(), 6443), 1);
        let choice = Choice::new(Policy::RoundRobin, vec![at("127.0.0.1"), at("10.0.0.1"), at("::1")]);
        assert_eq!(choice.backends, [at("10.0.0.1")]);
    }
}
