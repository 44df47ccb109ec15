//! The loop that owns the addresses: asks [`Ownership`] what to do, does it, and tells what became of it.

mod relaying;
mod telling;

pub use telling::{Handle, Reason, Status};

use crate::address::{Address, Mac};
use crate::announce::Announcer;
use crate::clock::Clock;
use crate::error::Error;
use crate::linux::{Linux, patiently, promotes_secondaries};
use crate::network::{Event, Events, Link, Network};
use crate::ownership::{Action, Outcome, Ownership, State};
use crate::relay::Farewell;
use std::time::{Duration, Instant};
use telling::Telling;
use tokio::sync::watch;
use tokio::time::sleep_until;

/// What is to be owned, and where.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the interface.
    pub interface: String,
    /// The virtual IPs; they move together.
    pub addresses: Vec<Address>,
    /// Whether to tell the neighbours, by ARP and neighbour discovery.
    pub announce: bool,
    /// Whether to pass on, for a moment, what still comes for addresses that are given up in good order: see [`crate::relay`]. Without
    /// announcements it has no effect.
    pub relay: bool,
    /// Called first on the thread that keeps the kernel's fence, to make it as urgent as the one that renews leases.
    pub urgent: fn(),
    /// How long the machine was suspended since some instant that doesn't change: the monotonic clock doesn't count it, and leases
    /// are given by a clock that does.
    pub asleep: fn() -> Duration,
}

/// The loop around one [`Ownership`] and one [`Announcer`].
///
/// It waits on the lease, on the network's events, on the handle's wish to stop and on its deadlines; it sends requests to
/// the network and [`State`]s to the handle. On each wake-up the lease is looked at first, so that a process that was
/// stopped withdraws an expired address before it does anything else.
///
/// A stop withdraws the addresses at once, and then takes up to a second until frames that still come for them have been passed
/// on: the state tells when they are withdrawn.
///
/// `run` is not to be cancelled but stopped by the handle. If it is cancelled, or the process killed, nothing is cleaned
/// up: the kernel removes the addresses at the end of the lifetime that they were given.
#[derive(Debug)]
pub struct Driver<N = Linux> {
    clock: Clock,
    network: N,
    events: Events,
    lease: watch::Receiver<Option<Instant>>,
    stop: watch::Receiver<bool>,
    config: Config,
    mac: Mac,
    ownership: Ownership,
    announcer: Announcer,
    farewell: Farewell,
    telling: Telling,
    check_at: Instant,
    /// Until when the network was last told to answer for the addresses.
    armed: Option<Instant>,
    stopping: Option<Stopping>,
}

#[derive(Debug)]
struct Stopping {
    patience_ends: Instant,
    because: Option<Error>,
}

#[derive(Debug)]
enum Wake {
    Lease(Result<(), watch::error::RecvError>),
    Stop,
    Network(Option<Event>),
    Deadline,
}

impl Driver<Linux> {
    /// Opens the interface and makes it ready: refuses addresses that are there from another hand, and removes what an
    /// earlier life of this program has left there. Nothing is claimed before [`run`](Self::run). A kernel that is too busy to
    /// answer is waited for.
    ///
    /// # Errors
    ///
    /// The interface or a socket can't be had, or [`Error::Foreign`]; nothing was changed then. Or a leftover can't be
    /// removed; its lifetime will.
    pub async fn start(
        config: Config,
        lease: watch::Receiver<Option<Instant>>,
    ) -> Result<(Self, Handle), Error> {
        let (mut network, events) = patiently(|| prepare(&config)).await?;
        network.fence(&config.addresses, config.urgent, Clock(config.asleep)).await;
        warn_of_secondaries(&config);
        let link = network.link();
        Ok(Self::new(network, events, link, config, lease))
    }
}

