//! Attacks, and what becomes of the address, its clients and vipd itself meanwhile.
//!
//! A fault is over when the address has moved; an attack goes on. Each is tried some times on the same three vipds: the owner is to stay
//! the owner wherever it can, nobody else may answer for the address but the attacker, memory and log lines are bounded, and all is well
//! again afterwards without a hand.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::Instant;

use crate::demo::Console;
use crate::fault::Fault;
use crate::lab::Lab;
use crate::network::{Host, NODES, VIP, node_address};
use crate::system::System;
use crate::taken::taken;

mod crowd;
mod packet;
mod report;
mod sender;
mod site;
mod station;

pub use report::Outcome;
use sender::{Pace, Raw, Sender};

/// The attacker's host, and its address.
const ATTACKER: &str = "attacker";
const ADDRESS: [u8; 4] = [10, 0, 0, 66];
/// A host that isn't there.
const NOBODY: [u8; 4] = [10, 0, 0, 99];
/// The last octets of hosts that aren't there either, from which connections seem to come.
const CROWD: std::ops::Range<u8> = 100..160;
/// How many of them a second.
const SYNS: u64 = 100_000;
/// By as many threads: one alone can't send them all.
const SYN_SENDERS: u64 = 2;
/// How long peers are listened to before they are played back.
const RECORD: Duration = Duration::from_secs(2);
/// The first owner must be there by then, and all must be well again.
const PATIENCE: Duration = Duration::from_secs(60);
/// So long all must be well before and after.
const CALM: Duration = Duration::from_secs(1);
/// How often is looked at what vipd takes.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Something that is done to the address, to its owner or to all nodes, for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Attack {
    /// Datagrams in the names of peers, as fast as they go, with a signature that is none.
    Forged,
    /// The same from an address that is no peer's.
    Strangers,
    /// Datagrams of the peers themselves, heard before, as fast as they go.
    Replayed,
    /// A station that claims the virtual addresses by ARP and ND, asked and unasked.
    Spoofed,
    /// 100 000 connections a second that are begun and left, from hosts that aren't there.
    SynFlood,
    /// 300 clients that say a byte five times a second.
    SlowLoris,
    /// The owner's interface gets other MTUs, none too small for IPv6.
    Mtu,
    /// One that is too small for IPv6, so that the kernel takes the IPv6 address off.
    TinyMtu,
    /// The owner's interface is called something else, and then what it was called.
    Renamed,
    /// The kernel's notices overrun the owner's buffer.
    Overrun,
    /// There is no room on the disk, and the owner is told to end, and started again.
    DiskFull,
}

impl Attack {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Forged,
        Self::Strangers,
        Self::Replayed,
        Self::Spoofed,
        Self::SynFlood,
        Self::SlowLoris,
        Self::Mtu,
        Self::TinyMtu,
        Self::Renamed,
        Self::Overrun,
        Self::DiskFull,
    ];

    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forged => "forged",
            Self::Strangers => "strangers",
            Self::Replayed => "replayed",
            Self::Spoofed => "spoofed",
            Self::SynFlood => "syn-flood",
            Self::SlowLoris => "slow-loris",
            Self::Mtu => "mtu",
            Self::TinyMtu => "tiny-mtu",
            Self::Renamed => "renamed",
            Self::Overrun => "overrun",
            Self::DiskFull => "disk-full",
        }
    }

    /// Whether the address leaves the owner for it; `None` where it may or may not.
    fn moves(self) -> Option<bool> {
        match self {
            // The owner can't have all addresses, or is told to end.
            Self::TinyMtu | Self::DiskFull => Some(true),
            // It is down for a moment, or frozen for a third of its lease on a machine that may be late besides.
            Self::Renamed | Self::Overrun => None,
            Self::Forged
            | Self::Strangers
            | Self::Replayed
            | Self::Spoofed
            | Self::SynFlood
            | Self::SlowLoris
            | Self::Mtu => Some(false),
        }
    }

    /// Whether it takes nothing from a client, who has what he had before: the lab's is on the attacked machine, so now and then one of his
    /// requests may fail.
    fn is_unfelt(self) -> bool {
        self != Self::Spoofed && self.moves() == Some(false)
    }

    /// What vipd is to say of it, on one node at least; `None` where there is nothing for an operator to do, or no room to say it.
    fn told(self) -> Option<&'static str> {
        match self {
            Self::Forged | Self::Strangers | Self::Replayed => Some("flood the peers' port"),
            Self::Spoofed => Some("another station claims the virtual IP"),
            Self::TinyMtu => Some("its MTU is below 1280"),
            Self::Renamed => Some("the link changed"),
            Self::SynFlood | Self::SlowLoris | Self::Mtu | Self::Overrun | Self::DiskFull => None,
        }
    }
}

