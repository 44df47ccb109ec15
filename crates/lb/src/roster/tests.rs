use std::sync::Barrier;

use proptest::prelude::*;
use tokio::time::Instant;

use super::*;
use crate::target::Open;

/// The backend number `number`.
fn backend(number: u8) -> Backend {
    Backend { name: format!("node-{number}"), address: ([10, 0, 0, number], 6443).into(), cordoned: false }
}

fn create(backend: Backend) -> Arc<Target> {
    Target::new(backend, Arc::default(), false, Instant::now().into_std())
}

fn with(roster: &Roster, numbers: &[u8]) -> Roster {
    roster.successor(numbers.iter().copied().map(backend).collect(), create).unwrap()
}

fn target(roster: &Roster, number: u8) -> &Arc<Target> {
    roster.all().find(|(target, _)| target.address == backend(number).address).unwrap().0
}

/// The numbers of those present, and of those that leave.
fn numbers(roster: &Roster) -> (Vec<u8>, Vec<u8>) {
    let number =
        |target: &Arc<Target>| (1..=u8::MAX).find(|n| backend(*n).address == target.address).unwrap();
    (roster.present.iter().map(number).collect(), roster.leaving.iter().map(number).collect())
}

#[test]
fn a_backend_that_stays_is_the_same_in_a_new_place_and_under_a_new_name() {
    let before = with(&Roster::default(), &[1, 2]);
    let _open = Open::enter(target(&before, 2)).unwrap();
    target(&before, 2).member.set_health(Health::Draining);

    let renamed = Backend { name: "renamed".into(), ..backend(2) };
    let after = before.successor(vec![renamed, backend(3)], create).unwrap();

    assert_eq!(numbers(&after), (vec![2, 3], vec![]));
    assert!(Arc::ptr_eq(target(&before, 2), target(&after, 2)));
    let stayed = target(&after, 2);
    assert_eq!((&*stayed.name(), stayed.member.open()), ("renamed", 1));
    assert_eq!(stayed.member.health(), Health::Draining);
    assert_eq!(target(&after, 3).member.health(), Health::Unknown);
}

#[test]
fn the_same_set_again_changes_nothing_and_another_order_does() {
    let roster = with(&Roster::default(), &[1, 2]);

    assert!(roster.successor(vec![backend(1), backend(2)], create).is_none());
    assert!(Roster::default().successor(Vec::new(), create).is_none());
    assert_eq!(numbers(&with(&roster, &[2, 1])).0, [2, 1]);
}

#[test]
fn a_backend_that_leaves_stays_until_its_last_connection_has_ended() {
    let first = with(&Roster::default(), &[1, 2]);
    let open = [Open::enter(target(&first, 1)).unwrap(), Open::enter(target(&first, 1)).unwrap()];

    let second = with(&first, &[2]);

    assert_eq!(numbers(&second), (vec![2], vec![1]));
    assert!(Open::enter(target(&second, 1)).is_none(), "it takes no new connection");
    assert_eq!(target(&second, 1).member.open(), 2, "what was refused is not counted");
    let [one, other] = open;
    drop(one);
    assert!(second.without_vacant().is_none());
    drop(other);
    assert_eq!(numbers(&second.without_vacant().unwrap()), (vec![2], vec![]));
}

#[test]
fn the_bell_rings_for_the_last_connection_of_a_backend_that_has_left_and_for_no_other() {
    let roster = with(&Roster::default(), &[1]);
    let member = &target(&roster, 1).member;
    (0..3).for_each(|_| member.enter());

    assert!(!member.exit());
    member.leave();
    assert!(!member.exit());
    assert!(member.exit());
    member.stay();
    member.enter();
    assert!(!member.exit());
}

#[test]
fn a_backend_comes_back_as_itself_while_a_connection_is_open_and_as_a_new_one_after() {
    let first = with(&Roster::default(), &[1, 2]);
    let open = Open::enter(target(&first, 1)).unwrap();

    let back = with(&with(&first, &[2]), &[1, 2]);

    assert!(Arc::ptr_eq(target(&first, 1), target(&back, 1)));
    assert!(Open::enter(target(&back, 1)).is_some());
    drop(open);
    let again = with(&with(&back, &[2]), &[1, 2]);
    assert!(!Arc::ptr_eq(target(&first, 1), target(&again, 1)));
}

