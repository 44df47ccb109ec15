use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::clients::{CLIENT_BYTES_MAX, Change, Client};
use crate::notes::{PAGE_BYTES_MAX, PAGES_MAX};
use crate::{
    message::{Round, TieBreak, Version},
    node::MEMBERS_MAX,
    timing::LEASE_MAX,
};

fn key(id: u8) -> Key {
    Key::new(id, &[id; SECRET_BYTES_MIN]).unwrap()
}

fn open(datagram: &[u8], keys: &[Key]) -> Result<Envelope, Unreadable> {
    Envelope::open(datagram, keys, &NodeId::new("a").unwrap())
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
    let flags = (any::<[bool; 8]>(), any::<u8>(), term());
    let tie = prop::option::of((any::<u32>(), any::<bool>(), any::<bool>()));
    (flags, 0..=60_000_000_u64, members, "\\PC{0,16}", tie).prop_map(
        |((flags, priority, term), lease, members, version, tie)| {
            let [eligible, start_as_leader, preempting, abstaining, stopping, leading, resting, witness] =
                flags;
            Gossip {
                eligible,
                start_as_leader,
                preempting,
                abstaining,
                stopping,
                leading,
                witness,
                resting,
                priority,
                term,
                lease: Duration::from_micros(lease),
                members: MemberSet::from_hashes(members).unwrap(),
                version: Version::new(&version),
                tie: tie.map(|(rule, missing, blind)| Tie { rule: TieBreak(rule), missing, blind }),
            }
        },
    )
}

fn change() -> impl Strategy<Value = Change> {
    let client = prop::collection::vec(any::<u8>(), 1..=CLIENT_BYTES_MAX);
    (client, any::<bool>()).prop_map(|(bytes, came)| {
        let client = Client::new(&bytes).unwrap();
        if came { Change::Came(client) } else { Change::Gone(client) }
    })
}

/// As the book makes them: with changes that fit.
fn chapter() -> impl Strategy<Value = Chapter> {
    let changes = prop::collection::vec(change(), 0..=Chapter::CHANGES_MAX).prop_map(|mut changes| {
        let mut room = Chapter::BYTES_MAX;
        changes.retain(|change| {
            room = room.saturating_sub(Chapter::bytes(change));
            room > 0
        });
        changes
    });
    (any::<u64>(), any::<u64>(), any::<u64>(), changes).prop_map(|(volume, one, other, changes)| Chapter {
        volume,
        after: one.min(other),
        until: one.max(other),
        changes,
    })
}

fn page() -> impl Strategy<Value = Page> {
    let bytes = prop::collection::vec(any::<u8>(), 1..=PAGE_BYTES_MAX);
    (any::<u64>(), 1..=PAGES_MAX, any::<u8>(), bytes).prop_map(|(note, of, place, bytes)| Page {
        note,
        place: place % of,
        of,
        bytes,
    })
}

