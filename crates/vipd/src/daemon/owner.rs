//! The address with its election: started together, stopped together.

use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use leader::NodeId;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_local};
use tracing::warn;
use vip::State;

use super::clients::{self, Clients, Ports};
use super::moves::{Moves, Reason, Sign};
use super::tie_break::{self, Eyes};
use super::{bootstrap, interface};
use crate::config::{Election, TieBreak, Vip};
use crate::scheduling;

/// How long a stop may take from the moment the address was handed over until it is withdrawn, which waits for nothing but
/// netlink replies; and then until nothing more is passed on to the successor, which takes less than a second.
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
    /// What tells the peers of this node's clients, and the previous owner's clients of a move; `None` without peers.
    clients: Option<Clients>,
    /// From whom to whom the addresses went.
    pub(crate) moves: watch::Sender<Moves>,
    /// Tells the address until when it may be held.
    pub(super) lease: watch::Sender<Option<Instant>>,
    pub(super) election_task: JoinHandle<Result<(), leader::peers::Error>>,
    pub(super) address_task: JoinHandle<Result<(), vip::Error>>,
    /// Asks the segment whether the address is free, where leading without further proof depends on it.
    bootstrap_task: Option<JoinHandle<()>>,
    /// What is known of the tie-break, where there is one.
    pub(crate) tie_break: Option<watch::Receiver<tie_break::Known>>,
    tie_break_task: Option<JoinHandle<()>>,
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

    /// The last sign of a node that has led; none where it is not the election's to tell any more.
    pub(super) fn sign(&self, node: &NodeId) -> Option<Sign> {
        match self {
            Self::Peers(monitor) => {
                let peers = monitor.peers();
                let peers = peers.borrow();
                let peer = peers.iter().find(|peer| peer.id == *node)?;
                let said = peer.said.as_ref()?;
                let reason = [
                    (said.leading, Reason::Silent),
                    (said.abstaining, Reason::Restarted),
                    (said.resting, Reason::SteppedDown),
                    (said.stopping, Reason::Stopped),
                    (!said.eligible, Reason::Unfit),
                ];
                let reason = reason.into_iter().find_map(|(is_so, reason)| is_so.then_some(reason));
                let led = peer.heard.filter(|_| said.leading);
                Some(Sign { reason: reason.unwrap_or(Reason::GaveWay), led })
            }
            Self::Lease(monitor) => {
                let status = monitor.status();
                let status = status.borrow();
                match status.holder.as_deref() {
                    None => Some(Sign { reason: Reason::Released, led: None }),
                    Some(holder) if holder == node.as_str() => {
                        Some(Sign { reason: Reason::Silent, led: status.renewed })
                    }
                    Some(_) => None,
                }
            }
        }
    }

    /// The exchange about clients, where there are peers.
    pub(crate) fn clients(&self) -> Option<leader::peers::Clients> {
        match self {
            Self::Peers(monitor) if !monitor.peers().borrow().is_empty() => Some(monitor.clients()),
            Self::Peers(_) | Self::Lease(_) => None,
        }
    }
}

impl Owner {
    pub(super) async fn start(vip: Vip, ports: Ports) -> anyhow::Result<Self> {
        let (lease, lease_seen) = watch::channel(None);
        let moves = watch::Sender::new(Moves::new(vip.election.me().clone()));
        let interface = interface::find(&vip.interface).await?;
        let addresses = vip.addresses.clone();
        let address = vip::driver::Config {
            interface: interface.clone(),
            addresses: vip.addresses,
            announce: vip.announce,
            relay: true,
            // That it is refused was told when the election's own thread was.
            urgent: || drop(scheduling::raise()),
            asleep: leader::clock::asleep,
        };
        let (address_driver, address) = vip::driver::Driver::start(address, lease_seen)
            .await
            .with_context(|| format!("failed to take charge of the addresses on {interface}"))?;
        let start_as_leader = match &vip.election {
            Election::Peers(config) => config.quorum.start_as_leader,
            Election::Kubernetes(_) => false,
        };
        let (election, monitor, election_task) = elect(vip.election).await?;
        let exchange = monitor.clients();
        let clients = exchange
            .map(|exchange| Clients::start(&addresses, ports, address.state(), exchange))
            .transpose()?;
        let looking = vip.tie_break.and_then(|rule| look(rule, &interface, &addresses, &election, &monitor));
        let (tie_break, tie_break_task) = looking.unzip();
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
            clients,
            moves,
            lease,
            election_task,
            address_task: spawn_local(address_driver.run()),
            bootstrap_task,
            tie_break,
            tie_break_task,
        })
    }

    /// Ends the election, and withdraws the address whatever happened to that. What comes back goes on for a moment.
    pub(super) async fn stop(mut self) -> Farewell {
        for task in [self.bootstrap_task.take(), self.tie_break_task.take()].into_iter().flatten() {
            task.abort();
            let _ = task.await;
        }
        self.clients = None;
        self.lease.send_replace(None);
        self.address.stop();
        let mut state = self.address.state();
        // An error is the end of the task, which withdraws before it ends if it can.
        if tokio::time::timeout(STOP_MAX, state.wait_for(|state| *state == State::Standby)).await.is_err() {
            warn!("the address could not be withdrawn in time: the kernel removes it when its lifetime ends");
            self.address_task.abort();
        }
        self.election_task.abort();
        Farewell { address_task: self.address_task, parting: self.address.parting() }
    }

    /// What was done about clients, where there are peers.
    pub(crate) fn clients(&self) -> Option<watch::Receiver<clients::Done>> {
        self.clients.as_ref().map(Clients::done)
    }
}

/// The last moments of an address that was given up: what clients still send here is passed on to the successor.
pub(super) struct Farewell {
    address_task: JoinHandle<Result<(), vip::Error>>,
    parting: watch::Receiver<bool>,
}

impl Farewell {
    /// Waits until connections to the address need not be left alone any longer, which is less than a second.
    pub(super) async fn respite(&mut self) {
        // An error is the end of the task, and of all of it.
        let _ended = self.parting.wait_for(|parting| !*parting).await;
    }

    /// Waits until it is over.
    pub(super) async fn end(mut self) {
        // A task that has ended by itself was reported already, and must not be awaited twice.
        let ended = self.address_task.is_finished();
        if !ended && tokio::time::timeout(STOP_MAX, &mut self.address_task).await.is_err() {
            self.address_task.abort();
        }
    }
}

/// Begins to look at the segment for an election between two.
fn look(
    rule: TieBreak,
    interface: &str,
    addresses: &[vip::Address],
    election: &leader::Handle,
    monitor: &Monitor,
) -> Option<(watch::Receiver<tie_break::Known>, JoinHandle<()>)> {
    let Monitor::Peers(monitor) = monitor else { return None };
    let (known, seen) = watch::channel(tie_break::Known { rule, address: None, answers: None });
    let eyes = Eyes {
        interface: interface.to_owned(),
        addresses: addresses.to_vec(),
        rule,
        election: election.clone(),
        arbitration: monitor.arbitration(),
        known,
    };
    Some((seen, spawn_local(eyes.run())))
}

/// Starts the election that was configured.
pub(super) async fn elect(
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
