//! Reads what [`Envelope::emit`](super::Envelope::emit) writes.

use std::time::Duration;

use super::{Envelope, Hears, Payload, extension, kind};
use crate::{
    Term,
    message::{Ballot, Body, Gossip, Objection, Round, Subject, Tie, TieBreak, Version},
    node::{Incarnation, Instance, MEMBERS_MAX, MemberSet, NodeId, Process},
    timing::LEASE_MAX,
};

/// What the extensions say: what the sender takes beside the election, its tie-break, and which election it is.
#[derive(Default)]
struct Extensions {
    hears: Hears,
    tie: Option<Tie>,
    subject: Option<Subject>,
}

/// What is left of a datagram. `None` from any method means that it is malformed.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn envelope(&mut self, expected: &NodeId) -> Option<Envelope> {
        let kind = self.u8()?;
        let flags = self.u8()?;
        let incarnation = self.incarnation()?;
        let to = Some(self.u64()?).filter(|to| *to != 0).map(Incarnation);
        let sequence = self.u64()?;
        let flag = |bit: u8| flags >> bit & 1 == 1;
        let priority = self.u8()?;
        let term = self.term()?;
        let lease = self.micros()?;
        let node = match self.text()? {
            name if name == expected.as_str() => expected.clone(),
            name => NodeId::new(name).ok()?,
        };
        let version = self.version()?;
        let gossip = Gossip {
            eligible: flag(0),
            start_as_leader: flag(1),
            preempting: flag(2),
            abstaining: flag(3),
            stopping: flag(4),
            leading: flag(5),
            witness: flag(7),
            resting: flag(6),
            priority,
            term,
            lease: (lease <= LEASE_MAX).then_some(lease)?,
            members: self.members()?,
            version,
            tie: None,
        };
        let payload = self.payload(kind)?;
        let Extensions { hears, tie, subject } = self.extensions()?;
        let (gossip, from) = (Gossip { tie, ..gossip }, Process { node, incarnation });
        Some(Envelope { from, to, sequence, hears, subject, gossip, payload })
    }

    /// Reads to the end, past what it doesn't know.
    fn extensions(&mut self) -> Option<Extensions> {
        let mut found = Extensions::default();
        while !self.0.is_empty() {
            let (tag, len) = (self.u8()?, self.u8()?);
            let content = self.bytes(usize::from(len))?;
            found.hears.clients |= tag == extension::HEARS_OF_CLIENTS;
            found.hears.notes |= tag == extension::HEARS_NOTES;
            // A later version may say more behind it.
            if tag == extension::TIE
                && let [flags, a, b, c, d, ..] = *content
            {
                let rule = TieBreak(u32::from_be_bytes([a, b, c, d]));
                found.tie = Some(Tie { rule, missing: flags & 1 == 1, blind: flags & 2 == 2 });
            }
            if tag == extension::SUBJECT {
                // One of another length is no subject of this version's, and not the same as none.
                found.subject = Some(Subject(content.try_into().ok()?));
            }
        }
        Some(found)
    }

    fn payload(&mut self, kind: u8) -> Option<Payload> {
        let body = match kind {
            kind::HELLO => return Some(Payload::Hello { challenge: self.u64()? }),
            kind::WELCOME => return Some(Payload::Welcome { echo: self.u64()? }),
            kind::ALIVE => Body::Alive,
            kind::CANVASS => Body::Canvass { round: self.round()? },
            kind::SUPPORT => Body::Support { round: self.round()? },
            kind::REQUEST => {
                Body::Request { term: self.term()?, round: self.round()?, released: self.instance()? }
            }
            kind::GRANT => Body::Grant { term: self.term()?, round: self.round()? },
            kind::REFUSE => Body::Refuse { ballot: self.ballot()?, objection: self.objection()? },
            kind::RELEASE => Body::Release {
                term: self.term()?,
                successor: match self.text()? {
                    "" => None,
                    name => Some(NodeId::new(name).ok()?),
                },
            },
            kind::CLIENTS => return Some(Payload::Clients(self.chapter()?)),
            kind::READ => return Some(Payload::Read(self.bookmark()?)),
            kind::NOTE => return Some(Payload::Note(self.page()?)),
            _ => return None,
        };
        Some(Payload::Election(body))
    }

    fn ballot(&mut self) -> Option<Ballot> {
        let (kind, term, round) = (self.u8()?, self.term()?, self.round()?);
        match kind {
            0 => Some(Ballot::Canvass { round }),
            1 => Some(Ballot::Request { term, round }),
            _ => None,
        }
    }

    fn objection(&mut self) -> Option<Objection> {
        let (reason, remaining) = (self.u8()?, self.micros()?);
        match reason {
            0 => Some(Objection::Promised { remaining }),
            1 => Some(Objection::Abstaining { remaining }),
            2 => Some(Objection::Members),
            3 => Some(Objection::Lease),
            4 => Some(Objection::Released),
            _ => None,
        }
    }

    fn instance(&mut self) -> Option<Option<Instance>> {
        let name = self.text()?;
        if name.is_empty() {
            return Some(None);
        }
        let holder = Process { node: NodeId::new(name).ok()?, incarnation: self.incarnation()? };
        Some(Some(Instance { holder, term: self.term()? }))
    }

    fn members(&mut self) -> Option<MemberSet> {
        let count = usize::from(self.u8()?);
        if count > MEMBERS_MAX {
            return None;
        }
        let (hashes, _) = self.bytes(count * 4)?.as_chunks::<4>();
        MemberSet::from_hashes(hashes.iter().map(|hash| u32::from_be_bytes(*hash)))
    }

    fn version(&mut self) -> Option<Version> {
        let text = self.text()?;
        Some(Version::new(text)).filter(|version| version.as_str() == text)
    }

    fn text(&mut self) -> Option<&'a str> {
        let len = self.u8()?;
        std::str::from_utf8(self.bytes(usize::from(len))?).ok()
    }

    fn incarnation(&mut self) -> Option<Incarnation> {
        self.u64().filter(|number| *number != 0).map(Incarnation)
    }

    fn round(&mut self) -> Option<Round> {
        self.u64().map(Round)
    }

    fn term(&mut self) -> Option<Term> {
        self.u64().map(Term).filter(|term| *term <= Term::MAX)
    }

    fn micros(&mut self) -> Option<Duration> {
        let (bytes, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(Duration::from_micros(u64::from(u32::from_be_bytes(*bytes))))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        let (bytes, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*bytes))
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    pub(super) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }
}