fn envelope() -> impl Strategy<Value = Envelope> {
    let payload = prop_oneof![
        any::<u64>().prop_map(|challenge| Payload::Hello { challenge }),
        any::<u64>().prop_map(|echo| Payload::Welcome { echo }),
        body().prop_map(Payload::Election),
        chapter().prop_map(Payload::Clients),
        any::<[u64; 2]>().prop_map(|[volume, line]| Payload::Read(Bookmark { volume, line })),
        page().prop_map(Payload::Note),
    ];
    let to = prop::option::of((1_u64..).prop_map(Incarnation));
    (process(), to, any::<(u64, (bool, bool), Option<[u8; 16]>)>(), gossip(), payload).prop_map(
        |(from, to, (sequence, hears, subject), gossip, payload)| Envelope {
            from,
            to,
            sequence,
            hears: Hears { clients: hears.0, notes: hears.1 },
            subject: subject.map(Subject),
            gossip,
            payload,
        },
    )
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
        let is_long = matches!(envelope.payload, Payload::Clients(_) | Payload::Note(_));
        let most = if is_long { DATAGRAM_BYTES_MAX } else { ELECTION_BYTES_MAX };
        prop_assert!(datagram.len() <= most);
        prop_assert_eq!(open(&datagram, &keys), Ok(envelope));
    }

    #[test]
    fn any_key_of_the_list_verifies(envelope in envelope()) {
        let datagram = emitted(&envelope, &[key(2), key(1)]);
        prop_assert_eq!(open(&datagram, &[key(1), key(2)]), Ok(envelope));
    }

    #[test]
    fn a_signed_datagram_with_any_bit_changed_is_refused(envelope in envelope(), at: prop::sample::Index, bit in 0..8) {
        let mut datagram = emitted(&envelope, &[key(1)]);
        let at = at.index(datagram.len());
        datagram[at] ^= 1_u8 << bit;
        prop_assert!(open(&datagram, &[key(1)]).is_err());
    }

    #[test]
    fn random_bytes_do_not_panic(mut datagram in prop::collection::vec(any::<u8>(), 0..1300), known: bool) {
        if known && datagram.len() >= 3 {
            datagram[0] = WIRE_VERSION;
            datagram[1] = 0;
            datagram[2] %= 14;
        }
        let _any = open(&datagram, &[]);
        let _any = open(&datagram, &[key(1)]);
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
        let _any = open(&datagram, &[]);
        let _any = open(&datagram[..cut.index(datagram.len())], &[]);
    }

    #[test]
    fn extensions_of_later_versions_are_skipped(
        envelope in envelope(),
        tag in (extension::HEARS_NOTES + 1)..,
        extension in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut datagram = emitted(&envelope, &[]);
        datagram.extend([tag, u8::try_from(extension.len()).unwrap()]);
        datagram.extend(&extension);
        prop_assume!(datagram.len() <= DATAGRAM_BYTES_MAX);
        prop_assert_eq!(open(&datagram, &[]), Ok(envelope));
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
        witness: false,
        resting: false,
        priority: 100,
        term: Term(7),
        lease: Duration::from_millis(150),
        members: MemberSet::from_hashes([1, 2]).unwrap(),
        version: Version::new("0.1"),
        tie: None,
    };
    let from = Process { node: NodeId::new("cp1").unwrap(), incarnation: Incarnation(5) };
    let payload = Payload::Election(Body::Alive);
    let to = Some(Incarnation(6));
    Envelope { from, to, sequence: 9, hears: Hears::default(), subject: None, gossip, payload }
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
    let mut expected = expected.concat();
    assert_eq!(emitted(&alive(), &[]), expected);

    // A member of an earlier release skips the extension, and reads the rest as it did.
    let of_this_release = Envelope { hears: Hears { clients: true, notes: true }, ..alive() };
    assert_eq!(emitted(&of_this_release, &[]), [expected.clone(), vec![1, 0, 4, 0]].concat());

    let of_one_of_several = Envelope { subject: Some(Subject([8; 16])), ..alive() };
    let subject = [vec![3, 16], vec![8; 16]].concat();
    assert_eq!(emitted(&of_one_of_several, &[]), [expected.clone(), subject].concat());
    // Of another length it can't be told from another election's, so it is no datagram.
    assert_eq!(open(&[expected.clone(), vec![3, 1, 8]].concat(), &[]), Err(Unreadable::Malformed));

    let client = Client::new(&[7, 7]).unwrap();
    let (volume, after, until) = (1, 2, 3);
    let changes = vec![Change::Came(client.clone()), Change::Gone(client)];
    let payload = Payload::Clients(Chapter { volume, after, until, changes });
    expected[2] = 10;
    let numbers = [[0; 7].to_vec(), vec![1], [0; 7].to_vec(), vec![2], [0; 7].to_vec(), vec![3]].concat();
    let chapter = [expected.clone(), numbers, vec![2, 2, 7, 7, 0x82, 7, 7, 1, 0, 4, 0]].concat();
    assert_eq!(emitted(&Envelope { payload, ..of_this_release.clone() }, &[]), chapter);

    let payload = Payload::Read(Bookmark { volume: 1, line: 2 });
    expected[2] = 11;
    let bookmark =
        [expected.clone(), [0; 7].to_vec(), vec![1], [0; 7].to_vec(), vec![2, 1, 0, 4, 0]].concat();
    assert_eq!(emitted(&Envelope { payload, ..of_this_release.clone() }, &[]), bookmark);

    let payload = Payload::Note(Page { note: 3, place: 1, of: 2, bytes: vec![9, 8] });
    expected[2] = 12;
    let page = [expected, [0; 7].to_vec(), vec![3, 1, 2, 0, 2, 9, 8, 1, 0, 4, 0]].concat();
    assert_eq!(emitted(&Envelope { payload, ..of_this_release }, &[]), page);
}

#[test]
fn a_datagram_of_the_election_is_short_whatever_those_of_clients_may_be() {
    let mut datagram = emitted(&alive(), &[]);
    while datagram.len() + 202 <= ELECTION_BYTES_MAX {
        datagram.extend([[9, 200].to_vec(), [0; 200].to_vec()].concat());
    }
    assert!(open(&datagram, &[]).is_ok());
    datagram.extend([[9, 200].to_vec(), [0; 200].to_vec()].concat());
    assert_eq!(open(&datagram, &[]), Err(Unreadable::Malformed));
}

