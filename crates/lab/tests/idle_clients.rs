//! Clients that only listen, when the owner of the address is gone: with vipd they are told, with others they wait.
//!
//! They need a built vipd, beside this test's target folder or named by VIPD_BIN, and fail without one.

#![expect(clippy::print_stderr, reason = "what was measured is shown")]

mod enclosed;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use enclosed::in_a_lab;
use lab::lab::Lab;
use lab::network::{BACKEND_PORT, FRONTEND_PORT, Host, NODES, VIP, nft, virtual_addresses};
use lab::system::{System, Timing, Variant};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// An owner is there within two seconds; a loaded machine may take much longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// A client knows within 100 ms of the move, and within a second where packets were lost.
const KNOWS_WITHIN: Duration = Duration::from_secs(5);
/// So long nothing tells the clients of others.
const IGNORANT_FOR: Duration = Duration::from_secs(10);
/// Where each node has a server of its own, beside vipd.
const OWN_PORT: u16 = 7000;
/// What a server says first, so that no check takes it for one of TLS that is silent.
const GREETING: &[u8; 6] = b"hello\n";

/// How the owner goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    CableOut,
    Killed,
    /// SIGTERM: a planned move.
    Stopped,
}

/// Servers on all nodes that greet and then say nothing: behind the balancer, and beside it.
async fn serve(lab: &Lab) -> Result<JoinSet<()>> {
    let mut servers = JoinSet::new();
    for node in &lab.nodes {
        for port in [BACKEND_PORT, OWN_PORT] {
            let at = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
            let listener =
                node.host.namespace.run(async move || Ok(TcpListener::bind(at).await?.into_std()?));
            servers.spawn(greet(TcpListener::from_std(listener.await?)?));
        }
    }
    Ok(servers)
}

