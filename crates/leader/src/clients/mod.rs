//! Who is connected to what the leader serves: told by it to the others, so that its successor knows whom to tell of
//! the move.
//!
//! ```text
//!   leader: Telling                                      follower: Hearsay
//!     Book, volume 1: 7 came a · 8 came b · 9 gone a       bookmark: volume 1, line 6
//!        │── Chapter: lines 7 to 9 of volume 1 ─────────────▶│
//!        │◀──────────────────────── bookmark: line 9 ────────│
//! ```
//!
//! * The leader keeps a book: who came and who went, in numbered lines. A line that a later one makes needless is struck
//!   out, so the book is as long as the clients are many.
//! * Each reader has a bookmark. The leader sends what comes after it, some chapters ahead, and sends again what nobody
//!   confirmed. Now and then it sends an empty one, and the answer tells where the reader is: who lost something, began
//!   later or forgot, gets what is missing.
//! * When too many lines only say who went, a new volume begins, with those who are there.
//! * A chapter is a datagram of its own, after those of the election. No decision of that depends on any of it.
//! * A member believes only the one that leads, and forgets what another has told it when a new one does. A member that
//!   leads itself has [inherited](crate::peers::Clients::inherit) what its predecessor told.
//!
//! What a client is, the program knows: here it is some bytes.

mod book;
mod hearsay;
mod telling;

pub(crate) use book::Book;
pub(crate) use hearsay::Hearsay;
pub(crate) use telling::Telling;

use std::fmt;

/// As many clients are remembered, the latest ones. Each takes some 200 bytes of the leader's memory.
pub const CLIENTS_MAX: usize = 4096;

/// Room for two addresses of IPv6, each with its port, and some more.
pub const CLIENT_BYTES_MAX: usize = 40;

/// A client, as the program describes it: some bytes that are equal if the clients are.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Client {
    len: u8,
    bytes: [u8; CLIENT_BYTES_MAX],
}

impl Client {
    /// Takes a description of 1 to [`CLIENT_BYTES_MAX`] bytes.
    pub fn new(description: &[u8]) -> Option<Self> {
        let mut bytes = [0; CLIENT_BYTES_MAX];
        bytes.get_mut(..description.len())?.copy_from_slice(description);
        let len = u8::try_from(description.len()).ok().filter(|len| *len > 0)?;
        Some(Self { len, bytes })
    }

    /// The description.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({:02x?})", self.as_bytes())
    }
}

/// What happened to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is connected.
    Came(Client),
    /// It no longer is.
    Gone(Client),
}

impl Change {
    pub(crate) fn client(&self) -> &Client {
        match self {
            Self::Came(client) | Self::Gone(client) => client,
        }
    }
}

/// How many clients a member knows of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Its own, which it tells the others while it leads.
    pub own: usize,
    /// Those of another leader.
    pub heard: usize,
    /// Own ones that were forgotten, as they were more than [`CLIENTS_MAX`].
    pub forgotten: u64,
}

/// How far somebody has read. Volumes and lines count from 1; before that, nothing was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Bookmark {
    pub(crate) volume: u64,
    pub(crate) line: u64,
}

/// Some lines of a volume: all that is left of those after one and up to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chapter {
    pub(crate) volume: u64,
    pub(crate) after: u64,
    pub(crate) until: u64,
    pub(crate) changes: Vec<Change>,
}

impl Chapter {
    /// The changes of no chapter take more bytes in a datagram: with names and versions of any length, that stays
    /// below [`wire::DATAGRAM_BYTES_MAX`](crate::wire::DATAGRAM_BYTES_MAX).
    pub(crate) const BYTES_MAX: usize = 900;

    /// It has no more changes: a datagram counts them in a byte.
    pub(crate) const CHANGES_MAX: usize = 255;

    /// How many bytes a change takes in a datagram.
    pub(crate) fn bytes(change: &Change) -> usize {
        1 + change.client().as_bytes().len()
    }
}

#[cfg(test)]
mod tests;
