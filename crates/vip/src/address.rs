//! A virtual IP address with its prefix, as a user writes it and as the kernel holds it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A hardware address of an Ethernet interface, in the order in which it stands on the wire.
pub type Mac = [u8; 6];

/// A hardware address as operators write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Station(pub Mac);

impl fmt::Display for Station {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// One virtual IP address and the length of its prefix.
///
/// [`FromStr`] is the door for what users write, and it refuses whatever can't be a virtual IP. The
/// fields are public because the kernel's own addresses, which follow no such rule, are listed in the same type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// The address itself.
    pub ip: IpAddr,
    /// Length of the prefix in bits: at most 32 for IPv4, 128 for IPv6.
    pub prefix: u8,
}

/// Why a text is no virtual IP address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The part before the slash is no IP address.
    #[error("'{0}' is not an IP address")]
    NotAnAddress(String),
    /// The part after the slash is no number, or a number that the family doesn't have.
    #[error("'{text}' is not a prefix length: {ip} takes 1 to {most}")]
    Prefix {
        /// The address before the slash.
        ip: IpAddr,
        /// What stands after the slash.
        text: String,
        /// The longest prefix of the family.
        most: u8,
    },
    /// The address has a meaning that keeps it from being owned by one node and reached by others.
    #[error("{ip} can't be a virtual IP: {reason}")]
    Unfit {
        /// The address.
        ip: IpAddr,
        /// What it is instead.
        reason: &'static str,
    },
}

impl Address {
    /// The address with the prefix that covers nothing but itself: /32 or /128.
    #[must_use]
    pub fn host(ip: IpAddr) -> Self {
        Self { ip, prefix: longest_prefix(ip) }
    }

    /// Whether an address is in the subnet of this one.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        let (own, other, width) = match (self.ip, ip) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => (u128::from(own.to_bits()), u128::from(ip.to_bits()), 32),
            (IpAddr::V6(own), IpAddr::V6(ip)) => (own.to_bits(), ip.to_bits(), 128),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
        };
        let host_bits = width - u32::from(self.prefix).min(width);
        (own ^ other).checked_shr(host_bits).unwrap_or(0) == 0
    }
}

