//! How many flows a frontend may hold, and how many it holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;

/// The places of one frontend's flows, over all workers.
#[derive(Debug)]
pub(crate) struct Room {
    /// Free places.
    free: Semaphore,
    /// Most flows.
    most: AtomicUsize,
    /// Places of flows that are open beyond a limit which was lowered: they are gone when left.
    owed: AtomicUsize,
}

impl Room {
    /// Room for so many flows.
    pub(crate) fn new(most: usize) -> Self {
        let most = bounded(most);
        Self { free: Semaphore::new(most), most: AtomicUsize::new(most), owed: AtomicUsize::new(0) }
    }

    /// Most flows.
    pub(crate) fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    /// Free places.
    pub(crate) fn free(&self) -> usize {
        self.free.available_permits()
    }

    /// Flows now.
    pub(crate) fn taken(&self) -> usize {
        let places = self.most().saturating_add(self.owed.load(Ordering::Relaxed));
        places.saturating_sub(self.free())
    }

    /// A place, if one is free and nobody waits for it.
    pub(crate) fn try_enter(self: &Arc<Self>) -> Option<Permit> {
        loop {
            self.free.try_acquire().ok()?.forget();
            if !self.pay() {
                return Some(Permit(Arc::clone(self)));
            }
        }
    }

    /// A place, once one is free; whoever came first gets the first. Cancel-safe.
    pub(crate) async fn enter(self: &Arc<Self>) -> Permit {
        loop {
            // The semaphore is never closed: an error can't come, and would be no reason to refuse a client.
            if let Ok(place) = self.free.acquire().await {
                place.forget();
            }
            if !self.pay() {
                return Permit(Arc::clone(self));
            }
        }
    }

    /// Changes the limit. There must be one caller at a time. Flows beyond a lower one go on, and their places are gone when they
    /// have ended.
    pub(crate) fn set_most(&self, most: usize) {
        let most = bounded(most);
        let before = self.most.swap(most, Ordering::Relaxed);
        if most >= before {
            let more = most - before;
            let mut paid = 0;
            while paid < more && self.pay() {
                paid += 1;
            }
            self.free.add_permits(more - paid);
            return;
        }
        let less = before - most;
        let gone = self.free.forget_permits(less);
        // A place that is left just now may be free again all the same: who enters it pays, and goes on waiting.
        self.owed.fetch_add(less - gone, Ordering::Relaxed);
    }

    /// Takes one off what is owed; false if nothing is, which is one look at a number.
    fn pay(&self) -> bool {
        if self.owed.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let less = |owed: usize| owed.checked_sub(1);
        self.owed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

/// A semaphore has no more permits than this.
fn bounded(most: usize) -> usize {
    most.min(Semaphore::MAX_PERMITS)
}

/// The place of one flow, until it is dropped.
#[derive(Debug)]
pub(crate) struct Permit(Arc<Room>);

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.0.pay() {
            self.0.free.add_permits(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(room: &Arc<Room>, flows: usize) -> Vec<Permit> {
        (0..flows).map(|_| room.try_enter().unwrap()).collect()
    }

    #[test]
    fn a_lower_limit_takes_the_places_of_flows_that_end_until_it_holds() {
        let room = Arc::new(Room::new(10));
        let mut flows = enter(&room, 8);

        room.set_most(3);

        assert_eq!((room.most(), room.taken()), (3, 8));
        while flows.len() > 3 {
            assert!(room.try_enter().is_none(), "{} are open", flows.len());
            flows.pop();
            assert_eq!(room.taken(), flows.len());
        }
        assert!(room.try_enter().is_none());
        flows.pop();
        flows.extend(room.try_enter());
        assert_eq!(room.taken(), 3);
        drop(flows);
        assert_eq!((room.free(), room.taken()), (3, 0));
    }

    #[test]
    fn a_higher_limit_gives_back_first_what_was_owed() {
        let room = Arc::new(Room::new(4));
        let mut flows = enter(&room, 4);
        room.set_most(1);

        room.set_most(6);

        assert_eq!((room.most(), room.taken(), room.free()), (6, 4, 2));
        flows.extend(enter(&room, 2));
        assert!(room.try_enter().is_none());
        drop(flows);
        assert_eq!((room.free(), room.taken()), (6, 0));
    }

    /// Whatever the order of two threads, no place is lost and none is made up.
    #[test]
    fn places_add_up_when_limits_change_while_flows_come_and_go() {
        let room = Arc::new(Room::new(8));
        std::thread::scope(|threads| {
            for _ in 0..2 {
                threads.spawn(|| {
                    for turn in 0..20_000 {
                        let flows: Vec<_> = (0..turn % 5).filter_map(|_| room.try_enter()).collect();
                        drop(flows);
                    }
                });
            }
            for most in [1, 9, 2, 30, 1, 8].into_iter().cycle().take(6000) {
                room.set_most(most);
            }
        });
        assert_eq!((room.most(), room.taken()), (8, 0));
        let flows: Vec<_> = std::iter::from_fn(|| room.try_enter()).collect();
        assert_eq!(flows.len(), 8);
    }

    #[tokio::test]
    async fn who_waits_enters_when_the_limit_is_lifted() {
        let room = Arc::new(Room::new(1));
        let first = room.try_enter().unwrap();
        let waiting = tokio::spawn({
            let room = Arc::clone(&room);
            async move { room.enter().await }
        });
        while room.free.available_permits() > 0 || !waiting.is_finished() {
            tokio::task::yield_now().await;
            room.set_most(2);
        }
        let second = waiting.await.unwrap();
        assert_eq!(room.taken(), 2);
        drop((first, second));
        assert_eq!(room.free(), 2);
    }
}
