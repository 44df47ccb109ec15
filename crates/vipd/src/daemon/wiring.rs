//! What one part says, told to the others.

use std::time::Duration;

use anyhow::{Context, anyhow};
use lb::Health;
use leader::Leadership;
use leader::kubernetes::ControlPlane;
use tokio::sync::watch;
use tokio::task::JoinError;
use tokio::time::Instant;
use tracing::{info, warn};
use vip::State;

use super::owner::Owner;
use super::parts::Parts;
use super::transitions::Transitions;
use crate::signals::Signals;

/// Something happened that another part must know.
enum Event {
    /// The election's view changed.
    Leadership(Leadership),
    /// The address came, went, or is on its way.
    Address(State),
    /// The link or the backends changed.
    Health,
    /// Control-plane nodes came, went or moved.
    ControlPlane(ControlPlane),
    /// A signal asks for a stop.
    Stop(&'static str),
    /// A part ended by itself, which none should.
    Ended(anyhow::Error),
}

/// The watches of all parts. Waits on every one of them and on signals; sends the lease end to the address, the
/// address's state to the balancer, and both standby and eligibility back to the election.
pub(super) struct Wiring {
    leadership: Option<watch::Receiver<Leadership>>,
    address: Option<watch::Receiver<State>>,
    link: Option<watch::Receiver<bool>>,
    usable: Option<watch::Receiver<bool>>,
    checked: Option<watch::Receiver<u64>>,
    control_plane: Option<watch::Receiver<ControlPlane>>,
    /// Until when this node counts as unfit, because the kernel refused it the address.
    refused_until: Option<Instant>,
    /// The requests about the address that had failed when this was looked at last.
    failures: u64,
    transitions: Transitions,
}

/// How long a node that led and could not have the address leaves it to others: long enough for an operator's log to show
/// whose fault it is, short enough that a passing fault costs the preferred node little.
const REFUSED_TIME: Duration = Duration::from_secs(10);

impl Wiring {
    pub(super) fn new(parts: &Parts) -> Self {
        let owner = parts.owner.as_ref();
        Self {
            leadership: owner.map(|owner| owner.election.leadership()),
            address: owner.map(|owner| owner.address.state()),
            link: owner.map(|owner| owner.address.link_up()),
            usable: parts.balancer.as_ref().map(lb::Balancer::usable),
            checked: parts.health_check.as_ref().map(|check| check.monitor().changes()),
            control_plane: owner.and_then(|owner| owner.monitor.control_plane()),
            refused_until: None,
            failures: 0,
            transitions: Transitions::new(parts.transitions.clone()),
        }
    }

    /// Passes on what happens until a stop has been carried out: the address handed over and withdrawn.
    ///
    /// # Errors
    /// A part that ended by itself.
    pub(super) async fn run(mut self, parts: &mut Parts, signals: &mut Signals) -> anyhow::Result<()> {
        // What the election remembers of the control plane is there before anything changes.
        if let Some(known) = self.control_plane.as_mut().map(|known| known.borrow_and_update().clone()) {
            Self::tell_control_plane(parts, &known);
        }
        self.tell_eligibility(parts);
        loop {
            match self.next(parts, signals).await {
                Event::Leadership(leadership) => self.tell_lease(parts, &leadership),
                Event::Address(state) => self.tell_state(parts, state),
                Event::Health => self.tell_eligibility(parts),
                Event::ControlPlane(known) => Self::tell_control_plane(parts, &known),
                Event::Stop(signal) => {
                    info!(signal, "stopping");
                    parts.stopping.send_replace(true);
                    return self.hand_over(parts, signals).await;
                }
                Event::Ended(error) => return Err(error),
            }
        }
    }

    /// The next event. May be cancelled: every branch is a watch, a signal or a task, and loses nothing.
    async fn next(&mut self, parts: &mut Parts, signals: &mut Signals) -> Event {
        let (mut election_task, mut address_task) = (None, None);
        if let Some(owner) = &mut parts.owner {
            election_task = Some(&mut owner.election_task);
            address_task = Some(&mut owner.address_task);
        }
        tokio::select! {
            // In the order of their urgency: a lease that ended is passed on before anything else.
            biased;
            leadership = changed(&mut self.leadership) => leadership.map_or_else(Event::Ended, Event::Leadership),
            state = changed(&mut self.address) => state.map_or_else(Event::Ended, Event::Address),
            link = changed(&mut self.link) => link.map_or_else(Event::Ended, |_| Event::Health),
            usable = changed(&mut self.usable) => usable.map_or_else(Event::Ended, |_| Event::Health),
            checked = changed(&mut self.checked) => checked.map_or_else(Event::Ended, |_| Event::Health),
            known = changed(&mut self.control_plane) => known.map_or_else(Event::Ended, Event::ControlPlane),
            () = reached(self.refused_until) => Event::Health,
            signal = signals.next() => Event::Stop(signal),
            ended = ended(election_task) => Event::Ended(reason(ended, "the election")),
            ended = ended(address_task) => Event::Ended(reason(ended, "the address")),
        }
    }

