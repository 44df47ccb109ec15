//! What an HTTP status says about a backend.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::health::Observation;

/// How long a refusal may be that of an apiserver which is still starting; it needs some seconds.
const STARTING_MAX: Duration = Duration::from_secs(60);

/// Whether any backend of a frontend has told a stranger that it is ready.
pub(crate) type Told = AtomicBool;

/// What one backend's refusals mean.
///
/// A 401 or 403 comes from an apiserver that lets nobody ask without credentials, and then all of them do; or from one that has
/// just begun to listen and does not know its own rules yet, and refuses everybody. Where another has told, or
/// this one earlier, it is the latter.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    refused_since: Option<Instant>,
}

impl Reading {
    /// Judges a status.
    pub(crate) fn judge(&mut self, status: u16, told: &Told, now: Instant) -> Observation {
        if !matches!(status, 401 | 403) {
            self.refused_since = None;
        }
        match status {
            200..=399 => {
                told.store(true, Ordering::Relaxed);
                Observation::ready(format!("HTTP status {status}"))
            }
            401 | 403 => {
                let since = *self.refused_since.get_or_insert(now);
                if told.load(Ordering::Relaxed) && now.saturating_duration_since(since) < STARTING_MAX {
                    Observation::not_ready(format!("HTTP status {status}: it seems to be starting"))
                } else {
                    Observation::ready(format!("HTTP status {status}: alive, readiness unknown"))
                }
            }
            _ => Observation::not_ready(format!("HTTP status {status}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Answer;

    #[expect(
        clippy::disallowed_methods,
        reason = "a starting point; nothing waits or compares with the clock"
    )]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn where_nobody_tells_a_refusal_says_that_it_is_alive() {
        let (told, mut reading) = (Told::new(false), Reading::default());
        for status in [401, 403] {
            assert_eq!(reading.judge(status, &told, start()).answer, Answer::Ready);
        }
    }

    #[test]
    fn where_another_has_told_whoever_refuses_is_starting() {
        let told = Told::new(false);
        Reading::default().judge(200, &told, start());
        for status in [401, 403] {
            assert_eq!(Reading::default().judge(status, &told, start()).answer, Answer::NotReady);
        }
    }

    #[test]
    fn nobody_starts_for_ever() {
        let (told, mut reading, now) = (Told::new(true), Reading::default(), start());
        let at = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(reading.judge(403, &told, now).answer, Answer::NotReady);
        assert_eq!(reading.judge(403, &told, at(59)).answer, Answer::NotReady);
        assert_eq!(reading.judge(403, &told, at(60)).answer, Answer::Ready);
        reading.judge(500, &told, at(61));
        assert_eq!(reading.judge(403, &told, at(62)).answer, Answer::NotReady, "it has started again");
    }
}
