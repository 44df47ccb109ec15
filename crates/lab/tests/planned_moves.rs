//! A client that connects all the time, through moves that somebody planned: none of its connects fails, and none has to be
//! begun a second time.
//!
//! The timing is `relaxed`: on a host that stalls for longer than the lease the address moves without a plan, and connections with
//! it, which is another matter. Each move begins when the client has heard of the one before: an owner that loses the address again
//! before it has announced itself leaves the frames that its predecessor holds back for it without a way (docs/step-down.md).
//!
//! They need a built vipd, beside this test's target folder or named by VIPD_BIN, and fail without one.

mod commands;
mod enclosed;
mod handover;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use enclosed::in_a_lab;
use handover::hand_over;
use lab::lab::Lab;
use lab::namespace::Namespace;
use lab::network::{NODES, VIP, virtual_addresses};
use lab::process::STOP_PATIENCE;
use lab::system::{System, Timing};
use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

/// A loaded machine may take much longer than a lease or two.
const PATIENCE: Duration = Duration::from_secs(60);
/// A connect begins so often, to one virtual address and the other in turns.
const EVERY: Duration = Duration::from_millis(2);
/// A connect that needs as long is one that fails.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Moves of each kind.
const MOVES: usize = 3;

/// What became of the connects.
#[derive(Debug, Default)]
struct Connects {
    made: usize,
    failed: Vec<(SocketAddr, String)>,
    slowest: Duration,
}

impl Connects {
    async fn one(address: SocketAddr) -> (SocketAddr, Duration, Result<()>) {
        let began = Instant::now();
        let connected = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(address)).await;
        let took = began.elapsed();
        let outcome = match connected {
            // No state stays behind, on either side.
            Ok(Ok(stream)) => {
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).map_err(Into::into)
            }
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(anyhow::anyhow!("no answer for {CONNECT_MAX:?}")),
        };
        (address, took, outcome)
    }

    fn note(&mut self, (address, took, outcome): (SocketAddr, Duration, Result<()>)) {
        self.made += 1;
        self.slowest = self.slowest.max(took);
        if let Err(error) = outcome {
            self.failed.push((address, format!("after {took:?}: {error:#}")));
        }
    }

    /// Connects until it is told to stop, and has seen the end of each connect.
    async fn make(port: u16, mut stop: oneshot::Receiver<()>) -> Result<Self> {
        let mut connects = Self::default();
        let mut running = JoinSet::new();
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut targets = virtual_addresses().map(|ip| SocketAddr::new(ip, port)).into_iter().cycle();
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    let target = targets.next().context("there are two")?;
                    running.spawn(Self::one(target));
                }
                Some(ended) = running.join_next() => connects.note(ended?),
                _ = &mut stop => break,
            }
        }
        for ended in running.join_all().await {
            connects.note(ended);
        }
        Ok(connects)
    }
}

/// How often the hosts of a namespace have sent the beginning of a connection a second time.
fn repeated_syns(namespace: &Namespace) -> Result<u64> {
    let text = namespace.within(|| Ok(std::fs::read_to_string("/proc/thread-self/net/netstat")?))?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = lines.next().zip(lines.next()).context("no TcpExt")?;
    let mut pairs = names.split(' ').zip(values.split(' '));
    let (_, value) = pairs.find(|(name, _)| *name == "TCPSynRetrans").context("no TCPSynRetrans")?;
    Ok(value.parse()?)
}

/// For how long nobody had the first virtual address, each time that it moved.
fn gaps(lab: &Lab, from: Instant) -> Vec<Duration> {
    lab.ownership.changes().read(|changes| {
        let of_vip: Vec<_> =
            changes.iter().filter(|change| change.at >= from && change.address == VIP).collect();
        let moves =
            of_vip.windows(2).filter(|pair| !pair[0].held && pair[1].held && pair[0].node != pair[1].node);
        moves.map(|pair| pair[1].at - pair[0].at).collect()
    })
}

fn say(text: &str) {
    use std::io::Write as _;
    writeln!(std::io::stderr(), "{text}").ok();
}

