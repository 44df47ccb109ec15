//! Two members, and the segment that votes in place of the silent one.

use std::time::{Duration, Instant};

use leader::{
    Term, Timing,
    message::{Body, Gossip, Tie},
    node::Incarnation,
    quorum::{Config, ConfigError, Election, Event, Sight, TieBreak},
};

use crate::rig::{EXCLUSION, HEARTBEAT, LEASE, MS, NS, One, config, gossip, node, origin, process};

/// The time between two looks.
const LOOK: Duration = Duration::from_micros(12_500);
/// After so long without a word, the other is missed.
const PATIENCE: Duration = Duration::from_micros(37_500);

fn tied(config: &mut Config) {
    config.tie_break = Some(TieBreak::named("gateway"));
}

/// A member that votes, and its silent peer.
fn pair() -> One {
    let mut one = One::with("ab", tied);
    one.now += EXCLUSION;
    one
}

/// A member that leads with the vote of its peer.
fn leader() -> (One, Term) {
    let mut one = pair();
    let (term, round) = one.stand();
    one.hears('b', Body::Grant { term, round });
    assert_eq!(one.term(), Some(term));
    (one, term)
}

fn good(asked: Instant) -> Sight {
    Sight { asked, answered: true, owned: false, contested: false }
}

/// Looks for so long, one look after the other; gives all that is sent meanwhile.
fn looks(one: &mut One, time: Duration, change: impl Fn(&mut Sight)) -> Vec<(char, Body)> {
    let end = one.now + time;
    let mut sent = Vec::new();
    while one.now < end {
        let mut sight = good(one.now);
        sent.extend(one.waits(LOOK));
        change(&mut sight);
        one.election.handle_sight(sight, one.now);
        sent.extend(one.drain());
    }
    sent
}

fn stands(sent: &[(char, Body)]) -> bool {
    sent.iter().any(|(_, body)| matches!(body, Body::Request { .. }))
}

fn misses(gossip: &mut Gossip) {
    gossip.tie = Some(Tie { rule: TieBreak::named("gateway"), missing: true, blind: false });
}

fn end(one: &One) -> Option<Instant> {
    one.election.lease_end(one.now)
}

#[test]
fn a_leader_whose_peer_is_silent_is_renewed_from_when_it_looked() {
    let (mut leader, term) = leader();
    leader.waits(PATIENCE + 10 * MS);
    let asked = leader.now;
    leader.waits(LOOK);
    leader.election.handle_sight(good(asked), leader.now);
    assert_eq!(end(&leader), Some(asked + LEASE));
    looks(&mut leader, 20 * LEASE, |_| {});
    assert_eq!(leader.term(), Some(term));
}

#[test]
fn a_leader_is_not_renewed_without_the_tie_break_nor_beside_another_owner() {
    for change in [|sight: &mut Sight| sight.answered = false, |sight: &mut Sight| sight.owned = true] {
        let (mut leader, _) = leader();
        looks(&mut leader, LEASE + LOOK, change);
        assert_eq!(leader.term(), None);
    }
    let (mut leader, term) = leader();
    looks(&mut leader, 3 * LEASE, |sight| sight.contested = true);
    assert_eq!(leader.term(), Some(term), "who only looks is no owner");
}

#[test]
fn a_leader_that_its_peer_misses_is_not_renewed_by_the_segment() {
    for say in [misses, |gossip: &mut Gossip| gossip.leading = true] {
        let (mut leader, _) = leader();
        leader.waits(PATIENCE);
        leader.hears_from(&process('b'), Body::Alive, say);
        let until = end(&leader);
        looks(&mut leader, 40 * MS, |_| {});
        assert_eq!(end(&leader), until);
        looks(&mut leader, LEASE, |_| {});
        assert_eq!(leader.term(), None, "it lets go at its lease's end");
    }
}

#[test]
fn a_peer_that_hears_a_leader_and_abstains_does_not_keep_the_segment_from_voting() {
    let (mut leader, term) = leader();
    for _ in 0..20 {
        leader.hears_from(&process('b'), Body::Alive, |gossip| gossip.abstaining = true);
        looks(&mut leader, HEARTBEAT, |_| {});
    }
    assert_eq!(leader.term(), Some(term));
}

