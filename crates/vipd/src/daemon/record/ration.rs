//! How many Events may be written: a flapping address must not flood the API.

use std::time::{Duration, Instant};

/// So many moves at once, and one more each [`MOVE_EVERY`]: a day's upgrade of all nodes fits in, and an address that flaps for an hour makes
/// 140 Events of a node at most, which the API forgets after another.
const MOVES_MAX: u32 = 20;
const MOVE_EVERY: Duration = Duration::from_secs(30);

/// What disturbs an address goes on until somebody has seen it.
const TROUBLES_MAX: u32 = 5;
const TROUBLE_EVERY: Duration = Duration::from_secs(300);

/// A part of a ration, which fills up again.
#[derive(Clone, Debug)]
struct Bucket {
    most: u32,
    every: Duration,
    left: u32,
    /// When it was filled up last, or would have been.
    filled: Instant,
}

impl Bucket {
    fn new(most: u32, every: Duration, now: Instant) -> Self {
        Self { most, every, left: most, filled: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        while self.left < self.most && self.filled + self.every <= now {
            self.left += 1;
            self.filled += self.every;
        }
        if self.left == self.most {
            self.filled = now;
        }
        let some = self.left > 0;
        self.left -= u32::from(some);
        some
    }
}

/// What a process may write. Moves have a part of their own, so that no trouble keeps them from being told.
#[derive(Clone, Debug)]
pub(super) struct Ration {
    moves: Bucket,
    troubles: Bucket,
}

impl Ration {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            moves: Bucket::new(MOVES_MAX, MOVE_EVERY, now),
            troubles: Bucket::new(TROUBLES_MAX, TROUBLE_EVERY, now),
        }
    }

    /// Takes one, if one is left.
    pub(super) fn take(&mut self, is_move: bool, now: Instant) -> bool {
        let bucket = if is_move { &mut self.moves } else { &mut self.troubles };
        bucket.take(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    #[test]
    fn an_address_that_flaps_for_an_hour_makes_a_bounded_number_of_events() {
        let start = origin();
        let mut ration = Ration::new(start);
        let seconds = (0..3600).map(|second| start + Duration::from_secs(second));
        let written = seconds.filter(|now| ration.take(true, *now)).count();
        let refills = usize::try_from(3600 / MOVE_EVERY.as_secs()).unwrap();
        assert!(written >= refills && written <= refills + MOVES_MAX as usize, "{written}");
        assert!(written <= 140, "{written}: the number in the comment");
    }

    #[test]
    fn trouble_leaves_moves_their_part() {
        let now = origin();
        let mut ration = Ration::new(now);
        let troubles = (0..1000).filter(|_| ration.take(false, now)).count();
        assert_eq!(troubles, TROUBLES_MAX as usize);
        assert!(ration.take(true, now));
    }

    #[test]
    fn it_fills_up_by_and_by_and_never_over() {
        let start = origin();
        let mut ration = Ration::new(start);
        let mut taken = |now| (0..1000).filter(|_| ration.take(true, now)).count();
        assert_eq!(taken(start), MOVES_MAX as usize);
        assert_eq!(taken(start + MOVE_EVERY - Duration::from_millis(1)), 0);
        assert_eq!(taken(start + MOVE_EVERY), 1);
        assert_eq!(taken(start + MOVE_EVERY * 10_000), MOVES_MAX as usize);
        // What has not been used counts from the last use on.
        assert_eq!(taken(start + MOVE_EVERY * 10_001), 1);
    }
}
