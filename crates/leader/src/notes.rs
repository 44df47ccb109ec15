//! What members tell each other beside the election: one note of each, of which the latest counts.
//!
//! A note is some bytes that the program makes and reads; here they are cut into pages, one to a datagram, after those of the election.
//! No decision of that depends on any of it. Nothing is confirmed or sent again: a page that is lost is lost with its note, and the next note
//! comes soon.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use crate::node::{NodeId, Process};

/// A page has no more bytes: a datagram that carries one stays below
/// [`DATAGRAM_BYTES_MAX`](crate::wire::DATAGRAM_BYTES_MAX), with names and versions of any length.
pub(crate) const PAGE_BYTES_MAX: usize = 900;

/// A note has no more pages.
pub(crate) const PAGES_MAX: u8 = 16;

/// A note has no more bytes.
pub const NOTE_BYTES_MAX: usize = PAGE_BYTES_MAX * PAGES_MAX as usize;

/// A part of a note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// Which note of its writer's it is; later ones have higher numbers.
    pub(crate) note: u64,
    /// Its place, from 0.
    pub(crate) place: u8,
    /// How many pages the note has.
    pub(crate) of: u8,
    pub(crate) bytes: Vec<u8>,
}

/// A member's note, as it came last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// When its last page came.
    pub heard: Instant,
    /// What it says.
    pub bytes: Arc<[u8]>,
}

/// This member's note and those of the others.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    number: u64,
    own: Arc<[u8]>,
    /// The pages that are still to be sent, and to whom.
    outbox: VecDeque<(NodeId, u8)>,
    heard: BTreeMap<NodeId, Shelf>,
}

/// What has come of one member's notes.
#[derive(Debug)]
struct Shelf {
    writer: Process,
    number: u64,
    pages: Vec<Option<Vec<u8>>>,
    whole: Option<Note>,
}

impl Notes {
    /// Has a note told to these, in place of any that is still on its way. One that is too long isn't told.
    pub(crate) fn tell(&mut self, note: &[u8], to: impl Iterator<Item = NodeId>) {
        self.outbox.clear();
        if note.is_empty() || note.len() > NOTE_BYTES_MAX {
            return;
        }
        self.number += 1;
        self.own = note.into();
        let pages = self.pages();
        self.outbox.extend(to.flat_map(|to| (0..pages).map(move |place| (to.clone(), place))));
    }

    fn pages(&self) -> u8 {
        u8::try_from(self.own.len().div_ceil(PAGE_BYTES_MAX)).unwrap_or(PAGES_MAX)
    }

    /// The next page to send, and to whom.
    pub(crate) fn poll(&mut self) -> Option<(NodeId, Page)> {
        let (to, place) = self.outbox.pop_front()?;
        let bytes = self.own.chunks(PAGE_BYTES_MAX).nth(usize::from(place))?.to_vec();
        Some((to, Page { note: self.number, place, of: self.pages(), bytes }))
    }

    /// Takes a page; gives whether that makes a note whole.
    pub(crate) fn take(&mut self, writer: &Process, page: Page, now: Instant) -> bool {
        let Page { note, place, of, bytes } = page;
        let shelf = self.heard.entry(writer.node.clone()).or_insert_with(|| Shelf::new(writer.clone()));
        if shelf.writer != *writer {
            // A process that begins anew counts anew; what the one before said last still stands.
            *shelf = Shelf { whole: shelf.whole.take(), ..Shelf::new(writer.clone()) };
        }
        if note > shelf.number {
            (shelf.number, shelf.pages) = (note, vec![None; usize::from(of)]);
        }
        // Of an older note, which nobody needs any more, or of one that is whole.
        if note < shelf.number || shelf.pages.len() != usize::from(of) {
            return false;
        }
        if let Some(free) = shelf.pages.get_mut(usize::from(place)) {
            *free = Some(bytes);
        }
        if shelf.pages.iter().any(Option::is_none) {
            return false;
        }
        let bytes: Vec<u8> = std::mem::take(&mut shelf.pages).into_iter().flatten().flatten().collect();
        shelf.whole = Some(Note { heard: now, bytes: bytes.into() });
        true
    }

    /// The notes of the others.
    pub(crate) fn heard(&self) -> impl Iterator<Item = (&NodeId, &Note)> {
        self.heard.iter().filter_map(|(name, shelf)| Some((name, shelf.whole.as_ref()?)))
    }
}

