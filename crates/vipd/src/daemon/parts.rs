//! The running parts: started in an order in which each can fail without leaving anything behind, stopped in reverse.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_local};
use tracing::{info, warn};

use super::Pulse;
use super::apiservers::Apiservers;
use super::owner::Owner;
use crate::config::{Config, Election, Vip};
use crate::signals::Signals;
use crate::status::{self, Reporter};
use crate::web;

/// Everything that runs.
pub(crate) struct Parts {
    pub(crate) owner: Option<Owner>,
    pub(crate) balancer: Option<lb::Balancer>,
    pub(crate) health_check: Option<lb::Balancer>,
    /// What the election knows of apiservers, where it does.
    pub(super) apiservers: Option<Apiservers>,
    /// Tells the balancer whether the addresses are on this node.
    pub(super) active: watch::Sender<bool>,
    /// Counts the leaders.
    pub(crate) transitions: watch::Sender<u64>,
    /// Whether a stop has been asked for.
    pub(crate) stopping: watch::Sender<bool>,
    status_task: Option<JoinHandle<()>>,
    web: Option<web::Server>,
    socket: PathBuf,
    drain_timeout: Duration,
}

impl Parts {
    /// Starts everything: sockets first, so that a port conflict shows before an address is touched.
    ///
    /// # Errors
    /// The first part that could not start; what was started before it has been stopped again.
    pub(super) async fn start(config: Config, pulse: Pulse) -> anyhow::Result<Self> {
        let (active, active_seen) = watch::channel(false);
        let node = config.node;
        let mut apiservers = config.vip.as_ref().and_then(|vip| apiservers(vip, config.balancer.as_ref()));
        let health_check = match &mut apiservers {
            Some(apiservers) if config.balancer.is_none() => Some(apiservers.check(config.health_check)),
            Some(_) | None => config.health_check,
        };
        let balancer = config
            .balancer
            .map(|balancer| lb::Balancer::start(balancer.config, active_seen.clone()))
            .transpose()
            .context("failed to start the balancer")?;
        let health_check = health_check
            .map(|check| lb::Balancer::start(check, active_seen))
            .transpose()
            .context("failed to start the health check")?;
        let owner = match config.vip {
            Some(vip) => Some(Owner::start(vip).await?),
            None => None,
        };
        let mut parts = Self {
            owner,
            balancer,
            health_check,
            apiservers,
            active,
            transitions: watch::Sender::new(0),
            stopping: watch::Sender::new(false),
            status_task: None,
            web: None,
            socket: config.socket,
            drain_timeout: config.drain_timeout,
        };
        let reporter = Reporter::new(node, &parts);
        parts.report(reporter.clone());
        let sources = web::Sources { reporter, pulse };
        parts.web = web::Server::start((config.metrics, config.health), sources);
        Ok(parts)
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

    /// Stops everything: the address has been given up before; open connections get their time; then the tasks end.
    pub(super) async fn stop(mut self, signals: &mut Signals) {
        self.stopping.send_replace(true);
        if let Some(owner) = self.owner.take() {
            owner.stop().await;
        }
        let drain = async {
            for balancer in self.balancer.take().into_iter().chain(self.health_check.take()) {
                let drained = balancer.drain(self.drain_timeout).await;
                info!(reset = drained.reset, "connections drained");
            }
        };
        tokio::select! {
            () = drain => {}
            signal = signals.next() => warn!(signal, "second signal: open connections are cut"),
        }
        // Last, so that status, metrics and liveness are there while connections drain.
        if let Some(task) = self.status_task.take() {
            task.abort();
            let _ = task.await;
            let _ = std::fs::remove_file(&self.socket);
        }
        drop(self.web.take());
        info!("vipd stopped");
    }
}

/// What an election by Lease will know of apiservers.
fn apiservers(vip: &Vip, balancer: Option<&crate::config::Balancer>) -> Option<Apiservers> {
    let Election::Kubernetes(election) = &vip.election else { return None };
    let prefers_ipv4 = vip.addresses.first().is_none_or(|address| address.ip.is_ipv4());
    Some(Apiservers::new(election, balancer, prefers_ipv4))
}
