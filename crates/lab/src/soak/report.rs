//! What is told at the end, and whether everything held.

use std::collections::BTreeMap;

use super::Plan;
use super::book::Book;
use super::director::{Outcome, Sample};
use super::kind::Kind;
use super::totals::Check;
use crate::demo::{Console, readable};
use crate::taken;

/// One figure of a sample.
type Of = fn(&Sample) -> u64;

/// Prints the tables; true if everything held.
pub(super) fn tell(book: &Book, outcome: &Outcome, complaints: &BTreeMap<String, u64>, plan: &Plan) -> bool {
    let mut checks = vec![
        memory("rss", outcome, |sample| sample.taken.rss),
        memory("pss", outcome, |sample| sample.taken.pss),
    ];
    checks.extend(outcome.checks.iter().cloned());
    let errors: u64 =
        complaints.iter().filter(|(what, _)| what.starts_with("ERROR")).map(|(_, count)| count).sum();
    checks.push(Check::new(format!("errors that vipd logged: {errors}"), errors == 0));
    let idle: Vec<String> =
        Kind::ALL.iter().filter(|kind| book.of(**kind).well == 0).map(Kind::to_string).collect();
    checks
        .push(Check::new(format!("kinds of which no stream ended well: {}", listed(&idle)), idle.is_empty()));
    let changes: u64 = outcome.changes.values().sum();
    checks.push(Check::new(format!("backends came and went {changes} times"), changes > 0));
    checks.push(Check::new(
        format!("streams and entries that are not as they should be: {}", book.failed),
        book.failed == 0,
    ));
    let console = Console;
    console.line(format!("\n{}", kinds(book)));
    let named = |count: &u64, name: String| format!("{count} {name}");
    let ways: Vec<_> = outcome.changes.iter().map(|(way, count)| named(count, way.to_string())).collect();
    console.line(format!("changes: {}", listed(&ways)));
    let ends: Vec<_> = book.ends.iter().map(|(end, count)| named(count, end.clone())).collect();
    console.line(format!("how streams ended, as vipd has it: {}", listed(&ends)));
    console.line(format!(
        "the last client of a backend that was ended knew after {}; at most {} bytes of one direction were on their way; vipd took {:.1} % of \
         a processor",
        readable(book.learned),
        book.flew,
        outcome.cpu * 100.0
    ));
    for (what, count) in complaints {
        console.line(format!("vipd complained {count} times: {what}"));
    }
    console.line(format!("\n{}", resources(outcome)));
    for check in &checks {
        console.line(format!("{:<6} {}", if check.holds { "ok" } else { "FAILED" }, check.what));
    }
    let failed = checks.iter().filter(|check| !check.holds).count();
    console.line(if failed == 0 {
        format!("passed: {} with the seed {}", readable(plan.lasts), plan.seed)
    } else {
        format!("FAILED: {failed} of {} checks; once more with --seed {}", checks.len(), plan.seed)
    });
    failed == 0
}

/// Tells how far it has come, where it can't go on.
pub(super) fn break_off(book: &Book) {
    Console.line(format!("\n{}", kinds(book)));
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// A line for each kind of stream.
fn kinds(book: &Book) -> String {
    let mut text = format!(
        "{:<13} {:>9} {:>9} {:>7} {:>7} {:>15} {:>15}\n",
        "kind", "streams", "well", "cut", "failed", "bytes sent", "bytes received"
    );
    let mut line = |name: &str, sum: &super::book::Sum| {
        text += &format!(
            "{name:<13} {:>9} {:>9} {:>7} {:>7} {:>15} {:>15}\n",
            sum.streams, sum.well, sum.cut, sum.failed, sum.sent, sum.received
        );
    };
    let mut all = super::book::Sum::default();
    for (kind, sum) in &book.kinds {
        line(&kind.to_string(), sum);
        all.streams += sum.streams;
        all.well += sum.well;
        all.cut += sum.cut;
        all.failed += sum.failed;
        all.sent += sum.sent;
        all.received += sum.received;
    }
    line("all", &all);
    text
}

/// Memory, descriptors, threads and open connections: at rest before and after, and the samples between.
fn resources(outcome: &Outcome) -> String {
    let mut text = format!(
        "{:<17} {:>8} {:>12} {:>9} {:>8} {:>8} {:>8}\n",
        "vipd", "at rest", "first tenth", "last", "least", "most", "at rest"
    );
    let rows: [(&str, Of); 5] = [
        ("rss kB", |sample| sample.taken.rss),
        ("pss kB", |sample| sample.taken.pss),
        ("descriptors", |sample| sample.taken.descriptors as u64),
        ("threads", |sample| sample.taken.threads as u64),
        ("open connections", |sample| sample.open),
    ];
    for (name, of) in rows {
        let [before, after] = [outcome.before, outcome.after].map(|taken| of(&Sample { taken, open: 0 }));
        let [first, last] = ends(&outcome.samples, of);
        let all = || outcome.samples.iter().map(of);
        text += &format!(
            "{name:<17} {before:>8} {first:>12} {last:>9} {:>8} {:>8} {after:>8}\n",
            all().min().unwrap_or(0),
            all().max().unwrap_or(0)
        );
    }
    text
}

fn memory(name: &str, outcome: &Outcome, of: Of) -> Check {
    let [first, last] = ends(&outcome.samples, of);
    let most = taken::flat(first);
    let what = format!(
        "{name}: median of the last tenth {last} kB ≤ {most} kB, that of the first after the warm-up {first} kB and a margin"
    );
    Check::new(what, !outcome.samples.is_empty() && last <= most)
}

/// One figure at the beginning and at the end.
fn ends(samples: &[Sample], of: Of) -> [u64; 2] {
    taken::ends(&samples.iter().map(of).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::taken::Taken;

    fn samples(memory: impl Fn(u64) -> u64) -> Vec<Sample> {
        let of = |rss| Sample { taken: Taken { rss, pss: rss, descriptors: 1, threads: 1 }, open: 0 };
        (0..100).map(memory).map(of).collect()
    }

    #[test]
    fn what_is_compared_is_the_tenth_after_the_warm_up_and_the_last() {
        let rss: Of = |sample| sample.taken.rss;
        assert_eq!(ends(&samples(|number| number), rss), [15, 95]);
        // A single one does not decide.
        assert_eq!(ends(&samples(|number| if number == 95 { 1000 } else { 7 }), rss), [7, 7]);
        assert_eq!(ends(&[], rss), [0, 0]);
    }

    #[test]
    fn memory_that_grows_is_noticed() {
        let outcome = |samples| {
            let taken = Taken { rss: 0, pss: 0, descriptors: 0, threads: 0 };
            let (changes, checks) = (BTreeMap::new(), Vec::new());
            Outcome { samples, before: taken, after: taken, changes, checks, cpu: 0.0 }
        };
        let holds = |samples| memory("rss", &outcome(samples), |sample| sample.taken.rss).holds;
        assert!(holds(samples(|_| 20_000)));
        assert!(holds(samples(|number| if number < 50 { 20_000 } else { 22_000 })));
        assert!(!holds(samples(|number| if number < 50 { 20_000 } else { 22_100 })));
        assert!(!holds(samples(|number| 20_000 + 30 * number)));
        assert!(!holds(Vec::new()));
    }
}
