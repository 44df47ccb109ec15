//! Which backend a client is meant for: the one of the highest weight for it (rendezvous hashing). Pure.
//!
//! A weight follows from the client's address and the backend's alone, so every vipd finds the same, at any time and in whatever order its
//! backends are listed; and when a backend goes or comes, only the clients that are meant for it move.

use std::net::{IpAddr, SocketAddr};

use crate::slow_start::WHOLE;

/// Keyed, so that the weights aren't those of anybody else's hash. Never to be changed: hosts of two releases must agree.
const KEY: [u64; 2] = [u64::from_le_bytes(*b"vipd sou"), u64::from_le_bytes(*b"rce hash")];

/// How much a backend is meant for a client.
pub(crate) fn weight(client: IpAddr, backend: SocketAddr) -> u64 {
    let mut message = [0; 34];
    message[..16].copy_from_slice(&octets(client));
    message[16..32].copy_from_slice(&octets(backend.ip()));
    message[32..].copy_from_slice(&backend.port().to_be_bytes());
    sip_hash(KEY, &message)
}

/// Of the [`WHOLE`] share of a backend, how much it must have to take the client of this weight: so, while the share grows,
/// each client comes to it once, and stays.
pub(crate) fn threshold(weight: u64) -> u32 {
    // The upper half decides which weight is the highest; the lower one has no part in that.
    let lower = weight & u64::from(u32::MAX);
    u32::try_from((lower * u64::from(WHOLE)) >> 32).unwrap_or(WHOLE)
}

/// All sixteen of an IPv6 address, since the clients of a cluster are often hosts of one /64. An IPv4 address is the same in both forms.
fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// SipHash-2-4 (Aumasson and Bernstein, “SipHash: a fast short-input PRF”, 2012). The standard library's own is deprecated, and the
/// algorithm of its default hasher may change.
fn sip_hash([k0, k1]: [u64; 2], message: &[u8]) -> u64 {
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let (words, rest) = message.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    // The lowest octet of the length.
    last[7] = message.len().to_le_bytes()[0];
    for word in words.iter().chain([&last]).map(|word| u64::from_le_bytes(*word)) {
        v[3] ^= word;
        rounds(&mut v, 2);
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    rounds(&mut v, 4);
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

fn rounds(v: &mut [u64; 4], count: u8) {
    for _ in 0..count {
        v[0] = v[0].wrapping_add(v[1]);
        v[2] = v[2].wrapping_add(v[3]);
        v[1] = v[1].rotate_left(13) ^ v[0];
        v[3] = v[3].rotate_left(16) ^ v[2];
        v[0] = v[0].rotate_left(32);
        v[2] = v[2].wrapping_add(v[1]);
        v[0] = v[0].wrapping_add(v[3]);
        v[1] = v[1].rotate_left(17) ^ v[2];
        v[3] = v[3].rotate_left(21) ^ v[0];
        v[2] = v[2].rotate_left(32);
    }
}

#[cfg(test)]
mod tests {
    use std::hash::Hasher as _;

    use proptest::prelude::*;

    use super::*;

    fn weight_of(client: &str, backend: &str) -> u64 {
        weight(client.parse().unwrap(), backend.parse().unwrap())
    }

    /// Those of the paper's appendix, and of its reference implementation.
    #[test]
    fn the_hash_is_that_of_the_paper() {
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        let message: Vec<u8> = (0..15).collect();
        assert_eq!(sip_hash(key, &message), 0xa129_ca61_49be_45e5);
        assert_eq!(sip_hash(key, &[]), 0x726f_db47_dd0e_0e31);
    }

    proptest! {
        #[test]
        fn the_hash_is_that_of_the_standard_library(
            keys in any::<[u64; 2]>(),
            message in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            #[expect(deprecated, reason = "a second implementation of the same algorithm")]
            let mut hasher = std::hash::SipHasher::new_with_keys(keys[0], keys[1]);
            hasher.write(&message);
            prop_assert_eq!(sip_hash(keys, &message), hasher.finish());
        }

        #[test]
        fn a_threshold_is_less_than_a_whole_share(weight in any::<u64>()) {
            prop_assert!(threshold(weight) < WHOLE);
        }
    }

    /// Computed apart, by a program in another language: hosts that run different releases send a client to the same backend.
    #[test]
    fn weights_are_what_they_always_were() {
        assert_eq!(weight_of("10.0.0.10", "10.0.0.163:6443"), 0x583f_735c_cee8_7003);
        assert_eq!(weight_of("fd00::10", "[fd00::163]:6443"), 0xaefa_2f5a_4131_d43b);
    }

    #[test]
    fn an_ipv4_address_is_the_same_in_both_forms_and_everything_else_counts() {
        let weight = weight_of("10.0.0.10", "10.0.0.163:6443");
        assert_eq!(weight_of("::ffff:10.0.0.10", "[::ffff:10.0.0.163]:6443"), weight);
        for (client, backend) in [
            ("10.0.0.11", "10.0.0.163:6443"),
            ("10.0.0.10", "10.0.0.164:6443"),
            ("10.0.0.10", "10.0.0.163:6444"),
        ] {
            assert_ne!(weight_of(client, backend), weight);
        }
        // Two hosts of one /64.
        assert_ne!(weight_of("fd00::1", "[fd00::163]:6443"), weight_of("fd00::2", "[fd00::163]:6443"));
    }
}
