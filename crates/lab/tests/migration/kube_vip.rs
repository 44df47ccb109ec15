//! From kube-vip 0.1: its file of each host unchanged, and the address as it leaves it on the host that had it last.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lab::lab::Lab;
use lab::network::{NODES, VIP};
use lab::process::STOP_PATIENCE;
use tokio::time::Instant;

use crate::enclosed::in_a_lab;
use crate::guide::{Step, carry_out, numbered};
use crate::hosts::{file, start_with};
use crate::say;

const GUIDE: &str = include_str!("../../../../docs/migrating-from-kube-vip.md");
/// An owner is there within two seconds; a loaded machine may take much longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long is looked whether somebody claims what is another's: several elections.
const CALM: Duration = Duration::from_secs(3);
/// What kube-vip 0.1 puts on.
const PREFIX: u8 = 32;
/// Who the guide's hosts are; the first has `startAsLeader: true`.
const WAITING: usize = 0;
const OWNER: usize = 1;
const FIRST: usize = 2;

/// Carries out a step, with vipd started where its Pod is, and nothing to end where kube-vip would be.
async fn step(lab: &mut Lab, step: &Step) -> Result<()> {
    let place = match step.host.as_str() {
        "O" => OWNER,
        "W" => WAITING,
        "F" => FIRST,
        other => anyhow::bail!("who is {other}?"),
    };
    for line in step.commands.lines() {
        match line.split_whitespace().next() {
            Some("mv") if line.contains("/root/vipd.yaml") => start_with(lab, place, &file(place))?,
            // Of a kubelet, and of a socket in its usual place.
            Some("mv" | "while" | "until") => {}
            _ => carry_out(&mut lab.nodes[place], line).await?,
        }
    }
    Ok(())
}

/// For a while, nobody but the one has the address.
async fn stays(lab: &Lab, from: Instant) -> Result<()> {
    tokio::time::sleep(CALM).await;
    let seen = lab.observe(from);
    ensure!(lab.holders() == [OWNER].into(), "{:?} have the address", lab.holders());
    ensure!(seen.overlaps.is_empty() && seen.answered_at_once <= 1, "{:?}", seen.overlaps);
    Ok(())
}

#[test]
fn its_files_unchanged_lead_to_vipd_and_what_it_left_of_the_address_to_one_owner() {
    let name = "kube_vip::its_files_unchanged_lead_to_vipd_and_what_it_left_of_the_address_to_one_owner";
    in_a_lab(name, async |mut lab| {
        let steps = numbered(GUIDE, "\n## kube-vip 0.1")?;
        ensure!(steps.len() == 6, "six steps: {steps:?}");
        lab.start_backends().await?;
        let host = &lab.nodes[OWNER].host;
        host.netlink.add_address(host.interface, VIP.into(), PREFIX).await?;
        lab.await_owner(PATIENCE, |node| node == OWNER).await?;
        let from = Instant::now();
        for one in &steps[..3] {
            step(&mut lab, one).await?;
            stays(&lab, from).await?;
        }

        // Too early.
        start_with(&mut lab, OWNER, &file(OWNER))?;
        let ended = lab.nodes[OWNER].await_end("vipd", STOP_PATIENCE).await?;
        let words = lab.nodes[OWNER].last_words("vipd");
        ensure!(!ended.success() && words.contains("10.0.0.162"), "{ended}: {words}");
        stays(&lab, from).await?;

        let began = Instant::now();
        for one in &steps[3..5] {
            step(&mut lab, one).await?;
        }
        let owner = lab.await_owner(PATIENCE, |node| node != OWNER).await?;
        say(&format!("from kube-vip 0.1's address to vipd's: {} ms", began.elapsed().as_millis()));
        lab.set_probing(true).await?;
        lab.calm(CALM, PATIENCE).await?;
        step(&mut lab, &steps[5]).await?;
        let last = lab.calm(CALM, PATIENCE).await?;
        ensure!(last == owner, "the address went from {} to {}", NODES[owner], NODES[last]);
        let seen = lab.observe(from);
        ensure!(seen.overlaps.is_empty() && seen.answered_at_once <= 1, "{:?}", seen.overlaps);
        let status = lab.vipd_status(OWNER).context("vipd on the last node")?;
        ensure!(status["owners"][0]["leader"] == NODES[owner], "{status}");
        Ok(())
    });
}
