//! A member that votes and never leads.

use std::collections::BTreeSet;

use leader::{
    Term,
    message::{Body, Gossip},
    node::Incarnation,
    quorum::{Config, ConfigError, Election, Impediment, StepDownError},
};

use crate::rig::{EXCLUSION, LEASE, One, Several, config, node, origin, process};

fn marked(config: &mut Config, witness: char) {
    config.witnesses = BTreeSet::from([node(witness)]);
}

fn says_so(gossip: &mut Gossip) {
    gossip.witness = true;
    gossip.stopping = true;
}

#[test]
fn a_witness_votes_and_never_stands() {
    let mut witness = One::with("abc", |config| marked(config, 'a'));
    let sent = witness.waits(20 * LEASE);
    assert!(sent.iter().all(|(_, body)| *body == Body::Alive), "{sent:?}");
    assert!(matches!(witness.asked_by(&process('b'), 1), Body::Grant { .. }));
}

#[test]
fn a_witness_that_is_named_as_successor_does_not_stand() {
    let mut witness = One::with("abc", |config| marked(config, 'a'));
    witness.now += EXCLUSION;
    let sent = witness.hears('b', Body::Release { term: Term(1), successor: Some(node('a')) });
    assert!(!sent.iter().any(|(_, body)| matches!(body, Body::Request { .. })), "{sent:?}");
}

#[test]
fn nobody_hands_over_to_a_witness() {
    let (mut leader, term, _) = One::leader("abc");
    // Fit and preferred, were it no witness; and not said to be unwilling, as by a faulty release.
    leader.hears_from(&process('b'), Body::Alive, |gossip| (gossip.witness, gossip.priority) = (true, 200));
    let refused = StepDownError::Impeded { node: node('b'), impediment: Impediment::Witness };
    assert_eq!(leader.election.step_down(Some(&node('b')), leader.now), Err(refused));
    assert_eq!(leader.election.step_down(None, leader.now), Ok(node('c')));

    let (mut leader, ..) = One::leader("abc");
    leader.hears_from(&process('b'), Body::Alive, |gossip| gossip.witness = true);
    leader.hears_from(&process('c'), Body::Alive, |gossip| gossip.stopping = true);
    assert_eq!(leader.election.step_down(None, leader.now), Err(StepDownError::NoSuccessor));
    assert_eq!(leader.term(), Some(term));
}

#[test]
fn an_unfit_leader_does_not_hand_over_to_a_witness() {
    let (mut leader, term, _) = One::leader("abc");
    leader.hears_from(&process('b'), Body::Alive, says_so);
    leader.hears_from(&process('c'), Body::Alive, |gossip| gossip.eligible = false);
    leader.election.set_eligible(false, leader.now);
    assert_eq!(leader.term(), Some(term));
}

#[test]
fn a_witness_tells_releases_that_know_no_witness_that_it_does_not_wish_to_lead() {
    let witness = One::with("abc", |config| marked(config, 'a'));
    let gossip = witness.election.gossip(witness.now);
    assert!(gossip.witness && gossip.stopping && !gossip.preempting);
    let ordinary = One::with("abc", |config| marked(config, 'b'));
    let gossip = ordinary.election.gossip(ordinary.now);
    assert!(!gossip.witness && !gossip.stopping);
}

#[test]
fn of_two_nodes_and_a_witness_any_one_may_fail() {
    for failing in ['a', 'b', 'c'] {
        let mut cluster = Several::with("abc", |config| marked(config, 'c'));
        cluster.wait(3 * LEASE);
        assert_eq!(cluster.leaders(), "a");
        cluster.crash(failing);
        cluster.wait(3 * LEASE);
        assert_eq!(cluster.leaders(), if failing == 'a' { "b" } else { "a" });
    }
}

#[test]
fn without_a_majority_neither_the_witness_leads_nor_anybody_else() {
    let mut cluster = Several::with("abc", |config| marked(config, 'c'));
    cluster.wait(3 * LEASE);
    cluster.crash('a');
    cluster.crash('b');
    cluster.wait(10 * LEASE);
    assert_eq!(cluster.leaders(), "");
}

#[test]
fn configurations_in_which_a_witness_would_have_to_lead_are_refused() {
    let refused = |change: fn(&mut Config)| {
        let mut config = config('a', "abc");
        change(&mut config);
        Election::new(&config, "", Incarnation(1), 1, origin()).unwrap_err()
    };
    assert_eq!(refused(|config| config.witnesses = config.members.clone()), ConfigError::OnlyWitnesses);
    let strange = refused(|config| marked(config, 'd'));
    assert_eq!(strange, ConfigError::StrangeWitness { witness: node('d') });
    let leading = refused(|config| {
        marked(config, 'a');
        config.start_as_leader = true;
    });
    assert_eq!(leading, ConfigError::LeadingWitness { me: node('a') });
}
