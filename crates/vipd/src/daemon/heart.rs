//! The sign of life of the main loop: touched by it alone, looked at from another thread.

use std::pin::pin;
use std::time::Duration;

use leader::Timing;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::punctuality::{Punctuality, Watch};
use crate::service::Watchdog;

/// How often the loop shows that it runs: often enough that its silence is told from one late tick, and too rarely to
/// cost anything beside the heartbeats of the election.
const BEAT_INTERVAL: Duration = Duration::from_millis(250);

/// The end that the main loop holds.
pub(super) struct Heart {
    beat: watch::Sender<Beat>,
    watch: Watch,
}

/// The end that others look at. Clones see the same heart.
#[derive(Clone, Debug)]
pub(crate) struct Pulse(watch::Receiver<Beat>);

#[derive(Clone, Copy, Debug)]
struct Beat {
    at: Instant,
    punctuality: Punctuality,
}

#[cfg(any(test, fuzzing))]
impl Pulse {
    /// That of a heart that has beaten once.
    pub(crate) fn of_one_beat() -> Self {
        Heart::new(None).1
    }
}

impl Heart {
    /// Beats for the first time. The timing is that of the election on the main loop, if one of milliseconds is.
    pub(super) fn new(timing: Option<&Timing>) -> (Self, Pulse) {
        let mut watch = Watch::new(timing);
        let at = Instant::now();
        let (beat, seen) = watch::channel(Beat { at, punctuality: watch.look(at) });
        (Self { beat, watch }, Pulse(seen))
    }

    /// Does some work, and beats as long as the event loop gets round to it: whatever blocks the thread, in this work or
    /// in another task of the loop, silences the heart, and the signs of life for the service manager. May be cancelled when the work
    /// may be.
    pub(super) async fn beat_during<T>(
        mut self,
        work: impl Future<Output = T>,
        mut watchdog: Option<Watchdog<'_>>,
    ) -> T {
        let mut work = pin!(work);
        let mut ticks = interval(self.watch.interval());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut next_beat = Instant::now();
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                due = ticks.tick() => {
                    // When the tick was due and when it is seen are the same only while nothing blocks.
                    let now = Instant::now();
                    self.watch.woken(due, now);
                    if next_beat <= now {
                        next_beat = now + BEAT_INTERVAL;
                        self.beat.send_replace(Beat { at: now, punctuality: self.watch.look(now) });
                        if let Some(watchdog) = &mut watchdog {
                            watchdog.tick(now);
                        }
                    }
                }
            }
        }
    }
}

impl Pulse {
    /// How long ago the main loop showed that it runs.
    pub(crate) fn silence(&self) -> Duration {
        self.0.borrow().at.elapsed()
    }

    /// How late it was woken, as last looked at.
    pub(crate) fn punctuality(&self) -> Punctuality {
        self.0.borrow().punctuality
    }
}
