use super::*;
use etherparse::PacketBuilder;
use proptest::prelude::*;

const ME: Mac = [2, 0, 0, 0, 0, 1];
const NEXT: Mac = [2, 0, 0, 0, 0, 2];
const CLIENT: Mac = [2, 0, 0, 0, 0, 9];
const VIP: [u8; 4] = [10, 0, 0, 162];
const VIP6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x62];

#[test]
fn frames_wait_for_the_successor_and_then_go_to_it_in_their_order() {
    let t0 = origin();
    let mut relay = relay(None, t0);
    let syns: Vec<_> = (1..=3).map(|port| syn(CLIENT, port, 64)).collect();
    for syn in &syns {
        assert_eq!(relay.handle_parcel(&mut syn.clone(), t0), Fate::Held);
    }
    assert_eq!(relay.poll_held(t0), None);

    relay.set_errand(Errand { to: Some(NEXT), until: t0 + FOLLOWS_FOR });

    for syn in &syns {
        let sent = relay.poll_held(t0).unwrap();
        assert_eq!(sent[..OFFLOAD_LEN], syn[..OFFLOAD_LEN], "the offload is left alone");
        assert_eq!((&sent[OFFLOAD_LEN..][..6], &sent[OFFLOAD_LEN..][6..12]), (&NEXT[..], &ME[..]));
        // All but the hardware addresses, the hops and the header's checksum.
        assert_eq!(sent[OFFLOAD_LEN + 26..], syn[OFFLOAD_LEN + 26..]);
    }
    assert_eq!(relay.poll_held(t0), None);
    let mut later = syn(CLIENT, 4, 64);
    assert_eq!(relay.handle_parcel(&mut later, t0), Fate::Passed);
    assert_eq!(later[OFFLOAD_LEN..][..6], NEXT);
    assert_eq!(relay.tally(), Tally { passed: 4, dropped: 0 });
}

#[test]
fn a_frame_has_one_hop_less_and_a_right_checksum_and_the_last_hop_is_the_last() {
    for hops in [2, 64, 255] {
        let mut relay = relay(Some(NEXT), origin());
        let mut v4 = syn(CLIENT, 1, hops);
        assert_eq!(relay.handle_parcel(&mut v4, origin()), Fate::Passed);
        let (header, _) = etherparse::Ipv4Header::from_slice(&v4[OFFLOAD_LEN + ETHERNET_LEN..]).unwrap();
        assert_eq!(header.time_to_live, hops - 1);
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        let mut v6 = syn6(CLIENT, hops);
        assert_eq!(relay.handle_parcel(&mut v6, origin()), Fate::Passed);
        assert_eq!(v6[OFFLOAD_LEN + ETHERNET_LEN + 7], hops - 1);
    }
    for hops in [0, 1] {
        let mut relay = relay(Some(NEXT), origin());
        assert_eq!(relay.handle_parcel(&mut syn(CLIENT, 1, hops), origin()), Fate::Dropped);
        assert_eq!(relay.handle_parcel(&mut syn6(CLIENT, hops), origin()), Fate::Dropped);
    }
}

#[test]
fn nothing_is_relayed_but_what_another_station_sent_here_for_one_of_the_addresses() {
    let t0 = origin();
    let other_ip = |mut parcel: Vec<u8>, at: usize| {
        parcel[OFFLOAD_LEN + at] ^= 1;
        parcel
    };
    let mut to_another = syn(CLIENT, 1, 64);
    to_another[OFFLOAD_LEN] ^= 2;
    let mut arp = syn(CLIENT, 1, 64);
    arp[OFFLOAD_LEN + 12..][..2].copy_from_slice(&[0x08, 0x06]);
    let mut mislabelled = syn(CLIENT, 1, 64);
    mislabelled[OFFLOAD_LEN + 12..][..2].copy_from_slice(IPV6);
    let refused = [
        other_ip(syn(CLIENT, 1, 64), 33),
        other_ip(syn6(CLIENT, 64), 53),
        to_another,
        syn(ME, 1, 64),
        arp,
        mislabelled,
        syn(CLIENT, 1, 64)[..OFFLOAD_LEN + 33].to_vec(),
        syn6(CLIENT, 64)[..OFFLOAD_LEN + 53].to_vec(),
        Vec::new(),
    ];
    for to in [None, Some(NEXT)] {
        for parcel in &refused {
            assert_eq!(relay(to, t0).handle_parcel(&mut parcel.clone(), t0), Fate::Dropped, "{parcel:?}");
        }
    }
}