    /// Gives leadership to another node, withdrawing the address on the way. A second signal cuts it short.
    async fn hand_over(&mut self, parts: &mut Parts, signals: &mut Signals) -> anyhow::Result<()> {
        let Some(owner) = &parts.owner else { return Ok(()) };
        let election = owner.election.clone();
        let mut shutdown = std::pin::pin!(election.shutdown());
        loop {
            tokio::select! {
                biased;
                // First, as the election's task ends with it, which is no failure then.
                () = &mut shutdown => return Ok(()),
                // The events of a hand-over are the ordinary ones: the lease ends, the address goes, standby is told.
                event = self.next(parts, signals) => match event {
                    Event::Leadership(leadership) => self.tell_lease(parts, &leadership),
                    Event::Address(state) => self.tell_state(parts, state),
                    Event::Health | Event::ControlPlane(_) => {}
                    Event::Stop(signal) => {
                        warn!(signal, "second signal: not waiting for a successor");
                        return Ok(());
                    }
                    Event::Ended(error) => return Err(error),
                },
            }
        }
    }

    fn tell_control_plane(parts: &Parts, known: &ControlPlane) {
        if let Some(apiservers) = &parts.apiservers {
            apiservers.tell(known, parts.balancer.as_ref(), parts.health_check.as_ref());
        }
    }

    fn tell_lease(&mut self, parts: &Parts, leadership: &Leadership) {
        self.transitions.note(leadership);
        let Some(owner) = &parts.owner else { return };
        let lease = Owner::lease_end(leadership);
        owner.lease.send_replace(lease);
        if lease.is_none() && owner.is_standby() {
            owner.election.confirm_standby();
        }
    }

    fn tell_state(&mut self, parts: &Parts, state: State) {
        parts.active.send_replace(state == State::Active);
        let Some(owner) = &parts.owner else { return };
        if state == State::Standby && self.is_refused(owner) {
            self.refused_until = Some(Instant::now() + REFUSED_TIME);
            self.tell_eligibility(parts);
        }
        let follows = self
            .leadership
            .as_ref()
            .is_some_and(|leadership| matches!(*leadership.borrow(), Leadership::Follower { .. }));
        if state == State::Standby && follows {
            owner.election.confirm_standby();
        }
    }

    /// Whether this node leads, and requests for the address have failed: the kernel refuses it.
    fn is_refused(&mut self, owner: &Owner) -> bool {
        let failures = owner.address.status().failures;
        let more = failures > std::mem::replace(&mut self.failures, failures);
        let now = Instant::now().into_std();
        more && self.leadership.as_ref().is_some_and(|seen| seen.borrow().lease_end(now).is_some())
    }

    /// The one feedback into the election: a node that can't serve should not lead while another can.
    fn tell_eligibility(&mut self, parts: &Parts) {
        self.refused_until = self.refused_until.filter(|until| Instant::now() < *until);
        let Some(owner) = &parts.owner else { return };
        let link = self.link.as_ref().is_none_or(|link| *link.borrow());
        let usable = self.usable.as_ref().is_none_or(|usable| *usable.borrow()) || is_empty(parts);
        let ready = match (&parts.health_check, &parts.apiservers) {
            (Some(check), Some(apiservers)) => {
                let fitness = apiservers.fitness(&check.status());
                owner.election.set_successor(fitness.successor);
                fitness.eligible
            }
            (Some(check), None) => is_ready(&check.status()),
            (None, _) => true,
        };
        owner.election.set_eligible(link && usable && ready && self.refused_until.is_none());
    }
}

/// Whether the balancer has nothing to balance yet: backends that are discovered come with the control plane, and to make one
/// takes an address.
fn is_empty(parts: &Parts) -> bool {
    let status = parts.balancer.as_ref().map(lb::Balancer::status);
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
async fn changed<T: Clone>(receiver: &mut Option<watch::Receiver<T>>) -> anyhow::Result<T> {
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
async fn ended<E>(
    task: Option<&mut tokio::task::JoinHandle<Result<(), E>>>,
) -> Result<Result<(), E>, JoinError> {
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
