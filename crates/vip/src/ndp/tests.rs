use super::*;
use etherparse::icmpv6::{Icmpv6PayloadSlice, NdpOptionSlice, NdpOptionsIterator};
use etherparse::{Icmpv6Type, NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;

const MAC: Mac = [0x02, 0, 0, 0, 0, 0x0a];
const VIP: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0x12, 0x3456);

#[test]
fn an_unsolicited_advertisement_overrides_and_carries_the_link_layer_address() {
    #[rustfmt::skip]
    let expected = [
        0x33, 0x33, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 0x0a, 0x86, 0xdd,
        0x60, 0, 0, 0, 0, 32, 58, 255,
        0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x12, 0x34, 0x56,
        0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
        136, 0, 0xf1, 0xc3, 0x20, 0, 0, 0,
        0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x12, 0x34, 0x56,
        2, 1, 0x02, 0, 0, 0, 0, 0x0a,
    ];

    assert_eq!(Repr::unsolicited_advertisement(MAC, VIP).emit(), expected);
}

#[test]
fn a_probe_goes_from_nowhere_to_the_solicited_node_group_without_an_option() {
    #[rustfmt::skip]
    let expected = [
        0x33, 0x33, 0xff, 0x12, 0x34, 0x56, 0x02, 0, 0, 0, 0, 0x0a, 0x86, 0xdd,
        0x60, 0, 0, 0, 0, 24, 58, 255,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0x12, 0x34, 0x56,
        135, 0, 0x14, 0xd7, 0, 0, 0, 0,
        0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x12, 0x34, 0x56,
    ];

    assert_eq!(Repr::probe(MAC, VIP).emit(), expected);
}

#[test]
fn what_rfc_4861_forbids_to_take_is_refused() {
    let frame = Repr::unsolicited_advertisement(MAC, VIP).emit();
    let cases: [(&str, usize, u8); 6] = [
        ("another ethertype", 12, 0x08),
        ("IP version 4", 14, 0x40),
        ("another protocol", 20, 17),
        ("a hop limit that has passed a router", 21, 254),
        ("a payload longer than the frame", 19, 33),
        ("a wrong checksum", 56, 0xff),
    ];
    for (what, at, value) in cases {
        let mut other = frame.clone();
        other[at] = value;
        assert_eq!(Repr::parse(&other), None, "{what}");
    }

    let with_checksum = [
        ("a router advertisement", 54, 134),
        ("code 1", 55, 1),
        ("a multicast target", 62, 0xff),
        ("an option of length 0", 79, 0),
        ("an option longer than the message", 79, 2),
    ];
    for (what, at, value) in with_checksum {
        let mut other = frame.clone();
        other[at] = value;
        assert_eq!(Repr::parse(&checksummed(other)), None, "{what}");
    }
}

#[test]
fn a_question_by_an_own_address_says_where_the_answer_goes() {
    let own: Ipv6Addr = "fe80::5".parse().unwrap();
    let asked = Repr::parse(&Repr::solicitation(MAC, own, VIP).emit()).unwrap();
    assert_eq!((asked.source, asked.source_mac), (own, MAC));
    assert_eq!(asked.message, Message::Solicitation { target: VIP, link_layer: Some(MAC) });
    assert_eq!(asked.destination, Repr::probe(MAC, VIP).destination, "its own group is asked");
}

#[test]
fn a_cut_frame_is_refused_at_every_length() {
    let frame = Repr::unsolicited_advertisement(MAC, VIP).emit();
    for len in 0..frame.len() {
        assert_eq!(Repr::parse(&frame[..len]), None, "cut to {len} octets");
    }
}

#[test]
fn unknown_options_are_passed_over_even_when_they_are_very_long() {
    let repr = Repr::unsolicited_advertisement(MAC, VIP);
    let mut frame = repr.emit();
    let known = frame.split_off(78);
    let mut unknown = vec![0; 32 * 8];
    unknown[..2].copy_from_slice(&[0xfd, 32]);
    frame.extend(unknown);
    frame.extend(known);
    let payload = u16::try_from(frame.len() - 54).unwrap();
    frame[18..20].copy_from_slice(&payload.to_be_bytes());

    assert_eq!(Repr::parse(&checksummed(frame)), Some(repr));
}