impl FromStr for Address {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (ip, prefix) = match text.split_once('/') {
            Some((ip, prefix)) => (ip, Some(prefix)),
            None => (text, None),
        };
        let ip: IpAddr = ip.parse().map_err(|_| ParseError::NotAnAddress(ip.to_owned()))?;
        let most = longest_prefix(ip);
        let prefix = match prefix {
            None => most,
            Some(digits) => digits
                .parse()
                .ok()
                .filter(|prefix| (1..=most).contains(prefix))
                .ok_or_else(|| ParseError::Prefix { ip, text: digits.to_owned(), most })?,
        };
        let unfit = match ip {
            IpAddr::V4(ip) => unfit_v4(ip, prefix),
            IpAddr::V6(ip) => unfit_v6(ip),
        };
        match unfit {
            Some(reason) => Err(ParseError::Unfit { ip, reason }),
            None => Ok(Self { ip, prefix }),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

fn longest_prefix(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn unfit_v4(ip: Ipv4Addr, prefix: u8) -> Option<&'static str> {
    if ip.octets()[0] == 0 {
        return Some("it is unspecified (0.0.0.0/8 means this host)");
    }
    if ip.is_loopback() {
        return Some("it is a loopback address");
    }
    if ip.is_multicast() {
        return Some("it is a multicast address");
    }
    if ip.is_broadcast() {
        return Some("it is the broadcast address");
    }
    // RFC 3021: a /31 has neither network nor broadcast address, and a /32 has no subnet at all.
    if prefix < 31 {
        let hosts = u32::MAX >> prefix;
        match u32::from(ip) & hosts {
            0 => return Some("it is the network address of its prefix"),
            all if all == hosts => return Some("it is the broadcast address of its prefix"),
            _ => {}
        }
    }
    None
}

fn unfit_v6(ip: Ipv6Addr) -> Option<&'static str> {
    if ip.is_unspecified() {
        return Some("it is the unspecified address");
    }
    if ip.is_loopback() {
        return Some("it is the loopback address");
    }
    if ip.is_multicast() {
        return Some("it is a multicast address");
    }
    if ip.to_ipv4_mapped().is_some() {
        return Some("it is an IPv4-mapped address: write the IPv4 address");
    }
    if ip.is_unicast_link_local() {
        return Some("it is a link-local address, which needs a zone to be reached");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_address_without_prefix_covers_only_itself() {
        assert_eq!("10.0.0.162".parse::<Address>().unwrap().to_string(), "10.0.0.162/32");
        assert_eq!("fd00::162".parse::<Address>().unwrap().to_string(), "fd00::162/128");
    }

    #[test]
    fn a_hardware_address_reads_as_other_programs_write_it() {
        assert_eq!(Station([0x02, 0, 0xab, 0xcd, 0xef, 0x0a]).to_string(), "02:00:ab:cd:ef:0a");
    }

    #[test]
    fn a_written_prefix_is_kept() {
        let address: Address = "10.0.0.162/24".parse().unwrap();
        assert_eq!(address, Address { ip: "10.0.0.162".parse().unwrap(), prefix: 24 });
        assert_eq!("fd00:0::162/64".parse::<Address>().unwrap().to_string(), "fd00::162/64");
    }

    #[test]
    fn subnets_contain_their_addresses_and_no_others() {
        let own = |text: &str| text.parse::<Address>().unwrap();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(own("10.0.0.163/24").contains(ip("10.0.0.162")));
        assert!(!own("10.0.0.163/24").contains(ip("10.0.1.162")));
        assert!(own("10.0.0.163/32").contains(ip("10.0.0.163")));
        assert!(!own("10.0.0.163/32").contains(ip("10.0.0.162")));
        assert!(own("fd00::163/64").contains(ip("fd00::162")));
        assert!(!own("fd00::163/64").contains(ip("fd01::162")));
        assert!(!own("10.0.0.163/24").contains(ip("fd00::162")));
    }

    #[test]
    fn the_two_addresses_of_a_31_are_hosts() {
        assert!("10.0.0.0/31".parse::<Address>().is_ok());
        assert!("10.0.0.1/31".parse::<Address>().is_ok());
    }

    #[test]
    fn what_cannot_be_a_virtual_ip_is_refused_with_its_reason() {
        let cases = [
            ("", "'' is not an IP address"),
            ("10.0.0", "'10.0.0' is not an IP address"),
            ("node-1/24", "'node-1' is not an IP address"),
            ("fe80::1%eth0", "'fe80::1%eth0' is not an IP address"),
            ("10.0.0.1/33", "'33' is not a prefix length: 10.0.0.1 takes 1 to 32"),
            ("10.0.0.1/0", "'0' is not a prefix length: 10.0.0.1 takes 1 to 32"),
            ("10.0.0.1/", "'' is not a prefix length: 10.0.0.1 takes 1 to 32"),
            ("fd00::1/129", "'129' is not a prefix length: fd00::1 takes 1 to 128"),
            ("10.0.0.1/24/24", "'24/24' is not a prefix length: 10.0.0.1 takes 1 to 32"),
            ("0.0.0.0", "0.0.0.0 can't be a virtual IP: it is unspecified (0.0.0.0/8 means this host)"),
            ("127.0.0.2", "127.0.0.2 can't be a virtual IP: it is a loopback address"),
            ("224.0.0.18", "224.0.0.18 can't be a virtual IP: it is a multicast address"),
            ("255.255.255.255", "255.255.255.255 can't be a virtual IP: it is the broadcast address"),
            ("10.0.0.255/24", "10.0.0.255 can't be a virtual IP: it is the broadcast address of its prefix"),
            ("10.0.0.0/24", "10.0.0.0 can't be a virtual IP: it is the network address of its prefix"),
            ("::", ":: can't be a virtual IP: it is the unspecified address"),
            ("::1", "::1 can't be a virtual IP: it is the loopback address"),
            ("ff02::1", "ff02::1 can't be a virtual IP: it is a multicast address"),
            (
                "::ffff:10.0.0.1",
                "::ffff:10.0.0.1 can't be a virtual IP: it is an IPv4-mapped address: write the IPv4 address",
            ),
            (
                "fe80::1/64",
                "fe80::1 can't be a virtual IP: it is a link-local address, which needs a zone to be reached",
            ),
        ];

        for (text, expected) in cases {
            assert_eq!(text.parse::<Address>().unwrap_err().to_string(), expected, "for {text:?}");
        }
    }

    proptest! {
        #[test]
        fn an_accepted_address_reads_back_as_itself(bytes: [u8; 16], v6: bool, prefix in 0_u8..=130) {
            let ip = if v6 {
                IpAddr::from(bytes)
            } else {
                IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]])
            };
            if let Ok(address) = format!("{ip}/{prefix}").parse::<Address>() {
                prop_assert_eq!(address.to_string().parse::<Address>(), Ok(address));
            }
        }

        #[test]
        fn no_text_panics(text: String) {
            let _ = text.parse::<Address>();
        }
    }
}