/// Opens the interface and clears it; may be done again.
async fn prepare(config: &Config) -> Result<(Linux, Events), Error> {
    let (network, events) = Linux::open(&config.interface, &config.addresses).await?;
    network.refuse_foreign(&config.addresses).await?;
    for address in network.clean().await? {
        tracing::info!(vip = %address, interface = config.interface, "removed a leftover");
    }
    Ok((network, events))
}

impl<N: Network> Driver<N> {
    /// A driver over this network, whose link is in this state.
    #[must_use]
    pub fn new(
        network: N,
        events: Events,
        link: Option<Link>,
        config: Config,
        lease: watch::Receiver<Option<Instant>>,
    ) -> (Self, Handle) {
        let clock = Clock(config.asleep);
        let now = clock.now();
        let mut ownership = Ownership::new(now);
        let up = link.as_ref().is_some_and(|link| link.up);
        ownership.set_link(up, now);
        let (telling, handle, stop) = Telling::new(&config, up, now);
        let driver = Self {
            clock,
            network,
            events,
            lease,
            stop,
            mac: link.map_or([0; 6], |link| link.mac),
            ownership,
            announcer: Announcer::new(config.addresses.clone()),
            farewell: Farewell::default(),
            telling,
            check_at: now + CHECK_INTERVAL,
            armed: None,
            stopping: None,
            config,
        };
        (driver, handle)
    }

    /// Owns the addresses whenever the lease says so, until [`Handle::stop`] or until nobody gives leases any more; then
    /// withdraws them, and returns when nothing is relayed any more.
    ///
    /// # Errors
    ///
    /// The network's events have ended, or the addresses could not be withdrawn; the kernel's lifetime does it then.
    pub async fn run(mut self) -> Result<(), Error> {
        loop {
            self.look_at_lease();
            self.settle().await;
            if let Some(result) = self.ended() {
                return result;
            }
            let wake = self.wait().await;
            self.look_at_lease();
            self.settle_addresses().await;
            self.handle(wake).await;
        }
    }

    fn now(&self) -> Instant {
        self.clock.now()
    }

    async fn wait(&mut self) -> Wake {
        let deadline = self.deadline();
        let (stopping, relaying) = (self.stopping.is_some(), self.is_relaying(self.now()));
        tokio::select! {
            biased;
            changed = self.lease.changed(), if !stopping => Wake::Lease(changed),
            // The sender is in the telling, so it lives as long as this does.
            _ = self.stop.changed(), if !stopping => Wake::Stop,
            event = self.events.next(), if !stopping || relaying => Wake::Network(event),
            () = sleep_until(self.clock.due(deadline)) => Wake::Deadline,
        }
    }

    async fn handle(&mut self, wake: Wake) {
        match wake {
            Wake::Lease(Ok(())) | Wake::Deadline => {}
            Wake::Lease(Err(_)) | Wake::Stop => self.begin_stop(None),
            Wake::Network(Some(event)) => self.handle_event(event).await,
            // Whoever stops needs to hear of a successor, and of nothing else.
            Wake::Network(None) if self.stopping.is_some() => self.end_relaying(self.now()),
            Wake::Network(None) => {
                let interface = self.config.interface.clone();
                self.begin_stop(Some(Error::Blind { interface }));
            }
        }
        let now = self.now();
        self.announcer.handle_timeout(now);
        self.look_at_relaying(now);
        if self.check_at <= now {
            self.check().await;
        }
    }

    async fn handle_event(&mut self, event: Event) {
        let mut changed = false;
        let mut next = Some(event);
        // All that is there, so that a burst of changes is looked at once.
        while let Some(event) = next {
            match event {
                Event::AddressesChanged => changed = true,
                Event::Link(link) => {
                    self.handle_link(link);
                    self.settle_addresses().await;
                }
                Event::Uplink => self.announce_again(),
                Event::Claimed { ip, mac } => self.handle_claim(ip, mac),
            }
            next = self.events.try_next();
        }
        if changed {
            self.check().await;
        }
    }

