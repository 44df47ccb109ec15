//! How long a holder leads, and what it writes.

use leader::lease::{Ask, Event, Loss, Reply};

use super::*;

#[test]
fn a_holder_leads_until_the_deadline_from_before_its_request_left() {
    let mut one = One::seeing(released(3));
    one.wait(JITTER);
    let asked = one.now;
    let record = one.writes();
    one.wait(S);
    one.done(record);
    assert_eq!(one.election.lease_end(one.now), Some(asked + DEADLINE));
    assert_eq!(one.term(), Some(Term(4)));
}

#[test]
fn a_lead_ends_by_time_alone() {
    let mut one = One::leader();
    one.now += DEADLINE;
    assert!(!one.leads(), "whether or not anybody told the machine the time");
    one.wait(Duration::ZERO);
    assert_eq!(one.events().last(), Some(&Event::Lost { term: Term(4), loss: Loss::Expired }));
}

#[test]
fn a_grant_that_comes_after_its_deadline_makes_no_leader() {
    let mut one = One::seeing(released(3));
    one.wait(JITTER);
    let record = one.writes();
    let id = one.asked.take().unwrap().id;
    let observed = one.next(record);
    one.now += DEADLINE;
    one.election.handle_reply(id, Reply::Done(observed), one.now);
    assert!(!one.leads());
    assert!(!one.events().iter().any(|event| matches!(event, Event::Elected { .. })));
}

#[test]
fn renewals_keep_what_client_go_keeps() {
    let mut one = One::leader();
    let first = one.election.record().cloned().unwrap();
    assert_eq!(first.holder.as_deref(), Some("me"));
    assert_eq!((first.duration, first.transitions), (Some(DURATION), 4));
    assert_eq!(first.acquired, first.renewed);
    assert_eq!(one.asks(), None, "one write per retry period");
    one.wait(RETRY);
    let second = one.grant();
    assert_eq!((second.acquired, second.transitions), (first.acquired, 4));
    assert_ne!(second.renewed, first.renewed);
    assert_eq!(one.asks(), None, "one write per retry period, from the second on as well");
    assert_eq!(one.election.lease_end(one.now), Some(one.now + DEADLINE));
}

#[test]
fn failures_are_retried_four_times_in_a_retry_period_until_the_deadline() {
    let mut one = One::leader();
    let began = one.now;
    one.wait(RETRY);
    let mut asked = 0;
    while one.leads() {
        if one.asks().is_some() {
            asked += 1;
            one.reply(Reply::Failed);
        }
        one.wait(50 * MS);
    }
    assert_eq!(one.now.duration_since(began).as_secs(), DEADLINE.as_secs());
    assert!((14..=17).contains(&asked), "{asked} requests in four retry periods");
}

#[test]
fn an_answer_that_got_lost_after_its_write_was_applied_costs_nothing() {
    let mut one = One::leader();
    one.wait(RETRY);
    let lost = one.writes();
    one.reply(Reply::Failed);
    one.wait(S);
    one.writes();
    one.reply(Reply::Conflict);
    assert!(one.leads());
    assert_eq!(one.asks(), Some(Ask::Get));
    one.done(lost);
    assert!(one.leads(), "that was its own name, in its own hand");
    one.grant();
    assert_eq!(one.election.lease_end(one.now), Some(one.now + DEADLINE));
}

#[test]
fn a_holder_that_sees_another_name_is_out_at_once() {
    let mut one = One::leader();
    one.told(held("other", 9));
    assert!(!one.leads());
    let loss = Loss::Taken("other".into());
    assert_eq!(one.events().last(), Some(&Event::Lost { term: Term(4), loss }));
    assert_eq!(one.follows(), Some(name("other")));
}

#[test]
fn a_watch_that_lags_tells_a_holder_nothing() {
    let mut one = One::leader();
    let stale = Observed { version: Version::new("9"), record: held("other", 9) };
    one.election.handle_seen(stale, one.now);
    assert!(one.leads());
}

#[test]
fn of_versions_that_are_no_numbers_only_the_store_knows_the_newer() {
    let mut one = One::leader();
    let odd = Observed { version: Version::new("abc"), record: held("other", 9) };
    one.election.handle_seen(odd, one.now);
    assert!(one.leads());
    assert_eq!(one.asks(), Some(Ask::Get));
    one.done(held("other", 9));
    assert!(!one.leads());
}

#[test]
fn a_holder_whose_name_somebody_else_writes_is_out_and_says_so() {
    let mut one = One::leader();
    one.told(Record { transitions: 4, ..held("me", 77) });
    assert!(!one.leads());
    assert!(one.events().contains(&Event::Twin));
    at(DURATION, one.writes_after());
}

#[test]
fn an_own_record_of_before_the_last_renewal_is_somebody_elses_when_it_is_back() {
    let mut one = One::leader();
    let first = one.election.record().cloned().unwrap();
    one.wait(RETRY);
    one.grant();
    one.told(first);
    assert!(!one.leads());
    assert!(one.events().contains(&Event::Twin));
}

#[test]
fn a_touch_by_hand_that_leaves_the_record_costs_nothing() {
    let mut one = One::leader();
    let record = one.election.record().cloned().unwrap();
    one.told(record);
    assert!(one.leads());
    one.wait(RETRY);
    match one.asks() {
        Some(Ask::Update(version, _)) => assert_eq!(version.as_str(), "13", "the new version is built upon"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn with_preserve_a_holder_that_reaches_nobody_leads_on_and_lets_go_at_the_first_other_name() {
    let mut one = One::with(true);
    assert_eq!(one.asks(), Some(Ask::Get));
    one.done(released(3));
    one.wait(JITTER);
    one.grant();
    for _ in 0..100 {
        one.wait(S);
        if one.asks().is_some() {
            one.reply(Reply::Failed);
        }
    }
    assert!(one.leads());
    let told = one.events().into_iter().filter(|event| *event == Event::Preserved { term: Term(4) });
    assert_eq!(told.count(), 1, "once, however long it lasts");
    one.wait(one.election.lease_end(one.now).unwrap() - one.now);
    assert_eq!(one.election.lease_end(one.now), Some(one.now + 2 * RETRY));
    one.now += 2 * RETRY;
    assert!(!one.leads(), "a frozen process does not lead on");
    one.wait(Duration::ZERO);
    one.told(held("other", 9));
    assert!(!one.leads());
}
