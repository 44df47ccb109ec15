//! When a member shows that it lives.

use leader::message::Body;

use crate::rig::{HEARTBEAT, MS, One, node};

/// A member that wakes for nothing but its beat.
fn witness() -> One {
    let mut witness = One::with("abc", |config| {
        config.witnesses.insert(node('a'));
    });
    witness.election.handle_timeout(witness.now);
    witness.drain();
    witness
}

#[test]
fn a_beat_that_is_late_does_not_put_off_the_next() {
    let mut witness = witness();
    let due = witness.now + HEARTBEAT;
    assert_eq!(witness.election.poll_timeout(), Some(due));
    witness.election.handle_timeout(due + 3 * MS);
    assert_eq!(witness.drain(), [('b', Body::Alive), ('c', Body::Alive)]);
    assert_eq!(witness.election.poll_timeout(), Some(due + HEARTBEAT));
}

#[test]
fn beats_that_were_missed_are_not_caught_up_with() {
    for pause in [2 * HEARTBEAT, 1000 * HEARTBEAT, 1000 * HEARTBEAT + 7 * MS] {
        let mut witness = witness();
        let now = witness.now + pause;
        witness.election.handle_timeout(now);
        assert_eq!(witness.drain().len(), 2, "one to each");
        assert_eq!(witness.election.poll_timeout(), Some(now + HEARTBEAT));
    }
}

#[test]
fn who_was_sent_something_since_the_last_beat_needs_no_other_sign() {
    let mut witness = witness();
    witness.hears('b', Body::Canvass { round: leader::message::Round(1) });
    assert_eq!(witness.waits(HEARTBEAT), [('c', Body::Alive)]);
    assert_eq!(witness.waits(HEARTBEAT), [('b', Body::Alive), ('c', Body::Alive)]);
}
