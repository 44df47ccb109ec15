//! In which order equally healthy backends are tried.

use std::cmp::Reverse;

use fastrand::Rng;

use crate::config::Policy;

/// Puts `backends`, given in the order of the configuration, into the order in which to try them.
///
/// `open` tells the open connections of each, `weight` how much it is meant for the client, `cursor` counts the connections of this
/// frontend.
pub fn order<B: Copy>(
    policy: Policy,
    backends: &mut [B],
    open: impl Fn(B) -> usize,
    weight: impl Fn(B) -> u64,
    cursor: usize,
    rng: &mut Rng,
) {
    match policy {
        Policy::RoundRobin if backends.is_empty() => {}
        Policy::RoundRobin => backends.rotate_left(cursor % backends.len()),
        Policy::LeastConnections => {
            for place in 0..backends.len().saturating_sub(1) {
                let chosen = of_two(&backends[place..], &open, rng);
                backends.swap(place, place + chosen);
            }
        }
        Policy::SourceHash => backends.sort_by_cached_key(|backend| Reverse(weight(*backend))),
    }
}

/// The index of the one with fewer open connections among two different random ones. `backends` holds at
/// least two.
///
/// Two random choices spread almost as well as looking at all, and, unlike that, workers that see the same
/// counts do not all run to the same backend.
fn of_two<B: Copy>(backends: &[B], open: impl Fn(B) -> usize, rng: &mut Rng) -> usize {
    let first = rng.usize(..backends.len());
    let mut second = rng.usize(..backends.len() - 1);
    if second >= first {
        second += 1;
    }
    if open(backends[second]) < open(backends[first]) { second } else { first }
}
