//! Datagrams to messages and back: signatures, sessions, and what is wrong with a peer.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use crate::{
    message::{Gossip, Message, Subject},
    node::{Incarnation, NodeId, Process},
    session::{Session, Verdict},
    wire::{Content, Envelope, Hears, Key, Payload, Unreadable},
};

/// A complaint about a peer is repeated only after the cause has been away for so long.
const COMPLAINT_MEMORY: Duration = Duration::from_secs(60);

/// Answers waiting to be sent: a driver drains after every datagram, which causes two at most.
const ANSWERS_MAX: usize = 4;

/// All peers of a process, with what it takes to talk to them.
#[derive(Debug)]
pub(crate) struct Exchange {
    me: Process,
    subject: Option<Subject>,
    keys: Vec<Key>,
    links: BTreeMap<NodeId, Link>,
    sources: BTreeMap<Source, NodeId>,
    answers: VecDeque<(NodeId, Answer)>,
    complaints: VecDeque<Complaint>,
    dropped: Dropped,
}

/// An address as datagrams come from it: without what differs between two spellings of the same.
type Source = (IpAddr, u16);

fn source(address: SocketAddr) -> Source {
    (address.ip().to_canonical(), address.port())
}

#[derive(Debug)]
struct Link {
    address: SocketAddr,
    session: Session,
    /// What the peer's process takes beside the election.
    hears: Hears,
    mismatch: Option<(Mismatch, Instant)>,
}

#[derive(Clone, Copy, Debug)]
enum Answer {
    Hello { challenge: u64 },
    Welcome { echo: u64, to: Incarnation },
}

/// What came in an authentic datagram.
pub(crate) enum Received {
    /// Something that counts.
    Message(Process, Content),
    /// Something of a peer that can't prove to be alive now. It may be a recording, so no right follows from it; but it may be a peer
    /// that doesn't hear this node, and what would be wrong then is not done.
    Sign(NodeId, Gossip),
}

/// How many datagrams were dropped unread, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// From an address that isn't a peer's; no signature was computed for them.
    pub strangers: u64,
    /// Malformed, unsigned, signed wrongly, under a wrong name, or of another election.
    pub unreadable: u64,
    /// Copies, recordings, and mail for a predecessor of this process.
    pub stale: u64,
    /// The address that the latest of them came from, by its own word: whoever can forge a datagram can forge that.
    pub latest: Option<SocketAddr>,
}

/// Something that begins to be wrong with a peer; given once, not per datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// The peer.
    pub peer: NodeId,
    /// What is wrong.
    pub mismatch: Mismatch,
}

