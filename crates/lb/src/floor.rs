//! What one worker has: a lane for each frontend, and a task for each of its listeners.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::drain::{Orders, Phase};
use crate::lane::{IDLE_PARTS, Kit, Lane};
use crate::layout::Layout;
use crate::listen::Listener;
use crate::rebalance::LOOK;
use crate::tcp::{self, Post};
use crate::worker::Starvation;

/// The lanes and listeners of one worker.
pub(crate) struct Floor {
    kit: Rc<Kit>,
    starvation: Arc<Starvation>,
    /// Joins the flows and accept loops.
    tasks: TaskTracker,
    orders: watch::Receiver<Orders>,
    seed: u64,
    /// As many as there are frontends.
    rows: Vec<Row>,
    posts: BTreeMap<SocketAddr, Standing>,
    /// Watched, and not in use yet.
    prepared: BTreeMap<SocketAddr, Listener>,
}

/// A lane, and when its flows are looked at; never, where none of them ends by time.
struct Row {
    lane: Rc<Lane>,
    /// When their silence is counted.
    idle: Option<Instant>,
    /// When their age is looked at.
    old: Option<Instant>,
}

impl Row {
    fn new(lane: Rc<Lane>, now: Instant) -> Self {
        let mut row = Self { lane, idle: None, old: None };
        row.idle = row.idle_period().map(|period| now + period);
        row.old = row.old_period().map(|period| now + period);
        row
    }

    /// Follows the frontend's settings. Where a period is the same, what is due stays so, however often they change.
    fn follow(&mut self, now: Instant) {
        let (idle, old) = (self.idle_period(), self.old_period());
        self.lane.follow_settings();
        if self.idle_period() != idle {
            self.idle = self.idle_period().map(|period| now + period);
        }
        if self.old_period() != old {
            self.old = self.old_period().map(|period| now + period);
        }
    }

    fn idle_period(&self) -> Option<Duration> {
        self.lane.settings().timeouts.idle.map(|idle| idle / u32::from(IDLE_PARTS))
    }

    fn old_period(&self) -> Option<Duration> {
        self.lane.settings().timeouts.max_age.map(|_| LOOK)
    }

    fn next(&self) -> Option<Instant> {
        self.idle.into_iter().chain(self.old).min()
    }

    fn sweep(&mut self, now: Instant) {
        if self.idle.is_some_and(|due| due <= now) {
            self.lane.end_idle_flows();
            self.idle = self.idle_period().map(|period| now + period);
        }
        if self.old.is_some_and(|due| due <= now) {
            self.lane.end_old_flows(now);
            self.old = self.old_period().map(|period| now + period);
        }
    }
}

/// A post, and the task that accepts there: with the end of that, the listener is closed.
struct Standing {
    post: Weak<Post>,
    task: JoinHandle<()>,
}

impl Floor {
    /// An empty one, for the runtime of the calling thread.
    pub(crate) fn new(
        kit: Rc<Kit>,
        starvation: Arc<Starvation>,
        orders: watch::Receiver<Orders>,
        seed: u64,
    ) -> Self {
        let tasks = TaskTracker::new();
        let mut phases = orders.clone();
        // A worker ends with its last task: one that listens nowhere has this, until it is told to stop.
        tasks.spawn_local(async move {
            // A sender that is gone says the same.
            let _ = phases.wait_for(|orders| orders.phase != Phase::Running).await;
        });
        tasks.close();
        let (posts, prepared) = (BTreeMap::new(), BTreeMap::new());
        Self { kit, starvation, tasks, orders, seed, rows: Vec::new(), posts, prepared }
    }

    /// Its flows and accept loops.
    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Its lanes.
    pub(crate) fn lanes(&self) -> impl Iterator<Item = &Rc<Lane>> {
        self.rows.iter().map(|row| &row.lane)
    }

    /// Has listeners watched that the next layout names, in place of those that were prepared before.
    ///
    /// # Errors
    /// One can't be watched. None is prepared then.
    pub(crate) fn prepare(&mut self, listeners: Vec<TcpListener>) -> io::Result<()> {
        self.prepared.clear();
        let mut prepared = BTreeMap::new();
        for listener in listeners {
            let listener = Listener::new(listener, &self.kit.reactor)?;
            prepared.insert(listener.address()?, listener);
        }
        self.prepared = prepared;
        Ok(())
    }

    /// Accepts by a layout from now on, and leaves the listeners that it doesn't name. Flows go on.
    ///
    /// Waits until those are closed. Not cancelled.
    pub(crate) async fn follow(&mut self, layout: &Layout) {
        let now = Instant::now();
        let mut before = std::mem::take(&mut self.rows);
        for shared in layout.frontends.iter() {
            let known = before.iter().position(|row| row.lane.shared.id == shared.id);
            let row = match known.map(|place| before.swap_remove(place)) {
                Some(mut row) => {
                    row.follow(now);
                    row
                }
                None => {
                    let (shared, kit) = (Arc::clone(shared), Rc::clone(&self.kit));
                    let (starvation, tasks) = (Arc::clone(&self.starvation), self.tasks.clone());
                    Row::new(Rc::new(Lane::new(shared, self.seed, kit, starvation, tasks)), now)
                }
            };
            self.rows.push(row);
        }
        for (address, frontend) in &layout.posts {
            let lane = self.rows.iter().map(|row| &row.lane).find(|lane| lane.shared.id == *frontend);
            debug_assert!(lane.is_some(), "a layout names a frontend that it has not");
            let Some(lane) = lane else { continue };
            if let Some(post) = self.posts.get(address).and_then(|standing| standing.post.upgrade()) {
                post.assign(lane);
            } else if let Some(listener) = self.prepared.remove(address) {
                let post = Rc::new(Post::new(listener, lane));
                let standing = Rc::downgrade(&post);
                let task = self.tasks.spawn_local(tcp::accept(post, self.orders.clone()));
                self.posts.insert(*address, Standing { post: standing, task });
            }
        }
        self.prepared.clear();
        let gone = self.posts.extract_if(.., |address, _| !layout.posts.contains_key(address));
        for (_, Standing { post, task }) in gone.collect::<Vec<_>>() {
            if let Some(post) = post.upgrade() {
                post.retire();
            }
            // A panic there ends the process, or is told by the runtime.
            let _ = task.await;
        }
    }

    /// Duplicates of its listening sockets, for another process.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub(crate) fn share(&self) -> io::Result<Vec<TcpListener>> {
        let posts = self.posts.values().filter_map(|standing| standing.post.upgrade());
        posts.map(|post| post.duplicate()).collect()
    }

    /// When flows are looked at next.
    pub(crate) fn next_sweep(&self) -> Option<Instant> {
        self.rows.iter().filter_map(Row::next).min()
    }

    /// Looks at them where it is due.
    pub(crate) fn sweep(&mut self, now: Instant) {
        self.rows.iter_mut().for_each(|row| row.sweep(now));
    }
}
