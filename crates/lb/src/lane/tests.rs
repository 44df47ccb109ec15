use std::num::NonZeroUsize;

use super::*;
use crate::config::{Backend, Check, CheckKind, Frontend, Limits, Listen, Policy, Timeouts};
use crate::frontend::Bells;
use crate::health::Health;
use crate::rebalance::shed;
use crate::target::Open;

/// With its two counts of references it makes 96 bytes of an idle connection's memory.
#[test]
fn a_record_is_small() {
    assert!(size_of::<Record>() <= 80, "{}", size_of::<Record>());
}

/// A lane whose flows last for a hundred seconds, and the moment of its beginning.
fn lane(seed: u64) -> (Rc<Lane>, Instant) {
    let frontend = Frontend {
        name: "api".into(),
        listen: Listen::Nowhere,
        backends: Vec::new(),
        policy: Policy::RoundRobin,
        slow_start: None,
        check: Check { kind: CheckKind::None, ..Check::default() },
        timeouts: Timeouts { max_age: Some(Duration::from_secs(100)), ..Timeouts::default() },
        limits: Limits { max_connections: 10, per_source: None },
        virtual_ips: Vec::new(),
        rebalance: None,
        proxies: Vec::new(),
        transparent_source: Vec::new(),
        proxy_protocol: None,
        access_log: false,
    };
    let now = Instant::now();
    let settings = Arc::new(Settings::new(&frontend, Vec::new(), None));
    let shared = Shared::new(1, &frontend, settings, Bells::default(), now.into_std());
    let kit = Rc::new(Kit::new(Rc::new(Reactor::new().unwrap())));
    let lane = Lane::new(Arc::new(shared), seed, kit, Arc::default(), TaskTracker::new());
    let began = lane.clock.began;
    (Rc::new(lane), began)
}

/// When a flow is told to end, in seconds, and why. One that talks does so before each look.
#[derive(Default)]
struct Told(Option<(u64, End)>);

impl Told {
    fn look(&mut self, entry: &Entry, seconds: u64) {
        if self.0.is_none() {
            self.0 = entry.record.end.get().map(|end| (seconds, end));
        }
    }
}

#[tokio::test]
async fn an_old_flow_ends_after_three_silent_looks_and_one_that_talks_a_quarter_later() {
    for seed in 0..50 {
        let (lane, began) = lane(seed);
        let (silent, talking) = (lane.enter(None, None), lane.enter(None, None));
        let mut later = None;
        let mut told = [Told::default(), Told::default(), Told::default()];
        for seconds in 1..=250 {
            talking.record.said(1);
            lane.end_old_flows(began + Duration::from_secs(seconds));
            if seconds == 60 {
                later = Some(lane.enter(None, None));
            }
            let entries = [Some(&silent), Some(&talking), later.as_ref()];
            for (told, entry) in told.iter_mut().zip(entries) {
                entry.into_iter().for_each(|entry| told.look(entry, seconds));
            }
        }
        let [silent, talking, later] = told.map(|told| told.0.unwrap());
        assert!(silent.1 == End::Aged && (93..=113).contains(&silent.0), "seed {seed}: {silent:?}");
        assert!(talking.1 == End::Overdue && (115..=135).contains(&talking.0), "seed {seed}: {talking:?}");
        assert!(later.1 == End::Aged && (153..=173).contains(&later.0), "seed {seed}: {later:?}");
    }
}

#[tokio::test]
async fn a_flow_that_was_silent_while_it_was_young_may_talk_when_it_is_old() {
    let (lane, began) = lane(1);
    let entry = lane.enter(None, None);
    let mut told = Told::default();
    for seconds in 1..=113 {
        if seconds >= 90 && seconds % 3 == 0 {
            entry.record.said(1);
        }
        lane.end_old_flows(began + Duration::from_secs(seconds));
        told.look(&entry, seconds);
    }
    assert_eq!(told.0, None, "two silent looks are no silence");
}

