//! The thread that keeps the kernel's rules as the backends are, and has flows forgotten whose end their clients can't see.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use nft::conntrack::{Flow, Memory, Protocol};
use tokio::runtime::Builder;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

use super::{Choice, Forward, Table, hurried};
use crate::Error;
use crate::drain::{Orders, Phase};
use crate::frontend::Shared;
use crate::health::Health;
use crate::redirect;
use crate::slow_start;
use crate::status::Ended;
use crate::tables::kernel;
use crate::target::Target;

/// From one count of the open connections to the next. The kernel's whole memory of connections is walked for it, which takes
/// milliseconds where that is large.
const COUNT: Duration = Duration::from_secs(5);

/// While the share of a backend grows, the rules follow it this often.
const GROWTH: Duration = Duration::from_secs(1);

/// Thousandths of a whole share that one slot stands for.
const WEIGHT: u32 = slow_start::WHOLE / 10;

/// One frontend's way through the kernel.
#[derive(Debug)]
pub(crate) struct Path {
    made: kernel::Table,
    table: Table,
    /// What the rules say; `None` while there are none.
    set: Option<Choice>,
    /// The share of a backend that has come back grows.
    grows: bool,
}

impl Path {
    /// Makes the tables, without backends yet, in place of those that an earlier process has left.
    pub(crate) fn install(frontend: &str, forward: &Forward) -> Result<Self, Error> {
        let port = forward.port;
        if let Some(setting) = forward.not_forwarding() {
            return Err(Error::NotForwarding { frontend: frontend.to_owned(), setting });
        }
        let mut table = Table::new(forward.clone());
        let error = |source| Error::Forward { frontend: frontend.to_owned(), port, source };
        let made = hurried(&mut table, |table| {
            kernel::Table::install(&table.names.rules, |tie| table.install(tie).end())
        });
        let made = made.map_err(error)?;
        if forward.protocol == Protocol::Tcp && !table.hurries {
            tracing::warn!(
                frontend,
                port,
                "this kernel has one time limit for all handshakes (no CONFIG_NF_CONNTRACK_TIMEOUT): a flood of them can use up the ports towards the backends; lower net.netfilter.nf_conntrack_tcp_timeout_syn_recv"
            );
        }
        tracing::info!(
            frontend,
            port,
            table = table.names.rules,
            "the kernel leads connections to the backends"
        );
        Ok(Self { made, table, set: None, grows: false })
    }

    /// Has the rules say what the backends are now; true if some get no new connections any more.
    pub(crate) fn follow(
        &mut self,
        shared: &Shared,
        now: std::time::Instant,
    ) -> Result<bool, redirect::Error> {
        let roster = shared.roster();
        let shares =
            roster.best_of_each_family().into_iter().map(|target| (target, shared.share(target, now)));
        let shares: Vec<_> = shares.collect();
        self.grows = shares.iter().any(|(_, share)| *share < slow_start::WHOLE);
        let weighed = shares.iter().map(|(target, share)| (target.address, share.div_ceil(WEIGHT)));
        let choice = Choice::new(shared.settings().policy, weighed.collect());
        if self.set.as_ref() == Some(&choice) {
            return Ok(false);
        }
        self.made.change(&self.table.set(&choice).end())?;
        tracing::debug!(
            frontend = shared.name,
            backends = choice.backends.len(),
            "the kernel's rules follow"
        );
        let before = self.set.replace(choice);
        Ok(before.is_some_and(|before| before.backends.iter().any(|(backend, _)| !self.uses(*backend))))
    }

    /// True for a backend that gets new connections.
    fn uses(&self, backend: SocketAddr) -> bool {
        self.set.iter().flat_map(|choice| &choice.backends).any(|(used, _)| *used == backend)
    }

    /// Takes the rules away. Flows that there are go on, as long as the kernel remembers how.
    fn remove(&self, flows: usize) {
        if flows == 0 {
            return self.made.tell(&self.table.names.remove());
        }
        self.made.tell(&self.table.names.remove_rules().end());
    }
}

