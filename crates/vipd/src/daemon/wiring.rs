//! What one part says, told to the others.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, anyhow};
use futures_util::future::try_join_all;
use lb::Health;
use leader::Leadership;
use leader::kubernetes::ControlPlane;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Instant;
use tracing::{info, warn};
use vip::State;

use super::apiservers::Apiservers;
use super::moves::Moves;
use super::owner::{Monitor, Owner};
use super::parts::Parts;
use super::witness::Witness;
use crate::signals::Signals;

/// How long a node that led and could not have the address leaves it to others: long enough for an operator's log to show
/// whose fault it is, short enough that a passing fault costs the preferred node little.
const REFUSED_TIME: Duration = Duration::from_secs(10);

/// Passes on what happens until a stop has been carried out: every address handed over and withdrawn. A second signal cuts it short.
///
/// # Errors
/// A part that ended by itself.
pub(super) async fn run(parts: &mut Parts, signals: &mut Signals) -> anyhow::Result<()> {
    let Parts { owners, witnesses, balancer, health_check, apiservers, held, stopping, .. } = parts;
    let common = Common {
        balancer: balancer.as_ref(),
        health_check: health_check.as_ref(),
        apiservers: apiservers.as_deref(),
        held,
        stopping,
    };
    let wirings = owners.iter_mut().map(|owner| Wiring::of_owner(owner, common));
    let wirings: Vec<Wiring<'_>> =
        wirings.chain(witnesses.iter_mut().map(|witness| Wiring::of_witness(witness, common))).collect();
    let only_balances = wirings.is_empty();
    let mut running = pin!(try_join_all(wirings.into_iter().map(Wiring::run)));
    let signal = tokio::select! {
        biased;
        ended = &mut running, if !only_balances => return ended.map(drop),
        signal = signals.next() => signal,
    };
    info!(signal, "stopping");
    stopping.send_replace(true);
    tokio::select! {
        biased;
        stopped = running => stopped.map(drop),
        signal = signals.next() => {
            warn!(signal, "second signal: not waiting for a successor");
            Ok(())
        }
    }
}

/// What all elections of a node have in common.
#[derive(Clone, Copy)]
struct Common<'a> {
    balancer: Option<&'a lb::Balancer>,
    health_check: Option<&'a lb::Balancer>,
    apiservers: Option<&'a Apiservers>,
    /// The addresses that are on this node.
    held: &'a watch::Sender<BTreeSet<IpAddr>>,
    stopping: &'a watch::Sender<bool>,
}

/// Something happened that another part must know.
enum Event {
    /// The election's view changed.
    Leadership(Leadership),
    /// The address came, went, or is on its way; or its connections have had their respite.
    Address(State),
    /// The link or the backends changed.
    Health,
    /// Control-plane nodes came, went or moved.
    ControlPlane(ControlPlane),
    /// A stop was asked for.
    Stop,
    /// A part ended by itself, which none should.
    Ended(anyhow::Error),
}

/// The watches of one election and of what depends on it. Waits on every one of them; sends the lease end to the address, the
/// address's state to the balancer, and both standby and eligibility back to the election.
struct Wiring<'a> {
    common: Common<'a>,
    election: &'a leader::Handle,
    election_task: &'a mut JoinHandle<Result<(), leader::peers::Error>>,
    leadership: watch::Receiver<Leadership>,
    monitor: &'a Monitor,
    moves: &'a watch::Sender<Moves>,
    /// None on a witness.
    seat: Option<Seat<'a>>,
    usable: Option<watch::Receiver<bool>>,
    checked: Option<watch::Receiver<u64>>,
    control_plane: Option<watch::Receiver<ControlPlane>>,
    stopping: watch::Receiver<bool>,
    /// Until when this node counts as unfit, because the kernel refused it the address.
    refused_until: Option<Instant>,
    /// The requests about the address that had failed when this was looked at last.
    failures: u64,
}

/// The addresses that an election decides about.
struct Seat<'a> {
    ips: Vec<IpAddr>,
    address: &'a vip::driver::Handle,
    address_task: &'a mut JoinHandle<Result<(), vip::Error>>,
    lease: &'a watch::Sender<Option<std::time::Instant>>,
    state: watch::Receiver<State>,
    parting: watch::Receiver<bool>,
    link: watch::Receiver<bool>,
}

