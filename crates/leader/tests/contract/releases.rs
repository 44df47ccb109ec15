//! What a release does to the one that sends it, and to those that hear of it.

use leader::{
    Term,
    message::Body,
    node::{Incarnation, Process},
};

use crate::rig::{HEARTBEAT, LEASE, MS, NS, One, node, process};

fn canvasses(sent: &[(char, Body)]) -> bool {
    sent.iter().any(|(_, body)| matches!(body, Body::Canvass { .. }))
}

/// A leader that has just handed over to b, which is preferred.
fn preempted() -> One {
    let (mut leader, ..) = One::leader("abc");
    leader
        .hears_from(&process('b'), Body::Alive, |gossip| (gossip.preempting, gossip.priority) = (true, 200));
    assert_eq!(leader.term(), None);
    leader.election.confirm_standby(leader.now);
    leader.drain();
    leader
}

#[test]
fn the_old_leader_leaves_the_successor_the_right_of_way_for_half_a_lease_too() {
    let mut old = preempted();
    assert!(!canvasses(&old.waits(LEASE / 2 - NS)));
    assert!(canvasses(&old.waits(LEASE / 2)), "the successor may have died");
}

#[test]
fn who_passed_a_lead_on_leaves_the_right_of_way_for_half_a_lease() {
    let (mut candidate, term, round) = One::candidate("abc");
    let preferred = |gossip: &mut leader::message::Gossip| (gossip.preempting, gossip.priority) = (true, 200);
    let sent = candidate.hears_from(&process('b'), Body::Grant { term, round }, preferred);
    assert!(sent.contains(&('b', Body::Release { term, successor: Some(node('b')) })), "{sent:?}");
    assert!(!canvasses(&candidate.waits(LEASE / 2 - NS)));
    assert!(canvasses(&candidate.waits(LEASE / 2)), "the successor may have died");
}

#[test]
fn a_release_is_repeated_three_times_a_heartbeat_apart() {
    let (mut leader, ..) = One::leader("abc");
    leader.election.stop(leader.now);
    leader.election.confirm_standby(leader.now);
    leader.drain();
    // Stopped, it stands no more, and hears of no successor.
    let released = |sent: Vec<(char, Body)>| {
        sent.iter().filter(|(to, body)| *to == 'c' && matches!(body, Body::Release { .. })).count()
    };
    let times = [(); 8].map(|()| released(leader.waits(HEARTBEAT)));
    assert_eq!(times, [1, 1, 1, 0, 0, 0, 0, 0]);
}

#[test]
fn a_leader_that_hears_of_anothers_release_leads_on() {
    for successor in [None, Some(node('c'))] {
        let (mut leader, term, _) = One::leader("abc");
        leader.hears('b', Body::Release { term: Term(99), successor });
        assert_eq!(leader.term(), Some(term));
    }
}

#[test]
fn who_gets_its_vote_back_without_a_successor_stands_at_once() {
    let mut third = One::awake("abc");
    third.hears('b', Body::Release { term: Term(4), successor: Some(node('c')) });
    // The successor asks, and gives up.
    assert!(matches!(third.asked_by(&process('c'), 5), Body::Grant { .. }));
    third.waits(MS);
    let mut sent = third.hears('c', Body::Release { term: Term(5), successor: None });
    sent.extend(third.waits(LEASE / 4));
    assert!(canvasses(&sent), "{sent:?}");
}

#[test]
fn a_release_of_what_was_not_granted_ends_no_right_of_way() {
    let mut third = One::awake("abc");
    third.hears('b', Body::Release { term: Term(4), successor: Some(node('c')) });
    third.hears('b', Body::Release { term: Term(5), successor: None });
    assert!(!canvasses(&third.waits(LEASE / 2 - NS)));
}

#[test]
fn another_process_of_a_member_is_not_held_to_what_the_last_released() {
    let mut voter = One::awake("abc");
    voter.hears('b', Body::Release { term: Term(5), successor: None });
    assert!(matches!(voter.asked_by(&process('b'), 5), Body::Refuse { .. }));
    let restarted = Process { incarnation: Incarnation(77), ..process('b') };
    assert!(matches!(voter.asked_by(&restarted, 5), Body::Grant { .. }));
}

#[test]
fn a_successor_that_leaves_before_the_address_is_withdrawn_is_replaced() {
    let (mut leader, term, _) = One::leader("abc");
    assert_eq!(leader.election.step_down(Some(&node('b')), leader.now), Ok(node('b')));
    leader.hears_from(&process('b'), Body::Alive, |gossip| gossip.stopping = true);
    leader.election.confirm_standby(leader.now);
    let release = Body::Release { term, successor: Some(node('c')) };
    assert_eq!(leader.drain(), [('b', release.clone()), ('c', release)]);
}
