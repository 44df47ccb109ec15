use super::*;
use crate::soak::wire::Counts;

const PORT: u16 = 40_000;
const STREAM: u64 = 7;

fn backend(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 8080))
}

/// A stream of two seconds that went well, as all three tell of it.
struct Told {
    report: Report,
    access: Access,
    entry: Option<Entry>,
}

impl Told {
    fn well(began: Instant) -> Self {
        let report = Report {
            stream: STREAM,
            kind: Kind::Short,
            repeatable: false,
            port: Some(PORT),
            began,
            ended: began + Duration::from_secs(2),
            counts: Counts { sent: 100, received: 200, acknowledged: 60 },
            outcome: Outcome::Done,
        };
        let access = Access {
            client: SocketAddr::from(([10, 0, 0, 10], PORT)),
            backend: Some(backend(31)),
            to_backend: 100,
            to_client: 200,
            end: "finished".to_owned(),
        };
        let entry =
            Entry { stream: STREAM, backend: backend(31), received: 100, sent: 200, verdict: Verdict::Whole };
        Self { report, access, entry: Some(entry) }
    }

    /// One whose client lost it.
    fn cut(began: Instant) -> Self {
        let mut told = Self::well(began);
        told.report.outcome = Outcome::Failed(Trouble::Short);
        told.report.counts.received = 150;
        "backend-dead".clone_into(&mut told.access.end);
        told.entry = None;
        told
    }

    /// What the books say of it, with this in the calendar: streams that went well, were cut, and failed, and failures in all.
    fn judged(self, happened: impl FnOnce(&mut Calendar)) -> (u64, u64, u64, u64) {
        let mut book = Book { in_flight: 1000, ..Book::default() };
        happened(&mut book.calendar);
        let now = self.report.ended;
        book.report(self.report, now);
        book.line(self.access, now);
        if let Some(entry) = self.entry {
            book.entry(entry);
        }
        book.settle(now + ENTRY_PATIENCE);
        book.finish();
        let sum = book.of(Kind::Short);
        assert_eq!(sum.streams, sum.well + sum.cut + sum.failed);
        (sum.well, sum.cut, sum.failed, book.failed)
    }
}

const WELL: (u64, u64, u64, u64) = (1, 0, 0, 0);
const CUT: (u64, u64, u64, u64) = (0, 1, 0, 0);
const FAILED: (u64, u64, u64, u64) = (0, 0, 1, 1);

fn nothing(_: &mut Calendar) {}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[tokio::test]
async fn a_stream_of_which_all_tell_the_same_went_well() {
    assert_eq!(Told::well(Instant::now()).judged(nothing), WELL);
}

#[tokio::test]
async fn a_stream_that_ended_well_has_no_byte_too_many_or_too_few_anywhere() {
    let began = Instant::now();
    for change in [
        |told: &mut Told| told.report.counts.sent += 1,
        |told: &mut Told| told.report.counts.received -= 1,
        |told: &mut Told| told.access.to_backend -= 1,
        |told: &mut Told| told.access.to_client += 1,
        |told: &mut Told| told.entry.as_mut().unwrap().received -= 1,
        |told: &mut Told| told.entry.as_mut().unwrap().sent += 1,
        |told: &mut Told| told.entry = None,
        |told: &mut Told| "client".clone_into(&mut told.access.end),
        |told: &mut Told| told.entry.as_mut().unwrap().verdict = Verdict::Cut("broke".to_owned()),
        |told: &mut Told| told.access.backend = None,
    ] {
        let mut told = Told::well(began);
        change(&mut told);
        let (well, cut, failed, all) = told.judged(nothing);
        assert!((well, cut, failed) == (0, 0, 1) && all >= 1);
    }
}

#[tokio::test]
async fn wrong_bytes_have_no_excuse() {
    let began = Instant::now();
    let died = |calendar: &mut Calendar| calendar.dies(backend(31), began);
    let mut told = Told::cut(began);
    told.report.outcome = Outcome::Failed(Trouble::Wrong("byte 3 of 9".to_owned()));
    assert_eq!(told.judged(died), FAILED);
    let mut told = Told::well(began);
    told.entry.as_mut().unwrap().verdict = Verdict::Wrong("byte 3 of 9".to_owned());
    assert!(told.judged(nothing).3 > 0);
}

