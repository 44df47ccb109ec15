//! The backends of one frontend: their health and counts, and the order in which a connection tries them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use fastrand::Rng;

use crate::config::{MAX_BACKENDS, Policy};
use crate::health::Health;
use crate::policy;

/// The place of a backend in its frontend's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendId(u8);

impl BackendId {
    /// The place as an index.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// An event count that stays at its maximum instead of starting over.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `events`.
    pub fn add(&self, events: u64) {
        // One atomic instruction in all but the last of 2^64 events.
        if self.0.fetch_add(events, Ordering::Relaxed).checked_add(events).is_none() {
            self.0.store(u64::MAX, Ordering::Relaxed);
        }
    }

    /// The count.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What all threads know and count about one backend.
///
/// The counts are independent of each other and order nothing else, so relaxed access is enough for them.
/// Health and deaths belong together: whoever has seen a death sees the health that it left.
#[derive(Debug)]
pub struct Member {
    health: AtomicU8,
    deaths: AtomicU32,
    open: AtomicUsize,
    /// Connections made.
    pub total: Counter,
    /// Connects that failed.
    pub connect_failures: Counter,
    /// Flows that went on to another backend.
    pub retries: Counter,
    /// Bytes sent to the backend.
    pub to_backend: Counter,
    /// Bytes sent to clients.
    pub to_client: Counter,
}

impl Default for Member {
    fn default() -> Self {
        Self {
            health: AtomicU8::new(encode(Health::Unknown)),
            deaths: AtomicU32::new(0),
            open: AtomicUsize::new(0),
            total: Counter::default(),
            connect_failures: Counter::default(),
            retries: Counter::default(),
            to_backend: Counter::default(),
            to_client: Counter::default(),
        }
    }
}

impl Member {
    /// What the checks found last.
    #[must_use]
    pub fn health(&self) -> Health {
        decode(self.health.load(Ordering::Relaxed))
    }

    /// Publishes what the checks found. Only the backend's one probe does.
    pub fn set_health(&self, health: Health) {
        self.health.store(encode(health), Ordering::Release);
        if health == Health::Dead {
            self.deaths.fetch_add(1, Ordering::Release);
        }
    }

    /// Times that it has died. A connection begun before the last death belongs to a dead process; one begun
    /// after it was tried for want of anything better.
    #[must_use]
    pub fn deaths(&self) -> u32 {
        self.deaths.load(Ordering::Acquire)
    }

    /// Open connections, including those still connecting.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

/// How early a backend of this health is tried, and at the same time its form in an atomic.
const fn encode(health: Health) -> u8 {
    match health {
        Health::Ready => 0,
        Health::Unknown => 1,
        Health::Draining => 2,
        Health::Dead => 3,
    }
}

fn decode(byte: u8) -> Health {
    [Health::Ready, Health::Unknown, Health::Draining].get(usize::from(byte)).copied().unwrap_or(Health::Dead)
}

/// The backends of one frontend, shared by all threads.
#[derive(Debug)]
pub struct Members {
    members: Vec<Member>,
    /// Connections placed so far; round robin counts over all workers.
    cursor: AtomicUsize,
}

impl Members {
    /// `count` backends of unknown health, at most [`MAX_BACKENDS`].
    #[must_use]
    pub fn new(count: usize) -> Self {
        assert!(count <= MAX_BACKENDS, "a frontend has at most {MAX_BACKENDS} backends");
        Self { members: (0..count).map(|_| Member::default()).collect(), cursor: AtomicUsize::new(0) }
    }

    /// All backends, in the order of the configuration.
    pub fn ids(&self) -> impl Iterator<Item = BackendId> + use<> {
        // The constructor bounds the length.
        (0..u8::try_from(self.members.len()).unwrap_or(u8::MAX)).map(BackendId)
    }

    /// What is known about `id`.
    #[must_use]
    pub fn member(&self, id: BackendId) -> &Member {
        &self.members[id.index()]
    }

    /// False when every backend is dead.
    #[must_use]
    pub fn usable(&self) -> bool {
        self.members.iter().any(|member| member.health() != Health::Dead)
    }

    /// Counts a connection to `id` as open until the result is dropped.
    pub fn enter(self: &Arc<Self>, id: BackendId) -> Open {
        self.member(id).open.fetch_add(1, Ordering::Relaxed);
        Open { members: Arc::clone(self), id }
    }
}

/// A connection that counts as open on its backend.
#[derive(Debug)]
pub struct Open {
    members: Arc<Members>,
    id: BackendId,
}

impl Open {
    /// The backend.
    #[must_use]
    pub fn id(&self) -> BackendId {
        self.id
    }

    /// What is known about the backend.
    #[must_use]
    pub fn member(&self) -> &Member {
        self.members.member(self.id)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let before = self.member().open.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "a connection was counted out twice");
    }
}

/// Orders the backends of one frontend for each new connection. Every worker has its own, over the same
/// [`Members`].
#[derive(Debug)]
pub struct Pool {
    members: Arc<Members>,
    policy: Policy,
    rng: Rng,
}

impl Pool {
    /// A pool whose random choices follow from `seed`.
    #[must_use]
    pub fn new(members: Arc<Members>, policy: Policy, seed: u64) -> Self {
        Self { members, policy, rng: Rng::with_seed(seed) }
    }

    /// Every backend once, in the order in which one connection tries them: the ready ones first, then those
    /// of unknown health, the draining and the dead, since a needless attempt costs less than a refused
    /// client.
    pub fn candidates(&mut self) -> Candidates {
        // One reading of each health: a flip in the middle must neither drop nor repeat a backend. Deaths are
        // read first, so that a death after this choice is never mistaken for a known one.
        let mut ranked: Vec<(u8, BackendId, u32)> = Vec::with_capacity(self.members.members.len());
        ranked.extend(self.members.ids().map(|id| {
            let member = self.members.member(id);
            let deaths = member.deaths();
            (encode(member.health()), id, deaths)
        }));
        ranked.sort_unstable();
        let cursor = self.members.cursor.fetch_add(1, Ordering::Relaxed);
        let mut order = Vec::with_capacity(ranked.len());
        for class in ranked.chunk_by(|one, other| one.0 == other.0) {
            let start = order.len();
            order.extend(class.iter().map(|(_, id, deaths)| Candidate { id: *id, deaths: *deaths }));
            let open = |candidate: Candidate| self.members.member(candidate.id).open();
            policy::order(self.policy, &mut order[start..], open, cursor, &mut self.rng);
        }
        Candidates { order, next: 0 }
    }
}

/// A backend that a connection may try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// The backend.
    pub id: BackendId,
    /// How often it had died when it was chosen.
    pub deaths: u32,
}

/// The backends that one connection still has to try.
#[derive(Debug, Clone)]
pub struct Candidates {
    order: Vec<Candidate>,
    next: usize,
}

impl Iterator for Candidates {
    type Item = Candidate;

    fn next(&mut self) -> Option<Candidate> {
        let candidate = self.order.get(self.next).copied()?;
        self.next += 1;
        Some(candidate)
    }
}

#[cfg(test)]
mod tests;
