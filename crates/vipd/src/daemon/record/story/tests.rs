use leader::{Leadership, NodeId, Term};

use super::super::super::moves::Sign;
use super::*;

fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

/// The address of node `a`, and what its story tells.
struct Scene {
    story: Story,
    moves: Moves,
    seen: Status,
    start: Instant,
}

impl Scene {
    fn new() -> Self {
        let start = tokio::time::Instant::now().into_std();
        let seen = Status {
            state: State::Standby,
            since: start,
            lease: None,
            link_up: true,
            fenced: true,
            claims: 0,
            last_claim: None,
            releases: 0,
            last_release: None,
            repairs: 0,
            announcements: 0,
            conflicts: 0,
            failures: 0,
            last_failure: None,
        };
        let story = Story::new("10.0.0.9/24".to_owned(), "eth0".to_owned());
        Self { story, moves: Moves::new(node("a")), seen, start }
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    /// `b` leads from here on.
    fn led_by_b(&mut self, ms: u64) {
        let leadership = Leadership::Follower { leader: Some(node("b")) };
        let now = self.at(ms);
        self.moves.lead(&leadership, |_| None, now);
    }

    /// Nobody leads from here on, for this reason; then this node does, and has the address two milliseconds later.
    fn claims(&mut self, ms: u64, reason: Reason) {
        let sign = Sign { reason, led: None };
        let now = self.at(ms);
        self.moves.lead(&Leadership::Follower { leader: None }, |_| Some(sign), now);
        let until = self.at(ms + 500);
        self.moves.lead(&Leadership::Leader { term: Term(1), until }, |_| Some(sign), now);
        self.moves.hold(self.at(ms + 2));
        self.seen.claims += 1;
        self.seen.state = State::Active;
        self.seen.since = self.at(ms + 2);
    }

    fn releases(&mut self, ms: u64, reason: Release) {
        let held = self.at(ms).duration_since(self.seen.since);
        self.seen.releases += 1;
        self.seen.last_release = Some((reason, held));
        self.seen.state = State::Standby;
        self.seen.since = self.at(ms);
    }

    fn look(&mut self, ms: u64) -> Vec<(What, Weight, String)> {
        let now = self.at(ms);
        let told = self.story.look(&self.moves, &self.seen, now);
        told.into_iter().map(|told| (told.what, told.weight, told.note)).collect()
    }
}

#[test]
fn each_reason_of_a_move_has_its_words_and_what_nobody_asked_for_is_a_warning() {
    let expected = [
        (Reason::SteppedDown, Weight::Normal, "b was told to step down"),
        (Reason::Stopped, Weight::Normal, "b was stopped"),
        (Reason::GaveWay, Weight::Normal, "b gave way"),
        (Reason::Released, Weight::Normal, "b let go of the Lease"),
        (Reason::Unknown, Weight::Normal, "it was on b before"),
        (Reason::Unfit, Weight::Warning, "b was no longer fit to lead"),
        (Reason::Silent, Weight::Warning, "b fell silent"),
        (Reason::Restarted, Weight::Warning, "b was started anew"),
    ];
    for (reason, weight, words) in expected {
        let mut scene = Scene::new();
        scene.led_by_b(0);
        assert_eq!(scene.look(1), [], "that another leads is its own to tell");
        scene.claims(100, reason);
        let note = format!("10.0.0.9/24 on eth0: {words}; 2 ms without");
        assert_eq!(scene.look(150), [(What::Claimed, weight, note)], "{reason}");
        assert_eq!(scene.look(160), [], "nothing is told twice");
    }
}

#[test]
fn the_first_owner_and_one_that_gets_its_lease_back_say_so() {
    let mut scene = Scene::new();
    scene.claims(0, Reason::Unknown);
    let first = "10.0.0.9/24 on eth0: nobody is known to have had it before".to_owned();
    assert_eq!(scene.look(50), [(What::Claimed, Weight::Normal, first)]);

    scene.releases(3_600_002, Release::LeaseEnded);
    scene.claims(3_600_500, Reason::Unknown);
    let left = "10.0.0.9/24 left eth0: the lease ended; it was here for 1 h 0 min".to_owned();
    let back = "10.0.0.9/24 on eth0: the lease had ended, and was got back; 2 ms without".to_owned();
    let both = [(What::Released, Weight::Warning, left), (What::Claimed, Weight::Warning, back)];
    assert_eq!(scene.look(3_600_550), both, "both between two looks, in their order");
}

#[test]
fn a_node_that_gives_the_address_up_says_why_and_when() {
    let expected = [
        (Release::LeaseGivenUp, Weight::Normal),
        (Release::Stopped, Weight::Normal),
        (Release::LeaseEnded, Weight::Warning),
        (Release::LinkDown, Weight::Warning),
        (Release::Failed, Weight::Warning),
    ];
    for (release, weight) in expected {
        let mut scene = Scene::new();
        scene.claims(0, Reason::Unknown);
        scene.look(10);
        scene.releases(65_002, release);
        let now = scene.at(65_052);
        let told = scene.story.look(&scene.moves, &scene.seen, now);
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].what, told[0].weight, told[0].at), (What::Released, weight, scene.at(65_002)));
        assert_eq!(told[0].note, format!("10.0.0.9/24 left eth0: {release}; it was here for 1 min 5 s"));
    }
}

