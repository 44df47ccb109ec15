//! The beginning: everything is bound, then the threads are started.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use fastrand::Rng;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, no_new_privs, set_capabilities};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::LocalSet;
use tokio::time::Instant;
use tracing::debug;

use crate::Error;
use crate::board::Board;
use crate::change::{Change, Part, Standing};
use crate::config::Config;
use crate::drain::Drained;
use crate::forward::{Driver, Path};
use crate::frontend::{Bells, Shared};
use crate::layout::{Crew, Layout, TURNS};
use crate::probe::Plan;
use crate::probes::Probes;
use crate::redirects::Redirects;
use crate::status::Ended;
use crate::supervisor::Supervisor;
use crate::worker::{Starvation, Worker};

/// Commands on their way to the control thread; whoever has another waits.
const COMMANDS: usize = 1;

/// The control thread's name.
const CONTROL: &str = "lb-control";

/// Lists of forgotten flows on their way to whoever tells their clients: one for each backend that dies at about the same time.
const ENDED: usize = 64;

/// What the owner of a balancer can want.
#[derive(Debug)]
pub(crate) enum Command {
    Apply { config: Config, reply: oneshot::Sender<Result<(), Error>> },
    Share { reply: oneshot::Sender<Result<Vec<TcpListener>, Error>> },
    Drain { deadline: Duration, reply: oneshot::Sender<Drained> },
}

/// Gives a balancer another configuration; cheap to clone, and of no effect once the balancer ends.
#[derive(Debug, Clone)]
pub struct ConfigHandle {
    commands: Option<mpsc::WeakSender<Command>>,
}

impl ConfigHandle {
    pub(crate) fn new(commands: Option<&mpsc::Sender<Command>>) -> Self {
        Self { commands: commands.map(mpsc::Sender::downgrade) }
    }

    /// Puts a configuration in force while connections go on, all of it or nothing. When it returns without an error, all threads
    /// follow it.
    ///
    /// * A frontend is known by its name (of two of one name, the first is the first). One that stays keeps its connections, counts and
    ///   backends, as [`BackendsHandle::set`](crate::BackendsHandle::set) does, with what is known of their health.
    /// * The idle timeout holds for open connections as well, which count their silence anew; so does the maximum age, and one that has
    ///   lasted for longer than a new one ends by and by. The limits of connections hold at once, without ending any. All else holds for what begins afterwards: connections, connects to backends, checks. Where the check has changed,
    ///   each backend is asked anew at once, and held for what it was until it has answered.
    /// * New addresses are bound before anything changes. One that is kept goes on without a gap, also under another name. One that is no
    ///   more wanted accepts for another 1.5 s, for clients that are just connecting; then what waits in its queue is taken over, and it
    ///   is closed.
    /// * A frontend that is missing gets no other connections than those. Its flows go on until they end by themselves, with its
    ///   backends, which are checked as before; until then it stays in the status as `leaving`, and comes back as what it is if it is
    ///   named again.
    ///
    /// # Errors
    ///
    /// Those of [`Balancer::start`](crate::Balancer::start), another number of workers, or a balancer that ends. The configuration is
    /// then what it was.
    pub async fn apply(&self, config: Config) -> Result<(), Error> {
        self.ask(|reply| Command::Apply { config, reply }).await
    }

    /// Duplicates of the listening sockets, for a process that takes over: see [`Balancer::succeed`](crate::Balancer::succeed). The balancer goes
    /// on accepting; drained, it closes its own ones, and those that wait in a queue that another has too are that one's.
    ///
    /// # Errors
    ///
    /// The kernel leads connections by tables that belong to this process, a file descriptor is missing, or the balancer ends.
    pub async fn listeners(&self) -> Result<Vec<TcpListener>, Error> {
        self.ask(|reply| Command::Share { reply }).await
    }

    /// Has the control thread do something, and waits for its answer.
    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Command,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        {
            // Not kept while it waits: a balancer ends when nobody commands it any more.
            let commands = self.commands.as_ref().and_then(mpsc::WeakSender::upgrade).ok_or(Error::Ending)?;
            commands.send(command(reply)).await.map_err(|_| Error::Ending)?;
        }
        answer.await.unwrap_or(Err(Error::Ending))
    }
}

/// A bound balancer whose threads do not run yet.
pub(crate) struct Control {
    board: Board,
    standing: Standing,
    plans: Vec<(Arc<Shared>, Plan)>,
    bells: Bells,
    /// For each worker, its listeners.
    listeners: Vec<Vec<TcpListener>>,
    redirects: Redirects,
    /// What the kernel leads to backends by itself.
    paths: Vec<(Arc<Shared>, Path)>,
    commands: mpsc::Receiver<Command>,
    held: watch::Receiver<BTreeSet<IpAddr>>,
}

/// The threads of a balancer that runs, and who hears of flows that the kernel was made to forget.
type Running = (Vec<JoinHandle<()>>, mpsc::Receiver<Vec<Ended>>);

