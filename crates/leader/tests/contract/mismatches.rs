//! What is counted and said of datagrams that don't count, and which of them are signs of a peer all the same.

use std::{collections::BTreeMap, time::Duration};

use leader::{
    Term,
    member::{Config, ConfigError, Member},
    message::Version,
    peers::{Dropped, Mismatch},
    quorum::TieBreak,
};

use crate::{
    recordings::{Tape, address, member, member_config},
    rig::{LEASE, NS, config, node, origin},
};

/// What was wrong with a peer is forgotten after so long without it.
const MEMORY: Duration = Duration::from_mins(1);

/// A member of two, between which the segment decides.
fn tied(me: char, incarnation: u64, tape: &Tape) -> Member {
    let other = if me == 'a' { 'b' } else { 'a' };
    let mut quorum = config(me, "ab");
    quorum.tie_break = Some(TieBreak::named("gateway"));
    let peers = BTreeMap::from([(node(other), address(other))]);
    let config = Config { quorum, peers, ..member_config(me) };
    Member::new(&config, incarnation, 7, tape.now).unwrap()
}

/// Two that know each other.
fn pair() -> Tape {
    let mut tape = Tape::new();
    tape.members = ['a', 'b'].map(|name| (address(name), tied(name, 1, &tape))).into();
    tape.wait(2 * LEASE);
    tape
}

/// The last datagram from b to a, which is about the election.
fn last_of_b(tape: &Tape) -> Vec<u8> {
    let recorded = tape.recorded.iter().rev();
    let mut of_b = recorded.filter(|(from, to, _)| (*from, *to) == (address('b'), address('a')));
    of_b.next().unwrap().2.clone()
}

/// Whether a takes this for a sign of b, shortly after another.
fn is_sign(tape: &mut Tape, datagram: &[u8]) -> bool {
    let now = tape.now;
    let a = tape.member('a');
    // This one may be answered by a challenge.
    a.handle_datagram(address('b'), datagram, now + NS);
    let before = a.election.clone();
    a.handle_datagram(address('b'), datagram, now + 2 * NS);
    a.election != before
}

#[test]
fn a_copy_of_what_was_taken_is_no_sign_of_a_peer() {
    let mut tape = pair();
    let copy = last_of_b(&tape);
    let before = tape.member('a').dropped();
    assert!(!is_sign(&mut tape, &copy));
    let latest = Some(address('b'));
    assert_eq!(tape.member('a').dropped(), Dropped { stale: before.stale + 2, latest, ..before });
}

#[test]
fn mail_for_a_predecessor_is_a_sign_of_its_sender() {
    let mut tape = pair();
    let mail = last_of_b(&tape);
    let reborn = tied('a', 2, &tape);
    tape.members.insert(address('a'), reborn);
    tape.wait(2 * LEASE);
    assert!(is_sign(&mut tape, &mail));
}

#[test]
fn a_process_that_can_not_prove_to_be_alive_gives_signs() {
    let mut tape = pair();
    let reborn = tied('b', 2, &tape);
    tape.members.insert(address('b'), reborn);
    // Its proofs get lost, so that it knows a's process, and a doesn't know it.
    tape.on_the_way = |from, _, bytes| from != address('b') || bytes[2] != 2;
    tape.wait(2 * LEASE);
    let word = last_of_b(&tape);
    let before = tape.member('a').dropped();
    assert!(is_sign(&mut tape, &word));
    let latest = Some(address('b'));
    assert_eq!(tape.member('a').dropped(), Dropped { stale: before.stale + 2, latest, ..before });
}

#[test]
fn each_datagram_that_is_dropped_is_counted_by_its_reason() {
    let mut a = member('a', 1, origin());
    for times in 1..=3 {
        a.handle_datagram(([10, 0, 1, 1], 7).into(), &[1, 0, 3, 0], origin());
        a.handle_datagram(address('b'), &[1, 0, 3, 0], origin());
        let latest = Some(address('b'));
        assert_eq!(a.dropped(), Dropped { strangers: times, unreadable: times, stale: 0, latest });
    }
}

#[test]
fn a_complaint_is_made_again_when_its_reason_changes_or_has_been_away_for_long() {
    let (mut a, t0) = (member('a', 1, origin()), origin());
    let mut complaints = |datagram: &[u8], at| {
        a.handle_datagram(address('b'), datagram, t0 + at);
        std::iter::from_fn(|| a.poll_complaint()).count()
    };
    let (unsigned, other_version) = ([1, 0, 3, 0], [9, 0, 3, 0]);
    assert_eq!(complaints(&unsigned, NS), 1);
    assert_eq!(complaints(&unsigned, MEMORY), 0);
    assert_eq!(complaints(&other_version, MEMORY), 1);
    assert_eq!(complaints(&unsigned, MEMORY), 1);
    assert_eq!(complaints(&unsigned, 2 * MEMORY), 1);
}

#[test]
fn no_more_complaints_wait_than_there_are_peers() {
    let (mut a, t0) = (member('a', 1, origin()), origin());
    for version in 2..20 {
        a.handle_datagram(address('b'), &[version, 0, 3, 0], t0);
    }
    assert_eq!(std::iter::from_fn(|| a.poll_complaint()).count(), 2);
}