    fn handle_link(&mut self, link: Option<Link>) {
        let now = self.now();
        let up = link.as_ref().is_some_and(|link| link.up);
        self.telling.link(up);
        self.ownership.set_link(up, now);
        if !up {
            self.end_relaying(now);
        }
        if let Some(link) = link
            && link.mac != self.mac
        {
            self.mac = link.mac;
            // What was caught was sent to the old one.
            self.end_relaying(now);
            self.announce_again();
        }
    }

    /// Begins to announce from the start: switches have to learn of another hardware address, or of another way to it.
    fn announce_again(&mut self) {
        let now = self.now();
        if self.config.announce && self.ownership.state(now) == State::Active {
            self.announcer.start(now);
        }
    }

    fn handle_claim(&mut self, ip: std::net::IpAddr, mac: Mac) {
        let now = self.now();
        if mac == self.mac {
            return;
        }
        self.hear_of_successor(mac, now);
        if self.ownership.state(now) == State::Active {
            self.telling.conflict(ip, mac, now);
            self.announcer.handle_conflict(now);
        }
    }

    /// Compares what is there with what should be.
    async fn check(&mut self) {
        self.check_at = self.now() + CHECK_INTERVAL;
        if self.ownership.state(self.now()) != State::Active {
            return;
        }
        // Once more, whatever was told: somebody may have taken it away.
        self.network.arm(self.armed);
        match self.network.addresses().await {
            Ok(present) => {
                let is_there = |wanted: &Address| present.iter().any(|address| address.ip == wanted.ip);
                if !self.config.addresses.iter().all(is_there) {
                    self.telling.missing(self.now());
                    self.ownership.handle_missing(self.now());
                }
            }
            Err(error) => self.telling.failed(&error, self.now()),
        }
    }

    /// Takes the newest lease and the time: whatever else is done, is done after this.
    fn look_at_lease(&mut self) {
        let now = self.now();
        let lease = if self.stopping.is_some() { None } else { *self.lease.borrow_and_update() };
        self.telling.lease(lease);
        self.telling.fenced(self.network.is_fenced());
        if lease.is_none() {
            self.begin_to_relay(now);
        }
        self.ownership.set_lease(lease, now);
        self.arm(now);
    }

    /// Has the network answer for the addresses as long as the newest lease says.
    fn arm(&mut self, now: Instant) {
        let until = self.ownership.armed_until(now);
        if until != self.armed {
            self.armed = until;
            self.network.arm(until);
        }
    }

    /// Does what the machines ask for, until they ask for nothing more.
    async fn settle(&mut self) {
        loop {
            self.settle_addresses().await;
            if self.ownership.state(self.now()) != State::Active {
                self.announcer.stop();
            }
            let Some(frame) = self.announcer.poll_frame(self.mac) else {
                return;
            };
            match self.network.announce(frame).await {
                Ok(()) => self.telling.announced(),
                Err(error) => self.telling.failed(&error, self.now()),
            }
            // The next frame leaves only if the addresses are still ours.
            self.look_at_lease();
        }
    }

    async fn settle_addresses(&mut self) {
        while let Some(action) = self.ownership.poll_action() {
            let started = self.now();
            // Told before it is done: who reads Standby may rely on nothing being under way.
            self.telling.state(self.ownership.state(started), started);
            // Before an address comes, and before one goes.
            self.arm(started);
            match action {
                Action::Hold { valid_for } => {
                    self.end_relaying(started);
                    // A lease for ever is not renewed, and the kernel's count is not for ever.
                    self.network.arm(self.armed);
                    self.telling.holding(started);
                    let outcome = self.hold(valid_for).await;
                    self.ownership.handle_applied(outcome, self.now());
                    self.telling.held(outcome, self.now());
                }
                Action::Withdraw => {
                    self.telling.withdrawing(self.reason(), started);
                    let outcome = self.withdraw().await;
                    self.ownership.handle_applied(outcome, self.now());
                }
                Action::Announce if self.config.announce => self.announcer.start(started),
                Action::Announce => {}
            }
            self.telling.state(self.ownership.state(self.now()), self.now());
        }
        self.telling.state(self.ownership.state(self.now()), self.now());
        self.arm(self.now());
    }

