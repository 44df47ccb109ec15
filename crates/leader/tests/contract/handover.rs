//! Planned hand-over: address, lease, successor, in this order and without a timeout.

use leader::{
    NodeId, Term,
    message::{Ballot, Body, Objection},
    quorum::{Impediment, StepDownError},
};

use crate::rig::{HEARTBEAT, LEASE, MS, NS, One, Several, node, process};

fn released(sent: &[(char, Body)]) -> Option<Option<NodeId>> {
    sent.iter().find_map(|(_, body)| match body {
        Body::Release { successor, .. } => Some(successor.clone()),
        _ => None,
    })
}

fn elected(names: &str) -> Several {
    let mut cluster = Several::new(names);
    cluster.wait(3 * LEASE);
    assert_eq!(cluster.leaders(), "a");
    cluster
}

#[test]
fn a_leader_that_steps_down_follows_at_once_and_releases_nothing_before_the_owner_confirms() {
    let (mut leader, _, _) = One::leader("abc");
    assert_eq!(leader.election.step_down(None, leader.now), Ok(node('b')));
    assert_eq!(leader.term(), None);
    assert_eq!(released(&leader.drain()), None);
    let vote = leader.asked_by(&process('b'), 9);
    assert!(
        matches!(vote, Body::Refuse { objection: Objection::Promised { .. }, .. }),
        "its own vote is not free either"
    );
    leader.election.confirm_standby(leader.now);
    assert_eq!(released(&leader.drain()), Some(Some(node('b'))));
}

#[test]
fn a_hand_over_takes_no_time_but_that_of_messages() {
    let mut cluster = elected("abc");
    let now = cluster.now;
    cluster.node('a').step_down(None, now).unwrap();
    cluster.settle();
    assert_eq!(cluster.leaders(), "");
    cluster.node('a').confirm_standby(now);
    cluster.settle();
    assert_eq!(cluster.leaders(), "b", "without a nanosecond having passed");
}

#[test]
fn the_old_leader_itself_votes_for_the_successor_at_once() {
    let (mut leader, _, _) = One::leader("abc");
    leader.election.step_down(None, leader.now).unwrap();
    leader.election.confirm_standby(leader.now);
    let vote = leader.asked_by(&process('b'), 9);
    assert!(
        matches!(vote, Body::Grant { .. }),
        "even if the request doesn't name what was released: {vote:?}"
    );

    let mut cluster = elected("abc");
    cluster.cut.extend([('b', 'c'), ('c', 'b')]);
    let now = cluster.now;
    cluster.node('a').step_down(None, now).unwrap();
    cluster.node('a').confirm_standby(now);
    cluster.settle();
    assert_eq!(cluster.leaders(), "b", "with the vote of a");
}

#[test]
fn the_successor_overtakes_the_release_at_a_voter() {
    let mut cluster = elected("abc");
    // The release reaches b and not c, and b can't hear a: it needs c's vote.
    cluster.cut.extend([('a', 'c'), ('b', 'a')]);
    let now = cluster.now;
    cluster.node('a').step_down(None, now).unwrap();
    cluster.node('a').confirm_standby(now);
    cluster.settle();
    assert_eq!(cluster.leaders(), "b");
}

#[test]
fn without_a_confirmation_nothing_is_released_and_the_lease_lapses() {
    let (mut leader, _, _) = One::leader("abc");
    let until = leader.election.lease_end(leader.now).unwrap();
    leader.election.step_down(None, leader.now).unwrap();
    let sent = leader.waits(until - leader.now);
    assert_eq!(released(&sent), None);
    leader.election.confirm_standby(leader.now);
    assert_eq!(released(&leader.drain()), None, "too late to be of use");
}

#[test]
fn a_confirmation_of_a_leader_that_leads_changes_nothing() {
    let (mut leader, term, _) = One::leader("abc");
    leader.election.confirm_standby(leader.now);
    assert_eq!(leader.term(), Some(term));
    assert_eq!(released(&leader.drain()), None);
}

