//! Several elections among the same hosts: what is said in one counts in that one alone.

use leader::{
    member::{Config, Member},
    peers::{Mismatch, Subject},
};

use crate::{
    recordings::{Tape, address, member_config},
    rig::{LEASE, node},
};

const HERE: Subject = Subject([1; 16]);
const THERE: Subject = Subject([2; 16]);

/// Three members, each with an election of its own idea.
fn tape(subjects: [Option<Subject>; 3]) -> Tape {
    let mut tape = Tape::new();
    let now = tape.now;
    for (name, subject) in ['a', 'b', 'c'].into_iter().zip(subjects) {
        let config = Config { subject, ..member_config(name) };
        tape.members.insert(address(name), Member::new(&config, 1, 7, now).unwrap());
    }
    tape
}

fn leaders(tape: &Tape) -> usize {
    tape.members.values().filter(|member| member.election.lease_end(tape.now).is_some()).count()
}

#[test]
fn members_of_one_subject_elect_and_one_of_another_takes_no_part() {
    let mut tape = tape([Some(HERE), Some(HERE), Some(THERE)]);
    tape.wait(8 * LEASE);
    assert_eq!(leaders(&tape), 1);
    let now = tape.now;
    assert!(tape.member('c').election.lease_end(now).is_none());
    let told: Vec<_> =
        tape.member('a').peers().into_iter().map(|peer| (peer.heard.is_some(), peer.mismatch)).collect();
    assert_eq!(told, [(true, None), (false, Some(Mismatch::Subject))]);
    let complaint = tape.member('b').poll_complaint().unwrap();
    assert_eq!((complaint.peer, complaint.mismatch), (node('c'), Mismatch::Subject));
    // Whoever answered it would count as alive there.
    assert!(tape.member('c').peers().iter().all(|peer| peer.heard.is_none()));
}

#[test]
fn no_votes_of_three_subjects_make_a_majority() {
    let mut tape = tape([Some(HERE), Some(THERE), None]);
    tape.wait(8 * LEASE);
    assert_eq!(leaders(&tape), 0);
    for name in ['a', 'b', 'c'] {
        assert!(
            tape.member(name).peers().iter().all(|peer| peer.mismatch == Some(Mismatch::Subject)),
            "{name}"
        );
    }
}