/// What keeps a peer from taking part, in words that say the way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// It speaks another layout of datagrams.
    WireVersion {
        /// The version it speaks.
        theirs: u8,
    },
    /// Its datagrams make no sense.
    Malformed,
    /// It doesn't sign, and this node has keys.
    Unsigned,
    /// It signs, and this node has no key.
    Signed {
        /// The key it uses.
        key: u8,
    },
    /// It signs with a key that this node doesn't have.
    UnknownKey {
        /// The key it uses.
        key: u8,
    },
    /// Its secret for that key is another.
    BadSignature {
        /// The key it uses.
        key: u8,
    },
    /// It calls itself by another name than this node's configuration does.
    Name {
        /// What it calls itself.
        theirs: NodeId,
    },
    /// Its lease isn't this node's.
    Lease {
        /// Its lease.
        theirs: Duration,
        /// This node's.
        ours: Duration,
    },
    /// Its member set differs by two members or more.
    Members,
    /// It and this node's configuration don't agree on whether it is a witness. It takes part all the same, as what it says it is.
    Witness {
        /// What it says.
        theirs: bool,
    },
    /// Its tie-break is another: each could see its own and lead.
    TieBreak,
    /// Its election is about something else.
    Subject,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WireVersion { theirs } => {
                write!(
                    f,
                    "speaks version {theirs} of the peer protocol; run releases that are next to each other"
                )
            }
            Self::Malformed => {
                f.write_str("sends datagrams that make no sense; is something else using its port?")
            }
            Self::Unsigned => f.write_str("does not sign its messages; give it the peer keys of this node"),
            Self::Signed { key } => {
                write!(f, "signs with key {key}, and this node has no peer key; give it that key")
            }
            Self::UnknownKey { key } => {
                write!(f, "signs with key {key}, which this node lacks; add the key here first")
            }
            Self::BadSignature { key } => {
                write!(f, "has another secret for key {key}; copy the same key file to all nodes")
            }
            Self::Name { theirs } => write!(f, "calls itself {theirs}; use the same name on all nodes"),
            Self::Lease { theirs, ours } if theirs > ours => {
                write!(
                    f,
                    "has a lease of {theirs:?}, longer than {ours:?} here, and gets no vote; use one timing on all nodes"
                )
            }
            Self::Lease { theirs, ours } => {
                write!(
                    f,
                    "has a lease of {theirs:?}, shorter than {ours:?} here; use one timing on all nodes"
                )
            }
            Self::Members => {
                f.write_str("has members that differ from this node's by more than one, and gets no vote; ")?;
                f.write_str("list the same members on all nodes, and change one member at a time")
            }
            Self::TieBreak => f.write_str(
                "has another tie-break, so neither leads without the other; write the same `tieBreak` on both nodes",
            ),
            Self::Subject => f.write_str(
                "holds an election about another address here; list the same `vips` in the same order on all nodes, \
                 and the same `spread`",
            ),
            Self::Witness { theirs: true } => {
                f.write_str("says that it is a witness, which this node's configuration doesn't; write `witness: true` there too")
            }
            Self::Witness { theirs: false } => {
                f.write_str("may lead, and this node's configuration says that it is a witness; say the same on all nodes")
            }
        }
    }
}

impl Mismatch {
    /// Whether it is the keys that differ, and not what the two are configured for.
    #[must_use]
    pub fn is_of_keys(&self) -> bool {
        match self {
            Self::Unsigned | Self::Signed { .. } | Self::UnknownKey { .. } | Self::BadSignature { .. } => {
                true
            }
            Self::WireVersion { .. }
            | Self::Malformed
            | Self::Name { .. }
            | Self::Lease { .. }
            | Self::Members
            | Self::Witness { .. }
            | Self::TieBreak
            | Self::Subject => false,
        }
    }
}

impl From<Unreadable> for Mismatch {
    fn from(unreadable: Unreadable) -> Self {
        match unreadable {
            Unreadable::Malformed => Self::Malformed,
            Unreadable::Version { theirs } => Self::WireVersion { theirs },
            Unreadable::Unsigned => Self::Unsigned,
            Unreadable::Signed { key } => Self::Signed { key },
            Unreadable::UnknownKey { key } => Self::UnknownKey { key },
            Unreadable::BadSignature { key } => Self::BadSignature { key },
        }
    }
}

impl Exchange {
    /// An exchange with peers at these addresses, none of which has proved to be alive yet.
    pub(crate) fn new(
        me: Process,
        subject: Option<Subject>,
        keys: Vec<Key>,
        peers: &BTreeMap<NodeId, SocketAddr>,
        hello_interval: Duration,
    ) -> Self {
        let link = |address: SocketAddr| {
            let session = Session::new(me.incarnation, hello_interval);
            Link { address, session, hears: Hears::default(), mismatch: None }
        };
        Self {
            subject,
            keys,
            links: peers.iter().map(|(id, address)| (id.clone(), link(*address))).collect(),
            sources: peers.iter().map(|(id, address)| (source(*address), id.clone())).collect(),
            answers: VecDeque::new(),
            complaints: VecDeque::new(),
            dropped: Dropped::default(),
            me,
        }
    }

