//! Moving connections to a backend that has come back: how many, and from where. Pure.
//!
//! Clients of an apiserver keep their connections for days. When one apiserver after the other was restarted, the last has none of
//! them, and nothing would give it any. So, where that is wanted, a few connections a second are ended in good order, and their clients
//! connect anew, to where there is room. What goes on inside isn't seen, but who speaks: nobody waits for an answer on one that has been
//! silent for a while, nor, mostly, where the client says nothing and is told things all the time. The latter is a watch of what often
//! changes; or a download, or a log that is followed, so the silent ones go first.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::health::Health;
use crate::roster::Roster;
use crate::target::Target;

/// How often it is looked whether something is to be moved.
pub(crate) const LOOK: Duration = Duration::from_secs(1);

/// Looks in a row between which no byte has moved on a connection that may be ended: whoever waits for an answer, waits seldom for
/// longer, and a watch is silent for most of its life.
pub(crate) const SILENT_LOOKS: u8 = 3;

/// Looks in a row between which the client of a connection that may be ended has only listened. More, because an answer may be among what
/// it hears.
pub(crate) const LISTENING_LOOKS: u8 = 5;

/// Looks in a row after which a client speaks so seldom that it may be moved at any time. Many speak every ten seconds: kubelets, for
/// instance, that renew their Leases.
const SELDOM_LOOKS: u8 = 15;

/// Whether a connection whose client has said nothing for so many looks may be ended now, where `needed` are needed: right then, or when
/// it seldom speaks. In between, it is ever likelier that it speaks just when its connection is being closed, and what it begins to
/// send then is lost.
pub(crate) fn is_due(looks: u8, needed: u8) -> bool {
    (needed..=needed + 1).contains(&looks) || looks >= SELDOM_LOOKS
}

/// Part of the fair share that one backend may have more than it, and another less.
const TOLERANCE: usize = 10;

/// An order to end connections, the same for all workers.
#[derive(Debug, Clone)]
pub(crate) struct Shed {
    /// Which frontend, by its number.
    pub(crate) frontend: u64,
    from: Arc<Target>,
    /// How many are left to be ended, over all workers.
    left: Arc<AtomicUsize>,
}

impl Shed {
    /// Whether it is about connections to this backend.
    pub(crate) fn is_from(&self, target: &Arc<Target>) -> bool {
        Arc::ptr_eq(&self.from, target)
    }

    /// Takes one of those that are left.
    pub(crate) fn take(&self) -> bool {
        let less = |left: usize| left.checked_sub(1);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

/// What is to be moved within a frontend now, `rate` connections at most. A backend that doesn't have its `whole_share` yet is left
/// alone: what were moved to it would mostly come to others.
pub(crate) fn shed(
    frontend: u64,
    roster: &Roster,
    rate: NonZeroUsize,
    whole_share: impl Fn(&Target) -> bool,
) -> Option<Shed> {
    let takes = |target: &&Arc<Target>| {
        target.member.health() == Health::Ready && !target.member.is_out() && whole_share(target)
    };
    let backends: Vec<_> = roster.present().iter().filter(takes).collect();
    let open: Vec<usize> = backends.iter().map(|target| target.member.open()).collect();
    let (from, excess) = excess(&open)?;
    let left = Arc::new(AtomicUsize::new(excess.min(rate.get())));
    Some(Shed { frontend, from: Arc::clone(backends[from]), left })
}

/// The place of the fullest, and how many more connections than its share it has that others lack; `None` while it is even enough.
fn excess(open: &[usize]) -> Option<(usize, usize)> {
    let fair = open.iter().sum::<usize>().checked_div(open.len())?;
    let (from, most) = open.iter().copied().enumerate().max_by_key(|(_, open)| *open)?;
    let least = open.iter().copied().min()?;
    let tolerated = (fair / TOLERANCE).max(1);
    let (above, below) = (most.saturating_sub(fair), fair.saturating_sub(least));
    (above > tolerated && below > tolerated).then(|| (from, above.min(below)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::Backend;
    use crate::target::Open;

    #[test]
    fn who_has_just_spoken_and_who_seldom_speaks_is_moved_and_who_may_be_about_to_speak_is_not() {
        let due = |needed| (0..=u8::MAX).filter(move |looks| is_due(*looks, needed));
        let seldom = SELDOM_LOOKS..=u8::MAX;
        assert!(due(SILENT_LOOKS).eq([3, 4].into_iter().chain(seldom.clone())));
        assert!(due(LISTENING_LOOKS).eq([5, 6].into_iter().chain(seldom)));
    }

    #[test]
    fn what_is_even_enough_is_left_alone() {
        for open in [&[][..], &[9], &[0, 0], &[1, 0, 1], &[3, 2, 2], &[110, 90, 100], &[0, 0, 2]] {
            assert_eq!(excess(open), None, "{open:?}");
        }
    }

    #[test]
    fn the_fullest_gives_what_another_lacks() {
        assert_eq!(excess(&[150, 150, 0]), Some((1, 50)));
        assert_eq!(excess(&[0, 300, 0]), Some((1, 100)));
        // One has much more, and all others lack little.
        assert_eq!(excess(&[40, 20, 20, 20]), Some((0, 5)));
    }

    #[test]
    fn what_has_no_whole_share_yet_is_left_alone() {
        let backend =
            |port| Backend { name: "x".into(), address: ([127, 0, 0, 1], port).into(), cordoned: false };
        let now = tokio::time::Instant::now().into_std();
        let create = |backend| Target::new(backend, Arc::default(), false, now);
        let roster = Roster::default().successor(vec![backend(1), backend(2)], create).unwrap();
        let [full, empty] = roster.present() else { panic!("there are two") };
        full.member.set_health(Health::Ready);
        empty.member.set_health(Health::Ready);
        let _open: Vec<_> = (0..20).map(|_| Open::enter(full)).collect();
        let shed = |whole_share: fn(&Target) -> bool| shed(0, &roster, NonZeroUsize::MIN, whole_share);

        assert!(shed(|_| true).is_some_and(|shed| shed.is_from(full)));
        assert!(shed(|target| target.address.port() != 2).is_none(), "nothing is moved to it");
        assert!(shed(|target| target.address.port() != 1).is_none(), "nothing is moved from it");
    }

    proptest! {
        #[test]
        fn moving_ends_and_is_even_then(open in proptest::collection::vec(0_usize..500, 2..8)) {
            let mut open = open;
            let total: usize = open.iter().sum();
            let mut turns = 0;
            while let Some((from, excess)) = excess(&open) {
                let to = (0..open.len()).min_by_key(|place| open[*place]).unwrap();
                prop_assert!(excess > 0 && from != to);
                open[from] -= excess;
                open[to] += excess;
                turns += 1;
                prop_assert!(turns <= 2 * open.len(), "{:?}", open);
            }
            prop_assert_eq!(open.iter().sum::<usize>(), total);
        }
    }
}
