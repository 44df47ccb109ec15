//! What is counted of one backend besides its connections: how its checks went, and how connections to it ended.

use std::time::Duration;

use crate::account::Ending;
use crate::health::Answer;
use crate::pool::Counter;

/// Bounds of how long checks take, in milliseconds: an apiserver on the next switch answers in one or two, and whatever takes a second is
/// about to fail.
pub const CHECK_BOUNDS_MS: [u64; 10] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000];

/// Those that take longer have a place of their own.
const PLACES: usize = CHECK_BOUNDS_MS.len() + 1;

/// How the checks of one backend went so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChecksStatus {
    /// How many had which answer; each answer is there.
    pub answers: [(&'static str, u64); Answer::ALL.len()],
    /// How many of those that the backend answered took no longer than each of [`CHECK_BOUNDS_MS`], and longer than the bound
    /// before; at last those that took longer than all.
    pub took: [u64; PLACES],
    /// What those took together.
    pub sum: Duration,
}

impl Default for ChecksStatus {
    fn default() -> Self {
        Checks::default().status()
    }
}

/// Counts the checks of one backend. Only its probe does.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    answers: [Counter; Answer::ALL.len()],
    took: [Counter; PLACES],
    sum_us: Counter,
}

impl Checks {
    /// Counts one that took so long.
    pub(crate) fn count(&self, answer: Answer, took: Duration) {
        self.answers[answer as usize].add(1);
        match answer {
            Answer::Ready | Answer::NotReady => {
                let place = CHECK_BOUNDS_MS.partition_point(|bound| Duration::from_millis(*bound) < took);
                self.took[place].add(1);
                self.sum_us.add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
            }
            // How long nothing came is the timeout's length.
            Answer::Nothing | Answer::Refused | Answer::NotAsked => {}
        }
    }

    pub(crate) fn status(&self) -> ChecksStatus {
        ChecksStatus {
            answers: Answer::ALL.map(|answer| (answer.word(), self.answers[answer as usize].get())),
            took: std::array::from_fn(|place| self.took[place].get()),
            sum: Duration::from_micros(self.sum_us.get()),
        }
    }
}

/// Counts how connections that one backend had taken have ended.
#[derive(Debug, Default)]
pub(crate) struct Ends([Counter; Ending::WORDS.len()]);

impl Ends {
    /// Counts one.
    pub(crate) fn count(&self, ending: Ending) {
        self.0[ending.place()].add(1);
    }

    /// How many there were of each, by the word that the access log has for it.
    pub(crate) fn status(&self) -> [(&'static str, u64); Ending::WORDS.len()] {
        std::array::from_fn(|place| (Ending::WORDS[place], self.0[place].get()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain::End;

    #[test]
    fn a_check_is_counted_by_its_answer_and_by_how_long_it_took() {
        let checks = Checks::default();
        for (answer, micros) in [
            (Answer::Ready, 1_000),
            (Answer::Ready, 1_001),
            (Answer::NotReady, 1_500_000),
            (Answer::Nothing, 2_000_000),
            (Answer::Refused, 10),
        ] {
            checks.count(answer, Duration::from_micros(micros));
        }
        let seen = checks.status();
        assert_eq!(
            seen.answers,
            [("ready", 2), ("not_ready", 1), ("nothing", 1), ("refused", 1), ("not_asked", 0)]
        );
        // On the bound, beyond it, beyond all; what wasn't answered took nothing.
        assert_eq!(seen.took, [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(seen.sum, Duration::from_micros(1_502_001));
    }

    #[test]
    fn each_end_has_a_count_of_its_own() {
        let ends = Ends::default();
        let all = [
            Ending::Finished,
            Ending::Client,
            Ending::Backend,
            Ending::NoBackend,
            Ending::Ordered(End::Rebalanced),
            Ending::Ordered(End::Aged),
            Ending::Ordered(End::Idle),
            Ending::Ordered(End::BackendDead),
            Ending::Ordered(End::VirtualIpLost),
            Ending::Ordered(End::Stopped),
        ];
        for ending in all {
            ends.count(ending);
        }
        ends.count(Ending::Ordered(End::Overdue));
        let seen = ends.status();
        assert!(
            seen.iter().all(|(word, count)| *count == if *word == "max-age" { 2 } else { 1 }),
            "{seen:?}"
        );
        assert_eq!(seen.len(), all.len());
    }
}
