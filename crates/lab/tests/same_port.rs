//! vipd's balancer at the port that every node's own apiserver has: who is reached from where, and what is left of it when
//! vipd ends.
//!
//! They need a built vipd, beside this test's target folder or named by VIPD_BIN, and fail without one.

mod enclosed;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use enclosed::in_a_lab;
use lab::lab::Lab;
use lab::network::{BACKEND_PORT, FRONTEND, Host, NODES, node_address, virtual_addresses};
use lab::prober::Target;
use lab::process::STOP_PATIENCE;
use lab::system::{System, Timing};
use rustix::process::Signal;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// An owner is there within two seconds; a loaded machine may take much longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// One request; an idle connection is closed by the stand-in after ten seconds.
const ANSWER: Duration = Duration::from_secs(5);
/// Requests in which each of three backends is chosen at least once: by chance, one of them is left out less than once in
/// a million times.
const ENOUGH: usize = 40;

async fn bring_up(lab: &mut Lab, system: System) -> Result<usize> {
    lab.start_system(system)?;
    lab.await_owner(PATIENCE, |_| true).await?;
    settle(lab).await
}

/// Waits until all backends are judged, and the neighbours know the owner; returns it.
async fn settle(lab: &mut Lab) -> Result<usize> {
    lab.set_probing(true).await?;
    let owner = lab.calm(Duration::from_secs(1), PATIENCE).await?;
    lab.set_probing(false).await?;
    Ok(owner)
}

/// The nodes whose servers answer requests from this host.
async fn answering(from: &Host, address: SocketAddr, lab: &Lab) -> Result<BTreeSet<String>> {
    let target = Target { address, tls: lab.pki.client()? };
    target.answering_nodes(&from.namespace, ENOUGH, ANSWER).await
}

/// What `vipd status --json` says of the balancer.
fn status(lab: &Lab, place: usize) -> Result<serde_json::Value> {
    let mut status = lab.vipd_status(place)?;
    Ok(status["load_balancers"][0].take())
}

/// Connections that came to the balancer, and the port that leads to it.
fn balancer(lab: &Lab, place: usize) -> Result<(u64, u64)> {
    let balancer = status(lab, place)?;
    let number = |key: &str| balancer[key].as_u64().with_context(|| format!("no {key} in {balancer}"));
    Ok((number("accepted")?, number("redirected")?))
}

/// How many connections of clients have one to a backend.
fn with_backends(lab: &Lab, place: usize) -> Result<u64> {
    let balancer = status(lab, place)?;
    let backends = balancer["backends"].as_array().context("no backends")?;
    backends.iter().map(|backend| backend["connections"].as_u64().context("no connections")).sum()
}

/// All tables of nf_tables on a node.
fn tables(lab: &Lab, place: usize) -> Result<String> {
    lab.nodes[place].host.namespace.within(|| {
        let output = std::process::Command::new("nft").args(["list", "tables"]).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    })
}

/// Those that lead from the apiserver's port to the balancer; a killed vipd's fence stays, and is another test's.
fn redirects(lab: &Lab, place: usize) -> Result<String> {
    let is_fence = |table: &&str| table.contains(" vipd-fence-");
    Ok(tables(lab, place)?.split_inclusive('\n').filter(|table| !is_fence(table)).collect())
}

const TABLE: &str = "table inet vipd-10.0.0.162-6443\n";
/// What lets clients of a killed vipd learn of its end.
const FLOWS: &str = "table inet vipd-10.0.0.162-6443-flows\n";
/// Idle clients of a killed vipd: their sockets there have numbers before and after that of the netlink socket.
const IDLE: usize = 8;

fn all() -> BTreeSet<String> {
    NODES.iter().map(ToString::to_string).collect()
}

/// `vipd check`, where vipd does not run and the apiserver does.
fn checks_well(lab: &Lab, place: usize) -> Result<()> {
    let program = lab::system::Programs::default().vipd()?;
    let node = &lab.nodes[place];
    let output = node.host.namespace.within(|| {
        let config = node.folder().join("config.yaml");
        Ok(std::process::Command::new(program).args(["check", "-c"]).arg(config).output()?)
    })?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{text}");
    for line in [
        "ok: port 6443 of the virtual address can be redirected, for `API Server Load Balancer`",
        "ok: port 16443 is free, for `API Server Load Balancer`",
    ] {
        ensure!(text.lines().any(|found| found == line), "no `{line}` in\n{text}");
    }
    Ok(())
}