impl<'a> Wiring<'a> {
    fn of_owner(owner: &'a mut Owner, common: Common<'a>) -> Self {
        let Owner { election, election_task, address, address_task, lease, moves, monitor, .. } = owner;
        let seat = Seat {
            ips: owner.addresses.iter().map(|address| address.ip).collect(),
            state: address.state(),
            parting: address.parting(),
            link: address.link_up(),
            address,
            address_task,
            lease,
        };
        Self {
            usable: common.balancer.map(lb::Balancer::usable),
            checked: common.health_check.map(|check| check.monitor().changes()),
            control_plane: monitor.control_plane(),
            ..Self::new(election, election_task, (monitor, moves), Some(seat), common)
        }
    }

    fn of_witness(witness: &'a mut Witness, common: Common<'a>) -> Self {
        let Witness { election, election_task, monitor, moves, .. } = witness;
        Self::new(election, election_task, (monitor, moves), None, common)
    }

    fn new(
        election: &'a leader::Handle,
        election_task: &'a mut JoinHandle<Result<(), leader::peers::Error>>,
        (monitor, moves): (&'a Monitor, &'a watch::Sender<Moves>),
        seat: Option<Seat<'a>>,
        common: Common<'a>,
    ) -> Self {
        Self {
            leadership: election.leadership(),
            election,
            election_task,
            monitor,
            moves,
            seat,
            usable: None,
            checked: None,
            control_plane: None,
            stopping: common.stopping.subscribe(),
            common,
            refused_until: None,
            failures: 0,
        }
    }

    /// Passes on what happens until the address has been handed over and withdrawn for a stop.
    async fn run(mut self) -> anyhow::Result<()> {
        // What the election remembers of the control plane is there before anything changes.
        if let Some(known) = self.control_plane.as_mut().map(|known| known.borrow_and_update().clone()) {
            self.tell_control_plane(&known);
        }
        self.tell_eligibility();
        loop {
            match self.next().await {
                Event::Leadership(leadership) => self.tell_lease(&leadership),
                Event::Address(state) => self.tell_state(state),
                Event::Health => self.tell_eligibility(),
                Event::ControlPlane(known) => self.tell_control_plane(&known),
                Event::Stop => return self.hand_over().await,
                Event::Ended(error) => return Err(error),
            }
        }
    }

    /// The next event. May be cancelled: every branch is a watch or a task, and loses nothing.
    async fn next(&mut self) -> Event {
        let (mut state, mut parting, mut link, mut address_task) = (None, None, None, None);
        if let Some(seat) = &mut self.seat {
            (state, parting, link) = (Some(&mut seat.state), Some(&mut seat.parting), Some(&mut seat.link));
            address_task = Some(&mut *seat.address_task);
        }
        tokio::select! {
            // In the order of their urgency: a lease that ended is passed on before anything else.
            biased;
            leadership = changed(Some(&mut self.leadership)) => leadership.map_or_else(Event::Ended, Event::Leadership),
            state = changed(state) => state.map_or_else(Event::Ended, Event::Address),
            parting = changed(parting) => parting.map_or_else(Event::Ended, |_| Event::Address(self.state())),
            link = changed(link) => link.map_or_else(Event::Ended, |_| Event::Health),
            usable = changed(self.usable.as_mut()) => usable.map_or_else(Event::Ended, |_| Event::Health),
            checked = changed(self.checked.as_mut()) => checked.map_or_else(Event::Ended, |_| Event::Health),
            known = changed(self.control_plane.as_mut()) => known.map_or_else(Event::Ended, Event::ControlPlane),
            () = reached(self.refused_until) => Event::Health,
            stopping = changed(Some(&mut self.stopping)) => stopping.map_or_else(Event::Ended, |_| Event::Stop),
            ended = &mut *self.election_task => Event::Ended(reason(ended, "the election")),
            ended = ended(address_task) => Event::Ended(reason(ended, "the address")),
        }
    }

    /// Gives leadership to another node, withdrawing the address on the way.
    async fn hand_over(&mut self) -> anyhow::Result<()> {
        let election = self.election.clone();
        let mut shutdown = pin!(election.shutdown());
        loop {
            tokio::select! {
                biased;
                // First, as the election's task ends with it, which is no failure then.
                () = &mut shutdown => return Ok(()),
                // The events of a hand-over are the ordinary ones: the lease ends, the address goes, standby is told.
                event = self.next() => match event {
                    Event::Leadership(leadership) => self.tell_lease(&leadership),
                    Event::Address(state) => self.tell_state(state),
                    Event::Health | Event::ControlPlane(_) | Event::Stop => {}
                    Event::Ended(error) => return Err(error),
                },
            }
        }
    }

    fn tell_control_plane(&self, known: &ControlPlane) {
        if let Some(apiservers) = self.common.apiservers {
            apiservers.tell(known, self.common.balancer, self.common.health_check);
        }
    }

