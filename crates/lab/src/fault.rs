//! The faults, and what is seen around one.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use tokio::time::Instant;

use crate::arp::at_once;
use crate::lab::Lab;
use crate::network::{NODES, VIP};
use crate::ownership::{Move, Overlap, moves, overlaps};
use crate::prober::Service;
use crate::process::STOP_PATIENCE;
use crate::system::{Pace, System};

/// After a fault, all must have been well for this long.
const CALM: Duration = Duration::from_secs(1);
/// How long the calm before a fault may take, healing of the fault before it included.
const SETTLE_PATIENCE: Duration = Duration::from_secs(90);

/// Something that happens to the owner of the virtual IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Its apiserver is killed.
    ApiserverKilled,
    /// Its cable is pulled.
    LinkDown,
    /// Its vipd or keepalived is asked to end.
    Sigterm,
    /// Something else deletes the virtual IP from its interface.
    AddressDeleted,
    /// All processes of the system on it are killed.
    Sigkill,
    /// All processes of the system on it are stopped, and stay so.
    Sigstop,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::ApiserverKilled,
        Self::LinkDown,
        Self::Sigterm,
        Self::AddressDeleted,
        Self::Sigkill,
        Self::Sigstop,
    ];

    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::ApiserverKilled => "apiserver-killed",
            Self::LinkDown => "link-down",
            Self::Sigterm => "sigterm",
            Self::AddressDeleted => "address-deleted",
            Self::Sigkill => "sigkill",
            Self::Sigstop => "sigstop",
        }
    }

    /// How long two nodes may hold the address and answer for it: nobody is left to take it off a killed or frozen node but
    /// the kernel, whose address lifetimes have a grain of a second.
    pub fn overlap_allowed(self) -> Duration {
        match self {
            Self::Sigkill | Self::Sigstop => Duration::from_secs(3),
            Self::ApiserverKilled | Self::LinkDown | Self::Sigterm | Self::AddressDeleted => Duration::ZERO,
        }
    }

    /// How long a system may take until all is well again. haproxy as documented needs some twelve seconds to leave
    /// a vanished backend alone; a killed keepalived never gives the address back, so waiting longer tells nothing. Where a
    /// Lease has to run out first, nothing can come before that.
    fn patience(self, system: System) -> Duration {
        let lease = system.lease().map(Pace::takeover).unwrap_or_default();
        match self {
            Self::ApiserverKilled | Self::LinkDown | Self::Sigterm | Self::AddressDeleted => {
                Duration::from_secs(30).max(lease)
            }
            Self::Sigkill | Self::Sigstop => Duration::from_secs(12).max(lease),
        }
    }

    /// How long to watch for an effect at least.
    fn watch_time(self, system: System) -> Duration {
        match self {
            Self::ApiserverKilled => system.check_time(),
            // keepalived notices a deleted address at the latest with its next advert.
            Self::AddressDeleted => Duration::from_secs(1),
            // Without a balancer nothing fails at first: the address is still there, and the apiserver answers behind it. What
            // the system does about its dead holder comes when the lease has run out.
            Self::Sigkill | Self::Sigstop => {
                system.lease().map_or(Duration::from_millis(100), Pace::takeover)
            }
            Self::LinkDown | Self::Sigterm => Duration::from_millis(100),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|fault| fault.name() == text).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.into_iter().map(Self::name).collect();
            format!("no fault {text}: it is one of {}", names.join(", "))
        })
    }
}

/// What was seen from a moment on.
#[derive(Debug, Clone)]
pub struct Observation {
    /// What the client saw.
    pub service: Service,
    /// Nodes holding the same address at a time.
    pub overlaps: Vec<Overlap>,
    /// When the virtual IP came to another node.
    pub moves: Vec<Move>,
    /// The most nodes that answered one ARP request.
    pub answered_at_once: usize,
    /// For how long more than one did.
    pub answered_overlap: Duration,
    /// Who holds the virtual IP at the end.
    pub holders: BTreeSet<usize>,
}

