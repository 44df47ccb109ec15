//! One backend as all threads see it: what is known and counted about it, and the wires between its flows and
//! its probe. No decision is made here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Notify, watch};

use crate::config::Backend;
use crate::health::{Flip, Health};
use crate::pool::Member;
use crate::status::BackendStatus;

/// What the checks found about a backend, for the status.
#[derive(Debug, Clone)]
pub(crate) struct Judgement {
    pub(crate) health: Health,
    pub(crate) since: Instant,
    pub(crate) last_error: Option<String>,
}

/// One backend of one frontend, for as long as the frontend has it or a connection to it is open.
#[derive(Debug)]
pub(crate) struct Target {
    /// What it is known by: whoever comes with the same address is the same backend.
    pub(crate) address: SocketAddr,
    /// For logs and status. A set may give a backend that stays another name.
    name: watch::Sender<Arc<str>>,
    pub(crate) member: Member,
    /// It came when its frontend had others already.
    newcomer: bool,
    /// Flows ask for a check by it. A `Notify` holds one request at most, however many flows fail.
    pub(crate) doubt: Notify,
    /// Written by the probe alone.
    pub(crate) judgement: watch::Sender<Judgement>,
    /// Rung when the last connection to a backend that has left ends; it belongs to the whole balancer.
    review: Arc<Notify>,
}

impl Target {
    pub(crate) fn new(backend: Backend, review: Arc<Notify>, newcomer: bool, now: Instant) -> Arc<Self> {
        let unknown = Judgement { health: Health::Unknown, since: now, last_error: None };
        let member = Member::default();
        member.set_cordoned(backend.cordoned);
        Arc::new(Self {
            address: backend.address,
            name: watch::Sender::new(backend.name.into()),
            member,
            newcomer,
            doubt: Notify::new(),
            judgement: watch::Sender::new(unknown),
            review,
        })
    }

    pub(crate) fn name(&self) -> Arc<str> {
        Arc::clone(&self.name.borrow())
    }

    pub(crate) fn rename(&self, name: &str) {
        self.name.send_if_modified(|known| {
            let differs = **known != *name;
            if differs {
                *known = name.into();
            }
            differs
        });
    }

    /// True when this change of health has it take connections that went to others until now; which the first judgement at the start
    /// of a balancer does not.
    pub(crate) fn comes_back(&self, flip: &Flip) -> bool {
        flip.to == Health::Ready && (self.newcomer || flip.from != Health::Unknown)
    }

    /// As of now; `share` is what it gets of a whole one.
    pub(crate) fn status(&self, leaving: bool, share: u32) -> BackendStatus {
        let member = &self.member;
        let judgement = self.judgement.borrow().clone();
        BackendStatus {
            name: self.name().to_string(),
            address: self.address,
            leaving,
            drained: member.is_drained(),
            cordoned: member.is_cordoned(),
            health: judgement.health,
            share,
            since: judgement.since,
            connections: member.open(),
            total: member.total.get(),
            connect_failures: member.connect_failures.get(),
            retries: member.retries.get(),
            checks: member.checks.status(),
            ends: member.ends.status(),
            last_error: judgement.last_error,
            bytes_to_backend: member.to_backend.get(),
            bytes_to_client: member.to_client.get(),
        }
    }
}

/// A connection that counts as open on its backend until it is dropped.
#[derive(Debug)]
pub(crate) struct Open(Arc<Target>);

impl Open {
    /// Counts a connection to `target`, unless that has left.
    pub(crate) fn enter(target: &Arc<Target>) -> Option<Self> {
        target.member.enter();
        // Counted first and looked second, while whoever takes the backend away looks at the count last: one
        // of the two sees the other. Refused, the connection is counted out as any other is.
        let open = Self(Arc::clone(target));
        (!target.member.has_left()).then_some(open)
    }

    /// The backend.
    pub(crate) fn target(&self) -> &Target {
        &self.0
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if self.0.member.exit() {
            self.0.review.notify_one();
        }
    }
}
