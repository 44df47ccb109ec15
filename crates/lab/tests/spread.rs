//! Two addresses that are spread over three nodes: each has its own election, and a node that it is meant for.
//!
//! They need a built vipd, beside this test's target folder or named by VIPD_BIN, and fail without one.

mod commands;
mod enclosed;

use std::collections::VecDeque;
use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use commands::{obeyed, step_down};
use enclosed::in_a_lab;
use lab::lab::Lab;
use lab::network::{NODES, VIP, VIP6};
use lab::ownership::{Change, holders};
use lab::system::{System, Timing};
use tokio::time::Instant;

/// A loaded machine may take much longer than a lease or two.
const PATIENCE: Duration = Duration::from_secs(60);
const FIRST: IpAddr = IpAddr::V4(VIP);
const SECOND: IpAddr = IpAddr::V6(VIP6);

/// Three nodes whose files say what the lab's say, and that the addresses are spread. `change` may write more, or otherwise.
async fn bring_up(lab: &mut Lab, change: impl Fn(usize, String) -> String) -> Result<()> {
    lab.start_backends().await?;
    lab.start_system(System::Vipd(Timing::Default))?;
    lab.await_owner(PATIENCE, |_| true).await?;
    for node in 0..NODES.len() {
        lab.nodes[node].process("vipd")?.stop().await?;
    }
    for node in 0..NODES.len() {
        let file = lab.nodes[node].folder().join("config.yaml");
        let text = fs::read_to_string(&file)? + "spread: true\npreemptDelay: 200ms\n";
        fs::write(file, change(node, text))?;
        lab.nodes[node].start_again("vipd")?;
    }
    Ok(())
}

/// Waits until the address is on that node alone.
async fn settles(lab: &Lab, address: IpAddr, node: usize) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let there = |changes: &VecDeque<Change>| holders(changes, address).iter().eq([&node]).then_some(());
    lab.ownership.changes().wait_for(deadline, there).await.with_context(|| {
        format!("{address} is on {:?}, not on {} alone", lab.ownership.holders(address), NODES[node])
    })
}

/// Whether an address came or went since then.
fn moved(lab: &Lab, address: IpAddr, since: Instant) -> bool {
    lab.ownership
        .changes()
        .read(|changes| changes.iter().any(|change| change.address == address && change.at > since))
}

#[test]
fn each_address_lives_on_its_own_node_and_moves_alone() {
    in_a_lab("each_address_lives_on_its_own_node_and_moves_alone", async |mut lab| {
        bring_up(&mut lab, |_, text| text).await?;
        settles(&lab, FIRST, 0).await?;
        settles(&lab, SECOND, 1).await?;
        let began = Instant::now();

        // The node of the second dies: the next by name takes that, and gives it back.
        lab.nodes[1].process("vipd")?.kill().await?;
        settles_elsewhere(&lab, SECOND, 2).await?;
        lab.nodes[1].start_again("vipd")?;
        settles(&lab, SECOND, 1).await?;
        ensure!(!moved(&lab, FIRST, began), "the first address has moved along");

        // One by command, of the two that the node might have; the other stays. It is the next by name once that can lead again.
        lab.others_are_fit(0, PATIENCE).await?;
        let asked = Instant::now();
        let named = obeyed(&step_down(&lab, 0, &["--vip", "10.0.0.162"]).await?)?;
        ensure!(named == NODES[1], "{named}");
        settles(&lab, FIRST, 1).await?;
        ensure!(!moved(&lab, SECOND, asked), "the second address has moved along");
        let refused = step_down(&lab, 1, &["--vip", "10.0.0.250"]).await?;
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(refused.status.code() == Some(69) && text.contains("10.0.0.162, fd00::162"), "{text}");

        // Both are on one node now, and both leave it for another.
        lab.nodes[1].process("vipd")?.stop().await?;
        settles(&lab, FIRST, 0).await?;
        settles(&lab, SECOND, 2).await?;
        // A killed node's address is there until its lifetime ends, and silent; all else were moves in good order.
        let seen = lab.observe(asked);
        ensure!(seen.overlaps.is_empty(), "{seen:?}");
        ensure!(lab.observe(began).answered_at_once <= 1, "{:?}", lab.observe(began));
        Ok(())
    });
}

/// After a death the dead node's address goes by its lifetime, later than the successor has it; its fence is what keeps it silent.
async fn settles_elsewhere(lab: &Lab, address: IpAddr, node: usize) -> Result<()> {
    let has = |changes: &VecDeque<Change>| holders(changes, address).contains(&node).then_some(());
    let seen = lab.ownership.changes().wait_for(Instant::now() + PATIENCE, has).await;
    seen.with_context(|| format!("{address} does not come to {}", NODES[node]))?;
    settles(lab, address, node).await
}

/// A file in another order would make votes about one address count as votes about another.
#[test]
fn a_node_whose_list_has_another_order_takes_part_in_nothing_and_says_so() {
    in_a_lab("a_node_whose_list_has_another_order_takes_part_in_nothing_and_says_so", async |mut lab| {
        let began = Instant::now();
        bring_up(&mut lab, |node, text| match node {
            2 => text.replace("vips: [10.0.0.162/24, fd00::162/64]", "vips: [fd00::162/64, 10.0.0.162/24]"),
            _ => text,
        })
        .await?;
        settles(&lab, FIRST, 0).await?;
        settles(&lab, SECOND, 1).await?;
        for (node, peer) in [(0, 2), (2, 0)] {
            let status = lab.vipd_status(node)?;
            let peers = status["owners"][0]["peers"].as_array().context("it has peers")?;
            let trouble = peers.iter().find(|told| told["id"] == NODES[peer]).map(|told| &told["trouble"]);
            let text = trouble.and_then(|trouble| trouble.as_str()).unwrap_or_default();
            ensure!(text.contains("the same `vips` in the same order"), "{status}");
        }

        // Two of three are left for the elections, one of which goes: none is a majority alone, and the third doesn't help.
        lab.nodes[0].process("vipd")?.stop().await?;
        let gone = |changes: &VecDeque<Change>| {
            let gone = |address| holders(changes, address).is_empty();
            (gone(FIRST) && gone(SECOND)).then_some(())
        };
        lab.ownership.changes().wait_for(Instant::now() + PATIENCE, gone).await.context("both are gone")?;
        ensure!(lab.observe(began).overlaps.is_empty(), "{:?}", lab.observe(began).overlaps);
        Ok(())
    });
}
