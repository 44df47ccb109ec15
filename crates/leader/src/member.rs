//! A whole member without its loop: the election, and the datagrams it is made of.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Instant,
};

use crate::{
    Leadership, Term,
    clients::{Bookmark, Change, Chapter, Client, Hearsay, Known, Telling},
    exchange::{Complaint, Dropped, Exchange, Mismatch, Received},
    message::{Gossip, Message, Subject, Version},
    node::{Incarnation, NodeId, Process},
    notes::{Note, Notes},
    quorum::{self, Election},
    wire::{Content, Key, Payload},
};

/// A peer without a session is asked for proof of life at most so often per heartbeat.
const HELLOS_PER_HEARTBEAT: u32 = 4;

/// What a member is told before it starts.
#[derive(Clone, Debug)]
pub struct Config {
    /// The election's part.
    pub quorum: quorum::Config,
    /// What the election is about, where the same hosts hold several; the same for all members.
    pub subject: Option<Subject>,
    /// Where to listen, and the source of all datagrams. Best a certain address of the node: with an unspecified one
    /// the kernel chooses the source, and peers drop what doesn't come from the address they know.
    pub listen: SocketAddr,
    /// All other members, and where they listen.
    pub peers: BTreeMap<NodeId, SocketAddr>,
    /// The first signs, all verify. Without any, whoever can send with a peer's address takes part.
    pub keys: Vec<Key>,
    /// The software's version, for the others' information; cut off after 32 bytes.
    pub version: String,
}

/// Peers and keys that make no member.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The election refuses its part.
    #[error(transparent)]
    Quorum(#[from] quorum::ConfigError),
    /// A member has no address, or an address belongs to no member.
    #[error("the address of {node} is {what}")]
    Address {
        /// The node.
        node: NodeId,
        /// What is wrong.
        what: &'static str,
    },
    /// Two peers have one address.
    #[error("{one} and {other} have the same address; each peer needs its own")]
    SameAddress {
        /// The one.
        one: NodeId,
        /// The other.
        other: NodeId,
    },
    /// Two keys have one number.
    #[error("two peer keys have the id {id}; number them differently")]
    SameKey {
        /// The number.
        id: u8,
    },
}

impl Config {
    /// Whether a member can be made of it.
    ///
    /// # Errors
    ///
    /// The first thing that keeps it from being one.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.quorum.check()?;
        let wrong = |node: &NodeId, what| Err(ConfigError::Address { node: node.clone(), what });
        let me = &self.quorum.me;
        if let Some(node) = self.peers.keys().find(|node| *node == me || !self.quorum.members.contains(node))
        {
            return wrong(node, "given, but it is no other member");
        }
        if let Some(node) =
            self.quorum.members.iter().find(|node| *node != me && !self.peers.contains_key(node))
        {
            return wrong(node, "missing");
        }
        let mut seen: BTreeMap<SocketAddr, &NodeId> = BTreeMap::new();
        for (other, address) in &self.peers {
            let canonical = SocketAddr::new(address.ip().to_canonical(), address.port());
            if let Some(one) = seen.insert(canonical, other) {
                return Err(ConfigError::SameAddress { one: one.clone(), other: other.clone() });
            }
        }
        let mut ids = BTreeSet::new();
        match self.keys.iter().find(|key| !ids.insert(key.id())) {
            Some(twice) => Err(ConfigError::SameKey { id: twice.id() }),
            None => Ok(()),
        }
    }
}

/// What is known of one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its name.
    pub id: NodeId,
    /// Where it listens.
    pub address: SocketAddr,
    /// When its last fresh message came.
    pub heard: Option<Instant>,
    /// Whether its messages are signed and were found authentic.
    pub authenticated: bool,
    /// What it said last, if it was ever heard.
    pub said: Option<Said>,
    /// What keeps it from taking part.
    pub mismatch: Option<Mismatch>,
}

/// What a peer says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// It is fit to lead.
    pub eligible: bool,
    /// Its priority.
    pub priority: u8,
    /// The software it runs.
    pub version: Version,
    /// It leads.
    pub leading: bool,
    /// It was started lately, and doesn't vote yet.
    pub abstaining: bool,
    /// It does not wish to lead.
    pub stopping: bool,
    /// It votes and never leads.
    pub witness: bool,
    /// It stepped down by command a moment ago, and leaves the lead to others.
    pub resting: bool,
    /// The highest term it knows.
    pub term: Term,
}

