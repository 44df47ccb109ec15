//! Who is who: names of nodes, processes of a node, and the set of members.

use std::{collections::BTreeSet, fmt, sync::Arc};

/// A node's symbolic name, the same in every member's configuration.
///
/// It is a name and not a host name: nothing resolves it, and nothing compares it with the system's own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(Arc<str>);

/// The longest name in bytes: a DNS label, which is what Kubernetes node names are made of.
const NAME_BYTES_MAX: usize = 63;

impl NodeId {
    /// Takes a name of 1 to 63 bytes, printable and without white space.
    ///
    /// # Errors
    ///
    /// Says which of these rules the name breaks.
    pub fn new(name: &str) -> Result<Self, NodeIdError> {
        if name.is_empty() {
            return Err(NodeIdError::Empty);
        }
        if name.len() > NAME_BYTES_MAX {
            return Err(NodeIdError::TooLong { bytes: name.len() });
        }
        if let Some(found) = name.chars().find(|c| c.is_control() || c.is_whitespace()) {
            return Err(NodeIdError::Unprintable { found });
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A short stand-in for the name (32-bit FNV-1a), so that a whole member set fits into every message.
    pub(crate) fn hash4(&self) -> u32 {
        fnv(&self.0)
    }
}

/// The 32-bit FNV-1a of a text.
pub(crate) fn fnv(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that can't be the name of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeIdError {
    /// There is no name at all.
    #[error("a node's name is empty; give it 1 to {NAME_BYTES_MAX} characters")]
    Empty,
    /// The name is longer than a message has room for.
    #[error("a node's name has {bytes} bytes; at most {NAME_BYTES_MAX} are allowed")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// The name holds white space or a control character.
    #[error("a node's name contains {found:?}; use printable characters without white space")]
    Unprintable {
        /// The first such character.
        found: char,
    },
}

/// One run of a node's process: a random number drawn at its start.
///
/// A process forgets its promises when it ends, so promises are made to and by incarnations, never to nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

/// A node in one of its incarnations: what can hold a lease.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Process {
    /// The node.
    pub node: NodeId,
    /// Its present run.
    pub incarnation: Incarnation,
}

/// The number of a candidacy. It rises with every candidacy that anyone starts, and names what is released.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub u64);

impl Term {
    /// The largest term that is read from a datagram.
    pub(crate) const MAX: Self = Self(1 << 48);

    /// The largest term that a member takes over from others. So a liar can't bring it near the end: from here, one
    /// candidacy a millisecond would take 4 000 years to get there.
    pub(crate) const ADOPTED_MAX: Self = Self(1 << 47);

    /// The term after this one.
    pub(crate) fn next(self) -> Self {
        assert!(self < Self::MAX, "the terms that others can force on a member are far below");
        Self(self.0 + 1)
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One candidacy of one process: the exact thing that is granted, renewed and released.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Instance {
    /// Who holds it.
    pub holder: Process,
    /// In which term.
    pub term: Term,
}

/// The largest number of members. Every message carries them all; seven would already be unusual.
pub const MEMBERS_MAX: usize = 15;

/// A member set as it travels: the sorted short hashes of the names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MemberSet {
    len: u8,
    hashes: [u32; MEMBERS_MAX],
}

impl MemberSet {
    /// Makes a set from hashes in any order; `None` if there are more than [`MEMBERS_MAX`] or one occurs twice.
    pub(crate) fn from_hashes(hashes: impl IntoIterator<Item = u32>) -> Option<Self> {
        let mut set = Self::default();
        for hash in hashes {
            *set.hashes.get_mut(usize::from(set.len))? = hash;
            set.len += 1;
        }
        let used = &mut set.hashes[..usize::from(set.len)];
        used.sort_unstable();
        used.windows(2).all(|pair| pair[0] != pair[1]).then_some(set)
    }

    /// The set of these names; `None` if there are too many or two share a hash.
    pub(crate) fn of(members: &BTreeSet<NodeId>) -> Option<Self> {
        Self::from_hashes(members.iter().map(NodeId::hash4))
    }

    /// The hashes, ascending.
    pub(crate) fn hashes(&self) -> &[u32] {
        &self.hashes[..usize::from(self.len)]
    }

    /// How many members are in exactly one of the two sets.
    pub fn difference(&self, other: &Self) -> usize {
        let missing = |from: &Self, set: &Self| {
            from.hashes().iter().filter(|hash| set.hashes().binary_search(hash).is_err()).count()
        };
        missing(self, other) + missing(other, self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_printable_and_short() {
        assert!(NodeId::new("cp-1").is_ok());
        assert!(NodeId::new(&"x".repeat(63)).is_ok());
        assert_eq!(NodeId::new(""), Err(NodeIdError::Empty));
        assert_eq!(NodeId::new(&"x".repeat(64)), Err(NodeIdError::TooLong { bytes: 64 }));
        assert_eq!(NodeId::new("a b"), Err(NodeIdError::Unprintable { found: ' ' }));
        assert_eq!(NodeId::new("a\u{7}"), Err(NodeIdError::Unprintable { found: '\u{7}' }));
    }

    #[test]
    fn the_difference_counts_what_only_one_side_has() {
        let set = |hashes: &[u32]| MemberSet::from_hashes(hashes.iter().copied()).unwrap();
        assert_eq!(set(&[3, 1, 2]).difference(&set(&[1, 2, 3])), 0);
        assert_eq!(set(&[1, 2, 3]).difference(&set(&[1, 2, 3, 4])), 1);
        assert_eq!(set(&[1, 2, 3]).difference(&set(&[1, 2, 4])), 2);
        assert_eq!(MemberSet::from_hashes([7, 7]), None);
        assert_eq!(MemberSet::from_hashes(0..16), None);
    }
}