#[test]
fn what_the_successor_itself_sends_here_is_not_sent_back_to_it() {
    let t0 = origin();
    let mut relay = relay(None, t0);
    // While it isn't known, it is a client like any other.
    assert_eq!(relay.handle_parcel(&mut syn(NEXT, 1, 64), t0), Fate::Held);
    relay.set_errand(Errand { to: Some(NEXT), until: t0 + FOLLOWS_FOR });
    assert_eq!(relay.poll_held(t0), None);
    assert_eq!(relay.handle_parcel(&mut syn(NEXT, 2, 64), t0), Fate::Dropped);
    assert_eq!(relay.tally(), Tally { passed: 0, dropped: 2 });
}

#[test]
fn after_its_time_nothing_is_relayed_whether_it_was_held_or_comes_then() {
    let t0 = origin();
    let mut relay = relay(None, t0);
    relay.handle_parcel(&mut syn(CLIENT, 1, 64), t0);
    let end = t0 + FOLLOWS_FOR;
    relay.set_errand(Errand { to: Some(NEXT), until: end });
    assert_eq!(relay.poll_held(end), None);
    assert_eq!(relay.handle_parcel(&mut syn(CLIENT, 2, 64), end), Fate::Dropped);
    assert_eq!(relay.tally(), Tally { passed: 0, dropped: 2 });
}

#[test]
fn what_waits_is_bounded_in_number_and_in_octets() {
    let t0 = origin();
    let count = |parcel: &[u8]| {
        let mut relay = relay(None, t0);
        let held = (0..3000).filter(|_| relay.handle_parcel(&mut parcel.to_vec(), t0) == Fate::Held).count();
        assert!(held * parcel.len() <= HELD_OCTETS_MAX);
        relay.set_errand(Errand { to: Some(NEXT), until: t0 + FOLLOWS_FOR });
        assert_eq!(std::iter::from_fn(|| relay.poll_held(t0)).count(), held);
        // And there is room again.
        relay.set_errand(Errand { to: None, until: t0 + FOLLOWS_FOR });
        assert_eq!(relay.handle_parcel(&mut parcel.to_vec(), t0), Fate::Held);
        held
    };
    let mut large = syn(CLIENT, 1, 64);
    large.resize(60_000, 0);
    assert_eq!(count(&syn(CLIENT, 1, 64)), HELD_MAX);
    assert_eq!(count(&large), HELD_OCTETS_MAX / 60_000);
}

#[test]
fn room_that_is_free_again_is_as_large_as_what_has_left_it() {
    let t0 = origin();
    let mut relay = relay(None, t0);
    let large = |port, change: fn(&mut etherparse::TcpHeader)| {
        let mut parcel = segment(false, port, &[], change);
        parcel.resize(8192, 0);
        parcel
    };
    let end_of = |port| large(port, |tcp| (tcp.ack, tcp.fin) = (true, true));
    let fates = |relay: &mut Relay| [(); 2].map(|()| relay.handle_parcel(&mut end_of(1), t0));
    assert_eq!(relay.handle_parcel(&mut large(2, |tcp| tcp.syn = true), t0), Fate::Held);
    for _ in 1..HELD_OCTETS_MAX / 8192 {
        assert_eq!(relay.handle_parcel(&mut end_of(1), t0), Fate::Held, "to the last octet");
    }
    assert_eq!(relay.handle_parcel(&mut end_of(1), t0), Fate::Dropped);

    // One is forgotten, and one goes to the successor.
    assert_eq!(relay.handle_parcel(&mut large(2, |tcp| tcp.ack = true), t0), Fate::Dropped);
    assert_eq!(fates(&mut relay), [Fate::Held, Fate::Dropped]);
    relay.set_errand(Errand { to: Some(NEXT), until: t0 + FOLLOWS_FOR });
    assert!(relay.poll_held(t0).is_some());
    relay.set_errand(Errand { to: None, until: t0 + FOLLOWS_FOR });
    assert_eq!(fates(&mut relay), [Fate::Held, Fate::Dropped]);

    let waiting = (HELD_OCTETS_MAX / 8192) as u64;
    assert_eq!(relay.tally(), Tally { passed: 1, dropped: 5 + waiting }, "a forgotten one counts as dropped");
}