/// Waits until a node has the addresses and the client sends to it.
async fn await_owner(lab: &Lab, wanted: impl FnMut(usize) -> bool) -> Result<usize> {
    let owner = lab.await_owner(PATIENCE, wanted).await?;
    let deadline = Instant::now() + PATIENCE;
    for address in virtual_addresses() {
        while lab.client.neighbour(address).await? != Some(lab.nodes[owner].host.mac) {
            ensure!(Instant::now() < deadline, "the client doesn't hear of {} at {address}", NODES[owner]);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    Ok(owner)
}

/// Ends the owner's vipd by SIGTERM, and starts it again when another has the address.
async fn restart(lab: &mut Lab, owner: usize) -> Result<usize> {
    lab.nodes[owner].process("vipd")?.signal(Signal::TERM)?;
    let successor = await_owner(lab, |node| node != owner).await?;
    let status = lab.nodes[owner].await_end("vipd", STOP_PATIENCE).await?;
    ensure!(status.success(), "vipd ended with {status}");
    lab.nodes[owner].start_again("vipd")?;
    Ok(successor)
}

async fn no_connect_suffers(lab: &mut Lab, system: System) -> Result<()> {
    lab.start_backends().await?;
    lab.start_system(system)?;
    lab.await_owner(PATIENCE, |_| true).await?;
    lab.set_probing(true).await?;
    let mut owner = lab.calm(Duration::from_secs(1), PATIENCE).await?;
    lab.set_probing(false).await?;

    let from = Instant::now();
    let before = repeated_syns(&lab.client.namespace)?;
    let (stop, stopped) = oneshot::channel();
    let (client, port) = (std::sync::Arc::clone(&lab.client.namespace), system.frontend().port());
    let connecting = tokio::spawn(async move { client.run(move || Connects::make(port, stopped)).await });
    for _ in 0..MOVES {
        let started = owner;
        owner = restart(lab, started).await?;
        hand_over(lab, owner, started, PATIENCE).await?;
        owner = await_owner(lab, |node| node == started).await?;
    }
    if stop.send(()).is_err() {
        bail!("the client has ended: {:?}", connecting.await?);
    }
    let connects = connecting.await??;
    let repeated = repeated_syns(&lab.client.namespace)? - before;

    let (seen, mut gaps) = (lab.observe(from), gaps(lab, from));
    gaps.sort();
    say(&format!(
        "MEASURED {system}: {} connects through {} moves, the slowest {:?}; nobody had the address for {gaps:?}",
        connects.made,
        seen.moves.len(),
        connects.slowest
    ));
    ensure!(seen.moves.len() == 2 * MOVES, "{:?}", seen.moves);
    ensure!(connects.failed.is_empty(), "{:?}", connects.failed);
    ensure!(repeated == 0, "{repeated} connects were begun again, the slowest took {:?}", connects.slowest);
    ensure!(seen.overlaps.is_empty() && seen.answered_at_once <= 1, "{seen:?}");
    Ok(())
}

#[test]
fn no_connect_to_a_balancer_fails_or_begins_again_in_planned_moves() {
    in_a_lab("no_connect_to_a_balancer_fails_or_begins_again_in_planned_moves", async |mut lab| {
        no_connect_suffers(&mut lab, System::Vipd(Timing::Relaxed)).await
    });
}

#[test]
fn no_connect_to_a_balancer_at_the_same_port_fails_or_begins_again_in_planned_moves() {
    let name = "no_connect_to_a_balancer_at_the_same_port_fails_or_begins_again_in_planned_moves";
    in_a_lab(name, async |mut lab| no_connect_suffers(&mut lab, System::VipdSamePort(Timing::Relaxed)).await);
}

#[test]
fn no_connect_to_the_owners_own_apiserver_fails_or_begins_again_in_planned_moves() {
    let name = "no_connect_to_the_owners_own_apiserver_fails_or_begins_again_in_planned_moves";
    in_a_lab(name, async |mut lab| no_connect_suffers(&mut lab, System::VipdAddress(Timing::Relaxed)).await);
}
