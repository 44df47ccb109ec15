//! One thread that carries flows.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use crate::control::Started;
use crate::drain::{Orders, Phase};
use crate::executor;
use crate::floor::Floor;
use crate::lane::Kit;
use crate::layout::{Layout, Turn};
use crate::reactor::Reactor;

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
    pub(crate) layout: Arc<Layout>,
    pub(crate) listeners: Vec<TcpListener>,
    pub(crate) orders: watch::Receiver<Orders>,
    pub(crate) turns: mpsc::Receiver<Turn>,
    pub(crate) starvation: Arc<Starvation>,
    /// A runtime that runs elsewhere for as long as there are workers.
    pub(crate) timers: Handle,
    /// Dropped when the worker has ended.
    pub(crate) alive: mpsc::Sender<Infallible>,
    /// For the random choices of its pools.
    pub(crate) seed: u64,
}

/// What woke a worker.
enum Event {
    Orders { gone: bool },
    Turn(Turn),
    Sweep,
    Idle,
}

impl Worker {
    /// Runs on the calling thread until every flow has ended after an order to drain or stop. `started` hears
    /// once whether it could begin.
    pub(crate) fn run(mut self, started: &Started) {
        let timers = self.timers.clone();
        let _timers = timers.enter();
        let reactor = match Reactor::new() {
            Ok(reactor) => Rc::new(reactor),
            // A starter that has gone has no use for the answer.
            Err(error) => return drop(started.send(Err(error))),
        };
        let kit = Rc::new(Kit::new(Rc::clone(&reactor)));
        let hears = started.clone();
        let begun = executor::run(&reactor, async move {
            match self.floor(kit).await {
                Ok(floor) => {
                    let _ = hears.send(Ok(()));
                    self.supervise(floor).await;
                }
                Err(error) => drop(hears.send(Err(error))),
            }
        });
        if let Err(error) = begun {
            drop(started.send(Err(error)));
        }
    }

    /// Starts accepting.
    async fn floor(&mut self, kit: Rc<Kit>) -> io::Result<Floor> {
        let mut floor = Floor::new(kit, Arc::clone(&self.starvation), self.orders.clone(), self.seed);
        floor.prepare(std::mem::take(&mut self.listeners))?;
        floor.follow(&self.layout).await;
        Ok(floor)
    }

    /// Passes orders on to the flows, has them accepted where the layout says, counts their silence, and joins them.
    ///
    /// Waits for a change of the orders, a turn, the next count of silence, or the end of the last task. Not
    /// cancelled.
    async fn supervise(mut self, mut floor: Floor) {
        let tasks = floor.tasks().clone();
        let mut seen = self.orders.borrow().clone();
        loop {
            let sweep = floor.next_sweep();
            let event = tokio::select! {
                biased;
                changed = self.orders.changed() => Event::Orders { gone: changed.is_err() },
                Some(turn) = self.turns.recv() => Event::Turn(turn),
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
                    obey(&floor, &seen, &orders);
                    seen = orders;
                }
                // Who asked may have stopped waiting.
                Event::Turn(Turn::Prepare { listeners, done }) => drop(done.send(floor.prepare(listeners))),
                Event::Turn(Turn::Follow { layout, done }) => {
                    floor.follow(&layout).await;
                    let _ = done.send(());
                }
                Event::Turn(Turn::Share { done }) => drop(done.send(floor.share())),
                Event::Sweep => floor.sweep(Instant::now()),
            }
        }
        floor.lanes().for_each(|lane| lane.end_all_flows());
        tasks.wait().await;
        drop(self.alive);
    }
}

/// Tells the flows what has changed between two orders.
fn obey(floor: &Floor, before: &Orders, now: &Orders) {
    for lane in floor.lanes() {
        if now.sheds != before.sheds && lane.settings().rebalance.is_some() {
            lane.look();
            let own = now.shed.iter().filter(|shed| shed.frontend == lane.shared.id);
            own.for_each(|shed| lane.shed(shed));
        }
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

/// Waits until then; for ever where there is no such instant. Cancel-safe.
pub(crate) async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
