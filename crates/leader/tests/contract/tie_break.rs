//! Two members, and the segment that votes in place of the silent one.

use std::time::{Duration, Instant};

use leader::{
    Term, Timing,
    message::{Body, Gossip, Tie},
    node::Incarnation,
    quorum::{Config, ConfigError, Election, Sight, TieBreak},
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