#[test]
fn what_only_looks_like_a_segment_waits_like_anything_else() {
    let t0 = origin();
    let mut acknowledgement = segment(false, 1, &[], |tcp| tcp.ack = true);
    assert_eq!(relay(None, t0).handle_parcel(&mut acknowledgement.clone(), t0), Fate::Dropped);
    // The same octets as UDP.
    acknowledgement[OFFLOAD_LEN + ETHERNET_LEN + 9] = 17;
    assert_eq!(relay(None, t0).handle_parcel(&mut acknowledgement, t0), Fate::Held);
    // TCP, of which the last octet is missing.
    let short = &mut syn(CLIENT, 1, 64)[..OFFLOAD_LEN + ETHERNET_LEN + 20 + 19];
    assert_eq!(relay(None, t0).handle_parcel(short, t0), Fate::Held);
}

#[test]
fn a_packet_of_another_version_or_with_less_than_a_header_is_dropped() {
    let t0 = origin();
    for first in [0x44, 0x40, 0x65, 0x35] {
        let mut parcel = syn(CLIENT, 1, 64);
        parcel[OFFLOAD_LEN + ETHERNET_LEN] = first;
        assert_eq!(relay(None, t0).handle_parcel(&mut parcel, t0), Fate::Dropped, "{first:#x}");
    }
}

#[test]
fn what_tells_of_a_connection_made_here_does_not_wait_nor_does_its_beginning() {
    let t0 = origin();
    for v6 in [false, true] {
        let mut relay = relay(None, t0);
        let beginning = |port| segment(v6, port, &[], |tcp| tcp.syn = true);
        let sent = |port, data: &[u8]| segment(v6, port, data, |tcp| tcp.ack = true);
        for port in [1, 2, 3] {
            assert_eq!(relay.handle_parcel(&mut beginning(port), t0), Fate::Held);
        }
        // This node had answered the second, and the third: their clients know.
        assert_eq!(relay.handle_parcel(&mut sent(2, &[]), t0), Fate::Dropped);
        assert_eq!(relay.handle_parcel(&mut sent(3, b"hello"), t0), Fate::Held, "who speaks is answered");
        assert_eq!(relay.handle_parcel(&mut sent(9, &[]), t0), Fate::Dropped);
        let mut last = segment(v6, 9, &[], |tcp| (tcp.ack, tcp.fin) = (true, true));
        assert_eq!(relay.handle_parcel(&mut last, t0), Fate::Held);

        relay.set_errand(Errand { to: Some(NEXT), until: t0 + FOLLOWS_FOR });
        let ports: Vec<u16> = std::iter::from_fn(|| relay.poll_held(t0))
            .map(|parcel| {
                let packet = etherparse::SlicedPacket::from_ethernet(&parcel[OFFLOAD_LEN..]).unwrap();
                let Some(etherparse::TransportSlice::Tcp(tcp)) = packet.transport else { unreachable!() };
                tcp.source_port()
            })
            .collect();
        assert_eq!(ports, [1, 3, 9]);
        // From now on it may be the successor's own connection that it tells of.
        assert_eq!(relay.handle_parcel(&mut sent(1, &[]), t0), Fate::Passed);
    }
}

#[test]
fn a_farewell_lasts_a_while_from_when_the_successor_is_heard_and_is_bounded_whatever_is() {
    let t0 = origin();
    let mut farewell = Farewell::default();
    assert_eq!((farewell.errand(t0), farewell.poll_timeout(t0)), (None, None));
    farewell.handle_claim(NEXT, t0);
    assert_eq!(farewell.errand(t0), None, "who only hears of an owner has nothing to say farewell to");

    farewell.begin(t0);
    assert_eq!(farewell.errand(t0), Some(Errand { to: None, until: t0 + SUCCESSOR_WITHIN }));
    let heard = t0 + ms(3);
    farewell.handle_claim(NEXT, heard);
    let until = heard + FOLLOWS_FOR;
    assert_eq!(farewell.errand(heard), Some(Errand { to: Some(NEXT), until }));
    let spared = heard + SPARED_FOR;
    assert_eq!(farewell.poll_timeout(heard), Some(spared));
    assert!(farewell.spares(t0) && farewell.spares(heard) && !farewell.spares(spared));
    assert_eq!(farewell.poll_timeout(spared), Some(until));
    // The lead goes on to a third in the meantime.
    farewell.handle_claim(CLIENT, heard + ms(100));
    assert_eq!(farewell.errand(heard), Some(Errand { to: Some(CLIENT), until }));
    assert_eq!(farewell.errand(until), None);
    farewell.handle_claim(NEXT, until);
    assert_eq!(farewell.errand(until), None, "too late");

    farewell.begin(until);
    assert_eq!(farewell.errand(until).unwrap().to, None, "a new one knows nobody");
    farewell.end();
    assert!(!farewell.spares(until));
    assert_eq!((farewell.errand(until), farewell.poll_timeout(until)), (None, None));
}

