//! Who should lead: eligibility before priority, preemption by choice, and what is gossiped for that.

use leader::{
    message::{Body, Gossip},
    quorum::Election,
};

use crate::rig::{EXCLUSION, LEASE, MS, One, Several, config, gossip, node, process};

fn prefer(config: &mut leader::quorum::Config, name: &str) {
    if config.me.as_str() == name {
        config.priority = 200;
    }
}

#[test]
fn the_highest_priority_leads_and_the_smallest_name_among_equals() {
    let mut equal = Several::new("abc");
    equal.wait(3 * LEASE);
    assert_eq!(equal.leaders(), "a");
    let mut preferred = Several::with("abc", |config| prefer(config, "c"));
    preferred.wait(3 * LEASE);
    assert_eq!(preferred.leaders(), "c");
}

#[test]
fn among_equal_priorities_the_one_that_may_start_as_leader_leads() {
    let mut cluster = Several::with("abc", |config| config.start_as_leader = config.me == node('b'));
    cluster.wait(3 * LEASE);
    assert_eq!(cluster.leaders(), "b");
}

#[test]
fn an_eligible_member_comes_before_one_of_higher_priority() {
    let mut cluster = Several::with("abc", |config| prefer(config, "a"));
    let now = cluster.now;
    cluster.node('a').set_eligible(false, now);
    cluster.node('b').set_eligible(false, now);
    cluster.wait(3 * LEASE);
    assert_eq!(cluster.leaders(), "c");
}

#[test]
fn members_that_are_unfit_come_last_whatever_their_priority() {
    let (mut leader, _, _) = One::leader("abc");
    leader.hears_from(&process('b'), Body::Alive, |gossip| {
        gossip.eligible = false;
        gossip.priority = 200;
    });
    leader.election.stop(leader.now);
    leader.election.confirm_standby(leader.now);
    let named = leader.drain().into_iter().find_map(|(_, body)| match body {
        Body::Release { successor, .. } => successor,
        _ => None,
    });
    assert_eq!(named, Some(node('c')));
}

#[test]
fn members_that_are_all_unfit_elect_one_after_an_extra_lease() {
    let mut cluster = Several::new("abc");
    let now = cluster.now;
    for name in ['a', 'b', 'c'] {
        cluster.node(name).set_eligible(false, now);
    }
    cluster.wait(EXCLUSION + LEASE - MS);
    assert_eq!(cluster.leaders(), "", "somebody fit may come");
    cluster.wait(LEASE);
    assert_eq!(cluster.leaders(), "a", "better an unfit leader than none");
}

#[test]
fn priority_alone_replaces_no_leader() {
    let mut cluster = Several::with("ab", |config| prefer(config, "b"));
    let now = cluster.now;
    cluster.node('b').set_eligible(false, now);
    cluster.wait(3 * LEASE);
    assert_eq!(cluster.leaders(), "a");
    let now = cluster.now;
    cluster.node('b').set_eligible(true, now);
    cluster.wait(20 * LEASE);
    assert_eq!(cluster.leaders(), "a");
}

#[test]
fn who_preempts_does_so_after_its_delay_of_being_eligible() {
    let delay = 5 * LEASE;
    let mut cluster = Several::with("ab", |config| {
        prefer(config, "b");
        config.preempt = true;
        config.preempt_delay = delay;
    });
    let now = cluster.now;
    cluster.node('b').set_eligible(false, now);
    cluster.wait(3 * LEASE);
    let now = cluster.now;
    cluster.node('b').set_eligible(true, now);
    cluster.wait(delay - MS);
    assert_eq!(cluster.leaders(), "a");
    cluster.wait(LEASE / 2);
    assert_eq!(cluster.leaders(), "", "the leader lets go, and waits for the address to be withdrawn");
    let now = cluster.now;
    cluster.node('a').confirm_standby(now);
    cluster.settle();
    assert_eq!(cluster.leaders(), "b");
}

#[test]
fn a_member_counts_as_dead_after_one_lease_of_silence() {
    let mut cluster = Several::new("abc");
    cluster.wait(3 * LEASE);
    cluster.crash('a');
    // The next in order needn't wait for the dead one's rank: the guard is over, and a throw of a few milliseconds.
    cluster.wait(EXCLUSION + LEASE / 40 + MS);
    assert_eq!(cluster.leaders(), "b");
}

#[test]
fn every_message_carries_the_gossip() {
    let mut one = One::with("abc", |config| {
        config.priority = 7;
        config.start_as_leader = true;
    });
    let now = one.now;
    one.election.set_eligible(false, now);
    one.election.stop(now);
    let said = one.election.poll_transmit().expect("it tells at once").message;
    let expected = Gossip {
        eligible: false,
        start_as_leader: true,
        priority: 7,
        abstaining: true,
        stopping: false,
        ..gossip('a', "abc", now)
    };
    assert_eq!(said.gossip, expected);
    assert_eq!(said.gossip.version.as_str(), "1.2.3");
    assert_eq!(said.gossip.lease, LEASE);
    let last = std::iter::from_fn(|| one.election.poll_transmit()).last().unwrap().message;
    assert!(last.gossip.stopping);
    assert_eq!(last.body, Body::Alive);
    let (leading, _, _) = One::leader("abc");
    assert!(leading.election.gossip(leading.now).leading);
    assert!(!leading.election.gossip(leading.now + LEASE).leading);
}

#[test]
fn a_member_claims_its_right_from_a_leader_of_lower_priority_only() {
    let claims = |priority| {
        let mut member = One::with("abc", |config| config.preempt = true);
        member.now += EXCLUSION;
        member.hears_from(&process('b'), Body::Alive, |gossip| {
            (gossip.leading, gossip.priority) = (true, priority)
        });
        member.election.gossip(member.now).preempting
    };
    assert!(claims(99) && !claims(100) && !claims(101));
}

#[test]
fn the_waits_that_keep_candidates_apart_grow_with_each_candidacy_that_fails() {
    let longest = |failures: usize| {
        let wait = |seed: u64| {
            let mut one = One::awake("abc");
            one.election =
                Election::new(&config('a', "abc"), "1.2.3", process('a').incarnation, seed, one.now).unwrap();
            one.now += EXCLUSION;
            for _ in 0..failures {
                one.stand();
                let given_up = one.runs_until(|body| matches!(body, Body::Release { .. }));
                assert!(matches!(given_up, Body::Release { successor: None, .. }));
            }
            let began = one.now;
            one.runs_until(|body| matches!(body, Body::Canvass { .. }));
            one.now - began
        };
        (0..40).map(wait).max().unwrap()
    };
    let (none, one, three, many) = (longest(0), longest(1), longest(3), longest(9));
    assert!(2 * none < one && 2 * one < three, "{none:?}, {one:?}, {three:?}");
    assert!(many < three * 3 / 2, "{many:?}: not for ever");
}
