//! What vipd has counted, beside what its clients and backends have.
//!
//! vipd forgets what it has counted for a backend that the file names no more once the last connection to it has ended; if it comes back it
//! starts over. So for those that always stay, counts are compared exactly; for the others, what was last seen of each of their lives is
//! added up, which may lack what was counted after that and is never more than what there was.

use super::book::{Book, KEPT};
use super::change::ALWAYS_LISTED;
use super::sample::Metrics;
use super::site::{BACKENDS, address};

/// What vipd counts for a backend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) connections: u64,
    pub(super) retries: u64,
    pub(super) to_backend: u64,
    pub(super) to_client: u64,
}

impl Counted {
    fn plus(self, other: Self) -> Self {
        Self {
            connections: self.connections + other.connections,
            retries: self.retries + other.retries,
            to_backend: self.to_backend + other.to_backend,
            to_client: self.to_client + other.to_client,
        }
    }
}

/// What has been seen of a backend's counts.
#[derive(Debug, Clone, Copy, Default)]
struct Life {
    before: Counted,
    now: Counted,
    /// Times that it started over.
    ends: u64,
}

/// What has been seen of all of them.
#[derive(Debug, Default)]
pub(super) struct Lives([Life; BACKENDS]);

impl Lives {
    /// Takes in what the metrics say now.
    pub(super) fn see(&mut self, metrics: &Metrics) {
        for (place, life) in self.0.iter_mut().enumerate() {
            let backend = address(place);
            let counted = Counted {
                connections: metrics.backend("connections_total", backend).unwrap_or(0),
                retries: metrics.backend("retries_total", backend).unwrap_or(0),
                to_backend: metrics.bytes(backend, "to_backend").unwrap_or(0),
                to_client: metrics.bytes(backend, "to_client").unwrap_or(0),
            };
            let started_over = counted.connections < life.now.connections
                || counted.to_backend < life.now.to_backend
                || counted.to_client < life.now.to_client;
            if started_over {
                life.before = life.before.plus(life.now);
                life.ends += 1;
            }
            life.now = counted;
        }
    }

    /// All that was seen of a backend, and how often it started over.
    pub(super) fn total(&self, place: usize) -> (Counted, u64) {
        let life = self.0[place];
        (life.before.plus(life.now), life.ends)
    }
}

/// One comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) what: String,
    pub(super) holds: bool,
}

impl Check {
    pub(super) fn new(what: impl Into<String>, holds: bool) -> Self {
        Self { what: what.into(), holds }
    }

    fn equal(what: &str, vipd: u64, others: (&str, u64)) -> Self {
        Self::new(format!("{what}: vipd {vipd}, {} {}", others.0, others.1), vipd == others.1)
    }
}

/// Compares all totals.
pub(super) fn checks(book: &Book, metrics: &Metrics, lives: &Lives) -> Vec<Check> {
    let counted = |metric| metrics.frontend(metric).unwrap_or(u64::MAX);
    let mut checks = vec![
        Check::equal("connections accepted", counted("accepted_total"), ("clients made", book.made)),
        Check::equal("lines of the access log", book.lines, ("clients made", book.made)),
        Check::equal("connections that no backend took", counted("refused_total"), ("permitted", 0)),
        Check::equal("connections rejected", counted("rejected_total"), ("permitted", 0)),
        Check::equal("connections rebalanced", counted("rebalanced_total"), ("permitted", 0)),
    ];
    checks.extend((0..BACKENDS).flat_map(|place| of_backend(book, lives, place)));
    checks
}

