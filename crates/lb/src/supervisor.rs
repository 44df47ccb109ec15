//! The thread above the workers: it runs the probes, watches the virtual IP, puts configurations in force, and ends everything.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::info;

use crate::Error;
use crate::board::Board;
use crate::change::{Change, Part, Standing};
use crate::config::Config;
use crate::control::Command;
use crate::drain::{Drained, Phase};
use crate::frontend::Bells;
use crate::layout::{Crew, Layout};
use crate::probes::Probes;
use crate::rebalance;
use crate::redirects::Redirects;
use crate::worker::until;

/// How long a listener that is no more wanted goes on: a client that sent its SYN there before is connected by then, also if an
/// answer was lost and came again (after 1 s, RFC 6298 §2).
const LAST_CALL: Duration = Duration::from_millis(1500);

/// A running balancer, as its control thread has it.
pub(crate) struct Supervisor {
    board: Rc<Board>,
    probes: Probes,
    crew: Crew,
    standing: Standing,
    /// They outlive the last flow, which can't go on without.
    redirects: Redirects,
    bells: Bells,
    /// When listeners that are no more wanted are left.
    last_call: Option<Instant>,
}

/// How far its end has come.
#[derive(Default)]
struct Ending {
    deadline: Option<Instant>,
    stopped: bool,
    drained: Drained,
    reply: Option<oneshot::Sender<Drained>>,
}

/// What woke the control thread.
enum Event {
    Command(Command),
    /// `None`: nobody will tell any more.
    VirtualIps(Option<BTreeSet<IpAddr>>),
    Backends,
    LastCall,
    Look,
    Stop,
}

impl Supervisor {
    pub(crate) fn new(
        board: Rc<Board>,
        probes: Probes,
        crew: Crew,
        standing: Standing,
        redirects: Redirects,
        bells: Bells,
    ) -> Self {
        Self { board, probes, crew, standing, redirects, bells, last_call: None }
    }

    /// Waits for the virtual IP to come or go, for other backends or another configuration, for the order to drain, for its deadline,
    /// and for the last worker to end. Tells the workers by [`Orders`](crate::drain::Orders) and [`Turn`](crate::layout::Turn)s. Not
    /// cancelled.
    pub(crate) async fn run(
        mut self,
        mut workers: mpsc::Receiver<Infallible>,
        mut commands: mpsc::Receiver<Command>,
        mut held: watch::Receiver<BTreeSet<IpAddr>>,
    ) {
        let mut watched = true;
        held.mark_unchanged();
        let mut ending = Ending::default();
        let mut looks = tokio::time::interval(rebalance::LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let rebalances = !ending.stopped && self.board.rebalances();
            let event = tokio::select! {
                biased;
                _ = workers.recv() => break,
                command = commands.recv(), if !ending.stopped => match command {
                    Some(command) => Event::Command(command),
                    None => Event::Stop,
                },
                changed = held.changed(), if watched => {
                    Event::VirtualIps(changed.is_ok().then(|| held.borrow_and_update().clone()))
                }
                () = until(ending.deadline) => Event::Stop,
                () = self.probes.review() => Event::Backends,
                () = until(self.last_call) => Event::LastCall,
                _ = looks.tick(), if rebalances => Event::Look,
            };
            match event {
                Event::Command(Command::Apply { config, reply }) => {
                    let running = ending.reply.is_none();
                    let applied = if running { self.apply(config).await } else { Err(Error::Ending) };
                    // Who asked may have stopped waiting.
                    let _ = reply.send(applied);
                }
                Event::Command(Command::Share { reply }) => {
                    let shared = if ending.reply.is_none() { self.share().await } else { Err(Error::Ending) };
                    let _ = reply.send(shared);
                }
                Event::Command(Command::Drain { deadline, reply }) => {
                    (ending.deadline, ending.reply) = (Some(Instant::now() + deadline), Some(reply));
                    // Before the listeners close: what comes now finds who else has the port.
                    self.redirects.close();
                    self.board.enter(Phase::Draining);
                }
                // What isn't held is gone, whether it was seen here in between or not: only the latest value is heard.
                Event::VirtualIps(Some(held)) => self.board.hold(held),
                Event::VirtualIps(None) => watched = false,
                Event::Backends => {
                    self.probes.follow();
                    self.forget_vacant().await;
                }
                Event::LastCall => self.end_last_call().await,
                Event::Look => self.board.rebalance(),
                Event::Stop => {
                    let flows = self.board.frontends();
                    ending.drained.reset = flows.iter().map(|frontend| frontend.connections()).sum();
                    (ending.deadline, ending.stopped) = (None, true);
                    self.board.enter(Phase::Stopped);
                }
            }
        }
        self.probes.shutdown().await;
        drop(self.redirects);
        if let Some(reply) = ending.reply {
            // The owner may have stopped waiting.
            let _ = reply.send(ending.drained);
        }
    }

