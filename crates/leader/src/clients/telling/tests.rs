//! When something is told, and when once more: to one reader, whose answers come as the test says.

use super::*;
use crate::clients::{Change, Client};

const MS: Duration = Duration::from_millis(1);

struct One {
    telling: Telling,
    reader: NodeId,
    now: Instant,
}

impl One {
    /// A reader of a book with so many clients of 40 bytes each: 21 of them fill a chapter.
    fn new(clients: u16) -> Self {
        let reader = NodeId::new("reader").unwrap();
        let mut telling = Telling::new([reader.clone()].into_iter());
        telling.meet(&reader, Some(Incarnation(1)));
        let mut one = Self { telling, reader, now: crate::clock::now() };
        (0..clients).for_each(|number| one.comes(number));
        one
    }

    fn comes(&mut self, number: u16) {
        self.telling.book.write(Change::Came(Client::new(&number.to_be_bytes().repeat(20)).unwrap()));
    }

    /// All that is sent now: the places up to which each tells.
    fn sends(&mut self) -> Vec<u64> {
        std::iter::from_fn(|| self.telling.poll(self.now)).map(|(_, chapter)| chapter.until).collect()
    }

    fn hears(&mut self, line: u64) {
        let volume = self.telling.book.end().volume;
        self.telling.heard(&self.reader, Bookmark { volume, line }, self.now);
    }

    /// For how long nothing is to be sent.
    fn rests(&self) -> Duration {
        self.telling.poll_timeout().unwrap() - self.now
    }
}

#[test]
fn one_who_has_said_nothing_is_asked_where_it_is_and_less_and_less_often() {
    let mut one = One::new(1);
    for pause in [50, 100, 200, 400, 800, 1000, 1000] {
        assert_eq!(one.sends(), [1]);
        assert_eq!(one.rests(), pause * MS);
        one.now += one.rests() - MS;
        assert_eq!(one.sends(), [0; 0]);
        one.now += MS;
    }
}

#[test]
fn what_is_on_its_way_doubles_with_each_answer_and_begins_with_one_after_a_loss() {
    let mut one = One::new(21 * 11);
    assert_eq!(one.sends(), [231], "the question");
    one.hears(0);
    assert_eq!(one.sends(), [21]);
    assert_eq!(one.rests(), PATIENCE);
    one.now += 10 * MS;
    one.hears(21);
    assert_eq!(one.rests(), PATIENCE);
    assert_eq!(one.sends(), [42, 63]);
    one.hears(42);
    assert_eq!(one.sends(), [84, 105, 126]);
    one.hears(126);
    assert_eq!(one.sends(), [147, 168, 189, 210, 231], "no more than eight, and there are five");
    one.now += PATIENCE;
    assert_eq!(one.sends(), [147], "all are taken for lost");
    assert_eq!(one.rests(), 2 * PATIENCE);
    one.now += one.rests();
    assert_eq!(one.sends(), [147]);
    assert_eq!(one.rests(), 4 * PATIENCE);
    one.hears(147);
    assert_eq!(one.rests(), PATIENCE, "it is there again");
}

#[test]
fn no_more_than_eight_are_on_their_way() {
    let mut one = One::new(21 * 30);
    one.hears(0);
    for at_once in [1, 2, 4, 8, 8] {
        let sent = one.sends();
        assert_eq!(sent.len(), at_once);
        one.hears(sent[at_once - 1]);
    }
}

/// Its answers to what was sent before may come late, and are no sign of a loss.
#[test]
fn one_that_says_the_same_again_is_sent_nothing_again() {
    let mut one = One::new(21 * 3);
    one.hears(0);
    assert_eq!(one.sends(), [21]);
    one.now += 10 * MS;
    one.hears(0);
    assert_eq!(one.sends(), [0; 0]);
    assert_eq!(one.rests(), PATIENCE - 10 * MS);
    // It is somewhere else altogether: it began anew.
    one.hears(21);
    one.sends();
    one.hears(5);
    assert_eq!(one.sends(), [26], "one, from there");
}

#[test]
fn one_that_has_read_all_is_asked_once_a_second_and_told_at_once_what_comes() {
    let mut one = One::new(1);
    one.sends();
    one.hears(1);
    assert_eq!(one.sends(), [0; 0]);
    assert_eq!(one.rests(), ASK_INTERVAL);
    one.comes(2);
    assert_eq!(one.sends(), [2]);
    assert_eq!(one.rests(), PATIENCE);
}

#[test]
fn who_leads_no_more_forgets_where_readers_were_and_who_has_nothing_to_tell_asks_nobody() {
    let mut one = One::new(0);
    assert_eq!(one.sends(), [0; 0]);
    assert_eq!(one.telling.poll_timeout(), None);
    one.comes(1);
    assert_eq!(one.sends(), [1]);
    one.telling.rest();
    assert_eq!(one.sends(), [1], "asked, and never heard: it is asked anew");
    one.hears(1);
    assert_eq!(one.sends(), [0; 0]);
    one.telling.rest();
    assert_eq!(one.sends(), [1]);
}