    /// Reads a datagram; gives what is in it if it is authentic.
    pub(crate) fn receive(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) -> Option<Received> {
        let (peer, opened) = match self.open(from, datagram) {
            Some((peer, opened)) => (peer.clone(), opened),
            None => {
                self.dropped.strangers += 1;
                self.dropped.latest = Some(from);
                return None;
            }
        };
        let envelope = match opened {
            Ok(envelope) => envelope,
            Err(mismatch) => {
                self.dropped.unreadable += 1;
                self.dropped.latest = Some(from);
                self.complain(&peer, mismatch, now);
                return None;
            }
        };
        let mine = Some(self.me.incarnation);
        let link = self.link(&peer);
        // A copy of what was taken is no sign of anything; what one of the two sends without knowing the other's process is.
        let stranger = link.session.theirs() != Some(envelope.from.incarnation) || envelope.to != mine;
        let sign = match link.session.judge(&envelope, now) {
            Verdict::Fresh => {
                link.hears = envelope.hears;
                return Some(Received::Message(envelope.from.clone(), envelope.into_content()));
            }
            Verdict::Answer { echo, to, challenge } => {
                self.answer(&peer, Answer::Welcome { echo, to });
                if let Some(challenge) = challenge {
                    self.answer(&peer, Answer::Hello { challenge });
                }
                true
            }
            Verdict::Challenge(challenge) => {
                self.dropped.stale += 1;
                self.dropped.latest = Some(from);
                self.answer(&peer, Answer::Hello { challenge });
                true
            }
            Verdict::Stale => {
                self.dropped.stale += 1;
                self.dropped.latest = Some(from);
                stranger
            }
        };
        sign.then_some(Received::Sign(peer, envelope.gossip))
    }

    /// What a datagram is without being taken in: the peer that it is from by its source, and what is in it or what is wrong with it;
    /// `None` for a stranger's.
    pub(crate) fn open(
        &self,
        from: SocketAddr,
        datagram: &[u8],
    ) -> Option<(&NodeId, Result<Envelope, Mismatch>)> {
        let peer = self.sources.get(&source(from))?;
        let opened = match Envelope::open(datagram, &self.keys, peer) {
            Ok(envelope) if envelope.from.node == *peer && envelope.subject == self.subject => Ok(envelope),
            Ok(envelope) if envelope.from.node == *peer => Err(Mismatch::Subject),
            Ok(envelope) => Err(Mismatch::Name { theirs: envelope.from.node }),
            Err(unreadable) => Err(unreadable.into()),
        };
        Some((peer, opened))
    }

    /// An answer that a datagram called for, with its receiver's address.
    pub(crate) fn poll_answer(
        &mut self,
        gossip: impl Fn() -> Gossip,
        out: &mut Vec<u8>,
    ) -> Option<SocketAddr> {
        let (peer, answer) = self.answers.pop_front()?;
        let link = self.links.get_mut(&peer).expect("answers go to those who were heard, who have a link");
        let address = link.address;
        let (to, payload) = match answer {
            Answer::Hello { challenge } => (link.session.theirs(), Payload::Hello { challenge }),
            Answer::Welcome { echo, to } => (Some(to), Payload::Welcome { echo }),
        };
        let sequence = link.session.next_sequence();
        self.me_says(to, sequence, gossip(), payload).emit(&self.keys, out);
        Some(address)
    }