#[test]
fn a_sight_that_is_told_late_breaks_no_series() {
    let mut follower = pair();
    follower.hears('b', Body::Alive);
    follower.waits(NS);
    let sent = looks(&mut follower, EXCLUSION, |_| {});
    assert!(!stands(&sent));
    follower.election.handle_sight(good(follower.now - 50 * MS), follower.now);
    assert!(stands(&looks(&mut follower, LOOK, |_| {})));
}

#[test]
fn a_word_at_the_instant_of_a_sight_is_the_newer_of_the_two() {
    let mut follower = pair();
    follower.election.handle_sight(good(follower.now), follower.now);
    follower.hears('b', Body::Alive);
    follower.waits(NS);
    let sent = looks(&mut follower, EXCLUSION, |_| {});
    assert!(!stands(&sent), "the series begins with the next look");
    assert!(stands(&looks(&mut follower, 2 * LOOK, |_| {})));
}

#[test]
fn one_good_sight_makes_no_candidate_of_a_member_that_canvasses() {
    let mut follower = pair();
    follower.runs_until(|body| matches!(body, Body::Canvass { .. }));
    follower.election.handle_sight(good(follower.now), follower.now);
    let sent = follower.drain();
    assert!(!stands(&sent), "{sent:?}");
}

#[test]
fn one_good_sight_elects_nobody_whose_peer_was_there_a_moment_ago() {
    let mut candidate = pair();
    candidate.stand();
    candidate.now += NS;
    candidate.election.handle_sight(good(candidate.now), candidate.now);
    assert_eq!(candidate.term(), None);
}

#[test]
fn a_lead_is_the_segments_until_the_peer_renews_it() {
    let (mut leader, term) = leader();
    assert_eq!(leader.election.arbitration(leader.now).leads_until, None);
    looks(&mut leader, 2 * LEASE, |_| {});
    assert!(end(&leader).is_some());
    assert_eq!(leader.election.arbitration(leader.now).leads_until, end(&leader));
    let Body::Request { round, .. } = leader.runs_until(|body| matches!(body, Body::Request { .. })) else {
        unreachable!()
    };
    leader.hears('b', Body::Grant { term, round });
    assert!(end(&leader).is_some());
    assert_eq!(leader.election.arbitration(leader.now).leads_until, None);
}

#[test]
fn a_sight_as_old_as_a_lease_is_worth_nothing() {
    let (mut leader, _) = leader();
    let until = end(&leader);
    leader.waits(PATIENCE);
    for age in [LEASE, 2 * LEASE] {
        leader.election.handle_sight(good(leader.now - age), leader.now);
        assert_eq!(end(&leader), until);
    }
}

#[test]
fn a_sight_of_what_is_still_to_come_is_one_of_now() {
    let (mut leader, _) = leader();
    leader.waits(PATIENCE + 10 * MS);
    leader.election.handle_sight(good(leader.now + 10 * LEASE), leader.now);
    assert_eq!(end(&leader), Some(leader.now + LEASE));
}

#[test]
fn a_grant_that_comes_a_lease_after_it_was_asked_for_is_worth_nothing() {
    let (mut leader, term) = leader();
    let Body::Request { round, .. } = leader.runs_until(|body| matches!(body, Body::Request { .. })) else {
        unreachable!()
    };
    let over = leader.now + LEASE;
    looks(&mut leader, LEASE - LOOK, |_| {});
    let until = end(&leader);
    assert!(until.is_some_and(|until| over < until), "it leads on by the segment");
    leader.waits(over - NS - leader.now);
    leader.now = over;
    leader.hears('b', Body::Grant { term, round });
    assert_eq!(end(&leader), until);
}

#[test]
fn what_the_peer_may_have_counted_is_over_after_an_exclusion() {
    let (mut leader, term) = leader();
    let over = leader.now + EXCLUSION;
    let mut says = gossip('b', "ab", leader.now);
    misses(&mut says);
    leader.election.handle_sign(&node('b'), &says, leader.now);
    for _ in 0..2 {
        let Body::Request { round, .. } = leader.runs_until(|body| matches!(body, Body::Request { .. }))
        else {
            unreachable!()
        };
        leader.hears('b', Body::Grant { term, round });
    }
    leader.waits(over - NS - leader.now);
    let until = end(&leader);
    assert!(until.is_some_and(|until| until < over + LEASE));
    leader.election.handle_sight(good(leader.now), leader.now);
    assert_eq!(end(&leader), until);
    leader.now += NS;
    leader.election.handle_sight(good(leader.now), leader.now);
    assert_eq!(end(&leader), Some(over + LEASE));
}

