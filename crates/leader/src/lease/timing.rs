//! How fast an election by Lease runs.

use std::time::Duration;

/// The three durations of an election by Lease, known to make sense together; the names are client-go's.
///
/// ```text
///  request leaves                            holder is out          another may take it
///  │◀──────────── renew deadline ──────────────▶│◀── the margin for clocks ──▶│
///  │ retry │ retry │ …                                 (lease duration, counted from the sight of the last change)
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timing {
    lease_duration: Duration,
    renew_deadline: Duration,
    retry_period: Duration,
}

/// A Lease of one second looks like one that was released.
const LEASE_DURATION_MIN: Duration = Duration::from_secs(2);
/// The Lease counts whole seconds in 32 bits; a day is longer than anyone waits for an address.
const LEASE_DURATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Faster than this, three nodes would load etcd with their election.
const RETRY_PERIOD_MIN: Duration = Duration::from_millis(100);
/// client-go's factor: a renewal may be late by a fifth before the deadline is lost with one of them.
const RETRIES_PER_DEADLINE_MIN: (u32, u32) = (6, 5);

impl Timing {
    /// What kube-vip, and every kubeadm component, runs with.
    pub const DEFAULT: Self = Self {
        lease_duration: Duration::from_secs(15),
        renew_deadline: Duration::from_secs(10),
        retry_period: Duration::from_secs(2),
    };

    /// Takes the three durations, under client-go's rules.
    ///
    /// # Errors
    ///
    /// Refuses what can't work, and says what would.
    pub fn new(
        lease_duration: Duration,
        renew_deadline: Duration,
        retry_period: Duration,
    ) -> Result<Self, TimingError> {
        if lease_duration < LEASE_DURATION_MIN || lease_duration.subsec_nanos() != 0 {
            return Err(TimingError::NotWholeSeconds { lease_duration });
        }
        if lease_duration > LEASE_DURATION_MAX {
            return Err(TimingError::LeaseTooLong { lease_duration });
        }
        if lease_duration <= renew_deadline {
            return Err(TimingError::DeadlineTooLong { lease_duration, renew_deadline });
        }
        if retry_period < RETRY_PERIOD_MIN {
            return Err(TimingError::RetryTooShort { retry_period });
        }
        let (times, parts) = RETRIES_PER_DEADLINE_MIN;
        let least = retry_period * times / parts;
        if renew_deadline <= least {
            return Err(TimingError::DeadlineTooShort { renew_deadline, retry_period, least });
        }
        Ok(Self { lease_duration, renew_deadline, retry_period })
    }

    /// How long others wait, from the last change they saw, before they may take the Lease.
    pub fn lease_duration(&self) -> Duration {
        self.lease_duration
    }

    /// How long a holder may lead, from before the last request that was granted.
    pub fn renew_deadline(&self) -> Duration {
        self.renew_deadline
    }

    /// The time between two renewals.
    pub fn retry_period(&self) -> Duration {
        self.retry_period
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Durations that make no working election.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimingError {
    /// The Lease object has a whole number of seconds.
    #[error(
        "a lease duration of {lease_duration:?} can't be written into a Lease: it counts whole seconds, and one of a single second counts as released; write 2s or more"
    )]
    NotWholeSeconds {
        /// What was asked for.
        lease_duration: Duration,
    },
    /// Nobody would take over for longer than anyone waits.
    #[error("a lease duration of {lease_duration:?} is too long; at most {LEASE_DURATION_MAX:?} is allowed")]
    LeaseTooLong {
        /// What was asked for.
        lease_duration: Duration,
    },
    /// The holder would still lead when another may.
    #[error(
        "a renew deadline of {renew_deadline:?} is too long for a lease duration of {lease_duration:?}: \
         the holder must be out before another may take over, so it must be shorter"
    )]
    DeadlineTooLong {
        /// The lease duration that was asked for.
        lease_duration: Duration,
        /// The renew deadline that was asked for.
        renew_deadline: Duration,
    },
    /// One late renewal would cost the lead.
    #[error(
        "a renew deadline of {renew_deadline:?} is too short for a retry period of {retry_period:?}; \
         it must be longer than {least:?}, 1.2 times the retry period"
    )]
    DeadlineTooShort {
        /// The renew deadline that was asked for.
        renew_deadline: Duration,
        /// The retry period that was asked for.
        retry_period: Duration,
        /// It must be longer than this.
        least: Duration,
    },
    /// The renewals would load the cluster's store.
    #[error("a retry period of {retry_period:?} is too short; at least {RETRY_PERIOD_MIN:?} spares the API")]
    RetryTooShort {
        /// What was asked for.
        retry_period: Duration,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn impossible_timings_are_refused_with_the_reason() {
        let refused = |lease, deadline, retry| Timing::new(lease, deadline, retry).unwrap_err().to_string();
        assert!(refused(S * 3 / 2, S, S / 2).contains("whole seconds"));
        assert!(refused(S, S / 2, S / 4).contains("write 2s or more"));
        assert!(refused(10 * S, 10 * S, 2 * S).contains("must be shorter"));
        assert!(refused(15 * S, 12 * S, 10 * S).contains("longer than 12s"));
        assert!(refused(2 * S, S, S / 100).contains("spares the API"));
        assert!(refused(86_401 * S, S, S / 2).contains("too long"));
        assert!(Timing::new(86_400 * S, S, S / 2).is_ok(), "a day is the longest");
    }

    #[test]
    fn the_timings_that_people_use_are_taken() {
        for (lease, deadline, retry) in [(15, 10, 2), (5, 3, 1), (30, 20, 4), (10, 7, 2)] {
            assert!(Timing::new(lease * S, deadline * S, retry * S).is_ok());
        }
        assert!(Timing::new(2 * S, S * 3 / 2, S / 2).is_ok());
        assert_eq!(Timing::new(15 * S, 10 * S, 2 * S), Ok(Timing::DEFAULT));
    }
}
