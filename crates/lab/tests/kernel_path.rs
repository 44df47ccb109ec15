//! vipd where the kernel leads connections to apiservers: who is reached before and after a move, and what a node that loses its
//! power costs.
//!
//! They need a built vipd, beside this test's target folder or named by VIPD_BIN, and fail without one.

mod enclosed;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use enclosed::in_a_lab;
use lab::lab::Lab;
use lab::network::{BACKEND_PORT, Host, NODES, virtual_addresses};
use lab::prober::Target;
use lab::process::STOP_PATIENCE;
use lab::system::System;
use rustix::process::Signal;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// An owner is there within two seconds; a loaded machine may take much longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// One request.
const ANSWER: Duration = Duration::from_secs(5);
/// In turn, each of three is chosen in three.
const ENOUGH: usize = 3;
/// Idle connections: some to each of three apiservers.
const IDLE: usize = 9;

fn address() -> SocketAddr {
    SocketAddr::new(virtual_addresses()[0], BACKEND_PORT)
}

/// The nodes whose apiservers answer requests from this host.
async fn answering(from: &Host, lab: &Lab) -> Result<BTreeSet<String>> {
    let target = Target { address: address(), tls: lab.pki.client()? };
    target.answering_nodes(&from.namespace, ENOUGH, ANSWER).await
}

/// What `vipd status --json` says of the backends: how many connections each has, and its health.
fn backends(lab: &Lab, place: usize) -> Result<Vec<(u64, String)>> {
    let status = lab.vipd_status(place)?;
    let backends = status["load_balancers"][0]["backends"].as_array().context("no backends")?.clone();
    let read = |backend: serde_json::Value| {
        let open = backend["connections"].as_u64().context("no connections")?;
        Ok((open, backend["health"].as_str().context("no health")?.to_owned()))
    };
    backends.into_iter().map(read).collect()
}

async fn eventually(what: &str, is_so: impl Fn() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !is_so()? {
        ensure!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

async fn all_ready(lab: &Lab, place: usize) -> Result<()> {
    let ready = || Ok(backends(lab, place)?.iter().all(|(_, health)| health == "ready"));
    eventually("all apiservers are ready", ready).await
}

/// Everybody reaches every apiserver through the virtual address.
async fn everybody_reaches_all(lab: &Lab, owner: usize) -> Result<()> {
    all_ready(lab, owner).await?;
    let all: BTreeSet<String> = NODES.iter().map(ToString::to_string).collect();
    let hosts = [&lab.client].into_iter().chain(lab.nodes.iter().map(|node| &node.host));
    for host in hosts {
        let nodes = answering(host, lab).await?;
        ensure!(nodes == all, "from {}: only {nodes:?} answered", host.namespace.name());
    }
    Ok(())
}

#[test]
fn the_kernel_leads_everybody_to_all_apiservers_before_and_after_a_move() {
    in_a_lab("the_kernel_leads_everybody_to_all_apiservers_before_and_after_a_move", async |mut lab| {
        lab.start_backends().await?;
        lab.start_system(System::VipdKernel)?;
        let owner = lab.await_owner(PATIENCE, |_| true).await?;
        everybody_reaches_all(&lab, owner).await?;

        lab.nodes[owner].process("vipd")?.signal(Signal::TERM)?;
        let successor = lab.await_owner(PATIENCE, |node| node != owner).await?;
        let status = lab.nodes[owner].await_end("vipd", STOP_PATIENCE).await?;
        ensure!(status.success(), "vipd ended with {status}");
        lab.nodes[owner].start_again("vipd")?;
        lab.set_probing(true).await?;
        lab.calm(Duration::from_secs(1), PATIENCE).await?;
        lab.set_probing(false).await?;
        everybody_reaches_all(&lab, successor).await
    });
}

/// Connects idle clients; returns them when the owner has counted them.
async fn idle(lab: &Lab, owner: usize) -> Result<Vec<TcpStream>> {
    let idle = lab.client.namespace.within(|| {
        let connect = |_| -> std::io::Result<_> {
            let stream = std::net::TcpStream::connect_timeout(&address(), ANSWER)?;
            stream.set_nonblocking(true)?;
            TcpStream::from_std(stream)
        };
        Ok((0..IDLE).map(connect).collect::<std::io::Result<Vec<_>>>()?)
    })?;
    let open = || Ok(backends(lab, owner)?.iter().map(|(open, _)| open).sum::<u64>() >= IDLE as u64);
    eventually("the connections are counted", open).await?;
    Ok(idle)
}

#[test]
fn a_node_that_loses_its_cable_takes_its_own_connections_and_no_others() {
    in_a_lab("a_node_that_loses_its_cable_takes_its_own_connections_and_no_others", async |mut lab| {
        lab.start_backends().await?;
        lab.start_system(System::VipdKernel)?;
        let owner = lab.await_owner(PATIENCE, |_| true).await?;
        everybody_reaches_all(&lab, owner).await?;
        let lost = (owner + 1) % NODES.len();
        let mut clients = idle(&lab, owner).await?;
        let share = backends(&lab, owner)?[lost].0;
        ensure!(share > 0, "no connection goes to {}", NODES[lost]);

        let began = Instant::now();
        lab.switch.set_link(NODES[lost], false).await?;
        // Those that begin now find one that lives, and wait no longer than their own second try.
        for _ in 0..2 * NODES.len() {
            let nodes = answering(&lab.client, &lab).await?;
            ensure!(!nodes.contains(NODES[lost]), "{nodes:?} answered");
        }
        eprintln!(
            "{} requests after the cable was pulled took {:?}",
            2 * NODES.len() * ENOUGH,
            began.elapsed()
        );

        let dead = || Ok(backends(&lab, owner)?[lost].1 == "dead");
        eventually("it is known to be dead", dead).await?;
        eprintln!("it was known to be dead after {:?}", began.elapsed());
        let mut told = 0;
        let deadline = Instant::now() + ANSWER;
        for client in &mut clients {
            let limit = if told < share { deadline } else { Instant::now() + Duration::from_millis(100) };
            match tokio::time::timeout_at(limit, client.read(&mut [0; 1])).await {
                Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionReset => told += 1,
                // The stand-in closes what is idle for ten seconds.
                Ok(Ok(0)) | Err(_) => {}
                Ok(other) => anyhow::bail!("a client was told {other:?}"),
            }
        }
        eprintln!("{told} of {share} idle clients were told within {:?}", began.elapsed());
        ensure!(told == share, "{told} of {share} idle clients were told");
        Ok(())
    });
}