impl Observation {
    /// The longest overlap.
    pub fn longest_overlap(&self) -> Duration {
        self.overlaps.iter().map(|overlap| overlap.duration).max().unwrap_or_default()
    }

    /// The most owners at one time, by address or by ARP.
    pub fn owners_at_once(&self) -> usize {
        let by_address = self.overlaps.iter().map(|overlap| overlap.nodes.len()).max();
        by_address.unwrap_or(1).max(self.answered_at_once)
    }
}

/// One fault and what came of it.
#[derive(Debug, Clone)]
pub struct Trial {
    /// What was done.
    pub fault: Fault,
    /// To whom.
    pub owner: usize,
    /// What was seen.
    pub seen: Observation,
    /// Whether one node held the address and every request was answered in the end.
    pub recovered: bool,
}

impl Trial {
    /// Whether the service came back and no two nodes were owners for longer than they may be.
    pub fn passed(&self) -> bool {
        self.recovered
            && self.seen.answered_overlap <= self.fault.overlap_allowed()
            && self.seen.longest_overlap() <= self.fault.overlap_allowed()
    }
}

/// Nodes as names, for people.
pub fn names(nodes: &BTreeSet<usize>) -> String {
    let names: Vec<&str> = nodes.iter().map(|node| NODES[*node]).collect();
    if names.is_empty() { "nobody".to_owned() } else { names.join("+") }
}

impl Lab {
    /// What the observers saw since a moment.
    pub fn observe(&self, from: Instant) -> Observation {
        let until = Instant::now();
        let changes = self.ownership.changes().entries();
        let attempts = self.prober().map(|prober| prober.attempts().entries()).unwrap_or_default();
        let (answered_at_once, answered_overlap) =
            self.arp.rounds().read(|rounds| at_once(rounds.iter(), from));
        Observation {
            service: Service::between(&attempts, from, until),
            overlaps: overlaps(&changes, from, until),
            moves: moves(&changes, VIP.into(), from),
            answered_at_once,
            answered_overlap,
            holders: self.holders(),
        }
    }

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
        let node = &mut self.nodes[place];
        match fault {
            Fault::ApiserverKilled => node.process("apiserver")?.signal(Signal::KILL),
            Fault::LinkDown => self.switch.set_link(NODES[place], false).await,
            Fault::Sigterm => node.terminate_owner(),
            Fault::AddressDeleted => {
                anyhow::ensure!(node.remove_addresses().await?, "{} had no virtual IP", NODES[place]);
                Ok(())
            }
            Fault::Sigkill => node.signal_system(Signal::KILL),
            Fault::Sigstop => node.signal_system(Signal::STOP),
        }
    }

    /// Undoes a fault: the cable is back, what ended is started again.
    ///
    /// # Errors
    /// If something cannot be started.
    pub async fn undo(&mut self, fault: Fault, place: usize) -> Result<()> {
        let node = &mut self.nodes[place];
        match fault {
            Fault::LinkDown => {
                self.switch.set_link(NODES[place], true).await?;
                // kube-vip ends when it loses its lease, and a kubelet would start it again.
                self.nodes[place].start_missing()
            }
            Fault::ApiserverKilled => {
                node.await_end("apiserver", STOP_PATIENCE).await?;
                node.start_missing()?;
                self.backend_ready(place).await
            }
            Fault::Sigterm => {
                node.await_end_of_owner(STOP_PATIENCE).await?;
                node.start_missing()
            }
            Fault::AddressDeleted => Ok(()),
            Fault::Sigkill => {
                // What no kernel took away by now, nobody will: the next trial needs a clean node.
                node.await_end_of_owner(STOP_PATIENCE).await?;
                node.remove_addresses().await?;
                node.start_missing()
            }
            Fault::Sigstop => {
                node.signal_system(Signal::CONT)?;
                node.start_missing()
            }
        }
    }
}
