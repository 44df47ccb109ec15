//! What an HTTP status says about a backend.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::health::Observation;

/// How long a refusal may be that of an apiserver which is still starting; it needs some seconds.
const STARTING_MAX: Duration = Duration::from_secs(60);

/// What the backends of a frontend have shown, by which each other one is read: they are of one kind.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// One has told a stranger that it is ready.
    ready: AtomicBool,
    /// One has spoken TLS.
    tls: AtomicBool,
}

impl Told {
    /// Notes that a backend has spoken TLS.
    pub(crate) fn speaks_tls(&self) {
        self.tls.store(true, Ordering::Relaxed);
    }

    /// Whether one has: of another that doesn't shake hands, silence is not its protocol then.
    pub(crate) fn is_tls(&self) -> bool {
        self.tls.load(Ordering::Relaxed)
    }
}

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
                told.ready.store(true, Ordering::Relaxed);
                Observation::ready(format!("HTTP status {status}"))
            }
            401 | 403 => {
                let since = *self.refused_since.get_or_insert(now);
                if told.ready.load(Ordering::Relaxed) && now.saturating_duration_since(since) < STARTING_MAX {
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
        let (told, mut reading) = (Told::default(), Reading::default());
        for status in [401, 403] {
            assert_eq!(reading.judge(status, &told, start()).answer, Answer::Ready);
        }
    }

    #[test]
    fn where_another_has_told_whoever_refuses_is_starting() {
        let told = Told::default();
        Reading::default().judge(200, &told, start());
        for status in [401, 403] {
            assert_eq!(Reading::default().judge(status, &told, start()).answer, Answer::NotReady);
        }
    }

    #[test]
    fn nobody_starts_for_ever() {
        let (told, mut reading, now) = (Told::default(), Reading::default(), start());
        Reading::default().judge(200, &told, now);
        let at = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(reading.judge(403, &told, now).answer, Answer::NotReady);
        assert_eq!(reading.judge(403, &told, at(59)).answer, Answer::NotReady);
        assert_eq!(reading.judge(403, &told, at(60)).answer, Answer::Ready);
        reading.judge(500, &told, at(61));
        assert_eq!(reading.judge(403, &told, at(62)).answer, Answer::NotReady, "it has started again");
    }
}
