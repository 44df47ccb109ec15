//! No renewal takes memory: once the members know each other, an allocator that counts has nothing to count.
//!
//! An allocator may ask the kernel for pages, and wait for a lock that an ordinary thread has; a loop that renews a lease of
//! milliseconds can't afford either.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use leader::{
    Leadership, NodeId, Timing,
    member::{Config, Member},
    peers::{Driver, Key},
    quorum,
};
use tokio::task::{LocalSet, spawn_local};

/// The system's allocator, and how often each thread has asked it.
struct Counting;

thread_local! {
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // A thread that ends has nothing more to count with.
    let _ = ASKED.try_with(|asked| asked.set(asked.get() + 1));
}

#[expect(unsafe_code, reason = "an allocator has no safe form; each call goes to the system's as it comes")]
// SAFETY: all of it is the system's allocator, whose contract is this one's; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps to the contract of `GlobalAlloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // To give back is to take the same locks.
        count();
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often this thread has asked the allocator for something.
fn asked() -> u64 {
    ASKED.with(Cell::get)
}

const NODES: [&str; 3] = ["master-1", "master-2", "master-3"];

fn node(place: usize) -> NodeId {
    NodeId::new(NODES[place]).unwrap()
}

fn config(me: usize, timing: Timing, address: impl Fn(usize) -> SocketAddr) -> Config {
    let others = (0..NODES.len()).filter(|place| *place != me);
    Config {
        listen: address(me),
        peers: others.map(|place| (node(place), address(place))).collect(),
        subject: None,
        keys: vec![Key::new(1, b"a secret of sixteen bytes or more").unwrap()],
        version: "0.1.0".to_owned(),
        quorum: quorum::Config {
            me: node(me),
            witnesses: BTreeSet::new(),
            tie_break: None,
            members: (0..NODES.len()).map(node).collect(),
            timing,
            priority: 100,
            preempt: true,
            preempt_delay: Duration::ZERO,
            start_as_leader: false,
        },
    }
}

/// Members whose datagrams arrive at once.
struct Segment {
    now: Instant,
    members: Vec<Member>,
    /// From, to, and what.
    under_way: Vec<(usize, usize, Vec<u8>)>,
    /// How often the members asked for memory.
    asked: [u64; NODES.len()],
}

fn at(place: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, u8::try_from(place).unwrap()], 10_000))
}

impl Segment {
    fn new() -> Self {
        let now = tokio::time::Instant::now().into_std();
        let member = |place: usize| {
            let incarnation = place as u64 + 1;
            Member::new(&config(place, Timing::FAST, at), incarnation, incarnation, now).unwrap()
        };
        Self { now, members: (0..NODES.len()).map(member).collect(), under_way: Vec::new(), asked: [0; 3] }
    }

    /// Has a member do something, and counts what it takes.
    fn watched<T>(&mut self, place: usize, what: impl FnOnce(&mut Member, Instant) -> T) -> T {
        let before = asked();
        let done = what(&mut self.members[place], self.now);
        self.asked[place] += asked() - before;
        done
    }

    fn drain(&mut self, place: usize) {
        loop {
            // The driver's buffer, which is there already.
            let mut bytes = Vec::with_capacity(512);
            let sent = self.watched(place, |member, now| {
                while member.election.poll_event().is_some() {}
                let _ = member.election.leadership(now);
                member.poll_datagram(now, &mut bytes)
            });
            let Some(to) = sent else { return };
            let to = (0..NODES.len()).find(|place| at(*place) == to).unwrap();
            self.under_way.push((place, to, bytes));
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            (0..NODES.len()).for_each(|place| self.drain(place));
            while !self.under_way.is_empty() {
                let (from, to, bytes) = self.under_way.remove(0);
                self.watched(to, |member, now| member.handle_datagram(at(from), &bytes, now));
                self.drain(to);
            }
            let due = |member: &Member| member.election.poll_timeout();
            let Some(next) = self.members.iter().filter_map(due).min().filter(|due| *due <= end) else {
                break;
            };
            self.now = self.now.max(next);
            for place in 0..NODES.len() {
                if due(&self.members[place]).is_some_and(|due| due <= self.now) {
                    self.watched(place, |member, now| member.election.handle_timeout(now));
                    self.drain(place);
                }
            }
        }
        self.now = end;
    }

    fn lease_ends(&self) -> BTreeMap<usize, Instant> {
        let ends = self.members.iter().enumerate();
        ends.filter_map(|(place, member)| Some((place, member.election.lease_end(self.now)?))).collect()
    }
}

#[test]
fn neither_a_leader_nor_its_followers_take_memory_for_a_renewal() {
    let mut segment = Segment::new();
    segment.run(Duration::from_secs(1));
    let before = segment.lease_ends();
    assert_eq!(before.len(), 1, "one leads: {before:?}");
    assert!(segment.asked.iter().all(|asked| *asked > 0), "the allocator counts: {:?}", segment.asked);

    segment.asked = [0; NODES.len()];
    segment.run(Duration::from_secs(1));
    let after = segment.lease_ends();
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    assert!(after.values().zip(before.values()).all(|(after, before)| after > before), "it was renewed");
    assert_eq!(segment.asked, [0; NODES.len()], "of 500 renewals");
}

/// All three on one thread, so that whatever they do is counted.
#[test]
fn nor_do_the_loops_around_them() {
    let timing = Timing::new(Duration::from_millis(10), Duration::from_millis(500)).unwrap();
    let [.., high, low] = std::process::id().to_be_bytes();
    let address = |place: usize| {
        SocketAddr::from((Ipv4Addr::new(127, high, low, 101 + u8::try_from(place).unwrap()), 10_240))
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let mut handles = Vec::new();
        for place in 0..NODES.len() {
            let incarnation = place as u64 + 1;
            let config = config(place, timing, address);
            let (driver, handle, monitor) = Driver::bind(config, incarnation, incarnation).await.unwrap();
            spawn_local(driver.run());
            handles.push((handle, monitor));
        }
        let mut leadership = handles[0].0.leadership();
        let leads = |leadership: &Leadership| matches!(leadership, Leadership::Leader { .. });
        // Of equals the first leads.
        leadership.wait_for(leads).await.unwrap();
        renewals(&mut leadership, 100).await;
        // A line of the log, a peer that is heard late or a lease that is lost takes memory, as it should: a busy machine may need
        // more than one try, and a renewal that takes any never has one without.
        for _ in 0..50 {
            let before = asked();
            renewals(&mut leadership, 50).await;
            if asked() == before {
                return;
            }
        }
        panic!("each time, 50 renewals took memory");
    });
}

/// Waits until the lease was renewed so often: half a second for fifty, and with it the status of the peers, twice.
async fn renewals(leadership: &mut tokio::sync::watch::Receiver<Leadership>, count: usize) {
    for _ in 0..count {
        leadership.changed().await.unwrap();
        let _ = leadership.borrow_and_update();
    }
}
