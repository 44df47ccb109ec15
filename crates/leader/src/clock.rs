//! The time by which leases and votes end: it goes on while the machine sleeps.
//!
//! [`Instant`] is `CLOCK_MONOTONIC`, which stands still while a machine, or the virtual machine that it is, is suspended. The other
//! members' clocks don't: when it resumes, its lease is over for them and for whoever they have elected since. So what decides is
//! compared with [`now`], an instant that is later by the [time asleep](asleep) since this process first looked. The kernel tells that
//! by the difference of its clocks: `CLOCK_BOOTTIME` goes on.
//!
//! Timers are the runtime's, which wait by `CLOCK_MONOTONIC`: one is set for [when it would be due](due) if nothing slept, and fires
//! after a resume no later than it would have without.
//!
//! A hypervisor that pauses a virtual machine without a word to it, for a snapshot or the last step of a migration, stops both clocks. No
//! process inside can see that; the fence of a lease and what the others say next are all there is then.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use k8s_openapi::jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};

use crate::lease::Stamp;

/// A look at both clocks that took no longer than this is sharp enough: a hundredth of what a vote waits for clocks that differ, in
/// the shortest lease.
const SHARP: Duration = Duration::from_micros(10);

/// Looks at a time, on a machine that interrupts them.
const LOOKS_MAX: usize = 3;

/// What is known of the time asleep.
static SLEPT: Slept = Slept { began: OnceLock::new(), nanos: AtomicU64::new(0) };

/// The time on a clock that doesn't stand still while the machine sleeps. It never goes back.
pub fn now() -> Instant {
    // In this order: a sleep between the two makes the sum too early by nothing but itself, and never too late.
    let monotonic = tokio::time::Instant::now().into_std();
    monotonic + asleep()
}

/// How long the machine was suspended since this process asked for the time first. Never more than it was.
pub fn asleep() -> Duration {
    SLEPT.look(Look::take)
}

/// The wall clock, for others to read; nothing is decided by it.
pub fn stamp() -> Stamp {
    Stamp(Timestamp::now().as_microsecond())
}

/// The instant at which a timer of the runtime is to fire, to be in time for one of [`now`]'s.
pub fn due(at: Instant) -> tokio::time::Instant {
    at.checked_sub(asleep()).map_or_else(tokio::time::Instant::now, Into::into)
}

/// How far `CLOCK_BOOTTIME` is ahead, as far as a look can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    /// It is ahead by this much, or more.
    least: Duration,
    /// By this much, or less.
    most: Duration,
}

impl Look {
    fn take() -> Self {
        Self::sharpest(|| {
            Self::between(read(ClockId::Monotonic), read(ClockId::Boottime), read(ClockId::Monotonic))
        })
    }

    /// The first of some looks that is sharp enough, or else the sharpest of them.
    fn sharpest(mut look: impl FnMut() -> Self) -> Self {
        let mut best = look();
        for _ in 1..LOOKS_MAX {
            if best.width() <= SHARP {
                break;
            }
            let next = look();
            if next.width() < best.width() {
                best = next;
            }
        }
        best
    }

    fn width(self) -> Duration {
        self.most - self.least
    }

    /// From a reading of the one clock between two of the other.
    fn between(before: Duration, boottime: Duration, after: Duration) -> Self {
        let most = boottime.saturating_sub(before);
        Self { least: boottime.saturating_sub(after).min(most), most }
    }
}

fn read(clock: ClockId) -> Duration {
    Duration::try_from(clock_gettime(clock)).unwrap_or_default()
}

struct Slept {
    /// How far ahead it was at most when this process began.
    began: OnceLock<Duration>,
    /// The most that is certain.
    nanos: AtomicU64,
}

impl Slept {
    /// A voter that took a sleep for longer than it was would give away its vote too early: so what is uncertain doesn't count.
    fn look(&self, take: impl Fn() -> Look) -> Duration {
        let look = take();
        let began = *self.began.get_or_init(|| look.most);
        let certain = u64::try_from(look.least.saturating_sub(began).as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.nanos.fetch_max(certain, Ordering::Relaxed).max(certain))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);

    #[test]
    fn a_look_that_is_interrupted_says_less_and_never_more() {
        let sharp = Look::between(100 * US, 600 * US, 101 * US);
        assert_eq!(sharp, Look { least: 499 * US, most: 500 * US });
        let interrupted = Look::between(100 * US, 600 * US, 400 * US);
        assert!(interrupted.least < sharp.least && interrupted.most == sharp.most);
        // The clocks of a machine that never slept differ by nothing.
        assert_eq!(Look::between(100 * US, 101 * US, 102 * US), Look { least: Duration::ZERO, most: US });
        assert_eq!(
            Look::between(100 * US, 99 * US, 102 * US),
            Look { least: Duration::ZERO, most: Duration::ZERO }
        );
    }

    #[test]
    fn of_three_looks_the_sharpest_counts_and_a_sharp_one_is_the_last() {
        let chosen = |widths: [u32; 4]| {
            let mut taken = widths.into_iter();
            let look = || Look { least: 1000 * US, most: 1000 * US + taken.next().unwrap() * US };
            let chosen = Look::sharpest(look).width().as_micros();
            (chosen, taken.count())
        };
        assert_eq!(chosen([10, 1, 1, 1]), (10, 3), "ten microseconds are enough");
        assert_eq!(chosen([11, 10, 1, 1]), (10, 2));
        assert_eq!(chosen([90, 80, 70, 1]), (70, 1));
        assert_eq!(chosen([70, 90, 80, 1]), (70, 1));
        assert_eq!(chosen([70, 70, 90, 1]), (70, 1));
    }

    #[test]
    fn only_what_was_slept_since_the_beginning_counts_and_it_stays() {
        let slept = Slept { began: OnceLock::new(), nanos: AtomicU64::new(0) };
        let day = Duration::from_secs(86_400);
        let sharp = |ahead: Duration| move || Look { least: ahead, most: ahead + US };
        let vague = |ahead: Duration| move || Look { least: ahead, most: ahead + 900 * US };
        assert_eq!(slept.look(vague(day)), Duration::ZERO);
        // A sharper look than the first is no sleep.
        assert_eq!(slept.look(sharp(day + 899 * US)), Duration::ZERO);
        let hour = Duration::from_secs(3_600);
        assert_eq!(slept.look(sharp(day + hour)), hour - 900 * US);
        assert_eq!(slept.look(vague(day + hour - 500 * US)), hour - 900 * US, "it never goes back");
    }

    #[test]
    fn the_clock_of_this_machine_goes_on() {
        let (before, asleep_before) = (now(), asleep());
        let after = now();
        assert!(after >= before && asleep() >= asleep_before);
        assert!(after - before < Duration::from_secs(60));
        assert_eq!(due(after) + asleep(), after.into());
    }
}
