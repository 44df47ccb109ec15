//! Whether somebody floods the peers' port, and when that is worth a line.

use std::time::{Duration, Instant};

use crate::exchange::Dropped;

/// As many datagrams that are dropped between two looks (see `STATUS_INTERVAL`) are a flood: peers that restart, disagree or are copied
/// by the network make a few, or some hundred in the fastest profile.
const FLOOD: u64 = 1000;
/// A flood that goes on is told again after this time.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

/// Watches how many datagrams are dropped.
#[derive(Debug, Default)]
pub(super) struct Floods {
    seen: u64,
    /// When a flood was told, and what had been dropped by then.
    told: Option<(Instant, Dropped)>,
}

impl Floods {
    /// Looks at the counts; what was dropped since it was told last, if that is to be told now.
    pub(super) fn look(&mut self, dropped: Dropped, now: Instant) -> Option<Dropped> {
        let all = dropped.strangers + dropped.unreadable + dropped.stale;
        let new = all - std::mem::replace(&mut self.seen, all);
        let is_due = self.told.is_none_or(|(at, _)| now >= at + TELL_INTERVAL);
        if new < FLOOD || !is_due {
            return None;
        }
        let before = self.told.replace((now, dropped)).map(|(_, before)| before).unwrap_or_default();
        Some(Dropped {
            strangers: dropped.strangers - before.strangers,
            unreadable: dropped.unreadable - before.unreadable,
            stale: dropped.stale - before.stale,
            latest: dropped.latest,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strangers(strangers: u64) -> Dropped {
        Dropped { strangers, ..Dropped::default() }
    }

    #[test]
    fn a_flood_is_told_at_once_and_then_once_a_minute_with_what_came_since() {
        let (mut floods, start) = (Floods::default(), crate::clock::now());
        let mut look = |count, after| floods.look(strangers(count), start + Duration::from_secs(after));
        assert_eq!(look(999, 0), None, "a few are no flood");
        assert_eq!(look(1998, 1), None);
        assert_eq!(look(2998, 2), Some(strangers(2998)));
        assert_eq!(look(50_000, 3), None);
        assert_eq!(look(60_000, 61), None);
        assert_eq!(look(62_998, 62), Some(strangers(60_000)));
        assert_eq!(look(63_000, 200), None, "it is over");
    }

    #[test]
    fn datagrams_of_all_kinds_count_together_and_are_told_apart() {
        let (mut floods, start) = (Floods::default(), crate::clock::now());
        let of = |strangers, unreadable, stale| Dropped { strangers, unreadable, stale, latest: None };
        assert_eq!(floods.look(of(333, 333, 333), start), None);
        assert_eq!(floods.look(of(733, 633, 633), start), Some(of(733, 633, 633)));
        let later = start + TELL_INTERVAL;
        assert_eq!(floods.look(of(1733, 2633, 3633), later), Some(of(1000, 2000, 3000)));
    }
}
