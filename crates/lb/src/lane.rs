//! One worker's share of one frontend: its flows, and how they are found when something must be said to them.
//!
//! All of it lives on one thread, so cells do and nothing is locked.

use std::cell::{Cell, Ref, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::age::{MaxAge, Stage, Tick};
use crate::drain::End;
use crate::frontend::{Settings, Shared};
use crate::pool::{Candidate, Candidates, Pool};
use crate::reactor::Reactor;
use crate::rebalance::{SILENT_LOOKS, Shed};
use crate::roster::Roster;
use crate::sources::Place;
use crate::worker::Starvation;

/// Bytes of the buffer that all flows of a worker share. Prototypes moved
/// a megabyte with half the CPU time at 256 kB compared with 16 kB.
pub(crate) const BUFFER: usize = 256 * 1024;

/// Parts of the idle timeout in which silence is counted; a flow may live an eighth longer than the timeout,
/// and no flow needs a timer, nor moving data a clock.
pub(crate) const IDLE_PARTS: u8 = 8;

/// What all flows of a worker use by turns.
#[derive(Debug)]
pub(crate) struct Kit {
    /// Holds data only within one poll.
    pub(crate) buffer: RefCell<Box<[u8]>>,
    pub(crate) reactor: Rc<Reactor>,
}

impl Kit {
    /// A new one, for the runtime of the calling thread.
    ///
    /// # Errors
    /// Those of [`Reactor::new`].
    pub(crate) fn new() -> io::Result<Self> {
        let buffer = RefCell::new(vec![0; BUFFER].into_boxed_slice());
        Ok(Self { buffer, reactor: Rc::new(Reactor::new()?) })
    }
}

/// One worker's share of one frontend.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) shared: Arc<Shared>,
    settings: RefCell<Arc<Settings>>,
    /// The frontend is no part of the configuration any more: whether its last flow has ended is looked at.
    leaving: Cell<bool>,
    pool: RefCell<Pool>,
    rosters: RefCell<watch::Receiver<Arc<Roster>>>,
    pub(crate) kit: Rc<Kit>,
    pub(crate) starvation: Arc<Starvation>,
    /// Joins the flows and accept loops of the worker.
    pub(crate) tasks: TaskTracker,
    /// Bounded by the frontend's limit of connections.
    flows: RefCell<BTreeMap<u64, Rc<Record>>>,
    next: Cell<u64>,
    clock: Clock,
}

/// What a lane knows of time, for the age of its flows: no flow has a timer, nor its beginning a look at a clock.
#[derive(Debug)]
struct Clock {
    max_age: Cell<Option<MaxAge>>,
    began: Instant,
    /// As of the latest look, which is a second ago at most.
    tick: Cell<Tick>,
    /// Has the flows of each lane end at other times.
    seed: u64,
}

/// What is known about a flow from outside it.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// The backend it is connected or connecting to.
    backend: RefCell<Option<Candidate>>,
    /// The virtual IP that its client reached, if it was one.
    virtual_ip: Option<IpAddr>,
    /// Its place among those of its client's host, where they are counted.
    _place: Option<Box<Place>>,
    /// In parts of the idle timeout.
    idle: Silence,
    /// In looks whether it may be moved to another backend.
    looks: Silence,
    /// In looks whether it may end, since it is old.
    old_looks: Silence,
    /// When it came, where that counts.
    opened: Cell<Tick>,
    end: Cell<Option<End>>,
    waker: RefCell<Option<Waker>>,
}

/// How often it was counted since a byte has moved. A flow that has just begun has not been silent.
#[derive(Debug, Default)]
struct Silence(Cell<u8>);

impl Silence {
    fn end(&self) {
        self.0.set(0);
    }

    /// Counts once more; gives how often it was before, so for how many counts in a row no byte has moved.
    fn count(&self) -> u8 {
        self.0.replace(self.0.get().saturating_add(1))
    }
}

impl Record {
    pub(crate) fn set_backend(&self, candidate: Candidate) {
        *self.backend.borrow_mut() = Some(candidate);
    }

