//! Programs for the kernel's packet filter (classic BPF), so that a busy segment wakes nobody.
//!
//! The offsets count from the Ethernet header. The kernel takes a VLAN tag off before.

use crate::address::Address;
use std::net::IpAddr;

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
                        let bits = u128::from(ip);
                        let words = [96, 64, 32, 0].map(|shift| {
                            u32::try_from((bits >> shift) & u128::from(u32::MAX)).expect("it is masked")
                        });
                        accept_if(&mut program, ADVERTISED_TARGET, &words);
                    }
                }
            }
        }
        program.push(Instruction::REFUSE);
        program
    }
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

const LOAD_WORD: u16 = 0x20;
const LOAD_OCTET: u16 = 0x30;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

const ARP_SENDER_IP: u32 = 28;
const IPV6_NEXT_HEADER: u32 = 20;
const ICMPV6: u32 = 58;
const ICMPV6_TYPE: u32 = 54;
const NEIGHBOR_ADVERTISEMENT: u32 = 136;
const ADVERTISED_TARGET: u32 = 62;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{arp, ndp};
    use std::net::{Ipv4Addr, Ipv6Addr};

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
    fn without_an_address_of_the_family_nothing_passes() {
        let v4 = [Address::host(Ipv4Addr::new(10, 0, 0, 1).into())];

        assert_eq!(Protocol::Arp.claims(&[]), [Instruction::REFUSE]);
        let program = Protocol::NeighborDiscovery.claims(&v4);
        let frame = ndp::Repr::unsolicited_advertisement(MAC, Ipv6Addr::LOCALHOST).emit();
        assert!(!accepts(&program, &frame));
    }

    fn addresses() -> [Address; 4] {
        ["10.0.0.1", "fd00::1", "10.0.0.2/24", "fd00::2/64"].map(|text| text.parse().unwrap())
    }

    /// Runs a program as the kernel does: a load beyond the frame refuses it.
    fn accepts(program: &[Instruction], frame: &[u8]) -> bool {
        let mut accumulator = 0;
        let mut counter = 0;
        loop {
            let instruction = program[counter];
            let at = instruction.value as usize;
            counter += 1;
            match instruction.code {
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
