//! What all threads share about one frontend: settings, counts, health. No decision is made here.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore, watch};

use crate::client::Network;
use crate::config::{Backend, Frontend, Listen, Policy, Timeouts};
use crate::drain::End;
use crate::pool::Counter;
use crate::proxy_protocol::ProxyProtocol;
use crate::roster::{Roster, Standing};
use crate::slow_start;
use crate::sources::Sources;
use crate::status::{BackendStatus, FrontendStatus};
use crate::target::Target;
use crate::transparent::Transparent;

/// One frontend as all threads see it.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) name: String,
    pub(crate) policy: Policy,
    /// For how long the share of a backend that has come back grows.
    pub(crate) slow_start: Option<Duration>,
    pub(crate) timeouts: Timeouts,
    pub(crate) virtual_ips: Vec<IpAddr>,
    pub(crate) rebalance: Option<NonZeroUsize>,
    pub(crate) proxies: Vec<Network>,
    pub(crate) proxy_protocol: Option<ProxyProtocol>,
    pub(crate) transparent: Option<Transparent>,
    pub(crate) access_log: bool,
    pub(crate) listen: Vec<SocketAddr>,
    /// The port that the kernel leads to those.
    redirected: Option<u16>,
    /// No byte comes here: connections are counted as the kernel tells.
    forwarded: bool,
    /// When it was made.
    born: Instant,
    /// The backends. Whoever changes them does so within the channel's own turn, so there is one at a time.
    roster: watch::Sender<Arc<Roster>>,
    /// Asks the control thread to look at the rosters of all frontends.
    review: Arc<Notify>,
    /// Rung when other backends are preferred than before, although the health of none has changed.
    preferences: Arc<Notify>,
    /// Connections placed so far, over all workers.
    pub(crate) cursor: Arc<AtomicUsize>,
    pub(crate) accepted: Counter,
    pub(crate) refused: Counter,
    rebalanced: Counter,
    aged: Counter,
    /// Of a host that had as many as it may have, or of a proxy that said nothing sensible.
    pub(crate) rejected: Counter,
    pub(crate) sources: Option<Arc<Sources>>,
    /// One permit per flow that may still begin.
    pub(crate) room: Arc<Semaphore>,
    max_connections: usize,
    /// Set while the limit has been reported and not yet left behind.
    full: AtomicBool,
}

impl Shared {
    pub(crate) fn new(
        frontend: &Frontend,
        listen: Vec<SocketAddr>,
        review: Arc<Notify>,
        preferences: Arc<Notify>,
        now: Instant,
    ) -> Self {
        let max_connections = frontend.limits.max_connections.min(Semaphore::MAX_PERMITS);
        Self {
            name: frontend.name.clone(),
            policy: frontend.policy,
            slow_start: frontend.slow_start,
            timeouts: frontend.timeouts,
            virtual_ips: frontend.virtual_ips.clone(),
            rebalance: frontend.rebalance,
            proxies: frontend.proxies.clone(),
            proxy_protocol: frontend.proxy_protocol,
            transparent: Transparent::of(&frontend.transparent_source),
            access_log: frontend.access_log,
            listen,
            redirected: match frontend.listen {
                Listen::Redirected { port, .. } => Some(port),
                Listen::Any { .. } | Listen::Addresses { .. } | Listen::Forwarded(_) | Listen::Nowhere => {
                    None
                }
            },
            forwarded: matches!(frontend.listen, Listen::Forwarded(_)),
            born: now,
            roster: watch::Sender::default(),
            review,
            preferences,
            cursor: Arc::default(),
            accepted: Counter::default(),
            refused: Counter::default(),
            rebalanced: Counter::default(),
            aged: Counter::default(),
            rejected: Counter::default(),
            sources: frontend.limits.per_source.map(|most| Arc::new(Sources::new(most))),
            room: Arc::new(Semaphore::new(max_connections)),
            max_connections,
            full: AtomicBool::new(false),
        }
    }

    /// The backends as of now.
    pub(crate) fn roster(&self) -> Arc<Roster> {
        Arc::clone(&self.roster.borrow())
    }

    /// The backends now and later.
    pub(crate) fn rosters(&self) -> watch::Receiver<Arc<Roster>> {
        self.roster.subscribe()
    }

