//! Whether this host can keep a timing: some wake-ups, and what they say of it.

use std::fmt;
use std::time::Duration;

use leader::Timing;

use super::delays::outliers;

/// The profiles that there are to choose from, the fastest first.
const PROFILES: [(&str, Timing); 3] =
    [("fast", Timing::FAST), ("default", Timing::DEFAULT), ("relaxed", Timing::RELAXED)];

/// How late some wake-ups came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trial {
    /// Ascending, and never empty.
    delays: Vec<Duration>,
}

impl Trial {
    /// From delays in any order; `None` without any.
    pub(super) fn new(mut delays: Vec<Duration>) -> Option<Self> {
        delays.sort_unstable();
        (!delays.is_empty()).then_some(Self { delays })
    }

    /// The delay that a host with these has to be reckoned with: the longest, but for outliers.
    pub(crate) fn delay(&self) -> Duration {
        let last = self.delays.len() - 1;
        self.delays[last.saturating_sub(outliers(self.delays.len()))]
    }

    /// Whether it can keep this timing.
    pub(crate) fn keeps(&self, timing: &Timing) -> bool {
        self.delay() <= timing.tolerance()
    }

    /// Why it can't keep this timing, in one phrase, and what would be right in another; `None` if it can.
    pub(crate) fn refusal(&self, timing: &Timing, is_realtime: bool) -> Option<Refusal> {
        if self.keeps(timing) {
            return None;
        }
        let kept = PROFILES.iter().find(|(_, profile)| self.keeps(profile)).copied();
        Some(Refusal { timing: *timing, delay: self.delay(), samples: self.delays.len(), kept, is_realtime })
    }
}

/// A timing that this host can't keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    timing: Timing,
    delay: Duration,
    samples: usize,
    kept: Option<(&'static str, Timing)>,
    is_realtime: bool,
}

impl Refusal {
    /// What would be right.
    pub(crate) fn help(&self) -> String {
        let other = match self.kept {
            Some((name, profile)) => format!(
                "write `timing: {name}` on every host, which permits {}",
                Milliseconds(profile.tolerance())
            ),
            None => format!(
                "give vipd a less busy host: not even `timing: relaxed`, which permits {}, can be kept here",
                Milliseconds(Timing::RELAXED.tolerance())
            ),
        };
        if self.is_realtime {
            return other;
        }
        format!("permit real-time priority (the capability SYS_NICE), or {other}")
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = PROFILES.iter().find(|(_, profile)| *profile == self.timing).map(|(name, _)| name);
        match name {
            Some(name) => write!(f, "this host can't keep `timing: {name}`: ")?,
            None => write!(
                f,
                "this host can't keep a heartbeat of {} with a lease of {}: ",
                Milliseconds(self.timing.heartbeat()),
                Milliseconds(self.timing.lease())
            )?,
        }
        write!(
            f,
            "of {} wake-ups more than one in a hundred came {} late, and {} are permitted",
            self.samples,
            Milliseconds(self.delay),
            Milliseconds(self.timing.tolerance())
        )
    }
}

/// A duration as people read those of schedulers.
pub(super) struct Milliseconds(pub(super) Duration);

impl fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        let (whole, tenths) = (micros / 1000, micros % 1000 / 100);
        if tenths == 0 { write!(f, "{whole} ms") } else { write!(f, "{whole}.{tenths} ms") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A host whose wake-ups come a millisecond late, but for some.
    fn host(samples: usize, late: usize, delay: Duration) -> Trial {
        let delays = (0..samples).map(|at| if at % (samples / late.max(1)) == 0 { delay } else { MS });
        let trial = Trial::new(delays.collect()).unwrap();
        assert_eq!(trial.delays.iter().filter(|it| **it > MS).count(), late);
        trial
    }

    #[test]
    fn a_single_outlier_refuses_nothing_however_long_it_is() {
        for samples in [2, 50, 99, 250] {
            assert!(host(samples, 1, 10_000 * MS).keeps(&Timing::FAST), "one of {samples}");
        }
        assert!(host(250, 2, 10_000 * MS).keeps(&Timing::FAST));
        assert_eq!(host(250, 2, 10_000 * MS).refusal(&Timing::FAST, true), None);
        assert!(Trial::new(Vec::new()).is_none());
    }

    #[test]
    fn more_than_one_in_a_hundred_that_is_later_than_permitted_refuses() {
        let late = host(250, 5, 2 * MS + Duration::from_nanos(1));
        assert!(!late.keeps(&Timing::FAST) && late.keeps(&Timing::DEFAULT));
        assert!(host(250, 5, 2 * MS).keeps(&Timing::FAST));
        assert!(!host(10, 2, 3 * MS).keeps(&Timing::FAST));
    }

    #[test]
    fn a_refusal_names_what_was_measured_what_is_permitted_and_what_can_be_kept() {
        let told = |delay, timing, is_realtime| {
            let refusal = host(250, 5, delay).refusal(&timing, is_realtime).unwrap();
            (refusal.to_string(), refusal.help())
        };
        let (text, help) = told(Duration::from_micros(7_340), Timing::FAST, true);
        assert_eq!(
            text,
            "this host can't keep `timing: fast`: of 250 wake-ups more than one in a hundred came 7.3 ms late, and 2 ms are permitted"
        );
        assert_eq!(help, "write `timing: default` on every host, which permits 15 ms");
        let (_, help) = told(40 * MS, Timing::FAST, false);
        assert_eq!(
            help,
            "permit real-time priority (the capability SYS_NICE), or write `timing: relaxed` on every host, which permits 200 ms"
        );
        let own = Timing::new(4 * MS, 20 * MS).unwrap();
        let (text, help) = told(500 * MS, own, true);
        assert!(
            text.starts_with("this host can't keep a heartbeat of 4 ms with a lease of 20 ms: "),
            "{text}"
        );
        assert!(help.contains("not even `timing: relaxed`, which permits 200 ms, can be kept"), "{help}");
    }

    #[test]
    fn the_documented_figures_are_those_of_the_profiles() {
        let text = include_str!("../../../../docs/configuration.md");
        for (name, profile) in PROFILES {
            let figures = [profile.heartbeat(), profile.lease(), profile.exclusion(), profile.tolerance()]
                .map(Milliseconds);
            let [heartbeat, lease, exclusion, tolerance] = figures;
            let row = format!("| `{name}` | {heartbeat} | {lease} | {exclusion} | {tolerance} |");
            assert!(text.lines().any(|line| line == row), "not documented: {row}");
        }
    }
}
