//! Programs for the kernel's packet filter (classic BPF), so that a busy segment wakes nobody.
//!
//! The offsets count from the Ethernet header. The kernel takes a VLAN tag off before.

use crate::address::Address;
use std::net::{IpAddr, Ipv6Addr};

/// One instruction, as the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    code: u16,
    if_true: u8,
    if_false: u8,
    value: u32,
}

/// What to listen for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// ARP packets, of either operation, whose sender has one of the IPv4 addresses.
    Arp,
    /// Neighbour advertisements for one of the IPv6 addresses.
    NeighborDiscovery,
}

impl Protocol {
    /// Returns the ethertype that carries it.
    pub(crate) fn ethertype(self) -> u16 {
        match self {
            Self::Arp => 0x0806,
            Self::NeighborDiscovery => 0x86dd,
        }
    }

    /// Returns the protocol that tells who has this address.
    pub(crate) fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::Arp,
            IpAddr::V6(_) => Self::NeighborDiscovery,
        }
    }

    /// Returns a program that accepts nothing but what is said by stations with these addresses, and what is asked for them.
    pub(crate) fn about(self, addresses: &[IpAddr]) -> Vec<Instruction> {
        let mut program = Vec::new();
        match self {
            Self::Arp => {
                for address in addresses {
                    if let IpAddr::V4(ip) = address {
                        accept_if(&mut program, ARP_SENDER_IP, &[u32::from(*ip)]);
                        accept_if(&mut program, ARP_TARGET_IP, &[u32::from(*ip)]);
                    }
                }
            }
            Self::NeighborDiscovery => {
                program.extend(Instruction::refuse_unless_octet(IPV6_NEXT_HEADER, ICMPV6));
                // Solicitations and advertisements have their target at the same place.
                let [load, is_solicitation, refuse] =
                    Instruction::refuse_unless_octet(ICMPV6_TYPE, NEIGHBOR_SOLICITATION);
                let [_, is_advertisement, _] =
                    Instruction::refuse_unless_octet(ICMPV6_TYPE, NEIGHBOR_ADVERTISEMENT);
                program.extend([
                    load,
                    Instruction { if_true: 2, ..is_solicitation },
                    is_advertisement,
                    refuse,
                ]);
                for address in addresses {
                    if let IpAddr::V6(ip) = address {
                        accept_if(&mut program, ADVERTISED_TARGET, &words(*ip));
                    }
                }
            }
        }
        program.push(Instruction::REFUSE);
        program
    }

    /// Returns a program that accepts nothing but claims of these addresses.
    pub(crate) fn claims(self, addresses: &[Address]) -> Vec<Instruction> {
        let mut program = Vec::new();
        match self {
            Self::Arp => {
                for address in addresses {
                    if let IpAddr::V4(ip) = address.ip {
                        accept_if(&mut program, ARP_SENDER_IP, &[u32::from(ip)]);
                    }
                }
            }
            Self::NeighborDiscovery => {
                program.extend(Instruction::refuse_unless_octet(IPV6_NEXT_HEADER, ICMPV6));
                program.extend(Instruction::refuse_unless_octet(ICMPV6_TYPE, NEIGHBOR_ADVERTISEMENT));
                for address in addresses {
                    if let IpAddr::V6(ip) = address.ip {
                        accept_if(&mut program, ADVERTISED_TARGET, &words(ip));
                    }
                }
            }
        }
        program.push(Instruction::REFUSE);
        program
    }
}

/// Returns a program that accepts nothing but packets of one family for these addresses, if they were sent to this station alone.
pub(crate) fn packets_for(ipv4: bool, addresses: &[Address]) -> Vec<Instruction> {
    let mut program = Vec::from(Instruction::refuse_unless_octet(PACKET_TYPE, TO_THIS_HOST));
    for address in addresses.iter().filter(|address| address.ip.is_ipv4() == ipv4) {
        match address.ip {
            IpAddr::V4(ip) => accept_if(&mut program, IPV4_DESTINATION, &[u32::from(ip)]),
            IpAddr::V6(ip) => accept_if(&mut program, IPV6_DESTINATION, &words(ip)),
        }
    }
    program.push(Instruction::REFUSE);
    program
}

impl Instruction {
    const REFUSE: Self = Self { code: RETURN, if_true: 0, if_false: 0, value: 0 };
    const ACCEPT: Self = Self { code: RETURN, if_true: 0, if_false: 0, value: u32::MAX };