impl Forward {
    /// Where clients connect, in the form of addresses that are listened on.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        let any = [IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let ips = if self.ips.is_empty() { &any } else { &self.ips[..] };
        ips.iter().map(|ip| SocketAddr::new(*ip, self.port)).collect()
    }

    /// The setting by which this host doesn't pass packets on that go to others, if there is one: in the calling thread's network
    /// namespace.
    #[must_use]
    pub fn not_forwarding(&self) -> Option<&'static str> {
        let has = |family: fn(&IpAddr) -> bool| self.ips.iter().any(family);
        let ipv4 = has(IpAddr::is_ipv4) || self.ips.is_empty();
        let ipv4 = ipv4.then_some(("/proc/sys/net/ipv4/ip_forward", "net.ipv4.ip_forward"));
        let ipv6 = has(IpAddr::is_ipv6)
            .then_some(("/proc/sys/net/ipv6/conf/all/forwarding", "net.ipv6.conf.all.forwarding"));
        let off = |(path, _): &(&str, &str)| fs::read_to_string(path).is_ok_and(|text| text.trim() == "0");
        [ipv4, ipv6].into_iter().flatten().find(off).map(|(_, name)| name)
    }
}

/// What the thread does it with.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) paths: Vec<(Arc<Shared>, Path)>,
    pub(crate) orders: watch::Receiver<Orders>,
    /// Counts the changes of health and of the backends.
    pub(crate) changes: watch::Receiver<u64>,
    /// Rung when other backends are preferred than before, although the health of none has changed.
    pub(crate) preferences: Arc<Notify>,
    /// Hears of flows that were forgotten.
    pub(crate) ended: mpsc::Sender<Vec<Ended>>,
}

impl Driver {
    /// Runs on the calling thread until the order to stop. `started` hears once whether it could begin.
    pub(crate) fn run(self, started: &std::sync::mpsc::SyncSender<io::Result<()>>) {
        let begun = Memory::open()
            .and_then(|memory| Ok((memory, Builder::new_current_thread().enable_time().build()?)));
        match begun {
            Ok((memory, runtime)) => {
                let _ = started.send(Ok(()));
                runtime.block_on(self.follow(&memory));
            }
            // A starter that has gone has no use for the answer.
            Err(error) => drop(started.send(Err(error))),
        }
    }