#[test]
fn the_successor_is_the_best_member_heard_within_the_last_lease() {
    let successor = |change: &dyn Fn(&mut One)| {
        let (mut leader, _, _) = One::leader("abcd");
        change(&mut leader);
        leader.election.step_down(None, leader.now)
    };
    let says = |one: &mut One, from, change: &dyn Fn(&mut leader::message::Gossip)| {
        one.hears_from(&process(from), Body::Alive, change);
    };
    assert_eq!(successor(&|_| {}), Ok(node('b')));
    assert_eq!(successor(&|one| says(one, 'd', &|gossip| gossip.priority = 101)), Ok(node('d')));
    assert_eq!(successor(&|one| says(one, 'b', &|gossip| gossip.eligible = false)), Ok(node('c')));
    assert_eq!(successor(&|one| says(one, 'b', &|gossip| gossip.stopping = true)), Ok(node('c')));
    assert_eq!(successor(&|one| says(one, 'b', &|gossip| gossip.abstaining = true)), Ok(node('c')));
    assert_eq!(
        successor(&|one| {
            let until = one.election.lease_end(one.now).unwrap();
            one.now = until - NS;
            says(one, 'd', &|_| {});
            // The others were last heard just short of a lease ago.
            one.now -= NS;
        }),
        Ok(node('b'))
    );
}

#[test]
fn stepping_down_without_anybody_to_take_over_is_refused() {
    let (mut leader, term, _) = One::leader("abc");
    leader.hears_from(&process('b'), Body::Alive, |gossip| gossip.eligible = false);
    leader.hears_from(&process('c'), Body::Alive, |gossip| gossip.eligible = false);
    assert_eq!(leader.election.step_down(None, leader.now), Err(StepDownError::NoSuccessor));
    assert_eq!(leader.term(), Some(term));
    let mut follower = One::awake("abc");
    assert_eq!(follower.election.step_down(None, follower.now), Err(StepDownError::NotLeader));
}

#[test]
fn the_member_that_is_named_takes_over_though_another_is_preferred() {
    let mut cluster = elected("abc");
    let now = cluster.now;
    assert_eq!(cluster.node('a').step_down(Some(&node('c')), now), Ok(node('c')));
    cluster.node('a').confirm_standby(now);
    cluster.settle();
    assert_eq!(cluster.leaders(), "c", "without a nanosecond having passed");
}

