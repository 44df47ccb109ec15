//! What a member tells of itself, for the log and for who counts moves.

use leader::{
    message::{Body, Message},
    quorum::{Cause, Event, Loss, Segment},
};

use crate::rig::{EXCLUSION, LEASE, NS, One, Several, gossip, node, process};

fn events(one: &mut One) -> Vec<Event> {
    std::iter::from_fn(|| one.election.poll_event()).collect()
}

#[test]
fn an_election_is_told_once_by_the_one_that_won_it() {
    let mut cluster = Several::new("abc");
    cluster.wait(10 * LEASE);
    assert_eq!(cluster.leaders(), "a");
    let elected: Vec<_> =
        cluster.events.iter().filter(|(_, event)| matches!(event, Event::Elected { .. })).collect();
    assert!(matches!(elected[..], [('a', Event::Elected { alone: false, .. })]), "{elected:?}");
    for (me, other) in [('a', 'b'), ('a', 'c'), ('b', 'a'), ('b', 'c'), ('c', 'a'), ('c', 'b')] {
        let heard = Event::PeerHeard(node(other));
        assert_eq!(cluster.events.iter().filter(|event| **event == (me, heard.clone())).count(), 1);
    }
}

#[test]
fn a_member_counts_as_lost_after_three_leases_of_silence_and_then_as_heard_anew() {
    let mut one = One::awake("abc");
    let alive = |one: &mut One| {
        let message = Message { gossip: gossip('b', "abc", one.now), body: Body::Alive };
        one.election.handle_message(&process('b'), message, one.now);
        events(one)
    };
    assert_eq!(alive(&mut one), [Event::PeerHeard(node('b'))]);
    assert_eq!(alive(&mut one), []);
    let heard = one.now;
    one.now = heard + 3 * LEASE - NS;
    one.election.handle_timeout(one.now);
    assert_eq!(events(&mut one), []);
    one.now = heard + 3 * LEASE;
    one.election.handle_timeout(one.now);
    assert_eq!(events(&mut one), [Event::PeerLost(node('b'))]);
    one.now += LEASE;
    one.election.handle_timeout(one.now);
    assert_eq!(events(&mut one), [], "once");
    assert_eq!(alive(&mut one), [Event::PeerHeard(node('b'))]);
}

#[test]
fn a_lead_that_nobody_renews_is_told_as_lost() {
    let (mut one, term, _) = One::leader("abc");
    one.now += LEASE;
    one.election.handle_timeout(one.now);
    assert!(events(&mut one).contains(&Event::Lost { term, loss: Loss::NoMajority }));
}

#[test]
fn a_hand_over_is_told_when_it_begins_and_when_it_ends() {
    let (mut one, term, _) = One::leader("abc");
    one.election.step_down(None, one.now).unwrap();
    let to = Some(node('b'));
    assert_eq!(events(&mut one), [Event::HandingOver { term, cause: Cause::Command, to: to.clone() }]);
    one.election.confirm_standby(one.now);
    assert_eq!(events(&mut one), [Event::Released { term, to }]);

    let (mut one, term, _) = One::leader("abc");
    one.election.stop(one.now);
    let to = Some(node('b'));
    assert_eq!(events(&mut one), [Event::HandingOver { term, cause: Cause::Shutdown, to }]);
    one.now += LEASE;
    one.election.handle_timeout(one.now);
    assert!(events(&mut one).contains(&Event::Lost { term, loss: Loss::Unconfirmed }));
}

#[test]
fn a_lead_alone_is_told_as_such_and_so_is_its_end() {
    let mut first = One::with("abc", |config| config.start_as_leader = true);
    first.election.set_segment(Segment::Free, first.now);
    first.now += EXCLUSION + LEASE;
    first.election.handle_timeout(first.now);
    let elected = events(&mut first);
    let [Event::Elected { term, alone: true }] = elected[..] else { panic!("{elected:?}") };
    first.election.set_segment(Segment::Occupied, first.now);
    assert_eq!(events(&mut first), [Event::Lost { term, loss: Loss::Occupied }]);
}
