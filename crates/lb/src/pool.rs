//! The backends of one frontend: their health and counts, and the order in which a connection tries them.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use fastrand::Rng;

use crate::config::Policy;
use crate::health::Health;
use crate::policy;
use crate::roster::{Roster, Standing};
use crate::slow_start;
use crate::source_hash;
use crate::tally::{Checks, Ends};
use crate::target::Target;

/// An event count that stays at its maximum instead of starting over.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds `events`.
    pub(crate) fn add(&self, events: u64) {
        // One atomic instruction in all but the last of 2^64 events.
        if self.0.fetch_add(events, Ordering::Relaxed).checked_add(events).is_none() {
            self.0.store(u64::MAX, Ordering::Relaxed);
        }
    }

    /// The count.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What all threads know and count about one backend.
///
/// The counts are independent of each other and order nothing else, so relaxed access is enough for them.
/// Health and deaths belong together: whoever has seen a death sees the health that it left. A connection that
/// comes in and the order to leave may cross: they are in one order that all threads agree on.
#[derive(Debug)]
pub(crate) struct Member {
    health: AtomicU8,
    deaths: AtomicU32,
    open: AtomicUsize,
    left: AtomicBool,
    /// It has died because its port is closed, and may still be answering what it has begun.
    closing: AtomicBool,
    /// A command has taken it out of use.
    drained: AtomicBool,
    /// The set of backends says so.
    cordoned: AtomicBool,
    /// A check waits for its answer, or has had none.
    overdue: AtomicBool,
    /// When it came back, by the age of its frontend in milliseconds and one more; 0 once it has its whole share.
    back: AtomicU64,
    /// Connections made.
    pub(crate) total: Counter,
    /// Connects that failed.
    pub(crate) connect_failures: Counter,
    /// Flows that went on to another backend.
    pub(crate) retries: Counter,
    /// How its checks went.
    pub(crate) checks: Checks,
    /// How flows ended that it had taken.
    pub(crate) ends: Ends,
    /// Bytes sent to the backend.
    pub(crate) to_backend: Counter,
    /// Bytes sent to clients.
    pub(crate) to_client: Counter,
}

impl Default for Member {
    fn default() -> Self {
        Self {
            health: AtomicU8::new(encode(Health::Unknown)),
            deaths: AtomicU32::new(0),
            open: AtomicUsize::new(0),
            left: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            drained: AtomicBool::new(false),
            cordoned: AtomicBool::new(false),
            overdue: AtomicBool::new(false),
            back: AtomicU64::new(0),
            total: Counter::default(),
            connect_failures: Counter::default(),
            retries: Counter::default(),
            checks: Checks::default(),
            ends: Ends::default(),
            to_backend: Counter::default(),
            to_client: Counter::default(),
        }
    }
}

impl Member {
    /// What the checks found last.
    pub(crate) fn health(&self) -> Health {
        decode(self.health.load(Ordering::Relaxed))
    }

    /// Publishes what the checks found. Only the backend's one probe does.
    pub(crate) fn set_health(&self, health: Health) {
        self.health.store(encode(health), Ordering::Release);
        if health == Health::Dead {
            self.deaths.fetch_add(1, Ordering::Release);
        }
    }

    /// Times that it has died. A connection begun before the last death belongs to a dead process; one begun
    /// after it was tried for want of anything better.
    pub(crate) fn deaths(&self) -> u32 {
        self.deaths.load(Ordering::Acquire)
    }

    /// Says whether those who died with it have to wait for its last answers. Told before the death.
    pub(crate) fn set_closing(&self, closing: bool) {
        self.closing.store(closing, Ordering::Release);
    }

    /// True while flows from before its last death go on.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Open connections, including those still connecting.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// True while it has no connection. Of one that has left, and stays so, it is the last word.
    pub(crate) fn is_vacant(&self) -> bool {
        self.open.load(Ordering::SeqCst) == 0
    }

    /// Counts one more open connection.
    pub(crate) fn enter(&self) {
        self.open.fetch_add(1, Ordering::SeqCst);
    }

    /// Counts one less; true if it was the last one of a backend that has left.
    pub(crate) fn exit(&self) -> bool {
        let before = self.open.fetch_sub(1, Ordering::SeqCst);
        debug_assert!(before > 0, "a connection was counted out twice");
        before == 1 && self.has_left()
    }