#[test]
fn moves_that_nobody_looked_at_meanwhile_are_told_one_by_one() {
    let mut scene = Scene::new();
    for ms in [0, 1000, 2000] {
        scene.led_by_b(ms);
        scene.claims(ms + 500, Reason::Silent);
        scene.releases(ms + 900, Release::LeaseGivenUp);
    }
    let told: Vec<What> = scene.look(3000).into_iter().map(|(what, ..)| what).collect();
    assert_eq!(told, [What::Claimed, What::Claimed, What::Claimed, What::Released]);
}

#[test]
fn what_others_do_to_the_address_is_told_with_how_often_it_happened() {
    let mut scene = Scene::new();
    scene.claims(0, Reason::Unknown);
    scene.look(10);
    scene.seen.conflicts = 7;
    scene.seen.repairs = 2;
    let told = scene.look(20);
    assert_eq!(
        told.iter().map(|(what, weight, _)| (*what, *weight)).collect::<Vec<_>>(),
        [(What::Conflict, Weight::Warning), (What::Restored, Weight::Warning)]
    );
    assert!(told[0].2.contains("another station claims 10.0.0.9/24") && told[0].2.contains("; 7 times"));
    assert!(
        told[1].2.contains("something else removed 10.0.0.9/24 from eth0") && told[1].2.contains("; 2 times")
    );
    assert_eq!(scene.look(30), []);
}

#[test]
fn a_kernel_that_refuses_the_address_is_told_and_a_request_that_failed_meanwhile_is_not() {
    let mut scene = Scene::new();
    scene.seen.failures = 1;
    scene.seen.last_failure = Some("permission denied".to_owned());
    let told = scene.look(10);
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].0, told[0].1), (What::Refused, Weight::Warning));
    assert!(told[0].2.contains("permission denied"), "{told:?}");

    scene.claims(20, Reason::Unknown);
    scene.seen.failures = 2;
    assert_eq!(scene.look(30).into_iter().map(|(what, ..)| what).collect::<Vec<_>>(), [What::Claimed]);
}

#[test]
fn the_lease_has_a_remark_while_the_address_is_here() {
    let mut scene = Scene::new();
    let wall = Stamp(1_700_000_010_000_000);
    let remark = |scene: &Scene, ms| scene.story.remark(&scene.moves, &scene.seen, (wall, scene.at(ms)));
    assert_eq!(remark(&scene, 0), None);
    scene.led_by_b(0);
    scene.claims(998, Reason::Silent);
    let told = "10.0.0.9/24 on eth0 since 2023-11-14T22:13:21Z; b fell silent; 2 ms without";
    assert_eq!(remark(&scene, 10_000).as_deref(), Some(told), "nine seconds before the time on the wall");
    scene.releases(20_000, Release::LeaseGivenUp);
    assert_eq!(remark(&scene, 20_000), None);
}

#[test]
fn each_kind_of_event_is_in_the_manual_by_its_reason_and_a_move_is_rationed_as_one() {
    let manual = include_str!("../../../../../../docs/kubernetes.md");
    let moves = [What::Claimed, What::Released];
    for what in moves.into_iter().chain([What::Conflict, What::Restored, What::Refused]) {
        let row = format!("| `{}` |", what.reason());
        assert_eq!(manual.matches(&row).count(), 1, "{row}");
        assert_eq!(what.is_move(), moves.contains(&what), "{row}");
        // events.k8s.io/v1 takes neither an empty action nor a longer one.
        assert!((1..=128).contains(&what.action().len()), "{row}");
    }
}