    /// Notes that a byte has moved.
    pub(crate) fn touch(&self) {
        self.idle.end();
        self.looks.end();
        self.old_looks.end();
    }

    /// Takes a look; true when it has been silent for so many that it may be moved.
    fn looks_silent(&self) -> bool {
        self.looks.count() >= SILENT_LOOKS
    }

    /// Ready once the flow is to end; the order is taken by it.
    pub(crate) fn poll_end(&self, context: &Context<'_>) -> Poll<End> {
        if let Some(end) = self.end.take() {
            return Poll::Ready(end);
        }
        let mut waker = self.waker.borrow_mut();
        match waker.as_mut() {
            Some(waker) => waker.clone_from(context.waker()),
            None => *waker = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    /// True when its backend has died since it was chosen.
    fn has_lost(&self) -> bool {
        self.backend.borrow().as_ref().is_some_and(Candidate::has_died)
    }

    fn end(&self, end: End) {
        if self.end.get() < Some(end) {
            self.end.set(Some(end));
        }
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Counts one part of the idle timeout; true when all have passed in silence.
    fn count_silence(&self) -> bool {
        // The part in which the last byte moved does not count.
        self.idle.count() >= IDLE_PARTS
    }
}

impl Lane {
    pub(crate) fn new(
        shared: Arc<Shared>,
        seed: u64,
        kit: Rc<Kit>,
        starvation: Arc<Starvation>,
        tasks: TaskTracker,
    ) -> Self {
        let mut rosters = shared.rosters();
        let roster = Arc::clone(&rosters.borrow_and_update());
        let settings = shared.settings();
        let max_age = Cell::new(settings.timeouts.max_age.map(MaxAge::new));
        let clock = Clock { max_age, began: Instant::now(), tick: Cell::new(0), seed };
        let cursor = Arc::clone(&shared.cursor);
        let pool = Pool::new(roster, cursor, settings.policy, settings.slow_start, seed);
        Self {
            settings: RefCell::new(settings),
            leaving: Cell::new(shared.is_leaving()),
            shared,
            pool: RefCell::new(pool),
            rosters: RefCell::new(rosters),
            kit,
            starvation,
            tasks,
            flows: RefCell::default(),
            next: Cell::new(0),
            clock,
        }
    }

    /// The settings, as this worker follows them. Not to be held while anything is awaited.
    pub(crate) fn settings(&self) -> Ref<'_, Arc<Settings>> {
        self.settings.borrow()
    }

    /// Follows the frontend's settings, as of now.
    ///
    /// Flows count their silence anew where the idle timeout has changed: what they have counted were parts of another.
    pub(crate) fn follow_settings(&self) {
        self.leaving.set(self.shared.is_leaving());
        let settings = self.shared.settings();
        if Arc::ptr_eq(&settings, &self.settings()) {
            return;
        }
        self.pool.borrow_mut().set_policy(settings.policy, settings.slow_start);
        let timeouts = settings.timeouts;
        let before = self.settings.replace(settings);
        if before.timeouts.idle != timeouts.idle {
            self.flows.borrow().values().for_each(|record| record.idle.end());
        }
        if before.timeouts.max_age != timeouts.max_age {
            self.set_max_age(timeouts.max_age.map(MaxAge::new), Instant::now());
        }
    }

    /// Gives flows another age, which those that there are have from their beginning; or from now on, where it didn't count before.
    fn set_max_age(&self, max_age: Option<MaxAge>, now: Instant) {
        let clock = &self.clock;
        let before = clock.max_age.replace(max_age);
        let Some(max_age) = max_age else { return };
        let tick = max_age.tick(now - clock.began);
        for record in self.flows.borrow().values() {
            let age = before.map(|before| before.age(record.opened.get(), clock.tick.get()));
            record.opened.set(max_age.opened(tick, age.unwrap_or_default()));
        }
        clock.tick.set(tick);
    }

    /// The backends that a new connection of this client tries.
    pub(crate) fn candidates(&self, client: Option<IpAddr>) -> Candidates {
        // One look at a number while the backends stay the same. The sender lives as long as the lane.
        if self.rosters.borrow().has_changed().unwrap_or(false) {
            self.follow();
        }
        self.pool.borrow_mut().candidates(client, || self.age())
    }

    /// The backends that have come since `tried`, for a connection that has nobody else left.
    pub(crate) fn candidates_since(&self, tried: &Candidates, client: Option<IpAddr>) -> Option<Candidates> {
        // Looked at in any case: a backend is told to leave a moment before its successors are announced.
        self.follow();
        self.pool.borrow_mut().candidates_since(tried, client, || self.age())
    }

    fn age(&self) -> Duration {
        self.shared.age(Instant::now().into_std())
    }

    fn follow(&self) {
        let roster = Arc::clone(&self.rosters.borrow_mut().borrow_and_update());
        self.pool.borrow_mut().set_roster(roster);
    }

    /// Adds a flow to the table, until the result is dropped.
    pub(crate) fn enter(self: &Rc<Self>, virtual_ip: Option<IpAddr>, place: Option<Box<Place>>) -> Entry {
        let key = self.next.get();
        self.next.set(key + 1);
        let record = Rc::new(Record {
            virtual_ip,
            _place: place,
            opened: Cell::new(self.clock.tick.get()),
            ..Record::default()
        });
        self.flows.borrow_mut().insert(key, Rc::clone(&record));
        Entry { lane: Rc::clone(self), key, record }
    }

    /// Ends the flows that have been silent for too long.
    pub(crate) fn end_idle_flows(&self) {
        self.end_where(End::Idle, Record::count_silence);
    }

    /// Ends the flows that have lasted for long enough: in a moment of silence, or without.
    pub(crate) fn end_old_flows(&self, now: Instant) {
        let clock = &self.clock;
        let Some(max_age) = clock.max_age.get() else { return };
        let tick = max_age.tick(now - clock.began);
        clock.tick.set(tick);
        for (key, record) in &*self.flows.borrow() {
            // The oldest come first.
            if max_age.all_are_young(record.opened.get(), tick) {
                return;
            }
            match max_age.stage(record.opened.get(), tick, clock.seed.wrapping_add(*key)) {
                Stage::Old if record.old_looks.count() >= SILENT_LOOKS => record.end(End::Aged),
                Stage::Young | Stage::Old => {}
                Stage::Overdue => record.end(End::Overdue),
            }
        }
    }

    /// Ends the flows whose backend is dead.
    pub(crate) fn end_flows_to_the_dead(&self) {
        self.end_where(End::BackendDead, Record::has_lost);
    }

    /// Ends the flows to virtual IPs that aren't among those which are held.
    pub(crate) fn end_flows_to_others(&self, held: &BTreeSet<IpAddr>) {
        self.end_where(End::VirtualIpLost, |record| record.virtual_ip.is_some_and(|ip| !held.contains(&ip)));
    }

    /// Ends silent flows to a backend that has more than its share, as many as are to be.
    pub(crate) fn shed(&self, shed: &Shed) {
        self.end_where(End::Rebalanced, |record| {
            let backend = record.backend.borrow();
            backend.as_ref().is_some_and(|backend| shed.is_from(&backend.target))
                && record.looks_silent()
                && shed.take()
        });
    }

    /// Ends all flows.
    pub(crate) fn end_all_flows(&self) {
        self.end_where(End::Stopped, |_| true);
    }

    fn end_where(&self, end: End, is_concerned: impl Fn(&Record) -> bool) {
        for record in self.flows.borrow().values() {
            if is_concerned(record) {
                record.end(end);
            }
        }
    }
}

/// A flow's place in the table of its lane.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) lane: Rc<Lane>,
    key: u64,
    pub(crate) record: Rc<Record>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.lane.flows.borrow_mut().remove(&self.key);
        self.lane.starvation.relieve();
        self.lane.shared.report_room();
        if self.lane.leaving.get() {
            self.lane.shared.ask_for_review();
        }
    }
}

#[cfg(test)]
mod tests;
