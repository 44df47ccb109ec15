//! The faults, and what is seen around one.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use tokio::time::Instant;

use crate::arp::{at_once, longest_unanswered};
use crate::delay::Slowness;
use crate::lab::Lab;
use crate::network::{NODES, VIP};
use crate::ownership::{Move, Overlap, moves, overlaps};
use crate::prober::Service;
use crate::system::{Pace, System};

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
    /// The same as [`Sigkill`](Self::Sigkill), on it and on another node: no majority is left.
    SigkillTwo,
    /// Its frames reach nobody and none reach it, but it keeps its carrier.
    Unplugged,
    /// The other nodes and it don't reach each other; the client reaches all.
    Partitioned,
    /// The other nodes don't hear it.
    Mute,
    /// It doesn't hear the other nodes.
    Deaf,
    /// One in a hundred of its frames is lost, either way.
    Loss1,
    /// One in ten.
    Loss10,
    /// Three in ten.
    Loss30,
    /// Each of its frames takes 20 ms, either way.
    Latency,
    /// Each of its frames takes between nothing and 20 ms, either way, and may overtake another.
    Jitter,
    /// Eight busy loops take the machine, which all nodes share.
    Starved,
    /// The system is asked to end and started again, on it and then on one node after the other.
    RollingRestart,
    /// Its member of etcd is killed, where there are real control planes.
    EtcdKilled,
    /// Its vipd is told to hand the address over (`vipd step-down`).
    StepDown,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::ApiserverKilled,
        Self::LinkDown,
        Self::Sigterm,
        Self::AddressDeleted,
        Self::Sigkill,
        Self::Sigstop,
        Self::SigkillTwo,
        Self::Unplugged,
        Self::Partitioned,
        Self::Mute,
        Self::Deaf,
        Self::Loss1,
        Self::Loss10,
        Self::Loss30,
        Self::Latency,
        Self::Jitter,
        Self::Starved,
        Self::RollingRestart,
        Self::EtcdKilled,
        Self::StepDown,
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
            Self::SigkillTwo => "sigkill-two",
            Self::Unplugged => "unplugged",
            Self::Partitioned => "partitioned",
            Self::Mute => "mute",
            Self::Deaf => "deaf",
            Self::Loss1 => "loss-1",
            Self::Loss10 => "loss-10",
            Self::Loss30 => "loss-30",
            Self::Latency => "latency",
            Self::Jitter => "jitter",
            Self::Starved => "starved",
            Self::RollingRestart => "rolling-restart",
            Self::EtcdKilled => "etcd-killed",
            Self::StepDown => "step-down",
        }
    }

    /// How long two nodes may hold the address, of which never more than one may answer for it: nobody is left to take it off
    /// a killed or frozen node but the kernel, whose address lifetimes have a grain of a second.
    pub fn overlap_allowed(self) -> Duration {
        if self.leaves_nobody_to_let_go() { Duration::from_secs(3) } else { Duration::ZERO }
    }

    /// Whether whoever has the address can do nothing about it afterwards.
    fn leaves_nobody_to_let_go(self) -> bool {
        matches!(self, Self::Sigkill | Self::Sigstop | Self::SigkillTwo)
    }

    /// How slow it makes a node's cable.
    pub(crate) fn slowness(self) -> Option<Slowness> {
        let slow = Duration::from_millis(20);
        match self {
            Self::Latency => Some(Slowness { latency: slow, jitter: Duration::ZERO }),
            Self::Jitter => Some(Slowness { latency: Duration::ZERO, jitter: slow }),
            Self::ApiserverKilled
            | Self::LinkDown
            | Self::Sigterm
            | Self::AddressDeleted
            | Self::Sigkill
            | Self::Sigstop
            | Self::SigkillTwo
            | Self::Unplugged
            | Self::Partitioned
            | Self::Mute
            | Self::Deaf
            | Self::Loss1
            | Self::Loss10
            | Self::Loss30
            | Self::Starved
            | Self::RollingRestart
            | Self::EtcdKilled
            | Self::StepDown => None,
        }
    }

    /// Whether it takes a member of etcd from the other two, where there are real control planes.
    pub(crate) fn takes_etcd(self) -> bool {
        matches!(
            self,
            Self::LinkDown | Self::Unplugged | Self::Partitioned | Self::Mute | Self::Deaf | Self::EtcdKilled
        )
    }

    /// Whether a majority of the nodes is left that hear each other.
    pub fn leaves_a_majority(self) -> bool {
        self != Self::SigkillTwo
    }

    /// How long a system may take until all is well again. haproxy as documented needs some twelve seconds to leave
    /// a vanished backend alone; a killed keepalived never gives the address back, so waiting longer tells nothing. Where a
    /// Lease has to run out first, nothing can come before that.
    pub(crate) fn patience(self, system: System) -> Duration {
        let lease = system.lease().map(Pace::takeover).unwrap_or_default();
        let seconds = if self.leaves_nobody_to_let_go() { 12 } else { 30 };
        Duration::from_secs(seconds).max(lease)
    }

    /// How long to watch for an effect at least.
    pub(crate) fn watch_time(self, system: System) -> Duration {
        match self {
            Self::ApiserverKilled => system.check_time(),
            // keepalived notices a deleted address at the latest with its next advert.
            Self::AddressDeleted => Duration::from_secs(1),
            // What comes of it is a matter of luck, and of time.
            Self::Loss1 | Self::Loss10 | Self::Loss30 | Self::Latency | Self::Jitter | Self::Starved => {
                Duration::from_secs(10)
            }
            Self::LinkDown | Self::Sigterm | Self::RollingRestart | Self::StepDown => {
                Duration::from_millis(100)
            }
            // Without a balancer nothing fails at first: the address is still there, and the apiserver answers behind it. What
            // the system does about its dead holder comes when the lease has run out.
            Self::Sigkill
            | Self::Sigstop
            | Self::SigkillTwo
            | Self::Unplugged
            | Self::Partitioned
            | Self::Mute
            | Self::Deaf
            | Self::EtcdKilled => system.lease().map_or(Duration::from_millis(100), Pace::takeover),
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
    /// The longest time in which nobody answered any.
    pub unanswered: Duration,
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
    /// Whether the service came back, no two nodes answered for the address, and none held it beside the owner for longer than
    /// it may.
    pub fn passed(&self) -> bool {
        self.recovered
            && self.seen.answered_at_once <= 1
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
        let unanswered = self.arp.rounds().read(|rounds| longest_unanswered(rounds.iter(), from));
        Observation {
            service: Service::between(&attempts, from, until),
            overlaps: overlaps(&changes, from, until),
            moves: moves(&changes, VIP.into(), from),
            answered_at_once,
            answered_overlap,
            unanswered,
            holders: self.holders(),
        }
    }
}
