//! What would nf_tables do with a packet? Its chains and rules are read, and those that can be understood are followed; nothing is changed.
//!
//! A rule may ask what can't be answered here: a set, a limit, another program's expression. Then it may or may not match, and only what
//! follows in either case is told. What [iptables(8)] of the old kind (`iptables-legacy`) does is not in here.
//!
//! [iptables(8)]: https://www.netfilter.org

mod expression;
mod packet;

use std::collections::BTreeMap;

use rustix::io::Errno;
use rustix::net::RecvFlags;

use crate::message::{Attributes, REQUEST, Step};
use crate::reading::{DONE, DUMP, attributes, find, next_message};
use crate::socket::{ERROR, Refusal, failure, open, send};
use expression::{Matches, judge};

pub use packet::{Packet, Transport};

/// Where a chain of a filter is hooked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// What comes for this host.
    Input = 1,
    /// What goes through it.
    Forward = 2,
}

/// All chains and rules of a network namespace.
#[derive(Debug, Default)]
pub struct Ruleset {
    chains: BTreeMap<Place, Chain>,
}

/// Family, table and name of a chain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    family: u8,
    table: String,
    chain: String,
}

#[derive(Debug, Default)]
struct Chain {
    /// The hook's number, if it has one.
    hook: Option<u32>,
    /// Packets that no rule decides about are dropped.
    drops: bool,
    rules: Vec<Vec<u8>>,
}

/// What a rule does with a packet that it matches.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Accept,
    Drop,
    Jump(String),
    Goto(String),
    Return,
    /// One of several, by what can't be seen here.
    Unknown,
}

/// What may become of a packet in a chain: several where that can't be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Outcomes {
    accepted: bool,
    dropped: bool,
    /// No rule has decided.
    left: bool,
}

impl Ruleset {
    /// Reads those of the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// This kernel has no nf_tables, doesn't show them (`CAP_NET_ADMIN` is needed), or there is no end of them.
    pub fn read() -> Result<Self, Refusal> {
        let mut ruleset = Self::default();
        list(GET_CHAIN, |family, attributes| ruleset.take_chain(family, attributes))
            .map_err(|errno| Refusal { step: Step::Chain, errno })?;
        list(GET_RULE, |family, attributes| ruleset.take_rule(family, attributes))
            .map_err(|errno| Refusal { step: Step::Rule, errno })?;
        Ok(ruleset)
    }

    /// The chain that certainly drops the packet there, as `nft` writes it (`inet filter input`), if there is one.
    #[must_use]
    pub fn drops(&self, hook: Hook, packet: &Packet) -> Option<String> {
        let hooked = self.chains.iter().filter(|(place, chain)| {
            chain.hook == Some(hook as u32) && [INET, packet.protocol_family()].contains(&place.family)
        });
        hooked.into_iter().find_map(|(place, chain)| {
            let found = self.follow(place, packet, DEPTH, &mut BTreeMap::new());
            let dropped = found.dropped || (found.left && chain.drops);
            let passed = found.accepted || (found.left && !chain.drops);
            (dropped && !passed).then(|| place.to_string())
        })
    }

    /// What may become of a packet in a chain and those that it leads to. Each is gone through once: there may be as many ways to it as there
    /// are chains before it, to the power of their rules.
    fn follow(
        &self,
        place: &Place,
        packet: &Packet,
        depth: usize,
        known: &mut BTreeMap<Place, Outcomes>,
    ) -> Outcomes {
        if let Some(outcomes) = known.get(place) {
            return *outcomes;
        }
        let outcomes = self.go_through(place, packet, depth, known);
        known.insert(place.clone(), outcomes);
        outcomes
    }

