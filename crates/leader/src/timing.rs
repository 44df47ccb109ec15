//! How fast an election runs, and the durations that follow from that.

use std::time::Duration;

/// The two durations that an operator may choose, known to make sense together.
///
/// ```text
///  request leaves                     owner's lease ends      voter is free
///  │◀────────────── lease ───────────────▶│◀── drift, guard ──▶│◀─ wait by rank ─▶ next candidacy
///  │ heartbeat │ heartbeat │ heartbeat │
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timing {
    heartbeat: Duration,
    lease: Duration,
}

/// A lease has room for the loss of two heartbeats in a row.
const HEARTBEATS_PER_LEASE_MIN: u32 = 3;
/// The runtime's timers have a grain of one millisecond.
const HEARTBEAT_MIN: Duration = Duration::from_millis(1);
/// An outage of a minute is longer than any use of a virtual address forgives.
pub(crate) const LEASE_MAX: Duration = Duration::from_secs(60);
/// One part in ten for clocks that run at different rates. Oscillators differ by 0.01 %, steered clocks by 0.1 %.
const DRIFT_DIVISOR: u32 = 10;
/// One part in ten for an owner whose own timer fires late: it still lets go before the successor claims.
const GUARD_DIVISOR: u32 = 10;
/// How late a timer fires on a busy host doesn't shrink with the lease: a grain of the runtime's timers, and a few
/// milliseconds of other work.
const GUARD_MIN: Duration = Duration::from_millis(5);
/// Between the candidacies of neighbouring ranks: a few round trips, and small against the lease.
const RANK_STEP_DIVISOR: u32 = 10;

impl Timing {
    /// A failure is over in a few tens of milliseconds. For a quiet, wired network and a machine that isn't overloaded.
    pub const FAST: Self = Self { heartbeat: Duration::from_millis(4), lease: Duration::from_millis(16) };
    /// A failure is over in less than 200 ms.
    pub const DEFAULT: Self =
        Self { heartbeat: Duration::from_millis(40), lease: Duration::from_millis(150) };
    /// A failure is over in less than 3 s. For loaded machines and stretched networks.
    pub const RELAXED: Self = Self { heartbeat: Duration::from_millis(500), lease: Duration::from_secs(2) };

    /// Takes the time between two heartbeats and the length of a lease, in whole microseconds as they travel.
    ///
    /// # Errors
    ///
    /// Refuses what can't work, and says what would.
    pub fn new(heartbeat: Duration, lease: Duration) -> Result<Self, TimingError> {
        let (heartbeat, lease) = (whole_micros(heartbeat), whole_micros(lease));
        if heartbeat < HEARTBEAT_MIN {
            return Err(TimingError::HeartbeatTooShort { heartbeat });
        }
        if lease > LEASE_MAX {
            return Err(TimingError::LeaseTooLong { lease });
        }
        let least = heartbeat.saturating_mul(HEARTBEATS_PER_LEASE_MIN);
        if lease < least {
            return Err(TimingError::LeaseTooShort { heartbeat, lease, least });
        }
        Ok(Self { heartbeat, lease })
    }

    /// The time between two heartbeats, and between two renewals of a lease.
    pub fn heartbeat(&self) -> Duration {
        self.heartbeat
    }

    /// How long a leader may lead from the instant before it asked.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// How long a voter promises its vote for a lease of this length, counted from the receipt of the request.
    pub fn exclusion(&self) -> Duration {
        exclusion(self.lease)
    }

    /// The wait between candidates of neighbouring ranks.
    pub(crate) fn rank_step(&self) -> Duration {
        self.lease / RANK_STEP_DIVISOR
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self::DEFAULT
    }
}

fn whole_micros(duration: Duration) -> Duration {
    duration - Duration::from_nanos(u64::from(duration.subsec_nanos() % 1_000))
}

/// How long a voter excludes others after granting a lease of this length.
pub(crate) fn exclusion(lease: Duration) -> Duration {
    lease + lease / DRIFT_DIVISOR + (lease / GUARD_DIVISOR).max(GUARD_MIN)
}

/// Durations that make no working election.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimingError {
    /// The heartbeat is below the grain of timers.
    #[error("a heartbeat of {heartbeat:?} is too short; timers have a grain of {HEARTBEAT_MIN:?}")]
    HeartbeatTooShort {
        /// What was asked for.
        heartbeat: Duration,
    },
    /// The lease would be lost with one lost datagram.
    #[error(
        "a lease of {lease:?} is too short for a heartbeat of {heartbeat:?}; \
         it needs {HEARTBEATS_PER_LEASE_MIN} heartbeats, {least:?} or more, to survive lost datagrams"
    )]
    LeaseTooShort {
        /// The heartbeat that was asked for.
        heartbeat: Duration,
        /// The lease that was asked for.
        lease: Duration,
        /// The shortest lease for that heartbeat.
        least: Duration,
    },
    /// The outage after a failure would be longer than anyone wants.
    #[error(
        "a lease of {lease:?} is too long; a failure would be noticed only after it, so at most {LEASE_MAX:?} is allowed"
    )]
    LeaseTooLong {
        /// What was asked for.
        lease: Duration,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn impossible_timings_are_refused_with_the_reason() {
        let refused = |heartbeat, lease| Timing::new(heartbeat, lease).unwrap_err().to_string();
        assert_eq!(refused(MS / 2, 9 * MS), "a heartbeat of 500µs is too short; timers have a grain of 1ms");
        assert_eq!(
            refused(50 * MS, 149 * MS),
            "a lease of 149ms is too short for a heartbeat of 50ms; it needs 3 heartbeats, 150ms or more, to survive lost datagrams"
        );
        assert!(refused(MS, 61_000 * MS).starts_with("a lease of 61s is too long"));
        assert!(refused(Duration::MAX, 60_000 * MS).contains("too short"));
    }

    #[test]
    fn the_named_profiles_obey_the_rules_for_everyone() {
        for profile in [Timing::FAST, Timing::DEFAULT, Timing::RELAXED] {
            assert_eq!(Timing::new(profile.heartbeat(), profile.lease()), Ok(profile));
        }
    }

    #[test]
    fn a_voter_waits_a_fifth_longer_than_the_owner_and_five_milliseconds_at_least() {
        assert_eq!(Timing::DEFAULT.exclusion(), 180 * MS);
        assert_eq!(Timing::FAST.exclusion(), 22 * MS + MS * 6 / 10);
    }
}
