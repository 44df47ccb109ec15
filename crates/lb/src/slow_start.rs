//! A backend that has come back gets its share by and by. Pure.
//!
//! The empty one of several looks like the best one to whoever counts connections, and gets most of what is new at a moment when its
//! caches are empty, too. So for some time it is passed over by most connections, by fewer and fewer.
//!
//! ```text
//!  share
//!   1    ─                 ╭──────────
//!                      ╭───╯
//!                  ╭───╯
//!   1/10 ─     ╭───╯
//!              ┴───────────┴──────────▶ time
//!            ready    slow start is over
//! ```

use std::time::Duration;

/// A whole share; others are parts of it.
pub(crate) const WHOLE: u32 = 1000;

/// What a backend begins with: enough to be seen at work, and to have its caches filled.
const FIRST: u32 = WHOLE / 10;

/// How much of what its policy would give it a backend gets that has been ready again for `since`, out of [`WHOLE`].
pub(crate) fn share(since: Duration, slow_start: Duration) -> u32 {
    let (since, whole) = (since.as_millis(), slow_start.as_millis());
    if since >= whole {
        return WHOLE;
    }
    let grown = u128::from(WHOLE - FIRST) * since / whole;
    // Less than a whole share, as `since` is less than the whole time.
    FIRST + u32::try_from(grown).unwrap_or(WHOLE - FIRST)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn a_share_grows_from_a_tenth_to_all_of_it() {
        assert_eq!(share(Duration::ZERO, 30 * S), 100);
        assert_eq!(share(10 * S, 30 * S), 400);
        assert_eq!(share(15 * S, 30 * S), 550);
        assert_eq!(share(30 * S, 30 * S), WHOLE);
        assert_eq!(share(3000 * S, 30 * S), WHOLE);
        assert_eq!(share(Duration::ZERO, Duration::ZERO), WHOLE, "no time at all is over at once");
    }

    proptest! {
        #[test]
        fn a_share_never_shrinks_and_is_whole_only_at_the_end(
            slow_start in 1_u64..100_000_000,
            mut times in proptest::collection::vec(0_u64..200_000_000, 2..20),
        ) {
            times.sort_unstable();
            let shares: Vec<_> = times
                .iter()
                .map(|time| share(Duration::from_millis(*time), Duration::from_millis(slow_start)))
                .collect();
            prop_assert!(shares.is_sorted(), "{:?}", shares);
            for (time, share) in times.iter().zip(shares) {
                prop_assert!((FIRST..=WHOLE).contains(&share));
                prop_assert_eq!(*time >= slow_start, share == WHOLE);
            }
        }
    }
}
