//! The hands that make a fault and undo it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use tokio::time::Instant;

use crate::fault::{Fault, Trial};
use crate::lab::Lab;
use crate::network::NODES;
use crate::process::STOP_PATIENCE;
use crate::system::System;

/// After a fault, all must have been well for this long.
const CALM: Duration = Duration::from_secs(1);
/// How long the calm before a fault may take, healing of the fault before it included.
const SETTLE_PATIENCE: Duration = Duration::from_secs(90);
/// Four for each of two processors.
const BUSY_LOOPS: usize = 8;

impl Lab {
    /// Waits for calm, does it to the owner, watches until all is well again or patience ends, and undoes it.
    ///
    /// # Errors
    /// If there is no calm to begin with, or the fault cannot be made.
    pub async fn trial(&mut self, fault: Fault) -> Result<Trial> {
        let system = self.system().context("no system is running")?;
        let owner = self.calm(system.calm_time(), SETTLE_PATIENCE).await?;
        let from = Instant::now();
        self.inflict(fault, owner).await?;
        let watch_until = from + fault.watch_time(system);
        let moved = |changes: &std::collections::VecDeque<crate::ownership::Change>| {
            changes.back().filter(|change| change.at > from).map(|_| ())
        };
        self.ownership.changes().wait_for(watch_until, moved).await;
        let recovered = self.calm(CALM, fault.patience(system)).await.is_ok();
        let seen = self.observe(from);
        self.undo(fault, owner).await?;
        Ok(Trial { fault, owner, seen, recovered })
    }

    /// Makes a fault on a node.
    ///
    /// # Errors
    /// If it cannot be made.
    pub async fn inflict(&mut self, fault: Fault, place: usize) -> Result<()> {
        let name = NODES[place];
        let others =
            || (0..NODES.len()).filter(move |other| *other != place).map(|other| NODES[other].to_owned());
        match fault {
            Fault::ApiserverKilled => self.nodes[place].process("apiserver")?.signal(Signal::KILL),
            Fault::LinkDown => self.switch.set_link(name, false).await,
            Fault::Sigterm => self.nodes[place].terminate_owner(),
            Fault::AddressDeleted => {
                ensure!(self.nodes[place].remove_addresses().await?, "{name} had no virtual IP");
                Ok(())
            }
            Fault::Sigkill => self.nodes[place].signal_system(Signal::KILL),
            Fault::SigkillTwo => {
                self.nodes[second(place)].signal_system(Signal::KILL)?;
                self.nodes[place].signal_system(Signal::KILL)
            }
            Fault::Sigstop => self.nodes[place].signal_system(Signal::STOP),
            Fault::Unplugged => self.switch.set_plugged(name, false).await,
            Fault::Partitioned => self.partition(place).await,
            Fault::Mute => self.switch.cut(others().map(|other| (name.to_owned(), other))).await,
            Fault::Deaf => self.switch.cut(others().map(|other| (other, name.to_owned()))).await,
            Fault::Loss1 => self.switch.lose(name, 1).await,
            Fault::Loss10 => self.switch.lose(name, 10).await,
            Fault::Loss30 => self.switch.lose(name, 30).await,
            Fault::Latency | Fault::Jitter => {
                let slowness = fault.slowness().context("it makes a cable slow")?;
                self.switch.delay(name, slowness).await
            }
            Fault::Starved => {
                self.busy = Some(Busy::start(BUSY_LOOPS));
                Ok(())
            }
            Fault::RollingRestart => self.restart_all(place).await,
            Fault::EtcdKilled => self.nodes[place].process("etcd")?.signal(Signal::KILL),
            Fault::StepDown => self.step_down(place).await,
        }
    }

    /// Undoes a fault: the cable is back, what ended is started again.
    ///
    /// # Errors
    /// If something cannot be started.
    pub async fn undo(&mut self, fault: Fault, place: usize) -> Result<()> {
        match fault {
            Fault::LinkDown => {
                self.switch.set_link(NODES[place], true).await?;
                // kube-vip ends when it loses its lease, and a kubelet would start it again.
                self.nodes[place].start_missing()
            }
            Fault::ApiserverKilled => {
                let node = &mut self.nodes[place];
                node.await_end("apiserver", STOP_PATIENCE).await?;
                node.start_missing()?;
                self.backend_ready(place).await
            }
            Fault::EtcdKilled => {
                let node = &mut self.nodes[place];
                node.await_end("etcd", STOP_PATIENCE).await?;
                node.start_missing()?;
                self.backend_ready(place).await
            }
            Fault::Sigterm => {
                self.nodes[place].await_end_of_owner(STOP_PATIENCE).await?;
                self.nodes[place].start_missing()
            }
            Fault::AddressDeleted | Fault::RollingRestart | Fault::StepDown => Ok(()),
            Fault::Sigkill => self.start_killed(place).await,
            Fault::SigkillTwo => {
                self.start_killed(place).await?;
                self.start_killed(second(place)).await
            }
            Fault::Sigstop => {
                self.nodes[place].signal_system(Signal::CONT)?;
                self.nodes[place].start_missing()
            }
            Fault::Unplugged => self.switch.set_plugged(NODES[place], true).await,
            Fault::Partitioned
            | Fault::Mute
            | Fault::Deaf
            | Fault::Loss1
            | Fault::Loss10
            | Fault::Loss30
            | Fault::Latency
            | Fault::Jitter => self.switch.heal().await,
            Fault::Starved => {
                self.busy = None;
                Ok(())
            }
        }
    }

    /// Tells vipd on a node to hand the address over, and waits until it has.
    async fn step_down(&self, place: usize) -> Result<()> {
        let mut command = tokio::process::Command::new(self.plan.programs.vipd()?);
        command.args(["step-down", "--socket"]).arg(self.nodes[place].vipd_socket());
        let output = command.output().await.context("vipd can't be run")?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} did not step down: {}: {error}", NODES[place], output.status);
        Ok(())
    }

    /// Has the system on one node after the other end and starts it again, and goes on when all is well.
    async fn restart_all(&mut self, first: usize) -> Result<()> {
        for place in (0..NODES.len()).map(|turn| (first + turn) % NODES.len()) {
            let node = &mut self.nodes[place];
            node.terminate_owner()?;
            node.await_end_of_owner(STOP_PATIENCE).await?;
            node.start_missing()?;
            self.calm(CALM, SETTLE_PATIENCE).await.with_context(|| format!("{} restarted", NODES[place]))?;
        }
        Ok(())
    }

    /// Starts what was killed on a node.
    async fn start_killed(&mut self, place: usize) -> Result<()> {
        let node = &mut self.nodes[place];
        node.await_end_of_owner(STOP_PATIENCE).await?;
        if matches!(self.system, Some(System::Keepalived(_))) {
            // What no kernel took away by now, nobody will: the next trial needs a clean node.
            node.remove_addresses().await?;
        }
        node.start_missing()
    }
}

/// The other node that is killed with this one.
fn second(place: usize) -> usize {
    (place + 1) % NODES.len()
}

/// Threads that do nothing, as fast as they can, until this is dropped.
#[derive(Debug)]
pub(crate) struct Busy {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Busy {
    fn start(count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..count).map(|_| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        });
        Self { threads: threads.collect(), stop }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}
