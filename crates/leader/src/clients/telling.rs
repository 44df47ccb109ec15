//! The leader's part: who has read how far, and what to send next.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::{Book, Bookmark, Chapter};
use crate::node::{Incarnation, NodeId};

/// What nobody confirmed is sent again after so long: many times what a datagram takes there and back.
const PATIENCE: Duration = Duration::from_millis(50);

/// A reader that confirms nothing is asked less and less often, and one that has read all is asked where it is this often.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// Chapters on their way to a reader: a member sends no more of them at a time, which takes it less than a tenth of a
/// millisecond, and they are far fewer than a session may lose track of.
const WINDOW_MAX: usize = 8;

/// The leader's clients, and what each of the others knows of them.
#[derive(Debug)]
pub(crate) struct Telling {
    pub(crate) book: Book,
    readers: BTreeMap<NodeId, Reader>,
}

/// Another member.
#[derive(Debug)]
struct Reader {
    /// `None`: it never proved to be alive, or runs a version that doesn't hear of clients.
    process: Option<Incarnation>,
    /// `None`: it has not said yet.
    read: Option<Bookmark>,
    /// The ends of chapters that are on their way.
    sent: VecDeque<Bookmark>,
    window: usize,
    /// When it is asked, or what was sent is sent again.
    due: Option<Instant>,
    patience: Duration,
}

impl Telling {
    /// Nothing to tell yet.
    pub(crate) fn new(readers: impl Iterator<Item = NodeId>) -> Self {
        Self { book: Book::new(), readers: readers.map(|reader| (reader, Reader::new(None))).collect() }
    }

    /// Notes which process of a member hears of clients, if one does.
    pub(crate) fn meet(&mut self, reader: &NodeId, process: Option<Incarnation>) {
        if let Some(reader) = self.readers.get_mut(reader).filter(|reader| reader.process != process) {
            *reader = Reader::new(process);
        }
    }

    /// This member doesn't lead: where the readers are when it leads again, they have to say anew.
    pub(crate) fn rest(&mut self) {
        for reader in self.readers.values_mut().filter(|reader| reader.read.is_some() || reader.due.is_some())
        {
            *reader = Reader::new(reader.process);
        }
    }

    /// Hears how far a reader is.
    pub(crate) fn heard(&mut self, reader: &NodeId, bookmark: Bookmark, now: Instant) {
        let end = self.book.end();
        if let Some(reader) = self.readers.get_mut(reader) {
            reader.heard(bookmark, end, now);
        }
    }

    /// The next chapter to send, and to whom.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<(NodeId, Chapter)> {
        if self.book.is_blank() {
            return None;
        }
        let book = &self.book;
        self.readers.iter_mut().find_map(|(name, reader)| Some((name.clone(), reader.poll(book, now)?)))
    }

    /// When to poll again, if nobody is heard before.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        if self.book.is_blank() {
            return None;
        }
        self.readers.values().filter(|reader| reader.process.is_some()).filter_map(|reader| reader.due).min()
    }
}

impl Reader {
    fn new(process: Option<Incarnation>) -> Self {
        Self { process, read: None, sent: VecDeque::new(), window: 1, due: None, patience: PATIENCE }
    }

    fn heard(&mut self, bookmark: Bookmark, end: Bookmark, now: Instant) {
        match self.sent.iter().position(|sent| *sent == bookmark) {
            Some(at) => {
                self.sent.drain(..=at);
                self.window = (2 * self.window).min(WINDOW_MAX);
            }
            // It says the same again; what is on its way may still come.
            None if self.read == Some(bookmark) && !self.sent.is_empty() => return,
            None => {
                self.sent.clear();
                self.window = 1;
            }
        }
        self.read = Some(bookmark);
        self.patience = PATIENCE;
        self.due = Some(now + if bookmark == end { ASK_INTERVAL } else { PATIENCE });
    }

    fn poll(&mut self, book: &Book, now: Instant) -> Option<Chapter> {
        self.process?;
        let is_due = self.due.is_none_or(|due| due <= now);
        let Some(read) = self.read else { return is_due.then(|| self.ask(book, now)) };
        if is_due && !self.sent.is_empty() {
            self.sent.clear();
            self.window = 1;
            self.patience = (2 * self.patience).min(ASK_INTERVAL);
        }
        let after = self.sent.back().copied().unwrap_or(read);
        if after == book.end() {
            return is_due.then(|| self.ask(book, now));
        }
        if self.sent.len() >= self.window {
            return None;
        }
        if self.sent.is_empty() {
            self.due = Some(now + self.patience);
        }
        let chapter = book.chapter(after);
        self.sent.push_back(Bookmark { volume: chapter.volume, line: chapter.until });
        Some(chapter)
    }

    /// An empty chapter: the answer tells where the reader is.
    fn ask(&mut self, book: &Book, now: Instant) -> Chapter {
        self.due = Some(now + self.patience);
        self.patience = (2 * self.patience).min(ASK_INTERVAL);
        let Bookmark { volume, line } = book.end();
        Chapter { volume, after: line, until: line, changes: Vec::new() }
    }
}

#[cfg(test)]
mod tests;
