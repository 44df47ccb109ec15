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
use crate::forward::{Driver, Path};
use crate::frontend::Shared;
use crate::health::{Flip, Health};
use crate::probe::Plan;
use crate::probes::Probes;
use crate::rebalance::{self, Shed};
use crate::redirect::Redirect;
use crate::slow_start;
use crate::status::{Ended, Monitor};
use crate::target::Target;
use crate::worker::{Starvation, Worker};
use crate::{Error, Frontends, listen, transparent};

/// Commands on their way to the control thread: draining consumes the balancer, so there is never a second
/// one.
const COMMANDS: usize = 1;

/// Lists of forgotten flows on their way to whoever tells their clients: one for each backend that dies at about the same time.
const ENDED: usize = 64;

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
            closures: 0,
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
    /// usable. If it is dead because its port is `closed`, flows that it has answered go on until [`Board::bury`].
    pub(crate) fn publish(&self, frontend: &Shared, target: &Target, flip: &Flip, closed: bool) {
        if target.comes_back(flip) {
            // First, lest it gets a burst before.
            frontend.start_slowly(target, Instant::now().into_std());
        }
        if flip.to == Health::Dead {
            target.member.set_closing(closed);
        }
        target.member.set_health(flip.to);
        if flip.to == Health::Dead {
            let count = |orders: &mut Orders| if closed { orders.closures += 1 } else { orders.deaths += 1 };
            self.orders.send_modify(count);
        }
        self.announce();
    }

    /// Ends what is left of the flows to a backend from before its port was closed.
    pub(crate) fn bury(&self, target: &Target) {
        target.member.set_closing(false);
        self.orders.send_modify(|orders| orders.deaths += 1);
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
    /// What the kernel leads to backends by itself.
    forwarding: Forwarding,
    commands: mpsc::Receiver<Command>,
    held: watch::Receiver<BTreeSet<IpAddr>>,
}

/// The threads of a balancer that runs, and who hears of flows that the kernel was made to forget.
type Running = (Vec<JoinHandle<()>>, mpsc::Receiver<Vec<Ended>>);

/// What the thread for the kernel's own data path starts with.
#[derive(Default)]
struct Forwarding {
    paths: Vec<(Arc<Shared>, Path)>,
    preferences: Arc<Notify>,
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
        let mut paths = Vec::new();
        let preferences = Arc::new(Notify::new());
        for frontend in &config.frontends {
            let bound = listen::bind(frontend, config.workers)?;
            let addresses: Vec<_> = bound
                .first()
                .into_iter()
                .flatten()
                .filter_map(|listener| listener.local_addr().ok())
                .collect();
            redirects.extend(redirect(frontend, &addresses)?);
            let mut path = forward(frontend)?;
            let addresses = path.as_ref().map_or(addresses, Path::addresses);
            let shared = Shared::new(frontend, addresses, Arc::clone(&review), Arc::clone(&preferences), now);
            shared.set_backends(frontend.backends.clone(), now);
            let shared = Arc::new(shared);
            if let (Some(path), Some(port)) = (&mut path, frontend.listen.port()) {
                let error = |source| Error::Forward { frontend: frontend.name.clone(), port, source };
                path.follow(&shared, now).map_err(error)?;
            }
            paths.extend(path.map(|path| (Arc::clone(&shared), path)));
            frontends.push(shared);
            for (worker, bound) in listeners.iter_mut().zip(bound) {
                worker.push(bound);
            }
        }
        let board = Board::new(frontends.into());
        let (sender, commands) = mpsc::channel(COMMANDS);
        let forwarding = Forwarding { paths, preferences };
        Ok((sender, Self { board, plans, review, listeners, redirects, forwarding, commands, held }))
    }

    pub(crate) fn monitor(&self) -> Monitor {
        Monitor::new(Arc::clone(&self.board.frontends), self.board.changes.subscribe())
    }

    pub(crate) fn usable(&self) -> watch::Receiver<bool> {
        self.board.usable.subscribe()
    }

    /// Starts the threads: workers, the control thread, and the one for the kernel's own data path where there is one. On an error
    /// those already started end and are joined. Returns with them who hears of forgotten flows.
    pub(crate) fn spawn(mut self) -> Result<Running, Error> {
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
        let (forwarding, (ends, ended)) = (std::mem::take(&mut self.forwarding), mpsc::channel(ENDED));
        let driver = Driver {
            paths: forwarding.paths,
            orders: self.board.orders.subscribe(),
            changes: self.board.changes.subscribe(),
            preferences: forwarding.preferences,
            ended: ends,
        };
        let last = [
            (!driver.paths.is_empty())
                .then(|| ("lb-forward", Box::new(move |started: &Started| driver.run(started)) as Body)),
            Some(("lb-control", Box::new(move |started: &Started| self.run(workers, rng, started)) as Body)),
        ];
        let mut last = last.into_iter().flatten();
        while let Some((name, body)) = last.next() {
            match launch(name, body) {
                Ok(thread) => threads.push(thread),
                Err(source) => {
                    drop(last);
                    threads.into_iter().for_each(|thread| drop(thread.join()));
                    return Err(Error::Thread { name: name.to_owned(), source });
                }
            }
        }
        Ok((threads, ended))
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
    let error = |source| Error::Redirect { frontend: frontend.name.clone(), port, source };
    let redirect = Redirect::install(port, listen.to_vec()).map_err(error)?;
    tracing::info!(
        frontend = frontend.name,
        port,
        table = redirect.name(),
        "the virtual IP's port is redirected to the balancer"
    );
    Ok(Some(redirect))
}

/// Has the kernel lead a frontend's connections to its backends, where that is wanted.
fn forward(frontend: &Frontend) -> Result<Option<Path>, Error> {
    let Listen::Forwarded(forward) = &frontend.listen else { return Ok(None) };
    Path::install(&frontend.name, forward).map(Some)
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

/// Where a thread says once whether it could begin.
type Started = std::sync::mpsc::SyncSender<io::Result<()>>;

/// What a thread does.
type Body = Box<dyn FnOnce(&Started) + Send>;

/// Starts a thread and waits until it says that it could begin.
fn launch(name: &str, body: impl FnOnce(&Started) + Send + 'static) -> io::Result<JoinHandle<()>> {
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