    /// Takes over how many connections are open, where others count them; true if a backend that has left has none any more.
    pub(crate) fn observe(&self, open: usize) -> bool {
        self.open.swap(open, Ordering::SeqCst) > 0 && open == 0 && self.has_left()
    }

    /// It gets no new connection from now on.
    pub(crate) fn leave(&self) {
        self.left.store(true, Ordering::SeqCst);
    }

    /// It gets connections, whether or not it had left.
    pub(crate) fn stay(&self) {
        self.left.store(false, Ordering::SeqCst);
    }

    /// Takes it out of use by command, or back; tells whether that changed anything.
    pub(crate) fn set_drained(&self, drained: bool) -> bool {
        self.drained.swap(drained, Ordering::Relaxed) != drained
    }

    /// True while a command has taken it out of use.
    pub(crate) fn is_drained(&self) -> bool {
        self.drained.load(Ordering::Relaxed)
    }

    /// Takes it out of use as the set of backends says, or back.
    pub(crate) fn set_cordoned(&self, cordoned: bool) {
        self.cordoned.store(cordoned, Ordering::Relaxed);
    }

    /// Notes whether a check waits for its answer, or has had none; tells whether that is news.
    pub(crate) fn set_overdue(&self, overdue: bool) -> bool {
        self.overdue.swap(overdue, Ordering::Relaxed) != overdue
    }

    /// True while the set of backends takes it out of use.
    pub(crate) fn is_cordoned(&self) -> bool {
        self.cordoned.load(Ordering::Relaxed)
    }

    /// True while it is out of use, by whatever word.
    pub(crate) fn is_out(&self) -> bool {
        self.is_drained() || self.is_cordoned()
    }

    /// Has its share grow from now on, which is the age of its frontend.
    pub(crate) fn start_slowly(&self, now: Duration) {
        self.back.store(whole_millis(now).saturating_add(1), Ordering::Relaxed);
    }

    /// True if its share may still be growing; [`share`](Self::share) knows.
    fn starts_slowly(&self) -> bool {
        self.back.load(Ordering::Relaxed) != 0
    }

