//! The sign of life of the main loop: touched by it alone, looked at from another thread.

use std::pin::pin;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// How often the loop shows that it runs: often enough that its silence is told from one late tick, and too rarely to
/// cost anything beside the heartbeats of the election.
const BEAT_INTERVAL: Duration = Duration::from_millis(250);

/// The end that the main loop holds.
pub(super) struct Heart(watch::Sender<Instant>);

/// The end that others look at. Clones see the same heart.
#[derive(Clone, Debug)]
pub(crate) struct Pulse(watch::Receiver<Instant>);

impl Heart {
    /// Beats for the first time.
    pub(super) fn new() -> (Self, Pulse) {
        let (beat, seen) = watch::channel(Instant::now());
        (Self(beat), Pulse(seen))
    }

    /// Does some work, and beats as long as the event loop gets round to it: whatever blocks the thread, in this work or
    /// in another task of the loop, silences the heart. May be cancelled when the work may be.
    pub(super) async fn beat_during<T>(self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let mut ticks = interval(BEAT_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                now = ticks.tick() => {
                    // When the tick was due and when it is seen are the same only while nothing blocks.
                    let now = Instant::now().max(now);
                    self.0.send_replace(now);
                }
            }
        }
    }
}

impl Pulse {
    /// How long ago the main loop showed that it runs.
    pub(crate) fn silence(&self) -> Duration {
        self.0.borrow().elapsed()
    }
}
