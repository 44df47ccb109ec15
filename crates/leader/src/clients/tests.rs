use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::book::GONE_MAX;
use super::*;
use crate::node::{Incarnation, NodeId, Process};

fn client(number: u32) -> Client {
    Client::new(&number.to_be_bytes()).unwrap()
}

fn came(number: u32) -> Change {
    Change::Came(client(number))
}

fn gone(number: u32) -> Change {
    Change::Gone(client(number))
}

fn leader(incarnation: u64) -> Process {
    Process { node: NodeId::new("leader").unwrap(), incarnation: Incarnation(incarnation) }
}

#[expect(clippy::disallowed_methods, reason = "any instant will do as an origin")]
fn origin() -> Instant {
    Instant::now()
}

/// Reads a book from a bookmark to its end, as chapters come.
fn read_on(hearsay: &mut Hearsay, book: &Book, mut bookmark: Bookmark) -> Bookmark {
    while bookmark != book.end() {
        let next = hearsay.take(&leader(1), book.chapter(bookmark));
        assert!(next > bookmark, "{next:?} after {bookmark:?}");
        bookmark = next;
    }
    bookmark
}

fn known(hearsay: &mut Hearsay) -> BTreeSet<Client> {
    hearsay.inherit().into_iter().collect()
}

#[test]
fn a_client_has_some_bytes_and_not_too_many() {
    assert_eq!(Client::new(&[]), None);
    assert_eq!(Client::new(&[1; CLIENT_BYTES_MAX + 1]), None);
    assert_eq!(Client::new(&[1; CLIENT_BYTES_MAX]).unwrap().as_bytes(), [1; CLIENT_BYTES_MAX]);
    assert_ne!(Client::new(&[0]), Client::new(&[0, 0]));
}

#[test]
fn a_change_takes_a_byte_beside_its_client_in_a_datagram() {
    assert_eq!(Chapter::bytes(&Change::Came(Client::new(&[7; 12]).unwrap())), 13);
    assert_eq!(Chapter::bytes(&gone(7)), 5);
}

#[test]
fn a_book_forgets_the_oldest_and_counts_them() {
    let mut book = Book::new();
    let most = u32::try_from(CLIENTS_MAX).unwrap();
    (0..most + 3).for_each(|number| book.write(came(number)));
    assert_eq!((book.len(), book.forgotten()), (CLIENTS_MAX, 3));

    let mut hearsay = Hearsay::default();
    read_on(&mut hearsay, &book, Bookmark::default());
    assert_eq!(known(&mut hearsay), (3..most + 3).map(client).collect());
}

#[test]
fn a_book_stays_short_whatever_happens_and_tells_no_change_twice() {
    let mut book = Book::new();
    book.write(came(0));
    book.write(came(0));
    book.write(gone(9));
    assert_eq!(book.end(), Bookmark { volume: 1, line: 1 });

    for number in 1..20_000 {
        book.write(came(number));
        book.write(gone(number));
        assert!(book.len() == 1 && book.lines() <= 1 + GONE_MAX);
    }
    let mut hearsay = Hearsay::default();
    read_on(&mut hearsay, &book, Bookmark::default());
    assert_eq!(known(&mut hearsay), [client(0)].into());
}

#[test]
fn a_volume_is_full_of_those_who_went_and_not_of_those_who_are_there() {
    let mut book = Book::new();
    (0..100).for_each(|number| book.write(came(number)));
    let most = u32::try_from(GONE_MAX).unwrap();
    for number in 100..100 + most {
        book.write(came(number));
        book.write(gone(number));
    }
    assert_eq!((book.end().volume, book.lines()), (1, 100 + GONE_MAX));
    book.write(gone(0));
    assert_eq!((book.end().volume, book.lines()), (2, 99));
}

#[test]
fn a_chapter_begins_after_its_place_and_is_no_longer_than_a_datagram_holds() {
    let mut book = Book::new();
    (0..300).for_each(|number| book.write(came(number)));
    let chapter = book.chapter(Bookmark { volume: 1, line: 7 });
    assert_eq!(chapter.changes.first(), Some(&came(7)), "the eighth line is the first that is not read");
    // 5 bytes each.
    assert_eq!(chapter.changes.len(), Chapter::BYTES_MAX / 5);
    let mut short = Book::new();
    (0..=255).for_each(|number: u8| short.write(Change::Came(Client::new(&[number]).unwrap())));
    assert_eq!(short.chapter(Bookmark { volume: 1, line: 0 }).changes.len(), Chapter::CHANGES_MAX);
}

#[test]
fn who_reads_the_end_of_an_old_volume_reads_the_new_one_from_its_beginning() {
    let mut book = Book::new();
    let mut hearsay = Hearsay::default();
    (0..100).for_each(|number| book.write(came(number)));
    let bookmark = read_on(&mut hearsay, &book, Bookmark::default());
    book.clear();
    let bookmark = read_on(&mut hearsay, &book, bookmark);
    assert_eq!((hearsay.len(), bookmark), (0, Bookmark { volume: 2, line: 100 }));
    book.write(came(7));
    read_on(&mut hearsay, &book, bookmark);
    assert_eq!(known(&mut hearsay), [client(7)].into());
}

