//! The running parts: started in an order in which each can fail without leaving anything behind, stopped in reverse.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use leader::Leadership;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_local};
use tracing::{info, warn};
use vip::State;

use super::bootstrap;
use crate::config::{Config, Vip};
use crate::signals::Signals;
use crate::status::{self, Reporter};

/// How long a stop may take from the moment the address was handed over until the tasks have ended. Each has nothing
/// more to wait for than a netlink reply.
const STOP_MAX: Duration = Duration::from_secs(2);

/// The address with its election.
pub(crate) struct Owner {
    /// The interface that the addresses go on.
    pub(crate) interface: String,
    /// The addresses.
    pub(crate) addresses: Vec<vip::Address>,
    pub(crate) election: leader::peers::Handle,
    pub(crate) address: vip::driver::Handle,
    /// Tells the address until when it may be held.
    pub(super) lease: watch::Sender<Option<Instant>>,
    pub(super) election_task: JoinHandle<Result<(), leader::peers::Error>>,
    pub(super) address_task: JoinHandle<Result<(), vip::Error>>,
    /// Asks the segment whether the address is free, for `startAsLeader`.
    bootstrap_task: Option<JoinHandle<()>>,
}

/// Everything that runs.
pub(super) struct Parts {
    pub(super) owner: Option<Owner>,
    pub(super) balancer: Option<lb::Balancer>,
    pub(super) health_check: Option<lb::Balancer>,
    /// Tells the balancer whether the addresses are on this node.
    pub(super) active: watch::Sender<bool>,
    status_task: Option<JoinHandle<()>>,
    socket: PathBuf,
    drain_timeout: Duration,
}

impl Parts {
    /// Starts everything: sockets first, so that a port conflict shows before an address is touched.
    ///
    /// # Errors
    /// The first part that could not start; what was started before it has been stopped again.
    pub(super) async fn start(config: Config) -> anyhow::Result<Self> {
        let (active, active_seen) = watch::channel(false);
        let node = config.node;
        let balancer = config
            .balancer
            .map(|balancer| lb::Balancer::start(balancer, active_seen.clone()))
            .transpose()
            .context("failed to start the balancer")?;
        let health_check = config
            .health_check
            .map(|check| lb::Balancer::start(check, active_seen))
            .transpose()
            .context("failed to start the health check")?;
        let owner = match config.vip {
            Some(vip) => Some(Owner::start(vip).await?),
            None => None,
        };
        let mut parts = Self {
            owner,
            balancer,
            health_check,
            active,
            status_task: None,
            socket: config.socket,
            drain_timeout: config.drain_timeout,
        };
        parts.report(node);
        Ok(parts)
    }

    /// Opens the status socket. A daemon without one still does its work: the failure is told, not fatal.
    fn report(&mut self, node: String) {
        match status::listen(&self.socket) {
            Ok(listener) => self.status_task = Some(self.serve(listener, node)),
            Err(error) => {
                let socket = self.socket.display();
                warn!(%socket, %error, "`vipd status` will not work: failed to open the status socket");
            }
        }
    }

    fn serve(&self, listener: UnixListener, node: String) -> JoinHandle<()> {
        let reporter =
            Reporter::new(node, self.owner.as_ref(), self.balancer.as_ref(), self.health_check.as_ref());
        spawn_local(status::serve(listener, reporter))
    }

    /// Stops everything: the address has been given up before; open connections get their time; then the tasks end.
    pub(super) async fn stop(mut self, signals: &mut Signals) {
        if let Some(task) = self.status_task.take() {
            task.abort();
            let _ = task.await;
            let _ = std::fs::remove_file(&self.socket);
        }
        if let Some(owner) = self.owner.take() {
            owner.stop().await;
        }
        let drain = async {
            for balancer in self.balancer.take().into_iter().chain(self.health_check.take()) {
                let drained = balancer.drain(self.drain_timeout).await;
                info!(reset = drained.reset, "connections drained");
            }
        };
        tokio::select! {
            () = drain => {}
            signal = signals.next() => warn!(signal, "second signal: open connections are cut"),
        }
        info!("vipd stopped");
    }
}

impl Owner {
    async fn start(vip: Vip) -> anyhow::Result<Self> {
        let (lease, lease_seen) = watch::channel(None);
        let interface = vip.interface.clone();
        let addresses = vip.addresses.clone();
        let start_as_leader = vip.election.quorum.start_as_leader;
        let (incarnation, seed) = (random()?, random()?);
        let address = vip::driver::Config {
            interface: vip.interface,
            addresses: vip.addresses,
            announce: vip.announce,
        };
        let (address_driver, address) = vip::driver::Driver::start(address, lease_seen)
            .await
            .with_context(|| format!("failed to take charge of the addresses on {interface}"))?;
        let (election_driver, election) = leader::peers::Driver::bind(vip.election, incarnation, seed)
            .await
            .context("failed to start the election")?;
        let bootstrap_task = start_as_leader.then(|| {
            spawn_local(bootstrap::run(
                interface.clone(),
                addresses.clone(),
                election.clone(),
                address.clone(),
            ))
        });
        Ok(Self {
            interface,
            addresses,
            election,
            address,
            lease,
            election_task: spawn_local(election_driver.run()),
            address_task: spawn_local(address_driver.run()),
            bootstrap_task,
        })
    }

    /// Ends the tasks; the address is withdrawn whatever happened to the election.
    async fn stop(mut self) {
        if let Some(task) = self.bootstrap_task.take() {
            task.abort();
            let _ = task.await;
        }
        self.lease.send_replace(None);
        self.address.stop();
        // A task that has ended by itself was reported already, and must not be awaited twice.
        let ended = self.address_task.is_finished();
        if !ended && tokio::time::timeout(STOP_MAX, &mut self.address_task).await.is_err() {
            warn!("the address could not be withdrawn in time: the kernel removes it when its lifetime ends");
            self.address_task.abort();
        }
        self.election_task.abort();
    }

    /// Whether the address is held, or was just now.
    pub(super) fn is_standby(&self) -> bool {
        *self.address.state().borrow() == State::Standby
    }

    /// The end of the lease, while there is one.
    pub(super) fn lease_end(leadership: &Leadership) -> Option<Instant> {
        match *leadership {
            Leadership::Leader { until, .. } => Some(until),
            Leadership::Follower { .. } => None,
        }
    }
}

fn random() -> anyhow::Result<u64> {
    use ring::rand::{SecureRandom, SystemRandom};
    let mut bytes = [0; 8];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| anyhow!("failed to read random bytes from the kernel"))?;
    Ok(u64::from_ne_bytes(bytes))
}
