use std::time::Duration;

use proptest::prelude::*;

use super::*;

#[expect(clippy::disallowed_methods, reason = "a starting point; nothing waits or compares with the clock")]
fn start() -> Instant {
    Instant::now()
}

fn observation(answer: Answer) -> Observation {
    Observation { answer, certain: false, reason: "test".into() }
}

/// Feeds the answers and returns the health after each.
fn course(rise: u32, fall: u32, answers: &[Answer]) -> Vec<Health> {
    let mut machine = Machine::new(rise, fall, start());
    answers
        .iter()
        .map(|answer| {
            machine.observe(&observation(*answer), start());
            machine.health()
        })
        .collect()
}

use Answer::{NotReady, Nothing};
use Health::{Dead, Draining};

#[test]
fn the_first_answer_decides_at_once() {
    assert_eq!(course(5, 5, &[Answer::Ready]), [Health::Ready]);
    assert_eq!(course(5, 5, &[NotReady]), [Draining]);
    assert_eq!(course(5, 5, &[Nothing]), [Dead]);
}

#[test]
fn fall_failures_in_a_row_are_needed_and_a_success_starts_the_count_anew() {
    let answers = [Answer::Ready, Nothing, Nothing, Answer::Ready, Nothing, Nothing, Nothing];
    let ready = Health::Ready;
    assert_eq!(course(2, 3, &answers), [ready, ready, ready, ready, ready, ready, Dead]);
}

#[test]
fn a_mixed_row_of_failures_goes_to_the_milder_state_first() {
    let answers = [Answer::Ready, NotReady, Nothing, Nothing, Nothing];
    assert_eq!(course(2, 3, &answers), [Health::Ready, Health::Ready, Health::Ready, Draining, Dead]);
}

#[test]
fn a_dead_backend_rises_over_draining_when_its_answers_do() {
    let answers = [Nothing, NotReady, Answer::Ready, Answer::Ready];
    assert_eq!(course(2, 3, &answers), [Dead, Dead, Draining, Health::Ready]);
}

#[test]
fn certainty_needs_no_repetition() {
    let mut machine = Machine::new(2, 1000, start());
    machine.observe(&Observation::ready("test"), start());

    let flip = machine.observe(&Observation::refused("connection refused"), start());

    let expected = Flip { from: Health::Ready, to: Dead, reason: "connection refused".into() };
    assert_eq!(flip, Some(expected));
}

#[test]
fn a_question_that_could_not_be_asked_changes_nothing() {
    let ready = Health::Ready;
    assert_eq!(course(1, 1, &[Answer::NotAsked]), [Health::Unknown]);
    let answers = [Answer::Ready, Nothing, Answer::NotAsked, Answer::NotAsked, Nothing, Nothing];
    assert_eq!(course(1, 3, &answers), [ready, ready, ready, ready, ready, Dead]);
}

#[test]
fn since_is_the_moment_of_the_flip() {
    let begin = start();
    let mut machine = Machine::new(1, 1, begin);
    let later = begin + Duration::from_secs(1);
    machine.observe(&Observation::ready("test"), later);

    machine.observe(&Observation::ready("test"), later + Duration::from_secs(1));

    assert_eq!(machine.since(), later);
}

/// The rule in other words: looks back over the whole history instead of counting along.
fn reference(rise: u32, fall: u32, history: &[(Answer, bool)]) -> Health {
    let question = |yes: fn(Answer) -> bool| {
        let mut state = None;
        let mut decided = 0;
        for (at, (answer, certain)) in history.iter().enumerate() {
            let now = yes(*answer);
            let (Some(before), false) = (state, *certain) else {
                (state, decided) = (Some(now), at + 1);
                continue;
            };
            let needed = if before { fall } else { rise } as usize;
            let against =
                history[decided..=at].iter().rev().take_while(|(answer, _)| yes(*answer) != before).count();
            if against >= needed {
                (state, decided) = (Some(!before), at + 1);
            }
        }
        state
    };
    let lives = |answer| !matches!(answer, Nothing | Answer::Refused);
    match (question(lives), question(|answer| answer == Answer::Ready)) {
        (Some(true), Some(true)) => Health::Ready,
        (Some(true), _) => Draining,
        (Some(false), _) => Dead,
        (None, _) => Health::Unknown,
    }
}

fn answers() -> impl Strategy<Value = (Answer, bool)> {
    prop_oneof![
        4 => Just((Answer::Ready, false)),
        3 => Just((NotReady, false)),
        3 => Just((Nothing, false)),
        1 => Just((Nothing, true)),
        1 => Just((Answer::Refused, true)),
    ]
}

proptest! {
    #[test]
    fn it_agrees_with_the_reference_after_every_answer(
        rise in 1_u32..5,
        fall in 1_u32..5,
        history in proptest::collection::vec(answers(), 0..200),
    ) {
        let mut machine = Machine::new(rise, fall, start());
        for (at, (answer, certain)) in history.iter().enumerate() {
            let before = machine.health();
            let flip = machine.observe(&Observation { certain: *certain, ..observation(*answer) }, start());
            prop_assert_eq!(machine.health(), reference(rise, fall, &history[..=at]));
            // A flip is reported exactly when there is one.
            prop_assert_eq!(flip.map(|flip| (flip.from, flip.to)), (before != machine.health()).then(|| (before, machine.health())));
        }
    }

    #[test]
    fn no_flip_without_a_cause(rise in 1_u32..5, fall in 1_u32..5, length in 1_usize..100) {
        for answer in [Answer::Ready, NotReady, Nothing] {
            let mut machine = Machine::new(rise, fall, start());
            machine.observe(&observation(answer), start());
            for _ in 0..length {
                prop_assert_eq!(machine.observe(&observation(answer), start()), None);
            }
        }
    }
}

#[test]
fn another_check_begins_anew_and_the_backend_is_held_for_what_it_was_until_its_first_answer() {
    let mut machine = Machine::anew(5, 5, Dead, start());
    assert_eq!(machine.health(), Dead);
    assert_eq!(machine.observe(&observation(Nothing), start()), None, "nothing new");

    let mut machine = Machine::anew(5, 5, Draining, start());
    assert_eq!(machine.observe(&observation(Answer::NotAsked), start()), None);
    let flip = machine.observe(&observation(Answer::Ready), start()).unwrap();
    assert_eq!((flip.from, flip.to), (Draining, Health::Ready));
    assert_eq!(machine.observe(&observation(Nothing), start()), None, "from then on it takes five");
}