/// When two flows that were opened at the beginning are told to end, one silent and one that talks, if their age becomes `age` after a
/// minute.
fn ends(seed: u64, age: Duration) -> [(u64, End); 2] {
    let (lane, began) = lane(seed);
    let (silent, talking) = (lane.enter(None, None), lane.enter(None, None));
    let mut told = [Told::default(), Told::default()];
    for seconds in 1..=1000 {
        let now = began + Duration::from_secs(seconds);
        talking.record.said(1);
        lane.end_old_flows(now);
        if seconds == 60 {
            lane.set_max_age(Some(MaxAge::new(age)), now);
        }
        told.iter_mut().zip([&silent, &talking]).for_each(|(told, entry)| told.look(entry, seconds));
    }
    told.map(|told| told.0.unwrap())
}

#[tokio::test]
async fn another_age_counts_from_a_flows_beginning_and_leaves_time_for_a_silence() {
    for seed in 0..20 {
        let [silent, talking] = ends(seed, Duration::from_secs(300));
        assert!(silent.1 == End::Aged && (268..=338).contains(&silent.0), "seed {seed}: {silent:?}");
        assert!(talking.1 == End::Overdue && (340..=412).contains(&talking.0), "seed {seed}: {talking:?}");
        // They have lasted for longer.
        let [silent, talking] = ends(seed, Duration::from_secs(40));
        assert!(silent.1 == End::Aged && (61..=73).contains(&silent.0), "seed {seed}: {silent:?}");
        assert!(talking.1 == End::Overdue && (69..=81).contains(&talking.0), "seed {seed}: {talking:?}");
    }
}

#[tokio::test]
async fn an_age_that_did_not_count_before_counts_from_now_on() {
    let (lane, began) = lane(1);
    lane.set_max_age(None, began);
    let entry = lane.enter(None, None);
    lane.end_old_flows(began + Duration::from_secs(500));
    lane.set_max_age(Some(MaxAge::new(Duration::from_secs(100))), began + Duration::from_secs(500));
    let mut told = Told::default();
    for seconds in 501..=700 {
        lane.end_old_flows(began + Duration::from_secs(seconds));
        told.look(&entry, seconds);
    }
    let told = told.0.unwrap();
    assert!(told.1 == End::Aged && (590..=615).contains(&told.0), "{told:?}");
}

/// The place of the one that is moved of these, since whose client's last word so many looks have passed, and which the backend tells
/// things all the time or doesn't.
fn moved_of(flows: &[(u8, bool)]) -> Option<usize> {
    let (lane, _) = lane(1);
    let backend =
        |port| Backend { name: "x".into(), address: ([127, 0, 0, 1], port).into(), cordoned: false };
    lane.shared.set_backends(vec![backend(1), backend(2)], Instant::now().into_std());
    let roster = lane.shared.roster();
    let [full, empty] = roster.present() else { panic!("there are two") };
    full.member.set_health(Health::Ready);
    empty.member.set_health(Health::Ready);
    let _open: Vec<_> = (0..20).map(|_| Open::enter(full)).collect();
    let candidate = lane.candidates(None).find(|candidate| Arc::ptr_eq(&candidate.target, full)).unwrap();
    let mut entries = Vec::new();
    for (looks, is_told) in flows {
        let entry = lane.enter(None, None);
        entry.record.set_backend(candidate.clone());
        entry.record.said(1);
        // One more comes for all.
        (0..*looks).for_each(|_| entry.record.look());
        if *is_told {
            entry.record.told(1);
        }
        entries.push(entry);
    }
    lane.look();
    lane.shed(&shed(lane.shared.id, &roster, NonZeroUsize::MIN, |_| true).unwrap());
    let mut moved = entries.iter().map(|entry| entry.record.end.get() == Some(End::Rebalanced));
    let first = moved.position(|moved| moved);
    assert!(!moved.any(|moved| moved), "no more than one was to be moved");
    first
}

#[tokio::test]
async fn silent_flows_are_moved_and_then_those_that_listen_and_none_that_may_be_about_to_speak() {
    assert_eq!(moved_of(&[(LISTENING_LOOKS, true), (SILENT_LOOKS, false)]), Some(1));
    assert_eq!(moved_of(&[(0, false), (2, true), (LISTENING_LOOKS, true)]), Some(2));
    assert_eq!(moved_of(&[(100, true), (100, false)]), Some(1));
    assert_eq!(moved_of(&[(0, true), (10, true), (10, false), (100, true)]), Some(3));
    assert_eq!(
        moved_of(&[(SILENT_LOOKS - 1, false), (LISTENING_LOOKS - 1, true), (10, true), (10, false)]),
        None
    );
}
