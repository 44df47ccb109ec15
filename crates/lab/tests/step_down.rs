//! `vipd step-down` on three nodes: where the address goes, what is refused, and how long it stays away.
//!
//! They need a built vipd, beside this test's target folder or named by VIPD_BIN, and fail without one.

mod commands;
mod enclosed;

use std::io::Write as _;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use commands::{obeyed, step_down};
use enclosed::in_a_lab;
use lab::lab::Lab;
use lab::network::{NODES, VIP};
use lab::system::{System, Timing};
use tokio::time::Instant;

/// A loaded machine may take much longer than a lease or two.
const PATIENCE: Duration = Duration::from_secs(60);
/// Ten leases of the default profile.
const REST: Duration = Duration::from_millis(1500);

async fn bring_up(lab: &mut Lab) -> Result<usize> {
    lab.start_backends().await?;
    lab.start_system(System::Vipd(Timing::Default))?;
    lab.await_owner(PATIENCE, |_| true).await?;
    lab.set_probing(true).await?;
    lab.calm(Duration::from_secs(1), PATIENCE).await
}

fn refused(output: &Output, code: i32, words: &str) -> Result<()> {
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(code), "{}: {text}", output.status);
    ensure!(output.stdout.is_empty() && text.lines().count() == 1 && text.contains(words), "{text}");
    Ok(())
}

fn place(name: &str) -> Result<usize> {
    NODES.iter().position(|node| *node == name).with_context(|| format!("no node {name}"))
}

#[test]
fn the_address_goes_to_the_named_node_or_to_the_best_that_does_not_rest() {
    in_a_lab("the_address_goes_to_the_named_node_or_to_the_best_that_does_not_rest", async |mut lab| {
        let first = bring_up(&mut lab).await?;
        let from = Instant::now();
        // Not the one that would be elected, which is the first by its name.
        let second = (0..NODES.len()).rfind(|node| *node != first).context("there are three")?;
        let third = NODES.len() - first - second;

        ensure!(obeyed(&step_down(&lab, first, &["--to", NODES[second]]).await?)? == NODES[second]);
        lab.await_owner(PATIENCE, |owner| owner == second).await?;

        // At once, while the first rests.
        let named = obeyed(&step_down(&lab, second, &[]).await?)?;
        ensure!(place(&named)? == third, "{named}");
        lab.await_owner(PATIENCE, |owner| owner == third).await?;

        lab.calm(Duration::from_secs(1), PATIENCE).await?;
        let seen = lab.observe(from);
        ensure!(seen.overlaps.is_empty() && seen.answered_at_once <= 1, "{seen:?}");
        ensure!(seen.moves.len() == 2, "{:?}", seen.moves);
        Ok(())
    });
}

#[test]
fn what_can_not_be_done_is_refused_with_the_way_out_and_moves_nothing() {
    in_a_lab("what_can_not_be_done_is_refused_with_the_way_out_and_moves_nothing", async |mut lab| {
        let owner = bring_up(&mut lab).await?;
        let others: Vec<usize> = (0..NODES.len()).filter(|node| *node != owner).collect();
        let [next, last] = others[..] else { anyhow::bail!("there are three") };
        let from = Instant::now();

        let way_out = format!("{} does: run `vipd step-down` there", NODES[owner]);
        refused(&step_down(&lab, next, &[]).await?, 69, &way_out)?;
        refused(
            &step_down(&lab, owner, &["--to", "master-9"]).await?,
            69,
            "there is no other node master-9; there is",
        )?;
        refused(&step_down(&lab, owner, &["--to", NODES[owner]]).await?, 69, "can't be its own successor")?;

        lab.nodes[last].process("vipd")?.kill().await?;
        let wanted = ["--to", NODES[last]];
        let asked = || step_down(&lab, owner, &wanted);
        // It was heard less than a lease ago, and would be believed to be there.
        tokio::time::sleep(Duration::from_millis(300)).await;
        refused(&asked().await?, 75, "it was not heard within the last lease")?;
        ensure!(lab.observe(from).moves.is_empty() && lab.owner() == Some(owner));
        lab.nodes[last].start_again("vipd")?;

        ensure!(obeyed(&step_down(&lab, owner, &["--to", NODES[next]]).await?)? == NODES[next]);
        refused(
            &step_down(&lab, next, &["--to", NODES[owner]]).await?,
            75,
            "it stepped down a moment ago, and rests",
        )?;
        lab.await_owner(PATIENCE, |node| node == next).await?;
        Ok(())
    });
}

#[test]
fn a_node_of_higher_priority_that_stepped_down_takes_the_address_back_after_its_rest_and_not_before() {
    let name =
        "a_node_of_higher_priority_that_stepped_down_takes_the_address_back_after_its_rest_and_not_before";
    in_a_lab(name, async |mut lab| {
        bring_up(&mut lab).await?;
        // The last node, which nothing else prefers.
        let preferred = NODES.len() - 1;
        lab.nodes[preferred].process("vipd")?.stop().await?;
        let file = lab.nodes[preferred].folder().join("config.yaml");
        let mut config = std::fs::OpenOptions::new().append(true).open(file)?;
        writeln!(config, "priority: 200\npreempt: true\npreemptDelay: 200ms")?;
        drop(config);
        lab.nodes[preferred].start_again("vipd")?;
        lab.await_owner(PATIENCE, |owner| owner == preferred).await?;
        lab.calm(Duration::from_secs(1), PATIENCE).await?;

        let asked = Instant::now();
        obeyed(&step_down(&lab, preferred, &[]).await?)?;
        lab.await_owner(PATIENCE, |owner| owner != preferred).await?;
        lab.await_owner(PATIENCE, |owner| owner == preferred).await?;

        let back = lab.ownership.changes().read(|changes| {
            let back = changes.iter().find(|change| {
                change.held && change.node == preferred && change.address == VIP && change.at > asked
            });
            back.map(|change| change.at - asked)
        });
        let back = back.context("it is back")?;
        ensure!(back >= REST, "it rested for {back:?}");
        Ok(())
    });
}
