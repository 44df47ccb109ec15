//! What the control thread and the probes publish: orders to the workers, news to whoever asks.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::Frontends;
use crate::drain::{Orders, Phase};
use crate::frontend::Shared;
use crate::health::{Flip, Health};
use crate::rebalance::{self, Shed};
use crate::slow_start;
use crate::status::Monitor;
use crate::target::Target;

/// What the probes of all backends write to.
#[derive(Debug)]
pub(crate) struct Board {
    frontends: watch::Sender<Frontends>,
    orders: watch::Sender<Orders>,
    usable: watch::Sender<bool>,
    /// Counts the changes of health, of the backends and of the frontends.
    changes: watch::Sender<u64>,
}

impl Board {
    pub(crate) fn new(frontends: Frontends) -> Self {
        let orders = Orders {
            phase: Phase::Running,
            held: Arc::default(),
            moves: 0,
            shed: Arc::default(),
            sheds: 0,
            deaths: 0,
            closures: 0,
        };
        Self {
            usable: watch::Sender::new(usable(&frontends)),
            frontends: watch::Sender::new(frontends),
            orders: watch::Sender::new(orders),
            changes: watch::Sender::new(0),
        }
    }

    /// All frontends as of now, those that are leaving last.
    pub(crate) fn frontends(&self) -> Frontends {
        Arc::clone(&self.frontends.borrow())
    }

    /// Shows other frontends.
    pub(crate) fn set_frontends(&self, frontends: Vec<Arc<Shared>>) {
        self.frontends.send_replace(frontends.into());
        self.announce();
    }

    /// What reads all this.
    pub(crate) fn monitor(&self) -> Monitor {
        Monitor::new(self.frontends.subscribe(), self.changes.subscribe())
    }

    /// Whether every frontend has a backend that is not dead.
    pub(crate) fn usable(&self) -> watch::Receiver<bool> {
        self.usable.subscribe()
    }

    /// What the workers follow.
    pub(crate) fn orders(&self) -> watch::Receiver<Orders> {
        self.orders.subscribe()
    }

    /// Tells the workers how far the balancer's end has come.
    pub(crate) fn enter(&self, phase: Phase) {
        self.orders.send_modify(|orders| orders.phase = phase);
    }

    /// Tells the workers which virtual IPs are on this node.
    pub(crate) fn hold(&self, held: BTreeSet<IpAddr>) {
        self.orders.send_modify(|orders| {
            orders.held = Arc::new(held);
            orders.moves += 1;
        });
    }

    /// Passes a change of a backend's health on to the flows and to whoever asks whether the balancer is
    /// usable. If it is dead because its port is `closed`, flows that it has answered go on until [`Board::bury`].
    pub(crate) fn publish(&self, frontend: &Shared, target: &Target, flip: &Flip, closed: bool) {
        if target.comes_back(flip) {
            // First, lest it gets a burst before.
            frontend.start_slowly(target, Instant::now().into_std());
        }
        if flip.to == Health::Dead {
            target.member.set_closing(closed);
        }
        target.member.set_health(flip.to);
        if flip.to == Health::Dead {
            let count = |orders: &mut Orders| if closed { orders.closures += 1 } else { orders.deaths += 1 };
            self.orders.send_modify(count);
        }
        self.announce();
    }

    /// Ends what is left of the flows to a backend from before its port was closed.
    pub(crate) fn bury(&self, target: &Target) {
        target.member.set_closing(false);
        self.orders.send_modify(|orders| orders.deaths += 1);
    }

    /// Whether connections are to be moved within any frontend.
    pub(crate) fn rebalances(&self) -> bool {
        self.frontends.borrow().iter().any(|frontend| frontend.settings().rebalance.is_some())
    }

    /// Has connections moved to backends that have fewer than their share, where that is wanted; and looked at, even if none is moved.
    pub(crate) fn rebalance(&self) {
        let now = Instant::now().into_std();
        let wanted = |frontend: &Arc<Shared>| {
            let whole_share = |target: &Target| frontend.share(target, now) == slow_start::WHOLE;
            rebalance::shed(frontend.id, &frontend.roster(), frontend.settings().rebalance?, whole_share)
        };
        let shed: Arc<[Shed]> = self.frontends.borrow().iter().filter_map(wanted).collect();
        self.orders.send_modify(|orders| (orders.shed, orders.sheds) = (shed, orders.sheds + 1));
    }

    /// Tells whoever asks that a health or a set of backends has changed.
    pub(crate) fn announce(&self) {
        let usable = usable(&self.frontends.borrow());
        self.usable.send_if_modified(|known| std::mem::replace(known, usable) != usable);
        self.changes.send_modify(|changes| *changes += 1);
    }
}

/// True while every frontend has a backend that is not dead. Those that are leaving get no connections.
fn usable(frontends: &[Arc<Shared>]) -> bool {
    frontends.iter().all(|frontend| frontend.is_leaving() || frontend.roster().usable())
}
