//! The address with its election: started together, stopped together.

use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use leader::Leadership;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_local};
use tracing::warn;
use vip::State;

use super::{bootstrap, interface};
use crate::config::{Election, Vip};

/// How long a stop may take from the moment the address was handed over until the tasks have ended. Each has nothing
/// more to wait for than a netlink reply.
const STOP_MAX: Duration = Duration::from_secs(2);

/// The address with its election.
pub(crate) struct Owner {
    /// The interface that the addresses go on.
    pub(crate) interface: String,
    /// The addresses.
    pub(crate) addresses: Vec<vip::Address>,
    pub(crate) election: leader::Handle,
    pub(crate) monitor: Monitor,
    pub(crate) address: vip::driver::Handle,
    /// Tells the address until when it may be held.
    pub(super) lease: watch::Sender<Option<Instant>>,
    pub(super) election_task: JoinHandle<Result<(), leader::peers::Error>>,
    pub(super) address_task: JoinHandle<Result<(), vip::Error>>,
    /// Asks the segment whether the address is free, where leading without further proof depends on it.
    bootstrap_task: Option<JoinHandle<()>>,
}

/// What there is to see of the election, besides who leads.
#[derive(Clone)]
pub(crate) enum Monitor {
    /// Of one among static peers.
    Peers(leader::peers::Monitor),
    /// Of one by Kubernetes Lease.
    Lease(leader::kubernetes::Monitor),
}

impl Monitor {
    /// What decides: `none`, `peers` or `kubernetes`.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Peers(monitor) if monitor.peers().borrow().is_empty() => "none",
            Self::Peers(_) => "peers",
            Self::Lease(_) => "kubernetes",
        }
    }

    /// The control-plane nodes, where the election knows them.
    pub(super) fn control_plane(&self) -> Option<watch::Receiver<leader::kubernetes::ControlPlane>> {
        match self {
            Self::Peers(_) => None,
            Self::Lease(monitor) => Some(monitor.control_plane()),
        }
    }
}

impl Owner {
    pub(super) async fn start(vip: Vip) -> anyhow::Result<Self> {
        let (lease, lease_seen) = watch::channel(None);
        let interface = interface::find(&vip.interface).await?;
        let addresses = vip.addresses.clone();
        let address = vip::driver::Config {
            interface: interface.clone(),
            addresses: vip.addresses,
            announce: vip.announce,
        };
        let (address_driver, address) = vip::driver::Driver::start(address, lease_seen)
            .await
            .with_context(|| format!("failed to take charge of the addresses on {interface}"))?;
        let start_as_leader = match &vip.election {
            Election::Peers(config) => config.quorum.start_as_leader,
            Election::Kubernetes(_) => false,
        };
        let (election, monitor, election_task) = elect(vip.election).await?;
        let (on, what) = (interface.clone(), addresses.clone());
        let (whom, driver) = (election.clone(), address.clone());
        let bootstrap_task = match &monitor {
            Monitor::Peers(_) => start_as_leader.then(|| spawn_local(bootstrap::run(on, what, whom, driver))),
            // A Lease may be missing because it was never made; the segment knows whether anybody acts on one.
            Monitor::Lease(_) => Some(spawn_local(bootstrap::ask_while_nobody_leads(on, what, whom, driver))),
        };
        Ok(Self {
            interface,
            addresses,
            election,
            monitor,
            address,
            lease,
            election_task,
            address_task: spawn_local(address_driver.run()),
            bootstrap_task,
        })
    }

    /// Ends the tasks; the address is withdrawn whatever happened to the election.
    pub(super) async fn stop(mut self) {
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

/// Starts the election that was configured.
async fn elect(
    election: Election,
) -> anyhow::Result<(leader::Handle, Monitor, JoinHandle<Result<(), leader::peers::Error>>)> {
    match election {
        Election::Peers(config) => {
            let (driver, handle, monitor) = leader::peers::Driver::bind(config, random()?, random()?)
                .await
                .context("failed to start the election")?;
            Ok((handle, Monitor::Peers(monitor), spawn_local(driver.run())))
        }
        Election::Kubernetes(config) => {
            let agent = format!("vipd/{} ({})", env!("CARGO_PKG_VERSION"), config.me);
            let (driver, handle, monitor) = leader::kubernetes::Driver::start(config, &agent, random()?);
            let task = spawn_local(async {
                driver.run().await;
                Ok(())
            });
            Ok((handle, Monitor::Lease(monitor), task))
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
