//! What a Lease says, and when this node saw it say so.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::NodeId;

/// A wall-clock time as a Lease carries it, in microseconds since 1970.
///
/// It is written for others to read, and compared for equality only: nobody's clock is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(pub i64);

/// A version of the Lease object (Kubernetes' `resourceVersion`): each write carries the one that it replaces.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Version(Arc<str>);

impl Version {
    /// Takes what the server calls it.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// What the server calls it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this version is known to be older than the other. Versions of Kubernetes' own objects are whole numbers
    /// that rise (KEP-5504); of others nothing is known.
    pub(super) fn is_older_than(&self, other: &Self) -> Option<bool> {
        let number = |version: &Self| version.0.parse::<u128>().ok();
        Some(number(self)? < number(other)?)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The part of a Lease that an election is about; the field names in its comments are Kubernetes'.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    /// `holderIdentity`; none where it is missing or empty.
    pub holder: Option<Arc<str>>,
    /// `leaseDurationSeconds`; none where it is missing or makes no sense.
    pub duration: Option<Duration>,
    /// `acquireTime`
    pub acquired: Option<Stamp>,
    /// `renewTime`
    pub renewed: Option<Stamp>,
    /// `leaseTransitions`
    pub transitions: i32,
    /// Who should take a released Lease, by an annotation of ours.
    pub successor: Option<NodeId>,
}

/// How long a released Lease is said to last; client-go's figure.
pub(super) const RELEASED_DURATION: Duration = Duration::from_secs(1);

impl Record {
    /// Whether a holder has let go of it, as client-go and vipd do: nobody holds it, and it is over in a second. A Lease whose
    /// holder was struck out by hand keeps its duration, and says nothing about what that holder knows.
    pub(super) fn is_released(&self) -> bool {
        self.holder.is_none() && self.duration.is_some_and(|duration| duration <= RELEASED_DURATION)
    }
}

/// One state of the Lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Observed {
    /// Its version.
    pub version: Version,
    /// What it says.
    pub record: Record,
}

/// What this node knows of the Lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Sight {
    /// Nothing yet.
    Unseen,
    /// There was none when it was looked for.
    Absent,
    /// It said this.
    Seen(Observed),
}

impl Sight {
    pub(super) fn observed(&self) -> Option<&Observed> {
        match self {
            Self::Seen(observed) => Some(observed),
            Self::Unseen | Self::Absent => None,
        }
    }
}

/// How long a claim that was seen at this time may be acted upon by whoever made it.
pub(super) fn claim_end(record: &Record, seen: Instant, fallback: Duration) -> Instant {
    seen + record.duration.unwrap_or(fallback)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_older_only_where_both_are_numbers_and_it_is_less() {
        let older = |one: &str, other: &str| Version::new(one).is_older_than(&Version::new(other));
        assert_eq!((older("9", "10"), older("10", "9")), (Some(true), Some(false)));
        assert_eq!(older("10", "10"), Some(false));
        assert_eq!((older("abc", "10"), older("10", "abc")), (None, None));
    }
}
