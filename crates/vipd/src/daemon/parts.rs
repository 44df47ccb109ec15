//! The running parts: started in an order in which each can fail without leaving anything behind, stopped in reverse.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_local};
use tracing::{info, warn};

use super::Pulse;
use super::apiservers::Apiservers;
use super::clients::Ports;
use super::clients::ended::Ended;
use super::endpoints::ApiBackends;
use super::notes;
use super::owner::{Farewell, Owner};
use super::predecessor::Predecessor;
use super::record::Record;
use super::reload::{Adjustable, Running};
use super::resolution::Resolution;
use super::successor::Successor;
use super::witness::Witness;
use crate::command::{self, Desk};
use crate::config::{Config, Election, Vip};
use crate::service::Service;
use crate::signals::Signals;
use crate::status::{self, Reporter};
use crate::web;

/// Everything that runs.
pub(crate) struct Parts {
    /// One for all addresses, or one for each where they are spread over the nodes.
    pub(crate) owners: Vec<Owner>,
    /// The same on a node that votes and never has them.
    pub(crate) witnesses: Vec<Witness>,
    pub(crate) balancer: Option<lb::Balancer>,
    /// Tells clients of dead backends, where the kernel carries their connections.
    ended: Option<Ended>,
    pub(crate) health_check: Option<lb::Balancer>,
    /// What the election knows of apiservers, where it does.
    pub(super) apiservers: Option<Rc<Apiservers>>,
    /// Tells the balancer which addresses are on this node.
    pub(super) held: watch::Sender<BTreeSet<IpAddr>>,
    /// Whether this process's memory stays in RAM.
    pub(crate) memory_locked: bool,
    /// Whether a stop has been asked for.
    pub(crate) stopping: watch::Sender<bool>,
    status_task: Option<JoinHandle<()>>,
    command_task: Option<JoinHandle<()>>,
    /// Tells the Kubernetes API of moves.
    record: Option<Record>,
    /// Tells the peers of this node's status.
    notes_task: Option<JoinHandle<()>>,
    web: Option<web::Server>,
    socket: PathBuf,
    drain_timeout: Rc<Cell<Duration>>,
    /// From ports that the balancer listens on to those that clients connect to.
    redirected: watch::Sender<BTreeMap<u16, u16>>,
}

impl Parts {
    /// Starts everything: sockets first, so that a port conflict shows before an address is touched.
    ///
    /// # Errors
    /// The first part that could not start; what was started before it has been stopped again.
    pub(super) async fn start(
        config: Config,
        memory_locked: bool,
        pulse: Pulse,
        mut predecessor: Option<Predecessor>,
        service: &Service,
    ) -> anyhow::Result<Self> {
        let (held, held_seen) = watch::channel(BTreeSet::new());
        let node = config.node;
        let redirected = watch::Sender::new(config.balancer.as_ref().map(redirected).unwrap_or_default());
        let forwarded = config.balancer.as_ref().map(forwarded).unwrap_or_default();
        let ports = Ports { redirected: redirected.subscribe(), forwarded };
        let mut apiservers = config.vips.first().and_then(|vip| apiservers(vip, config.balancer.as_ref()));
        let health_check = match &mut apiservers {
            Some(apiservers) if config.balancer.is_none() => Some(apiservers.check(config.health_check)),
            Some(_) | None => config.health_check,
        };
        let mut balancer = config
            .balancer
            .map(|balancer| {
                let listeners = predecessor.as_mut().map(Predecessor::listeners).unwrap_or_default();
                lb::Balancer::succeed(balancer.config, held_seen.clone(), listeners)
            })
            .transpose()
            .context("failed to start the balancer")?;
        if let Some(predecessor) = predecessor {
            predecessor.replace(service).await?;
        }
        let ended = (!ports.forwarded.is_empty()).then(|| balancer.as_mut()?.take_ended()).flatten();
        let ended = ended.map(Ended::start).transpose()?;
        let health_check = health_check
            .map(|check| lb::Balancer::start(check, held_seen))
            .transpose()
            .context("failed to start the health check")?;
        let owners = own(config.vips, &ports).await?;
        let mut witnesses = Vec::new();
        for witness in config.witnesses {
            witnesses.push(Witness::start(witness).await?);
        }
        let mut parts = Self {
            record: Record::start(config.record, &owners),
            owners,
            witnesses,
            balancer,
            ended,
            health_check,
            apiservers: apiservers.map(Rc::new),
            held,
            memory_locked,
            stopping: watch::Sender::new(false),
            status_task: None,
            command_task: None,
            notes_task: None,
            web: None,
            socket: config.socket,
            drain_timeout: Rc::new(Cell::new(config.drain_timeout)),
            redirected,
        };
        let desk = Desk::new(node.clone(), &parts.owners, parts.balancer.as_ref());
        let (neighbours, told) = parts.neighbours(&node, config.metrics).unzip();
        let reporter = Reporter::new(node, &parts, pulse.clone(), told);
        parts.report(reporter.clone());
        parts.notes_task = notes::start(&parts, reporter.clone());
        parts.obey(desk);
        let sources = web::Sources { reporter, pulse };
        parts.web = web::Server::start((config.metrics, config.health), sources, neighbours);
        Ok(parts)
    }

