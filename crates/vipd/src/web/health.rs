//! What is well and what is not, judged from what was seen.
//!
//! *Live* asks whether this process still does its work: whoever asks will end it if not. So nothing outside the process may
//! fail it, least of all an apiserver: the owner of the address must live when no apiserver does. *Ready* asks whether
//! this node takes part, and may fail for what others do.

use std::fmt::Write;
use std::time::Duration;

/// How long the main loop may be silent. The lease of the slowest profile, 2 s, is over by then, so another node may lead
/// already and an end of this process costs nothing; a busy host's stalls are a fraction of it.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(5);

/// What readiness is judged from.
#[derive(Debug)]
pub(crate) struct Vitals {
    /// How long ago the main loop showed that it runs.
    pub(crate) silence: Duration,
    /// Whether a stop was asked for.
    pub(crate) stopping: bool,
    /// Who leads in each election, if that is known.
    pub(crate) leaders: Vec<Option<String>>,
    /// The load balancers by name, and whether each listens.
    pub(crate) listening: Vec<(String, bool)>,
}

/// One thing that was judged.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Check {
    name: &'static str,
    /// Why it is not well.
    trouble: Option<String>,
}

impl Check {
    /// Why this is not well, as one phrase; nothing if it is.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.as_ref().map(|trouble| format!("{}: {trouble}", self.name))
    }

    fn new(name: &'static str, well: bool, trouble: impl FnOnce() -> String) -> Self {
        Self { name, trouble: (!well).then(trouble) }
    }
}

/// Does this process do its work?
pub(crate) fn live(silence: Duration) -> Vec<Check> {
    vec![Check::new("main-loop", silence <= SILENCE_MAX, || {
        format!("it has not run for {} ms", silence.as_millis())
    })]
}

/// Does this node take part?
pub(crate) fn ready(vitals: &Vitals) -> Vec<Check> {
    let mut checks = live(vitals.silence);
    checks.push(Check::new("running", !vitals.stopping, || "a stop was asked for".to_owned()));
    if !vitals.leaders.is_empty() {
        let unknown = vitals.leaders.iter().filter(|leader| leader.is_none()).count();
        checks.push(Check::new("election", unknown == 0, || match vitals.leaders.len() {
            1 => "no leader is known".to_owned(),
            all => format!("no leader is known in {unknown} of {all} elections"),
        }));
    }
    if !vitals.listening.is_empty() {
        let deaf: Vec<&str> =
            vitals.listening.iter().filter(|(_, listens)| !listens).map(|(name, _)| name.as_str()).collect();
        checks.push(Check::new("listeners", deaf.is_empty(), || {
            format!("these load balancers do not listen: {}", deaf.join(", "))
        }));
    }
    checks
}

/// Whether all is well, and the text that says so: one line for each check where one failed or more was asked for, in the
/// form of kube-apiserver.
pub(crate) fn report(name: &str, checks: &[Check], verbose: bool) -> (bool, String) {
    let well = checks.iter().all(|check| check.trouble.is_none());
    if well && !verbose {
        return (true, "ok".to_owned());
    }
    let mut text = String::new();
    for Check { name, trouble } in checks {
        // Writing to a string can't fail.
        let _ = match trouble {
            None => writeln!(text, "[+]{name} ok"),
            Some(trouble) => writeln!(text, "[-]{name} failed: {trouble}"),
        };
    }
    let _ = writeln!(text, "{name} check {}", if well { "passed" } else { "failed" });
    (well, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vitals() -> Vitals {
        Vitals {
            silence: Duration::from_millis(250),
            stopping: false,
            leaders: vec![Some("a".to_owned())],
            listening: vec![("api".to_owned(), true)],
        }
    }

    fn told(vitals: &Vitals) -> (bool, String) {
        report("readyz", &ready(vitals), true)
    }

    #[test]
    fn a_loop_that_is_silent_for_too_long_is_not_alive() {
        assert_eq!(report("livez", &live(SILENCE_MAX), false), (true, "ok".to_owned()));
        let (well, text) = report("livez", &live(SILENCE_MAX + Duration::from_millis(1)), false);
        assert!(!well);
        assert_eq!(text, "[-]main-loop failed: it has not run for 5001 ms\nlivez check failed\n");
    }

    #[test]
    fn a_node_that_takes_part_is_ready() {
        let (well, text) = told(&vitals());
        assert!(well);
        assert_eq!(
            text,
            "[+]main-loop ok\n[+]running ok\n[+]election ok\n[+]listeners ok\nreadyz check passed\n"
        );
        let balancing_alone = Vitals { leaders: Vec::new(), ..vitals() };
        assert_eq!(
            told(&balancing_alone).1,
            "[+]main-loop ok\n[+]running ok\n[+]listeners ok\nreadyz check passed\n"
        );
        let address_alone = Vitals { listening: Vec::new(), ..vitals() };
        assert_eq!(
            told(&address_alone).1,
            "[+]main-loop ok\n[+]running ok\n[+]election ok\nreadyz check passed\n"
        );
    }

    #[test]
    fn each_reason_not_to_be_ready_is_told_beside_what_is_well() {
        let reasons = [
            (
                Vitals { silence: SILENCE_MAX * 2, ..vitals() },
                "[-]main-loop failed: it has not run for 10000 ms\n",
            ),
            (Vitals { stopping: true, ..vitals() }, "[-]running failed: a stop was asked for\n"),
            (Vitals { leaders: vec![None], ..vitals() }, "[-]election failed: no leader is known\n"),
            (
                Vitals { leaders: vec![Some("a".to_owned()), None, None], ..vitals() },
                "[-]election failed: no leader is known in 2 of 3 elections\n",
            ),
            (
                Vitals { listening: vec![("api".to_owned(), true), ("b".to_owned(), false)], ..vitals() },
                "[-]listeners failed: these load balancers do not listen: b\n",
            ),
        ];
        for (vitals, reason) in reasons {
            let (well, text) = told(&vitals);
            assert!(!well && text.contains(reason), "{text}");
            assert_eq!(text.lines().count(), 5, "{text}");
            assert!(text.ends_with("readyz check failed\n"), "{text}");
            assert_eq!(text.matches("[+]").count(), 3, "{text}");
        }
    }
}