#[test]
fn what_is_wrong_with_a_peer_is_said_with_the_way_out() {
    let (short, long) = (LEASE, 2 * LEASE);
    let texts = [
        (
            Mismatch::WireVersion { theirs: 9 },
            "speaks version 9 of the peer protocol; run releases that are next to each other",
        ),
        (Mismatch::Malformed, "sends datagrams that make no sense; is something else using its port?"),
        (Mismatch::Unsigned, "does not sign its messages; give it the peer keys of this node"),
        (Mismatch::Signed { key: 2 }, "signs with key 2, and this node has no peer key; give it that key"),
        (Mismatch::UnknownKey { key: 3 }, "signs with key 3, which this node lacks; add the key here first"),
        (
            Mismatch::BadSignature { key: 4 },
            "has another secret for key 4; copy the same key file to all nodes",
        ),
        (Mismatch::Name { theirs: node('x') }, "calls itself x; use the same name on all nodes"),
        (
            Mismatch::Lease { theirs: long, ours: short },
            "has a lease of 200ms, longer than 100ms here, and gets no vote; use one timing on all nodes",
        ),
        (
            Mismatch::Lease { theirs: short, ours: long },
            "has a lease of 100ms, shorter than 200ms here; use one timing on all nodes",
        ),
        (
            Mismatch::Members,
            "has members that differ from this node's by more than one, and gets no vote; \
             list the same members on all nodes, and change one member at a time",
        ),
    ];
    for (mismatch, text) in texts {
        assert_eq!(mismatch.to_string(), text);
    }
}

#[test]
fn what_differs_is_the_keys_or_what_the_two_are_configured_for() {
    let keys = [
        Mismatch::Unsigned,
        Mismatch::Signed { key: 1 },
        Mismatch::UnknownKey { key: 1 },
        Mismatch::BadSignature { key: 1 },
    ];
    let others = [
        Mismatch::WireVersion { theirs: 9 },
        Mismatch::Malformed,
        Mismatch::Name { theirs: node('x') },
        Mismatch::Lease { theirs: LEASE, ours: LEASE },
        Mismatch::Members,
        Mismatch::Witness { theirs: true },
        Mismatch::TieBreak,
        Mismatch::Subject,
    ];
    assert!(keys.iter().all(Mismatch::is_of_keys));
    assert!(!others.iter().any(Mismatch::is_of_keys));
}

#[test]
fn a_term_and_a_version_read_as_what_they_are() {
    assert_eq!(Term(17).to_string(), "17");
    assert_eq!(Version::new("1.2.3").to_string(), "1.2.3");
}

#[test]
fn each_peer_has_an_address_and_nobody_else_has() {
    let refused = |change: &dyn Fn(&mut Config)| {
        let mut config = member_config('a');
        change(&mut config);
        config.check().unwrap_err()
    };
    assert_eq!(member_config('a').check(), Ok(()));
    let wrong = |name, what| ConfigError::Address { node: node(name), what };
    let stranger = "given, but it is no other member";
    assert_eq!(
        refused(&|config| {
            config.peers.insert(node('x'), address('x'));
        }),
        wrong('x', stranger)
    );
    assert_eq!(
        refused(&|config| {
            config.peers.insert(node('a'), address('a'));
        }),
        wrong('a', stranger)
    );
    assert_eq!(
        refused(&|config| {
            config.peers.remove(&node('c'));
        }),
        wrong('c', "missing")
    );
    let same = ConfigError::SameAddress { one: node('b'), other: node('c') };
    assert_eq!(
        refused(&|config| {
            config.peers.insert(node('c'), address('b'));
        }),
        same
    );
    let keys = member_config('a').keys;
    assert_eq!(refused(&|config| config.keys.extend(keys.clone())), ConfigError::SameKey { id: 1 });
}

#[test]
fn what_is_overheard_is_judged_and_changes_nothing() {
    let mut tape = Tape::new();
    tape.wait(2 * LEASE);
    let datagram = last_of_b(&tape);
    let a = tape.member('a');
    let before = a.dropped();
    assert_eq!(a.overhear(address('b'), &datagram), Some((node('b'), None)));
    let named = Some(Mismatch::Name { theirs: node('b') });
    assert_eq!(a.overhear(address('c'), &datagram), Some((node('c'), named)));
    assert_eq!(a.overhear(([10, 0, 1, 1], 7).into(), &datagram), None);
    assert_eq!(a.dropped(), before);
}

#[test]
fn only_who_was_heard_and_signs_is_shown_as_authentic() {
    let mut tape = Tape::new();
    assert!(tape.member('a').peers().iter().all(|peer| !peer.authenticated), "nobody was heard");
    tape.wait(2 * LEASE);
    assert!(tape.member('a').peers().iter().all(|peer| peer.authenticated));

    // Without keys, whoever was heard may have been anybody.
    let mut open = Tape::new();
    open.members = ['a', 'b', 'c']
        .map(|name| {
            let config = Config { keys: Vec::new(), ..member_config(name) };
            (address(name), Member::new(&config, 1, 7, open.now).unwrap())
        })
        .into();
    open.wait(2 * LEASE);
    assert!(open.member('a').peers().iter().all(|peer| peer.heard.is_some() && !peer.authenticated));
}

#[test]
fn a_note_is_heard_by_all_others_and_given_out_once() {
    let mut tape = Tape::new();
    tape.wait(2 * LEASE);
    assert_eq!(tape.member('b').poll_notes(), None);
    tape.member('a').tell_note(b"how I am");
    // What comes after it takes no note away.
    tape.wait(LEASE);
    for other in ['b', 'c'] {
        let notes = tape.member(other).poll_notes().unwrap();
        let heard: Vec<_> = notes.iter().map(|(name, note)| (name.clone(), note.bytes.to_vec())).collect();
        assert_eq!(heard, [(node('a'), b"how I am".to_vec())]);
        assert_eq!(tape.member(other).poll_notes(), None);
    }
    assert_eq!(tape.member('a').poll_notes(), None);
}