#[test]
fn the_segments_vote_is_told_once_and_anew_after_the_peer_was_there() {
    let (mut leader, term) = leader();
    let told = |one: &mut One| {
        std::iter::from_fn(|| one.election.poll_event())
            .filter(|event| *event == Event::SegmentVoted { term })
            .count()
    };
    let silent = |one: &mut One| {
        let mut votes = 0;
        for _ in 0..40 {
            let asked = one.now;
            one.now += LOOK;
            one.election.handle_timeout(one.now);
            one.election.handle_sight(good(asked), one.now);
            votes += told(one);
            one.drain();
        }
        votes
    };
    assert_eq!(silent(&mut leader), 1);
    for _ in 0..20 {
        let Body::Request { round, .. } = leader.runs_until(|body| matches!(body, Body::Request { .. }))
        else {
            unreachable!()
        };
        leader.hears('b', Body::Grant { term, round });
    }
    assert_eq!(silent(&mut leader), 1);
    assert_eq!(leader.term(), Some(term));
}

#[test]
fn a_member_that_misses_its_peer_says_so_at_once_and_then_with_its_beats() {
    let mut follower = pair();
    follower.waits(HEARTBEAT);
    follower.hears('b', Body::Alive);
    let alive = |sent: &[(char, Body)]| sent.iter().filter(|(_, body)| *body == Body::Alive).count();
    follower.waits(PATIENCE - NS);
    assert_eq!(alive(&follower.waits(NS)), 1);
    // Looks go on, and show that the tie-break is gone, too.
    let sent = looks(&mut follower, 8 * LEASE, |sight| sight.answered = false);
    assert!(alive(&sent) <= 8 * 4, "{} in as many beats as 32", alive(&sent));
    // Something is seen: the peer has to know.
    let sight = good(follower.now);
    follower.now += NS;
    follower.election.handle_sight(sight, follower.now);
    assert_eq!(alive(&follower.drain()), 1);
    follower.now += NS;
    follower.election.handle_sight(good(follower.now), follower.now);
    assert_eq!(alive(&follower.drain()), 0);
}

#[test]
fn who_was_stopped_looks_at_nothing() {
    let mut follower = pair();
    follower.waits(LEASE);
    assert_eq!(follower.election.arbitration(follower.now).looks, Some(LOOK));
    follower.election.stop(follower.now);
    follower.waits(LEASE);
    assert_eq!(follower.election.arbitration(follower.now).looks, None);
}

#[test]
fn of_two_that_lead_in_the_same_term_the_smaller_name_leads_on() {
    let asks = |leader: &mut One, rival, term| {
        let round = leader::message::Round(1);
        leader.hears(rival, Body::Request { term, round, released: None });
    };
    let (mut a, term) = leader();
    asks(&mut a, 'b', term);
    assert_eq!(a.term(), Some(term));

    let mut b = One::with("ba", |config| {
        tied(config);
        config.me = node('b');
    });
    b.now += EXCLUSION;
    let (term, round) = b.stand();
    b.hears('a', Body::Grant { term, round });
    assert_eq!(b.term(), Some(term));
    asks(&mut b, 'a', Term(term.0 - 1));
    assert_eq!(b.term(), Some(term), "what is over is nothing to it");
    asks(&mut b, 'a', term);
    assert_eq!(b.term(), None);
}

#[test]
fn a_follower_stands_after_an_exclusion_of_good_sights_and_leads_with_one_more() {
    let mut follower = pair();
    follower.hears('b', Body::Alive);
    let begun = follower.now + NS;
    follower.waits(NS);
    let sent = looks(&mut follower, EXCLUSION, |_| {});
    assert!(!stands(&sent), "the last look was begun just before the exclusion was over");
    let sent = looks(&mut follower, LOOK, |_| {});
    assert!(stands(&sent), "{sent:?}");
    assert!(begun + EXCLUSION <= follower.now);
    assert_eq!(follower.term(), None, "what was seen before it asked is no answer");
    looks(&mut follower, LOOK, |_| {});
    assert!(follower.term().is_some());
}