    /// The other nodes, where a Lease elects and each serves its status, and what they say.
    fn neighbours(&self, me: &str, metrics: Option<SocketAddr>) -> Option<(web::Neighbours, web::Told)> {
        let nodes = self.owners.first()?.monitor.control_plane()?;
        let (prefers_ipv4, never) = self.apiservers.as_ref()?.addresses();
        let (told, said) = watch::channel(BTreeMap::new());
        let (me, port) = (leader::NodeId::new(me).ok()?, metrics?.port());
        Some((web::Neighbours { me, nodes, port, prefers_ipv4, never, told }, said))
    }

    /// Opens the status socket. A daemon without one still does its work: the failure is told, not fatal.
    fn report(&mut self, reporter: Reporter) {
        match status::listen(&self.socket) {
            Ok(listener) => self.status_task = Some(spawn_local(status::serve(listener, reporter))),
            Err(error) => {
                let socket = self.socket.display();
                warn!(%socket, %error, "`vipd status` will not work: failed to open the status socket");
            }
        }
    }

    /// Opens the socket for commands; as little a matter of life and death.
    fn obey(&mut self, desk: Desk) {
        // Without a status socket of its own, this vipd's commands would be another's.
        if self.status_task.is_none() {
            return;
        }
        let socket = command::socket(&self.socket);
        match status::listen(&socket) {
            Ok(listener) => self.command_task = Some(spawn_local(command::serve(listener, desk))),
            Err(error) => {
                let socket = socket.display();
                warn!(%socket, %error, "`vipd step-down` and `vipd backend` will not work: failed to open the socket for commands");
            }
        }
    }

    /// Who gives the listening sockets to a successor, where there are any.
    pub(super) fn listeners(&self) -> Option<lb::ConfigHandle> {
        self.balancer.as_ref().map(lb::Balancer::configuration)
    }

    /// What of all this can change while it runs.
    pub(super) fn adjustable(
        &self,
        resolution: Rc<Resolution>,
        endpoints: Option<Rc<ApiBackends>>,
    ) -> Adjustable {
        let control_plane = self.owners.first().and_then(|owner| owner.monitor.control_plane());
        let running = |balancer: &lb::Balancer| Running {
            configuration: balancer.configuration(),
            backends: balancer.backends(),
            discovery: self.apiservers.clone().zip(control_plane),
            resolution: Rc::clone(&resolution),
            endpoints: endpoints.clone(),
        };
        // Where an election by Lease says whose apiserver is asked, the file says the least of it.
        let check = self.health_check.as_ref().filter(|_| self.apiservers.is_none());
        Adjustable {
            balancer: self.balancer.as_ref().map(running),
            health_check: check.map(lb::Balancer::configuration),
            drain_timeout: Rc::clone(&self.drain_timeout),
            redirected: self.redirected.clone(),
        }
    }

