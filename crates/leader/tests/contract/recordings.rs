//! Datagrams that were recorded are worthless: copies, mail for predecessors, and words of the dead.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use leader::{
    NodeId,
    member::{Config, Member},
    peers::{Dropped, Key, Mismatch},
};

use crate::rig::{HEARTBEAT, LEASE, config, node, origin};

pub(crate) fn address(name: char) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, u8::try_from(name).unwrap()], 7))
}

pub(crate) fn member_config(me: char) -> Config {
    let peers: BTreeMap<NodeId, SocketAddr> = ['a', 'b', 'c']
        .into_iter()
        .filter(|name| *name != me)
        .map(|name| (node(name), address(name)))
        .collect();
    Config {
        quorum: config(me, "abc"),
        listen: address(me),
        peers,
        subject: None,
        keys: vec![Key::new(1, b"sixteen bytes ok").unwrap()],
        version: "1".to_owned(),
    }
}

pub(crate) fn member(me: char, incarnation: u64, now: Instant) -> Member {
    Member::new(&member_config(me), incarnation, 7, now).unwrap()
}

/// Members whose datagrams arrive at once, and are all recorded.
pub(crate) struct Tape {
    pub(crate) now: Instant,
    pub(crate) members: BTreeMap<SocketAddr, Member>,
    pub(crate) recorded: Vec<(SocketAddr, SocketAddr, Vec<u8>)>,
    /// What becomes of a datagram on its way; says whether it arrives.
    pub(crate) on_the_way: fn(SocketAddr, SocketAddr, &mut [u8]) -> bool,
}

impl Tape {
    pub(crate) fn new() -> Self {
        let now = origin();
        let members = ['a', 'b', 'c'].into_iter().map(|name| (address(name), member(name, 1, now))).collect();
        Self { now, members, recorded: Vec::new(), on_the_way: |_, _, _| true }
    }

    pub(crate) fn settle(&mut self) {
        loop {
            let mut sent = Vec::new();
            for (from, member) in &mut self.members {
                let mut bytes = Vec::new();
                while let Some(to) = member.poll_datagram(self.now, &mut bytes) {
                    sent.push((*from, to, std::mem::take(&mut bytes)));
                }
                while member.election.poll_event().is_some() {}
            }
            if sent.is_empty() {
                return;
            }
            for (from, to, mut bytes) in sent {
                let arrives = (self.on_the_way)(from, to, &mut bytes);
                if let Some(member) = self.members.get_mut(&to).filter(|_| arrives) {
                    member.handle_datagram(from, &bytes, self.now);
                }
                self.recorded.push((from, to, bytes));
            }
        }
    }

    pub(crate) fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.settle();
            let due = self.members.values().filter_map(|member| {
                let of_clients = member.poll_timeout(self.now);
                member.election.poll_timeout().into_iter().chain(of_clients).min()
            });
            let due = due.min();
            let Some(due) = due.filter(|due| *due <= end) else { break };
            self.now = self.now.max(due);
            let now = self.now;
            for member in self.members.values_mut() {
                if member.election.poll_timeout().is_some_and(|due| due <= now) {
                    member.election.handle_timeout(now);
                }
            }
        }
        self.now = end;
    }

    pub(crate) fn member(&mut self, name: char) -> &mut Member {
        self.members.get_mut(&address(name)).unwrap()
    }
}

#[test]
fn datagrams_of_earlier_incarnations_and_copies_change_nothing() {
    let mut tape = Tape::new();
    tape.wait(4 * LEASE);
    // Every one is restarted in turn, so that the tape holds talk of dead processes to dead and to living ones.
    for name in ['a', 'b', 'c'] {
        let reborn = member(name, 2, tape.now);
        tape.members.insert(address(name), reborn);
        tape.wait(4 * LEASE);
    }
    let leads =
        |tape: &mut Tape| tape.members.values().filter(|m| m.election.lease_end(tape.now).is_some()).count();
    assert_eq!(leads(&mut tape), 1);

    let recorded = std::mem::take(&mut tape.recorded);
    assert!(recorded.len() > 300, "{}", recorded.len());
    for (from, to, bytes) in recorded {
        let now = tape.now;
        let member = tape.members.get_mut(&to).unwrap();
        let before = member.election.clone();
        member.handle_datagram(from, &bytes, now);
        assert_eq!(member.election, before, "a recording was believed");
        // It may ask for proof of life; nobody is there to give the old answers.
        let mut bytes = Vec::new();
        while member.poll_datagram(now, &mut bytes).is_some() {
            bytes.clear();
        }
    }
    tape.wait(LEASE);
    assert_eq!(leads(&mut tape), 1, "and all talk to each other as before");
    assert!(tape.member('a').peers().iter().all(|peer| tape.now - peer.heard.unwrap() < LEASE / 2));
}