#[test]
fn a_sight_from_before_the_candidacy_elects_nobody() {
    let mut follower = pair();
    while !stands(&looks(&mut follower, LOOK, |_| {})) {}
    follower.waits(LOOK);
    follower.election.handle_sight(good(follower.now - LOOK - NS), follower.now);
    assert_eq!(follower.term(), None);
}

#[test]
fn whatever_breaks_the_series_begins_it_anew() {
    let breaks: [fn(&mut One); 6] = [
        |one| drop(looks(one, LOOK, |sight| sight.owned = true)),
        |one| drop(looks(one, LOOK, |sight| sight.answered = false)),
        |one| drop(looks(one, LOOK, |sight| sight.contested = true)),
        |one| drop(one.waits(PATIENCE + NS)),
        |one| drop(one.hears('b', Body::Alive)),
        |one| {
            let said = gossip('b', "ab", one.now);
            one.election.handle_sign(&node('b'), &said, one.now);
        },
    ];
    for (number, break_it) in breaks.into_iter().enumerate() {
        let mut follower = pair();
        let sent = looks(&mut follower, EXCLUSION - LOOK, |_| {});
        assert!(!stands(&sent), "{number}");
        break_it(&mut follower);
        let sent = looks(&mut follower, EXCLUSION, |_| {});
        assert!(!stands(&sent), "{number}");
        let sent = looks(&mut follower, 2 * LOOK, |_| {});
        assert!(stands(&sent), "{number}");
    }
}

#[test]
fn sights_among_messages_make_no_silence() {
    let mut follower = pair();
    let mut sent = Vec::new();
    for _ in 0..100 {
        sent.extend(follower.hears('b', Body::Alive));
        // Asked after one message and answered before the next.
        sent.extend(follower.waits(NS));
        sent.extend(looks(&mut follower, LOOK, |_| {}));
        sent.extend(follower.waits(LOOK / 2));
    }
    assert!(!stands(&sent));
}

#[test]
fn without_the_peers_vote_or_the_segments_nobody_leads() {
    let mut follower = pair();
    assert!(!stands(&follower.waits(20 * LEASE)));
    let mut untied = One::awake("ab");
    assert!(!stands(&looks(&mut untied, 20 * LEASE, |_| {})), "without a tie-break sights are nothing");
}

#[test]
fn an_unproven_sign_that_it_is_missed_keeps_a_leader_from_the_segments_vote() {
    let (mut leader, _) = leader();
    let mut said = gossip('b', "ab", leader.now);
    misses(&mut said);
    leader.waits(PATIENCE);
    leader.election.handle_sign(&node('b'), &said, leader.now);
    looks(&mut leader, LEASE, |_| {});
    assert_eq!(leader.term(), None);
}

#[test]
fn a_member_says_at_once_that_it_misses_the_other() {
    let mut follower = pair();
    follower.hears('b', Body::Alive);
    let said = |one: &One| one.election.gossip(one.now).tie.unwrap().missing;
    follower.waits(PATIENCE - NS);
    assert!(!said(&follower));
    assert_eq!(follower.election.arbitration(follower.now).looks, None);
    let sent = follower.waits(NS);
    assert!(said(&follower) && sent.iter().any(|(_, body)| *body == Body::Alive), "{sent:?}");
    assert_eq!(follower.election.arbitration(follower.now).looks, Some(LOOK));
    follower.hears('b', Body::Alive);
    assert_eq!(follower.election.arbitration(follower.now).looks, None);
}

#[test]
fn a_leader_looks_when_its_lease_is_not_renewed_though_its_peer_is_heard() {
    let (mut leader, _) = leader();
    assert_eq!(leader.election.arbitration(leader.now).looks, None);
    leader.waits(PATIENCE - MS);
    leader.hears_from(&process('b'), Body::Alive, |gossip| gossip.abstaining = true);
    leader.waits(MS);
    assert_eq!(leader.election.arbitration(leader.now).looks, Some(LOOK));
}

