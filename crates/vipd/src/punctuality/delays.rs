//! How late the main loop was woken: the last minute of it, in buckets whose number is fixed.

use std::time::{Duration, Instant};

/// Of the wake-ups that are looked at, this many in a hundred may be later than is permitted: at 500 a second (`timing: fast`) more
/// would be several a second, which is how a host is, and not what happens to it.
const OUTLIERS_PERCENT: usize = 1;

/// How many of so many wake-ups are outliers that say nothing: one always, as a single stall is no habit, however long it is.
pub(super) fn outliers(samples: usize) -> usize {
    (samples * OUTLIERS_PERCENT / 100).max(1)
}

/// The time that is remembered.
pub(super) const WINDOW: Duration = Duration::from_secs(60);

/// Parts of it, of which the oldest is forgotten as a whole.
const SLICES: usize = 6;

/// Four to an octave, from a microsecond to more than sixteen seconds; what is longer counts as that.
const BUCKETS: usize = 96;

/// What is to be told of a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delays {
    /// At most one wake-up in a hundred was later; up to a quarter too long, as it is counted in buckets.
    pub(crate) p99: Duration,
    /// The latest.
    pub(crate) max: Duration,
}

/// The wake-ups of the last minute.
#[derive(Debug)]
pub(super) struct Window {
    slices: [Slice; SLICES],
    current: usize,
    current_ends: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Slice {
    buckets: [u32; BUCKETS],
    max: Duration,
}

impl Slice {
    const EMPTY: Self = Self { buckets: [0; BUCKETS], max: Duration::ZERO };
}

impl Window {
    /// An empty one.
    pub(super) fn new(now: Instant) -> Self {
        Self { slices: [Slice::EMPTY; SLICES], current: 0, current_ends: now + slice() }
    }

    /// Counts a wake-up that came this late.
    pub(super) fn record(&mut self, delay: Duration, now: Instant) {
        // After a pause of more than a window nothing is left to forget.
        for _ in 0..SLICES {
            if now < self.current_ends {
                break;
            }
            self.current = (self.current + 1) % SLICES;
            self.slices[self.current] = Slice::EMPTY;
            self.current_ends += slice();
        }
        self.current_ends = self.current_ends.max(now);
        let slice = &mut self.slices[self.current];
        let count = &mut slice.buckets[bucket(delay)];
        *count = count.saturating_add(1);
        slice.max = slice.max.max(delay);
    }

    /// What it comes to.
    pub(super) fn delays(&self) -> Delays {
        let count = |bucket: usize| -> usize {
            self.slices.iter().map(|slice| usize::try_from(slice.buckets[bucket]).unwrap_or(usize::MAX)).sum()
        };
        let max = self.slices.iter().map(|slice| slice.max).max().unwrap_or_default();
        let samples = (0..BUCKETS).map(count).sum();
        let mut left = outliers(samples);
        for bucket in (0..BUCKETS).rev() {
            match left.checked_sub(count(bucket)) {
                Some(rest) => left = rest,
                None => return Delays { p99: longest_in(bucket).min(max), max },
            }
        }
        Delays { p99: Duration::ZERO, max }
    }
}

const fn slice() -> Duration {
    Duration::from_secs(WINDOW.as_secs() / SLICES as u64)
}

/// Where a delay is counted: up to three microseconds each has its bucket, above that each quarter of an octave.
fn bucket(delay: Duration) -> usize {
    let micros = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
    let bucket = match micros.checked_ilog2() {
        None => 0,
        Some(0 | 1) => micros,
        Some(octave) => u64::from(octave - 1) * 4 + (micros >> (octave - 2) & 3),
    };
    usize::try_from(bucket).unwrap_or(usize::MAX).min(BUCKETS - 1)
}

/// The longest delay that is counted in a bucket, to the microsecond.
fn longest_in(bucket: usize) -> Duration {
    if bucket == BUCKETS - 1 {
        return Duration::MAX;
    }
    let bucket = bucket as u64;
    let micros = if bucket < 4 { bucket } else { ((5 + bucket % 4) << (bucket / 4 - 1)) - 1 };
    Duration::from_micros(micros + 1) - Duration::from_nanos(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);
    const MS: Duration = Duration::from_millis(1);

    fn start() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    #[test]
    fn every_delay_is_in_the_bucket_whose_bounds_enclose_it() {
        let mut last = 0;
        for micros in (0..5_000).chain((5_000..40_000_000).step_by(997)) {
            let (delay, at) = (US * micros, bucket(US * micros));
            assert!(at >= last && delay <= longest_in(at), "{micros} µs are in bucket {at}");
            assert!(at == 0 || longest_in(at - 1) < delay, "{micros} µs are in bucket {at}");
            assert!(at == BUCKETS - 1 || longest_in(at) < delay * 5 / 4 + US, "bucket {at} is too wide");
            last = at;
        }
        assert_eq!(last, BUCKETS - 1);
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
    }

    #[test]
    fn one_in_a_hundred_is_an_outlier_and_a_single_one_always() {
        let now = start();
        let mut window = Window::new(now);
        assert_eq!(window.delays(), Delays::default());
        window.record(500 * MS, now);
        assert_eq!(window.delays(), Delays { p99: Duration::ZERO, max: 500 * MS });
        for _ in 0..298 {
            window.record(MS, now);
        }
        let few = window.delays();
        assert!(few.p99 >= MS && few.p99 < MS * 5 / 4, "{few:?}");
        // Three of three hundred and one are one in a hundred; four are more.
        window.record(500 * MS, now);
        window.record(500 * MS, now);
        assert_eq!(window.delays(), few);
        window.record(500 * MS, now);
        assert_eq!(window.delays().p99, 500 * MS);
    }

    #[test]
    fn what_is_more_than_a_minute_ago_is_forgotten() {
        let now = start();
        let mut window = Window::new(now);
        for _ in 0..10 {
            window.record(7 * MS, now);
        }
        for second in 1..=59 {
            window.record(US, now + second * 1000 * MS);
            assert_eq!(window.delays(), Delays { p99: 7 * MS, max: 7 * MS }, "after {second} s");
        }
        window.record(US, now + 60 * 1000 * MS);
        assert_eq!(window.delays().max, US);
        window.record(8 * MS, now + 61 * 1000 * MS);
        window.record(US, now + 3_600 * 1000 * MS);
        assert_eq!(window.delays().max, US, "a pause of an hour");
    }
}
