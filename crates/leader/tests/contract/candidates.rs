//! How a candidate counts votes, and what a lead is worth.

use std::time::Duration;

use leader::{
    Leadership, Term, Timing,
    message::{Ballot, Body, Objection, Round},
};

use crate::rig::{EXCLUSION, HEARTBEAT, LEASE, MS, NS, One, process};

fn round_of(sent: &[(char, Body)]) -> Round {
    sent.iter()
        .find_map(|(_, body)| match body {
            Body::Request { round, .. } => Some(*round),
            _ => None,
        })
        .expect("it asks")
}

#[test]
fn a_lead_ends_by_time_alone() {
    let (leader, term, _) = One::leader("abc");
    let until = leader.election.lease_end(leader.now).unwrap();
    assert_eq!(leader.election.leadership(until - NS), Leadership::Leader { term, until });
    assert_eq!(leader.election.leadership(until), Leadership::Follower { leader: None });
}

#[test]
fn a_lease_is_counted_from_before_the_request() {
    let (mut candidate, term, round) = One::candidate("abc");
    let asked = candidate.now;
    candidate.now += 20 * MS;
    candidate.hears('b', Body::Grant { term, round });
    assert_eq!(candidate.election.lease_end(candidate.now), Some(asked + LEASE));
}

#[test]
fn a_voter_that_answers_twice_counts_once() {
    let (mut candidate, term, round) = One::candidate("abcde");
    candidate.hears('b', Body::Grant { term, round });
    candidate.hears('b', Body::Grant { term, round });
    assert_eq!(candidate.term(), None);
    candidate.hears('c', Body::Grant { term, round });
    assert_eq!(candidate.term(), Some(term));
}

#[test]
fn a_renewal_needs_a_fresh_majority() {
    let (mut leader, term, first) = One::leader("abc");
    let until = leader.election.lease_end(leader.now);
    let second = round_of(&leader.waits(HEARTBEAT));
    leader.hears('b', Body::Grant { term, round: first });
    leader.hears('c', Body::Grant { term, round: first });
    assert_eq!(leader.election.lease_end(leader.now), until, "votes of an earlier round renew nothing");
    leader.hears('b', Body::Grant { term, round: second });
    assert!(leader.election.lease_end(leader.now) > until);
}

#[test]
fn votes_of_different_rounds_do_not_add_up() {
    let (mut candidate, term, first) = One::candidate("abcde");
    candidate.hears('b', Body::Grant { term, round: first });
    let second = round_of(&candidate.waits(HEARTBEAT));
    candidate.hears('c', Body::Grant { term, round: second });
    assert_eq!(candidate.term(), None);
}

#[test]
fn a_late_grant_is_worth_the_lease_of_its_own_round() {
    let (mut leader, term, _) = One::leader("abc");
    let second = round_of(&leader.waits(HEARTBEAT));
    let asked = leader.now;
    leader.waits(HEARTBEAT);
    leader.hears('b', Body::Grant { term, round: second });
    assert_eq!(leader.election.lease_end(leader.now), Some(asked + LEASE));
}

#[test]
fn a_grant_that_comes_after_the_lease_makes_no_leader() {
    let (mut leader, term, _) = One::leader("abc");
    let until = leader.election.lease_end(leader.now).unwrap();
    let second = round_of(&leader.waits(HEARTBEAT));
    leader.now = until;
    leader.hears('b', Body::Grant { term, round: second });
    assert_eq!(leader.term(), None, "what was lost is won again by an election only");
}

#[test]
fn a_member_cut_off_disturbs_nobody() {
    let mut lonely = One::awake("abc");
    let sent = lonely.waits(10 * LEASE);
    let harmless = |body: &Body| matches!(body, Body::Alive | Body::Canvass { .. });
    assert!(sent.iter().all(|(_, body)| harmless(body)), "it asks whether it would be elected, and no more");
    assert!(sent.iter().any(|(_, body)| matches!(body, Body::Canvass { .. })));
    assert_eq!(lonely.election.gossip(lonely.now).term, Term(0), "and raises no term");
}

#[test]
fn a_refused_canvass_is_repeated_exactly_when_a_majority_is_free() {
    let mut candidate = One::awake("abc");
    let Body::Canvass { round } = candidate.runs_until(|body| matches!(body, Body::Canvass { .. })) else {
        unreachable!()
    };
    let asked = candidate.now;
    let refuse = |remaining| Body::Refuse {
        ballot: Ballot::Canvass { round },
        objection: Objection::Promised { remaining },
    };
    candidate.hears('b', refuse(70 * MS));
    candidate.hears('c', refuse(60 * MS));
    candidate.runs_until(|body| matches!(body, Body::Canvass { .. }));
    let waited = candidate.now - asked;
    // A small throw keeps equals apart.
    assert!((60 * MS..63 * MS).contains(&waited), "{waited:?}");
}