    /// Stops everything: the address has been given up before; open connections get their time; then the tasks end.
    /// Where a `successor` has taken over, it gets all the rest before that.
    pub(super) async fn stop(mut self, signals: &mut Signals, successor: Option<Successor>) {
        self.stopping.send_replace(true);
        let mut farewells = join_all(std::mem::take(&mut self.owners).into_iter().map(Owner::stop)).await;
        join_all(farewells.iter_mut().map(Farewell::respite)).await;
        std::mem::take(&mut self.witnesses).into_iter().for_each(Witness::stop);
        self.held.send_if_modified(|held| !std::mem::take(held).is_empty());
        if let Some(mut successor) = successor {
            join_all(std::mem::take(&mut farewells).into_iter().map(Farewell::end)).await;
            self.close().await;
            // The address waits for the successor, which has to find the label as it is.
            if let Some(record) = &self.record {
                record.leave_label();
            }
            successor.release().await;
        }
        let record = self.record.take();
        let tell = async {
            if let Some(record) = record {
                record.stop().await;
            }
        };
        let drain = async {
            for balancer in self.balancer.take().into_iter().chain(self.health_check.take()) {
                let drained = balancer.drain(self.drain_timeout.get()).await;
                info!(reset = drained.reset, "connections drained");
            }
        };
        let drain = async {
            tokio::select! {
                () = drain => {}
                signal = signals.next() => warn!(signal, "second signal: open connections are cut"),
            }
        };
        tokio::join!(tell, drain);
        drop(self.ended.take());
        // Beside the drain, and seldom longer.
        join_all(farewells.into_iter().map(Farewell::end)).await;
        // Last, so that status, metrics and liveness are there while connections drain.
        self.close().await;
        info!("vipd stopped");
    }

    /// Closes the sockets on which it is asked.
    async fn close(&mut self) {
        if let Some(task) = self.notes_task.take() {
            task.abort();
            let _ = task.await;
        }
        if let Some(task) = self.command_task.take() {
            task.abort();
            let _ = task.await;
            let _ = std::fs::remove_file(command::socket(&self.socket));
        }
        if let Some(task) = self.status_task.take() {
            task.abort();
            let _ = task.await;
            let _ = std::fs::remove_file(&self.socket);
        }
        drop(self.web.take());
    }
}

/// Starts an owner for each; all or none.
async fn own(vips: Vec<Vip>, ports: &Ports) -> anyhow::Result<Vec<Owner>> {
    let mut owners = Vec::new();
    for vip in vips {
        match Owner::start(vip, ports.clone()).await {
            Ok(owner) => owners.push(owner),
            Err(error) => {
                // Those before it may lead by now.
                join_all(owners.into_iter().map(Owner::stop)).await;
                return Err(error);
            }
        }
    }
    Ok(owners)
}

/// The ports that the kernel redirects: from where the balancer listens to where clients connect.
pub(super) fn redirected(balancer: &crate::config::Balancer) -> BTreeMap<u16, u16> {
    let ports = balancer.config.frontends.iter().filter_map(|frontend| match frontend.listen {
        lb::Listen::Redirected { port, own, .. } => Some((own, port)),
        lb::Listen::Any { .. }
        | lb::Listen::Addresses { .. }
        | lb::Listen::Forwarded(_)
        | lb::Listen::Nowhere => None,
    });
    ports.collect()
}

/// The ports whose connections the kernel leads to backends by itself. Clients of datagrams notice nothing of a move.
fn forwarded(balancer: &crate::config::Balancer) -> Vec<u16> {
    let ports = balancer.config.frontends.iter().filter_map(|frontend| match &frontend.listen {
        lb::Listen::Forwarded(forward) if forward.protocol == lb::forward::Protocol::Udp => None,
        lb::Listen::Forwarded(forward) => Some(forward.port),
        lb::Listen::Any { .. }
        | lb::Listen::Addresses { .. }
        | lb::Listen::Redirected { .. }
        | lb::Listen::Nowhere => None,
    });
    ports.collect()
}

/// The ports that it listens on.
pub(super) fn listening(balancer: &crate::config::Balancer) -> BTreeSet<u16> {
    balancer.config.frontends.iter().filter_map(|frontend| frontend.listen.own_port()).collect()
}

/// What an election by Lease will know of apiservers.
fn apiservers(vip: &Vip, balancer: Option<&crate::config::Balancer>) -> Option<Apiservers> {
    let Election::Kubernetes(election) = &vip.election else { return None };
    let prefers_ipv4 = vip.addresses.first().is_none_or(|address| address.ip.is_ipv4());
    Some(Apiservers::new(election, balancer, prefers_ipv4))
}
