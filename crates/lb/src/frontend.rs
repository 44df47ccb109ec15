//! What all threads share about one frontend: settings, counts, health. No decision is made here.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use crate::client::Network;
use crate::config::{Backend, Frontend, Listen, Policy, Timeouts};
use crate::drain::End;
use crate::pool::Counter;
use crate::proxy_protocol::ProxyProtocol;
use crate::room::Room;
use crate::roster::{Roster, Standing};
use crate::slow_start;
use crate::sources::Sources;
use crate::status::{BackendStatus, FrontendStatus};
use crate::target::Target;
use crate::transparent::Transparent;

/// What a frontend is told besides its name, its backends and their check. It never changes: another takes its place.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) policy: Policy,
    pub(crate) slow_start: Option<Duration>,
    pub(crate) timeouts: Timeouts,
    pub(crate) virtual_ips: Vec<IpAddr>,
    pub(crate) rebalance: Option<NonZeroUsize>,
    pub(crate) proxies: Vec<Network>,
    pub(crate) proxy_protocol: Option<ProxyProtocol>,
    pub(crate) transparent: Option<Transparent>,
    pub(crate) access_log: bool,
    pub(crate) sources: Option<Arc<Sources>>,
    /// Where it listens.
    listen: Vec<SocketAddr>,
    /// The port that the kernel leads to those.
    redirected: Option<u16>,
}

impl Settings {
    /// Those of a frontend that listens there. What was counted by `sources` stays so.
    pub(crate) fn new(frontend: &Frontend, listen: Vec<SocketAddr>, sources: Option<&Arc<Sources>>) -> Self {
        let counted = |most| match sources {
            Some(sources) => Arc::clone(sources),
            None => Arc::new(Sources::new(most)),
        };
        Self {
            policy: frontend.policy,
            slow_start: frontend.slow_start,
            timeouts: frontend.timeouts,
            virtual_ips: frontend.virtual_ips.clone(),
            rebalance: frontend.rebalance,
            proxies: frontend.proxies.clone(),
            proxy_protocol: frontend.proxy_protocol,
            transparent: Transparent::of(&frontend.transparent_source),
            access_log: frontend.access_log,
            sources: frontend.limits.per_source.map(counted),
            listen,
            redirected: match frontend.listen {
                Listen::Redirected { port, .. } => Some(port),
                Listen::Any { .. } | Listen::Addresses { .. } | Listen::Forwarded(_) | Listen::Nowhere => {
                    None
                }
            },
        }
    }
}

/// What all frontends of a balancer ring.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bells {
    /// Asks the control thread to look at the rosters of all frontends.
    pub(crate) review: Arc<Notify>,
    /// Rung when other backends are preferred than before, although the health of none has changed.
    pub(crate) preferences: Arc<Notify>,
}

/// One frontend as all threads see it.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Its number; none has that of another, nor of one that is gone.
    pub(crate) id: u64,
    pub(crate) name: String,
    /// Threads that carry flows have each a copy of their own.
    settings: watch::Sender<Arc<Settings>>,
    /// It is no part of the configuration any more, and has connections.
    leaving: AtomicBool,
    /// No byte comes here: connections are counted as the kernel tells.
    forwarded: bool,
    /// When it was made.
    born: Instant,
    /// The backends. Whoever changes them does so within the channel's own turn, so there is one at a time.
    roster: watch::Sender<Arc<Roster>>,
    bells: Bells,
    /// Connections placed so far, over all workers.
    pub(crate) cursor: Arc<AtomicUsize>,
    pub(crate) accepted: Counter,
    pub(crate) refused: Counter,
    rebalanced: Counter,
    aged: Counter,
    /// Of a host that had as many as it may have, or of a proxy that said nothing sensible.
    pub(crate) rejected: Counter,
    /// One place per flow.
    pub(crate) room: Arc<Room>,
    /// Set while the limit has been reported and not yet left behind.
    full: AtomicBool,
}

