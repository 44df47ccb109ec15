//! Which backend has which slot: the kernel numbers connections, and a table says whose number it is.

use std::net::{Ipv6Addr, SocketAddr};

use crate::source_hash;

/// Slots of a table for [`by_source`]. Among three backends, none has its share by more than a few in a hundred.
pub(crate) const BY_SOURCE: usize = 1021;

/// Slots that are taken one after the other: as many to each as its weight, spread evenly.
///
/// Every turn each backend gains its weight, and the slot goes to the one that has gained most and loses the sum of all for it
/// (nginx calls this smooth weighted round robin). None has a slot whose weight is 0.
pub(crate) fn in_turn(backends: &[(SocketAddr, u32)]) -> Vec<SocketAddr> {
    let total: u32 = backends.iter().map(|(_, weight)| weight).sum();
    let mut gained = vec![0_i64; backends.len()];
    let mut slots = Vec::new();
    for _ in 0..total {
        for (gain, (_, weight)) in gained.iter_mut().zip(backends) {
            *gain += i64::from(*weight);
        }
        // The first of those that have most, so that the order of the configuration is that of the slots.
        let chosen = (0..gained.len()).rev().max_by_key(|place| gained[*place]);
        let Some(chosen) = chosen else { break };
        gained[chosen] -= i64::from(total);
        slots.push(backends[chosen].0);
    }
    slots
}

/// Slots that a client's address leads to: each goes to the backend with the highest number for it (rendezvous hashing). So a
/// backend that goes takes its own clients with it and no others, and every host that knows the same backends says the same,
/// in whatever order it knows them.
pub(crate) fn by_source(backends: &[SocketAddr]) -> Vec<SocketAddr> {
    // As if a slot was a client.
    let weight = |slot, backend| source_hash::weight(Ipv6Addr::from(slot).into(), backend);
    let best = |slot| backends.iter().copied().max_by_key(|backend| (weight(slot, *backend), *backend));
    (0..BY_SOURCE as u128).filter_map(best).collect()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    fn backend(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n], 6443))
    }

    #[test]
    fn equal_weights_are_round_robin_and_a_heavy_one_does_not_come_in_a_row() {
        let letters = |weights: &[u32]| -> Vec<u8> {
            let backends: Vec<_> = (1..).zip(weights).map(|(n, weight)| (backend(n), *weight)).collect();
            let last = |address: SocketAddr| match address.ip() {
                IpAddr::V4(ip) => ip.octets()[3],
                IpAddr::V6(_) => unreachable!("none was given"),
            };
            in_turn(&backends).into_iter().map(last).collect()
        };
        assert_eq!(letters(&[1, 1, 1]), [1, 2, 3]);
        assert_eq!(letters(&[4, 1, 1]), [1, 1, 2, 1, 3, 1]);
        assert_eq!(letters(&[1, 0]), [1]);
        assert_eq!(letters(&[0, 0]), [0_u8; 0]);
        assert_eq!(letters(&[]), [0_u8; 0]);
    }

    proptest! {
        #[test]
        fn each_has_as_many_slots_in_turn_as_its_weight(weights in prop::collection::vec(0_u32..9, 0..12)) {
            let backends: Vec<_> = (0..).zip(&weights).map(|(n, weight)| (backend(n), *weight)).collect();
            let slots = in_turn(&backends);
            for (address, weight) in backends {
                prop_assert_eq!(slots.iter().filter(|slot| **slot == address).count(), weight as usize);
            }
        }

        #[test]
        fn a_backend_that_goes_takes_its_own_slots_alone(count in 2_u8..12, gone in 0_u8..12) {
            let gone = backend(gone % count);
            let all: Vec<_> = (0..count).map(backend).collect();
            let left: Vec<_> = all.iter().rev().copied().filter(|backend| *backend != gone).collect();
            let (before, after) = (by_source(&all), by_source(&left));
            for (before, after) in before.iter().zip(&after) {
                prop_assert!(before == after || *before == gone);
                prop_assert!(*after != gone);
            }
            let mut reversed = all.clone();
            reversed.reverse();
            prop_assert_eq!(by_source(&reversed), before);
        }
    }

    #[test]
    fn by_source_none_is_far_from_its_share() {
        for count in 1..=9 {
            let backends: Vec<_> = (1..=count).map(backend).collect();
            let slots = by_source(&backends);
            assert_eq!(slots.len(), BY_SOURCE);
            let share = BY_SOURCE as f64 / f64::from(count);
            for backend in backends {
                let has = slots.iter().filter(|slot| **slot == backend).count() as f64;
                // Four deviations of a fair throw.
                assert!((has - share).abs() <= 4.0 * share.sqrt(), "{backend} of {count}: {has} slots");
            }
        }
    }
}
