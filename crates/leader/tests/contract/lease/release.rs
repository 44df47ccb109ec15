//! Leaving the lead: address, then Lease, then successor.

use leader::{
    lease::{Ask, Cause, Event, Reply},
    quorum::StepDownError,
};

use std::collections::BTreeSet;

use super::*;

#[test]
fn a_leader_that_steps_down_follows_at_once_and_releases_nothing_before_the_owner_confirms() {
    let mut one = One::leader();
    one.election.step_down(None, None, one.now).unwrap();
    assert!(!one.leads());
    assert_eq!(one.asks(), None);
    one.wait(S);
    assert_eq!(one.asks(), None);
    one.election.confirm_standby(one.now);
    let record = one.writes();
    assert_eq!(record.holder, None);
    assert_eq!((record.duration, record.transitions), (Some(S), 4));
    assert_eq!(record.acquired, record.renewed);
}

#[test]
fn only_a_leader_steps_down() {
    let mut one = One::seeing(held("other", 1));
    assert_eq!(one.election.step_down(None, None, one.now), Err(StepDownError::NotLeader));
}

#[test]
fn a_leader_that_stopped_has_left_when_the_lease_is_released_and_not_before() {
    let mut one = One::leader();
    one.election.stop(one.now);
    assert!(!one.election.has_left());
    one.election.confirm_standby(one.now);
    assert!(!one.election.has_left());
    one.grant();
    assert!(one.election.has_left());
    assert!(one.events().contains(&Event::Released { term: Term(4) }));
}

#[test]
fn the_successor_is_named() {
    let mut one = One::leader();
    one.election.set_eligible(false, Some(name("next")), one.now);
    assert!(!one.leads());
    assert!(
        one.events().iter().any(|event| matches!(event, Event::HandingOver { cause: Cause::Ineligible, .. }))
    );
    one.election.confirm_standby(one.now);
    assert_eq!(one.writes().successor, Some(name("next")));
}

#[test]
fn the_successor_that_an_operator_names_is_named_whoever_else_is_fit_and_this_once() {
    let known = BTreeSet::from(["me", "next", "other"].map(name));
    let mut one = One::leader();
    one.election.set_eligible(true, Some(name("other")), one.now);
    assert_eq!(one.election.step_down(Some(&name("next")), Some(&known), one.now), Ok(Some(name("next"))));
    one.election.set_eligible(true, Some(name("other")), one.now);
    one.election.confirm_standby(one.now);
    assert_eq!(one.grant().successor, Some(name("next")));

    one.writes_after();
    let record = match one.asked.as_ref().map(|asked| asked.ask.clone()) {
        Some(Ask::Update(_, record)) => record,
        other => panic!("{other:?}"),
    };
    // It was told to stop while it asked.
    one.election.stop(one.now);
    one.done(record);
    assert_eq!(one.grant().successor, Some(name("other")));
}

#[test]
fn a_successor_that_is_not_known_can_not_be_named() {
    let known = BTreeSet::from(["me", "other"].map(name));
    let mut one = One::leader();
    let mut refused = |to: &str, known| one.election.step_down(Some(&name(to)), known, one.now).unwrap_err();
    assert_eq!(refused("me", Some(&known)), StepDownError::Itself);
    let unknown = StepDownError::Unknown { node: name("next"), known: vec![name("other")] };
    assert_eq!(refused("next", Some(&known)), unknown);
    assert_eq!(refused("next", None), StepDownError::Unknowable);
    assert!(one.leads(), "nothing has changed");
}

#[test]
fn a_leader_that_is_unfit_from_the_start_leads_until_it_was_fit_and_is_so_no_more() {
    let mut one = One::seeing(released(3));
    one.election.set_eligible(false, None, one.now);
    one.writes_after();
    let record = match one.asked.as_ref().map(|asked| asked.ask.clone()) {
        Some(Ask::Update(_, record)) => record,
        other => panic!("{other:?}"),
    };
    one.done(record);
    assert!(one.leads(), "nobody fitter has taken it");
    one.election.set_eligible(false, None, one.now);
    assert!(one.leads());
    one.election.set_eligible(true, None, one.now);
    one.election.set_eligible(false, None, one.now);
    assert!(!one.leads());
}

#[test]
fn a_release_that_meets_a_renewal_of_ones_own_is_tried_again() {
    let mut one = One::leader();
    one.wait(RETRY);
    let renewal = one.writes();
    one.asked = None;
    one.election.stop(one.now);
    one.election.confirm_standby(one.now);
    assert_eq!(one.asks(), None, "the renewal is answered in a moment");
    one.wait(100 * MS);
    assert_eq!(one.writes().holder, None);
    one.reply(Reply::Conflict);
    assert_eq!(one.asks(), Some(Ask::Get));
    one.done(renewal);
    assert_eq!(one.writes().holder, None);
    assert!(!one.election.has_left());
}

#[test]
fn there_is_nothing_to_release_where_another_has_taken_it() {
    let mut one = One::leader();
    one.election.stop(one.now);
    one.election.confirm_standby(one.now);
    one.writes();
    one.reply(Reply::Conflict);
    assert_eq!(one.asks(), Some(Ask::Get));
    one.done(held("other", 9));
    assert!(one.election.has_left());
}

#[test]
fn what_another_took_while_the_owner_was_slow_is_not_released() {
    let mut one = One::leader();
    one.election.stop(one.now);
    one.wait(DURATION - MS);
    one.told(Record { transitions: 5, ..held("other", 9) });
    one.election.confirm_standby(one.now);
    assert_eq!(one.asks(), None);
    assert!(one.election.has_left());
}

#[test]
fn a_release_that_nobody_takes_is_given_up_when_the_lease_has_lapsed() {
    let mut one = One::leader();
    one.election.stop(one.now);
    one.election.confirm_standby(one.now);
    let began = one.now;
    while !one.election.has_left() {
        if one.asks().is_some() {
            one.reply(Reply::Failed);
        }
        one.wait(100 * MS);
    }
    assert_eq!((one.now - began).as_secs(), DURATION.as_secs());
}

#[test]
fn after_a_command_the_lead_is_left_to_others_for_a_lease_duration() {
    let mut one = One::leader();
    one.election.step_down(None, None, one.now).unwrap();
    one.election.confirm_standby(one.now);
    one.grant();
    at(DURATION, one.writes_after());
}

#[test]
fn each_command_is_followed_by_a_rest() {
    let mut one = One::leader();
    for _ in 0..2 {
        one.election.step_down(None, None, one.now).unwrap();
        one.election.confirm_standby(one.now);
        one.grant();
        at(DURATION, one.writes_after());
        let record = one.election.record().cloned().unwrap();
        one.done(Record {
            holder: Some("me".into()),
            duration: Some(DURATION),
            renewed: Some(Stamp(one.stamp)),
            ..record
        });
        assert!(one.leads());
    }
}

#[test]
fn a_stop_while_the_lease_is_asked_for_gives_it_back() {
    let mut one = One::seeing(released(3));
    one.wait(JITTER);
    let record = one.writes();
    one.election.stop(one.now);
    assert!(!one.election.has_left());
    one.done(record);
    assert!(!one.leads());
    assert_eq!(one.grant().holder, None);
    assert!(one.election.has_left());
}
