use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn key(id: u8) -> Key {
    Key::new(id, &[id; SECRET_BYTES_MIN]).unwrap()
}

fn node() -> impl Strategy<Value = NodeId> {
    "[!-~]{1,63}".prop_map(|name| NodeId::new(&name).unwrap())
}

fn term() -> impl Strategy<Value = Term> {
    (0..=Term::MAX.0).prop_map(Term)
}

fn round() -> impl Strategy<Value = Round> {
    any::<u64>().prop_map(Round)
}

fn process() -> impl Strategy<Value = Process> {
    (node(), 1_u64..).prop_map(|(node, incarnation)| Process { node, incarnation: Incarnation(incarnation) })
}

fn micros() -> impl Strategy<Value = Duration> {
    any::<u32>().prop_map(|micros| Duration::from_micros(micros.into()))
}

fn body() -> impl Strategy<Value = Body> {
    let ballot = prop_oneof![
        round().prop_map(|round| Ballot::Canvass { round }),
        (term(), round()).prop_map(|(term, round)| Ballot::Request { term, round }),
    ];
    let objection = prop_oneof![
        micros().prop_map(|remaining| Objection::Promised { remaining }),
        micros().prop_map(|remaining| Objection::Abstaining { remaining }),
        Just(Objection::Members),
        Just(Objection::Lease),
        Just(Objection::Released),
    ];
    let instance = (process(), term()).prop_map(|(holder, term)| Instance { holder, term });
    prop_oneof![
        Just(Body::Alive),
        round().prop_map(|round| Body::Canvass { round }),
        round().prop_map(|round| Body::Support { round }),
        (term(), round(), prop::option::of(instance)).prop_map(|(term, round, released)| Body::Request {
            term,
            round,
            released
        }),
        (term(), round()).prop_map(|(term, round)| Body::Grant { term, round }),
        (ballot, objection).prop_map(|(ballot, objection)| Body::Refuse { ballot, objection }),
        (term(), prop::option::of(node())).prop_map(|(term, successor)| Body::Release { term, successor }),
    ]
}

fn gossip() -> impl Strategy<Value = Gossip> {
    let members = prop::collection::btree_set(any::<u32>(), 0..=MEMBERS_MAX);
    let flags = (any::<[bool; 6]>(), any::<u8>(), term());
    (flags, 0..=60_000_000_u64, members, "\\PC{0,16}").prop_map(
        |((flags, priority, term), lease, members, version)| {
            let [eligible, start_as_leader, preempting, abstaining, stopping, leading] = flags;
            Gossip {
                eligible,
                start_as_leader,
                preempting,
                abstaining,
                stopping,
                leading,
                priority,
                term,
                lease: Duration::from_micros(lease),
                members: MemberSet::from_hashes(members).unwrap(),
                version: Version::new(&version),
            }
        },
    )
}

fn envelope() -> impl Strategy<Value = Envelope> {
    let payload = prop_oneof![
        any::<u64>().prop_map(|challenge| Payload::Hello { challenge }),
        any::<u64>().prop_map(|echo| Payload::Welcome { echo }),
        body().prop_map(Payload::Election),
    ];
    let to = prop::option::of((1_u64..).prop_map(Incarnation));
    (process(), to, any::<u64>(), gossip(), payload)
        .prop_map(|(from, to, sequence, gossip, payload)| Envelope { from, to, sequence, gossip, payload })
}

fn emitted(envelope: &Envelope, keys: &[Key]) -> Vec<u8> {
    let mut datagram = Vec::new();
    envelope.emit(keys, &mut datagram);
    datagram
}