    /// Puts another configuration in force.
    ///
    /// # Errors
    /// It can't be. Everything is as before then.
    async fn apply(&mut self, config: Config) -> Result<(), Error> {
        let running = self.crew.0.len();
        if config.workers != running {
            return Err(Error::Workers { running, wanted: config.workers });
        }
        self.standing.refuse_other_forwards(&config)?;
        // Their addresses may be wanted again.
        self.end_last_call().await;
        let Change { parts, listeners } =
            self.standing.prepare(config, &self.bells, Instant::now().into_std())?;
        if let Err(source) = self.crew.prepare(listeners).await {
            self.crew.forget().await;
            return Err(Error::Watch { source });
        }
        if let Err(error) = self.redirects.lead(&parts) {
            self.crew.forget().await;
            return Err(error);
        }
        self.put_in_force(parts).await;
        Ok(())
    }

    /// Duplicates of all listening sockets.
    ///
    /// # Errors
    /// The kernel has a part in it that belongs to this process, or a descriptor is missing.
    async fn share(&mut self) -> Result<Vec<TcpListener>, Error> {
        let tied = self.standing.stations.iter().find(|station| station.is_tied());
        if let Some(station) = tied {
            return Err(Error::Tied { frontend: station.shared.name.clone() });
        }
        // What is no more wanted is nobody's.
        self.end_last_call().await;
        self.crew.share().await.map_err(|source| Error::Share { source })
    }

    async fn put_in_force(&mut self, parts: Vec<Part>) {
        let now = Instant::now();
        let mut posts = self.standing.posts();
        let mut stations = Vec::new();
        for part in parts {
            let added = part.is_new;
            let (station, plan) = part.put_in_force(now.into_std());
            self.probes.plan(&station.shared, plan);
            let id = station.shared.id;
            let stays = |address: &SocketAddr| posts.get(address) == Some(&id);
            if added || !station.at.iter().all(stays) {
                let (frontend, listen) = (&station.shared.name, listed(&station.at));
                info!(frontend, listen, added, "frontend listens");
            }
            stations.push(station);
        }
        for gone in self.standing.replace(stations) {
            gone.set_leaving(true);
            info!(
                frontend = gone.name,
                connections = gone.connections(),
                "frontend removed: its connections go on"
            );
        }
        let wanted = self.standing.posts();
        let left = posts.keys().any(|address| !wanted.contains_key(address));
        posts.extend(wanted);
        self.last_call = left.then(|| now + LAST_CALL);
        self.follow(posts).await;
        self.forget_vacant().await;
    }

    /// Shows the frontends that there are, and has the workers accept at these addresses.
    async fn follow(&self, posts: BTreeMap<SocketAddr, u64>) {
        self.board.set_frontends(self.standing.frontends());
        self.crew.follow(&Arc::new(Layout { frontends: self.board.frontends(), posts })).await;
    }

    /// Leaves the listeners that are no more wanted.
    async fn end_last_call(&mut self) {
        if self.last_call.take().is_some() {
            self.follow(self.standing.posts()).await;
            self.forget_vacant().await;
        }
    }

    /// Forgets what is no part of the configuration any more and has no connection.
    async fn forget_vacant(&mut self) {
        self.redirects.forget_vacant();
        let leaving = self.standing.leaving.len();
        // One that still listens may get another.
        if leaving == 0 || self.last_call.is_some() {
            return;
        }
        self.standing.leaving.retain(|frontend| frontend.connections() > 0);
        if self.standing.leaving.len() < leaving {
            self.probes.keep(&self.standing.frontends());
            self.follow(self.standing.posts()).await;
        }
    }
}

fn listed(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ")
}