    /// What it gets of what its policy would give it, out of [`slow_start::WHOLE`].
    pub(crate) fn share(&self, now: Duration, slow_start: Duration) -> u32 {
        let back = self.back.load(Ordering::Relaxed);
        let Some(since) = back.checked_sub(1) else { return slow_start::WHOLE };
        let share = slow_start::share(now.saturating_sub(Duration::from_millis(since)), slow_start);
        if share == slow_start::WHOLE {
            // Nobody need look at a clock any more; unless it has come back anew just now.
            let _ = self.back.compare_exchange(back, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
        share
    }

    /// How early it is tried, and among which others.
    pub(crate) fn rank(&self) -> u8 {
        let rank = encode(self.health());
        // It may be as good as dead, and nobody knows yet.
        let rank =
            if self.overdue.load(Ordering::Relaxed) { rank.max(encode(Health::Unknown)) } else { rank };
        // Like one that says itself that it is about to go: nothing new, as long as there is another.
        if self.is_out() { rank.max(encode(Health::Draining)) } else { rank }
    }

    /// True while it gets no new connection.
    pub(crate) fn has_left(&self) -> bool {
        self.left.load(Ordering::SeqCst)
    }
}

fn whole_millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
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

/// Orders the backends of one frontend for each new connection. Every worker has its own.
#[derive(Debug)]
pub(crate) struct Pool {
    roster: Arc<Roster>,
    /// Connections placed so far; round robin counts over all workers.
    cursor: Arc<AtomicUsize>,
    policy: Policy,
    /// For how long the share of one that has come back grows.
    slow_start: Option<Duration>,
    rng: Rng,
}

impl Pool {
    /// A pool whose random choices follow from `seed`.
    pub(crate) fn new(
        roster: Arc<Roster>,
        cursor: Arc<AtomicUsize>,
        policy: Policy,
        slow_start: Option<Duration>,
        seed: u64,
    ) -> Self {
        Self { roster, cursor, policy, slow_start, rng: Rng::with_seed(seed) }
    }

    /// Chooses among the backends of `roster` from now on.
    pub(crate) fn set_roster(&mut self, roster: Arc<Roster>) {
        self.roster = roster;
    }

    /// Orders them by this rule from now on.
    pub(crate) fn set_policy(&mut self, policy: Policy, slow_start: Option<Duration>) {
        (self.policy, self.slow_start) = (policy, slow_start);
    }

    /// Every backend once, in the order in which one connection tries them: the ready ones first, then those
    /// of unknown health, the draining and the dead, since a needless attempt costs less than a refused
    /// client. `age` is that of the frontend, and asked for only while the share of a backend grows.
    pub(crate) fn candidates(
        &mut self,
        client: Option<IpAddr>,
        age: impl FnOnce() -> Duration,
    ) -> Candidates {
        self.choose(client, |_| true, age)
    }

    /// The same for a connection that has nobody left of `tried`: those that came since, or `None` when the
    /// backends are still the same.
    pub(crate) fn candidates_since(
        &mut self,
        tried: &Candidates,
        client: Option<IpAddr>,
        age: impl FnOnce() -> Duration,
    ) -> Option<Candidates> {
        let before = &tried.roster;
        let changed = !Arc::ptr_eq(before, &self.roster);
        let has_come = |target: &Arc<Target>| before.standing(target) != Some(Standing::Present);
        changed.then(|| self.choose(client, has_come, age))
    }

    fn choose(
        &mut self,
        client: Option<IpAddr>,
        wanted: impl Fn(&Arc<Target>) -> bool,
        age: impl FnOnce() -> Duration,
    ) -> Candidates {
        let present = self.roster.present();
        // Of whom nobody knows who he is, the connection was gone before it was accepted.
        let client = client.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let weight = |index: u8| source_hash::weight(client, present[usize::from(index)].address);
        // One reading of each health: a flip in the middle must neither drop nor repeat a backend. Deaths are
        // read first, so that a death after this choice is never mistaken for a known one.
        let mut ranked: Vec<(u8, u8, u32)> = Vec::with_capacity(present.len());
        let mut some_start_slowly = false;
        ranked.extend((0..=u8::MAX).zip(present).filter(|(_, target)| wanted(target)).map(
            |(index, target)| {
                let deaths = target.member.deaths();
                some_start_slowly |= target.member.starts_slowly();
                (target.member.rank() << 1, index, deaths)
            },
        ));
        if let Some(slow_start) = self.slow_start.filter(|_| some_start_slowly) {
            let now = age();
            for (rank, index, _) in &mut ranked {
                let share = present[usize::from(*index)].member.share(now, slow_start);
                if share == slow_start::WHOLE {
                    continue;
                }
                let needed = match self.policy {
                    Policy::SourceHash => source_hash::threshold(weight(*index)),
                    Policy::LeastConnections | Policy::RoundRobin => self.rng.u32(..slow_start::WHOLE),
                };
                if needed >= share {
                    *rank |= HELD_BACK;
                }
            }
        }
        ranked.sort_unstable();
        let cursor = self.cursor.fetch_add(1, Ordering::Relaxed);
        let mut order = Vec::with_capacity(ranked.len());
        for class in ranked.chunk_by(|one, other| one.0 == other.0) {
            let start = order.len();
            order.extend(class.iter().map(|(_, index, deaths)| Place { index: *index, deaths: *deaths }));
            let open = |place: Place| present[usize::from(place.index)].member.open();
            let weight = |place: Place| weight(place.index);
            policy::order(self.policy, &mut order[start..], open, weight, cursor, &mut self.rng);
        }
        Candidates { roster: Arc::clone(&self.roster), order, next: 0 }
    }
}

/// In the lowest bit of a rank: it doesn't take this connection if others of the same health do, since its share is not whole yet.
const HELD_BACK: u8 = 1;

/// A backend's place in a roster; [`MAX_BACKENDS`](crate::MAX_BACKENDS) fit.
#[derive(Debug, Clone, Copy)]
struct Place {
    index: u8,
    deaths: u32,
}

/// A backend that a connection may try.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    /// The backend.
    pub(crate) target: Arc<Target>,
    /// How often it had died when it was chosen.
    deaths: u32,
}

impl Candidate {
    /// True when it has died since it was chosen.
    pub(crate) fn has_died(&self) -> bool {
        self.target.member.deaths() != self.deaths
    }
}

/// The backends that one connection still has to try.
#[derive(Debug, Clone)]
pub(crate) struct Candidates {
    roster: Arc<Roster>,
    order: Vec<Place>,
    next: usize,
}

impl Iterator for Candidates {
    type Item = Candidate;

    fn next(&mut self) -> Option<Candidate> {
        let place = self.order.get(self.next)?;
        self.next += 1;
        let target = Arc::clone(&self.roster.present()[usize::from(place.index)]);
        Some(Candidate { target, deaths: place.deaths })
    }
}

#[cfg(test)]
mod tests;
