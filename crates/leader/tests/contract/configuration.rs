//! What makes an election, and what is said of what doesn't.

use std::collections::BTreeSet;

use leader::{
    NodeId, Timing, lease,
    node::Incarnation,
    quorum::{Config, ConfigError, Election, Impediment, StepDownError, TieBreak},
};

use crate::rig::{LEASE, MS, One, config, gossip, node, origin, process};

fn made(config: &Config) -> Result<Election, ConfigError> {
    Election::new(config, "1.2.3", Incarnation(1), 7, origin())
}

fn numbered(count: usize) -> Config {
    let members: BTreeSet<NodeId> =
        (1..=count).map(|number| NodeId::new(&format!("master-{number}")).unwrap()).collect();
    Config { me: members.first().unwrap().clone(), members, ..config('a', "a") }
}

#[test]
fn an_election_has_room_for_fifteen_members() {
    assert!(made(&numbered(15)).is_ok());
    let refused = made(&numbered(16)).unwrap_err();
    assert_eq!(refused, ConfigError::TooMany { members: 16 });
    assert_eq!(refused.to_string(), "16 members are too many; at most 15 can take part");
}

#[test]
fn who_is_no_member_has_no_election() {
    assert_eq!(made(&config('d', "abc")).unwrap_err(), ConfigError::NotMember { me: node('d') });
}

#[test]
fn a_tie_break_takes_a_heartbeat_of_twenty_milliseconds() {
    let with = |heartbeat| {
        let timing = Timing::new(heartbeat, 4 * LEASE).unwrap();
        let tie_break = Some(TieBreak::named("10.0.0.1"));
        made(&Config { timing, tie_break, ..config('a', "ab") }).map(drop)
    };
    assert_eq!(with(20 * MS), Ok(()));
    let heartbeat = 20 * MS - MS / 2;
    assert_eq!(with(heartbeat), Err(ConfigError::TieTooFast { heartbeat }));
}

#[test]
fn an_operator_is_told_who_could_be_named_and_what_keeps_the_one_that_was() {
    let known = vec![node('b'), node('c')];
    let unknown = |known| StepDownError::Unknown { node: node('x'), known }.to_string();
    assert_eq!(unknown(known), "there is no other node x; there is b, c");
    assert_eq!(unknown(vec![]), "there is no other node x; there is no other");
    let texts = [
        (Impediment::Unheard, "it was not heard within the last lease"),
        (Impediment::Witness, "it is a witness, which votes and never leads"),
        (Impediment::Stopping, "it is about to stop"),
        (Impediment::Resting, "it stepped down a moment ago, and rests"),
        (Impediment::Abstaining, "it was started a moment ago"),
        (Impediment::Unfit, "it says that it can't serve"),
        (Impediment::Mismatch, "its lease or its members are not this node's"),
    ];
    for (impediment, text) in texts {
        let told = StepDownError::Impeded { node: node('b'), impediment }.to_string();
        assert_eq!(told, format!("b can't take over now: {text}"));
    }
}

#[test]
fn a_member_that_is_a_witness_for_itself_alone_or_for_others_alone_is_noticed() {
    let election = One::with("abc", |config| {
        config.witnesses.insert(node('c'));
    })
    .election;
    let now = origin();
    let ordinary = |name| gossip(name, "abc", now);
    let witness = |name| leader::message::Gossip { witness: true, ..ordinary(name) };
    let agrees = |name: char, gossip| election.agrees_on_witness(&process(name).node, &gossip);
    assert!(agrees('b', ordinary('b')) && agrees('c', witness('c')));
    assert!(!agrees('b', witness('b')) && !agrees('c', ordinary('c')));
}

#[test]
fn what_an_election_runs_with_unless_it_is_told_otherwise_is_possible() {
    let timing = Timing::default();
    assert_eq!(Timing::new(timing.heartbeat(), timing.lease()), Ok(timing));
    let slow = lease::Timing::default();
    let made = lease::Timing::new(slow.lease_duration(), slow.renew_deadline(), slow.retry_period());
    assert_eq!(made, Ok(slow));
}