    /// The form in which a socket takes it.
    pub(crate) fn to_socket(self) -> socket2::SockFilter {
        socket2::SockFilter::new(self.code, self.if_true, self.if_false, self.value)
    }

    fn refuse_unless_octet(at: u32, value: u32) -> [Self; 3] {
        [
            Self { code: LOAD_OCTET, if_true: 0, if_false: 0, value: at },
            Self { code: JUMP_IF_EQUAL, if_true: 1, if_false: 0, value },
            Self::REFUSE,
        ]
    }
}

/// Appends a block that accepts if the words at this offset are these, and falls through if not.
fn accept_if(program: &mut Vec<Instruction>, at: u32, words: &[u32]) {
    let mut offset = at;
    // Behind each comparison: the rest of the block, two instructions a word and the acceptance.
    let mut rest = u8::try_from(words.len() * 2).expect("an address has at most four words");
    for word in words {
        rest -= 1;
        program.push(Instruction { code: LOAD_WORD, if_true: 0, if_false: 0, value: offset });
        program.push(Instruction { code: JUMP_IF_EQUAL, if_true: 0, if_false: rest, value: *word });
        rest -= 1;
        offset += 4;
    }
    program.push(Instruction::ACCEPT);
}

/// The address as the filter compares it.
fn words(ip: Ipv6Addr) -> [u32; 4] {
    let bits = u128::from(ip);
    [96, 64, 32, 0].map(|shift| u32::try_from((bits >> shift) & u128::from(u32::MAX)).expect("it is masked"))
}

const LOAD_WORD: u16 = 0x20;
const LOAD_OCTET: u16 = 0x30;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

const ARP_SENDER_IP: u32 = 28;
const ARP_TARGET_IP: u32 = 38;
const IPV6_NEXT_HEADER: u32 = 20;
const ICMPV6: u32 = 58;
const ICMPV6_TYPE: u32 = 54;
const NEIGHBOR_SOLICITATION: u32 = 135;
const NEIGHBOR_ADVERTISEMENT: u32 = 136;
const ADVERTISED_TARGET: u32 = 62;
const IPV4_DESTINATION: u32 = 30;
const IPV6_DESTINATION: u32 = 38;

