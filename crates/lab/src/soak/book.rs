//! The books: what a client, vipd and a backend say of one stream is put together, and judged.
//!
//! A client knows a stream by its port, vipd's access log knows the client's port and the backend, and the backend the stream's number,
//! which the client told it. The k-th stream of a port and the k-th line about it are one: a port is not used twice at a time, and vipd
//! tells of a connection when it has let go of it.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::change::Way;
use super::client::{Outcome, Report};
use super::kind::Kind;
use super::said::Access;
use super::server::{Entry, Verdict};
use super::wire::Trouble;

/// A backend's entry comes before the end of its stream does, but on another way: it may be late by this on a busy machine. One that was
/// killed sends none.
const ENTRY_PATIENCE: Duration = Duration::from_secs(15);
/// Most of a stream's first bytes that vipd keeps to say them to another backend.
pub(super) const KEPT: u64 = 16 * 1024;
/// Failures that are told in full; the rest is counted.
const TOLD: usize = 20;

/// When a backend was not there, or not to be chosen.
#[derive(Debug, Clone, Copy)]
struct Span {
    backend: SocketAddr,
    /// What puts an end to it.
    undone_by: Way,
    from: Instant,
    until: Option<Instant>,
}

/// When what was done to which backend.
#[derive(Debug, Default)]
pub(super) struct Calendar {
    deaths: Vec<Span>,
    closures: Vec<Span>,
}

impl Calendar {
    /// A backend is about to be ended.
    pub(super) fn dies(&mut self, backend: SocketAddr, now: Instant) {
        self.deaths.push(Span { backend, undone_by: Way::Start, from: now, until: None });
    }

    /// It has ended: nobody listens there, and no connection of it is left.
    pub(super) fn is_dead(&mut self, backend: SocketAddr, now: Instant) {
        close(&mut self.deaths, backend, Way::Start, now);
    }

    /// vipd has been told, or has said, that it gives this backend nothing new, until that is undone.
    pub(super) fn closes(&mut self, backend: SocketAddr, undone_by: Way, now: Instant) {
        let same =
            |span: &Span| span.backend == backend && span.undone_by == undone_by && span.until.is_none();
        if !self.closures.iter().any(same) {
            self.closures.push(Span { backend, undone_by, from: now, until: None });
        }
    }

    /// It is about to be undone.
    pub(super) fn opens(&mut self, backend: SocketAddr, undone_by: Way, now: Instant) {
        close(&mut self.closures, backend, undone_by, now);
    }

    /// When this backend was gone that was ended while a stream lasted: since it began, and before it ended. One that began when the backend's process
    /// had ended has no excuse: whoever listens no more refuses it, and it goes to another.
    fn death_within(&self, backend: SocketAddr, began: Instant, ended: Instant) -> Option<Instant> {
        let within = |span: &&Span| {
            span.backend == backend && span.from <= ended && span.until.is_none_or(|until| began <= until)
        };
        self.deaths.iter().rev().find(within).map(|span| span.until.unwrap_or(ended))
    }

    /// Whether vipd was to give this backend nothing at that time.
    fn is_closed(&self, backend: SocketAddr, began: Instant) -> bool {
        let at = |span: &Span| {
            span.backend == backend && span.from <= began && span.until.is_none_or(|until| began < until)
        };
        self.closures.iter().any(at)
    }
}

fn close(spans: &mut [Span], backend: SocketAddr, undone_by: Way, now: Instant) {
    let open =
        |span: &&mut Span| span.backend == backend && span.undone_by == undone_by && span.until.is_none();
    if let Some(span) = spans.iter_mut().find(open) {
        span.until = Some(now);
    }
}

/// What came of the streams of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) streams: u64,
    /// They ended as planned: all was said, or the reset or timeout that was to come came.
    pub(super) well: u64,
    /// They ended with their backend, which was killed or stopped.
    pub(super) cut: u64,
    pub(super) failed: u64,
    /// Bytes that a client sent, and received.
    pub(super) sent: u64,
    pub(super) received: u64,
}

/// What all streams of one backend come to, by whoever counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) streams: u64,
    /// Streams that ended in order, or in silence: of them all have counted the same.
    pub(super) exact: u64,
    /// Least and most that vipd can have handed to the backend, and to clients: what arrived, and what it was given.
    pub(super) to_backend: (u64, u64),
    pub(super) to_client: (u64, u64),
}

/// A stream of which a client and vipd have told.
#[derive(Debug)]
struct Pair {
    report: Report,
    access: Access,
    since: Instant,
}

/// What one port's clients and vipd have said of it, as far as the other hasn't.
#[derive(Debug, Default)]
struct Page {
    reports: VecDeque<Report>,
    lines: VecDeque<Access>,
}