impl Shared {
    pub(crate) fn new(
        id: u64,
        frontend: &Frontend,
        settings: Arc<Settings>,
        bells: Bells,
        now: Instant,
    ) -> Self {
        Self {
            id,
            name: frontend.name.clone(),
            settings: watch::Sender::new(settings),
            leaving: AtomicBool::new(false),
            forwarded: matches!(frontend.listen, Listen::Forwarded(_)),
            born: now,
            roster: watch::Sender::default(),
            bells,
            cursor: Arc::default(),
            accepted: Counter::default(),
            refused: Counter::default(),
            rebalanced: Counter::default(),
            aged: Counter::default(),
            rejected: Counter::default(),
            room: Arc::new(Room::new(frontend.limits.max_connections)),
            full: AtomicBool::new(false),
        }
    }

    /// The settings as of now.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.borrow())
    }

    /// Puts other settings in force, as far as they are not each worker's own.
    pub(crate) fn set_settings(&self, settings: Arc<Settings>, frontend: &Frontend) {
        if let (Some(sources), Some(most)) = (&settings.sources, frontend.limits.per_source) {
            sources.set_most(most);
        }
        self.room.set_most(frontend.limits.max_connections);
        self.settings.send_replace(settings);
        // The rule by which a backend is chosen may be another.
        self.tell_preferences();
    }

    /// Notes whether it is no part of the configuration any more.
    pub(crate) fn set_leaving(&self, leaving: bool) {
        self.leaving.store(leaving, Ordering::Relaxed);
    }

    /// Whether it is none.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
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
            let create = |backend| Target::new(backend, Arc::clone(&self.bells.review), newcomer, now);
            let returning = roster.returning(&backends);
            let next = roster.successor(backends, create);
            returning.iter().for_each(|target| self.start_slowly(target, now));
            next
        });
        if replaced {
            self.ask_for_review();
        }
    }

    /// How long it has been there.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.born)
    }

    /// Has the share of a backend that has come back grow from now on, where that is wanted.
    pub(crate) fn start_slowly(&self, target: &Target, now: Instant) {
        if self.settings().slow_start.is_some() {
            target.member.start_slowly(self.age(now));
        }
    }

    /// What a backend gets now of what the policy would give it.
    pub(crate) fn share(&self, target: &Target, now: Instant) -> u32 {
        let share = |slow_start| target.member.share(self.age(now), slow_start);
        self.settings().slow_start.map_or(slow_start::WHOLE, share)
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
        self.room.taken()
    }

    /// Takes over how many connections each backend has, where the kernel knows that alone.
    pub(crate) fn observe(&self, open: &BTreeMap<SocketAddr, usize>) {
        for (target, _) in self.roster().all() {
            if target.member.observe(open.get(&target.address).copied().unwrap_or_default()) {
                self.ask_for_review();
            }
        }
    }

    /// Asks the control thread to look at the rosters, and at what may be forgotten.
    pub(crate) fn ask_for_review(&self) {
        self.bells.review.notify_one();
    }

    /// Tells those who follow the backends that others are preferred now, although the health of none has changed.
    pub(crate) fn tell_preferences(&self) {
        self.bells.preferences.notify_one();
    }

    /// Says once that the frontend is full.
    pub(crate) fn report_full(&self) {
        if !self.full.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                frontend = self.name,
                max_connections = self.room.most(),
                "frontend is full: connections wait"
            );
        }
    }

    /// Notes the end of a flow. An eighth must be free before a full frontend is worth another line in the
    /// log.
    pub(crate) fn report_room(&self) {
        if self.full.load(Ordering::Relaxed) && self.room.free() > self.room.most() / 8 {
            self.full.store(false, Ordering::Relaxed);
        }
    }

    pub(crate) fn status_of(&self, target: &Target, standing: Standing, now: Instant) -> BackendStatus {
        target.status(standing == Standing::Leaving, self.share(target, now))
    }

    pub(crate) fn status(&self, now: Instant) -> FrontendStatus {
        let (settings, roster) = (self.settings(), self.roster());
        let backends = roster.all().map(|(target, standing)| self.status_of(target, standing, now));
        FrontendStatus {
            name: self.name.clone(),
            leaving: self.is_leaving(),
            listen: settings.listen.clone(),
            redirected: settings.redirected,
            forwarded: self.forwarded,
            connections: self.connections(),
            max_connections: self.room.most(),
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