/// One member as a pure machine over datagrams.
#[derive(Debug)]
pub struct Member {
    /// The election; its other inputs are given to it directly.
    pub election: Election,
    exchange: Exchange,
    telling: Telling,
    hearsay: Hearsay,
    /// How far this member has read, for the leader to know.
    read: Option<(NodeId, Bookmark)>,
    notes: Notes,
    /// A note has come since that was asked last.
    noted: bool,
}

impl Member {
    /// A member in a new incarnation. The number 0 stands for "unknown" in datagrams, and is taken as 1.
    ///
    /// # Errors
    ///
    /// Refuses a configuration that makes no member.
    pub fn new(config: &Config, incarnation: u64, seed: u64, now: Instant) -> Result<Self, ConfigError> {
        let incarnation = Incarnation(incarnation.max(1));
        let election = Election::new(&config.quorum, &config.version, incarnation, seed, now)?;
        config.check()?;
        let me = Process { node: config.quorum.me.clone(), incarnation };
        let hello_interval = config.quorum.timing.heartbeat() / HELLOS_PER_HEARTBEAT;
        let exchange = Exchange::new(me, config.subject, config.keys.clone(), &config.peers, hello_interval);
        let telling = Telling::new(config.peers.keys().cloned());
        Ok(Self {
            election,
            exchange,
            telling,
            hearsay: Hearsay::default(),
            read: None,
            notes: Notes::default(),
            noted: false,
        })
    }

    /// Takes a datagram, whatever is in it.
    pub fn handle_datagram(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) {
        let (process, content) = match self.exchange.receive(from, datagram, now) {
            Some(Received::Message(process, content)) => (process, content),
            Some(Received::Sign(peer, gossip)) => return self.election.handle_sign(&peer, &gossip, now),
            None => return,
        };
        self.telling.meet(&process.node, self.exchange.hearer_of_clients(&process.node));
        match content {
            Content::Election(message) => self.handle_message(&process, message, now),
            Content::Clients(chapter) => self.handle_chapter(&process, chapter, now),
            Content::Read(bookmark) => self.telling.heard(&process.node, bookmark, now),
            Content::Note(page) => self.noted |= self.notes.take(&process, page, now),
        }
        if let Some(leader) = self.leader(now) {
            self.hearsay.follow(&leader);
        }
    }

    fn handle_message(&mut self, process: &Process, message: Message, now: Instant) {
        if let Some(mismatch) = self.disagreement(&process.node, &message.gossip) {
            self.exchange.complain(&process.node, mismatch, now);
        }
        self.election.handle_message(process, message, now);
    }

    /// What a peer's configuration says otherwise than this node's.
    fn disagreement(&self, peer: &NodeId, gossip: &Gossip) -> Option<Mismatch> {
        let ours = self.election.lease();
        if !self.election.agrees_on_members(gossip) {
            Some(Mismatch::Members)
        } else if gossip.lease != ours {
            Some(Mismatch::Lease { theirs: gossip.lease, ours })
        } else if !self.election.agrees_on_witness(peer, gossip) {
            Some(Mismatch::Witness { theirs: gossip.witness })
        } else if !self.election.agrees_on_rule(gossip) {
            Some(Mismatch::TieBreak)
        } else {
            None
        }
    }

    /// Judges a datagram as one that takes no part: which peer it comes from, and what would keep that one and this node from taking part
    /// together. `None` for a stranger's. Nothing is learnt, and nothing answered; so it may also be a recording.
    pub fn overhear(&self, from: SocketAddr, datagram: &[u8]) -> Option<(NodeId, Option<Mismatch>)> {
        let (peer, opened) = self.exchange.open(from, datagram)?;
        let mismatch = match opened {
            Ok(envelope) => self.disagreement(peer, &envelope.gossip),
            Err(mismatch) => Some(mismatch),
        };
        Some((peer.clone(), mismatch))
    }

    /// Only the leader tells of clients: what anybody else says of them is dropped.
    fn handle_chapter(&mut self, process: &Process, chapter: Chapter, now: Instant) {
        if self.leader(now).as_ref() == Some(&process.node) {
            self.read = Some((process.node.clone(), self.hearsay.take(process, chapter)));
        }
    }

    /// The other member that leads.
    fn leader(&self, now: Instant) -> Option<NodeId> {
        match self.election.leadership(now) {
            Leadership::Follower { leader } => leader,
            Leadership::Leader { .. } => None,
        }
    }