async fn greet(listener: TcpListener) {
    let mut connections = JoinSet::new();
    while let Ok((mut stream, _)) = listener.accept().await {
        connections.spawn(async move {
            stream.write_all(GREETING).await.ok();
            // A client that says nothing stays until it goes.
            let mut heard = [0; 64];
            while matches!(stream.read(&mut heard).await, Ok(1..)) {}
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Clients of these addresses, so many of each, all greeted.
async fn connect(from: &Host, servers: &[SocketAddr], each: usize) -> Result<Vec<(SocketAddr, TcpStream)>> {
    let mut clients = Vec::new();
    for server in servers {
        for _ in 0..each {
            let stream = from.namespace.within(|| {
                let stream = std::net::TcpStream::connect_timeout(server, PATIENCE)?;
                stream.set_nonblocking(true)?;
                Ok(stream)
            })?;
            let mut stream = TcpStream::from_std(stream)?;
            let mut greeting = *GREETING;
            let greeted = tokio::time::timeout(PATIENCE, stream.read_exact(&mut greeting)).await;
            greeted.with_context(|| format!("{server} is silent"))??;
            clients.push((*server, stream));
        }
    }
    Ok(clients)
}

/// What `vipd status --json` says of clients.
fn known(lab: &Lab, place: usize, key: &str) -> Result<usize> {
    let status = lab.vipd_status(place)?;
    let known = &status["owners"][0]["clients"];
    let number = known[key].as_u64().with_context(|| format!("no {key} in {known}"))?;
    Ok(usize::try_from(number)?)
}

/// Waits until the owner and its peers know so many clients of the owner.
async fn all_know(lab: &Lab, owner: usize, clients: usize) -> Result<()> {
    let began = Instant::now();
    loop {
        let mut seen = Vec::new();
        for place in 0..NODES.len() {
            seen.push(known(lab, place, if place == owner { "own" } else { "of_leader" })?);
        }
        if seen.iter().all(|known| *known == clients) {
            return Ok(());
        }
        ensure!(began.elapsed() < PATIENCE, "{clients} clients of {}, known are {seen:?}", NODES[owner]);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// When the virtual IP came to another node than this.
async fn moved(lab: &Lab, owner: usize, since: Instant) -> Result<Instant> {
    lab.await_owner(PATIENCE, |node| node != owner).await.ok();
    let vip = IpAddr::from(VIP);
    let came = lab.ownership.changes().wait_for(Instant::now() + PATIENCE, |changes| {
        let mut changes = changes.iter().filter(|change| change.at > since && change.address == vip);
        changes.find(|change| change.held && change.node != owner).map(|change| change.at)
    });
    came.await.context("the address did not move")
}

async fn happen(lab: &mut Lab, fault: Fault, owner: usize) -> Result<()> {
    match fault {
        Fault::CableOut => lab.switch.set_link(NODES[owner], false).await,
        Fault::Killed => lab.nodes[owner].process("vipd")?.signal(Signal::KILL),
        Fault::Stopped => lab.nodes[owner].process("vipd")?.signal(Signal::TERM),
    }
}

/// Who was told what, and when.
type Ends = BTreeMap<SocketAddr, Vec<(Instant, io::Result<usize>)>>;

/// Waits for the end of all these connections.
fn await_ends(clients: Vec<(SocketAddr, TcpStream)>) -> JoinSet<(SocketAddr, Instant, io::Result<usize>)> {
    let mut ends = JoinSet::new();
    for (server, mut stream) in clients {
        ends.spawn(async move {
            let end = stream.read(&mut [0]).await;
            (server, Instant::now(), end)
        });
    }
    ends
}

/// Lets the fault happen to the owner under so many idle clients of each address; all have to know that soon after the move.
async fn all_learn(
    lab: &mut Lab,
    system: System,
    servers: &[SocketAddr],
    each: usize,
    fault: Fault,
) -> Result<()> {
    let _servers = serve(lab).await?;
    lab.start_system(system)?;
    let owner = lab.await_owner(PATIENCE, |_| true).await?;
    let clients = connect(&lab.client, servers, each).await?;
    let count = clients.len();
    all_know(lab, owner, count).await?;

    let mut waiting = await_ends(clients);
    let began = Instant::now();
    happen(lab, fault, owner).await?;
    let moved = moved(lab, owner, began).await?;
    let mut ends = Ends::new();
    while !waiting.is_empty() {
        let left = waiting.len();
        let next = tokio::time::timeout_at(moved + KNOWS_WITHIN, waiting.join_next()).await;
        let next = next.with_context(|| format!("{left} of {count} clients still wait"))?;
        let (server, at, end) = next.context("there was one")??;
        ends.entry(server).or_default().push((at, end));
    }
    report(system, fault, &ends, (began, moved))?;
    let successor = lab.owner().context("nobody has the address")?;
    // Nobody is told but they, and each three times at most.
    let began = Instant::now();
    loop {
        let tickles = known(lab, successor, "tickles")?;
        ensure!(tickles <= 3 * count, "{tickles} tickles for {count} clients");
        if tickles >= count {
            return Ok(());
        }
        ensure!(began.elapsed() < PATIENCE, "{tickles} tickles for {count} clients");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn report(system: System, fault: Fault, ends: &Ends, (began, moved): (Instant, Instant)) -> Result<()> {
    eprintln!("{system}, {fault:?}: the address moved after {:?}", moved - began);
    for (server, ends) in ends {
        let mut after: Vec<_> = ends.iter().map(|(at, _)| at.duration_since(began)).collect();
        after.sort_unstable();
        let since_move = |at: Duration| 1e3 * (at.as_secs_f64() - (moved - began).as_secs_f64());
        let (median, last) = (since_move(after[after.len() / 2]), since_move(after[after.len() - 1]));
        let count = ends.len();
        eprintln!(
            "  {count} idle clients of {server} knew: median {median:.1} ms, last {last:.1} ms after the move"
        );
        for (at, end) in ends {
            let reset = end.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset);
            // The kernel of a host that lives ends the connections of a process that is killed, before the address moves.
            let ended = *at < moved && fault != Fault::CableOut;
            ensure!(reset || ended, "a client of {server} was told {end:?}");
        }
    }
    Ok(())
}

/// The balancer, and a server beside it, over both families.
fn everything() -> Vec<SocketAddr> {
    let ports = [FRONTEND_PORT, OWN_PORT];
    virtual_addresses().into_iter().flat_map(|vip| ports.map(|port| SocketAddr::new(vip, port))).collect()
}

/// Two sockets of each connection are this process's own.
fn many_files() -> Result<()> {
    let most = getrlimit(Resource::Nofile).maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most })?)
}

#[test]
fn idle_clients_learn_that_the_owner_has_lost_its_cable() {
    in_a_lab("idle_clients_learn_that_the_owner_has_lost_its_cable", async |mut lab| {
        all_learn(&mut lab, System::Vipd(Timing::Default), &everything(), 5, Fault::CableOut).await
    });
}

#[test]
fn idle_clients_learn_that_the_owner_was_killed() {
    in_a_lab("idle_clients_learn_that_the_owner_was_killed", async |mut lab| {
        all_learn(&mut lab, System::Vipd(Timing::Default), &everything(), 5, Fault::Killed).await
    });
}

/// The balancer resets its clients as it goes; a server beside it knows nothing of the move.
#[test]
fn idle_clients_learn_of_a_planned_move() {
    in_a_lab("idle_clients_learn_of_a_planned_move", async |mut lab| {
        all_learn(&mut lab, System::Vipd(Timing::Default), &everything(), 5, Fault::Stopped).await
    });
}

#[test]
fn idle_clients_learn_of_it_at_the_port_that_they_know_where_the_kernel_redirects_it() {
    let name = "idle_clients_learn_of_it_at_the_port_that_they_know_where_the_kernel_redirects_it";
    in_a_lab(name, async |mut lab| {
        let servers = virtual_addresses().map(|vip| SocketAddr::new(vip, BACKEND_PORT));
        all_learn(&mut lab, System::VipdSamePort(Timing::Default), &servers, 5, Fault::CableOut).await
    });
}

#[test]
fn idle_clients_learn_of_it_whose_connections_the_kernel_carries() {
    in_a_lab("idle_clients_learn_of_it_whose_connections_the_kernel_carries", async |mut lab| {
        let servers = virtual_addresses().map(|vip| SocketAddr::new(vip, BACKEND_PORT));
        all_learn(&mut lab, System::VipdKernel, &servers, 5, Fault::CableOut).await
    });
}

#[test]
fn a_thousand_idle_clients_learn_of_it() {
    in_a_lab("a_thousand_idle_clients_learn_of_it", async |mut lab| {
        many_files()?;
        all_learn(&mut lab, System::Vipd(Timing::Default), &everything(), 250, Fault::CableOut).await
    });
}

/// A firewall that goes by the kernel's memory of connections, as firewalld and ufw do.
const FIREWALL: &str = "table inet firewall {
  chain input { type filter hook input priority 0; ct state invalid drop; ct state established,related accept; ct state new accept; }
}";

#[test]
fn idle_clients_learn_of_it_where_all_hosts_drop_what_fits_no_connection() {
    let name = "idle_clients_learn_of_it_where_all_hosts_drop_what_fits_no_connection";
    in_a_lab(name, async |mut lab| {
        for host in lab.nodes.iter().map(|node| &node.host).chain([&lab.client]) {
            nft(Some(&host.namespace), FIREWALL).await?;
        }
        all_learn(&mut lab, System::Vipd(Timing::Default), &everything(), 5, Fault::CableOut).await
    });
}

/// What the others are worth: without being told, an idle client waits.
#[test]
fn an_idle_client_of_keepalived_is_still_ignorant_after_ten_seconds() {
    in_a_lab("an_idle_client_of_keepalived_is_still_ignorant_after_ten_seconds", async |mut lab| {
        let system = System::Keepalived(Variant::Tuned);
        let servers = serve(&lab).await?;
        lab.start_system(system)?;
        let owner = lab.await_owner(PATIENCE, |_| true).await?;
        let own = SocketAddr::new(VIP.into(), OWN_PORT);
        let clients = connect(&lab.client, &[own], 1).await?;

        let mut waiting = await_ends(clients);
        let began = Instant::now();
        happen(&mut lab, Fault::CableOut, owner).await?;
        let moved = moved(&lab, owner, began).await?;
        match tokio::time::timeout_at(moved + IGNORANT_FOR, waiting.join_next()).await {
            Err(_) => eprintln!("{system}: an idle client knows nothing {IGNORANT_FOR:?} after the move"),
            Ok(end) => bail!("it was told: {end:?}"),
        }
        drop(servers);
        Ok(())
    });
}
