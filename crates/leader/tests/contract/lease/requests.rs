//! When the store is asked, and which answers count.

use leader::{
    lease::{Ask, Reply},
    quorum::Segment,
};

use super::*;

/// When it looks again, if nothing is heard until then.
fn looks_after(one: &mut One) -> Duration {
    let began = one.now;
    loop {
        one.now = one.election.poll_timeout().expect("a participant never sleeps for ever").max(one.now + NS);
        match one.asks() {
            Some(Ask::Get) => return one.now - began,
            None => {}
            other => panic!("no look, but {other:?}"),
        }
    }
}

#[test]
fn a_lease_that_is_watched_is_looked_at_half_as_often() {
    let mut one = One::seeing(held("other", 1));
    at(RETRY, looks_after(&mut one));

    let mut one = One::seeing(held("other", 1));
    one.election.set_watching(true, one.now);
    at(2 * RETRY, looks_after(&mut one));
}

#[test]
fn a_watch_that_is_told_again_to_be_open_or_closed_changes_nothing() {
    let mut one = One::seeing(held("other", 1));
    one.wait(S);
    one.election.set_watching(false, one.now);
    at(RETRY - S, looks_after(&mut one));

    let mut one = One::seeing(held("other", 1));
    one.election.set_watching(true, one.now);
    one.wait(S);
    one.election.set_watching(true, one.now);
    at(2 * RETRY - S, looks_after(&mut one));
}

#[test]
fn when_a_watch_ends_the_lease_is_looked_at_at_once() {
    let mut one = One::seeing(held("other", 1));
    one.election.set_watching(true, one.now);
    one.wait(S);
    assert_eq!(one.asks(), None);
    one.election.set_watching(false, one.now);
    assert_eq!(one.asks(), Some(Ask::Get), "what happened in between is not known");
}

#[test]
fn what_is_known_already_is_no_reason_to_look_whatever_its_version() {
    let odd = Observed { version: Version::new("abc"), record: held("other", 1) };
    let mut one = One::new();
    assert_eq!(one.asks(), Some(Ask::Get));
    one.reply(Reply::Done(odd.clone()));
    one.election.handle_seen(odd, one.now);
    assert_eq!(one.asks(), None);
    let another = Observed { version: Version::new("abd"), record: held("other", 2) };
    one.election.handle_seen(another, one.now);
    assert_eq!(one.asks(), Some(Ask::Get));
}

#[test]
fn a_failure_is_followed_by_a_pause_unless_its_reason_is_gone() {
    let mut one = One::seeing(held("other", 1));
    one.election.handle_deleted(one.now);
    assert_eq!(one.asks(), Some(Ask::Get));
    one.reply(Reply::Failed);
    assert_eq!(one.asks(), None);
    one.wait(RETRY / 4 - NS);
    assert_eq!(one.asks(), None);
    one.wait(NS);
    assert_eq!(one.asks(), Some(Ask::Get));
    one.reply(Reply::Failed);
    one.election.retry_now(one.now);
    assert_eq!(one.asks(), Some(Ask::Get));
}

#[test]
fn a_request_has_a_third_of_the_deadline_and_never_more_than_five_seconds() {
    for (deadline, patience) in [(9, 3), (12, 4), (15, 5), (30, 5)] {
        let timing = Timing::new(60 * S, deadline * S, 2 * S).unwrap();
        let mut one = One::configured(&Config { timing, ..config() }, 1);
        assert_eq!(one.election.timing(), timing);
        assert_eq!(one.asks(), Some(Ask::Get));
        assert_eq!(one.asked.as_ref().unwrap().patience, patience * S);
        // For so long nothing else is asked.
        one.now += patience * S - NS;
        assert_eq!(one.asks(), None);
        one.now += NS;
        assert_eq!(one.asks(), Some(Ask::Get));
    }
}

#[test]
fn an_answer_that_comes_when_another_request_is_under_way_counts_for_nothing() {
    let mut one = One::new();
    assert_eq!(one.asks(), Some(Ask::Get));
    let first = one.asked.take().unwrap();
    one.wait(first.patience);
    assert_eq!(one.asks(), Some(Ask::Get));
    let late = one.next(held("other", 1));
    one.election.handle_reply(first.id, Reply::Done(late), one.now);
    assert_eq!(one.election.record(), None);
    one.done(held("third", 1));
    assert_eq!(one.follows(), Some(name("third")));
}

#[test]
fn a_server_that_never_answers_is_not_asked_more_often_than_one_that_fails() {
    // The patience is bounded, the pause of a slow election is not.
    let timing = Timing::new(120 * S, 60 * S, 40 * S).unwrap();
    let mut one = One::configured(&Config { timing, ..config() }, 1);
    assert_eq!(one.asks(), Some(Ask::Get));
    one.now += 10 * S - NS;
    assert_eq!(one.asks(), None);
    one.now += NS;
    assert_eq!(one.asks(), Some(Ask::Get));
}

#[test]
fn a_release_is_not_asked_for_while_it_is_asked_for() {
    let mut one = One::leader();
    one.election.stop(one.now);
    one.election.confirm_standby(one.now);
    assert_eq!(one.writes().holder, None);
    one.wait(S);
    assert_eq!(one.asks(), None);
}

#[test]
fn writes_that_meet_another_version_three_times_in_a_row_are_followed_by_a_pause() {
    let mut one = One::seeing(released(3));
    for pause in [Duration::ZERO, Duration::ZERO, RETRY] {
        one.writes();
        one.reply(Reply::Conflict);
        if !pause.is_zero() {
            one.wait(pause - NS);
            assert_eq!(one.asks(), None);
            one.wait(NS);
        }
        assert_eq!(one.asks(), Some(Ask::Get));
        one.done(released(3));
    }
}

#[test]
fn what_a_watch_tells_while_the_store_is_asked_is_not_taken_back_by_an_older_answer() {
    let mut one = One::seeing(held("other", 1));
    one.election.handle_deleted(one.now);
    assert_eq!(one.asks(), Some(Ask::Get));
    let before = one.next(held("other", 2));
    one.wait(MS);
    one.told(Record { transitions: 4, ..held("third", 3) });
    one.reply(Reply::Done(before));
    assert_eq!(one.follows(), Some(name("third")));
}

#[test]
fn the_store_is_believed_when_its_versions_have_gone_back() {
    // As after the restoration of a backup.
    let mut one = One::seeing(held("other", 1));
    one.election.handle_deleted(one.now);
    assert_eq!(one.asks(), Some(Ask::Get));
    one.reply(Reply::Done(Observed { version: Version::new("2"), record: held("third", 1) }));
    assert_eq!(one.follows(), Some(name("third")));
}

#[test]
fn an_absence_is_built_upon_for_three_retry_periods() {
    let after = |gap: Duration| {
        let mut one = One::new();
        assert_eq!(one.asks(), Some(Ask::Get));
        one.reply(Reply::Absent);
        one.election.set_segment(Segment::Free, one.now);
        one.now += gap;
        one.asks()
    };
    assert!(matches!(after(3 * RETRY), Some(Ask::Create(_))));
    assert_eq!(after(3 * RETRY + NS), Some(Ask::Get), "one may have been made and deleted since");
}