#[test]
fn only_those_present_make_it_usable() {
    let first = with(&Roster::default(), &[1, 2]);
    let _open = Open::enter(target(&first, 1)).unwrap();
    target(&first, 2).member.set_health(Health::Dead);
    assert!(first.usable());

    let second = with(&first, &[2]);

    assert!(!second.usable());
    assert!(!Roster::default().usable());
}

#[test]
fn what_can_not_be_a_set_is_told() {
    let many = |count: u16| -> Vec<_> {
        (0..count).map(|port| Backend { address: ([10, 0, 0, 1], port).into(), ..backend(1) }).collect()
    };
    assert_eq!(Roster::check(&many(255)), Ok(()));
    assert_eq!(Roster::check(&many(256)), Err(Flaw::TooMany));
    assert_eq!(Roster::check(&[backend(1), backend(2), backend(1)]), Err(Flaw::Twice(backend(1))));
    assert_eq!(Roster::check(&[]), Ok(()));
}

#[test]
fn of_more_leaving_ones_than_the_bound_those_that_left_first_are_given_up() {
    let mut roster = Roster::default();
    let mut open = Vec::new();
    for number in 1..=u8::try_from(MAX_LEAVING).unwrap() + 2 {
        roster = with(&roster, &[number]);
        open.push(Open::enter(target(&roster, number)).unwrap());
    }

    let roster = with(&roster, &[]);

    let (present, leaving) = numbers(&roster);
    assert_eq!((present.len(), leaving.len()), (0, MAX_LEAVING));
    assert_eq!((leaving[0], leaving[MAX_LEAVING - 1]), (3, 66));
}

#[test]
fn a_connection_that_crosses_the_order_to_leave_is_refused_or_watched_over() {
    for _ in 0..2000 {
        let roster = with(&Roster::default(), &[1]);
        let start = Barrier::new(2);
        let (open, after) = std::thread::scope(|scope| {
            let enters = scope.spawn(|| {
                start.wait();
                Open::enter(target(&roster, 1))
            });
            start.wait();
            let after = with(&roster, &[]);
            (enters.join().unwrap(), after)
        });

        // A refused one may have been seen for a moment.
        let after = after.without_vacant().unwrap_or(after);
        assert_eq!(open.is_some(), after.standing(target(&roster, 1)) == Some(Standing::Leaving));
    }
}

/// What can happen to a frontend's backends.
#[derive(Debug, Clone)]
enum Step {
    Set(Vec<u8>),
    Enter(u8),
    Exit(usize),
    Forget,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let set = proptest::sample::subsequence((1..=8).collect::<Vec<u8>>(), 0..=8).prop_shuffle();
    let step = prop_oneof![
        set.prop_map(Step::Set),
        (1_u8..=8).prop_map(Step::Enter),
        any::<usize>().prop_map(Step::Exit),
        Just(Step::Forget),
    ];
    proptest::collection::vec(step, 0..60)
}

proptest! {
    #[test]
    fn the_set_is_what_was_asked_for_and_nobody_with_a_connection_is_lost(steps in steps()) {
        let mut roster = Roster::default();
        let mut set = Vec::new();
        let mut open: Vec<(u8, Arc<Target>, Open)> = Vec::new();
        for step in steps {
            match step {
                Step::Set(numbers) => {
                    let backends = numbers.iter().copied().map(backend).collect();
                    roster = roster.successor(backends, create).unwrap_or(roster);
                    set = numbers;
                }
                Step::Enter(number) => {
                    let target = roster.all().map(|(target, _)| target).find(|target| {
                        target.address == backend(number).address
                    });
                    let entered = target.and_then(|target| Some((Arc::clone(target), Open::enter(target)?)));
                    prop_assert_eq!(entered.is_some(), set.contains(&number));
                    open.extend(entered.map(|(target, entry)| (number, target, entry)));
                }
                Step::Exit(_) if open.is_empty() => {}
                Step::Exit(index) => drop(open.swap_remove(index % open.len())),
                Step::Forget => roster = roster.without_vacant().unwrap_or(roster),
            }
            let (present, leaving) = numbers(&roster);
            prop_assert_eq!(&present, &set);
            prop_assert!(leaving.iter().all(|number| !present.contains(number)));
            for (number, target, _) in &open {
                let expected = if set.contains(number) { Standing::Present } else { Standing::Leaving };
                prop_assert_eq!(roster.standing(target), Some(expected));
            }
        }
        let after = roster.without_vacant().unwrap_or(roster);
        let (_, leaving) = numbers(&after);
        prop_assert!(leaving.iter().all(|number| open.iter().any(|(open, _, _)| open == number)));
    }
}
