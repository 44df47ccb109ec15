//! What a look at the segment asks, and what its answers show: is the tie-break there, and has anybody the virtual IPs?
//!
//! ```text
//!  ask ──▶ tie-break, by the node's own address    answered to this node alone: it is there, and both ways are open
//!      └─▶ virtual IPs, by probes                  answered by another station: it has them
//!                                                  asked by another station that comes first: it looks, too
//! ```
//!
//! Who has no answer of the tie-break doesn't ask for the virtual IPs in the next look, so a probe is a sign of a station
//! that could have them itself.

use crate::address::Mac;
use crate::{arp, ndp};
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

/// Asks about one segment again and again.
#[derive(Clone, Debug)]
pub struct Lookout {
    mac: Mac,
    /// This node's own address, of the tie-break's family; without one for IPv4, it asks by a probe.
    source: Option<IpAddr>,
    addresses: Vec<IpAddr>,
    tie_break: IpAddr,
    /// When questions for the tie-break left that have no answer yet, the oldest first.
    open: VecDeque<Instant>,
    /// The tie-break has answered in the last look.
    there: bool,
    look: Option<Look>,
}

/// What one look has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Before the first question left: of the question that was answered, or else of this look.
    pub asked: Instant,
    /// The tie-break answered.
    pub answered: bool,
    /// Another station that says it has a virtual IP.
    pub owner: Option<Mac>,
    /// Another station asks for the virtual IPs in the same way, and its hardware address is smaller.
    pub contested: bool,
    /// The virtual IPs were asked for. Otherwise nothing is known of their owner.
    pub whole: bool,
}

/// An answer that takes longer is counted for a later question.
const LOOKS_OPEN: u32 = 2;

impl Lookout {
    /// Asks for the tie-break, and for the first virtual IP of each family: all of a node's move together.
    #[must_use]
    pub fn new(mac: Mac, source: Option<IpAddr>, addresses: &[IpAddr], tie_break: IpAddr) -> Self {
        let first = |v4: bool| addresses.iter().copied().find(|ip| ip.is_ipv4() == v4);
        let asked = first(true).into_iter().chain(first(false)).collect();
        let source = source.filter(|source| source.is_ipv4() == tie_break.is_ipv4());
        Self { mac, source, addresses: asked, tie_break, open: VecDeque::new(), there: true, look: None }
    }

    /// The addresses that answers are about.
    pub fn concerns(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().copied().chain([self.tie_break])
    }

    /// Begins a look that will last for so long; gives the frames to send, each with the address it asks for.
    pub fn ask(&mut self, lasting: Duration, now: Instant) -> Vec<(IpAddr, Vec<u8>)> {
        self.open.retain(|asked| now < *asked + lasting * LOOKS_OPEN);
        let mut frames: Vec<_> = self.question().map(|frame| (self.tie_break, frame)).into_iter().collect();
        if !frames.is_empty() {
            self.open.push_back(now);
        }
        if self.there {
            frames.extend(self.addresses.iter().map(|ip| (*ip, self.probe(*ip))));
        }
        self.look =
            Some(Look { asked: now, answered: false, owner: None, contested: false, whole: self.there });
        frames
    }

    /// Takes a frame that came meanwhile, whatever it is.
    pub fn hear(&mut self, frame: &[u8]) {
        if let Some(heard) = arp::Repr::parse(frame) {
            self.hear_arp(&heard);
        } else if let Some(heard) = ndp::Repr::parse(frame) {
            self.hear_ndp(&heard);
        }
    }

    /// Ends the look; `None` if none was begun.
    pub fn conclude(&mut self) -> Option<Look> {
        let look = self.look.take()?;
        self.there = look.answered;
        Some(look)
    }

    fn question(&self) -> Option<Vec<u8>> {
        match (self.tie_break, self.source) {
            (IpAddr::V4(ip), Some(IpAddr::V4(own))) => {
                Some(arp::Repr { sender_ip: own, ..arp::Repr::probe(self.mac, ip) }.emit().to_vec())
            }
            (IpAddr::V4(ip), _) => Some(arp::Repr::probe(self.mac, ip).emit().to_vec()),
            (IpAddr::V6(ip), Some(IpAddr::V6(own))) => {
                Some(ndp::Repr::solicitation(self.mac, own, ip).emit())
            }
            // The answer to one without a source would go to everybody, and prove nothing.
            (IpAddr::V6(_), _) => None,
        }
    }

    fn probe(&self, ip: IpAddr) -> Vec<u8> {
        match ip {
            IpAddr::V4(ip) => arp::Repr::probe(self.mac, ip).emit().to_vec(),
            IpAddr::V6(ip) => ndp::Repr::probe(self.mac, ip).emit(),
        }
    }

    fn hear_arp(&mut self, heard: &arp::Repr) {
        if heard.sender_mac == self.mac {
            return;
        }
        let (sender, target) = (IpAddr::V4(heard.sender_ip), IpAddr::V4(heard.target_ip));
        let answers = heard.operation == arp::Operation::Reply && heard.target_mac == self.mac;
        if sender == self.tie_break && answers {
            self.answered();
        }
        if self.addresses.contains(&sender) {
            self.owned(heard.sender_mac);
        }
        let probes = heard.operation == arp::Operation::Request && heard.sender_ip == Ipv4Addr::UNSPECIFIED;
        if probes && self.addresses.contains(&target) {
            self.asked_by(heard.sender_mac);
        }
    }

    fn hear_ndp(&mut self, heard: &ndp::Repr) {
        if heard.source_mac == self.mac {
            return;
        }
        match heard.message {
            ndp::Message::Advertisement { target, solicited, link_layer, .. } => {
                let to_me = self.source == Some(heard.destination.into());
                if self.tie_break == target && solicited && to_me {
                    self.answered();
                }
                if self.addresses.contains(&target.into()) {
                    self.owned(link_layer.unwrap_or(heard.source_mac));
                }
            }
            ndp::Message::Solicitation { target, .. } => {
                if heard.source.is_unspecified() && self.addresses.contains(&target.into()) {
                    self.asked_by(heard.source_mac);
                }
            }
        }
    }

    /// One answer is one question's, the oldest that has none: so no sight is taken for newer than it is.
    fn answered(&mut self) {
        if let Some(look) = &mut self.look
            && let Some(asked) = self.open.pop_front()
        {
            look.answered = true;
            look.asked = asked;
        }
    }

    fn owned(&mut self, by: Mac) {
        if let Some(look) = self.look.as_mut().filter(|_| by != self.mac) {
            look.owner = Some(by);
        }
    }

    fn asked_by(&mut self, station: Mac) {
        if let Some(look) = &mut self.look {
            look.contested |= station < self.mac;
        }
    }
}

#[cfg(test)]
mod tests;
