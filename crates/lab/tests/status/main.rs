//! What `vipd status` tells of all three nodes, on whichever of them it is asked.
//!
//! They need a built vipd, beside this test's target folder or named by VIPD_BIN, and fail without one.

#[path = "../commands/mod.rs"]
mod commands;
#[path = "../enclosed/mod.rs"]
mod enclosed;
#[path = "../handover/mod.rs"]
mod handover;
mod terminal;

use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use enclosed::in_a_lab;
use handover::hand_over;
use lab::lab::Lab;
use lab::network::NODES;
use lab::system::{Programs, System, Timing};
use serde_json::Value;
use terminal::Terminal;
use tokio::time::Instant;

/// A loaded machine may take much longer than a lease or two.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs `vipd status` for the vipd of a node.
async fn status(lab: &Lab, place: usize, arguments: &[&str]) -> Result<Output> {
    let mut command = tokio::process::Command::new(Programs::default().vipd()?);
    command.args(["status", "--socket"]).arg(lab.nodes[place].vipd_socket()).args(arguments);
    command.output().await.context("vipd can't be run")
}

async fn json(lab: &Lab, place: usize) -> Result<Value> {
    let output = status(lab, place, &["--json"]).await?;
    ensure!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

async fn text(lab: &Lab, place: usize) -> Result<String> {
    let output = status(lab, place, &[]).await?;
    ensure!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Asks a node again and again until what it says of all is right.
async fn eventually(
    lab: &Lab,
    place: usize,
    mut is_right: impl FnMut(&Value) -> Result<()>,
) -> Result<Value> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = json(lab, place).await?;
        match is_right(&seen) {
            Ok(()) => return Ok(seen),
            Err(error) if Instant::now() > deadline => return Err(error.context(format!("{seen:#}"))),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// The state of the address on a node, as the asked one tells it.
fn state<'a>(seen: &'a Value, node: &str) -> Option<&'a str> {
    let of = if seen["node"] == node { seen } else { &seen["others"][node]["status"] };
    of["owners"][0]["state"].as_str()
}

/// Holds if one node has the address, as the asked one tells it, and the others don't.
fn has_it(seen: &Value, owner: usize, alive: &[usize]) -> Result<()> {
    for place in alive {
        let expected = if *place == owner { "active" } else { "standby" };
        ensure!(state(seen, NODES[*place]) == Some(expected), "{}", NODES[*place]);
    }
    Ok(())
}

/// Holds if the last move went from one to the other, for this reason, and it is known how long it took.
fn last_move(seen: &Value, from: usize, to: usize, reason: &str) -> Result<()> {
    let last = &seen["owners"][0]["moves"][0];
    ensure!(last["from"] == NODES[from] && last["to"] == NODES[to] && last["reason"] == reason, "{last}");
    ensure!(last["took_ms"].is_u64(), "{last}");
    Ok(())
}

#[test]
fn each_node_tells_of_all_where_the_address_is_and_why_it_moved() {
    in_a_lab("each_node_tells_of_all_where_the_address_is_and_why_it_moved", async |mut lab| {
        lab.start_backends().await?;
        lab.start_system(System::Vipd(Timing::Relaxed))?;
        let first = lab.await_owner(PATIENCE, |_| true).await?;
        let all = [0, 1, 2];
        for place in all {
            let seen = eventually(&lab, place, |seen| has_it(seen, first, &all)).await?;
            for other in all.into_iter().filter(|other| *other != place) {
                let backends = &seen["others"][NODES[other]]["status"]["load_balancers"][0]["backends"];
                let count = backends.as_array().context("a balancer has backends")?.len();
                ensure!(count == NODES.len(), "{} of {}", NODES[place], NODES[other]);
                // Nobody passes on what others say.
                ensure!(seen["others"][NODES[other]]["status"]["others"].is_null());
            }
        }

        let second = (first + 1) % NODES.len();
        let third = (first + 2) % NODES.len();
        hand_over(&lab, first, second, PATIENCE).await?;
        for place in all {
            eventually(&lab, place, |seen| {
                has_it(seen, second, &all)?;
                last_move(seen, first, second, "stepped_down")
            })
            .await?;
        }
        let shown = text(&lab, third).await?;
        let line = format!("ago to {}: {} was told to step down, ", NODES[second], NODES[first]);
        ensure!(shown.contains(&line), "{shown}");
        ensure!(shown.lines().any(|line| line.trim_start().starts_with("active, up ")), "{shown}");

        // Of the two that are left, one has it; both know why, and what the dead one said last is still told, with its age.
        lab.nodes[second].process("vipd")?.kill().await?;
        let next = lab.await_owner(PATIENCE, |owner| owner != second).await?;
        let left = [first, third];
        for place in left {
            eventually(&lab, place, |seen| {
                has_it(seen, next, &left)?;
                last_move(seen, second, next, "silent")?;
                let told = seen["others"][NODES[second]]["told_ms"].as_u64().context("it is told of")?;
                ensure!(told > 3000, "it is said to have spoken {told} ms ago");
                Ok(())
            })
            .await?;
        }
        Ok(())
    });
}

/// Waits until the screen has this.
async fn shows(terminal: &Terminal, what: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !terminal.text().contains(what) {
        ensure!(Instant::now() < deadline, "there is no {what:?}:\n{}", terminal.text());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

#[test]
fn a_person_at_a_terminal_sees_the_nodes_and_hands_the_address_over_by_a_key() {
    in_a_lab("a_person_at_a_terminal_sees_the_nodes_and_hands_the_address_over_by_a_key", async |mut lab| {
        lab.start_backends().await?;
        lab.start_system(System::Vipd(Timing::Relaxed))?;
        let first = lab.await_owner(PATIENCE, |_| true).await?;
        let all = [0, 1, 2];
        eventually(&lab, first, |seen| has_it(seen, first, &all)).await?;
        let program = Programs::default().vipd()?;
        let socket = lab.nodes[first].vipd_socket();
        let mut terminal =
            Terminal::start(&format!("{} status --watch --socket {}", program.display(), socket.display()))?;
        shows(&terminal, "leader     this node").await?;
        shows(&terminal, "s step down").await?;
        shows(&terminal, "\u{25b8} backend  10.0.0.163:6443 ready").await?;

        // What a person begins and thinks better of is not done.
        terminal.press("s")?;
        shows(&terminal, "hand the address to the best other node, now?").await?;
        terminal.press("n")?;
        shows(&terminal, "nothing was done").await?;
        ensure!(lab.owner() == Some(first));

        // The second backend is taken out of use, here and nowhere else.
        terminal.press("jdy")?;
        shows(&terminal, "10.0.0.164:6443 gets no new connections").await?;
        shows(&terminal, "10.0.0.164:6443 ready, drained by command").await?;
        terminal.press("/drained\r")?;
        shows(&terminal, "Esc all").await?;
        ensure!(!terminal.text().contains("10.0.0.163:6443 ready"), "{}", terminal.text());
        terminal.press("ey")?;
        shows(&terminal, "10.0.0.164:6443 gets new connections").await?;
        terminal.press("\x1b")?;
        shows(&terminal, "/ filter").await?;

        terminal.press("sy")?;
        let next = lab.await_owner(PATIENCE, |owner| owner != first).await?;
        shows(&terminal, &format!("{} leads", NODES[next])).await?;
        shows(&terminal, &format!("to {}: {} was told to step down", NODES[next], NODES[first])).await?;
        if let Some(folder) = std::env::var_os("VIPD_PICTURES") {
            std::fs::write(std::path::Path::new(&folder).join("status-watch.svg"), terminal.picture())?;
        }

        // A vipd that is gone is told of, and the screen stays; the terminal is given back in the end.
        lab.nodes[first].process("vipd")?.kill().await?;
        shows(&terminal, "no vipd runs here").await?;
        terminal.press("q")?;
        ensure!(terminal.ended()? == Some(0) && terminal.is_given_back());

        // Without a terminal there is nothing to watch.
        let output = status(&lab, next, &["--watch"]).await?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(64) && said.contains("--watch needs a terminal"), "{said}");
        Ok(())
    });
}
