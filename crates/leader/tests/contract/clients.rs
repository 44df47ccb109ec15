//! What the leader tells of its clients: who believes it, for how long, and who is told.

use std::{net::SocketAddr, time::Duration};

use leader::{
    member::{Config, Member},
    peers::{Change, Client},
};

use crate::{
    recordings::{Tape, address, member_config},
    rig::{LEASE, node},
};

/// The types of the datagrams beside the election.
const CHAPTER: u8 = 10;
const READ: u8 = 11;
const NOTE: u8 = 12;

/// More than a reader that lost something is asked where it is.
const A_WHILE: Duration = Duration::from_secs(3);

fn client(number: u8) -> Client {
    Client::new(&[number; 12]).unwrap()
}

fn came(numbers: impl IntoIterator<Item = u8>) -> Vec<Change> {
    numbers.into_iter().map(|number| Change::Came(client(number))).collect()
}

impl Tape {
    fn leader(&self) -> SocketAddr {
        let leads = |member: &Member| member.election.lease_end(self.now).is_some();
        *self.members.iter().find(|(_, member)| leads(member)).expect("somebody leads").0
    }

    /// What the others know of the leader's clients.
    fn heard(&self) -> Vec<usize> {
        let leader = self.leader();
        let others = self.members.iter().filter(|(address, _)| **address != leader);
        others.map(|(_, member)| member.clients().heard).collect()
    }

    /// The leader hands over to another, which takes it no time.
    fn hand_over(&mut self) {
        let (leader, now) = (self.leader(), self.now);
        let member = self.members.get_mut(&leader).unwrap();
        member.election.step_down(None, now).unwrap();
        self.settle();
        self.members.get_mut(&leader).unwrap().election.confirm_standby(now);
        self.settle();
        assert_ne!(self.leader(), leader);
    }

    /// The same, and so much time passes that anybody may lead again.
    fn step_down(&mut self) {
        self.hand_over();
        self.wait(A_WHILE);
    }

    /// A leader with three clients, which the others know.
    fn with_clients(mut self) -> (Self, SocketAddr) {
        self.wait(4 * LEASE);
        let leader = self.leader();
        self.members.get_mut(&leader).unwrap().note_clients(came(1..=3));
        self.wait(Duration::ZERO);
        assert_eq!(self.heard(), [3, 3], "it takes no time but that of the datagrams");
        (self, leader)
    }
}

#[test]
fn a_successor_inherits_the_clients_of_a_leader_that_died() {
    let (mut tape, leader) = Tape::new().with_clients();
    tape.members.get_mut(&leader).unwrap().note_clients([Change::Gone(client(2)), Change::Came(client(9))]);
    tape.settle();
    tape.members.remove(&leader);
    tape.wait(4 * LEASE);

    let now = tape.now;
    let successor = tape.leader();
    for (at, member) in &mut tape.members {
        let expected = (*at == successor).then(|| [1, 3, 9].map(client).to_vec());
        assert_eq!(member.inherit_clients(now), expected, "only the one that leads inherits");
    }
    assert_eq!(tape.members.get_mut(&successor).unwrap().inherit_clients(now), Some(Vec::new()), "once");
}

#[test]
fn what_a_leader_told_is_forgotten_when_another_leads() {
    let (mut tape, leader) = Tape::new().with_clients();
    tape.members.remove(&leader);
    tape.wait(LEASE / 2);
    assert!(tape.members.values().all(|member| member.clients().heard == 3), "nobody leads yet");
    tape.wait(4 * LEASE);
    assert_eq!(tape.heard(), [0]);
}

/// Chapters that say something, kept from those they are for.
fn late_chapters(tape: &mut Tape) -> Vec<(SocketAddr, SocketAddr, Vec<u8>)> {
    fn says_something(bytes: &[u8]) -> bool {
        // An empty one has 119 bytes.
        bytes[2] == CHAPTER && bytes.len() > 119
    }
    tape.wait(4 * LEASE);
    let leader = tape.leader();
    tape.on_the_way = |_, _, bytes| !says_something(bytes);
    tape.members.get_mut(&leader).unwrap().note_clients(came(1..=3));
    tape.settle();
    let late =
        tape.recorded.iter().filter(|(_, _, bytes)| says_something(bytes)).cloned().collect::<Vec<_>>();
    assert_eq!((late.len(), tape.heard()), (2, vec![0, 0]));
    late
}

#[test]
fn only_the_leader_is_believed_about_clients() {
    let mut tape = Tape::new();
    let late = late_chapters(&mut tape);
    tape.hand_over();

    tape.recorded.clear();
    for (from, to, bytes) in late {
        let now = tape.now;
        let member = tape.members.get_mut(&to).unwrap();
        let dropped = member.dropped();
        member.handle_datagram(from, &bytes, now);
        assert_eq!(member.dropped(), dropped, "it is authentic and fresh, and it was read");
    }
    tape.settle();
    assert!(tape.recorded.iter().all(|(_, _, bytes)| bytes[2] != READ), "it was answered");
    assert_eq!(tape.heard(), [0, 0]);
}

#[test]
fn a_forged_chapter_changes_nothing() {
    let mut tape = Tape::new();
    for (from, to, bytes) in late_chapters(&mut tape) {
        let now = tape.now;
        let member = tape.members.get_mut(&to).unwrap();
        for at in 0..bytes.len() {
            let mut forged = bytes.clone();
            forged[at] ^= 1;
            member.handle_datagram(from, &forged, now);
            assert_eq!(member.clients().heard, 0);
        }
        member.handle_datagram(from, &bytes, now);
        assert_eq!(member.clients().heard, 3);
    }
}