#[test]
fn a_chapter_after_a_gap_or_of_an_old_volume_or_read_before_changes_nothing() {
    let mut hearsay = Hearsay::default();
    let chapter = |volume, after, until, changes: &[Change]| Chapter {
        volume,
        after,
        until,
        changes: changes.to_vec(),
    };
    let at = |volume, line| Bookmark { volume, line };
    let me = leader(1);
    assert_eq!(hearsay.take(&me, chapter(2, 0, 1, &[came(1)])), at(2, 1));
    assert_eq!(hearsay.take(&me, chapter(2, 2, 3, &[came(3)])), at(2, 1));
    assert_eq!(hearsay.take(&me, chapter(1, 0, 9, &[came(9)])), at(2, 1));
    assert_eq!(hearsay.take(&me, chapter(2, 0, 1, &[came(8)])), at(2, 1));
    assert_eq!(hearsay.take(&me, chapter(3, 1, 2, &[came(7)])), at(2, 1));
    assert_eq!(hearsay.len(), 1);
    // Another process of the same node has another book.
    assert_eq!(hearsay.take(&leader(2), chapter(1, 0, 1, &[came(5)])), at(1, 1));
    assert_eq!(known(&mut hearsay), [client(5)].into());
}

#[test]
fn what_a_liar_tells_takes_no_more_room_than_what_an_honest_leader_might() {
    let mut hearsay = Hearsay::default();
    let most = CLIENTS_MAX + GONE_MAX;
    for line in 0..100_u32 {
        let changes = (0..255).map(|number| came(255 * line + number)).collect();
        let (after, until) = (line.into(), u64::from(line) + 1);
        hearsay.take(&leader(1), Chapter { volume: 1, after, until, changes });
        assert!(hearsay.len() <= most);
    }
    assert_eq!(hearsay.len(), most);
}

#[test]
fn what_another_leader_told_is_forgotten_when_a_new_one_leads() {
    let mut hearsay = Hearsay::default();
    let mut book = Book::new();
    book.write(came(1));
    read_on(&mut hearsay, &book, Bookmark::default());
    hearsay.follow(&leader(1).node);
    assert_eq!(hearsay.len(), 1);
    hearsay.follow(&NodeId::new("other").unwrap());
    assert_eq!(hearsay.len(), 0);
}

/// One reader behind a network that loses, doubles and reorders.
struct Correspondence {
    telling: Telling,
    hearsay: Hearsay,
    now: Instant,
    rng: fastrand::Rng,
    /// Out of a hundred; so many are lost, doubled and delayed.
    trouble: u32,
    chapters: Vec<(Instant, Chapter)>,
    bookmarks: Vec<(Instant, Bookmark)>,
    sent: usize,
}

impl Correspondence {
    fn new(seed: u64) -> Self {
        let name = NodeId::new("reader").unwrap();
        let mut telling = Telling::new([name.clone()].into_iter());
        telling.meet(&name, Some(Incarnation(1)));
        Self {
            telling,
            hearsay: Hearsay::default(),
            now: origin(),
            rng: fastrand::Rng::with_seed(seed),
            trouble: 0,
            chapters: Vec::new(),
            bookmarks: Vec::new(),
            sent: 0,
        }
    }

    fn reader(&self) -> NodeId {
        NodeId::new("reader").unwrap()
    }

    /// When each copy of something arrives.
    fn arrivals(&mut self) -> Vec<Instant> {
        let mut hit = || self.rng.u32(0..100) < self.trouble;
        let (lost, doubled, delayed) = (hit(), hit(), hit());
        let copies = if lost { 0 } else { 1 + usize::from(doubled) };
        let most = if delayed { 200 } else { 2 };
        (0..copies).map(|_| self.now + Duration::from_millis(self.rng.u64(1..=most))).collect()
    }

    fn step(&mut self) {
        let now = self.now;
        for (_, chapter) in self.chapters.extract_if(.., |(at, _)| *at <= now).collect::<Vec<_>>() {
            let bookmark = self.hearsay.take(&leader(1), chapter);
            let arrivals = self.arrivals();
            self.bookmarks.extend(arrivals.into_iter().map(|at| (at, bookmark)));
        }
        let reader = self.reader();
        for (_, bookmark) in self.bookmarks.extract_if(.., |(at, _)| *at <= now).collect::<Vec<_>>() {
            self.telling.heard(&reader, bookmark, now);
        }
        while let Some((_, chapter)) = self.telling.poll(now) {
            self.sent += 1;
            assert!(chapter.changes.iter().map(Chapter::bytes).sum::<usize>() <= Chapter::BYTES_MAX);
            let arrivals = self.arrivals();
            self.chapters.extend(arrivals.into_iter().map(|at| (at, chapter.clone())));
        }
        if !self.telling.book.is_blank() {
            assert!(self.telling.poll_timeout().unwrap() > now, "it would spin");
        }
        self.now += Duration::from_millis(1);
    }

