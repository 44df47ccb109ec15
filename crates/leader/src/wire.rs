//! Datagrams: one message each, signed with HMAC-SHA256. Those of the election have at most 512 bytes.
//!
//! ```text
//!  0        1        2        3        4                 12                20                28
//!  ├version─┼─key id─┼─type───┼─flags──┼─from incarnation─┼─to incarnation──┼─sequence────────┤
//!  ├priority u8, term u64, lease u32 (µs)
//!  ├name: len u8, bytes ├ version: len u8, bytes ├ members: count u8, hash u32 each
//!  ├body, as the type says
//!  ├extensions: (tag u8, len u8, bytes)*, skipped if unknown
//!  └tag: 32 bytes, absent when the key id is 0
//! ```
//!
//! Numbers are big-endian. Extensions are where later versions say more without a new version byte.

use std::{fmt, time::Duration};

use ring::hmac;

use crate::{
    Term,
    clients::{Bookmark, Chapter},
    message::{Ballot, Body, Gossip, Message, Objection, Subject, Tie},
    node::{Incarnation, Instance, MemberSet, NodeId, Process},
    notes::Page,
};

use reader::Reader;

/// No datagram is longer: IPv6 lets none of its networks take less than 1280 bytes with its headers.
pub(crate) const DATAGRAM_BYTES_MAX: usize = 1200;

/// None of the election's is longer: it fits into every network's smallest packet with room for tunnels.
pub(crate) const ELECTION_BYTES_MAX: usize = 512;

/// The layout above.
const WIRE_VERSION: u8 = 1;

const TAG_BYTES: usize = 32;

/// Shorter secrets can be guessed.
const SECRET_BYTES_MIN: usize = 16;

/// A secret that peers share. Prints nothing of itself.
#[derive(Clone)]
pub struct Key {
    id: u8,
    hmac: hmac::Key,
}

impl Key {
    /// Takes a number that names the key in datagrams (1 to 255) and a secret of 16 bytes or more.
    ///
    /// # Errors
    ///
    /// Refuses the number 0, which means "not signed", and short secrets.
    pub fn new(id: u8, secret: &[u8]) -> Result<Self, KeyError> {
        if id == 0 {
            return Err(KeyError::Zero);
        }
        if secret.len() < SECRET_BYTES_MIN {
            return Err(KeyError::Short { id, bytes: secret.len() });
        }
        Ok(Self { id, hmac: hmac::Key::new(hmac::HMAC_SHA256, secret) })
    }

    /// The number that names the key.
    pub fn id(&self) -> u8 {
        self.id
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A number and secret that make no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The number 0 is taken.
    #[error("a peer key has the id 0, which means \"not signed\"; number keys from 1")]
    Zero,
    /// The secret is too short.
    #[error(
        "the secret of peer key {id} has {bytes} bytes; it needs {SECRET_BYTES_MIN} or more, \
         for example from `head -c 32 /dev/urandom | base64`"
    )]
    Short {
        /// Which key.
        id: u8,
        /// Its length.
        bytes: usize,
    },
}

/// A datagram's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub(crate) from: Process,
    /// The incarnation it is meant for; `None` while the sender knows of none.
    pub(crate) to: Option<Incarnation>,
    pub(crate) sequence: u64,
    /// What the sender takes beside the election.
    pub(crate) hears: Hears,
    /// Which election it belongs to, where the sender takes part in several.
    pub(crate) subject: Option<Subject>,
    pub(crate) gossip: Gossip,
    pub(crate) payload: Payload,
}

/// What a process takes beside the election: one that doesn't say so would call it malformed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hears {
    /// Chapters of clients.
    pub(crate) clients: bool,
    /// Pages of notes.
    pub(crate) notes: bool,
}

/// The part of a datagram that differs by type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Payload {
    /// Prove that you live now: repeat this number.
    Hello { challenge: u64 },
    /// The proof.
    Welcome { echo: u64 },
    /// A message of the election.
    Election(Body),
    /// Some of the leader's clients.
    Clients(Chapter),
    /// How far these were read.
    Read(Bookmark),
    /// A part of a note.
    Note(Page),
}

/// What a datagram is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// The election. The answer to a challenge shows life.
    Election(Message),
    /// Some of the leader's clients.
    Clients(Chapter),
    /// How far these were read.
    Read(Bookmark),
    /// A part of a note.
    Note(Page),
}

impl Envelope {
    /// What it is about. What a member says of itself beside its clients is said in the election's messages as well.
    pub(crate) fn into_content(self) -> Content {
        let body = match self.payload {
            Payload::Election(body) => body,
            Payload::Hello { .. } | Payload::Welcome { .. } => Body::Alive,
            Payload::Clients(chapter) => return Content::Clients(chapter),
            Payload::Read(bookmark) => return Content::Read(bookmark),
            Payload::Note(page) => return Content::Note(page),
        };
        Content::Election(Message { gossip: self.gossip, body })
    }