#[test]
fn a_challenge_that_was_answered_is_not_asked_again() {
    let mut tape = Tape::new();
    tape.wait(HEARTBEAT);
    let welcomes: Vec<_> = tape.recorded.iter().filter(|(_, _, bytes)| bytes[2] == 2).cloned().collect();
    assert!(!welcomes.is_empty());
    // A reborn peer asks for proof of life with the same number; the tape's answers are for its predecessor.
    let reborn = member('a', 2, tape.now);
    tape.members.insert(address('a'), reborn);
    let now = tape.now;
    let a = tape.member('a');
    a.election.handle_timeout(now);
    let mut bytes = Vec::new();
    while a.poll_datagram(now, &mut bytes).is_some() {
        bytes.clear();
    }
    for (from, to, bytes) in welcomes.into_iter().filter(|(_, to, _)| *to == address('a')) {
        assert_eq!(to, address('a'));
        a.handle_datagram(from, &bytes, now);
    }
    assert!(a.peers().iter().all(|peer| peer.heard.is_none()));
}

#[test]
fn a_stranger_is_dropped_unread_and_counted() {
    let mut tape = Tape::new();
    tape.wait(HEARTBEAT);
    let (_, to, bytes) = tape.recorded.last().unwrap().clone();
    let now = tape.now;
    let member = tape.members.get_mut(&to).unwrap();
    let before = member.dropped();
    let stranger = SocketAddr::from(([10, 0, 1, 1], 7));
    member.handle_datagram(stranger, &bytes, now);
    let strangers = before.strangers + 1;
    assert_eq!(member.dropped(), Dropped { strangers, latest: Some(stranger), ..before });
    assert!(member.poll_datagram(now, &mut Vec::new()).is_none());
}

#[test]
fn what_is_wrong_with_a_peer_is_said_once_and_shown_until_mended() {
    let now = origin();
    let mut a = member('a', 1, now);
    let mut unsigned = member_config('b');
    unsigned.keys.clear();
    let mut b = Member::new(&unsigned, 1, 7, now).unwrap();
    b.election.handle_timeout(now);
    for _ in 0..3 {
        let mut bytes = Vec::new();
        b.election.handle_timeout(now + HEARTBEAT);
        b.poll_datagram(now + HEARTBEAT, &mut bytes);
        a.handle_datagram(address('b'), if bytes.is_empty() { &[1, 0, 3, 0] } else { &bytes }, now);
    }
    let complaint = a.poll_complaint().unwrap();
    assert_eq!((complaint.peer, complaint.mismatch), (node('b'), Mismatch::Unsigned));
    assert_eq!(a.poll_complaint(), None);
    assert_eq!(a.peers()[0].mismatch, Some(Mismatch::Unsigned));

    a.handle_datagram(address('b'), &[9, 0, 0], now);
    assert_eq!(a.peers()[0].mismatch, Some(Mismatch::WireVersion { theirs: 9 }));
    a.handle_datagram(address('b'), &[1, 2, 0], now);
    assert_eq!(a.peers()[0].mismatch, Some(Mismatch::UnknownKey { key: 2 }));
}

#[test]
fn a_peer_that_calls_itself_otherwise_is_told_by_name() {
    let now = origin();
    let mut a = member('a', 1, now);
    let mut c = member('c', 1, now);
    c.election.handle_timeout(now);
    let mut bytes = Vec::new();
    c.poll_datagram(now, &mut bytes).unwrap();
    a.handle_datagram(address('b'), &bytes, now);
    assert_eq!(a.peers()[0].mismatch, Some(Mismatch::Name { theirs: node('c') }));
}

#[test]
fn another_timing_and_other_members_are_told_of_a_peer() {
    let now = origin();
    let talk = |change: &dyn Fn(&mut Config)| {
        let mut other = member_config('b');
        change(&mut other);
        let mut a = member('a', 1, now);
        let mut b = Member::new(&other, 1, 7, now).unwrap();
        a.election.handle_timeout(now);
        b.election.handle_timeout(now);
        for _ in 0..4 {
            let mut bytes = Vec::new();
            while a.poll_datagram(now, &mut bytes).is_some() {
                b.handle_datagram(address('a'), &std::mem::take(&mut bytes), now);
            }
            bytes.clear();
            while let Some(to) = b.poll_datagram(now, &mut bytes) {
                let bytes = std::mem::take(&mut bytes);
                if to == address('a') {
                    a.handle_datagram(address('b'), &bytes, now);
                }
            }
        }
        let status = a.peers().into_iter().find(|peer| peer.id == node('b')).unwrap();
        assert!(status.heard.is_some(), "it is heard all the same");
        status.mismatch
    };
    assert_eq!(talk(&|_| {}), None);
    let slower = leader::Timing::new(HEARTBEAT, LEASE * 2).unwrap();
    let mismatch = talk(&|config| config.quorum.timing = slower);
    assert_eq!(mismatch, Some(Mismatch::Lease { theirs: LEASE * 2, ours: LEASE }));
    let mismatch = talk(&|config| {
        for (name, last) in [('d', 68), ('e', 69)] {
            config.quorum.members.insert(node(name));
            config.peers.insert(node(name), SocketAddr::from(([10, 0, 0, last], 7)));
        }
    });
    assert_eq!(mismatch, Some(Mismatch::Members));
}