    fn go_through(
        &self,
        place: &Place,
        packet: &Packet,
        depth: usize,
        known: &mut BTreeMap<Place, Outcomes>,
    ) -> Outcomes {
        let unknown = Outcomes { accepted: true, dropped: true, left: true };
        let (Some(chain), Some(depth)) = (self.chains.get(place), depth.checked_sub(1)) else {
            return unknown;
        };
        let mut elsewhere =
            |name: String| self.follow(&Place { chain: name, ..place.clone() }, packet, depth, known);
        let mut outcomes = Outcomes::default();
        for rule in &chain.rules {
            let (matches, verdict) = judge(rule, packet);
            if matches == Matches::No {
                continue;
            }
            // What becomes of it if the rule matches; and whether this chain's next rule may follow then.
            let (found, goes_on) = match verdict {
                None => continue,
                Some(Verdict::Accept) => (Outcomes { accepted: true, ..Outcomes::default() }, false),
                Some(Verdict::Drop) => (Outcomes { dropped: true, ..Outcomes::default() }, false),
                Some(Verdict::Return) => (Outcomes { left: true, ..Outcomes::default() }, false),
                Some(Verdict::Unknown) => (unknown, true),
                Some(Verdict::Goto(name)) => (elsewhere(name), false),
                Some(Verdict::Jump(name)) => {
                    let found = elsewhere(name);
                    (Outcomes { left: false, ..found }, found.left)
                }
            };
            outcomes.accepted |= found.accepted;
            outcomes.dropped |= found.dropped;
            outcomes.left |= found.left;
            if matches == Matches::Yes && !goes_on {
                return outcomes;
            }
        }
        outcomes.left = true;
        outcomes
    }

    pub(crate) fn take_chain(&mut self, family: u8, attributes: &[u8]) {
        let (Some(table), Some(chain)) = (text(attributes, 1), text(attributes, 3)) else { return };
        let hook = find(attributes, 4).and_then(|hook| number(hook, 1));
        let drops = number(attributes, 5) == Some(0);
        let place = Place { family, table, chain };
        self.chains.insert(place, Chain { hook, drops: hook.is_some() && drops, rules: Vec::new() });
    }

    pub(crate) fn take_rule(&mut self, family: u8, attributes: &[u8]) {
        let (Some(table), Some(chain)) = (text(attributes, 1), text(attributes, 2)) else { return };
        if let Some(chain) = self.chains.get_mut(&Place { family, table, chain }) {
            chain.rules.push(find(attributes, 4).unwrap_or_default().to_vec());
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let family = match self.family {
            INET => "inet",
            packet::IPV4 => "ip",
            packet::IPV6 => "ip6",
            _ => "other",
        };
        write!(f, "{family} {} {}", self.table, self.chain)
    }
}

/// Has the kernel list all things of a kind, and gives each one's family and attributes.
fn list(kind: u16, mut take: impl FnMut(u8, &[u8])) -> Result<(), Errno> {
    let socket = open()?;
    send(&socket, &Attributes::default().message(kind, REQUEST | DUMP, 0))?;
    let mut part = vec![0; PART];
    for _ in 0..PARTS_MAX {
        let length = match rustix::net::recv(&socket, &mut part[..], RecvFlags::DONTWAIT) {
            Ok((length, _)) => length,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno),
        };
        let mut rest = part.get(..length).unwrap_or_default();
        while let Some((kind, message)) = next_message(&mut rest) {
            match kind {
                DONE => return Ok(()),
                ERROR => {
                    // One that tells of success ends nothing here.
                    return failure(message).map_or(Ok(()), Err);
                }
                _ => {
                    if let Some((header, attributes)) = message.split_first_chunk::<4>() {
                        take(header[0], attributes);
                    }
                }
            }
        }
    }
    Err(Errno::OVERFLOW)
}

fn number(list: &[u8], kind: u16) -> Option<u32> {
    Some(u32::from_be_bytes(find(list, kind)?.try_into().ok()?))
}

fn text(list: &[u8], kind: u16) -> Option<String> {
    let text = find(list, kind)?;
    let text = text.strip_suffix(&[0]).unwrap_or(text);
    Some(String::from_utf8_lossy(text).into_owned())
}

/// `NFT_MSG_GETCHAIN` and `NFT_MSG_GETRULE` of the part of netfilter that is nf_tables.
const GET_CHAIN: u16 = (10 << 8) | 4;
const GET_RULE: u16 = (10 << 8) | 7;
/// `NFPROTO_INET`
const INET: u8 = 1;
/// The kernel writes no more than this at a time.
const PART: usize = 64 * 1024;
/// Some 50 000 rules: a host with more is told that they can't be read.
const PARTS_MAX: usize = 1024;
/// The kernel allows sixteen jumps into one another.
const DEPTH: usize = 17;

#[cfg(test)]
mod tests;
