use super::*;
use etherparse::{ArpHardwareId, EtherType, NetSlice, SlicedPacket};
use proptest::prelude::*;

const MAC: Mac = [0x02, 0, 0, 0, 0, 0x0a];
const VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 162);

#[test]
fn a_gratuitous_request_has_an_empty_target_hardware_address() {
    #[rustfmt::skip]
    let expected = [
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0, 0, 0, 0, 0x0a, 0x08, 0x06,
        0, 1, 0x08, 0, 6, 4, 0, 1,
        0x02, 0, 0, 0, 0, 0x0a, 10, 0, 0, 162,
        0, 0, 0, 0, 0, 0, 10, 0, 0, 162,
    ];

    assert_eq!(Repr::gratuitous_request(MAC, VIP).emit(), expected);
}

#[test]
fn a_gratuitous_reply_names_the_sender_as_target() {
    #[rustfmt::skip]
    let expected = [
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0, 0, 0, 0, 0x0a, 0x08, 0x06,
        0, 1, 0x08, 0, 6, 4, 0, 2,
        0x02, 0, 0, 0, 0, 0x0a, 10, 0, 0, 162,
        0x02, 0, 0, 0, 0, 0x0a, 10, 0, 0, 162,
    ];

    assert_eq!(Repr::gratuitous_reply(MAC, VIP).emit(), expected);
}

#[test]
fn a_probe_has_no_sender_address() {
    #[rustfmt::skip]
    let expected = [
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0, 0, 0, 0, 0x0a, 0x08, 0x06,
        0, 1, 0x08, 0, 6, 4, 0, 1,
        0x02, 0, 0, 0, 0, 0x0a, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 10, 0, 0, 162,
    ];

    assert_eq!(Repr::probe(MAC, VIP).emit(), expected);
}

#[test]
fn frames_that_are_not_arp_for_ipv4_over_ethernet_are_refused() {
    let frame = Repr::gratuitous_request(MAC, VIP).emit();
    // Ethertype, hardware type, protocol type, the two lengths, the operation.
    for (at, value) in [(13, 0x00), (15, 6), (16, 0x86), (18, 8), (19, 16), (21, 3), (20, 1)] {
        let mut other = frame;
        other[at] = value;
        assert_eq!(Repr::parse(&other), None, "with octet {at} = {value}");
    }
    for len in 0..FRAME_LEN {
        assert_eq!(Repr::parse(&frame[..len]), None, "cut to {len} octets");
    }
}

#[test]
fn padding_behind_the_packet_is_ignored() {
    let mut frame = Repr::probe(MAC, VIP).emit().to_vec();
    frame.resize(60, 0x5a);

    assert_eq!(Repr::parse(&frame), Some(Repr::probe(MAC, VIP)));
}

fn reprs() -> impl Strategy<Value = Repr> {
    let operation = prop_oneof![Just(Operation::Request), Just(Operation::Reply)];
    let macs = (any::<Mac>(), any::<Mac>(), any::<Mac>(), any::<Mac>());
    (operation, macs, any::<Ipv4Addr>(), any::<Ipv4Addr>()).prop_map(
        |(operation, macs, sender_ip, target_ip)| {
            let (source, destination, sender_mac, target_mac) = macs;
            Repr { source, destination, operation, sender_mac, sender_ip, target_mac, target_ip }
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
        let Some(NetSlice::Arp(arp)) = sliced.net else { panic!("not ARP: {sliced:?}") };

        prop_assert_eq!(arp.hw_addr_type(), ArpHardwareId::ETHERNET);
        prop_assert_eq!(arp.proto_addr_type(), EtherType::IPV4);
        prop_assert_eq!(arp.operation().0, repr.operation.to_wire().0);
        prop_assert_eq!(arp.sender_hw_addr(), repr.sender_mac);
        prop_assert_eq!(arp.sender_protocol_addr(), repr.sender_ip.octets());
        prop_assert_eq!(arp.target_hw_addr(), repr.target_mac);
        prop_assert_eq!(arp.target_protocol_addr(), repr.target_ip.octets());
    }

    #[test]
    fn no_input_panics_and_what_is_read_is_written_back(bytes in prop::collection::vec(any::<u8>(), 0..90)) {
        if let Some(repr) = Repr::parse(&bytes) {
            prop_assert_eq!(&repr.emit()[..], &bytes[..FRAME_LEN]);
        }
    }

    #[test]
    fn no_changed_octet_panics(repr in reprs(), at in 0..FRAME_LEN, value: u8) {
        let mut frame = repr.emit();
        frame[at] = value;
        if let Some(read) = Repr::parse(&frame) {
            prop_assert_eq!(read.emit(), frame);
        }
    }
}