fn of_backend(book: &Book, lives: &Lives, place: usize) -> [Check; 3] {
    let backend = address(place);
    let account = book.backends.get(&backend).copied().unwrap_or_default();
    let (counted, ends) = lives.total(place);
    // What a connection takes along when it goes to another backend was counted at both.
    let along = counted.retries * KEPT;
    let stays = place < ALWAYS_LISTED;
    // A connection that went on to another backend was made to both.
    let expected = account.streams + counted.retries;
    let connections = if stays { counted.connections == expected } else { counted.connections <= expected };
    let within = |count: u64, (least, most): (u64, u64), along: u64| {
        (!stays || least <= count) && count <= most + along
    };
    let note = match (stays, ends) {
        (true, _) => String::new(),
        (false, ends) => format!(" (at least; started over {ends} times)"),
    };
    [
        Check::new(
            format!(
                "{backend} connections: vipd {}{note}, streams {} + retries {}",
                counted.connections, account.streams, counted.retries
            ),
            connections && (!stays || ends == 0),
        ),
        Check::new(
            format!(
                "{backend} bytes to it: arrived {} ≤ vipd {}{note} ≤ read from clients {}, {} of {} streams exact",
                account.to_backend.0,
                counted.to_backend,
                account.to_backend.1,
                account.exact,
                account.streams
            ),
            within(counted.to_backend, account.to_backend, along),
        ),
        Check::new(
            format!(
                "{backend} bytes to clients: arrived {} ≤ vipd {}{note} ≤ read from it {}",
                account.to_client.0, counted.to_client, account.to_client.1
            ),
            within(counted.to_client, account.to_client, 0),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soak::book::Account;

    /// What vipd would say of two backends: one that always stays, and one that comes and goes.
    fn metrics(stays: [u64; 4], comes: Option<[u64; 4]>) -> Metrics {
        let mut text =
            String::from("HTTP/1.1 200 OK\r\n\r\nvipd_frontend_accepted_total{frontend=\"soak\"} 12\n");
        for other in ["refused", "rejected", "rebalanced"] {
            text += &format!("vipd_frontend_{other}_total{{frontend=\"soak\"}} 0\n");
        }
        let both = [(0, Some(stays)), (ALWAYS_LISTED, comes)];
        for (place, counts) in both {
            let Some([connections, retries, up, down]) = counts else { continue };
            let labels = format!("frontend=\"soak\",backend=\"{}\"", address(place));
            text += &format!("vipd_backend_connections_total{{{labels}}} {connections}\n");
            text += &format!("vipd_backend_retries_total{{{labels}}} {retries}\n");
            text += &format!("vipd_backend_bytes_total{{{labels},direction=\"to_backend\"}} {up}\n");
            text += &format!("vipd_backend_bytes_total{{{labels},direction=\"to_client\"}} {down}\n");
        }
        Metrics::read(&text).unwrap()
    }

    fn book() -> Book {
        let account = |streams| Account { streams, exact: 1, to_backend: (100, 120), to_client: (200, 230) };
        let backends = [(address(0), account(9)), (address(ALWAYS_LISTED), account(3))].into();
        let mut book = Book::default();
        (book.made, book.lines, book.backends) = (12, 12, backends);
        book
    }

    fn failed(seen: &[Metrics]) -> Vec<String> {
        let mut lives = Lives::default();
        seen.iter().for_each(|metrics| lives.see(metrics));
        let checks = checks(&book(), seen.last().unwrap(), &lives);
        checks.into_iter().filter(|check| !check.holds).map(|check| check.what).collect()
    }

    #[test]
    fn totals_that_add_up_hold_and_others_do_not() {
        let good = [10, 1, 110, 230];
        assert_eq!(failed(&[metrics(good, Some([3, 0, 120, 200]))]), [""; 0]);
        // One connection more or less, too few bytes, too many: also with those that a retried one took along.
        for wrong in [
            [11, 1, 110, 230],
            [9, 1, 110, 230],
            [10, 1, 99, 230],
            [10, 1, 121 + 16_384, 230],
            [10, 1, 110, 231],
        ] {
            assert_eq!(failed(&[metrics(wrong, Some([3, 0, 120, 200]))]).len(), 1, "{wrong:?}");
        }
    }

    #[test]
    fn a_backend_that_comes_again_starts_over_and_one_that_stays_must_not() {
        let good = [10, 1, 110, 230];
        let lives = [Some([2, 0, 80, 100]), None, Some([1, 0, 30, 100])].map(|comes| metrics(good, comes));
        assert_eq!(failed(&lives), [""; 0]);
        let lives = [Some([2, 0, 80, 100]), None, Some([2, 0, 30, 100])].map(|comes| metrics(good, comes));
        assert_eq!(failed(&lives).len(), 1);
        let lives = [[5, 1, 60, 130], [5, 0, 50, 100]].map(|stays| metrics(stays, Some([3, 0, 120, 200])));
        assert_eq!(failed(&lives).len(), 1);
    }
}
