//! One thread that carries flows.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::Frontends;
use crate::drain::{Orders, Phase};
use crate::lane::{IDLE_PARTS, Kit, Lane};
use crate::listen::Listener;
use crate::reactor::Reactor;
use crate::rebalance::LOOK;
use crate::tcp;

/// How often an accept loop or flow that found no free file descriptor looks again although no flow has
/// ended: other parts of the process use descriptors too.
const STARVED_RETRY: Duration = Duration::from_millis(500);

/// The wire from ending flows to whoever waits for a file descriptor, over all workers.
#[derive(Debug, Default)]
pub(crate) struct Starvation {
    waiting: AtomicUsize,
    relief: Notify,
}

impl Starvation {
    /// Waits until a flow has ended, or for [`STARVED_RETRY`].
    pub(crate) async fn wait(&self, frontend: &str, error: &io::Error) {
        let _waiting = Waiting::enter(self, frontend, error);
        // Whether relief comes or not, accepting is tried again.
        let _ = tokio::time::timeout(STARVED_RETRY, self.relief.notified()).await;
    }

    /// Notes that a flow has ended.
    pub(crate) fn relieve(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.relief.notify_waiters();
        }
    }
}

/// Somebody who waits; counted out even if the wait is cancelled.
struct Waiting<'a>(&'a Starvation);

impl<'a> Waiting<'a> {
    fn enter(starvation: &'a Starvation, frontend: &str, error: &io::Error) -> Self {
        if starvation.waiting.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!(frontend, %error, "out of file descriptors or memory: connections wait for a flow to end");
        }
        Self(starvation)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Everything a worker thread starts with.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) frontends: Frontends,
    /// For each frontend its listeners.
    pub(crate) listeners: Vec<Vec<TcpListener>>,
    pub(crate) orders: watch::Receiver<Orders>,
    pub(crate) starvation: Arc<Starvation>,
    /// Dropped when the worker has ended.
    pub(crate) alive: mpsc::Sender<Infallible>,
    /// For the random choices of its pools.
    pub(crate) seed: u64,
}

/// What woke a worker.
enum Event {
    Orders { gone: bool },
    Sweep,
    Idle,
}

impl Worker {
    /// Runs on the calling thread until every flow has ended after an order to drain or stop. `started` hears
    /// once whether it could begin.
    pub(crate) fn run(mut self, started: &std::sync::mpsc::SyncSender<io::Result<()>>) {
        let runtime = match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
            Ok(runtime) => runtime,
            // A starter that has gone has no use for the answer.
            Err(error) => return drop(started.send(Err(error))),
        };
        runtime.block_on(async {
            match self.lanes() {
                Ok((lanes, tasks)) => {
                    let _ = started.send(Ok(()));
                    self.supervise(&lanes, &tasks).await;
                }
                Err(error) => drop(started.send(Err(error))),
            }
        });
    }

    /// Starts accepting.
    fn lanes(&mut self) -> io::Result<(Vec<Rc<Lane>>, TaskTracker)> {
        let tasks = TaskTracker::new();
        let kit = Rc::new(Kit::new()?);
        tokio::task::spawn_local(watch_sockets(Rc::clone(&kit.reactor)));
        let mut lanes = Vec::with_capacity(self.frontends.len());
        for (shared, listeners) in self.frontends.iter().zip(std::mem::take(&mut self.listeners)) {
            let lane = Rc::new(Lane::new(
                Arc::clone(shared),
                self.seed,
                Rc::clone(&kit),
                Arc::clone(&self.starvation),
                tasks.clone(),
            ));
            let listens_nowhere = listeners.is_empty();
            for listener in listeners {
                let listener = Listener::new(listener, &kit.reactor)?;
                tasks.spawn_local(tcp::accept(Rc::clone(&lane), listener, self.orders.clone()));
            }
            if listens_nowhere {
                // A worker ends with its last task: one that listens nowhere has this, until it is told to stop.
                let mut orders = self.orders.clone();
                tasks.spawn_local(async move {
                    // A sender that is gone says the same.
                    let _ = orders.wait_for(|orders| orders.phase != Phase::Running).await;
                });
            }
            lanes.push(lane);
        }
        tasks.close();
        Ok((lanes, tasks))
    }

    /// Passes orders on to the flows, counts their silence, and joins them.
    ///
    /// Waits for a change of the orders, the next count of silence, or the end of the last task. Not
    /// cancelled.
    async fn supervise(mut self, lanes: &[Rc<Lane>], tasks: &TaskTracker) {
        let mut seen = self.orders.borrow().clone();
        let now = Instant::now();
        let mut sweeps: Vec<_> = lanes.iter().map(|lane| Sweeps::new(Rc::clone(lane), now)).collect();
        loop {
            let sweep = sweeps.iter().filter_map(Sweeps::next).min();
            let event = tokio::select! {
                biased;
                changed = self.orders.changed() => Event::Orders { gone: changed.is_err() },
                () = tasks.wait() => Event::Idle,
                () = until(sweep) => Event::Sweep,
            };
            match event {
                Event::Idle => return,
                Event::Orders { gone: true } => break,
                Event::Orders { gone: false } => {
                    let orders = self.orders.borrow_and_update().clone();
                    if orders.phase == Phase::Stopped {
                        break;
                    }
                    obey(lanes, &seen, &orders);
                    seen = orders;
                }
                Event::Sweep => sweeps.iter_mut().for_each(|sweeps| sweeps.sweep(Instant::now())),
            }
        }
        lanes.iter().for_each(|lane| lane.end_all_flows());
        tasks.wait().await;
        drop(self.alive);
    }
}

/// When the flows of a lane are looked at; never, where none of them ends by time.
struct Sweeps {
    lane: Rc<Lane>,
    idle: Option<Instant>,
    old: Option<Instant>,
}

impl Sweeps {
    fn new(lane: Rc<Lane>, now: Instant) -> Self {
        let mut sweeps = Self { lane, idle: None, old: None };
        sweeps.idle = sweeps.idle_period().map(|period| now + period);
        sweeps.old = sweeps.old_period().map(|period| now + period);
        sweeps
    }

    fn idle_period(&self) -> Option<Duration> {
        self.lane.shared.timeouts.idle.map(|idle| idle / u32::from(IDLE_PARTS))
    }

    fn old_period(&self) -> Option<Duration> {
        self.lane.shared.timeouts.max_age.map(|_| LOOK)
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

/// Wakes flows and accept loops as long as there are any; it ends with the runtime.
async fn watch_sockets(reactor: Rc<Reactor>) {
    let Err(error) = reactor.run().await;
    // The instance is ours alone and valid: the kernel has no reason to refuse. Without it, nothing would ever move again.
    panic!("the worker's sockets can't be watched: {error}");
}

/// Tells the flows what has changed between two orders.
fn obey(lanes: &[Rc<Lane>], before: &Orders, now: &Orders) {
    if now.sheds != before.sheds {
        for shed in &*now.shed {
            lanes[shed.frontend].shed(shed);
        }
    }
    for lane in lanes {
        if now.deaths != before.deaths {
            lane.end_flows_to_the_dead();
        }
        if now.closures != before.closures {
            lane.end_flows_to_the_closed();
        }
        if now.moves != before.moves {
            lane.end_flows_to_others(&now.held);
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
