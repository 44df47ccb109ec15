//! When a participant may take the Lease.

use leader::{
    lease::{Ask, Event, Reply},
    quorum::Segment,
};

use super::*;

#[test]
fn the_lease_of_another_is_waited_for_from_the_sight_of_its_last_change() {
    let mut one = One::seeing(held("other", 1));
    assert_eq!(one.follows(), Some(name("other")));
    one.wait(9 * S);
    one.told(held("other", 2));
    at(DURATION, one.writes_after());
}

#[test]
fn nobodys_clock_is_believed() {
    // A stamp of the far past, or of the future, makes a lease neither shorter nor longer.
    for stamp in [0, i64::MAX] {
        at(DURATION, One::seeing(held("other", stamp)).writes_after());
    }
}

#[test]
fn the_duration_is_that_of_the_record_whoever_wrote_it() {
    let mut longer = held("other", 1);
    longer.duration = Some(30 * S);
    let mut one = One::seeing(longer);
    assert!(matches!(one.events()[..], [Event::LongLease { .. }]));
    at(30 * S, one.writes_after());
    let mut longer = held("other", 1);
    longer.duration = Some(30 * S);
    let mut one = One::seeing(longer.clone());
    one.events();
    one.told(Record { renewed: Some(Stamp(2)), ..longer });
    assert_eq!(one.events(), [], "it is told once");
    assert_eq!(One::seeing(held("other", 1)).events(), [], "the same as here is none");
    let mut nonsense = held("other", 1);
    nonsense.duration = None;
    at(DURATION, One::seeing(nonsense).writes_after());
}

#[test]
fn a_look_that_shows_nothing_new_is_no_change() {
    let mut one = One::seeing(held("other", 1));
    let known = held("other", 1);
    one.wait(5 * S);
    assert_eq!(one.asks(), Some(Ask::Get), "without a watch it looks in turns");
    one.done(known);
    at(DURATION - 5 * S, one.writes_after());
}

#[test]
fn a_released_lease_is_taken_at_once() {
    let mut one = One::seeing(held("other", 1));
    one.told(released(3));
    assert_eq!(one.writes_after(), Duration::ZERO);
}

