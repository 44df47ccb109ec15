//! What a follower was told of the leader's clients.

use std::collections::BTreeSet;

use super::book::GONE_MAX;
use super::{Bookmark, CLIENTS_MAX, Change, Chapter, Client};
use crate::node::{NodeId, Process};

/// Whoever is there by an honest leader's book, and those of whom it says only later that they went.
const HEARD_MAX: usize = CLIENTS_MAX + GONE_MAX;

/// The clients of one leader, as it told them.
#[derive(Debug, Default)]
pub(crate) struct Hearsay {
    of: Option<Process>,
    read: Bookmark,
    clients: BTreeSet<Client>,
}

impl Hearsay {
    /// Takes a chapter of the one that leads; gives the bookmark to answer with.
    pub(crate) fn take(&mut self, leader: &Process, chapter: Chapter) -> Bookmark {
        if self.of.as_ref() != Some(leader) {
            self.forget();
            self.of = Some(leader.clone());
        }
        let Chapter { volume, after, until, changes } = chapter;
        if volume > self.read.volume && after == 0 {
            self.clients.clear();
            self.read = Bookmark { volume, line: 0 };
        }
        // One that overlaps what was read is good too; a gap isn't.
        if volume == self.read.volume && after <= self.read.line && self.read.line < until {
            self.read.line = until;
            changes.into_iter().for_each(|change| self.apply(change));
        }
        self.read
    }

    /// Hears who leads: what another told is worth nothing any more.
    pub(crate) fn follow(&mut self, leader: &NodeId) {
        if self.of.as_ref().is_some_and(|of| of.node != *leader) {
            self.forget();
        }
    }

    /// Gives everything away.
    pub(crate) fn inherit(&mut self) -> Vec<Client> {
        let clients = std::mem::take(&mut self.clients);
        self.forget();
        clients.into_iter().collect()
    }

    /// How many clients it knows of.
    pub(crate) fn len(&self) -> usize {
        self.clients.len()
    }

    #[cfg(test)]
    pub(super) fn clients(&self) -> &BTreeSet<Client> {
        &self.clients
    }

    fn forget(&mut self) {
        *self = Self::default();
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Came(client) => {
                if self.clients.len() < HEARD_MAX {
                    self.clients.insert(client);
                }
            }
            Change::Gone(client) => {
                self.clients.remove(&client);
            }
        }
    }
}