    async fn hold(&mut self, valid_for: Duration) -> Outcome {
        for address in &self.config.addresses {
            if let Err(error) = self.network.hold(*address, valid_for).await {
                self.telling.failed(&error, self.now());
                return Outcome::HoldFailed;
            }
        }
        Outcome::Held
    }

    async fn withdraw(&mut self) -> Outcome {
        let mut outcome = Outcome::Withdrawn;
        // On past a failure: each address that is gone is one less with two owners.
        for address in &self.config.addresses {
            if let Err(error) = self.network.withdraw(*address).await {
                self.telling.failed(&error, self.now());
                outcome = Outcome::WithdrawFailed;
                if let Some(stopping) = &mut self.stopping {
                    stopping.because.get_or_insert(error);
                }
            }
        }
        outcome
    }

    fn reason(&self) -> Reason {
        match (&self.stopping, self.telling.is_link_up(), *self.lease.borrow()) {
            (Some(_), _, _) => Reason::Stopped,
            (None, false, _) => Reason::LinkDown,
            (None, true, None) => Reason::LeaseGivenUp,
            (None, true, Some(until)) if until <= self.now() => Reason::LeaseEnded,
            (None, true, Some(_)) => Reason::Failed,
        }
    }

    fn begin_stop(&mut self, because: Option<Error>) {
        self.stopping = Some(Stopping { patience_ends: self.now() + STOP_PATIENCE, because });
    }

    fn ended(&mut self) -> Option<Result<(), Error>> {
        let now = self.now();
        let stopping = self.stopping.as_mut()?;
        let withdrawing = self.ownership.state(now) != State::Standby && now < stopping.patience_ends;
        if withdrawing || self.farewell.errand(now).is_some() {
            return None;
        }
        Some(stopping.because.take().map_or(Ok(()), Err))
    }

    fn deadline(&self) -> Instant {
        let state = self.ownership.state(self.now());
        let active = state == State::Active;
        let withdrawing = self.stopping.as_ref().filter(|_| state != State::Standby);
        let deadlines = [
            self.ownership.poll_timeout(),
            self.announcer.poll_timeout(),
            active.then_some(self.check_at),
            withdrawing.map(|stopping| stopping.patience_ends),
            self.farewell.poll_timeout(self.now()),
        ];
        deadlines.into_iter().flatten().min().unwrap_or_else(|| self.now() + IDLE)
    }
}

fn warn_of_secondaries(config: &Config) {
    // Unreadable is no reason to worry anybody: a hardened container shows no such settings.
    let promotes = promotes_secondaries(&config.interface).unwrap_or(true);
    if let Some(vip) = endangers_primary(&config.addresses, promotes) {
        tracing::warn!(
            %vip,
            interface = config.interface,
            "should the node's own address be put back while the virtual IP is held, releasing the virtual IP will \
             remove it: set net.ipv4.conf.all.promote_secondaries=1, or give the virtual IP no prefix"
        );
    }
}

/// An address that may be the first of its subnet when it goes, where the kernel then removes the others of it.
fn endangers_primary(addresses: &[Address], promotes: bool) -> Option<&Address> {
    let shares_a_subnet = |address: &&Address| address.ip.is_ipv4() && address.prefix < 32;
    addresses.iter().find(shares_a_subnet).filter(|_| !promotes)
}

/// The addresses are compared with what should be this often, whatever the network tells.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How long a stop tries to withdraw before it leaves that to the kernel's lifetime.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// With nothing to wait for, `select!` still needs an instant; this one is far enough to cost nothing.
const IDLE: Duration = Duration::from_hours(1);

#[cfg(test)]
mod tests;
