//! The right to lead alone before any other member was heard.

use std::time::Duration;

use leader::{
    message::{Body, Gossip},
    quorum::Segment,
};

use crate::rig::{EXCLUSION, HEARTBEAT, LEASE, MS, One, Several, node, process};

fn first() -> One {
    let mut first = One::with("abc", |config| config.start_as_leader = true);
    first.election.set_segment(Segment::Free, first.now);
    first
}

fn abstaining(gossip: &mut Gossip) {
    gossip.abstaining = true;
}

#[test]
fn the_first_member_leads_alone_once_its_abstention_is_over() {
    let mut first = first();
    first.waits(EXCLUSION - MS);
    assert_eq!(first.term(), None);
    first.waits(LEASE);
    assert!(first.term().is_some());
    first.waits(20 * LEASE);
    assert!(first.term().is_some(), "and goes on");
}

#[test]
fn nobody_leads_alone_before_the_segment_was_found_free() {
    let mut first = One::with("abc", |config| config.start_as_leader = true);
    first.waits(5 * LEASE);
    assert_eq!(first.term(), None);
    first.election.set_segment(Segment::Free, first.now);
    first.waits(LEASE);
    assert!(first.term().is_some());
}

#[test]
fn nobody_leads_alone_without_the_right() {
    let mut other = One::new("abc");
    other.election.set_segment(Segment::Free, other.now);
    other.waits(5 * LEASE);
    assert_eq!(other.term(), None);
}

#[test]
fn a_peer_that_can_vote_ends_the_right_for_good() {
    let mut first = first();
    first.hears('b', Body::Alive);
    first.waits(20 * LEASE);
    assert_eq!(first.term(), None);
    first.election.set_segment(Segment::Free, first.now);
    first.waits(5 * LEASE);
    assert_eq!(first.term(), None);
}

#[test]
fn a_peer_that_still_abstains_does_not_end_the_right() {
    let mut first = first();
    first.waits(2 * LEASE);
    first.hears_from(&process('b'), Body::Alive, abstaining);
    first.waits(5 * LEASE);
    assert!(first.term().is_some());
}

#[test]
fn a_peer_that_can_vote_is_asked_at_once_by_the_one_that_led_alone() {
    let mut first = first();
    first.waits(2 * LEASE);
    let term = first.term().unwrap();
    first.hears('b', Body::Alive);
    let sent = first.waits(Duration::ZERO);
    let round = sent.iter().find_map(|(to, body)| match body {
        Body::Request { round, .. } if *to == 'b' => Some(*round),
        _ => None,
    });
    let round = round.expect("it asks at once");
    let until = first.election.lease_end(first.now);
    first.hears('b', Body::Grant { term, round });
    assert!(first.election.lease_end(first.now) > until, "now by majority");
    first.waits(2 * LEASE);
    assert_eq!(first.term(), None, "and never alone again");
}

#[test]
fn an_occupied_segment_ends_leading_alone_at_once_and_for_good() {
    let mut first = first();
    first.waits(2 * LEASE);
    assert!(first.term().is_some());
    first.election.set_segment(Segment::Occupied, first.now);
    assert_eq!(first.term(), None);
    first.election.set_segment(Segment::Free, first.now);
    first.waits(20 * LEASE);
    assert_eq!(first.term(), None);
}

#[test]
fn an_occupied_segment_is_nothing_to_a_leader_by_majority() {
    let (mut leader, term, _) = One::leader("abc");
    leader.election.set_segment(Segment::Occupied, leader.now);
    assert_eq!(leader.term(), Some(term));
}

#[test]
fn the_lead_does_not_move_when_the_others_join_one_by_one() {
    let mut cluster = Several::with("abc", |config| config.start_as_leader = config.me == node('a'));
    let late: Vec<_> = ['b', 'c'].into_iter().map(|name| (name, crate::rig::config(name, "abc"))).collect();
    cluster.crash('b');
    cluster.crash('c');
    let now = cluster.now;
    cluster.node('a').set_segment(Segment::Free, now);
    cluster.wait(5 * LEASE);
    assert_eq!(cluster.leaders(), "a");
    for (name, config) in late {
        let fresh = crate::rig::election(&config, cluster.now);
        cluster.nodes.iter_mut().find(|(n, _)| *n == name).unwrap().1 = Some(fresh);
        for _ in 0..40 {
            cluster.wait(HEARTBEAT / 4);
            assert_eq!(cluster.leaders(), "a");
        }
    }
}
