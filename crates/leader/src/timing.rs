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
/// How late a timer fires doesn't shrink with the lease: a grain of the runtime's timers, and as much of other work, for a
/// process of a real-time class. A kernel with ticks of 4 ms closes the fence at most 2 ms after a lease of 10.
const GUARD_MIN: Duration = Duration::from_millis(2);
/// A renewal takes three wake-ups: the leader's when it is due, a voter's by the request, and the leader's by the grant.
const WAKE_UPS_PER_RENEWAL: u32 = 3;
/// Between the candidacies of neighbouring ranks: a few round trips, and small against the lease.
const RANK_STEP_DIVISOR: u32 = 10;

impl Timing {
    /// A failure is over in a few tens of milliseconds. For a quiet, wired network and a machine that isn't overloaded.
    pub const FAST: Self = Self { heartbeat: Duration::from_millis(2), lease: Duration::from_millis(10) };
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

    /// How late processes may be woken, each of them and every time, and the election does what it promises.
    ///
    /// Two things break when they are later. An owner that wakes late at its lease's end lets go late: beyond the guard, its
    /// successor may have claimed the address by then. And a renewal that begins a heartbeat after the last, and for which a leader,
    /// a voter and the leader again are woken, is over too late when these delays fill what is left of the lease: a lead is lost that
    /// nothing was wrong with. The smaller of the two is permitted.
    ///
    /// ```text
    ///  granted from here    due                                   lease ends          voter is free
    ///  ├───── heartbeat ─────┼── late ─▶┼── late ─▶┼── late ─▶┤     │◀─ drift ─▶│◀─ guard ─▶│
    ///                                asked      granted    renewed
    /// ```
    pub fn tolerance(&self) -> Duration {
        let renewal = (self.lease - self.heartbeat) / WAKE_UPS_PER_RENEWAL;
        guard(self.lease).min(renewal)
    }

    /// How long a datagram and its answer may be on their way: what a renewal leaves of the lease where all that it wakes is as late as is
    /// [tolerated](Self::tolerance). By no clock but the one that measures it.
    pub fn round_trip(&self) -> Duration {
        self.lease - self.heartbeat - self.tolerance() * WAKE_UPS_PER_RENEWAL
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
    lease + lease / DRIFT_DIVISOR + guard(lease)
}

/// How late an owner may let go at the end of a lease of this length.
fn guard(lease: Duration) -> Duration {
    (lease / GUARD_DIVISOR).max(GUARD_MIN)
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
    fn a_voter_waits_a_fifth_longer_than_the_owner_and_for_a_tenth_and_two_milliseconds_at_least() {
        assert_eq!(Timing::DEFAULT.exclusion(), 180 * MS);
        assert_eq!(Timing::FAST.exclusion(), 13 * MS);
    }

    #[test]
    fn a_process_may_be_as_late_as_the_guard_or_as_a_third_of_what_a_heartbeat_leaves_of_the_lease() {
        assert_eq!(Timing::FAST.tolerance(), 2 * MS);
        assert_eq!(Timing::DEFAULT.tolerance(), 15 * MS);
        assert_eq!(Timing::RELAXED.tolerance(), 200 * MS);
        // The shortest lease for a heartbeat: what is left of it is two heartbeats.
        assert_eq!(Timing::new(2 * MS, 6 * MS).unwrap().tolerance(), 4 * MS / 3);
    }

    #[test]
    fn a_round_trip_has_what_late_wake_ups_leave_of_the_lease() {
        assert_eq!(Timing::FAST.round_trip(), 2 * MS);
        assert_eq!(Timing::DEFAULT.round_trip(), 65 * MS);
        assert_eq!(Timing::RELAXED.round_trip(), 900 * MS);
        assert!(Timing::new(2 * MS, 6 * MS).unwrap().round_trip() < MS / 1000);
    }
}
