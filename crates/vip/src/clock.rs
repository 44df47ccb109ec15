//! The time by which leases end: it goes on while the machine sleeps.

use std::time::{Duration, Instant};

/// A clock that the monotonic one and the time asleep make together. Whoever gives leases counts by the same.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(pub(crate) fn() -> Duration);

impl Clock {
    /// The time.
    pub(crate) fn now(self) -> Instant {
        tokio::time::Instant::now().into_std() + (self.0)()
    }

    /// When a timer of the runtime, which sleeps with the machine, is to fire for an instant of this clock.
    pub(crate) fn due(self, at: Instant) -> tokio::time::Instant {
        at.checked_sub((self.0)()).map_or_else(tokio::time::Instant::now, Into::into)
    }
}