#[tokio::test]
async fn a_stream_may_be_cut_while_its_own_backend_ends_and_not_otherwise() {
    let began = Instant::now();
    let dies = |which: u8, from: Instant, until: Option<Instant>| {
        move |calendar: &mut Calendar| {
            calendar.dies(backend(which), from);
            if let Some(until) = until {
                calendar.is_dead(backend(which), until);
            }
        }
    };
    let before = began - seconds(2);
    assert_eq!(Told::cut(began).judged(nothing), FAILED);
    assert_eq!(Told::cut(began).judged(dies(31, began + seconds(1), None)), CUT);
    assert_eq!(Told::cut(began).judged(dies(31, before, Some(began))), CUT);
    assert_eq!(Told::cut(began).judged(dies(31, before, Some(began - seconds(1)))), FAILED);
    assert_eq!(Told::cut(began).judged(dies(31, began + seconds(3), None)), FAILED);
    assert_eq!(Told::cut(began).judged(dies(32, began + seconds(1), None)), FAILED);
}

#[tokio::test]
async fn a_stream_that_could_go_to_another_backend_may_not_be_cut() {
    let began = Instant::now();
    let cut = |repeatable: bool, to_backend: u64, to_client: u64| {
        let mut told = Told::cut(began);
        told.report.repeatable = repeatable;
        told.report.counts = Counts { sent: 20_000, received: 0, acknowledged: 0 };
        (told.access.to_backend, told.access.to_client) = (to_backend, to_client);
        let mut book = Book { in_flight: 20_000, ..Book::default() };
        book.calendar.dies(backend(31), began);
        book.report(told.report, began);
        book.line(told.access, began);
        book.finish();
        book.of(Kind::Short).cut == 1
    };
    assert!(!cut(true, 0, 0) && !cut(true, 100, 0) && !cut(true, KEPT, 0) && !cut(false, 0, 0));
    // Its backend had answered, or has got what can't be said to another.
    assert!(cut(true, 100, 1) && cut(true, KEPT + 1, 0) && cut(false, 100, 0));
}

#[tokio::test]
async fn what_is_cut_has_no_bytes_that_nobody_sent_and_lacks_none_that_were_not_on_their_way() {
    let began = Instant::now();
    let died = |calendar: &mut Calendar| calendar.dies(backend(31), began);
    for change in [
        |told: &mut Told| told.report.counts.received = 201,
        |told: &mut Told| told.access.to_backend = 101,
        |told: &mut Told| told.report.counts.sent = 1101,
        |told: &mut Told| told.access.to_client = 1151,
        |told: &mut Told| told.access.to_backend = 59,
    ] {
        let mut told = Told::cut(began);
        change(&mut told);
        assert_eq!(told.judged(died), FAILED);
    }
}

#[tokio::test]
async fn a_backend_that_was_to_get_nothing_new_gets_nothing_new() {
    let began = Instant::now();
    let drained = |from: Instant, until: Option<Instant>| {
        move |calendar: &mut Calendar| {
            // Told twice, as when it is drained and found dead twice, it is over when it is undone.
            calendar.closes(backend(31), Way::Enable, from);
            calendar.closes(backend(31), Way::Enable, from);
            if let Some(until) = until {
                calendar.opens(backend(31), Way::Start, from);
                calendar.opens(backend(31), Way::Enable, until);
            }
        }
    };
    assert_eq!(Told::well(began).judged(drained(began - seconds(1), None)), FAILED);
    assert_eq!(Told::well(began).judged(drained(began + seconds(1), None)), WELL);
    assert_eq!(Told::well(began).judged(drained(began - seconds(2), Some(began - seconds(1)))), WELL);
}

