//! How a member asks whether it would be elected, and which answers count.

use std::time::Duration;

use leader::message::{Ballot, Body, Objection, Round};

use crate::rig::{EXCLUSION, HEARTBEAT, LEASE, MS, NS, One};

fn canvass(candidate: &mut One) -> Round {
    match candidate.runs_until(|body| matches!(body, Body::Canvass { .. })) {
        Body::Canvass { round } => round,
        other => unreachable!("{other:?}"),
    }
}

fn refused(round: Round, remaining: Duration) -> Body {
    Body::Refuse { ballot: Ballot::Canvass { round }, objection: Objection::Promised { remaining } }
}

fn stands(sent: &[(char, Body)]) -> bool {
    sent.iter().any(|(_, body)| matches!(body, Body::Request { .. }))
}

#[test]
fn answers_to_an_older_canvass_are_nothing_to_a_newer_one() {
    let mut candidate = One::awake("abc");
    let first = canvass(&mut candidate);
    let second = canvass(&mut candidate);
    assert!(!stands(&candidate.hears('b', Body::Support { round: first })));
    let asked = candidate.now;
    for voter in ['b', 'c'] {
        candidate.hears(voter, refused(first, 90 * MS));
    }
    let third = canvass(&mut candidate);
    assert!(candidate.now - asked < HEARTBEAT + 3 * MS, "it was not put off by a refusal of the first");
    assert!(first < second && second < third);
    assert!(stands(&candidate.hears('b', Body::Support { round: third })));
}

#[test]
fn a_canvass_that_one_refused_is_repeated_after_a_heartbeat_as_the_silent_one_could_decide_it() {
    let mut candidate = One::awake("abc");
    let round = canvass(&mut candidate);
    let asked = candidate.now;
    candidate.hears('b', refused(round, 90 * MS));
    canvass(&mut candidate);
    let waited = candidate.now - asked;
    assert!((HEARTBEAT..HEARTBEAT + 3 * MS).contains(&waited), "{waited:?}");
}

#[test]
fn a_canvass_that_a_majority_refused_is_not_repeated_before_one_of_them_is_free() {
    let mut candidate = One::awake("abc");
    let round = canvass(&mut candidate);
    let asked = candidate.now;
    for voter in ['b', 'c'] {
        candidate.hears(voter, refused(round, 90 * MS));
    }
    canvass(&mut candidate);
    let waited = candidate.now - asked;
    assert!((90 * MS..93 * MS).contains(&waited), "{waited:?}");
}

#[test]
fn a_refusal_that_time_does_not_mend_is_asked_about_again_after_an_exclusion() {
    for objection in [Objection::Members, Objection::Lease, Objection::Released] {
        let mut candidate = One::awake("abc");
        let round = canvass(&mut candidate);
        let asked = candidate.now;
        for voter in ['b', 'c'] {
            candidate.hears(voter, Body::Refuse { ballot: Ballot::Canvass { round }, objection });
        }
        canvass(&mut candidate);
        let waited = candidate.now - asked;
        assert!((EXCLUSION..EXCLUSION + 3 * MS).contains(&waited), "{objection:?}: {waited:?}");
    }
}

#[test]
fn a_candidacy_that_was_refused_is_followed_by_another_when_the_first_of_those_is_free_that_it_takes() {
    let (mut candidate, term, round) = One::candidate("abc");
    let asked = candidate.now;
    let refuse = |remaining| {
        let ballot = Ballot::Request { term, round };
        Body::Refuse { ballot, objection: Objection::Promised { remaining } }
    };
    candidate.hears('b', refuse(90 * MS));
    let sent = candidate.hears('c', refuse(40 * MS));
    assert!(sent.contains(&('b', Body::Release { term, successor: None })), "{sent:?}");
    let early = candidate.waits(40 * MS - NS);
    assert!(!early.iter().any(|(_, body)| matches!(body, Body::Canvass { .. })), "{early:?}");
    canvass(&mut candidate);
    // What keeps candidates apart is wider once one has failed.
    assert!(candidate.now - asked < 90 * MS, "{:?}", candidate.now - asked);
}

#[test]
fn priority_takes_the_lead_from_a_lower_one_and_from_no_equal() {
    let preempted = |priority| {
        let (mut leader, term, _) = One::leader("abc");
        leader.hears_from(&crate::rig::process('b'), Body::Alive, |gossip| {
            (gossip.preempting, gossip.priority) = (true, priority);
        });
        leader.term() != Some(term)
    };
    assert!(!preempted(99) && !preempted(100) && preempted(101));
    assert!(LEASE > HEARTBEAT);
}
