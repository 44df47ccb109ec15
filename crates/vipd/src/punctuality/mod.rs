//! Whether the main loop is woken when it wants to be.
//!
//! An election promises what it does in time; how late it is woken decides whether it can
//! ([`Timing::tolerance`](leader::Timing::tolerance)). So that is measured, always on the main loop itself and in the way in which
//! the election waits, at two occasions:
//!
//! * before an election of short deadlines begins: a host that demonstrably can't keep them doesn't begin ([`measure`], [`Trial`]);
//! * as long as vipd runs ([`Watch`]): for status and metrics, and for a line in the log when it changes.

mod delays;
mod trial;

use std::time::Duration;

use leader::Timing;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

pub(crate) use delays::Delays;
pub(crate) use trial::Trial;

use delays::{WINDOW, Window};
use trial::Milliseconds;

/// How long one round of wake-ups should take, if none is late.
const ROUND: Duration = Duration::from_millis(500);

/// And how long it takes at most, on a host where they are.
const ROUND_MAX: Duration = Duration::from_secs(2);

/// Fewer wake-ups in a round don't tell one in a hundred from an accident: no timing that is so slow is tried beforehand.
const SAMPLES_MIN: u32 = 100;

/// A host is refused when so many rounds in a row say so. What disturbs all of them isn't about to pass.
const ROUNDS: usize = 3;

/// Between two of the wake-ups that are looked at while vipd runs: at most as often as this, to cost nothing beside the election's
/// own, and at least as often as [`SLOWEST`].
const QUICKEST: Duration = Duration::from_millis(10);

/// Often enough that a minute has more than two hundred, and that the main loop's silence is told from one late tick.
const SLOWEST: Duration = Duration::from_millis(250);

/// Whether a timing is so fast that a host is tried before its election begins.
pub(crate) fn is_worth_a_trial(timing: &Timing) -> bool {
    timing.heartbeat() * SAMPLES_MIN <= ROUND
}

/// Waits as an election of this timing would, and looks how late it is woken: until a round says that the host can keep the
/// timing, and the best of [`ROUNDS`] otherwise. May be cancelled: nothing is held.
pub(crate) async fn measure(timing: &Timing) -> Option<Trial> {
    let mut best: Option<Trial> = None;
    for _ in 0..ROUNDS {
        let trial = round(timing.heartbeat()).await?;
        if best.as_ref().is_none_or(|best| trial.delay() < best.delay()) {
            best = Some(trial);
        }
        if best.as_ref().is_some_and(|best| best.keeps(timing)) {
            break;
        }
    }
    best
}

async fn round(interval: Duration) -> Option<Trial> {
    let samples = usize::try_from(ROUND.as_micros() / interval.as_micros().max(1)).unwrap_or(usize::MAX);
    let began = Instant::now();
    let mut delays = Vec::with_capacity(samples);
    while delays.len() < samples && began.elapsed() < ROUND_MAX {
        let due = Instant::now() + interval;
        sleep_until(due).await;
        delays.push(due.elapsed());
    }
    Trial::new(delays)
}

/// What is told of the main loop's wake-ups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Punctuality {
    /// The last minute.
    pub(crate) delays: Delays,
    /// What the timing permits; `None` where no election depends on milliseconds.
    pub(crate) tolerance: Option<Duration>,
    /// More wake-ups than a few are later than that.
    pub(crate) is_late: bool,
}

/// Looks at the main loop's wake-ups while it runs.
#[derive(Debug)]
pub(crate) struct Watch {
    window: Window,
    told: Punctuality,
    /// Before then nothing that changes is told: not before a whole window has gone by since the last.
    quiet_until: Instant,
    interval: Duration,
}

impl Watch {
    /// Begins to watch a loop that an election of this timing runs on, if one of milliseconds does.
    pub(crate) fn new(timing: Option<&Timing>) -> Self {
        let now = Instant::now();
        let interval = timing.map_or(SLOWEST, |timing| timing.heartbeat().clamp(QUICKEST, SLOWEST));
        let told = Punctuality { tolerance: timing.map(Timing::tolerance), ..Punctuality::default() };
        Self { window: Window::new(now.into_std()), told, quiet_until: now, interval }
    }

    /// How often the loop should be woken, to be looked at.
    pub(crate) fn interval(&self) -> Duration {
        self.interval
    }

    /// Notes that the loop was woken now, and should have been earlier.
    pub(crate) fn woken(&mut self, due: Instant, now: Instant) {
        self.window.record(now.saturating_duration_since(due), now.into_std());
    }

    /// What there is to tell; writes into the log what has changed.
    pub(crate) fn look(&mut self, now: Instant) -> Punctuality {
        let delays = self.window.delays();
        let is_late = self.told.tolerance.is_some_and(|tolerance| delays.p99 > tolerance);
        self.told.delays = delays;
        if is_late != self.told.is_late && self.quiet_until <= now {
            self.told.is_late = is_late;
            self.quiet_until = now + WINDOW;
            let permitted = self.told.tolerance.map(|tolerance| Milliseconds(tolerance).to_string());
            let (p99, max) = (Milliseconds(delays.p99), Milliseconds(delays.max));
            if is_late {
                warn!(
                    %p99,
                    %max,
                    permitted,
                    "the election is woken late: leases may be lost, and let go of late; choose a slower `timing`, or a less busy host"
                );
            } else {
                info!(%p99, %max, permitted, "the election is woken in time again");
            }
        }
        self.told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn a_punctual_host_is_tried_for_one_round() {
        assert!(is_worth_a_trial(&Timing::FAST) && !is_worth_a_trial(&Timing::DEFAULT));
        let began = Instant::now();
        let trial = measure(&Timing::FAST).await.unwrap();
        assert!(trial.keeps(&Timing::FAST), "{trial:?}");
        assert_eq!(began.elapsed(), ROUND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_gets_late_is_told_of_once_and_again_when_it_is_in_time() {
        let mut watch = Watch::new(Some(&Timing::FAST));
        assert_eq!(watch.interval(), QUICKEST);
        let mut changes = Vec::new();
        let mut told = watch.look(Instant::now());
        assert_eq!((told.is_late, told.tolerance), (false, Some(2 * MS)));
        // Late for a minute, then in time for three.
        for tick in 0..24_000 {
            let due = Instant::now();
            tokio::time::advance(if tick < 6_000 && tick % 20 == 0 { 5 * MS } else { MS }).await;
            watch.woken(due, Instant::now());
            let now_told = watch.look(Instant::now());
            if now_told.is_late != told.is_late {
                changes.push((tick, now_told.is_late));
            }
            told = now_told;
            tokio::time::advance(9 * MS).await;
        }
        let [(late_at, true), (in_time_at, false)] = changes[..] else { panic!("{changes:?}") };
        assert!(late_at < 100, "{changes:?}");
        assert!((6_000..14_000).contains(&in_time_at), "{changes:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn without_deadlines_of_milliseconds_nothing_is_late() {
        let mut watch = Watch::new(None);
        let due = Instant::now();
        tokio::time::advance(Duration::from_secs(3)).await;
        watch.woken(due, Instant::now());
        watch.woken(due, Instant::now());
        let told = watch.look(Instant::now());
        assert_eq!((told.delays.p99, told.is_late), (Duration::from_secs(3), false));
    }
}