#[test]
fn a_named_member_that_can_not_take_over_is_refused_with_the_reason_and_the_leader_leads_on() {
    let asked = |to: &str, change: &dyn Fn(&mut One)| {
        let (mut leader, term, _) = One::leader("abc");
        change(&mut leader);
        let outcome = leader.election.step_down(Some(&NodeId::new(to).unwrap()), leader.now);
        assert_eq!(leader.term(), Some(term), "{to}");
        assert_eq!(released(&leader.drain()), None);
        outcome.unwrap_err()
    };
    let impeded = |change: &dyn Fn(&mut leader::message::Gossip)| {
        let says = |one: &mut One| drop(one.hears_from(&process('b'), Body::Alive, change));
        match asked("b", &says) {
            StepDownError::Impeded { node: name, impediment } if name == node('b') => impediment,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(asked("a", &|_| {}), StepDownError::Itself);
    let known = vec![node('b'), node('c')];
    let unknown = NodeId::new("elsewhere").unwrap();
    assert_eq!(asked("elsewhere", &|_| {}), StepDownError::Unknown { node: unknown, known });
    assert_eq!(impeded(&|gossip| gossip.abstaining = true), Impediment::Abstaining);
    assert_eq!(impeded(&|gossip| gossip.eligible = false), Impediment::Unfit);
    assert_eq!(impeded(&|gossip| gossip.stopping = true), Impediment::Stopping);
    assert_eq!(impeded(&|gossip| (gossip.stopping, gossip.resting) = (true, true)), Impediment::Resting);
    assert_eq!(impeded(&|gossip| gossip.lease = 2 * LEASE), Impediment::Mismatch);
}

#[test]
fn a_named_member_must_have_been_heard_within_the_last_lease() {
    let (mut leader, term, _) = One::leader("abc");
    leader.waits(HEARTBEAT);
    // Another renews the lease; b was last heard when it granted it.
    let Body::Request { round, .. } = leader.runs_until(|body| matches!(body, Body::Request { .. })) else {
        unreachable!()
    };
    leader.hears('c', Body::Grant { term, round });
    leader.waits(LEASE - 3 * NS - 2 * HEARTBEAT);
    leader.hears('c', Body::Grant { term, round });
    let impeded = |impediment| Err(StepDownError::Impeded { node: node('b'), impediment });
    let heard_until = leader.now + 3 * NS;
    assert!(leader.election.clone().step_down(Some(&node('b')), heard_until - NS).is_ok());
    let later = leader.election.step_down(Some(&node('b')), heard_until + HEARTBEAT / 2);
    assert_eq!(later, impeded(Impediment::Unheard));
}

#[test]
fn an_unfit_leader_hands_over_to_an_unfit_member_if_it_is_told_to() {
    let (mut leader, _, _) = One::leader("abc");
    for other in ['b', 'c'] {
        leader.hears_from(&process(other), Body::Alive, |gossip| gossip.eligible = false);
    }
    leader.election.set_eligible(false, leader.now);
    assert_eq!(leader.election.step_down(Some(&node('c')), leader.now), Ok(node('c')));
}

#[test]
fn nothing_is_handed_to_a_member_that_rests_while_another_is_fit() {
    let rests = |one: &mut One, name| {
        one.hears_from(&process(name), Body::Alive, |gossip| {
            (gossip.stopping, gossip.resting, gossip.preempting, gossip.priority) = (true, true, true, 200);
        })
    };
    let (mut leader, term, _) = One::leader("abc");
    rests(&mut leader, 'b');
    assert_eq!(leader.term(), Some(term), "not by priority");
    assert_eq!(leader.election.clone().step_down(None, leader.now), Ok(node('c')), "nor by command");
    let mut unfit = leader.election.clone();
    unfit.set_eligible(false, leader.now);
    unfit.confirm_standby(leader.now);
    let to = |election: &mut leader::quorum::Election| {
        std::iter::from_fn(|| election.poll_transmit()).find_map(|sent| match sent.message.body {
            Body::Release { successor, .. } => Some(successor),
            _ => None,
        })
    };
    assert_eq!(to(&mut unfit), Some(Some(node('c'))), "nor for want of health");

    // With c unfit there is nobody else.
    leader.hears_from(&process('c'), Body::Alive, |gossip| gossip.eligible = false);
    assert_eq!(leader.election.clone().step_down(None, leader.now), Err(StepDownError::NoSuccessor));
    leader.election.set_eligible(false, leader.now);
    leader.election.confirm_standby(leader.now);
    assert_eq!(to(&mut leader.election), Some(Some(node('b'))), "rest comes after health");
}

#[test]
fn a_stopped_member_releases_even_without_a_successor_and_never_stands_again() {
    let (mut leader, term, _) = One::leader("abc");
    for other in ['b', 'c'] {
        leader.hears_from(&process(other), Body::Alive, |gossip| gossip.stopping = true);
    }
    leader.election.stop(leader.now);
    assert!(!leader.election.has_left(leader.now));
    leader.election.confirm_standby(leader.now);
    assert_eq!(released(&leader.drain()), Some(None));
    assert!(leader.election.has_left(leader.now));
    let sent = leader.waits(20 * LEASE);
    assert!(sent.iter().all(|(_, body)| matches!(body, Body::Alive | Body::Release { .. })), "{sent:?}");
    let named = leader.hears('b', Body::Release { term: Term(term.0 + 5), successor: Some(node('a')) });
    assert_eq!(named, [], "not even when named");
}

#[test]
fn a_stopped_leader_has_left_when_its_successor_leads() {
    let mut cluster = elected("abc");
    let now = cluster.now;
    cluster.node('a').stop(now);
    cluster.node('a').confirm_standby(now);
    assert!(!cluster.node('a').has_left(now));
    cluster.settle();
    assert_eq!(cluster.leaders(), "b");
    assert!(cluster.node('a').has_left(now));
}

#[test]
fn an_unfit_leader_hands_over_to_a_fit_member_and_leads_on_without_one() {
    let (mut leader, term, _) = One::leader("abc");
    for other in ['b', 'c'] {
        leader.hears_from(&process(other), Body::Alive, |gossip| gossip.eligible = false);
    }
    leader.election.set_eligible(false, leader.now);
    assert_eq!(leader.term(), Some(term), "nobody is healthier");
    leader.hears('c', Body::Alive);
    assert_eq!(leader.term(), None);
    leader.election.confirm_standby(leader.now);
    assert_eq!(released(&leader.drain()), Some(Some(node('c'))));
}

#[test]
fn after_stepping_down_a_member_rests_for_ten_leases_while_another_is_fit() {
    let mut cluster = elected("ab");
    let now = cluster.now;
    cluster.node('a').step_down(None, now).unwrap();
    cluster.node('a').confirm_standby(now);
    cluster.settle();
    assert_eq!(cluster.leaders(), "b");
    let until = now + 10 * LEASE;
    let said = |gossip: leader::message::Gossip| (gossip.stopping, gossip.resting);
    assert_eq!(said(cluster.node('a').gossip(until - NS)), (true, true));
    assert_eq!(said(cluster.node('a').gossip(until)), (false, false));
    cluster.node('a').stop(until - NS);
    assert_eq!(said(cluster.node('a').gossip(until - NS)), (true, false), "who stops doesn't rest");
}

#[test]
fn a_member_that_rested_preempts_again() {
    let mut cluster = Several::with("ab", |config| {
        config.preempt = true;
        config.priority = if config.me == node('a') { 200 } else { 100 };
    });
    cluster.wait(3 * LEASE);
    assert_eq!(cluster.leaders(), "a");
    let now = cluster.now;
    cluster.node('a').step_down(None, now).unwrap();
    cluster.node('a').confirm_standby(now);
    cluster.wait(10 * LEASE - MS);
    assert_eq!(cluster.leaders(), "b");
    cluster.wait(LEASE / 2);
    let now = cluster.now;
    cluster.node('b').confirm_standby(now);
    cluster.settle();
    assert_eq!(cluster.leaders(), "a");
}

#[test]
fn a_resting_member_stands_when_nobody_else_is_fit() {
    let (mut leader, _, _) = One::leader("abc");
    leader.election.step_down(None, leader.now).unwrap();
    leader.election.confirm_standby(leader.now);
    leader.drain();
    leader.hears('c', Body::Alive);
    leader.waits(LEASE / 2);
    leader.hears('c', Body::Alive);
    let sent = leader.waits(LEASE - NS);
    assert!(!sent.iter().any(|(_, body)| matches!(body, Body::Canvass { .. })), "c is there");
    leader.hears_from(&process('c'), Body::Alive, |gossip| gossip.eligible = false);
    let sent = leader.waits(LEASE);
    assert!(sent.iter().any(|(_, body)| matches!(body, Body::Canvass { .. })), "c is unfit: {sent:?}");
}

#[test]
fn a_copy_of_a_release_names_nobody_anew() {
    let mut successor = One::awake("abc");
    let release = Body::Release { term: Term(5), successor: Some(node('a')) };
    let sent = successor.hears('b', release.clone());
    assert!(sent.iter().any(|(_, body)| matches!(body, Body::Request { .. })), "{sent:?}");
    successor.waits(3 * HEARTBEAT);
    let sent = successor.hears('b', release);
    assert!(!sent.iter().any(|(_, body)| matches!(body, Body::Request { .. })), "{sent:?}");
}

#[test]
fn a_release_is_repeated_until_a_leader_is_heard() {
    let (mut leader, _, _) = One::leader("abc");
    leader.election.step_down(None, leader.now).unwrap();
    leader.election.confirm_standby(leader.now);
    leader.drain();
    assert_eq!(released(&leader.waits(HEARTBEAT)), Some(Some(node('b'))));
    leader.hears_from(&process('b'), Body::Alive, |gossip| gossip.leading = true);
    assert_eq!(released(&leader.waits(HEARTBEAT)), None);
}

#[test]
fn others_leave_the_right_of_way_to_the_successor_for_half_a_lease() {
    let mut third = One::awake("abc");
    third.asked_by(&process('b'), 5);
    third.hears('b', Body::Release { term: Term(5), successor: Some(node('c')) });
    let sent = third.waits(LEASE / 2 - NS);
    assert!(!sent.iter().any(|(_, body)| matches!(body, Body::Canvass { .. })));
    let sent = third.waits(LEASE / 2);
    assert!(sent.iter().any(|(_, body)| matches!(body, Body::Canvass { .. })), "the successor may have died");
}

#[test]
fn a_lead_that_is_another_members_by_right_is_passed_on_in_the_same_input() {
    let mut unfit = One::awake("abc");
    unfit.election.set_eligible(false, unfit.now);
    unfit.drain();
    let (term, round) = {
        for other in ['b', 'c'] {
            unfit.hears_from(&process(other), Body::Alive, |gossip| gossip.eligible = false);
        }
        unfit.stand()
    };
    // Its vote elects, and says that its sender is fit again.
    let sent = unfit.hears('b', Body::Grant { term, round });
    assert_eq!(released(&sent), Some(Some(node('b'))));
    assert_eq!(unfit.term(), None);
}

#[test]
fn a_refusal_of_an_older_candidacy_is_nothing_to_a_newer_one() {
    let (mut candidate, term, round) = One::candidate("abc");
    let refuse = |term| Body::Refuse {
        ballot: Ballot::Request { term, round },
        objection: Objection::Promised { remaining: 50 * MS },
    };
    let older = Term(term.0 - 1);
    candidate.hears('b', refuse(older));
    candidate.hears('c', refuse(older));
    candidate.hears('b', Body::Grant { term, round });
    assert_eq!(candidate.term(), Some(term));
}
