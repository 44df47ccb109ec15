//! Claims outlive the record: what is deleted or rewritten by hand is waited for.

use leader::{
    lease::{Ask, Reply},
    quorum::Segment,
};

use super::*;

#[test]
fn the_holder_of_a_deleted_lease_is_waited_for() {
    let mut one = One::seeing(held("other", 1));
    one.wait(5 * S);
    one.election.handle_deleted(one.now);
    assert_eq!(one.asks(), Some(Ask::Get), "a watch may lag: the store is asked");
    one.reply(Reply::Absent);
    // That one is over in ten seconds; but another may have followed it, unseen, and now.
    at(DURATION, one.writes_after());
}

#[test]
fn a_holder_puts_a_deleted_lease_back_and_leads_on() {
    let mut one = One::leader();
    one.election.handle_deleted(one.now);
    assert_eq!(one.asks(), Some(Ask::Get));
    one.reply(Reply::Absent);
    assert!(one.leads());
    assert!(matches!(one.asks(), Some(Ask::Create(_))));
}

#[test]
fn a_holder_whose_name_was_struck_out_writes_it_in_again() {
    let mut one = One::leader();
    let mut cleared = one.election.record().cloned().unwrap();
    cleared.holder = None;
    one.told(cleared);
    assert!(one.leads());
    assert_eq!(one.grant().transitions, 5);
    assert!(one.leads());
}

#[test]
fn a_lease_whose_holder_was_struck_out_is_waited_for_as_if_it_had_one() {
    let mut one = One::seeing(held("other", 1));
    one.wait(5 * S);
    one.told(Record { holder: None, ..held("other", 1) });
    at(DURATION, one.writes_after());
    at(DURATION, One::seeing(Record { holder: None, ..held("other", 1) }).writes_after());
}

#[test]
fn a_holder_that_was_replaced_by_hand_is_waited_for_beside_the_new_one() {
    let mut one = One::seeing(held("other", 1));
    one.told(Record { duration: Some(2 * S), ..held("third", 1) });
    at(DURATION, one.writes_after());
}

#[test]
fn an_own_name_that_a_hand_wrote_over_anothers_is_no_licence() {
    let mut one = One::seeing(held("other", 1));
    one.told(held("me", 1));
    assert!(!one.leads());
    at(DURATION, one.writes_after());

    // Over a claim that this process never saw, with a follower of the rules before it; and the segment is silent.
    let mut one = One::seeing(held("other", 1));
    one.told(Record { transitions: 4, ..held("me", 1) });
    one.election.set_segment(Segment::Free, one.now);
    at(DURATION, one.writes_after());
}

#[test]
fn a_holder_that_was_followed_by_the_rules_is_waited_for_no_more() {
    let mut one = One::seeing(held("other", 1));
    // Its release went unseen.
    one.told(Record { transitions: 4, ..held("third", 2) });
    one.told(released(4));
    at(Duration::ZERO, one.writes_after());
}

#[test]
fn a_release_that_this_process_didnt_make_puts_a_holder_out() {
    let mut one = One::leader();
    one.told(released(4));
    assert!(!one.leads());
}

#[test]
fn a_lease_that_may_have_come_and_gone_in_a_pause_is_waited_for_again() {
    let mut one = One::new();
    assert_eq!(one.asks(), Some(Ask::Get));
    one.reply(Reply::Absent);
    one.wait(10 * DURATION);
    assert_eq!(one.asks(), Some(Ask::Get), "what was seen long ago is no ground for a write");
    one.reply(Reply::Absent);
    at(DURATION, one.writes_after());
}
