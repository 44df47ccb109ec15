//! The thread above the workers: it runs the probes, watches the virtual IP, and ends everything.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use fastrand::Rng;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};

use crate::config::{Config, Frontend, Listen};
use crate::drain::{Drained, Orders, Phase};
use crate::frontend::Shared;
use crate::health::{Flip, Health};
use crate::probe::Plan;
use crate::probes::Probes;
use crate::rebalance::{self, Shed};
use crate::redirect::{Redirect, Table};
use crate::slow_start;
use crate::status::Monitor;
use crate::target::Target;
use crate::worker::{Starvation, Worker};
use crate::{Error, Frontends, listen, transparent};

/// Commands on their way to the control thread: draining consumes the balancer, so there is never a second
/// one.
const COMMANDS: usize = 1;

/// What the owner of a balancer can want.
#[derive(Debug)]
pub(crate) enum Command {
    Drain { deadline: Duration, reply: oneshot::Sender<Drained> },
}

/// What the probes of all backends write to.
#[derive(Debug)]
pub(crate) struct Board {
    frontends: Frontends,
    orders: watch::Sender<Orders>,
    usable: watch::Sender<bool>,
    /// Counts the changes of health and of the backends.
    changes: watch::Sender<u64>,
}

impl Board {
    pub(crate) fn new(frontends: Frontends) -> Self {
        let orders = Orders {
            phase: Phase::Running,
            held: Arc::default(),
            moves: 0,
            shed: Arc::default(),
            sheds: 0,
            deaths: 0,
        };
        Self {
            usable: watch::Sender::new(usable(&frontends)),
            frontends,
            orders: watch::Sender::new(orders),
            changes: watch::Sender::new(0),
        }
    }

    pub(crate) fn frontends(&self) -> &[Arc<Shared>] {
        &self.frontends
    }

    /// Passes a change of a backend's health on to the flows and to whoever asks whether the balancer is
    /// usable.
    pub(crate) fn publish(&self, frontend: &Shared, target: &Target, flip: &Flip) {
        if target.comes_back(flip) {
            // First, lest it gets a burst before.
            frontend.start_slowly(target, Instant::now().into_std());
        }
        target.member.set_health(flip.to);
        if flip.to == Health::Dead {
            self.orders.send_modify(|orders| orders.deaths += 1);
        }
        self.announce();
    }

    /// Has connections moved to backends that have fewer than their share, where that is wanted.
    fn rebalance(&self) {
        let now = Instant::now().into_std();
        let wanted = |(place, frontend): (usize, &Arc<Shared>)| {
            let whole_share = |target: &Target| frontend.share(target, now) == slow_start::WHOLE;
            rebalance::shed(place, &frontend.roster(), frontend.rebalance?, whole_share)
        };
        let shed: Arc<[Shed]> = self.frontends.iter().enumerate().filter_map(wanted).collect();
        if !shed.is_empty() {
            self.orders.send_modify(|orders| (orders.shed, orders.sheds) = (shed, orders.sheds + 1));
        }
    }

    /// Tells whoever asks that a health or a set of backends has changed.
    pub(crate) fn announce(&self) {
        let usable = usable(&self.frontends);
        self.usable.send_if_modified(|known| std::mem::replace(known, usable) != usable);
        self.changes.send_modify(|changes| *changes += 1);
    }
}

/// True while every frontend has a backend that is not dead.
fn usable(frontends: &[Arc<Shared>]) -> bool {
    frontends.iter().all(|frontend| frontend.roster().usable())
}

/// A bound balancer whose threads do not run yet.
pub(crate) struct Control {
    board: Board,
    plans: Vec<Plan>,
    /// Rung when the backends of a frontend have changed.
    review: Arc<Notify>,
    /// For each worker, for each frontend, its listeners.
    listeners: Vec<Vec<Vec<TcpListener>>>,
    /// What leads to the listeners; they outlive the last flow, which can't go on without.
    redirects: Vec<Redirect>,
    commands: mpsc::Receiver<Command>,
    held: watch::Receiver<BTreeSet<IpAddr>>,
}