    /// Gives it a checked set of backends. When this returns, no flow chooses one that is not among them.
    pub(crate) fn set_backends(&self, backends: Vec<Backend>, now: Instant) {
        let replaced = self.replace(|roster| {
            let newcomer = !roster.present().is_empty();
            let create = |backend| Target::new(backend, Arc::clone(&self.review), newcomer, now);
            let returning = roster.returning(&backends);
            let next = roster.successor(backends, create);
            returning.iter().for_each(|target| self.start_slowly(target, now));
            next
        });
        if replaced {
            self.review.notify_one();
        }
    }

    /// How long it has been there.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.born)
    }

    /// Has the share of a backend that has come back grow from now on, where that is wanted.
    pub(crate) fn start_slowly(&self, target: &Target, now: Instant) {
        if self.slow_start.is_some() {
            target.member.start_slowly(self.age(now));
        }
    }

    /// What a backend gets now of what the policy would give it.
    pub(crate) fn share(&self, target: &Target, now: Instant) -> u32 {
        let share = |slow_start| target.member.share(self.age(now), slow_start);
        self.slow_start.map_or(slow_start::WHOLE, share)
    }

    /// Forgets the backends that have left and have no connection any more.
    pub(crate) fn forget_vacant(&self) {
        self.replace(Roster::without_vacant);
    }

    fn replace(&self, successor: impl FnOnce(&Roster) -> Option<Roster>) -> bool {
        self.roster.send_if_modified(|roster| {
            let next = successor(roster);
            let changes = next.is_some();
            if let Some(next) = next {
                *roster = Arc::new(next);
            }
            changes
        })
    }

    /// Counts a flow that was ended from outside.
    pub(crate) fn count(&self, end: End) {
        match end {
            End::Rebalanced => self.rebalanced.add(1),
            End::Aged | End::Overdue => self.aged.add(1),
            // Backends, addresses and times tell of these.
            End::Idle | End::BackendClosed | End::BackendDead | End::VirtualIpLost | End::Stopped => {}
        }
    }

    /// Flows now.
    pub(crate) fn connections(&self) -> usize {
        if self.forwarded {
            return self.roster().all().map(|(target, _)| target.member.open()).sum();
        }
        self.max_connections.saturating_sub(self.room.available_permits())
    }

    /// Takes over how many connections each backend has, where the kernel knows that alone.
    pub(crate) fn observe(&self, open: &BTreeMap<SocketAddr, usize>) {
        for (target, _) in self.roster().all() {
            if target.member.observe(open.get(&target.address).copied().unwrap_or_default()) {
                self.review.notify_one();
            }
        }
    }

    /// Tells those who follow the backends that others are preferred now, although the health of none has changed.
    pub(crate) fn tell_preferences(&self) {
        self.preferences.notify_one();
    }

    /// Says once that the frontend is full.
    pub(crate) fn report_full(&self) {
        if !self.full.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                frontend = self.name,
                max_connections = self.max_connections,
                "frontend is full: connections wait"
            );
        }
    }

    /// Notes the end of a flow. An eighth must be free before a full frontend is worth another line in the
    /// log.
    pub(crate) fn report_room(&self) {
        if self.full.load(Ordering::Relaxed) && self.room.available_permits() > self.max_connections / 8 {
            self.full.store(false, Ordering::Relaxed);
        }
    }

    pub(crate) fn status_of(&self, target: &Target, standing: Standing, now: Instant) -> BackendStatus {
        target.status(standing == Standing::Leaving, self.share(target, now))
    }

    pub(crate) fn status(&self, now: Instant) -> FrontendStatus {
        let roster = self.roster();
        let backends = roster.all().map(|(target, standing)| self.status_of(target, standing, now));
        FrontendStatus {
            name: self.name.clone(),
            listen: self.listen.clone(),
            redirected: self.redirected,
            forwarded: self.forwarded,
            connections: self.connections(),
            max_connections: self.max_connections,
            accepted: self.accepted.get(),
            refused: self.refused.get(),
            rebalanced: self.rebalanced.get(),
            aged: self.aged.get(),
            rejected: self.rejected.get(),
            // The control thread may not have seen the last connection end yet, or not run any more.
            backends: backends.filter(|backend| !backend.leaving || backend.connections > 0).collect(),
        }
    }
}
