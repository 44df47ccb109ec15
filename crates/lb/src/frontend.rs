//! What all threads share about one frontend: settings, counts, health. No decision is made here.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tokio::sync::{Notify, Semaphore, watch};

use crate::config::{Backend, Frontend, Policy, Timeouts};
use crate::health::Health;
use crate::pool::{BackendId, Counter, Members};
use crate::status::{BackendStatus, FrontendStatus};

/// What the checks found about a backend, for the status.
#[derive(Debug, Clone)]
pub(crate) struct Judgement {
    pub(crate) health: Health,
    pub(crate) since: Instant,
    pub(crate) last_error: Option<String>,
}

/// One backend's settings, and its two wires between flows and probe.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) backend: Backend,
    /// Flows ask for a check by it. A `Notify` holds one request at most, however many flows fail.
    pub(crate) doubt: Notify,
    /// Written by the probe alone.
    pub(crate) judgement: watch::Sender<Judgement>,
}

/// One frontend as all threads see it.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) name: String,
    pub(crate) policy: Policy,
    pub(crate) timeouts: Timeouts,
    pub(crate) virtual_ips: Vec<IpAddr>,
    pub(crate) listen: Vec<SocketAddr>,
    pub(crate) targets: Vec<Target>,
    pub(crate) members: Arc<Members>,
    pub(crate) accepted: Counter,
    pub(crate) refused: Counter,
    /// One permit per flow that may still begin.
    pub(crate) room: Arc<Semaphore>,
    max_connections: usize,
    /// Set while the limit has been reported and not yet left behind.
    full: AtomicBool,
}

impl Shared {
    pub(crate) fn new(frontend: &Frontend, listen: Vec<SocketAddr>, now: Instant) -> Self {
        let unknown = Judgement { health: Health::Unknown, since: now, last_error: None };
        let targets = frontend.backends.iter().map(|backend| Target {
            backend: backend.clone(),
            doubt: Notify::new(),
            judgement: watch::Sender::new(unknown.clone()),
        });
        let max_connections = frontend.limits.max_connections.min(Semaphore::MAX_PERMITS);
        Self {
            name: frontend.name.clone(),
            policy: frontend.policy,
            timeouts: frontend.timeouts,
            virtual_ips: frontend.virtual_ips.clone(),
            listen,
            targets: targets.collect(),
            members: Arc::new(Members::new(frontend.backends.len())),
            accepted: Counter::default(),
            refused: Counter::default(),
            room: Arc::new(Semaphore::new(max_connections)),
            max_connections,
            full: AtomicBool::new(false),
        }
    }

    pub(crate) fn target(&self, id: BackendId) -> &Target {
        &self.targets[id.index()]
    }

    /// Flows now.
    pub(crate) fn connections(&self) -> usize {
        self.max_connections.saturating_sub(self.room.available_permits())
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

    pub(crate) fn status(&self) -> FrontendStatus {
        FrontendStatus {
            name: self.name.clone(),
            listen: self.listen.clone(),
            connections: self.connections(),
            max_connections: self.max_connections,
            accepted: self.accepted.get(),
            refused: self.refused.get(),
            backends: self.members.ids().map(|id| self.backend_status(id)).collect(),
        }
    }

    fn backend_status(&self, id: BackendId) -> BackendStatus {
        let (target, member) = (self.target(id), self.members.member(id));
        let judgement = target.judgement.borrow().clone();
        BackendStatus {
            name: target.backend.name.clone(),
            address: target.backend.address,
            health: judgement.health,
            since: judgement.since,
            connections: member.open(),
            total: member.total.get(),
            connect_failures: member.connect_failures.get(),
            retries: member.retries.get(),
            last_error: judgement.last_error,
            bytes_to_backend: member.to_backend.get(),
            bytes_to_client: member.to_client.get(),
        }
    }
}