proptest! {
    #[test]
    fn what_is_emitted_is_parsed_as_it_was(envelope in envelope(), signed: bool) {
        let keys = if signed { vec![key(3)] } else { Vec::new() };
        let datagram = emitted(&envelope, &keys);
        prop_assert!(datagram.len() <= DATAGRAM_BYTES_MAX);
        prop_assert_eq!(Envelope::open(&datagram, &keys), Ok(envelope));
    }

    #[test]
    fn any_key_of_the_list_verifies(envelope in envelope()) {
        let datagram = emitted(&envelope, &[key(2), key(1)]);
        prop_assert_eq!(Envelope::open(&datagram, &[key(1), key(2)]), Ok(envelope));
    }

    #[test]
    fn a_signed_datagram_with_any_bit_changed_is_refused(envelope in envelope(), at: prop::sample::Index, bit in 0..8) {
        let mut datagram = emitted(&envelope, &[key(1)]);
        let at = at.index(datagram.len());
        datagram[at] ^= 1_u8 << bit;
        prop_assert!(Envelope::open(&datagram, &[key(1)]).is_err());
    }

    #[test]
    fn random_bytes_do_not_panic(mut datagram in prop::collection::vec(any::<u8>(), 0..600), known: bool) {
        if known && datagram.len() >= 3 {
            datagram[0] = WIRE_VERSION;
            datagram[1] = 0;
            datagram[2] %= 12;
        }
        let _any = Envelope::open(&datagram, &[]);
        let _any = Envelope::open(&datagram, &[key(1)]);
    }

    #[test]
    fn mutated_datagrams_do_not_panic(
        envelope in envelope(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut: prop::sample::Index,
    ) {
        let mut datagram = emitted(&envelope, &[]);
        for (at, byte) in changes {
            let at = at.index(datagram.len());
            datagram[at] = byte;
        }
        let _any = Envelope::open(&datagram, &[]);
        let _any = Envelope::open(&datagram[..cut.index(datagram.len())], &[]);
    }

    #[test]
    fn extensions_of_later_versions_are_skipped(
        envelope in envelope(),
        tag: u8,
        extension in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut datagram = emitted(&envelope, &[]);
        datagram.extend([tag, u8::try_from(extension.len()).unwrap()]);
        datagram.extend(&extension);
        prop_assert_eq!(Envelope::open(&datagram, &[]), Ok(envelope));
    }
}

fn alive() -> Envelope {
    let gossip = Gossip {
        eligible: true,
        start_as_leader: false,
        preempting: false,
        abstaining: true,
        stopping: false,
        leading: false,
        priority: 100,
        term: Term(7),
        lease: Duration::from_millis(150),
        members: MemberSet::from_hashes([1, 2]).unwrap(),
        version: Version::new("0.1"),
    };
    let from = Process { node: NodeId::new("cp1").unwrap(), incarnation: Incarnation(5) };
    Envelope { from, to: Some(Incarnation(6)), sequence: 9, gossip, payload: Payload::Election(Body::Alive) }
}

/// The layout is a promise to releases before and after this one.
#[test]
fn the_layout_is_what_it_was() {
    let expected = [
        vec![1, 0, 3, 0b1001],
        vec![0, 0, 0, 0, 0, 0, 0, 5],
        vec![0, 0, 0, 0, 0, 0, 0, 6],
        vec![0, 0, 0, 0, 0, 0, 0, 9],
        vec![100],
        vec![0, 0, 0, 0, 0, 0, 0, 7],
        vec![0, 2, 73, 240],
        vec![3, b'c', b'p', b'1'],
        vec![3, b'0', b'.', b'1'],
        vec![2, 0, 0, 0, 1, 0, 0, 0, 2],
    ];
    assert_eq!(emitted(&alive(), &[]), expected.concat());
}

#[test]
fn signatures_are_demanded_where_there_are_keys_and_only_there() {
    let (unsigned, signed) = (emitted(&alive(), &[]), emitted(&alive(), &[key(1)]));
    let other_secret = Key::new(1, &[9; 16]).unwrap();
    assert_eq!(Envelope::open(&unsigned, &[key(1)]), Err(Unreadable::Unsigned));
    assert_eq!(Envelope::open(&signed, &[]), Err(Unreadable::Signed { key: 1 }));
    assert_eq!(Envelope::open(&signed, &[key(2)]), Err(Unreadable::UnknownKey { key: 1 }));
    assert_eq!(Envelope::open(&signed, &[other_secret]), Err(Unreadable::BadSignature { key: 1 }));
    assert_eq!(Envelope::open(&[2, 0, 0], &[]), Err(Unreadable::Version { theirs: 2 }));
    assert_eq!(Envelope::open(&signed[..3], &[key(1)]), Err(Unreadable::Malformed));
}

#[test]
fn a_term_or_lease_beyond_belief_is_malformed() {
    let mut envelope = alive();
    envelope.gossip.term = Term(u64::MAX);
    assert_eq!(Envelope::open(&emitted(&envelope, &[]), &[]), Err(Unreadable::Malformed));
    let mut envelope = alive();
    envelope.gossip.lease = LEASE_MAX + Duration::from_micros(1);
    assert_eq!(Envelope::open(&emitted(&envelope, &[]), &[]), Err(Unreadable::Malformed));
}

#[test]
fn a_remaining_time_is_rounded_up() {
    let remaining = Duration::from_nanos(1);
    let ballot = Ballot::Canvass { round: Round(1) };
    let mut envelope = alive();
    envelope.payload =
        Payload::Election(Body::Refuse { ballot, objection: Objection::Promised { remaining } });
    let read = Envelope::open(&emitted(&envelope, &[]), &[]).unwrap().into_message();
    let objection = Objection::Promised { remaining: Duration::from_micros(1) };
    assert_eq!(read.body, Body::Refuse { ballot, objection });
}

#[test]
fn keys_are_numbered_long_and_silent() {
    assert!(matches!(Key::new(0, &[1; 32]), Err(KeyError::Zero)));
    assert!(matches!(Key::new(1, &[1; 15]), Err(KeyError::Short { id: 1, bytes: 15 })));
    assert_eq!(format!("{:?}", key(4)), "Key { id: 4, .. }");
}