impl Shelf {
    fn new(writer: Process) -> Self {
        Self { writer, number: 0, pages: Vec::new(), whole: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Incarnation;

    fn process(name: &str, incarnation: u64) -> Process {
        Process { node: NodeId::new(name).unwrap(), incarnation: Incarnation(incarnation) }
    }

    fn now() -> Instant {
        crate::clock::now()
    }

    /// The pages of a note as they would be sent to one member.
    fn pages(notes: &mut Notes, text: &[u8]) -> Vec<Page> {
        notes.tell(text, [NodeId::new("b").unwrap()].into_iter());
        std::iter::from_fn(|| notes.poll().map(|(_, page)| page)).collect()
    }

    fn heard(notes: &Notes) -> Option<Vec<u8>> {
        notes.heard().next().map(|(_, note)| note.bytes.to_vec())
    }

    fn text(length: usize) -> Vec<u8> {
        (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect()
    }

    #[test]
    fn a_note_comes_whole_in_whatever_order_its_pages_come() {
        let (mut writer, mut reader) = (Notes::default(), Notes::default());
        let a = process("a", 7);
        for length in [1, PAGE_BYTES_MAX, PAGE_BYTES_MAX + 1, NOTE_BYTES_MAX] {
            let mut sent = pages(&mut writer, &text(length));
            assert!(sent.iter().all(|page| page.bytes.len() <= PAGE_BYTES_MAX));
            sent.reverse();
            let last = sent.pop().unwrap();
            for page in sent {
                assert!(!reader.take(&a, page.clone(), now()));
                assert!(!reader.take(&a, page, now()), "a copy adds nothing");
            }
            assert!(reader.take(&a, last.clone(), now()));
            assert!(!reader.take(&a, last, now()), "it is whole already");
            assert_eq!(heard(&reader), Some(text(length)));
        }
    }

    #[test]
    fn what_is_empty_or_too_long_is_not_told() {
        let mut writer = Notes::default();
        assert!(pages(&mut writer, &[]).is_empty());
        assert!(pages(&mut writer, &text(NOTE_BYTES_MAX + 1)).is_empty());
    }

    #[test]
    fn a_lost_page_costs_its_note_and_an_older_one_changes_nothing() {
        let (mut writer, mut reader) = (Notes::default(), Notes::default());
        let a = process("a", 7);
        let first = pages(&mut writer, &text(PAGE_BYTES_MAX * 2));
        let second = pages(&mut writer, b"second");
        assert!(!reader.take(&a, first[0].clone(), now()));
        assert!(reader.take(&a, second[0].clone(), now()));
        assert!(!reader.take(&a, first[1].clone(), now()));
        assert_eq!(heard(&reader), Some(b"second".to_vec()));
    }

    #[test]
    fn pages_of_two_notes_make_none() {
        let (mut writer, mut reader) = (Notes::default(), Notes::default());
        let a = process("a", 7);
        let first = pages(&mut writer, &text(PAGE_BYTES_MAX * 2));
        let second = pages(&mut writer, &text(PAGE_BYTES_MAX + 9));
        assert!(!reader.take(&a, second[0].clone(), now()));
        assert!(!reader.take(&a, first[1].clone(), now()), "it was late");
        assert_eq!(heard(&reader), None);
        assert!(reader.take(&a, second[1].clone(), now()));
        assert_eq!(heard(&reader), Some(text(PAGE_BYTES_MAX + 9)));
    }

    #[test]
    fn a_new_process_is_heard_although_it_counts_anew_and_the_old_note_stands_until_then() {
        let mut reader = Notes::default();
        let mut old = Notes::default();
        for _ in 0..3 {
            pages(&mut old, b"?");
        }
        reader.take(&process("a", 7), pages(&mut old, b"old")[0].clone(), now());
        let pages = pages(&mut Notes::default(), &text(PAGE_BYTES_MAX + 1));
        assert!(!reader.take(&process("a", 8), pages[0].clone(), now()));
        assert_eq!(heard(&reader), Some(b"old".to_vec()));
        assert!(reader.take(&process("a", 8), pages[1].clone(), now()));
        assert_eq!(heard(&reader), Some(text(PAGE_BYTES_MAX + 1)));
    }

    #[test]
    fn pages_that_contradict_each_other_make_nothing() {
        let mut reader = Notes::default();
        let a = process("a", 7);
        let page = |place, of| Page { note: 1, place, of, bytes: vec![1] };
        assert!(!reader.take(&a, page(0, 2), now()));
        assert!(!reader.take(&a, page(0, 1), now()), "it said two");
        assert!(!reader.take(&a, page(2, 2), now()), "there is no third");
        assert_eq!(heard(&reader), None);
    }
}