/// Every host reaches every apiserver through the owner's balancer, and a node's own address its own server alone.
async fn everybody_reaches_all(lab: &Lab, owner: usize) -> Result<()> {
    for vip in virtual_addresses() {
        let hosts = [&lab.client].into_iter().chain(lab.nodes.iter().map(|node| &node.host));
        for host in hosts {
            let accepted = || (0..NODES.len()).map(|place| balancer(lab, place)).collect::<Result<Vec<_>>>();
            let before = accepted()?;
            let from = host.namespace.name();
            let nodes = answering(host, SocketAddr::new(vip, BACKEND_PORT), lab).await?;
            ensure!(nodes == all(), "from {from} to {vip}: only {nodes:?} answered");
            for (place, (then, now)) in before.into_iter().zip(accepted()?).enumerate() {
                let came = usize::try_from(now.0 - then.0)?;
                let expected = if place == owner { ENOUGH } else { 0 };
                ensure!(came == expected, "from {from} to {vip}: {came} came to {}", NODES[place]);
                ensure!(now.1 == u64::from(BACKEND_PORT), "redirected from {}", now.1);
            }
        }
    }
    for (place, name) in NODES.iter().enumerate() {
        let own = SocketAddr::from((node_address(place), BACKEND_PORT));
        let nodes = answering(&lab.client, own, lab).await?;
        ensure!(nodes == BTreeSet::from([(*name).to_owned()]), "{own}: {nodes:?} answered");
    }
    Ok(())
}

#[test]
fn the_address_leads_everybody_to_all_apiservers_before_and_after_a_move() {
    in_a_lab("the_address_leads_everybody_to_all_apiservers_before_and_after_a_move", async |mut lab| {
        lab.start_backends().await?;
        let owner = bring_up(&mut lab, System::VipdSamePort(Timing::Default)).await?;
        everybody_reaches_all(&lab, owner).await?;

        lab.nodes[owner].process("vipd")?.signal(Signal::TERM)?;
        let successor = lab.await_owner(PATIENCE, |node| node != owner).await?;
        let status = lab.nodes[owner].await_end("vipd", STOP_PATIENCE).await?;
        ensure!(status.success(), "vipd ended with {status}");
        ensure!(tables(&lab, owner)?.is_empty(), "left on the old owner: {}", tables(&lab, owner)?);
        checks_well(&lab, owner)?;
        ensure!(tables(&lab, owner)?.is_empty(), "the check left {}", tables(&lab, owner)?);
        lab.nodes[owner].start_again("vipd")?;

        ensure!(settle(&mut lab).await? == successor);
        everybody_reaches_all(&lab, successor).await
    });
}

fn say(text: &str) {
    use std::io::Write as _;
    writeln!(std::io::stderr(), "{text}").ok();
}

/// Kills the owner's vipd under idle connections; returns how long it took until all clients had learned of it.
async fn killed(lab: &mut Lab, system: System, address: SocketAddr) -> Result<(usize, Duration)> {
    let owner = bring_up(lab, system).await?;
    let idle = lab.client.namespace.within(|| {
        let connect = |_| -> std::io::Result<_> {
            let stream = std::net::TcpStream::connect_timeout(&address, ANSWER)?;
            stream.set_nonblocking(true)?;
            TcpStream::from_std(stream)
        };
        Ok((0..IDLE).map(connect).collect::<std::io::Result<Vec<_>>>()?)
    })?;
    let deadline = Instant::now() + PATIENCE;
    while with_backends(lab, owner)? < u64::try_from(IDLE)? {
        ensure!(Instant::now() < deadline, "the connections never reached a backend");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    let began = Instant::now();
    lab.nodes[owner].process("vipd")?.kill().await?;
    for mut idle in idle {
        let end = tokio::time::timeout(ANSWER, idle.read(&mut [0; 1])).await;
        let end = end.context("a client of a killed vipd waits for ever")?;
        ensure!(!matches!(end, Ok(1..)), "{end:?}");
    }
    Ok((owner, began.elapsed()))
}

#[test]
fn a_killed_vipd_takes_the_redirect_along_and_its_clients_learn_of_it_at_once() {
    let name = "a_killed_vipd_takes_the_redirect_along_and_its_clients_learn_of_it_at_once";
    in_a_lab(name, async |mut lab| {
        let vip = SocketAddr::new(virtual_addresses()[0], BACKEND_PORT);
        lab.start_backends().await?;
        let (owner, took) = killed(&mut lab, System::VipdSamePort(Timing::Default), vip).await?;
        say(&format!("same port: the client knew after {} us", took.as_micros()));
        ensure!(redirects(&lab, owner)? == FLOWS, "left: {}", redirects(&lab, owner)?);
        // The address is still there, until the kernel takes it off; then its port is the own apiserver's.
        if lab.holders().contains(&owner) {
            let nodes = answering(&lab.nodes[owner].host, vip, &lab).await;
            if lab.holders().contains(&owner) {
                ensure!(nodes? == BTreeSet::from([NODES[owner].to_owned()]));
            }
        }

        let successor = lab.await_owner(PATIENCE, |node| node != owner).await?;
        let redirected = format!("{TABLE}{FLOWS}");
        ensure!(redirects(&lab, successor)? == redirected, "{}", redirects(&lab, successor)?);
        settle(&mut lab).await?;
        let nodes = answering(&lab.client, vip, &lab).await?;
        ensure!(nodes == all(), "only {nodes:?} answered");
        lab.nodes[owner].start_again("vipd")?;
        settle(&mut lab).await?;
        ensure!(redirects(&lab, owner)? == redirected, "started again: {}", redirects(&lab, owner)?);
        lab.remove_system().await?;

        let (_, took) = killed(&mut lab, System::Vipd(Timing::Default), FRONTEND).await?;
        say(&format!("port of its own: the client knew after {} us", took.as_micros()));
        Ok(())
    });
}