    /// Waits for a change of the orders, of health, of the backends, and for the next count. Not cancelled.
    async fn follow(mut self, memory: &Memory) {
        let mut seen = self.orders.borrow().clone();
        let mut dead = self.dead();
        let mut counts = tokio::time::interval_at(Instant::now() + COUNT, COUNT);
        counts.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let stopped = tokio::select! {
                biased;
                changed = self.orders.changed() => changed.is_err(),
                // The board that counts them ends after the orders do.
                changed = self.changes.changed() => changed.is_err(),
                () = self.preferences.notified() => false,
                () = tokio::time::sleep(GROWTH), if self.paths.iter().any(|(_, path)| path.grows) => false,
                _ = counts.tick() => {
                    self.count(memory);
                    false
                }
            };
            let orders = self.orders.borrow_and_update().clone();
            if stopped || orders.phase == Phase::Stopped {
                break;
            }
            if orders.phase == Phase::Draining && seen.phase == Phase::Running {
                self.paths.iter().for_each(|(_, path)| path.made.tell(&path.table.names.close()));
            }
            // The rules first: what comes for a forgotten flow must find a backend that lives.
            if orders.phase == Phase::Running {
                self.follow_backends(memory);
            }
            let now = self.dead();
            if !now.is_subset(&dead) {
                let died = |backend| now.contains(&backend) && !dead.contains(&backend);
                self.forget(memory, true, |_, _, flow| died(flow.answering));
            }
            dead = now;
            if orders.moves != seen.moves {
                let gone = |shared: &Shared, ip| {
                    shared.settings().virtual_ips.contains(&ip) && !orders.held.contains(&ip)
                };
                self.forget(memory, false, |shared, _, flow| gone(shared, flow.wanted.ip()));
            }
            seen = orders;
        }
        for (shared, path) in &self.paths {
            let flows = count(memory, path).map_or(0, |open| open.values().sum());
            if flows > 0 {
                tracing::info!(
                    frontend = shared.name,
                    flows,
                    "the kernel goes on with the connections that it has"
                );
            }
            path.remove(flows);
        }
    }

    fn follow_backends(&mut self, memory: &Memory) {
        let mut fewer = false;
        let now = Instant::now().into_std();
        for (shared, path) in &mut self.paths {
            match path.follow(shared, now) {
                Ok(without) => fewer |= without,
                // It is tried again at the next change or count.
                Err(error) => {
                    tracing::error!(frontend = shared.name, %error, "the kernel's rules stay as they were");
                }
            }
        }
        if fewer {
            // Who has had no answer yet asks again, and would ask the same one for as long as that is remembered.
            self.forget(memory, false, |_, path, flow| flow.is_unanswered && !path.uses(flow.answering));
        }
    }

    /// The backends that are dead; not one that has closed its port and may still answer what it has begun.
    fn dead(&self) -> BTreeSet<SocketAddr> {
        let rosters = self.paths.iter().map(|(shared, _)| shared.roster());
        let is_gone = |target: &Target| target.member.health() == Health::Dead && !target.member.is_closing();
        let gone = rosters.flat_map(|roster| {
            let all = roster.all().filter(|(target, _)| is_gone(target));
            all.map(|(target, _)| target.address).collect::<Vec<_>>()
        });
        gone.collect()
    }

    /// Has those flows forgotten, and says which they were where `told`: where their clients can be told from here.
    fn forget(&self, memory: &Memory, told: bool, which: impl Fn(&Shared, &Path, &Flow) -> bool) {
        for (shared, path) in &self.paths {
            let mut flows = Vec::new();
            let listed = memory.each(path.table.forward.protocol, path.table.forward.port, |flow| {
                if path.is_of(&flow) && which(shared, path, &flow) {
                    flows.push(flow);
                }
            });
            let forgotten =
                listed.and_then(|()| flows.iter().try_for_each(|flow| memory.forget(flow).map(drop)));
            if let Err(error) = forgotten {
                tracing::warn!(
                    frontend = shared.name, %error,
                    "connections that lead nowhere are left to their clients' own timeouts: the kernel forgets none"
                );
            }
            flows.retain(|flow| flow.is_open && !flow.is_unanswered);
            if flows.is_empty() {
                continue;
            }
            tracing::info!(
                frontend = shared.name,
                flows = flows.len(),
                "connections that lead nowhere were ended"
            );
            // Who sends datagrams is led to another backend by the next.
            if told && path.table.forward.protocol == Protocol::Tcp {
                let ended =
                    flows.iter().map(|flow| Ended { client: flow.client, server: flow.wanted }).collect();
                // Who doesn't listen has no use for it.
                let _ = self.ended.try_send(ended);
            }
        }
        self.count(memory);
    }

    /// Counts the open connections of each backend.
    fn count(&self, memory: &Memory) {
        for (shared, path) in &self.paths {
            match count(memory, path) {
                Ok(open) => shared.observe(&open),
                Err(error) => {
                    tracing::debug!(frontend = shared.name, %error, "the kernel doesn't tell its connections");
                }
            }
        }
    }
}

impl Path {
    /// True for a connection that these rules led to a backend.
    fn is_of(&self, flow: &Flow) -> bool {
        let Forward { ips, .. } = &self.table.forward;
        (ips.is_empty() || ips.contains(&flow.wanted.ip())) && flow.answering != flow.wanted
    }
}

/// The open connections of each backend.
fn count(memory: &Memory, path: &Path) -> io::Result<BTreeMap<SocketAddr, usize>> {
    let mut open = BTreeMap::new();
    memory.each(path.table.forward.protocol, path.table.forward.port, |flow| {
        if flow.is_open && path.is_of(&flow) {
            *open.entry(flow.answering).or_default() += 1;
        }
    })?;
    Ok(open)
}