#[test]
fn a_write_names_the_version_that_was_seen() {
    let mut one = One::seeing(released(3));
    one.wait(JITTER);
    match one.asks() {
        Some(Ask::Update(version, _)) => assert_eq!(version.as_str(), "11"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn whoever_was_slower_looks_again_and_follows() {
    let mut one = One::seeing(released(3));
    one.wait(JITTER);
    one.writes();
    one.reply(Reply::Conflict);
    assert!(!one.leads());
    assert_eq!(one.asks(), Some(Ask::Get));
    one.done(Record { transitions: 4, ..held("other", 9) });
    assert_eq!(one.follows(), Some(name("other")));
    at(DURATION, one.writes_after());
}

#[test]
fn an_unfit_participant_leaves_the_lease_to_fitter_ones_for_a_retry_period() {
    let mut one = One::seeing(held("other", 1));
    one.election.set_eligible(false, None, one.now);
    one.told(released(3));
    at(RETRY, one.writes_after());
}

#[test]
fn the_named_successor_goes_first_and_the_others_soon_after() {
    let named = Record { successor: Some(name("me")), ..released(3) };
    let mut one = One::seeing(held("other", 1));
    one.told(named);
    assert_eq!(one.writes_after(), Duration::ZERO);

    let other = Record { successor: Some(name("other")), ..released(3) };
    let mut one = One::seeing(held("another", 1));
    one.told(other.clone());
    at(500 * MS, one.writes_after());

    // In a fast election, for half a retry period.
    let timing = Timing::new(3 * S, 2 * S, 200 * MS).unwrap();
    let mut one = One::configured(&Config { timing, ..config() }, 1);
    assert_eq!(one.asks(), Some(Ask::Get));
    one.done(other);
    let wait = one.writes_after();
    assert!((100 * MS..120 * MS).contains(&wait), "{wait:?}");
}

#[test]
fn where_there_is_no_lease_a_process_that_begins_waits_for_a_whole_one_before_it_makes_one() {
    let mut one = One::new();
    assert_eq!(one.asks(), Some(Ask::Get));
    one.reply(Reply::Absent);
    at(DURATION, one.writes_after());
}

#[test]
fn where_nobody_has_the_address_a_missing_lease_is_made_at_once() {
    let mut one = One::new();
    assert_eq!(one.asks(), Some(Ask::Get));
    one.reply(Reply::Absent);
    one.election.set_segment(Segment::Free, one.now);
    one.wait(JITTER);
    let record = one.writes();
    assert_eq!((record.transitions, record.acquired), (0, record.renewed));
    one.done(record);
    assert!(one.leads());
}

#[test]
fn a_free_segment_says_nothing_about_a_claim_that_was_seen() {
    let mut one = One::seeing(held("other", 1));
    one.election.set_segment(Segment::Free, one.now);
    at(DURATION, one.writes_after());
}

#[test]
fn an_occupied_or_unknown_segment_frees_nothing() {
    for segment in [Segment::Occupied, Segment::Unknown] {
        let mut one = One::seeing(held("me", 5));
        one.election.set_segment(segment, one.now);
        at(DURATION, one.writes_after());

        let mut one = One::new();
        assert_eq!(one.asks(), Some(Ask::Get));
        one.reply(Reply::Absent);
        one.election.set_segment(segment, one.now);
        at(DURATION, one.writes_after());
    }
}

#[test]
fn a_segment_that_was_free_before_the_lease_was_looked_at_is_no_licence() {
    let mut one = One::new();
    one.election.set_segment(Segment::Free, one.now);
    assert_eq!(one.asks(), Some(Ask::Get));
    one.reply(Reply::Absent);
    at(DURATION, one.writes_after());
}

#[test]
fn a_lease_in_its_own_name_that_it_finds_at_its_start_is_taken_up_once_the_segment_is_free() {
    at(DURATION, One::seeing(held("me", 5)).writes_after());
    let mut one = One::seeing(held("me", 5));
    one.election.set_segment(Segment::Free, one.now);
    let record = one.grant();
    assert!(one.leads());
    assert_eq!((record.transitions, record.acquired), (3, Some(Stamp(1))), "it is the same holder");
}

#[test]
fn a_namespace_that_is_not_there_is_asked_for_once_a_retry_period() {
    let mut one = One::new();
    assert_eq!(one.asks(), Some(Ask::Get));
    one.reply(Reply::Absent);
    one.election.set_segment(Segment::Free, one.now);
    let began = one.now;
    let mut asked = 0;
    while one.now < began + 20 * S {
        if one.asks().is_some() {
            asked += 1;
            one.reply(Reply::Absent);
        }
        one.wait(100 * MS);
    }
    assert!(asked < 30, "{asked} requests in ten retry periods");
}

#[test]
fn a_holder_is_told_as_such_until_its_time_is_over_and_since_when_is_remembered() {
    let mut one = One::new();
    assert_eq!((one.asks(), one.election.record_seen()), (Some(Ask::Get), None));
    one.wait(100 * MS);
    one.done(held("other", 1));
    let seen = one.now;
    one.told(held("other", 1));
    assert_eq!(one.election.record_seen(), Some(seen));
    one.now = seen + DURATION - NS;
    assert_eq!((one.follows(), one.election.record_seen()), (Some(name("other")), Some(seen)));
    one.now += NS;
    assert_eq!(one.follows(), None);
}

#[test]
fn two_that_wait_for_the_same_lease_do_not_write_at_the_same_instant() {
    let waits = [1, 2, 3, 4].map(|seed| {
        let mut one = One::seeded(seed);
        assert_eq!(one.asks(), Some(Ask::Get));
        one.done(held("other", 1));
        one.writes_after()
    });
    for (place, wait) in waits.iter().enumerate() {
        at(DURATION, *wait);
        assert!(!waits[..place].contains(wait), "{waits:?}");
    }
}

#[test]
fn a_participant_that_was_stopped_asks_for_nothing() {
    let mut one = One::seeing(held("other", 1));
    one.election.stop(one.now);
    assert!(one.election.has_left());
    one.wait(10 * DURATION);
    assert_eq!(one.asks(), None);
}