#[test]
fn datagrams_of_the_election_leave_before_those_of_clients() {
    let (mut tape, leader) = Tape::new().with_clients();
    let now = tape.now + LEASE / 2;
    let member = tape.members.get_mut(&leader).unwrap();
    member.note_clients(came(4..=200));
    member.election.handle_timeout(now);
    let mut bytes = Vec::new();
    let mut kinds = Vec::new();
    while member.poll_datagram(now, &mut bytes).is_some() {
        kinds.push(bytes[2]);
        bytes.clear();
    }
    let first = kinds.iter().position(|kind| *kind == CHAPTER).unwrap();
    assert_eq!(first, 2, "a heartbeat to each: {kinds:?}");
    assert!(kinds[first..].iter().all(|kind| *kind == CHAPTER));
}

#[test]
fn what_was_lost_is_told_again() {
    let mut tape = Tape::new();
    tape.wait(4 * LEASE);
    let leader = tape.leader();
    tape.on_the_way = |_, _, bytes| ![CHAPTER, READ].contains(&bytes[2]);
    tape.members.get_mut(&leader).unwrap().note_clients(came(1..=200));
    tape.wait(LEASE);
    assert_eq!(tape.heard(), [0, 0]);
    tape.on_the_way = |_, _, _| true;
    tape.wait(A_WHILE);
    assert_eq!(tape.heard(), [200, 200]);
}

#[test]
fn a_member_that_starts_later_is_told_all() {
    let (mut tape, leader) = Tape::new().with_clients();
    let other = ['a', 'b', 'c'].into_iter().find(|name| address(*name) != leader).unwrap();
    let reborn = crate::recordings::member(other, 2, tape.now);
    tape.members.insert(address(other), reborn);
    tape.wait(A_WHILE);
    assert_eq!(tape.heard(), [3, 3]);
}

#[test]
fn who_leads_again_tells_its_clients_again() {
    let (mut tape, first) = Tape::new().with_clients();
    tape.step_down();
    for _ in 0..2 {
        assert_eq!(tape.heard(), [0, 0]);
        tape.step_down();
        if tape.leader() == first {
            break;
        }
    }
    assert_eq!(tape.leader(), first);
    assert_eq!(tape.heard(), [3, 3]);
}

/// One that knows nothing of clients and notes would call them malformed, and complain of its peer.
#[test]
fn a_member_of_an_earlier_release_takes_part_and_is_told_nothing_beside_the_election() {
    let mut tape = Tape::new();
    let now = tape.now;
    // Unsigned, so that the tape can take off the extensions by which a release says what it takes beside the election.
    for name in ['a', 'b', 'c'] {
        let config = Config { keys: Vec::new(), ..member_config(name) };
        let member = Member::new(&config, 1, 7, now).unwrap();
        tape.members.insert(address(name), member);
    }
    fn of_an_earlier_release(from: SocketAddr, _: SocketAddr, bytes: &mut [u8]) -> bool {
        if from == address('c') {
            let extensions = bytes.last_chunk_mut::<4>().unwrap();
            assert_eq!(*extensions, [1, 0, 4, 0], "it ends with the extensions");
            // Those that nobody knows.
            (extensions[0], extensions[2]) = (255, 254);
        }
        true
    }
    tape.on_the_way = of_an_earlier_release;
    tape.wait(4 * LEASE);
    // Whoever leads, all three take part.
    assert!(tape.members.values().all(|member| member.peers().iter().all(|peer| peer.heard.is_some())));
    let leader = tape.leader();
    tape.members.get_mut(&leader).unwrap().note_clients(came(1..=3));
    tape.wait(A_WHILE);

    let old = address('c');
    tape.members.get_mut(&leader).unwrap().tell_note(b"nothing for an earlier release");
    tape.settle();
    let is_new = |bytes: &[u8]| [CHAPTER, READ, NOTE].contains(&bytes[2]);
    assert!(tape.recorded.iter().all(|(_, to, bytes)| *to != old || !is_new(bytes)));
    let notes = tape.recorded.iter().filter(|(_, _, bytes)| bytes[2] == NOTE).count();
    assert_eq!(notes, 1, "the third member gets it");
    assert_ne!(leader, old, "the first of equals leads");
    let mut told = tape.members.iter().filter(|(at, _)| ![leader, old].contains(at));
    assert!(told.all(|(_, member)| member.clients().heard == 3));
    let complaints = tape.members.values_mut().any(|member| member.poll_complaint().is_some());
    assert!(!complaints && tape.member('a').peers().iter().any(|peer| peer.id == node('c')));
}

#[test]
fn who_follows_tells_nobody_of_clients_and_waits_for_nothing_to_tell() {
    let (mut tape, leader) = Tape::new().with_clients();
    let now = tape.now;
    assert!(tape.members[&leader].poll_timeout(now).is_some());
    let other = *tape.members.keys().find(|address| **address != leader).unwrap();
    tape.recorded.clear();
    let follower = tape.members.get_mut(&other).unwrap();
    assert_eq!(follower.poll_timeout(now), None);
    follower.note_clients(came(4..=9));
    tape.wait(A_WHILE);
    let told = tape.recorded.iter().filter(|(from, _, bytes)| *from == other && bytes[2] == CHAPTER).count();
    assert_eq!(told, 0);
}

#[test]
fn clients_that_are_cleared_are_forgotten() {
    let (mut tape, leader) = Tape::new().with_clients();
    let member = tape.members.get_mut(&leader).unwrap();
    assert_eq!(member.clients().own, 3);
    member.clear_clients();
    assert_eq!(member.clients().own, 0);
}
