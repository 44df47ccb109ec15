//! What an election tells the rest of the program.

use std::time::Instant;

use crate::{NodeId, Term};

/// Who leads, as one node knows it.
///
/// ```text
///            a majority granted a round
///  Follower ────────────────────────────▶ Leader { until }
///      ▲                                     │   │ ▲
///      │   now ≥ until, or handing over      │   └─┘ a later round was granted:
///      └─────────────────────────────────────┘       `until` moves on
/// ```
///
/// Leading is a value with an end, not a switch: whoever holds a copy of `Leader` may act on it only while
/// `now < until`, by its own reading of the monotonic clock. No message is needed to end it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// This node does not lead.
    Follower {
        /// The node that says it leads, if one was heard lately.
        leader: Option<NodeId>,
    },
    /// This node leads until the given instant, unless the lease is extended before.
    Leader {
        /// The term it was elected in.
        term: Term,
        /// The end of its lease on the local monotonic clock.
        until: Instant,
    },
}

impl Leadership {
    /// The end of the lease, if it is still ahead of `now`.
    pub fn lease_end(&self, now: Instant) -> Option<Instant> {
        match self {
            Self::Leader { until, .. } if now < *until => Some(*until),
            Self::Leader { .. } | Self::Follower { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as an origin")]
    fn a_lease_ends_at_its_end_and_not_a_nanosecond_later() {
        let now = Instant::now();
        let until = now + Duration::from_millis(1);
        let leading = Leadership::Leader { term: Term(1), until };
        assert_eq!(leading.lease_end(until - Duration::from_nanos(1)), Some(until));
        assert_eq!(leading.lease_end(until), None);
        assert_eq!(Leadership::Follower { leader: None }.lease_end(now), None);
    }
}
