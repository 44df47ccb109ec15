//! What a voter promises, and how long it keeps it.

use leader::{
    Term,
    message::{Ballot, Body, Objection, Round},
    node::{Incarnation, Instance, Process},
};

use crate::rig::{EXCLUSION, LEASE, MS, NS, One, Several, process};

fn refused(term: u64, objection: Objection) -> Body {
    Body::Refuse { ballot: Ballot::Request { term: Term(term), round: Round(1) }, objection }
}

fn granted(term: u64) -> Body {
    Body::Grant { term: Term(term), round: Round(1) }
}

#[test]
fn a_voter_excludes_others_for_a_fifth_longer_than_the_lease_from_the_receipt_on() {
    let mut voter = One::awake("abc");
    assert_eq!(voter.asked_by(&process('b'), 1), granted(1));

    voter.now += EXCLUSION - NS;
    assert_eq!(voter.asked_by(&process('c'), 2), refused(2, Objection::Promised { remaining: NS }));
    voter.now += NS;
    assert_eq!(voter.asked_by(&process('c'), 2), granted(2));
}

#[test]
fn a_live_grant_of_another_holder_is_never_replaced_whatever_the_term() {
    let mut voter = One::awake("abc");
    voter.asked_by(&process('b'), 1);
    voter.now += MS;
    let remaining = EXCLUSION - MS;
    assert_eq!(voter.asked_by(&process('c'), 1 << 40), refused(1 << 40, Objection::Promised { remaining }));
    voter.now += MS;
    assert_eq!(voter.asked_by(&process('b'), 1), granted(1), "the holder renews");
}

#[test]
fn another_incarnation_of_the_holder_is_another_holder() {
    let mut voter = One::awake("abc");
    voter.asked_by(&process('b'), 1);
    let reborn = Process { incarnation: Incarnation(99), ..process('b') };
    assert_eq!(voter.asked_by(&reborn, 2), refused(2, Objection::Promised { remaining: EXCLUSION }));
}

#[test]
fn a_longer_lease_than_the_voters_own_is_refused_by_name() {
    let mut voter = One::awake("abc");
    let request = Body::Request { term: Term(1), round: Round(1), released: None };
    let longer = voter.answer(&process('b'), request.clone(), |gossip| gossip.lease = LEASE + MS);
    assert_eq!(longer, refused(1, Objection::Lease));
    let shorter = voter.answer(&process('b'), request, |gossip| gossip.lease = LEASE - MS);
    assert_eq!(shorter, granted(1));
}

#[test]
fn a_restarted_voter_grants_nothing_for_one_exclusion() {
    let mut voter = One::new("abc");
    voter.now += EXCLUSION - NS;
    assert_eq!(voter.asked_by(&process('b'), 1), refused(1, Objection::Abstaining { remaining: NS }));
    voter.now += NS;
    assert_eq!(voter.asked_by(&process('b'), 1), granted(1));
}

#[test]
fn a_restarted_member_does_not_vote_for_itself_either() {
    let mut alone = One::new("abc");
    let sent = alone.waits(EXCLUSION - NS);
    assert!(sent.iter().all(|(_, body)| *body == Body::Alive), "{sent:?}");
    let mut canvassed = One::new("abc");
    canvassed.now += EXCLUSION / 2;
    // Not even when it is named as successor.
    let release = Body::Release { term: Term(1), successor: Some(leader::NodeId::new("a").unwrap()) };
    let sent = canvassed.hears('b', release);
    assert!(sent.iter().all(|(_, body)| !matches!(body, Body::Request { .. })), "{sent:?}");
}

#[test]
fn a_voter_that_abstains_keeps_its_vote_from_others_for_the_leader_it_hears() {
    let mut voter = One::new("abc");
    voter.now += EXCLUSION - NS;
    voter.asked_by(&process('b'), 1);
    voter.now += NS;
    assert_eq!(
        voter.asked_by(&process('c'), 2),
        refused(2, Objection::Promised { remaining: EXCLUSION - NS })
    );
}

#[test]
fn an_abstention_lasts_for_the_longest_lease_that_is_heard_of_meanwhile() {
    let mut voter = One::new("abc");
    voter.now += MS;
    voter.hears_from(&process('c'), Body::Alive, |gossip| gossip.lease = LEASE * 2);
    voter.now += EXCLUSION - MS;
    assert_eq!(voter.asked_by(&process('b'), 1), refused(1, Objection::Abstaining { remaining: EXCLUSION }));
}