impl Control {
    /// Checks the configuration and binds all its ports.
    pub(crate) fn prepare(
        config: Config,
        held: watch::Receiver<BTreeSet<IpAddr>>,
        inherited: Vec<TcpListener>,
    ) -> Result<(mpsc::Sender<Command>, Self), Error> {
        let bells = Bells::default();
        let mut standing = Standing::inheriting(inherited);
        let now = Instant::now().into_std();
        let Change { parts, listeners } = standing.prepare(config, &bells, now)?;
        let mut redirects = Redirects::default();
        redirects.lead(&parts)?;
        let begun = parts.into_iter().map(|part| Part::put_in_force(part, now));
        let (stations, plans): (Vec<_>, Vec<_>) = begun.unzip();
        let mut paths = Vec::new();
        for station in &stations {
            if let Some(forward) = station.forward() {
                let frontend = &station.shared.name;
                let mut path = Path::install(frontend, forward)?;
                let (frontend, port) = (frontend.clone(), forward.port);
                let followed = path.follow(&station.shared, now);
                followed.map_err(|source| Error::Forward { frontend, port, source })?;
                paths.push((Arc::clone(&station.shared), path));
            }
        }
        let plans = stations.iter().map(|station| Arc::clone(&station.shared)).zip(plans).collect();
        standing.replace(stations);
        let board = Board::new(standing.frontends().into());
        let (sender, commands) = mpsc::channel(COMMANDS);
        Ok((sender, Self { board, standing, plans, bells, listeners, redirects, paths, commands, held }))
    }

    pub(crate) fn board(&self) -> &Board {
        &self.board
    }

    /// Starts the threads: workers, the control thread, and the one for the kernel's own data path where there is one. On an error
    /// those already started end and are joined. Returns with them who hears of forgotten flows.
    pub(crate) fn spawn(mut self) -> Result<Running, Error> {
        // That of the control thread; the workers have timers by it.
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|source| Error::Thread { name: CONTROL.to_owned(), source })?;
        let mut rng = Rng::new();
        let starvation = Arc::new(Starvation::default());
        let layout = Arc::new(Layout { frontends: self.board.frontends(), posts: self.standing.posts() });
        // Nothing is ever sent: its closing says that no worker is left.
        let (alive, workers) = mpsc::channel::<Infallible>(1);
        let (mut threads, mut crew) = (Vec::new(), Vec::new());
        for (index, listeners) in std::mem::take(&mut self.listeners).into_iter().enumerate() {
            let (turn, turns) = mpsc::channel(TURNS);
            crew.push(turn);
            let worker = Worker {
                layout: Arc::clone(&layout),
                listeners,
                orders: self.board.orders(),
                turns,
                starvation: Arc::clone(&starvation),
                timers: runtime.handle().clone(),
                alive: alive.clone(),
                seed: rng.u64(..),
            };
            let name = format!("lb-worker-{index}");
            let body = move |started: &Started| {
                give_up_capabilities();
                worker.run(started);
            };
            match launch(&name, body) {
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
        let (ends, ended) = mpsc::channel(ENDED);
        let driver = Driver {
            paths: std::mem::take(&mut self.paths),
            orders: self.board.orders(),
            changes: self.board.monitor().changes(),
            preferences: Arc::clone(&self.bells.preferences),
            ended: ends,
        };
        let control = move |started: &Started| self.run(&runtime, Crew(crew), workers, rng, started);
        let last = [
            (!driver.paths.is_empty())
                .then(|| ("lb-forward", Box::new(move |started: &Started| driver.run(started)) as Body)),
            Some((CONTROL, Box::new(control) as Body)),
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
        runtime: &Runtime,
        crew: Crew,
        workers: mpsc::Receiver<Infallible>,
        rng: Rng,
        started: &Started,
    ) {
        // A starter that has gone has no use for the answer.
        let _ = started.send(Ok(()));
        LocalSet::new().block_on(runtime, async {
            let (commands, held) = (self.commands, self.held);
            let board = Rc::new(self.board);
            let mut probes = Probes::new(Rc::clone(&board), Arc::clone(&self.bells.review), rng);
            self.plans.into_iter().for_each(|(shared, plan)| probes.plan(&shared, plan));
            let (standing, redirects, bells) = (self.standing, self.redirects, self.bells);
            let supervisor = Supervisor::new(board, probes, crew, standing, redirects, bells);
            supervisor.run(workers, commands, held).await;
        });
    }
}

/// What a worker needs: to send a reset from an address that has left this host, and to come to a backend from its client's. All that listens
/// is bound elsewhere.
const KEPT: CapabilitySet = CapabilitySet::NET_RAW;

/// Leaves the calling thread no other capabilities, as what it reads is a stranger's: in a process that can't get any back.
fn give_up_capabilities() {
    if no_new_privs() != Ok(true) {
        return;
    }
    let given_up = capabilities(None).and_then(|CapabilitySets { effective, permitted, .. }| {
        let (effective, permitted) = (effective.intersection(KEPT), permitted.intersection(KEPT));
        set_capabilities(None, CapabilitySets { effective, permitted, inheritable: CapabilitySet::empty() })
    });
    if let Err(error) = given_up {
        debug!(%error, "a worker keeps its capabilities");
    }
}

/// Where a thread says once whether it could begin.
pub(crate) type Started = std::sync::mpsc::SyncSender<io::Result<()>>;

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