/// The books.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) calendar: Calendar,
    /// Most bytes that may be on their way in one direction of one stream.
    pub(super) in_flight: u64,
    pages: BTreeMap<u16, Page>,
    pairs: Vec<Pair>,
    entries: BTreeMap<u64, Entry>,
    pub(super) kinds: BTreeMap<Kind, Sum>,
    pub(super) backends: BTreeMap<SocketAddr, Account>,
    /// How streams ended, in the words of the access log.
    pub(super) ends: BTreeMap<String, u64>,
    /// Connections that clients made.
    pub(super) made: u64,
    /// Lines of the access log.
    pub(super) lines: u64,
    /// The first failures, [`TOLD`] at most.
    pub(super) failures: Vec<String>,
    /// All of them.
    pub(super) failed: u64,
    /// The most that was on its way when a stream was cut.
    pub(super) flew: u64,
    /// The longest that it took a client to learn of its backend's death.
    pub(super) learned: Duration,
}

impl Book {
    /// Takes in what a client reports.
    pub(super) fn report(&mut self, report: Report, now: Instant) {
        let Some(port) = report.port else {
            self.fail(format!(
                "{} stream {:x} was not connected: {:?}",
                report.kind, report.stream, report.outcome
            ));
            self.kinds.entry(report.kind).or_default().streams += 1;
            self.kinds.entry(report.kind).or_default().failed += 1;
            return;
        };
        self.made += 1;
        self.pages.entry(port).or_default().reports.push_back(report);
        self.pair(port, now);
    }

    /// Takes in a line of the access log.
    pub(super) fn line(&mut self, access: Access, now: Instant) {
        let port = access.client.port();
        self.lines += 1;
        // A closed set: docs/configuration.md has them all.
        *self.ends.entry(access.end.clone()).or_insert(0) += 1;
        self.pages.entry(port).or_default().lines.push_back(access);
        self.pair(port, now);
    }

    /// Takes in what a backend tells.
    pub(super) fn entry(&mut self, entry: Entry) {
        if let Verdict::Wrong(what) = &entry.verdict {
            self.fail(format!("stream {:x} at {}: {what}", entry.stream, entry.backend));
        }
        if let Some(other) = self.entries.insert(entry.stream, entry) {
            self.fail(format!(
                "two backends tell of stream {:x}, one of them {}",
                other.stream, other.backend
            ));
        }
    }

    /// What came of the streams of a kind.
    pub(super) fn of(&self, kind: Kind) -> Sum {
        self.kinds.get(&kind).copied().unwrap_or_default()
    }

    /// Judges what has been told in full, or waited for long enough.
    pub(super) fn settle(&mut self, now: Instant) {
        let is_told = |pair: &Pair| {
            self.entries.contains_key(&pair.report.stream) || now >= pair.since + ENTRY_PATIENCE
        };
        let (told, rest) = std::mem::take(&mut self.pairs).into_iter().partition(is_told);
        self.pairs = rest;
        let told: Vec<Pair> = told;
        told.iter().for_each(|pair| self.judge(pair));
    }

    /// Judges all that is left: nothing is to come any more.
    pub(super) fn finish(&mut self) {
        std::mem::take(&mut self.pairs).iter().for_each(|pair| self.judge(pair));
        for (port, page) in std::mem::take(&mut self.pages) {
            for report in page.reports {
                self.fail(format!(
                    "vipd tells nothing of stream {:x} from port {port}: {:?}",
                    report.stream, report.outcome
                ));
            }
            for line in page.lines {
                self.fail(format!("no client tells of {line:?}"));
            }
        }
        for (_, entry) in std::mem::take(&mut self.entries) {
            self.fail(format!("only a backend tells of {entry:?}"));
        }
    }

    /// Streams of which not everybody has told yet.
    pub(super) fn unsettled(&self) -> usize {
        self.pairs.len() + self.pages.len()
    }

    fn pair(&mut self, port: u16, since: Instant) {
        let Some(page) = self.pages.get_mut(&port) else { return };
        if let (Some(_), Some(_)) = (page.reports.front(), page.lines.front())
            && let (Some(report), Some(access)) = (page.reports.pop_front(), page.lines.pop_front())
        {
            self.pairs.push(Pair { report, access, since });
        }
        if page.reports.is_empty() && page.lines.is_empty() {
            self.pages.remove(&port);
        }
    }

    fn judge(&mut self, pair: &Pair) {
        let Pair { report, access, .. } = pair;
        let entry = self.entries.remove(&report.stream);
        let judgement = self.judged(report, access, entry.as_ref());
        let sum = self.kinds.entry(report.kind).or_default();
        sum.streams += 1;
        sum.sent += report.counts.sent;
        sum.received += report.counts.received;
        let mut exact = 0;
        match &judgement {
            Ok(Judgement::Exact) => (sum.well, exact) = (sum.well + 1, 1),
            Ok(Judgement::Well) => sum.well += 1,
            Ok(Judgement::Cut(learned)) => {
                sum.cut += 1;
                self.learned = self.learned.max(*learned);
            }
            Err(_) => sum.failed += 1,
        }
        if let Err(why) = judgement {
            self.fail(format!(
                "{} stream {:x}: {why}; the client: {:?} {:?}; vipd: {access:?}; the backend: {entry:?}",
                report.kind, report.stream, report.outcome, report.counts
            ));
        }
        if let Some(backend) = access.backend {
            let account = self.backends.entry(backend).or_default();
            // One that was killed has told only its client what it got.
            let arrived = entry.as_ref().map_or(report.counts.acknowledged, |entry| entry.received);
            account.streams += 1;
            account.exact += exact;
            account.to_backend.0 += arrived;
            account.to_backend.1 += access.to_backend;
            account.to_client.0 += report.counts.received;
            account.to_client.1 += access.to_client;
        }
    }