    /// Appends the datagram to an empty buffer, signed with the first key.
    pub(crate) fn emit(&self, keys: &[Key], out: &mut Vec<u8>) {
        assert!(out.is_empty(), "a datagram starts at the start");
        let kind = match &self.payload {
            Payload::Hello { .. } => kind::HELLO,
            Payload::Welcome { .. } => kind::WELCOME,
            Payload::Election(body) => kind::of(body),
            Payload::Clients(_) => kind::CLIENTS,
            Payload::Read(_) => kind::READ,
            Payload::Note(_) => kind::NOTE,
        };
        out.extend([WIRE_VERSION, keys.first().map_or(0, Key::id), kind, flags(&self.gossip)]);
        put_u64(out, self.from.incarnation.0);
        put_u64(out, self.to.map_or(0, |incarnation| incarnation.0));
        put_u64(out, self.sequence);
        out.push(self.gossip.priority);
        put_u64(out, self.gossip.term.0);
        put_micros(out, self.gossip.lease);
        put_text(out, self.from.node.as_str());
        put_text(out, self.gossip.version.as_str());
        put_members(out, &self.gossip.members);
        match &self.payload {
            Payload::Hello { challenge: number } | Payload::Welcome { echo: number } => put_u64(out, *number),
            Payload::Election(body) => put_body(out, body),
            Payload::Clients(chapter) => clients::put_chapter(out, chapter),
            Payload::Read(bookmark) => clients::put_bookmark(out, *bookmark),
            Payload::Note(page) => notes::put_page(out, page),
        }
        let Hears { clients, notes } = self.hears;
        if clients {
            out.extend([extension::HEARS_OF_CLIENTS, 0]);
        }
        if notes {
            out.extend([extension::HEARS_NOTES, 0]);
        }
        put_tie(out, self.gossip.tie);
        if let Some(Subject(subject)) = self.subject {
            out.extend([extension::SUBJECT, 16]);
            out.extend(subject);
        }
        if let Some(key) = keys.first() {
            let tag = hmac::sign(&key.hmac, out);
            out.extend_from_slice(tag.as_ref());
        }
        let longest = longest(kind);
        assert!(
            out.len() <= longest,
            "all parts of the election at their longest make 356 bytes, a chapter's 1185"
        );
    }

    /// Reads a datagram: first its version and signature, and only then the rest. Whom it is expected from has a name in memory
    /// already, which is taken where it is the same.
    pub(crate) fn open(datagram: &[u8], keys: &[Key], expected: &NodeId) -> Result<Self, Unreadable> {
        let malformed = Unreadable::Malformed;
        let &[version, key, kind, ..] = datagram else { return Err(malformed) };
        if datagram.len() > longest(kind) {
            return Err(malformed);
        }
        if version != WIRE_VERSION {
            return Err(Unreadable::Version { theirs: version });
        }
        let content = verify(datagram, key, keys)?;
        Reader(&content[2..]).envelope(expected).ok_or(malformed)
    }
}

/// Checks the signature, and takes it off.
fn verify<'a>(datagram: &'a [u8], id: u8, keys: &[Key]) -> Result<&'a [u8], Unreadable> {
    if id == 0 {
        return if keys.is_empty() { Ok(datagram) } else { Err(Unreadable::Unsigned) };
    }
    if keys.is_empty() {
        return Err(Unreadable::Signed { key: id });
    }
    let key = keys.iter().find(|key| key.id == id).ok_or(Unreadable::UnknownKey { key: id })?;
    let (content, tag) = datagram
        .split_last_chunk::<TAG_BYTES>()
        .filter(|(content, _)| content.len() >= 2)
        .ok_or(Unreadable::Malformed)?;
    hmac::verify(&key.hmac, content, tag).map_err(|_| Unreadable::BadSignature { key: id })?;
    Ok(content)
}

/// Why a datagram can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    Malformed,
    Version { theirs: u8 },
    Unsigned,
    Signed { key: u8 },
    UnknownKey { key: u8 },
    BadSignature { key: u8 },
}

mod kind {
    use crate::message::Body;

    pub(super) const HELLO: u8 = 1;
    pub(super) const WELCOME: u8 = 2;
    pub(super) const ALIVE: u8 = 3;
    pub(super) const CANVASS: u8 = 4;
    pub(super) const SUPPORT: u8 = 5;
    pub(super) const REQUEST: u8 = 6;
    pub(super) const GRANT: u8 = 7;
    pub(super) const REFUSE: u8 = 8;
    pub(super) const RELEASE: u8 = 9;
    pub(super) const CLIENTS: u8 = 10;
    pub(super) const READ: u8 = 11;
    pub(super) const NOTE: u8 = 12;

