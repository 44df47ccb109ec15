//! One worker's share of one frontend: its flows, and how they are found when something must be said to them.
//!
//! All of it lives on one thread, so cells do and nothing is locked.

use std::cell::{Cell, Ref, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
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
use crate::rebalance::{self, LISTENING_LOOKS, SILENT_LOOKS, Shed};
use crate::roster::Roster;
use crate::silence::{Listening, Silence};
use crate::sources::Place;
use crate::worker::Starvation;

/// Bytes of the buffer that all flows of a worker share. Prototypes moved
/// a megabyte with half the CPU time at 256 kB compared with 16 kB.
pub(crate) const BUFFER: usize = 256 * 1024;

/// Bytes that may wait in the flows of a worker, for peers that don't take them, before each flow reads only [`LITTLE`] at a time: a
/// whole buffer for 32 slow readers.
const MUCH: usize = 8 * 1024 * 1024;

/// Bytes read at a time while [`MUCH`] waits. Ten thousand clients who never read cost 160 MB then, where they would cost 2.5 GB.
pub(crate) const LITTLE: usize = 16 * 1024;

/// Parts of the idle timeout in which silence is counted; a flow may live an eighth longer than the timeout,
/// and no flow needs a timer, nor moving data a clock.
pub(crate) const IDLE_PARTS: u8 = 8;

/// What all flows of a worker use by turns.
#[derive(Debug)]
pub(crate) struct Kit {
    /// Holds data only within one poll.
    pub(crate) buffer: RefCell<Box<[u8]>>,
    pub(crate) reactor: Rc<Reactor>,
    /// Bytes that wait in all flows.
    waiting: Rc<Cell<usize>>,
}

impl Kit {
    /// A new one, for flows whose sockets are watched there.
    pub(crate) fn new(reactor: Rc<Reactor>) -> Self {
        let buffer = RefCell::new(vec![0; BUFFER].into_boxed_slice());
        Self { buffer, reactor, waiting: Rc::default() }
    }

    /// How much of the buffer a flow may fill now. What it reads and can't send waits in memory of its own, which peers that never
    /// read would otherwise fill by a whole buffer each.
    pub(crate) fn portion(&self) -> usize {
        if self.waiting.get() < MUCH { BUFFER } else { LITTLE }
    }

    /// Counts bytes as waiting.
    pub(crate) fn waits(&self, bytes: usize) -> Waits {
        self.waiting.set(self.waiting.get() + bytes);
        Waits { waiting: Rc::clone(&self.waiting), bytes }
    }
}

/// Bytes that count as waiting until this is dropped.
#[derive(Debug)]
pub(crate) struct Waits {
    waiting: Rc<Cell<usize>>,
    bytes: usize,
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.waiting.set(self.waiting.get() - self.bytes);
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
#[derive(Default)]
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
    quiet: Silence,
    /// Likewise.
    listening: Listening,
    /// In looks whether it may end, since it is old.
    old: Silence,
    /// When it came, where that counts.
    opened: Cell<Tick>,
    end: Cell<Option<End>>,
    /// Taken out whenever it is looked at: this way it has no count of borrowers.
    waker: Cell<Option<Waker>>,
}

impl fmt::Debug for Record {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Record").field("backend", &self.backend).finish_non_exhaustive()
    }
}

impl Record {
    pub(crate) fn set_backend(&self, candidate: Candidate) {
        *self.backend.borrow_mut() = Some(candidate);
    }

    /// Notes bytes of the client, or the end of its stream.
    pub(crate) fn said(&self, bytes: usize) {
        self.idle.end();
        self.quiet.end();
        self.old.end();
        self.listening.said(bytes);
    }

    /// Notes bytes of the backend, or the end of its stream.
    pub(crate) fn told(&self, bytes: usize) {
        self.idle.end();
        self.quiet.end();
        self.old.end();
        self.listening.told(bytes);
    }

    /// Notes that it can't be moved, which an outsider did not see.
    pub(crate) fn stay(&self) {
        self.quiet.end();
        self.old.end();
        self.listening.end();
    }

    /// Takes a look whether it may be moved.
    fn look(&self) {
        self.quiet.count();
        self.listening.count();
    }

    /// Ready once the flow is to end; the order is taken by it.
    pub(crate) fn poll_end(&self, context: &Context<'_>) -> Poll<End> {
        if let Some(end) = self.end.take() {
            return Poll::Ready(end);
        }
        // Most often it is the same one.
        let waker = match self.waker.take() {
            Some(known) if known.will_wake(context.waker()) => known,
            Some(_) | None => context.waker().clone(),
        };
        self.waker.set(Some(waker));
        Poll::Pending
    }

    /// True when its backend has died since it was chosen, and nothing more comes from it.
    fn has_lost(&self) -> bool {
        let backend = self.backend.borrow();
        backend.as_ref().is_some_and(|backend| backend.has_died() && !backend.target.member.is_closing())
    }

    /// True when its backend has closed its port since it was chosen.
    fn is_left_over(&self) -> bool {
        let backend = self.backend.borrow();
        backend.as_ref().is_some_and(|backend| backend.has_died() && backend.target.member.is_closing())
    }

    /// Orders the flow's end.
    pub(crate) fn end(&self, end: End) {
        if self.end.get() < Some(end) {
            self.end.set(Some(end));
        }
        if let Some(waker) = self.waker.take() {
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
                Stage::Old if record.old.count() >= SILENT_LOOKS => record.end(End::Aged),
                Stage::Young | Stage::Old => {}
                Stage::Overdue => record.end(End::Overdue),
            }
        }
    }

    /// Ends the flows whose backend is dead.
    pub(crate) fn end_flows_to_the_dead(&self) {
        self.end_where(End::BackendDead, Record::has_lost);
    }

    /// Has the flows go to another backend whose own has closed its port and has not answered them yet.
    pub(crate) fn end_flows_to_the_closed(&self) {
        self.end_where(End::BackendClosed, Record::is_left_over);
    }

    /// Ends the flows to virtual IPs that aren't among those which are held.
    pub(crate) fn end_flows_to_others(&self, held: &BTreeSet<IpAddr>) {
        self.end_where(End::VirtualIpLost, |record| record.virtual_ip.is_some_and(|ip| !held.contains(&ip)));
    }

    /// Looks who is silent, who only listens, and for how long.
    pub(crate) fn look(&self) {
        self.flows.borrow().values().for_each(|record| record.look());
    }

    /// Ends flows to a backend that has more than its share, as many as are to be: silent ones, and where they are too few, those whose
    /// clients only listen.
    pub(crate) fn shed(&self, shed: &Shed) {
        let is_silent = |record: &Record| rebalance::is_due(record.quiet.counted(), SILENT_LOOKS);
        let listens = |record: &Record| {
            record.quiet.counted() < SILENT_LOOKS
                && rebalance::is_due(record.listening.counted(), LISTENING_LOOKS)
        };
        for may_be_moved in [&is_silent as &dyn Fn(&Record) -> bool, &listens] {
            self.end_where(End::Rebalanced, |record| {
                let backend = record.backend.borrow();
                may_be_moved(record)
                    && backend.as_ref().is_some_and(|backend| shed.is_from(&backend.target))
                    && shed.take()
            });
        }
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