impl fmt::Display for Attack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Attack {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|attack| attack.name() == text).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.into_iter().map(Self::name).collect();
            format!("no attack {text}: it is one of {}", names.join(", "))
        })
    }
}

/// Which attacks, how often, for how long.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Which.
    pub attacks: Vec<Attack>,
    /// How often each.
    pub tries: usize,
    /// For how long; those that have steps of their own may take longer.
    pub lasts: Duration,
}

/// Carries them out and tells what came of each; true if everything held.
///
/// # Errors
/// If the lab can't be brought up, or an attack can't be made.
pub async fn run(lab: &mut Lab, system: System, plan: &Plan) -> Result<bool> {
    lab.start_backends().await?;
    lab.start_system(system)?;
    lab.await_owner(PATIENCE, |_| true).await?;
    lab.set_probing(true).await?;
    let attacker = lab.switch.add_host(ATTACKER, ADDRESS.into()).await?;
    Console.line(format!(
        "{system}: {} attacks, each {} times for {:?}",
        plan.attacks.len(),
        plan.tries,
        plan.lasts
    ));
    let mut outcomes = Vec::new();
    for attack in plan.attacks.iter().copied() {
        for _ in 0..plan.tries {
            let outcome =
                suffer(lab, system, attack, &attacker, plan.lasts).await.with_context(|| attack.name())?;
            Console.line(outcome.line());
            outcomes.push(outcome);
        }
    }
    Console.line(report::table(&outcomes));
    Ok(outcomes.iter().all(Outcome::passed))
}

/// Carries out one, and looks at what came of it until all is well again.
async fn suffer(
    lab: &mut Lab,
    system: System,
    attack: Attack,
    attacker: &Host,
    lasts: Duration,
) -> Result<Outcome> {
    let owner = lab.calm(CALM.max(system.calm_time()), PATIENCE).await?;
    let before = memory(lab)?;
    let said = report::Said::so_far(lab)?;
    let from = Instant::now();
    let under_way = begin(lab, attack, owner, attacker, lasts).await?;
    let mut most = before.clone();
    while from.elapsed() < lasts {
        tokio::time::sleep(LOOK_INTERVAL).await;
        for (most, now) in most.iter_mut().zip(memory(lab)?) {
            *most = now.max(*most);
        }
    }
    let did = under_way.end(lab, owner).await?;
    let recovered = lab.calm(CALM, PATIENCE).await.is_ok();
    let grown =
        most.iter().zip(&before).map(|(most, before)| most.saturating_sub(*before)).max().unwrap_or(0);
    let answers = lab.arp.rounds().read(|rounds| {
        let since = rounds.iter().filter(|round| round.at >= from);
        since.map(|round| round.answers.iter().filter(|mac| **mac != attacker.mac).count()).max()
    });
    let told = attack.told().map_or(Ok(true), |phrase| report::is_told(lab, phrase))?;
    Ok(Outcome {
        attack,
        seen: lab.observe(from),
        answered_at_once: answers.unwrap_or(0),
        recovered,
        grown,
        said: said.since(lab)?,
        told,
        did,
    })
}

/// Memory in RAM of each node's vipd, in kB.
fn memory(lab: &mut Lab) -> Result<Vec<u64>> {
    let of = |node: &mut crate::node::Node| {
        // One that was told to end is about to be started again.
        let pid = node.process("vipd").ok().and_then(|process| process.pid());
        Ok(pid.and_then(|pid| taken(pid).ok()).map_or(0, |taken| taken.rss))
    };
    lab.nodes.iter_mut().map(of).collect()
}

/// An attack that goes on until it's ended, or dropped.
struct UnderWay {
    attack: Attack,
    senders: Vec<Sender>,
    storm: Option<site::Storm>,
    began: Instant,
}

