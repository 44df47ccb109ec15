//! One worker's share of one frontend: its flows, and how they are found when something must be said to them.
//!
//! All of it lives on one thread, so cells do and nothing is locked.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::drain::End;
use crate::frontend::Shared;
use crate::pool::{Candidate, Candidates, Pool};
use crate::reactor::Reactor;
use crate::rebalance::{SILENT_LOOKS, Shed};
use crate::roster::Roster;
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
    /// A new one, for the runtime of the calling thread.
    ///
    /// # Errors
    /// Those of [`Reactor::new`].
    pub(crate) fn new() -> io::Result<Self> {
        let buffer = RefCell::new(vec![0; BUFFER].into_boxed_slice());
        Ok(Self { buffer, reactor: Rc::new(Reactor::new()?), waiting: Rc::default() })
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
    pool: RefCell<Pool>,
    rosters: RefCell<watch::Receiver<Arc<Roster>>>,
    pub(crate) kit: Rc<Kit>,
    pub(crate) starvation: Arc<Starvation>,
    /// Joins the flows and accept loops of the worker.
    pub(crate) tasks: TaskTracker,
    /// Bounded by the frontend's limit of connections.
    flows: RefCell<BTreeMap<u64, Rc<Record>>>,
    next: Cell<u64>,
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
    end: Cell<Option<End>>,
    waker: RefCell<Option<Waker>>,
}

/// For how many counts in a row no byte has moved.
#[derive(Debug)]
struct Silence {
    /// One has, since the last.
    moved: Cell<bool>,
    counts: Cell<u8>,
}

impl Default for Silence {
    /// A flow that has just begun has not been silent.
    fn default() -> Self {
        Self { moved: Cell::new(true), counts: Cell::new(0) }
    }
}

impl Silence {
    fn end(&self) {
        self.moved.set(true);
    }

    /// Counts once more; gives how many it were in a row.
    fn count(&self) -> u8 {
        let counts = if self.moved.take() { 0 } else { self.counts.get().saturating_add(1) };
        self.counts.set(counts);
        counts
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
        let pool = Pool::new(roster, Arc::clone(&shared.cursor), shared.policy, seed);
        Self {
            shared,
            pool: RefCell::new(pool),
            rosters: RefCell::new(rosters),
            kit,
            starvation,
            tasks,
            flows: RefCell::default(),
            next: Cell::new(0),
        }
    }

    /// The backends that a new connection tries.
    pub(crate) fn candidates(&self) -> Candidates {
        // One look at a number while the backends stay the same. The sender lives as long as the lane.
        if self.rosters.borrow().has_changed().unwrap_or(false) {
            self.follow();
        }
        self.pool.borrow_mut().candidates()
    }

    /// The backends that have come since `tried`, for a connection that has nobody else left.
    pub(crate) fn candidates_since(&self, tried: &Candidates) -> Option<Candidates> {
        // Looked at in any case: a backend is told to leave a moment before its successors are announced.
        self.follow();
        self.pool.borrow_mut().candidates_since(tried)
    }

    fn follow(&self) {
        let roster = Arc::clone(&self.rosters.borrow_mut().borrow_and_update());
        self.pool.borrow_mut().set_roster(roster);
    }

    /// Adds a flow to the table, until the result is dropped.
    pub(crate) fn enter(self: &Rc<Self>, virtual_ip: Option<IpAddr>, place: Option<Box<Place>>) -> Entry {
        let key = self.next.get();
        self.next.set(key + 1);
        let record = Rc::new(Record { virtual_ip, _place: place, ..Record::default() });
        self.flows.borrow_mut().insert(key, Rc::clone(&record));
        Entry { lane: Rc::clone(self), key, record }
    }

    /// Ends the flows that have been silent for too long.
    pub(crate) fn end_idle_flows(&self) {
        self.end_where(End::Idle, Record::count_silence);
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
    }
}