fn reprs() -> impl Strategy<Value = Repr> {
    let target = any::<Ipv6Addr>().prop_filter("a target is unicast", |ip| !ip.is_multicast());
    let link_layer = any::<Option<Mac>>();
    let message =
        (target, any::<[bool; 4]>(), link_layer).prop_map(|(target, flags, link_layer)| match flags {
            [false, ..] => Message::Solicitation { target, link_layer },
            [true, router, solicited, replace] => {
                Message::Advertisement { target, router, solicited, replace, link_layer }
            }
        });
    (any::<Mac>(), any::<Mac>(), any::<Ipv6Addr>(), any::<Ipv6Addr>(), message).prop_map(
        |(source_mac, destination_mac, source, destination, message)| Repr {
            source_mac,
            destination_mac,
            source,
            destination,
            message,
        },
    )
}

proptest! {
    #[test]
    fn a_frame_reads_back_as_what_was_written(repr in reprs()) {
        prop_assert_eq!(Repr::parse(&repr.emit()), Some(repr));
    }

    #[test]
    fn another_decoder_reads_the_same(repr in reprs()) {
        let frame = repr.emit();
        let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(NetSlice::Ipv6(ip)) = &sliced.net else { panic!("not IPv6: {sliced:?}") };
        let Some(TransportSlice::Icmpv6(icmp)) = &sliced.transport else { panic!("not ICMPv6: {sliced:?}") };

        prop_assert_eq!(ip.header().hop_limit(), 255);
        prop_assert!(icmp.is_checksum_valid(repr.source.octets(), repr.destination.octets()));
        let payload = icmp.payload_slice().unwrap();
        let (target, options) = match (icmp.icmp_type(), &payload, repr.message) {
            (
                Icmpv6Type::NeighborSolicitation,
                Icmpv6PayloadSlice::NeighborSolicitation(slice),
                Message::Solicitation { .. },
            ) => (slice.target_address(), slice.options()),
            (
                Icmpv6Type::NeighborAdvertisement(header),
                Icmpv6PayloadSlice::NeighborAdvertisement(slice),
                Message::Advertisement { router, solicited, replace, .. },
            ) => {
                prop_assert_eq!((header.router, header.solicited, header.r#override), (router, solicited, replace));
                (slice.target_address(), slice.options())
            }
            other => panic!("another message: {other:?}"),
        };
        prop_assert_eq!(target, repr.message.target());
        let read: Vec<_> = NdpOptionsIterator::from_slice(options).map(Result::unwrap).collect();
        match (&read[..], repr.message) {
            ([], Message::Solicitation { link_layer: None, .. } | Message::Advertisement { link_layer: None, .. }) => {}
            (
                [NdpOptionSlice::SourceLinkLayerAddress(option)],
                Message::Solicitation { link_layer: Some(mac), .. },
            ) => prop_assert_eq!(option.link_layer_address(), mac),
            (
                [NdpOptionSlice::TargetLinkLayerAddress(option)],
                Message::Advertisement { link_layer: Some(mac), .. },
            ) => prop_assert_eq!(option.link_layer_address(), mac),
            other => panic!("other options: {other:?}"),
        }
    }

    #[test]
    fn no_input_panics(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Repr::parse(&bytes);
    }

    #[test]
    fn no_changed_octet_panics(repr in reprs(), at: prop::sample::Index, value: u8, fix: bool) {
        let mut frame = repr.emit();
        let at = at.index(frame.len());
        frame[at] = value;
        let _ = Repr::parse(&if fix { checksummed(frame) } else { frame });
    }

    #[test]
    fn no_options_panic(options in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = link_layer(&options, TARGET_LINK_LAYER);
    }
}

fn checksummed(mut frame: Vec<u8>) -> Vec<u8> {
    let ip = Ipv6Packet::new(&frame[14..]).unwrap();
    let (source, destination) = (ip.get_source(), ip.get_destination());
    let mut icmp = MutableIcmpv6Packet::new(&mut frame[54..]).unwrap();
    icmp.set_checksum(checksum(&icmp.to_immutable(), &source, &destination));
    frame
}
