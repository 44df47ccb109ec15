//! The leader's book of its own clients.

use std::collections::{BTreeMap, BTreeSet};

use super::{Bookmark, CLIENTS_MAX, Change, Chapter, Client};

/// With more lines that only say who went, a new volume is shorter: so many changes pass before all is told once more.
pub(crate) const GONE_MAX: usize = CLIENTS_MAX;

/// Numbered lines of who came and who went, without those that later ones make needless.
#[derive(Debug)]
pub(crate) struct Book {
    volume: u64,
    last: u64,
    lines: BTreeMap<u64, Change>,
    /// Those who are there, with the lines that say so.
    present: BTreeMap<Client, u64>,
    /// These lines, the oldest first.
    came: BTreeSet<u64>,
    forgotten: u64,
}

impl Book {
    /// An empty book.
    pub(crate) fn new() -> Self {
        Self {
            volume: 1,
            last: 0,
            lines: BTreeMap::new(),
            present: BTreeMap::new(),
            came: BTreeSet::new(),
            forgotten: 0,
        }
    }

    /// Writes a change down, if it is one.
    pub(crate) fn write(&mut self, change: Change) {
        let is_there = self.present.contains_key(change.client());
        match change {
            Change::Came(client) if !is_there => {
                self.enter(client);
                self.forget_the_oldest();
            }
            Change::Came(_) => {}
            // Nothing, if it isn't there.
            Change::Gone(client) => self.strike(&client),
        }
        if self.lines.len() - self.present.len() > GONE_MAX {
            self.begin_volume();
        }
    }

    /// Says that nobody is there.
    pub(crate) fn clear(&mut self) {
        if !self.lines.is_empty() {
            self.present.clear();
            self.came.clear();
            self.begin_volume();
        }
    }

    /// What comes after a place in it, as much as fits into a datagram.
    pub(crate) fn chapter(&self, after: Bookmark) -> Chapter {
        let after = if after.volume == self.volume { after.line.min(self.last) } else { 0 };
        let (mut room, mut changes, mut until) = (Chapter::BYTES_MAX, Vec::new(), self.last);
        for (line, change) in self.lines.range(after + 1..) {
            let left = room.checked_sub(Chapter::bytes(change));
            let Some(left) = left.filter(|_| changes.len() < Chapter::CHANGES_MAX) else {
                until = line - 1;
                break;
            };
            room = left;
            changes.push(change.clone());
        }
        Chapter { volume: self.volume, after, until, changes }
    }

    /// Where it ends.
    pub(crate) fn end(&self) -> Bookmark {
        Bookmark { volume: self.volume, line: self.last }
    }

    /// Whether nothing was ever written.
    pub(crate) fn is_blank(&self) -> bool {
        self.end() == Bookmark { volume: 1, line: 0 }
    }

    /// How many are there.
    pub(crate) fn len(&self) -> usize {
        self.present.len()
    }

    /// How many were there and had to be forgotten.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    #[cfg(test)]
    pub(super) fn lines(&self) -> usize {
        self.lines.len()
    }

    fn add(&mut self, change: Change) -> u64 {
        self.last += 1;
        self.lines.insert(self.last, change);
        self.last
    }

    fn enter(&mut self, client: Client) {
        let line = self.add(Change::Came(client.clone()));
        self.came.insert(line);
        self.present.insert(client, line);
    }

    /// Notes that one went, in place of that it came.
    fn strike(&mut self, client: &Client) {
        if let Some(line) = self.present.remove(client) {
            self.came.remove(&line);
            self.lines.remove(&line);
            self.add(Change::Gone(client.clone()));
        }
    }

    fn forget_the_oldest(&mut self) {
        if self.present.len() > CLIENTS_MAX
            && let Some(oldest) = self.came.first().and_then(|line| self.lines.get(line))
        {
            let oldest = oldest.client().clone();
            self.strike(&oldest);
            self.forgotten += 1;
        }
    }

    /// Begins again with those who are there: with their lines, and without those of who went.
    fn begin_volume(&mut self) {
        self.volume += 1;
        self.lines.retain(|line, _| self.came.contains(line));
    }
}