#[test]
fn a_release_clears_exactly_the_instance_it_names() {
    let mut voter = One::awake("abc");
    voter.asked_by(&process('b'), 5);
    voter.hears('b', Body::Release { term: Term(4), successor: None });
    assert_eq!(voter.asked_by(&process('c'), 6), refused(6, Objection::Promised { remaining: EXCLUSION }));
    voter.hears('c', Body::Release { term: Term(5), successor: None });
    assert_eq!(voter.asked_by(&process('c'), 6), refused(6, Objection::Promised { remaining: EXCLUSION }));
    voter.hears('b', Body::Release { term: Term(5), successor: None });
    assert_eq!(voter.asked_by(&process('c'), 6), granted(6));
}

#[test]
fn a_request_that_comes_after_its_own_release_is_refused() {
    let mut voter = One::awake("abc");
    voter.hears('b', Body::Release { term: Term(5), successor: None });
    assert_eq!(voter.asked_by(&process('b'), 5), refused(5, Objection::Released));
    assert_eq!(voter.asked_by(&process('c'), 6), granted(6), "and keeps nobody waiting");
}

#[test]
fn an_older_request_of_a_holder_does_not_undo_its_newer_one() {
    let mut voter = One::awake("abc");
    voter.asked_by(&process('b'), 5);
    assert_eq!(voter.asked_by(&process('b'), 4), refused(4, Objection::Released));
    voter.hears('b', Body::Release { term: Term(4), successor: None });
    assert_eq!(voter.asked_by(&process('c'), 6), refused(6, Objection::Promised { remaining: EXCLUSION }));
}

#[test]
fn a_canvass_promises_nothing() {
    let mut voter = One::awake("abc");
    let canvass = Body::Canvass { round: Round(3) };
    assert_eq!(voter.answer(&process('b'), canvass, |_| {}), Body::Support { round: Round(3) });
    assert_eq!(voter.asked_by(&process('c'), 1), granted(1));
}

#[test]
fn a_successors_request_clears_the_exact_instance_that_named_it() {
    let mut voter = One::awake("abc");
    voter.asked_by(&process('b'), 5);
    let request = |term| {
        let released = Some(Instance { holder: process('b'), term: Term(term) });
        Body::Request { term: Term(6), round: Round(1), released }
    };
    let wrong = voter.answer(&process('c'), request(4), |_| {});
    assert_eq!(wrong, refused(6, Objection::Promised { remaining: EXCLUSION }));
    assert_eq!(voter.answer(&process('c'), request(5), |_| {}), granted(6));
}

#[test]
fn members_that_differ_by_two_get_no_vote_and_by_one_they_do() {
    let request = || Body::Request { term: Term(1), round: Round(1), released: None };
    let with = |members: &'static str| {
        let mut voter = One::awake("abc");
        let set = crate::rig::gossip('b', members, voter.now).members;
        voter.answer(&process('b'), request(), |gossip| gossip.members = set)
    };
    assert_eq!(with("abcde"), refused(1, Objection::Members), "two more");
    assert_eq!(with("abd"), refused(1, Objection::Members), "one exchanged");
    assert_eq!(with("abcd"), granted(1), "one more");
    assert_eq!(with("ab"), granted(1), "one less");
}

#[test]
fn a_leader_without_a_majority_is_a_follower_before_any_voter_is_free() {
    let mut cluster = Several::new("abc");
    cluster.wait(3 * LEASE);
    assert_eq!(cluster.leaders(), "a");
    for other in ['b', 'c'] {
        cluster.cut.extend([('a', other), (other, 'a')]);
    }
    let now = cluster.now;
    let end = cluster.node('a').lease_end(now).unwrap();
    while cluster.now < end {
        assert_eq!(cluster.leaders(), "a");
        cluster.wait(MS);
    }
    assert_eq!(cluster.leaders(), "", "nobody leads in the guard time");
    cluster.wait(LEASE / 2);
    assert_eq!(cluster.leaders(), "b");
}

#[test]
fn a_promise_that_is_over_holds_nobody_to_its_term() {
    let mut voter = One::awake("abc");
    assert!(matches!(voter.asked_by(&process('b'), 9), Body::Grant { .. }));
    voter.now += EXCLUSION;
    assert!(matches!(voter.asked_by(&process('c'), 3), Body::Grant { .. }));
}

#[test]
fn who_has_promised_its_vote_asks_nobody_before_it_is_free() {
    let mut voter = One::awake("abc");
    assert!(matches!(voter.asked_by(&process('b'), 9), Body::Grant { .. }));
    let canvasses = |sent: &[(char, Body)]| sent.iter().any(|(_, body)| matches!(body, Body::Canvass { .. }));
    assert!(!canvasses(&voter.waits(EXCLUSION - NS)));
    assert!(canvasses(&voter.waits(LEASE)));
}
