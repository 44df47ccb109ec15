//! What a configuration file leads to: one written for kube-vip 0.1, to the letter, on three nodes whose addresses are the
//! file's, and one without a balancer.

mod enclosed;
mod hosts;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use enclosed::in_a_lab;
use hosts::{file, start_with};
use lab::lab::Lab;
use lab::network::{INTERFACE, NODES};
use tokio::time::Instant;

/// An owner is there within two seconds; a loaded machine may take longer.
const PATIENCE: Duration = Duration::from_secs(20);

fn start(lab: &mut Lab, place: usize) -> Result<()> {
    start_with(lab, place, &file(place))
}

fn say(text: &str, began: Instant) {
    use std::io::Write as _;
    writeln!(std::io::stderr(), "{text} after {} ms", began.elapsed().as_millis()).ok();
}

#[test]
fn the_file_of_each_host_differs_only_in_who_it_is() {
    let lines = |place: usize| {
        let mut lines: Vec<String> = file(place).lines().map(|line| line.replace("- ", "  ")).collect();
        lines.sort();
        lines
    };
    let same = |place: usize| lines(place).join("\n").replace("startAsLeader: false", "startAsLeader: true");
    assert_eq!(same(1), same(0));
    assert_eq!(same(2), same(0));
    assert!(file(1).starts_with("localPeer:\n  id: master-2\n  address: 10.0.0.164\n"), "{}", file(1));
}

#[test]
fn the_start_as_leader_node_owns_the_address_alone_and_keeps_it_when_others_join() {
    let name = "the_start_as_leader_node_owns_the_address_alone_and_keeps_it_when_others_join";
    in_a_lab(name, async |mut lab| {
        lab.start_backends().await?;
        let began = Instant::now();
        start(&mut lab, 0)?;
        ensure!(lab.await_owner(PATIENCE, |_| true).await? == 0);
        say("startAsLeader alone: owner", began);

        lab.set_probing(true).await?;
        lab.calm(Duration::from_secs(1), PATIENCE).await?;
        let from = Instant::now();
        start(&mut lab, 1)?;
        start(&mut lab, 2)?;
        lab.calm(Duration::from_secs(1), PATIENCE).await?;

        let seen = lab.observe(from);
        ensure!(seen.moves.is_empty() && seen.overlaps.is_empty(), "{:?} {:?}", seen.moves, seen.overlaps);
        ensure!(lab.holders() == [0].into(), "{:?}", lab.holders());
        Ok(())
    });
}

#[test]
fn the_first_two_nodes_to_start_elect_one_owner() {
    in_a_lab("the_first_two_nodes_to_start_elect_one_owner", async |mut lab| {
        lab.start_backends().await?;
        let began = Instant::now();
        start(&mut lab, 1)?;
        start(&mut lab, 2)?;
        let owner = lab.await_owner(PATIENCE, |_| true).await?;
        say("two of three: owner", began);

        lab.set_probing(true).await?;
        ensure!(lab.calm(Duration::from_secs(1), PATIENCE).await? == owner);
        let seen = lab.observe(began);
        ensure!(seen.overlaps.is_empty() && seen.answered_at_once <= 1, "{:?}", seen.overlaps);
        Ok(())
    });
}

/// IPv6 is switched off under the owner: it can't have all of its addresses any more, and another node can.
#[test]
fn a_node_that_the_kernel_refuses_an_address_leaves_it_to_another() {
    in_a_lab("a_node_that_the_kernel_refuses_an_address_leaves_it_to_another", async |mut lab| {
        lab.start_backends().await?;
        lab.start_system(lab::system::System::Vipd(lab::system::Timing::Default))?;
        lab.await_owner(PATIENCE, |_| true).await?;
        lab.set_probing(true).await?;
        let owner = lab.calm(Duration::from_secs(1), PATIENCE).await?;
        let from = Instant::now();

        let switch = format!("/proc/sys/net/ipv6/conf/{INTERFACE}/disable_ipv6");
        lab.nodes[owner]
            .host
            .namespace
            .within(|| std::fs::write(Path::new(&switch), "1").context("failed to switch IPv6 off"))?;

        lab.await_owner(PATIENCE, |node| node != owner).await?;
        lab.calm(Duration::from_secs(1), PATIENCE).await?;
        let seen = lab.observe(from);
        ensure!(seen.answered_at_once <= 1, "{} nodes answered", seen.answered_at_once);
        Ok(())
    });
}

/// The address alone: each node asks its own apiserver, and the owner whose apiserver dies hands over.
#[test]
fn without_a_balancer_the_address_leaves_a_node_whose_apiserver_is_dead() {
    in_a_lab("without_a_balancer_the_address_leaves_a_node_whose_apiserver_is_dead", async |mut lab| {
        lab.start_backends().await?;
        for place in 0..NODES.len() {
            let file = file(place);
            let (head, _) = file.split_once("loadBalancers:").context("the file has a balancer")?;
            start_with(&mut lab, place, &format!("{head}healthCheck: {{address: 127.0.0.1, port: 6443}}\n"))?;
        }
        let owner = lab.await_owner(PATIENCE, |_| true).await?;
        let from = Instant::now();

        lab.nodes[owner].process("apiserver")?.kill().await?;

        lab.await_owner(PATIENCE, |node| node != owner).await?;
        say("owner's apiserver dead, no balancer: another owner", from);
        let seen = lab.observe(from);
        ensure!(seen.overlaps.is_empty() && seen.answered_at_once <= 1, "{:?}", seen.overlaps);
        Ok(())
    });
}