proptest! {
    #[test]
    fn no_frame_panics_and_what_is_passed_keeps_its_length(
        mut parcel in prop::collection::vec(any::<u8>(), 0..200),
        shape in 0..4,
    ) {
        // Most random frames would be refused for their first octets.
        if shape > 0 && parcel.len() > OFFLOAD_LEN + 60 {
            let frame = &mut parcel[OFFLOAD_LEN..];
            frame[..6].copy_from_slice(&ME);
            frame[12..14].copy_from_slice(if shape == 1 { IPV4 } else { IPV6 });
            frame[14] = if shape == 1 { 0x45 } else { 0x60 };
            frame[30..34].copy_from_slice(&VIP);
            if shape == 2 {
                frame[38..54].copy_from_slice(&VIP6);
            }
        }
        let length = parcel.len();
        let t0 = origin();
        relay(None, t0).handle_parcel(&mut parcel.clone(), t0);
        relay(Some(NEXT), t0).handle_parcel(&mut parcel, t0);
        prop_assert_eq!(parcel.len(), length);
    }

    #[test]
    fn the_checksum_stays_right_whatever_the_header(id: u16, hops in 2_u8.., source: [u8; 4], length in 0_usize..100) {
        let builder = PacketBuilder::ethernet2(CLIENT, ME).ip(etherparse::IpHeaders::Ipv4(
            {
                let mut header = etherparse::Ipv4Header::new(0, hops, etherparse::IpNumber::TCP, source, VIP).unwrap();
                header.identification = id;
                header
            },
            etherparse::Ipv4Extensions::default(),
        ));
        let mut parcel = vec![0; OFFLOAD_LEN];
        builder.tcp(1, 2, 3, 4).write(&mut parcel, &vec![0; length]).unwrap();
        let t0 = origin();
        prop_assert_eq!(relay(Some(NEXT), t0).handle_parcel(&mut parcel, t0), Fate::Passed);
        let (header, _) = etherparse::Ipv4Header::from_slice(&parcel[OFFLOAD_LEN + ETHERNET_LEN..]).unwrap();
        prop_assert_eq!(header.header_checksum, header.calc_header_checksum());
    }
}

fn relay(to: Option<Mac>, now: Instant) -> Relay {
    Relay::new(ME, vec![VIP.into(), VIP6.into()], Errand { to, until: now + FOLLOWS_FOR })
}

/// The beginning of a connection, with an offload of some pattern.
fn syn(from: Mac, port: u16, hops: u8) -> Vec<u8> {
    let mut parcel: Vec<u8> = (0..10).collect();
    let builder =
        PacketBuilder::ethernet2(from, ME).ipv4([10, 0, 0, 9], VIP, hops).tcp(port, 8443, 7, 1000).syn();
    builder.write(&mut parcel, &[]).unwrap();
    parcel
}

/// A segment of a connection from this port.
fn segment(v6: bool, port: u16, data: &[u8], change: impl FnOnce(&mut etherparse::TcpHeader)) -> Vec<u8> {
    let mut tcp = etherparse::TcpHeader::new(port, 8443, 7, 1000);
    tcp.set_options_raw(&[1; 12]).unwrap();
    change(&mut tcp);
    let mut parcel = vec![0; OFFLOAD_LEN];
    let ethernet = PacketBuilder::ethernet2(CLIENT, ME);
    let ip = if v6 {
        let mut source = VIP6;
        source[15] = 9;
        ethernet.ipv6(source, VIP6, 64)
    } else {
        ethernet.ipv4([10, 0, 0, 9], VIP, 64)
    };
    ip.tcp_header(tcp).write(&mut parcel, data).unwrap();
    parcel
}

fn syn6(from: Mac, hops: u8) -> Vec<u8> {
    let mut parcel = vec![0; OFFLOAD_LEN];
    let mut source = VIP6;
    source[15] = 9;
    PacketBuilder::ethernet2(from, ME)
        .ipv6(source, VIP6, hops)
        .tcp(1, 8443, 7, 1000)
        .syn()
        .write(&mut parcel, &[])
        .unwrap();
    parcel
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// One instant for all tests of this process: some of them ask twice.
fn origin() -> Instant {
    use std::sync::LazyLock;
    #[expect(clippy::disallowed_methods, reason = "an origin to count from; nothing depends on its value")]
    static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    *ORIGIN
}