async fn begin(
    lab: &mut Lab,
    attack: Attack,
    owner: usize,
    attacker: &Host,
    lasts: Duration,
) -> Result<UnderWay> {
    let mut under_way = UnderWay { attack, senders: Vec::new(), storm: None, began: Instant::now() };
    let from = &attacker.namespace;
    let target = SocketAddr::new(VIP.into(), system_port(lab));
    match attack {
        Attack::Forged => {
            let flood = |node| forge(from, node, node_address((node + 1) % NODES.len()).octets());
            under_way.senders = (0..NODES.len()).map(flood).collect::<Result<_>>()?;
        }
        Attack::Strangers => {
            let flood = |node| forge(from, node, NOBODY);
            under_way.senders = (0..NODES.len()).map(flood).collect::<Result<_>>()?;
        }
        Attack::Replayed => {
            let heard = station::record(&lab.nodes[owner].host, RECORD).await?;
            anyhow::ensure!(!heard.is_empty(), "no peer said anything in {RECORD:?}");
            under_way.began = Instant::now();
            under_way.senders.push(station::play_back(from, heard)?);
        }
        Attack::Spoofed => under_way.senders.push(station::spoof(attacker)?),
        Attack::SynFlood => {
            under_way.senders =
                (0..SYN_SENDERS).map(|seed| flood_with_syns(from, target, seed)).collect::<Result<_>>()?;
        }
        Attack::SlowLoris => under_way.senders.push(crowd::gather(&Arc::clone(from), target)?),
        Attack::Mtu => site::resize(&lab.nodes[owner].host, &[1280, 9000], lasts / 3).await?,
        Attack::TinyMtu => site::resize(&lab.nodes[owner].host, &[600], lasts / 2).await?,
        Attack::Renamed => site::rename(&lab.nodes[owner].host).await?,
        Attack::Overrun => under_way.storm = Some(site::storm(lab, owner)?),
        Attack::DiskFull => {
            site::fill(true)?;
            lab.inflict(Fault::Sigterm, owner).await?;
            lab.undo(Fault::Sigterm, owner).await?;
        }
    }
    Ok(under_way)
}

/// Where clients of the virtual address connect.
fn system_port(lab: &Lab) -> u16 {
    lab.system().map_or(0, |system| system.frontend().port())
}

fn forge(from: &crate::namespace::Namespace, node: usize, name: [u8; 4]) -> Result<Sender> {
    let raw = Raw::open(from)?;
    let mut noise = fastrand::Rng::with_seed(1);
    Sender::start(move || raw.send(&packet::forged(name.into(), node_address(node), &mut noise)))
}

fn flood_with_syns(from: &crate::namespace::Namespace, target: SocketAddr, seed: u64) -> Result<Sender> {
    let raw = Raw::open(from)?;
    let mut dice = fastrand::Rng::with_seed(seed);
    let mut pace = Pace::per_second(SYNS / SYN_SENDERS);
    Sender::start(move || {
        let mut syn = || {
            let host = [ADDRESS[0], ADDRESS[1], ADDRESS[2], dice.u8(CROWD)];
            packet::syn((host.into(), dice.u16(1024..)), (VIP, target.port()), dice.u32(..))
        };
        (0..pace.portion()).map(|_| raw.send(&syn())).sum()
    })
}

impl UnderWay {
    /// Ends it; says what it was.
    async fn end(self, lab: &Lab, owner: usize) -> Result<String> {
        let seconds = self.began.elapsed().as_secs_f64();
        let sent: u64 = self.senders.into_iter().map(Sender::stop).sum();
        // Counts of this size are exact in an f64.
        let rate = format!("{:.0} a second", sent as f64 / seconds);
        let did = match self.attack {
            Attack::Forged | Attack::Strangers | Attack::Replayed | Attack::Spoofed | Attack::SlowLoris => {
                rate
            }
            Attack::SynFlood => {
                let entries = lab.nodes[owner].host.namespace.within(|| {
                    Ok(std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count")
                        .unwrap_or_default())
                })?;
                format!("{rate}; the owner's kernel tracks {} connections", entries.trim())
            }
            Attack::Overrun => {
                let notices = self.storm.context("it was begun")?.stop().await?;
                format!("{notices} notices")
            }
            Attack::DiskFull => {
                site::fill(false)?;
                String::new()
            }
            Attack::Mtu | Attack::TinyMtu | Attack::Renamed => String::new(),
        };
        Ok(did)
    }
}