impl Control {
    /// Checks the configuration and binds all its ports.
    pub(crate) fn prepare(
        config: Config,
        held: watch::Receiver<BTreeSet<IpAddr>>,
    ) -> Result<(mpsc::Sender<Command>, Self), Error> {
        config.validate()?;
        let mut plans = Vec::new();
        for frontend in &config.frontends {
            plans.push(Plan::new(frontend)?);
            if !frontend.transparent_source.is_empty() {
                let error = |source| Error::TransparentSource { frontend: frontend.name.clone(), source };
                transparent::rehearse().map_err(error)?;
            }
        }
        let now = Instant::now().into_std();
        let review = Arc::new(Notify::new());
        let mut listeners: Vec<Vec<_>> = (0..config.workers).map(|_| Vec::new()).collect();
        let mut frontends = Vec::new();
        let mut redirects = Vec::new();
        for frontend in &config.frontends {
            let bound = listen::bind(frontend, config.workers)?;
            let addresses: Vec<_> = bound
                .first()
                .into_iter()
                .flatten()
                .filter_map(|listener| listener.local_addr().ok())
                .collect();
            redirects.extend(redirect(frontend, &addresses)?);
            let shared = Shared::new(frontend, addresses, Arc::clone(&review), now);
            shared.set_backends(frontend.backends.clone(), now);
            frontends.push(Arc::new(shared));
            for (worker, bound) in listeners.iter_mut().zip(bound) {
                worker.push(bound);
            }
        }
        let board = Board::new(frontends.into());
        let (sender, commands) = mpsc::channel(COMMANDS);
        Ok((sender, Self { board, plans, review, listeners, redirects, commands, held }))
    }

    pub(crate) fn monitor(&self) -> Monitor {
        Monitor::new(Arc::clone(&self.board.frontends), self.board.changes.subscribe())
    }

    pub(crate) fn usable(&self) -> watch::Receiver<bool> {
        self.board.usable.subscribe()
    }

    /// Starts the worker threads and the control thread. On an error those already started end and are
    /// joined.
    pub(crate) fn spawn(mut self) -> Result<Vec<JoinHandle<()>>, Error> {
        let mut rng = Rng::new();
        let starvation = Arc::new(Starvation::default());
        // Nothing is ever sent: its closing says that no worker is left.
        let (alive, workers) = mpsc::channel::<Infallible>(1);
        let mut threads = Vec::new();
        for (index, listeners) in std::mem::take(&mut self.listeners).into_iter().enumerate() {
            let worker = Worker {
                frontends: Arc::clone(&self.board.frontends),
                listeners,
                orders: self.board.orders.subscribe(),
                starvation: Arc::clone(&starvation),
                alive: alive.clone(),
                seed: rng.u64(..),
            };
            let name = format!("lb-worker-{index}");
            match launch(&name, move |started| worker.run(started)) {
                Ok(thread) => threads.push(thread),
                Err(source) => {
                    // Without the sender of their orders, the workers stop.
                    drop(self);
                    threads.into_iter().for_each(|thread| drop(thread.join()));
                    return Err(Error::Thread { name, source });
                }
            }
        }
        drop(alive);
        let name = "lb-control".to_owned();
        match launch(&name, move |started| self.run(workers, rng, started)) {
            Ok(thread) => threads.push(thread),
            Err(source) => {
                threads.into_iter().for_each(|thread| drop(thread.join()));
                return Err(Error::Thread { name, source });
            }
        }
        Ok(threads)
    }