/// Where the kernel shows a program to whom a frame was sent, beyond all octets of it (`SKF_AD_OFF` and `SKF_AD_PKTTYPE`).
const PACKET_TYPE: u32 = 0xffff_f004;
/// `PACKET_HOST`: to this station, and neither to all, nor to another by a card that hears everything.
const TO_THIS_HOST: u32 = 0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{arp, ndp};
    use std::net::Ipv4Addr;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    #[test]
    fn claims_of_the_addresses_pass_and_no_other_arp_does() {
        let program = Protocol::Arp.claims(&addresses());
        let (mine, other) = (Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 3));

        assert!(accepts(&program, &arp::Repr::gratuitous_request(MAC, mine).emit()));
        assert!(accepts(&program, &arp::Repr::gratuitous_reply(MAC, mine).emit()));
        assert!(accepts(&program, &arp::Repr::gratuitous_reply(MAC, Ipv4Addr::new(10, 0, 0, 1)).emit()));
        assert!(!accepts(&program, &arp::Repr::gratuitous_reply(MAC, other).emit()));
        let question = arp::Repr { sender_ip: other, ..arp::Repr::gratuitous_request(MAC, mine) };
        assert!(!accepts(&program, &question.emit()), "who asks for it doesn't claim it");
        assert!(!accepts(&program, &[0; 20]), "too short");
    }

    #[test]
    fn advertisements_of_the_addresses_pass_and_no_other_ipv6_does() {
        let program = Protocol::NeighborDiscovery.claims(&addresses());
        let mine = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);

        assert!(accepts(&program, &ndp::Repr::unsolicited_advertisement(MAC, mine).emit()));
        for segment in 0..8 {
            let mut segments = mine.segments();
            segments[segment] ^= 4;
            let other = ndp::Repr::unsolicited_advertisement(MAC, segments.into());
            assert!(!accepts(&program, &other.emit()), "differs in segment {segment}");
        }
        assert!(!accepts(&program, &ndp::Repr::probe(MAC, mine).emit()));
        let mut tcp = ndp::Repr::unsolicited_advertisement(MAC, mine).emit();
        tcp[20] = 6;
        assert!(!accepts(&program, &tcp));
    }

    #[test]
    fn what_is_about_the_addresses_passes_both_ways() {
        let (mine, other) = (Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 3));
        let arp = Protocol::Arp.about(&[Ipv4Addr::new(10, 0, 0, 1).into(), mine.into()]);
        assert!(accepts(&arp, &arp::Repr::probe(MAC, mine).emit()), "who asks for it");
        assert!(accepts(
            &arp,
            &arp::Repr { target_ip: other, ..arp::Repr::gratuitous_reply(MAC, mine) }.emit()
        ));
        assert!(!accepts(&arp, &arp::Repr::probe(MAC, other).emit()));

        let mine = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
        let nd = Protocol::NeighborDiscovery.about(&[mine.into()]);
        assert!(accepts(&nd, &ndp::Repr::probe(MAC, mine).emit()));
        assert!(accepts(&nd, &ndp::Repr::unsolicited_advertisement(MAC, mine).emit()));
        assert!(!accepts(&nd, &ndp::Repr::probe(MAC, Ipv6Addr::LOCALHOST).emit()));
        let mut echo = ndp::Repr::probe(MAC, mine).emit();
        echo[54] = 128;
        assert!(!accepts(&nd, &echo));
    }

    #[test]
    fn without_an_address_of_the_family_nothing_passes() {
        let v4 = [Address::host(Ipv4Addr::new(10, 0, 0, 1).into())];

        assert_eq!(Protocol::Arp.claims(&[]), [Instruction::REFUSE]);
        let program = Protocol::NeighborDiscovery.claims(&v4);
        let frame = ndp::Repr::unsolicited_advertisement(MAC, Ipv6Addr::LOCALHOST).emit();
        assert!(!accepts(&program, &frame));
    }

    #[test]
    fn packets_for_the_addresses_pass_if_they_were_sent_to_this_host() {
        let packet = |v4: [u8; 4], v6: Option<Ipv6Addr>| {
            let mut frame = vec![0; 54];
            frame[30..34].copy_from_slice(&v4);
            if let Some(ip) = v6 {
                frame[38..54].copy_from_slice(&ip.octets());
            }
            frame
        };
        let v4 = packets_for(true, &addresses());
        assert!(accepts_from(&v4, 0, &packet([10, 0, 0, 1], None)));
        assert!(accepts_from(&v4, 0, &packet([10, 0, 0, 2], None)));
        assert!(!accepts_from(&v4, 0, &packet([10, 0, 0, 3], None)));
        assert!(!accepts_from(&v4, 0, &[0; 33]), "too short");
        let v6 = packets_for(false, &addresses());
        for ip in ["fd00::1", "fd00::2"] {
            assert!(accepts_from(&v6, 0, &packet([0; 4], Some(ip.parse().unwrap()))));
        }
        assert!(!accepts_from(&v6, 0, &packet([10, 0, 0, 1], Some("fd00::3".parse().unwrap()))));
        for other_type in 1..5 {
            assert!(
                !accepts_from(&v4, other_type, &packet([10, 0, 0, 1], None)),
                "broadcast, multicast, another's"
            );
        }
        assert!(!accepts_from(&packets_for(true, &[]), 0, &packet([10, 0, 0, 1], None)));
    }

    fn addresses() -> [Address; 4] {
        ["10.0.0.1", "fd00::1", "10.0.0.2/24", "fd00::2/64"].map(|text| text.parse().unwrap())
    }

    /// Runs a program as the kernel does: a load beyond the frame refuses it.
    fn accepts(program: &[Instruction], frame: &[u8]) -> bool {
        accepts_from(program, 0, frame)
    }

    /// The same for a frame that the kernel says was sent to these.
    fn accepts_from(program: &[Instruction], packet_type: u32, frame: &[u8]) -> bool {
        let mut accumulator = 0;
        let mut counter = 0;
        loop {
            let instruction = program[counter];
            let at = instruction.value as usize;
            counter += 1;
            match instruction.code {
                LOAD_OCTET if instruction.value == PACKET_TYPE => accumulator = packet_type,
                LOAD_OCTET => match frame.get(at) {
                    Some(octet) => accumulator = u32::from(*octet),
                    None => return false,
                },
                LOAD_WORD => match frame.get(at..at + 4) {
                    Some(word) => accumulator = u32::from_be_bytes(word.try_into().unwrap()),
                    None => return false,
                },
                JUMP_IF_EQUAL => {
                    let equal = accumulator == instruction.value;
                    counter += usize::from(if equal { instruction.if_true } else { instruction.if_false });
                }
                RETURN => return instruction.value > 0,
                other => panic!("unknown instruction {other:#x}"),
            }
        }
    }
}