    /// Writes a message as a datagram; gives its receiver's address. A peer that hasn't proved to be alive is asked
    /// for that instead, or left alone if it was asked a moment ago.
    pub(crate) fn emit(
        &mut self,
        to: &NodeId,
        message: Message,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Option<SocketAddr> {
        let link = self.links.get_mut(to)?;
        let theirs = link.session.theirs();
        let payload = match theirs {
            Some(_) => Payload::Election(message.body),
            None => Payload::Hello { challenge: link.session.challenge(now)? },
        };
        let (address, sequence) = (link.address, link.session.next_sequence());
        self.me_says(theirs, sequence, message.gossip, payload).emit(&self.keys, out);
        Some(address)
    }

    /// Writes what is said beside the election as a datagram; gives its receiver's address. A peer that takes no such has none.
    pub(crate) fn emit_beside(
        &mut self,
        to: &NodeId,
        payload: Payload,
        gossip: Gossip,
        out: &mut Vec<u8>,
    ) -> Option<SocketAddr> {
        let theirs = match payload {
            Payload::Note(_) => self.reader_of_notes(to)?,
            Payload::Clients(_) | Payload::Read(_) => self.hearer_of_clients(to)?,
            Payload::Hello { .. } | Payload::Welcome { .. } | Payload::Election(_) => return None,
        };
        let link = self.links.get_mut(to)?;
        let (address, sequence) = (link.address, link.session.next_sequence());
        self.me_says(Some(theirs), sequence, gossip, payload).emit(&self.keys, out);
        Some(address)
    }

    /// The process of a peer, if it is known and takes chapters of clients.
    pub(crate) fn hearer_of_clients(&self, peer: &NodeId) -> Option<Incarnation> {
        let link = self.links.get(peer)?;
        link.session.theirs().filter(|_| link.hears.clients)
    }

    /// The process of a peer, if it is known and takes notes.
    fn reader_of_notes(&self, peer: &NodeId) -> Option<Incarnation> {
        let link = self.links.get(peer)?;
        link.session.theirs().filter(|_| link.hears.notes)
    }

    fn me_says(&self, to: Option<Incarnation>, sequence: u64, gossip: Gossip, payload: Payload) -> Envelope {
        Envelope {
            from: self.me.clone(),
            to,
            sequence,
            hears: Hears { clients: true, notes: true },
            subject: self.subject,
            gossip,
            payload,
        }
    }

    /// Notes what is wrong with a peer; a complaint comes out once when that begins.
    pub(crate) fn complain(&mut self, peer: &NodeId, mismatch: Mismatch, now: Instant) {
        let link = self.link(peer);
        let known = link
            .mismatch
            .as_ref()
            .is_some_and(|(present, last)| *present == mismatch && now < *last + COMPLAINT_MEMORY);
        link.mismatch = Some((mismatch.clone(), now));
        // One per peer may wait: a driver that doesn't drain loses the log line, not the state.
        if !known && self.complaints.len() < self.links.len() {
            self.complaints.push_back(Complaint { peer: peer.clone(), mismatch });
        }
    }

    /// Something that begins to be wrong with a peer.
    pub(crate) fn poll_complaint(&mut self) -> Option<Complaint> {
        self.complaints.pop_front()
    }

    /// What is wrong with a peer that was last heard then.
    pub(crate) fn mismatch(&self, peer: &NodeId, heard: Option<Instant>) -> Option<&Mismatch> {
        let (mismatch, last) = self.links.get(peer)?.mismatch.as_ref()?;
        heard.is_none_or(|heard| heard <= *last).then_some(mismatch)
    }

    /// The peers and their addresses.
    pub(crate) fn peers(&self) -> impl Iterator<Item = (&NodeId, SocketAddr)> {
        self.links.iter().map(|(id, link)| (id, link.address))
    }

    /// Whether messages are signed.
    pub(crate) fn signs(&self) -> bool {
        !self.keys.is_empty()
    }

    /// How many datagrams were dropped.
    pub(crate) fn dropped(&self) -> Dropped {
        self.dropped
    }

    fn answer(&mut self, peer: &NodeId, answer: Answer) {
        if self.answers.len() < ANSWERS_MAX {
            self.answers.push_back((peer.clone(), answer));
        }
    }

    fn link(&mut self, peer: &NodeId) -> &mut Link {
        self.links.get_mut(peer).expect("every known source has a link")
    }
}
