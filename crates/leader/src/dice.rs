//! Repeatable randomness: what a machine throws is a function of the seed it was given.

/// A small generator (SplitMix64), part of a machine's state like everything else it decides by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Dice(u64);

impl Dice {
    /// Starts the sequence that belongs to the seed.
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number of the sequence.
    pub(crate) fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A duration from zero up to, and not including, `limit`; zero if the limit is.
    pub(crate) fn below(&mut self, limit: std::time::Duration) -> std::time::Duration {
        let limit = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        // The bias of the remainder is below one in a million for any limit under an hour.
        std::time::Duration::from_nanos(self.throw().checked_rem(limit).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_sequence_is_that_of_splitmix64() {
        // As its author's program prints it.
        let mut dice = Dice::seeded(1_234_567);
        let expected = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
            16_408_922_859_458_223_821,
        ];
        assert_eq!([(); 5].map(|()| dice.throw()), expected);
    }

    #[test]
    fn what_is_thrown_lies_below_the_limit_and_not_always_at_one_place() {
        let mut dice = Dice::seeded(7);
        let limit = Duration::from_millis(10);
        let mut tenths = [0; 10];
        for _ in 0..1000 {
            let thrown = dice.below(limit);
            assert!(thrown < limit);
            tenths[thrown.as_millis() as usize] += 1;
        }
        assert!(tenths.iter().all(|count| (50..150).contains(count)), "{tenths:?}");
        assert_eq!(dice.below(Duration::ZERO), Duration::ZERO);
    }
}
