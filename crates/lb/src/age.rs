//! Connections that have lasted for long enough: which, and when they are ended. Pure.
//!
//! ```text
//!  opened            a limit of its own              a quarter later, 15 min at most
//!    ├───────────────────────┼─────────────────────────────┤
//!    │         young         │ ended in its first silence  │ ended anyway
//! ```

use std::time::Duration;

use fastrand::Rng;

/// Parts of the age in which it is counted, so that a count fits into the two bytes that a flow has to spare; of 4 h, 3.5 s.
const PARTS: u32 = 4096;

/// The least of them: nothing is looked at more often.
const TICK_MIN: Duration = crate::rebalance::LOOK;

/// Part of the age that a limit may be less than it, and more: of many connections that were opened together, few end together.
const JITTER: u16 = 10;

/// Part of the age that an old connection has for a moment of silence.
const GRACE: u32 = 4;

/// Some seconds of silence fit into any grace ...
const GRACE_MIN: Duration = Duration::from_secs(5);

/// ... and whoever is silent at all, is within a quarter of an hour.
const GRACE_MAX: Duration = Duration::from_secs(15 * 60);

/// A moment, counted in ticks; it starts over, long after the last connection of its kind has ended.
pub(crate) type Tick = u16;

/// How old the connections of a frontend become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MaxAge {
    tick: Duration,
    /// In ticks, as are the others: the lowest limit, how much more another may be, and what follows each.
    least: u16,
    spread: u16,
    grace: u16,
}

/// What is to become of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It goes on.
    Young,
    /// It ends once it is silent.
    Old,
    /// It ends.
    Overdue,
}

impl MaxAge {
    pub(crate) fn new(age: Duration) -> Self {
        let tick = (age / PARTS).max(TICK_MIN);
        let ticks = |time: Duration| {
            let count = time.as_nanos().div_ceil(tick.as_nanos());
            u16::try_from(count).unwrap_or(u16::MAX)
        };
        let age_in_ticks = ticks(age);
        let jitter = age_in_ticks / JITTER;
        let grace = (age / GRACE).clamp(GRACE_MIN, GRACE_MAX);
        Self { tick, least: age_in_ticks - jitter, spread: 2 * jitter, grace: ticks(grace) }
    }

    /// The moment so long after the beginning.
    pub(crate) fn tick(&self, elapsed: Duration) -> Tick {
        // The lowest sixteen bits: it starts over.
        let count = elapsed.as_nanos() / self.tick.as_nanos();
        (count & u128::from(Tick::MAX)) as Tick
    }

    /// How long a connection has lasted that was opened then.
    pub(crate) fn age(&self, opened: Tick, now: Tick) -> Duration {
        self.tick * u32::from(now.wrapping_sub(opened))
    }

    /// The moment when a connection was opened that has lasted so long, for one that learns of its age just now. One that would be old
    /// already becomes so from now on: with time for a moment of silence, and not together with all others.
    pub(crate) fn opened(&self, now: Tick, age: Duration) -> Tick {
        let ticks = u16::try_from(age.as_nanos() / self.tick.as_nanos()).unwrap_or(u16::MAX);
        now.wrapping_sub(ticks.min(self.least))
    }

    /// True if no connection is old that was opened then or later.
    pub(crate) fn all_are_young(&self, opened: Tick, now: Tick) -> bool {
        now.wrapping_sub(opened) < self.least
    }

    /// What is to become of a connection that was opened then; `lot` decides on its limit, and is the same each time.
    pub(crate) fn stage(&self, opened: Tick, now: Tick, lot: u64) -> Stage {
        let limit = self.least + Rng::with_seed(lot).u16(..=self.spread);
        match now.wrapping_sub(opened) {
            lasted if lasted < limit => Stage::Young,
            lasted if lasted - limit < self.grace => Stage::Old,
            _ => Stage::Overdue,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// In seconds, when a connection that was opened at the beginning is old, and when it is overdue.
    fn stages(age: Duration, lot: u64) -> (u64, u64) {
        let max_age = MaxAge::new(age);
        let stage = |seconds| max_age.stage(0, max_age.tick(Duration::from_secs(seconds)), lot);
        let first = |wanted| (0..).find(|seconds| stage(*seconds) == wanted).unwrap();
        (first(Stage::Old), first(Stage::Overdue))
    }

    #[test]
    fn a_connection_is_old_within_a_tenth_of_its_age_and_overdue_a_quarter_or_a_quarter_of_an_hour_later() {
        for (age, grace) in [(30, 8), (600, 150), (4 * 3600, 900), (7 * 24 * 3600, 900)] {
            // A tick more or less; of a week it is two and a half minutes.
            let tick = (age / u64::from(PARTS)).max(1) + 1;
            for lot in 0..20 {
                let (old, overdue) = stages(Duration::from_secs(age), lot);
                assert!(old + age / 10 + tick >= age && old <= age + age / 10 + tick, "{age} s: {old} s");
                assert!((overdue - old).abs_diff(grace) <= tick, "{age} s: {old} s, {overdue} s");
            }
        }
    }

    #[test]
    fn those_that_were_opened_together_end_apart() {
        let mut old: Vec<u64> = (0..1000).map(|lot| stages(4 * HOUR, lot).0).collect();
        old.sort_unstable();

        // Over 48 minutes; evenly, 21 in each of them.
        assert!(old[999] - old[0] > 45 * 60, "{} {}", old[0], old[999]);
        for minute in old.chunk_by(|one, other| one / 60 == other / 60) {
            assert!(minute.len() < 50, "{} within a minute", minute.len());
        }
    }

    proptest! {
        /// Also when the count starts over meanwhile.
        #[test]
        fn nobody_is_old_among_those_that_are_all_young_and_nobody_gets_younger(
            age in 1_u64..10_000_000,
            opened in 0_u64..100_000_000,
            lot in any::<u64>(),
        ) {
            let max_age = MaxAge::new(Duration::from_secs(age));
            let opened_at = max_age.tick(Duration::from_secs(opened));
            let mut seen = Stage::Young;
            for part in 0..=200 {
                let now = max_age.tick(Duration::from_secs(opened) + Duration::from_secs(age) * part / 100);
                let stage = max_age.stage(opened_at, now, lot);
                if max_age.all_are_young(opened_at, now) {
                    prop_assert_eq!(stage, Stage::Young);
                }
                prop_assert!(stage as u8 >= seen as u8, "{:?} after {:?}", stage, seen);
                seen = stage;
                if part < 89 && age > 100 {
                    prop_assert_eq!(stage, Stage::Young);
                }
            }
            prop_assert!(seen == Stage::Overdue || age < 8);
        }
    }
}