    fn knows(&self, present: &BTreeSet<u32>) -> bool {
        self.hearsay.clients() == &present.iter().map(|number| client(*number)).collect()
    }

    /// Changes the book at random for a while, in whatever trouble.
    fn live(&mut self, present: &mut BTreeSet<u32>) {
        for _ in 0..self.rng.usize(1..400) {
            for _ in 0..self.rng.usize(0..20) {
                let number = self.rng.u32(0..2_000);
                let change = if present.remove(&number) {
                    gone(number)
                } else {
                    present.insert(number);
                    came(number)
                };
                self.telling.book.write(change);
            }
            match self.rng.u32(0..400) {
                // Followed another leader for a moment, or was started again.
                0 => self.hearsay = Hearsay::default(),
                // Didn't lead for a moment.
                1 => self.telling.rest(),
                2 => {
                    self.telling.book.clear();
                    present.clear();
                }
                _ => {}
            }
            self.step();
        }
    }
}

#[test]
fn readers_converge_whatever_is_lost_doubled_reordered_or_forgotten() {
    for seed in 0..100 {
        let mut correspondence = Correspondence::new(seed);
        let mut present = BTreeSet::new();
        for trouble in [0, 10, 40, 100] {
            correspondence.trouble = trouble;
            correspondence.live(&mut present);
        }
        correspondence.trouble = 0;
        let healed = correspondence.now;
        while !correspondence.knows(&present) {
            correspondence.step();
            let took = correspondence.now - healed;
            assert!(took < Duration::from_secs(4), "seed {seed}: not converged {took:?} after it healed");
        }
    }
}

#[test]
fn a_thousand_clients_are_told_in_some_round_trips_and_each_once() {
    let mut correspondence = Correspondence::new(1);
    let present: BTreeSet<u32> = (0..1_000).collect();
    present.iter().for_each(|number| correspondence.telling.book.write(came(*number)));
    let began = correspondence.now;
    while !correspondence.knows(&present) {
        correspondence.step();
    }
    let took = correspondence.now - began;
    assert!(took < Duration::from_millis(40), "{took:?}, of at most 2 ms each way");
    // 5 bytes each.
    assert!(correspondence.sent <= 1 + 1_000 * 5 / Chapter::BYTES_MAX + 2, "{}", correspondence.sent);
}

#[test]
fn who_has_read_all_is_asked_once_a_second_and_one_that_is_silent_no_more_often_in_the_end() {
    let mut correspondence = Correspondence::new(1);
    correspondence.telling.book.write(came(1));
    for _ in 0..5_000 {
        correspondence.step();
    }
    assert!((5..=8).contains(&correspondence.sent), "{}", correspondence.sent);

    correspondence.trouble = 100;
    correspondence.telling.book.write(came(2));
    correspondence.sent = 0;
    for _ in 0..10_000 {
        correspondence.step();
    }
    assert!((9..=20).contains(&correspondence.sent), "{}", correspondence.sent);
}

#[test]
fn one_that_hears_of_no_clients_is_told_nothing() {
    let mut correspondence = Correspondence::new(1);
    let reader = correspondence.reader();
    correspondence.telling.book.write(came(1));
    correspondence.telling.meet(&reader, None);
    assert_eq!(correspondence.telling.poll(correspondence.now), None);
    assert_eq!(correspondence.telling.poll_timeout(), None);
    correspondence.telling.meet(&reader, Some(Incarnation(2)));
    assert!(correspondence.telling.poll(correspondence.now).is_some());
}

proptest! {
    #[test]
    fn no_chapter_makes_a_reader_panic_or_go_back(
        chapters in prop::collection::vec((0_u64..4, 0_u64..9, 0_u64..9, prop::collection::vec(0_u32..9, 0..4)), 0..40),
    ) {
        let mut hearsay = Hearsay::default();
        let mut last = Bookmark::default();
        for (volume, one, other, numbers) in chapters {
            let changes = numbers.into_iter().map(|number| if number % 3 == 0 { gone(number) } else { came(number) });
            let (after, until) = (one.min(other), one.max(other));
            let read = hearsay.take(&leader(1), Chapter { volume, after, until, changes: changes.collect() });
            prop_assert!(read >= last);
            last = read;
        }
    }

    #[test]
    fn no_bookmark_makes_a_leader_panic_or_spin(bookmarks in prop::collection::vec(any::<(u64, u64)>(), 0..20)) {
        let mut correspondence = Correspondence::new(1);
        let reader = correspondence.reader();
        correspondence.telling.book.write(came(1));
        for (volume, line) in bookmarks {
            let now = correspondence.now;
            correspondence.telling.heard(&reader, Bookmark { volume: volume % 3, line: line % 3 }, now);
            correspondence.telling.heard(&reader, Bookmark { volume, line }, now);
            correspondence.step();
        }
    }
}