#[test]
fn a_leader_lets_go_for_one_that_asks_in_a_higher_term_and_for_no_other() {
    let (mut leader, term) = leader();
    looks(&mut leader, 3 * LEASE, |_| {});
    let lower = leader.asked_by(&process('b'), 0);
    assert!(matches!(lower, Body::Refuse { .. }), "{lower:?}");
    assert_eq!(leader.term(), Some(term));

    let sent = {
        leader.asked_by(&process('b'), term.0 + 1);
        leader.waits(Duration::ZERO)
    };
    assert_eq!(leader.term(), None);
    assert!(!sent.iter().any(|(_, body)| matches!(body, Body::Release { .. })), "the address goes first");
    leader.election.confirm_standby(leader.now);
    let sent = leader.drain();
    assert!(sent.contains(&('b', Body::Release { term, successor: Some(node('b')) })), "{sent:?}");

    let (mut untied, term, _) = One::leader("ab");
    untied.asked_by(&process('b'), term.0 + 1);
    assert_eq!(untied.term(), Some(term), "where majorities decide a term is nothing to a leader");
}

#[test]
fn of_equal_terms_the_smaller_name_leads_on() {
    // `a` is smaller than its peer.
    let (mut leader, term) = leader();
    leader.asked_by(&process('b'), term.0);
    assert_eq!(leader.term(), Some(term));
}

#[test]
fn two_that_do_not_agree_get_no_vote_of_the_segment() {
    let differ: [fn(&mut Gossip); 3] = [
        |gossip| gossip.tie = Some(Tie { rule: TieBreak::named("10.0.0.1"), missing: false, blind: false }),
        |gossip| gossip.lease = LEASE - MS,
        |gossip| gossip.members = crate::rig::gossip('b', "abc", origin()).members,
    ];
    for (number, change) in differ.into_iter().enumerate() {
        let mut follower = pair();
        follower.hears_from(&process('b'), Body::Alive, change);
        assert!(!stands(&looks(&mut follower, 10 * LEASE, |_| {})), "{number}");
        let (mut leader, _) = leader();
        leader.hears_from(&process('b'), Body::Alive, change);
        looks(&mut leader, 2 * LEASE, |_| {});
        assert_eq!(leader.term(), None, "{number}");
    }
}

#[test]
fn a_tie_break_is_for_two_that_may_both_lead_and_not_for_the_fastest() {
    let refused = |members, change: fn(&mut Config)| {
        let mut config = config('a', members);
        tied(&mut config);
        change(&mut config);
        Election::new(&config, "", Incarnation(1), 1, origin()).unwrap_err()
    };
    assert_eq!(refused("abc", |_| {}), ConfigError::TieOfMany { members: 3 });
    assert_eq!(refused("a", |_| {}), ConfigError::TieOfMany { members: 1 });
    let witness = refused("ab", |config| config.witnesses = [node('b')].into());
    assert_eq!(witness, ConfigError::TieOfMany { members: 2 });
    let fast = refused("ab", |config| config.timing = Timing::FAST);
    assert_eq!(fast, ConfigError::TieTooFast { heartbeat: 2 * MS });
}

#[test]
fn a_peer_that_hears_nothing_and_sees_nothing_is_no_word_and_no_rival() {
    let blind = |gossip: &mut Gossip| {
        gossip.tie = Some(Tie { rule: TieBreak::named("gateway"), missing: true, blind: true });
    };
    let (mut leader, term) = leader();
    for _ in 0..20 {
        leader.hears_from(&process('b'), Body::Alive, blind);
        looks(&mut leader, HEARTBEAT, |_| {});
    }
    assert_eq!(leader.term(), Some(term), "whose ears are broken takes nothing from the other");

    let mut follower = pair();
    let mut sent = Vec::new();
    for _ in 0..20 {
        sent.extend(follower.hears_from(&process('b'), Body::Alive, blind));
        sent.extend(looks(&mut follower, HEARTBEAT, |_| {}));
    }
    assert!(stands(&sent), "nor does a former leader's");
}

#[test]
fn a_member_is_blind_until_its_first_good_sight_and_says_at_once_that_it_is_no_more() {
    let mut follower = pair();
    follower.waits(PATIENCE);
    let tie = |one: &One| one.election.gossip(one.now).tie.unwrap();
    assert!(tie(&follower).missing && tie(&follower).blind);
    looks(&mut follower, LOOK, |sight| sight.answered = false);
    assert!(tie(&follower).blind);
    let sight = good(follower.now);
    follower.now += MS;
    follower.election.handle_sight(sight, follower.now);
    assert!(tie(&follower).missing && !tie(&follower).blind);
    assert!(follower.drain().contains(&('b', Body::Alive)));
    let (leader, _) = leader();
    assert!(!leader.election.gossip(leader.now + 50 * MS).tie.unwrap().blind, "a leader counts");
}