    /// Notes what happened to this node's clients. The others are told while it leads.
    pub fn note_clients(&mut self, changes: impl IntoIterator<Item = Change>) {
        changes.into_iter().for_each(|change| self.telling.book.write(change));
    }

    /// Notes that this node has no clients.
    pub fn clear_clients(&mut self) {
        self.telling.book.clear();
    }

    /// The clients of the leader before this one, once: `None` while this member doesn't lead.
    pub fn inherit_clients(&mut self, now: Instant) -> Option<Vec<Client>> {
        self.election.lease_end(now).map(|_| self.hearsay.inherit())
    }

    /// How many clients are known.
    pub fn clients(&self) -> Known {
        let (book, heard) = (&self.telling.book, self.hearsay.len());
        Known { own: book.len(), heard, forgotten: book.forgotten() }
    }

    /// When to poll for datagrams, beside those that an input or [`Election::handle_timeout`] leads to.
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        self.election.lease_end(now).and_then(|_| self.telling.poll_timeout())
    }

    /// Writes the next datagram into an empty buffer; gives the address it is for. Those of the election come first.
    pub fn poll_datagram(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<SocketAddr> {
        if let Some(to) = self.exchange.poll_answer(|| self.election.gossip(now), out) {
            return Some(to);
        }
        while let Some(transmit) = self.election.poll_transmit() {
            if let Some(to) = self.exchange.emit(&transmit.to, transmit.message, now, out) {
                return Some(to);
            }
        }
        self.poll_of_clients(now, out).or_else(|| self.poll_note(now, out))
    }

    fn poll_note(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<SocketAddr> {
        while let Some((to, page)) = self.notes.poll() {
            let payload = Payload::Note(page);
            if let Some(to) = self.exchange.emit_beside(&to, payload, self.election.gossip(now), out) {
                return Some(to);
            }
        }
        None
    }

    /// Has a note told to the others, of [`NOTE_BYTES_MAX`](crate::notes::NOTE_BYTES_MAX) at most; a longer one isn't. Those that are not
    /// known to live now don't get it.
    pub fn tell_note(&mut self, note: &[u8]) {
        let peers: Vec<NodeId> = self.exchange.peers().map(|(peer, _)| peer.clone()).collect();
        self.notes.tell(note, peers.into_iter());
    }

    /// The notes of the others, if one has come since this was asked last.
    pub fn poll_notes(&mut self) -> Option<BTreeMap<NodeId, Note>> {
        let heard = || self.notes.heard().map(|(name, note)| (name.clone(), note.clone())).collect();
        std::mem::take(&mut self.noted).then(heard)
    }

    fn poll_of_clients(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<SocketAddr> {
        let read = self.read.take().map(|(leader, read)| (leader, Payload::Read(read)));
        let (to, payload) = match read {
            Some(read) => read,
            None if self.election.lease_end(now).is_some() => {
                let (to, chapter) = self.telling.poll(now)?;
                (to, Payload::Clients(chapter))
            }
            None => {
                self.telling.rest();
                return None;
            }
        };
        self.exchange.emit_beside(&to, payload, self.election.gossip(now), out)
    }

    /// Something that begins to be wrong with a peer.
    pub fn poll_complaint(&mut self) -> Option<Complaint> {
        self.exchange.poll_complaint()
    }

    /// How many datagrams were dropped unread.
    pub fn dropped(&self) -> Dropped {
        self.exchange.dropped()
    }

    /// What is known of the peers.
    pub fn peers(&self) -> Vec<PeerStatus> {
        let mut peers = Vec::new();
        self.tell_peers(&mut peers);
        peers
    }

    /// The same, in place of what was there before.
    pub(crate) fn tell_peers(&self, peers: &mut Vec<PeerStatus>) {
        let status = |(id, address): (&NodeId, SocketAddr)| {
            let known = self.election.peer(id);
            let heard = known.map(|(_, heard)| heard);
            PeerStatus {
                id: id.clone(),
                address,
                heard,
                authenticated: heard.is_some() && self.exchange.signs(),
                said: known.map(|(gossip, _)| Said {
                    eligible: gossip.eligible,
                    priority: gossip.priority,
                    version: gossip.version,
                    leading: gossip.leading,
                    abstaining: gossip.abstaining,
                    stopping: gossip.stopping,
                    witness: gossip.witness,
                    resting: gossip.resting,
                    term: gossip.term,
                }),
                mismatch: self.exchange.mismatch(id, heard).cloned(),
            }
        };
        peers.clear();
        peers.extend(self.exchange.peers().map(status));
    }
}
