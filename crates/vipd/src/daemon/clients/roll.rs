//! Which connections the peers are told of, and what has changed since they were told last.

use std::collections::{BTreeMap, BTreeSet};

use vip::tickle::Connection;

/// The connections that were there when the kernel was asked last, and those of them that the peers know.
#[derive(Debug)]
pub(super) struct Roll {
    /// How many the peers are told of.
    most: usize,
    /// With a number that rises from those that were seen early to those that were seen late.
    seen: BTreeMap<Connection, u64>,
    told: BTreeSet<Connection>,
    next: u64,
}

/// What to tell.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) came: Vec<Connection>,
    pub(super) gone: Vec<Connection>,
}

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        self.came.is_empty() && self.gone.is_empty()
    }
}

impl Roll {
    /// An empty one, for as many connections.
    pub(super) fn new(most: usize) -> Self {
        Self { most, seen: BTreeMap::new(), told: BTreeSet::new(), next: 0 }
    }

    /// Takes what is there now; gives what to tell, so that the latest ones are known.
    pub(super) fn take(&mut self, found: impl IntoIterator<Item = Connection>) -> Changes {
        let found: BTreeSet<Connection> = found.into_iter().collect();
        if self.seen.keys().eq(&found) {
            return Changes::default();
        }
        let next = self.next;
        self.next += 1;
        let number = |connection: &Connection| self.seen.get(connection).copied().unwrap_or(next);
        self.seen = found.into_iter().map(|connection| (connection, number(&connection))).collect();
        let tell = self.latest();
        let came = tell.difference(&self.told).copied().collect();
        let gone = self.told.difference(&tell).copied().collect();
        self.told = tell;
        Changes { came, gone }
    }

    /// How many are known to nobody else.
    pub(super) fn beyond(&self) -> usize {
        self.seen.len() - self.told.len()
    }

    fn latest(&self) -> BTreeSet<Connection> {
        let mut all: Vec<_> = self.seen.iter().map(|(connection, number)| (*number, *connection)).collect();
        if all.len() > self.most {
            let excess = all.len() - self.most;
            all.select_nth_unstable(excess);
            all.drain(..excess);
        }
        all.into_iter().map(|(_, connection)| connection).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn connection(port: u16) -> Connection {
        let vip = SocketAddr::from(([10, 0, 0, 162], 6443));
        Connection::new(SocketAddr::from(([10, 0, 0, 9], port)), vip).unwrap()
    }

    fn connections(ports: impl IntoIterator<Item = u16>) -> Vec<Connection> {
        ports.into_iter().map(connection).collect()
    }

    #[test]
    fn what_came_and_went_is_told_once() {
        let mut roll = Roll::new(9);
        let Changes { came, gone } = roll.take(connections([1, 2]));
        assert_eq!((came, gone), (connections([1, 2]), Vec::new()));
        assert!(roll.take(connections([2, 1])).is_empty());
        let Changes { came, gone } = roll.take(connections([2, 3]));
        assert_eq!((came, gone), (connections([3]), connections([1])));
        assert_eq!(roll.take([]).gone, connections([2, 3]));
    }

    #[test]
    fn of_more_than_there_is_room_for_the_latest_are_told_and_others_when_there_is_room() {
        let mut roll = Roll::new(4);
        roll.take(connections(1..=3));
        let Changes { came, gone } = roll.take(connections(1..=6));
        assert_eq!((came, gone.len(), roll.beyond()), (connections(4..=6), 2, 2));
        // The same again is no news, although not all of it was told.
        assert!(roll.take(connections(1..=6)).is_empty());
        let Changes { came, gone } = roll.take(connections([1, 2, 3, 6]));
        assert_eq!((came.len(), gone, roll.beyond()), (2, connections([4, 5]), 0));
    }
}