#[tokio::test]
async fn resets_and_timeouts_that_were_planned_went_well_if_vipd_tells_the_same() {
    let began = Instant::now();
    let planned = |outcome: fn() -> Outcome, end: &str, received: u64| {
        let mut told = Told::well(began);
        told.report.outcome = outcome();
        told.report.counts.received = received;
        end.clone_into(&mut told.access.end);
        told.entry.as_mut().unwrap().verdict = Verdict::Cut("broke".to_owned());
        told.judged(nothing)
    };
    assert_eq!(planned(|| Outcome::Reset, "client", 200), WELL);
    // What was on its way is lost.
    assert_eq!(planned(|| Outcome::Reset, "client", 150), WELL);
    assert_eq!(planned(|| Outcome::Reset, "backend", 150), FAILED);
    assert_eq!(planned(|| Outcome::Idled, "idle", 200), WELL);
    // Nothing is on its way when all are silent.
    assert_eq!(planned(|| Outcome::Idled, "idle", 150), FAILED);
    assert_eq!(planned(|| Outcome::Idled, "client", 200), FAILED);
    // What was sent when vipd had ended it is not read; what was read is.
    let crossed = |to_backend: u64| {
        let mut told = Told::well(began);
        told.report.outcome = Outcome::Idled;
        told.access.to_backend = to_backend;
        let entry = told.entry.as_mut().unwrap();
        (entry.received, entry.verdict) = (to_backend, Verdict::Cut("broke".to_owned()));
        "idle".clone_into(&mut told.access.end);
        told.judged(nothing)
    };
    assert_eq!((crossed(60), crossed(100), crossed(80)), (WELL, WELL, FAILED));
}

#[tokio::test]
async fn whoever_tells_of_a_stream_alone_is_noticed() {
    let now = Instant::now();
    let failures = |tell: &dyn Fn(&mut Book, Told)| {
        let mut book = Book { in_flight: 1000, ..Book::default() };
        tell(&mut book, Told::well(now));
        book.finish();
        book.failed
    };
    assert_eq!(failures(&|book, told| book.report(told.report, now)), 1);
    assert_eq!(failures(&|book, told| book.line(told.access, now)), 1);
    assert_eq!(failures(&|book, told| told.entry.into_iter().for_each(|entry| book.entry(entry))), 1);
    let twice = |book: &mut Book, told: Told| {
        let entry = told.entry.unwrap();
        book.entry(Entry { backend: backend(32), ..entry.clone() });
        book.entry(entry);
    };
    assert!(failures(&twice) >= 1);
    assert_eq!(failures(&|book, told| book.report(Report { port: None, ..told.report }, now)), 1);
}

#[tokio::test]
async fn a_backends_entry_is_waited_for_and_not_for_ever() {
    let began = Instant::now();
    let mut book = Book { in_flight: 1000, ..Book::default() };
    let told = Told::well(began);
    book.report(told.report, began);
    book.line(told.access, began);
    book.settle(began + ENTRY_PATIENCE - seconds(1));
    assert_eq!((book.unsettled(), book.failed), (1, 0));
    book.entry(told.entry.unwrap());
    book.settle(began + ENTRY_PATIENCE - seconds(1));
    assert_eq!((book.unsettled(), book.of(Kind::Short).well), (0, 1));

    let late = Told::well(began);
    book.report(late.report, began);
    book.line(late.access, began);
    book.settle(began + ENTRY_PATIENCE);
    assert_eq!((book.unsettled(), book.failed), (0, 1));
}

#[tokio::test]
async fn a_backend_may_end_before_it_has_read_what_a_client_said_that_ends_last() {
    let began = Instant::now();
    let judged = |kind: Kind, after: u64| {
        let mut told = Told::well(began);
        told.report.kind = kind;
        let ended = told.report.ended;
        let mut book = Book { in_flight: 1000, ..Book::default() };
        book.calendar.dies(backend(31), ended + seconds(after));
        book.report(told.report, ended);
        book.line(told.access, ended);
        book.finish();
        book.failed == 0
    };
    assert!(judged(Kind::BackendEnds, 1));
    assert!(!judged(Kind::BackendEnds, 16) && !judged(Kind::ClientEnds, 1));
}

#[tokio::test]
async fn streams_of_one_port_are_told_apart_by_their_order() {
    let began = Instant::now();
    let mut book = Book { in_flight: 1000, ..Book::default() };
    for stream in 1..=3 {
        let mut told = Told::well(began);
        told.report.stream = stream;
        told.report.counts.sent += stream;
        book.report(told.report, began);
        book.entry(Entry { stream, received: 100 + stream, ..told.entry.unwrap() });
    }
    assert_eq!(book.unsettled(), 1);
    for stream in 1..=3 {
        let told = Told::well(began);
        book.line(Access { to_backend: 100 + stream, ..told.access }, began);
    }
    book.settle(began);
    assert_eq!((book.of(Kind::Short).well, book.failed, book.unsettled()), (3, 0, 0));
    assert_eq!(book.backends[&backend(31)].to_backend, (306, 306));
}