#[test]
fn a_chapter_that_ends_before_it_begins_is_malformed() {
    let payload = Payload::Clients(Chapter { volume: 1, after: 3, until: 2, changes: Vec::new() });
    let datagram = emitted(&Envelope { payload, ..alive() }, &[]);
    assert_eq!(open(&datagram, &[]), Err(Unreadable::Malformed));
}

#[test]
fn a_page_that_can_not_be_one_is_malformed() {
    let page = Page { note: 1, place: 0, of: 1, bytes: vec![1] };
    for wrong in [
        Page { place: 1, ..page.clone() },
        Page { of: PAGES_MAX + 1, ..page.clone() },
        Page { of: 0, ..page.clone() },
        Page { bytes: Vec::new(), ..page.clone() },
        Page { bytes: vec![1; PAGE_BYTES_MAX + 1], ..page.clone() },
    ] {
        let datagram = emitted(&Envelope { payload: Payload::Note(wrong.clone()), ..alive() }, &[]);
        assert_eq!(open(&datagram, &[]), Err(Unreadable::Malformed), "{wrong:?}");
    }
    let right = Envelope { payload: Payload::Note(page), ..alive() };
    assert_eq!(open(&emitted(&right, &[]), &[]).unwrap().payload, right.payload);
}

/// A release that doesn't know the flag of those who rest reads `stopping`, and knows enough.
#[test]
fn the_flags_are_where_they_were() {
    let byte = |change: &dyn Fn(&mut Gossip)| {
        let mut envelope = alive();
        change(&mut envelope.gossip);
        emitted(&envelope, &[])[3]
    };
    assert_eq!(byte(&|gossip| gossip.leading = true), 0b10_1001);
    assert_eq!(byte(&|gossip| (gossip.stopping, gossip.resting) = (true, true)), 0b101_1001);
}

#[test]
fn a_tie_break_is_an_extension_that_others_skip() {
    let mut envelope = alive();
    envelope.gossip.tie = Some(Tie { rule: TieBreak(0x0102_0304), missing: false, blind: true });
    let expected = [emitted(&alive(), &[]), vec![2, 5, 2, 1, 2, 3, 4]].concat();
    assert_eq!(emitted(&envelope, &[]), expected);
    let short = [emitted(&alive(), &[]), vec![2, 4, 1, 1, 2, 3]].concat();
    assert_eq!(open(&short, &[]), Ok(alive()), "one that is cut short says nothing");
}

#[test]
fn signatures_are_demanded_where_there_are_keys_and_only_there() {
    let (unsigned, signed) = (emitted(&alive(), &[]), emitted(&alive(), &[key(1)]));
    let other_secret = Key::new(1, &[9; 16]).unwrap();
    assert_eq!(open(&unsigned, &[key(1)]), Err(Unreadable::Unsigned));
    assert_eq!(open(&signed, &[]), Err(Unreadable::Signed { key: 1 }));
    assert_eq!(open(&signed, &[key(2)]), Err(Unreadable::UnknownKey { key: 1 }));
    assert_eq!(open(&signed, &[other_secret]), Err(Unreadable::BadSignature { key: 1 }));
    assert_eq!(open(&[2, 0, 0], &[]), Err(Unreadable::Version { theirs: 2 }));
    assert_eq!(open(&signed[..3], &[key(1)]), Err(Unreadable::Malformed));
}

#[test]
fn a_term_or_lease_beyond_belief_is_malformed() {
    let mut envelope = alive();
    envelope.gossip.term = Term(u64::MAX);
    assert_eq!(open(&emitted(&envelope, &[]), &[]), Err(Unreadable::Malformed));
    let mut envelope = alive();
    envelope.gossip.lease = LEASE_MAX + Duration::from_micros(1);
    assert_eq!(open(&emitted(&envelope, &[]), &[]), Err(Unreadable::Malformed));
}

#[test]
fn a_remaining_time_is_rounded_up() {
    let remaining = Duration::from_nanos(1);
    let ballot = Ballot::Canvass { round: Round(1) };
    let mut envelope = alive();
    envelope.payload =
        Payload::Election(Body::Refuse { ballot, objection: Objection::Promised { remaining } });
    let read = open(&emitted(&envelope, &[]), &[]).unwrap();
    let objection = Objection::Promised { remaining: Duration::from_micros(1) };
    assert_eq!(read.payload, Payload::Election(Body::Refuse { ballot, objection }));
}

#[test]
fn keys_are_numbered_long_and_silent() {
    assert!(matches!(Key::new(0, &[1; 32]), Err(KeyError::Zero)));
    assert!(matches!(Key::new(1, &[1; 15]), Err(KeyError::Short { id: 1, bytes: 15 })));
    assert_eq!(format!("{:?}", key(4)), "Key { id: 4, .. }");
}