    pub(super) fn of(body: &Body) -> u8 {
        match body {
            Body::Alive => ALIVE,
            Body::Canvass { .. } => CANVASS,
            Body::Support { .. } => SUPPORT,
            Body::Request { .. } => REQUEST,
            Body::Grant { .. } => GRANT,
            Body::Refuse { .. } => REFUSE,
            Body::Release { .. } => RELEASE,
        }
    }
}

/// The longest datagram of a kind.
fn longest(kind: u8) -> usize {
    if [kind::CLIENTS, kind::NOTE].contains(&kind) { DATAGRAM_BYTES_MAX } else { ELECTION_BYTES_MAX }
}

/// Tags of extensions.
mod extension {
    /// A member that says so, without content, takes chapters.
    pub(super) const HEARS_OF_CLIENTS: u8 = 1;
    /// The tie-break: whether the other member is missed (bit 0), and nothing was seen (bit 1); then which it is (u32).
    pub(super) const TIE: u8 = 2;
    /// Which election it is: 16 bytes.
    pub(super) const SUBJECT: u8 = 3;
    /// A member that says so, without content, takes notes.
    pub(super) const HEARS_NOTES: u8 = 4;
}

/// The flags, from the lowest bit; bits that this version doesn't know are ignored.
fn flags(gossip: &Gossip) -> u8 {
    let Gossip {
        eligible, start_as_leader, preempting, abstaining, stopping, leading, resting, witness, ..
    } = gossip;
    [eligible, start_as_leader, preempting, abstaining, stopping, leading, resting, witness]
        .iter()
        .enumerate()
        .fold(0, |flags, (bit, set)| flags | u8::from(**set) << bit)
}

fn put_u64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_be_bytes());
}

/// Rounds up, so that a remaining time is never told too short; an hour and more is told as an hour.
fn put_micros(out: &mut Vec<u8>, duration: Duration) {
    let micros = u32::try_from(duration.as_nanos().div_ceil(1_000)).unwrap_or(u32::MAX);
    out.extend_from_slice(&micros.to_be_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let len = u8::try_from(text.len()).expect("names and versions are bounded by their constructors");
    out.push(len);
    out.extend_from_slice(text.as_bytes());
}

fn put_members(out: &mut Vec<u8>, members: &MemberSet) {
    let hashes = members.hashes();
    out.push(u8::try_from(hashes.len()).expect("a member set is bounded by its constructor"));
    for hash in hashes {
        out.extend_from_slice(&hash.to_be_bytes());
    }
}

fn put_tie(out: &mut Vec<u8>, tie: Option<Tie>) {
    if let Some(Tie { rule, missing, blind }) = tie {
        out.extend([extension::TIE, 5, u8::from(missing) | u8::from(blind) << 1]);
        out.extend_from_slice(&rule.0.to_be_bytes());
    }
}

fn put_instance(out: &mut Vec<u8>, instance: Option<&Instance>) {
    match instance {
        None => out.push(0),
        Some(instance) => {
            put_text(out, instance.holder.node.as_str());
            put_u64(out, instance.holder.incarnation.0);
            put_u64(out, instance.term.0);
        }
    }
}

fn put_body(out: &mut Vec<u8>, body: &Body) {
    match body {
        Body::Alive => {}
        Body::Canvass { round } | Body::Support { round } => put_u64(out, round.0),
        Body::Request { term, round, released } => {
            put_u64(out, term.0);
            put_u64(out, round.0);
            put_instance(out, released.as_ref());
        }
        Body::Grant { term, round } => {
            put_u64(out, term.0);
            put_u64(out, round.0);
        }
        Body::Refuse { ballot, objection } => {
            let (kind, term, round) = match ballot {
                Ballot::Canvass { round } => (0, Term(0), round),
                Ballot::Request { term, round } => (1, *term, round),
            };
            out.push(kind);
            put_u64(out, term.0);
            put_u64(out, round.0);
            let (reason, remaining) = match objection {
                Objection::Promised { remaining } => (0, *remaining),
                Objection::Abstaining { remaining } => (1, *remaining),
                Objection::Members => (2, Duration::ZERO),
                Objection::Lease => (3, Duration::ZERO),
                Objection::Released => (4, Duration::ZERO),
            };
            out.push(reason);
            put_micros(out, remaining);
        }
        Body::Release { term, successor } => {
            put_u64(out, term.0);
            put_text(out, successor.as_ref().map_or("", NodeId::as_str));
        }
    }
}

mod clients;
mod notes;
mod reader;

#[cfg(test)]
mod tests;