    fn run(
        self,
        workers: mpsc::Receiver<Infallible>,
        rng: Rng,
        started: &std::sync::mpsc::SyncSender<io::Result<()>>,
    ) {
        match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
            Ok(runtime) => {
                let _ = started.send(Ok(()));
                runtime.block_on(self.supervise(workers, rng));
            }
            // A starter that has gone has no use for the answer.
            Err(error) => drop(started.send(Err(error))),
        }
    }

    /// Waits for the virtual IP to come or go, for other backends, for the order to drain, for its deadline,
    /// and for the last worker to end. Tells the workers by [`Orders`]. Not cancelled.
    async fn supervise(mut self, mut workers: mpsc::Receiver<Infallible>, rng: Rng) {
        let board = Rc::new(self.board);
        let mut probes = Probes::start(Rc::clone(&board), self.plans, self.review, rng);
        let mut watched = true;
        self.held.mark_unchanged();
        let mut deadline = None;
        let mut reply = None;
        let mut drained = Drained::default();
        let mut stopped = false;
        let rebalances = board.frontends.iter().any(|frontend| frontend.rebalance.is_some());
        let mut looks = tokio::time::interval(rebalance::LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                biased;
                _ = workers.recv() => break,
                command = self.commands.recv(), if !stopped => match command {
                    Some(command) => Event::Command(command),
                    None => Event::Stop,
                },
                changed = self.held.changed(), if watched => {
                    Event::VirtualIps(changed.is_ok().then(|| self.held.borrow_and_update().clone()))
                }
                () = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => Event::Stop,
                () = probes.review() => Event::Backends,
                _ = looks.tick(), if rebalances && !stopped => Event::Look,
            };
            match event {
                Event::Command(Command::Drain { deadline: after, reply: to }) => {
                    (deadline, reply) = (Some(Instant::now() + after), Some(to));
                    // Before the listeners close: what comes now finds who else has the port.
                    self.redirects.iter().for_each(Redirect::close);
                    board.orders.send_modify(|orders| orders.phase = Phase::Draining);
                }
                // What isn't held is gone, whether it was seen here in between or not: only the latest value is heard.
                Event::VirtualIps(Some(held)) => board.orders.send_modify(|orders| {
                    orders.held = Arc::new(held);
                    orders.moves += 1;
                }),
                Event::VirtualIps(None) => watched = false,
                Event::Backends => probes.follow(),
                Event::Look => board.rebalance(),
                Event::Stop => {
                    drained.reset = board.frontends.iter().map(|frontend| frontend.connections()).sum();
                    (deadline, stopped) = (None, true);
                    board.orders.send_modify(|orders| orders.phase = Phase::Stopped);
                }
            }
        }
        probes.shutdown().await;
        drop(self.redirects);
        if let Some(reply) = reply {
            // The owner may have stopped waiting.
            let _ = reply.send(drained);
        }
    }
}

/// Has the kernel lead to the frontend's sockets what comes for its port, where it has that from another program.
fn redirect(frontend: &Frontend, listen: &[SocketAddr]) -> Result<Option<Redirect>, Error> {
    let Listen::Redirected { port, .. } = frontend.listen else { return Ok(None) };
    let table = Table::new(port, listen.to_vec());
    let name = table.name().to_owned();
    let error = |source| Error::Redirect { frontend: frontend.name.clone(), port, source };
    let redirect = Redirect::install(table).map_err(error)?;
    tracing::info!(
        frontend = frontend.name,
        port,
        table = name,
        "the virtual IP's port is redirected to the balancer"
    );
    Ok(Some(redirect))
}

/// What woke the control thread.
enum Event {
    Command(Command),
    /// `None`: nobody will tell any more.
    VirtualIps(Option<BTreeSet<IpAddr>>),
    Backends,
    Look,
    Stop,
}

/// Starts a thread and waits until it says that it could begin.
fn launch(
    name: &str,
    body: impl FnOnce(&std::sync::mpsc::SyncSender<io::Result<()>>) + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    // One answer, once.
    let (started, answer) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || body(&started))?;
    match answer.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(error)) => {
            let _ = thread.join();
            Err(error)
        }
        Err(_) => Err(io::Error::other("the thread ended at once")),
    }
}