    /// Whether all that is known of a stream fits.
    fn judged(
        &mut self,
        report: &Report,
        access: &Access,
        entry: Option<&Entry>,
    ) -> Result<Judgement, String> {
        let backend = access.backend.ok_or("no backend took it")?;
        if entry.is_some_and(|entry| entry.backend != backend) {
            return Err("another backend tells of it than vipd".to_owned());
        }
        if self.calendar.is_closed(backend, report.began) {
            return Err("its backend was to get nothing new".to_owned());
        }
        self.check_bounds(report, access, entry)?;
        // A client that ends last does not wait until its backend has read all, which may be killed before it has.
        let unread = report.kind == Kind::BackendEnds && entry.is_none();
        let over = report.ended + if unread { ENTRY_PATIENCE } else { Duration::ZERO };
        let died = self.calendar.death_within(backend, report.began, over);
        let learned = died.map(|at| report.ended.saturating_duration_since(at));
        let in_order = access.end == "finished" && entry.is_some_and(|entry| entry.verdict == Verdict::Whole);
        match (&report.outcome, in_order) {
            (Outcome::Failed(Trouble::Wrong(what)), _) => Err(format!("wrong bytes: {what}")),
            (Outcome::Done, true) => {
                same(report.counts.sent, report, access, entry).map(|()| Judgement::Exact)
            }
            (Outcome::Idled, _) if access.end == "idle" => {
                // A question that crosses the end of the wait for it is not read any more.
                let crossed = access.to_backend == report.counts.acknowledged;
                let heard = if crossed { access.to_backend } else { report.counts.sent };
                same(heard, report, access, entry).map(|()| Judgement::Exact)
            }
            (Outcome::Reset, _) if access.end == "client" && entry.is_some() => Ok(Judgement::Well),
            (Outcome::Failed(Trouble::Stuck), _) => Err("it stood still".to_owned()),
            (Outcome::Failed(_), _) if could_move(report, access) => {
                Err("it was cut, and could have gone to another backend".to_owned())
            }
            // It has lost what it had to lose: the process at its other end. What did come, was right.
            (Outcome::Failed(_) | Outcome::Done | Outcome::Idled | Outcome::Reset, _) => match learned {
                Some(learned) => Ok(Judgement::Cut(learned)),
                None => Err(
                    "it was cut, or they do not agree how it ended, and nothing had been done to its backend"
                        .to_owned(),
                ),
            },
        }
    }

    /// Nobody has more than the one before him has given, and what is missing was on its way.
    fn check_bounds(
        &mut self,
        report: &Report,
        access: &Access,
        entry: Option<&Entry>,
    ) -> Result<(), String> {
        let mut steps =
            vec![(report.counts.sent, access.to_backend), (access.to_client, report.counts.received)];
        if access.to_backend < report.counts.acknowledged {
            return Err("its backend has acknowledged more than vipd was given".to_owned());
        }
        if let Some(entry) = entry {
            steps.extend([(access.to_backend, entry.received), (entry.sent, access.to_client)]);
        }
        for (given, taken) in steps {
            let flew = given.checked_sub(taken).ok_or("more has arrived than was sent")?;
            self.flew = self.flew.max(flew);
            if flew > self.in_flight {
                return Err(format!("{flew} bytes are missing, more than can be on their way"));
            }
        }
        Ok(())
    }

    /// Notes something that must not be.
    pub(super) fn fail(&mut self, what: String) {
        self.failed += 1;
        if self.failures.len() < TOLD {
            self.failures.push(what);
        }
    }
}

enum Judgement {
    /// All was said, and all have counted the same.
    Exact,
    /// It was reset by its client, as planned, and nobody has counted what can't be.
    Well,
    /// It learned of it so long after its backend's process had ended.
    Cut(Duration),
}

/// Whether vipd could still have taken it to another backend: none had answered, and none had got what can't be said twice.
fn could_move(report: &Report, access: &Access) -> bool {
    let most = if report.repeatable { KEPT } else { 0 };
    access.to_client == 0 && access.to_backend <= most
}

/// All have counted the same, with so many that the client sent.
fn same(sent: u64, report: &Report, access: &Access, entry: Option<&Entry>) -> Result<(), String> {
    let entry = entry.ok_or("its backend tells nothing of it")?;
    let up = [sent, access.to_backend, entry.received];
    let down = [entry.sent, access.to_client, report.counts.received];
    for counts in [up, down] {
        if counts.iter().any(|count| *count != counts[0]) {
            return Err(format!("the counts differ: {counts:?}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
