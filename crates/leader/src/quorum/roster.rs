//! What is known of the other members, and how they rank.

use std::{
    cmp::Reverse,
    time::{Duration, Instant},
};

use crate::{
    Term,
    message::Gossip,
    node::{Incarnation, NodeId, Process},
};

use super::{Impediment, members::Members};

/// What one member said last, and when.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Peer {
    pub(super) incarnation: Incarnation,
    pub(super) heard: Instant,
    pub(super) gossip: Gossip,
    /// The highest term that this incarnation released.
    pub(super) released: Term,
}

/// The other members, each at its place; this node's own place stays empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Roster {
    peers: Vec<Option<Peer>>,
    /// Silence for so long makes a member count as dead.
    patience: Duration,
}

/// The order in which members should lead: the smallest first. Whoever rests comes after all that are as fit.
type Merit<'a> = (Reverse<bool>, bool, Reverse<u8>, Reverse<bool>, &'a NodeId);

/// Where a member that says this of itself stands in the order.
pub(super) fn merit<'a>(gossip: &Gossip, name: &'a NodeId) -> Merit<'a> {
    let Gossip { eligible, resting, priority, start_as_leader, .. } = gossip;
    (Reverse(*eligible), *resting, Reverse(*priority), Reverse(*start_as_leader), name)
}

impl Roster {
    /// A roster on which nobody was heard.
    pub(super) fn new(members: usize, patience: Duration) -> Self {
        Self { peers: vec![None; members], patience }
    }

    /// Writes down what a member says of itself. Another incarnation is another process: nothing is kept of the last.
    pub(super) fn hear(&mut self, place: usize, from: &Process, gossip: Gossip, now: Instant) -> &mut Peer {
        let released = match &self.peers[place] {
            Some(peer) if peer.incarnation == from.incarnation => peer.released,
            Some(_) | None => Term(0),
        };
        self.peers[place].insert(Peer { incarnation: from.incarnation, heard: now, gossip, released })
    }

    /// What is known of the member at this place.
    pub(super) fn peer(&self, place: usize) -> Option<&Peer> {
        self.peers[place].as_ref()
    }

    /// Remembers that this process released a term.
    pub(super) fn note_released(&mut self, place: usize, incarnation: Incarnation, term: Term) {
        if let Some(peer) = self.peers[place].as_mut().filter(|peer| peer.incarnation == incarnation) {
            peer.released = peer.released.max(term);
        }
    }

    /// Whether this process is known to have released a term.
    pub(super) fn has_released(&self, place: usize, incarnation: Incarnation, term: Term) -> bool {
        self.peer(place).is_some_and(|peer| peer.incarnation == incarnation && term <= peer.released)
    }

    /// Those heard lately, with their places.
    pub(super) fn alive(&self, at: Instant) -> impl Iterator<Item = (usize, &Peer)> {
        let patience = self.patience;
        let heard = self.peers.iter().enumerate().filter_map(|(place, peer)| Some((place, peer.as_ref()?)));
        heard.filter(move |(_, peer)| at < peer.heard + patience)
    }

    /// The member that says it leads; the one of the highest term if several do.
    pub(super) fn leader(&self, now: Instant) -> Option<(usize, &Peer)> {
        self.alive(now).filter(|(_, peer)| peer.gossip.leading).max_by_key(|(_, peer)| peer.gossip.term)
    }

    /// How many living members wish to lead and come before one of this merit.
    pub(super) fn rank(&self, members: &Members, mine: &Gossip, at: Instant) -> u32 {
        let me = merit(mine, members.name(members.mine()));
        let willing = self.alive(at).filter(|(_, peer)| !peer.gossip.stopping);
        let before = willing.filter(|(place, peer)| merit(&peer.gossip, members.name(*place)) < me);
        u32::try_from(before.count()).unwrap_or(u32::MAX)
    }

    /// The best member that could take the lead over now, among those wanted.
    pub(super) fn successor(
        &self,
        members: &Members,
        lease: Duration,
        now: Instant,
        wanted: impl Fn(&Gossip) -> bool,
    ) -> Option<usize> {
        self.alive(now)
            .filter(|(_, peer)| could_lead(&peer.gossip, members, lease) && wanted(&peer.gossip))
            .min_by_key(|(place, peer)| merit(&peer.gossip, members.name(*place)))
            .map(|(place, _)| place)
    }

    /// Whether the member at this place could take the lead over now.
    pub(super) fn could_lead(&self, place: usize, members: &Members, lease: Duration, now: Instant) -> bool {
        self.alive(now).any(|(at, peer)| at == place && could_lead(&peer.gossip, members, lease))
    }

    /// What keeps a member from taking the lead over by an operator's choice, where the leader is as fit as this.
    pub(super) fn impediment(
        &self,
        place: usize,
        members: &Members,
        (lease, eligible): (Duration, bool),
        now: Instant,
    ) -> Option<Impediment> {
        let Some((_, peer)) = self.alive(now).find(|(at, _)| *at == place) else {
            return Some(Impediment::Unheard);
        };
        let gossip = &peer.gossip;
        let obstacles = [
            (gossip.witness, Impediment::Witness),
            (gossip.is_leaving(), Impediment::Stopping),
            (gossip.resting, Impediment::Resting),
            (gossip.abstaining, Impediment::Abstaining),
            // It would hand over again, to whoever is fitter.
            (eligible && !gossip.eligible, Impediment::Unfit),
            (!could_lead(gossip, members, lease), Impediment::Mismatch),
        ];
        obstacles.into_iter().find_map(|(is_so, impediment)| is_so.then_some(impediment))
    }

    /// Whether some living member is fit and willing to lead.
    pub(super) fn has_eligible(&self, now: Instant) -> bool {
        self.alive(now).any(|(_, peer)| peer.gossip.eligible && !peer.gossip.stopping)
    }
}

/// Whether it may lead, and the others would grant it a lease if they were free to.
fn could_lead(gossip: &Gossip, members: &Members, lease: Duration) -> bool {
    !gossip.witness
        && !gossip.is_leaving()
        && !gossip.abstaining
        && gossip.lease <= lease
        && members.meets(&gossip.members)
}
