//! The moves of an address as all nodes together know them.
//!
//! Each node remembers the moves that it saw, and only the new owner knows why one came about and how long it took. Ages are by each
//! node's own clock, so they are the same everywhere but for the way of a datagram.

use super::owner::{Move, Owner};
use crate::daemon::moves::MOVES_MAX;

/// Two nodes mean the same move if they see it no further apart: leases are shorter, and two moves to the same node are not as close.
const APART_MS: u64 = 3000;

/// What `nodes` know of the moves of the address that `owner` has an eye on, the last first. Each comes once, with the age of what it says.
pub(crate) fn timeline<'a>(owner: &Owner, nodes: impl Iterator<Item = (u64, &'a Owner)>) -> Vec<Move> {
    let mut known: Vec<Move> = owner.moves.clone();
    for (age, other) in nodes.filter(|(_, other)| other.addresses == owner.addresses) {
        // A node remembers no more, whatever it says: each is compared with all that are known, on the main loop.
        for this in other.moves.iter().take(MOVES_MAX) {
            let ago_ms = this.ago_ms.saturating_add(age);
            let this = Move { ago_ms, ..this.clone() };
            match known.iter_mut().find(|seen| is_same(seen, &this)) {
                // Whoever got the address knows best.
                Some(seen) if knows_more(&this, seen) => *seen = this,
                Some(_) => {}
                None => known.push(this),
            }
        }
    }
    known.sort_by_key(|this| this.ago_ms);
    known
}

fn is_same(one: &Move, other: &Move) -> bool {
    one.to == other.to && one.ago_ms.abs_diff(other.ago_ms) <= APART_MS
}

fn knows_more(this: &Move, than: &Move) -> bool {
    let knowledge = |this: &Move| (this.took_ms.is_some(), this.reason != "unknown", this.from.is_some());
    knowledge(this) > knowledge(than)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Snapshot;

    fn seen(from: Option<&str>, to: &str, reason: &str, ago_ms: u64, took_ms: Option<u64>) -> Move {
        Move { from: from.map(str::to_owned), to: to.to_owned(), reason: reason.to_owned(), ago_ms, took_ms }
    }

    fn owner(moves: Vec<Move>) -> Owner {
        let snapshot: Snapshot = serde_json::from_str(include_str!("sample.json")).unwrap();
        Owner { moves, ..snapshot.owners.into_iter().next().unwrap() }
    }

    #[test]
    fn the_new_owner_tells_why_and_how_long_and_nobody_tells_a_move_twice() {
        let here = owner(vec![
            seen(Some("b"), "c", "unknown", 1000, None),
            seen(Some("a"), "b", "unknown", 60_000, None),
        ]);
        let c = owner(vec![
            seen(Some("b"), "c", "silent", 900, Some(171)),
            seen(Some("a"), "b", "unknown", 59_900, None),
        ]);
        let b = owner(vec![
            seen(Some("a"), "b", "stopped", 59_950, Some(4)),
            seen(None, "a", "first", 3_600_000, None),
        ]);
        let merged = timeline(&here, [(80, &c), (30, &b)].into_iter());
        assert_eq!(
            merged,
            [
                seen(Some("b"), "c", "silent", 980, Some(171)),
                seen(Some("a"), "b", "stopped", 59_980, Some(4)),
                seen(None, "a", "first", 3_600_030, None),
            ]
        );
    }

    #[test]
    fn two_moves_to_the_same_node_stay_two_and_other_addresses_are_others() {
        let here = owner(vec![seen(Some("a"), "b", "silent", 500, Some(100))]);
        let other = owner(vec![seen(Some("c"), "b", "silent", 9000, Some(120))]);
        assert_eq!(timeline(&here, [(0, &other)].into_iter()).len(), 2);
        let elsewhere = Owner { addresses: vec!["10.9.9.9/32".to_owned()], ..other };
        assert_eq!(timeline(&here, [(0, &elsewhere)].into_iter()).len(), 1);
    }

    #[test]
    fn a_node_that_tells_of_moves_without_end_is_heard_no_longer_than_others() {
        let apart = |place: u64| seen(None, &format!("{place}"), "first", place * 2 * APART_MS, None);
        let endless = owner((0..100_000).map(apart).collect());
        assert_eq!(timeline(&owner(Vec::new()), [(0, &endless)].into_iter()).len(), MOVES_MAX);
    }
}
