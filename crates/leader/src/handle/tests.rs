use super::*;
use crate::{Term, clock::now};

fn node() -> NodeId {
    NodeId::new("b").unwrap()
}

fn leads() -> Leadership {
    Leadership::Leader { term: Term(1), until: now() }
}

fn follows(leader: Option<NodeId>) -> Leadership {
    Leadership::Follower { leader }
}

/// Whether there is news of wishes; they are read then.
fn hears(desk: &mut Desk) -> Option<Wishes> {
    desk.wishes.has_changed().unwrap().then(|| desk.wishes())
}

#[test]
fn a_wish_is_told_when_it_changes_and_not_when_it_is_said_again() {
    let (mut desk, handle) = Desk::open();
    assert_eq!(hears(&mut desk), None);
    handle.set_eligible(true);
    assert_eq!(hears(&mut desk), None, "it is until told otherwise");
    handle.set_eligible(false);
    assert!(!hears(&mut desk).unwrap().eligible);
    handle.set_successor(Some(node()));
    assert_eq!(hears(&mut desk).unwrap().successor, Some(node()));
    handle.set_remark(Some("since noon"));
    assert_eq!(hears(&mut desk).unwrap().remark.as_deref(), Some("since noon"));

    handle.set_eligible(false);
    handle.set_successor(Some(node()));
    handle.set_remark(Some("since noon"));
    assert_eq!(hears(&mut desk), None);
    handle.set_successor(None);
    handle.set_remark(None);
    let wishes = hears(&mut desk).unwrap();
    assert_eq!((wishes.successor, wishes.remark), (None, None));
}

#[test]
fn a_probe_that_finds_the_same_is_news_all_the_same() {
    let (mut desk, handle) = Desk::open();
    for probes in 1..4 {
        handle.set_segment(Segment::Free);
        let wishes = hears(&mut desk).unwrap();
        assert_eq!((wishes.segment, wishes.probes), (Segment::Free, probes));
    }
}

#[test]
fn who_leads_is_told_when_it_changes() {
    let (desk, handle) = Desk::open();
    let mut leadership = handle.leadership();
    assert!(!desk.publish(follows(None)) && !leadership.has_changed().unwrap());
    let leading = leads();
    assert!(desk.publish(leading.clone()) && !desk.publish(leading.clone()));
    assert_eq!(*leadership.borrow_and_update(), leading);
    assert!(desk.publish(follows(Some(node()))));
    assert_eq!(*leadership.borrow_and_update(), follows(Some(node())));
}

/// A leader that steps down gives its lease away when it is said that nothing of the address is left: of this time, not of the last.
#[test]
fn a_confirmation_counts_for_the_turn_in_which_it_was_given() {
    let (mut desk, handle) = Desk::open();
    let wishes = desk.wishes();
    assert!(!desk.is_standby(&wishes), "nobody has said so");
    handle.confirm_standby();
    let wishes = hears(&mut desk).unwrap();
    assert!(desk.is_standby(&wishes));
    handle.confirm_standby();
    assert_eq!(hears(&mut desk), None, "said already");

    // Another leader is no turn of this node's.
    desk.publish(follows(Some(node())));
    assert!(desk.is_standby(&wishes));
    desk.publish(leads());
    assert!(!desk.is_standby(&wishes));
    handle.confirm_standby();
    assert_eq!(hears(&mut desk), None, "whoever leads may hold it");
    desk.publish(leads());
    desk.publish(follows(None));
    let wishes = desk.wishes();
    assert!(!desk.is_standby(&wishes), "what was said before it led");
    handle.confirm_standby();
    let wishes = hears(&mut desk).unwrap();
    assert!(desk.is_standby(&wishes));
}

#[tokio::test]
async fn a_command_is_answered_and_a_driver_that_is_gone_answers_too() {
    let (mut desk, handle) = Desk::open();
    let asking = handle.clone();
    let asked = tokio::spawn(async move { asking.step_down(Some(node())).await });
    let Word::Command(Command::StepDown { to, answer }) = desk.next().await else { panic!("another word") };
    assert_eq!(to, Some(node()));
    answer.send(Err(StepDownError::NotLeader)).unwrap();
    assert_eq!(asked.await.unwrap(), Err(StepDownError::NotLeader));

    let asking = handle.clone();
    let waiting = tokio::spawn(async move { asking.shutdown().await });
    let Word::Command(Command::Shutdown(done)) = desk.next().await else { panic!("another word") };
    assert!(!waiting.is_finished());
    Leaving { deadline: now(), done: vec![done] }.answer();
    waiting.await.unwrap();

    let sight = Sight { asked: now(), answered: true, owned: false, contested: true };
    handle.saw(sight).await;
    assert!(matches!(desk.next().await, Word::Command(Command::Saw(told)) if told == sight));

    drop(desk);
    assert_eq!(handle.step_down(None).await, Err(StepDownError::Stopped));
    handle.shutdown().await;
}

#[tokio::test]
async fn those_who_wait_for_a_shutdown_are_all_answered() {
    let ends: Vec<_> = (0..3).map(|_| oneshot::channel()).collect();
    let (done, finished): (Vec<_>, Vec<_>) = ends.into_iter().unzip();
    Leaving { deadline: now(), done }.answer();
    for finished in finished {
        assert_eq!(finished.await, Ok(()));
    }
}

#[tokio::test]
async fn the_last_handle_that_goes_ends_the_election() {
    let (mut desk, handle) = Desk::open();
    let other = handle.clone();
    drop(handle);
    other.set_eligible(false);
    assert!(matches!(desk.next().await, Word::Wishes));
    drop(other);
    assert!(matches!(desk.next().await, Word::Gone));
}