    fn tell_lease(&mut self, leadership: &Leadership) {
        let now = leader::clock::now();
        self.moves.send_if_modified(|moves| moves.lead(leadership, |node| self.monitor.sign(node), now));
        let Some(seat) = &self.seat else { return };
        let lease = match *leadership {
            Leadership::Leader { until, .. } => Some(until),
            Leadership::Follower { .. } => None,
        };
        seat.lease.send_replace(lease);
        if lease.is_none() && self.state() == State::Standby {
            self.election.confirm_standby();
        }
    }

    /// The address's state now.
    fn state(&self) -> State {
        self.seat.as_ref().map_or(State::Standby, |seat| *seat.state.borrow())
    }

    fn tell_state(&mut self, state: State) {
        if state == State::Active {
            self.moves.send_if_modified(|moves| moves.hold(leader::clock::now()));
        }
        let Some(seat) = &self.seat else { return };
        // In a planned move, the balancer's connections go a moment after the address: a client's connect may not have returned yet.
        let is_here = state == State::Active || *seat.parting.borrow();
        self.common.held.send_if_modified(|held| {
            let mut changed = false;
            for ip in &seat.ips {
                changed |= if is_here { held.insert(*ip) } else { held.remove(ip) };
            }
            changed
        });
        if state == State::Standby && self.is_refused() {
            self.refused_until = Some(Instant::now() + REFUSED_TIME);
            self.tell_eligibility();
        }
        let follows = matches!(*self.leadership.borrow(), Leadership::Follower { .. });
        if state == State::Standby && follows {
            self.election.confirm_standby();
        }
    }

    /// Whether this node leads, and requests for the address have failed: the kernel refuses it.
    fn is_refused(&mut self) -> bool {
        let Some(seat) = &self.seat else { return false };
        let failures = seat.address.status().failures;
        let more = failures > std::mem::replace(&mut self.failures, failures);
        let now = leader::clock::now();
        more && self.leadership.borrow().lease_end(now).is_some()
    }

    /// The one feedback into the election: a node that can't serve should not lead while another can.
    fn tell_eligibility(&mut self) {
        self.refused_until = self.refused_until.filter(|until| Instant::now() < *until);
        let Some(seat) = &self.seat else { return };
        let link = *seat.link.borrow();
        let discovers = self.common.apiservers.is_some();
        let usable = self.usable.as_ref().is_none_or(|usable| *usable.borrow())
            || (discovers && is_empty(self.common.balancer));
        let ready = match (self.common.health_check, self.common.apiservers) {
            (Some(check), Some(apiservers)) => {
                let fitness = apiservers.fitness(&check.status());
                self.election.set_successor(fitness.successor);
                fitness.eligible
            }
            (Some(check), None) => is_ready(&check.status()),
            (None, _) => true,
        };
        self.election.set_eligible(link && usable && ready && self.refused_until.is_none());
    }
}

/// Whether the balancer has nothing to balance yet: backends that are discovered come with the control plane, and to make one
/// takes an address.
fn is_empty(balancer: Option<&lb::Balancer>) -> bool {
    let status = balancer.map(lb::Balancer::status);
    status.is_some_and(|status| status.frontends.iter().all(|frontend| frontend.backends.is_empty()))
}

/// Whether this host's own apiserver is ready, or has not been judged yet.
fn is_ready(status: &lb::Status) -> bool {
    status
        .frontends
        .iter()
        .flat_map(|frontend| &frontend.backends)
        .all(|backend| matches!(backend.health, Health::Ready | Health::Unknown))
}

/// The next value of a watch; for ever pending where there is none.
async fn changed<T: Clone>(receiver: Option<&mut watch::Receiver<T>>) -> anyhow::Result<T> {
    let Some(receiver) = receiver else { return std::future::pending().await };
    receiver.changed().await.context("a part of vipd ended unexpectedly")?;
    Ok(receiver.borrow_and_update().clone())
}

/// That instant; for ever pending where there is none.
async fn reached(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// The end of a task; for ever pending where there is none.
async fn ended<E>(task: Option<&mut JoinHandle<Result<(), E>>>) -> Result<Result<(), E>, JoinError> {
    match task {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}

fn reason<E: std::error::Error + Send + Sync + 'static>(
    ended: Result<Result<(), E>, JoinError>,
    what: &str,
) -> anyhow::Error {
    match ended {
        Ok(Ok(())) => anyhow!("{what} ended without being asked to"),
        Ok(Err(error)) => anyhow::Error::new(error).context(format!("{what} can't go on")),
        Err(error) => anyhow::Error::new(error).context(format!("{what} ended")),
    }
}