#[test]
fn a_voter_that_names_an_absurd_time_does_not_silence_a_candidate() {
    let mut candidate = One::awake("abc");
    let Body::Canvass { round } = candidate.runs_until(|body| matches!(body, Body::Canvass { .. })) else {
        unreachable!()
    };
    for voter in ['b', 'c'] {
        let objection = Objection::Promised { remaining: Duration::from_secs(3600) };
        candidate.hears(voter, Body::Refuse { ballot: Ballot::Canvass { round }, objection });
    }
    let sent = candidate.waits(EXCLUSION + LEASE);
    assert!(sent.iter().any(|(_, body)| matches!(body, Body::Canvass { .. })));
}

#[test]
fn a_peer_that_names_an_absurd_term_does_not_bring_terms_to_their_end() {
    let mut candidate = One::awake("abc");
    candidate.hears_from(&process('b'), Body::Alive, |gossip| gossip.term = Term(1 << 48));
    let (first, _) = candidate.stand();
    assert_eq!(first, Term((1 << 47) + 1));
    candidate.waits(3 * HEARTBEAT);
    let (second, _) = candidate.stand();
    assert_eq!(second, Term((1 << 47) + 2));
}

#[test]
fn a_candidate_that_is_refused_releases_what_it_got() {
    let (mut candidate, term, round) = One::candidate("abcde");
    let refuse = Body::Refuse {
        ballot: Ballot::Request { term, round },
        objection: Objection::Promised { remaining: 50 * MS },
    };
    candidate.hears('b', Body::Grant { term, round });
    assert_eq!(candidate.hears('c', refuse.clone()), []);
    assert_eq!(candidate.hears('c', refuse.clone()), [], "a voter that refuses twice counts once");
    candidate.hears('d', refuse.clone());
    let sent = candidate.hears('e', refuse);
    let release = Body::Release { term, successor: None };
    assert_eq!(sent, ['b', 'c', 'd', 'e'].map(|voter| (voter, release.clone())));
    let vote = candidate.asked_by(&process('c'), 9);
    assert_eq!(vote, Body::Grant { term: Term(9), round: Round(1) }, "its own vote is free too");
}

#[test]
fn a_candidate_that_nobody_answers_releases_too() {
    let (mut candidate, term, _) = One::candidate("abc");
    let sent = candidate.waits(HEARTBEAT * 5 / 2);
    assert!(sent.contains(&('b', Body::Release { term, successor: None })));
}

#[test]
fn grants_of_a_released_term_never_count() {
    let (mut candidate, term, round) = One::candidate("abc");
    candidate.waits(HEARTBEAT * 5 / 2);
    candidate.hears('b', Body::Grant { term, round });
    assert_eq!(candidate.term(), None);

    // Nor do they in a later candidacy of the same process.
    let (later, _) = candidate.stand();
    assert!(later > term);
    candidate.hears('b', Body::Grant { term, round });
    candidate.hears('c', Body::Grant { term, round });
    assert_eq!(candidate.term(), None);
}

#[test]
fn rounds_in_flight_are_bounded() {
    let beat = LEASE / 10;
    let mut leader = One::with("abc", |config| config.timing = Timing::new(beat, LEASE).unwrap());
    leader.now += EXCLUSION;
    let (term, round) = leader.stand();
    leader.hears('b', Body::Grant { term, round });
    let until = leader.election.lease_end(leader.now);
    let rounds: Vec<Round> = (0..5).map(|_| round_of(&leader.waits(beat))).collect();
    leader.hears('b', Body::Grant { term, round: rounds[0] });
    assert_eq!(leader.election.lease_end(leader.now), until, "five heartbeats ago is forgotten");
    leader.hears('b', Body::Grant { term, round: rounds[1] });
    assert!(leader.election.lease_end(leader.now) > until, "four are good");
}

#[test]
fn a_lost_lead_is_not_released() {
    let (mut leader, _, _) = One::leader("abc");
    let sent = leader.waits(2 * EXCLUSION);
    assert!(
        !sent.iter().any(|(_, body)| matches!(body, Body::Release { .. })),
        "its owner may be late to let go"
    );
    let vote = leader.asked_by(&process('b'), 9);
    assert!(matches!(vote, Body::Grant { .. }), "{vote:?}");
}

#[test]
fn a_single_member_leads_at_once_and_on() {
    let mut single = One::new("a");
    single.waits(Duration::ZERO);
    assert!(single.term().is_some());
    single.waits(10 * LEASE);
    assert_eq!(single.term(), Some(Term(1)));
    single.now += LEASE;
    assert_eq!(single.term(), None, "its lease ends as any other's");
}
