//! The peers' key is replaced, host by host, as docs/configuration.md says.
//!
//! It needs a built vipd, beside this test's target folder or named by VIPD_BIN, and fails without one.

mod enclosed;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Result, ensure};
use enclosed::in_a_lab;
use lab::lab::Lab;
use lab::network::NODES;
use lab::system::{System, Timing};
use tokio::time::Instant;

/// A loaded machine may take much longer than the two seconds that it takes.
const PATIENCE: Duration = Duration::from_secs(60);
const CALM: Duration = Duration::from_secs(1);

/// The keys of a node's file, the first of which signs.
fn set_keys(lab: &Lab, place: usize, ids: &[u8]) -> Result<()> {
    let folder = lab.nodes[place].folder();
    let entry = |id: &u8| -> Result<String> {
        let file = folder.join(format!("key-{id}"));
        fs::write(&file, format!("{}\n", format!("{id:02x}").repeat(32)))?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
        Ok(format!("{{id: {id}, file: {}}}", file.display()))
    };
    let entries = ids.iter().map(entry).collect::<Result<Vec<_>>>()?.join(", ");
    let path = folder.join("config.yaml");
    let text = fs::read_to_string(&path)?;
    let line = |line: &str| {
        if line.starts_with("peerKeys:") { format!("peerKeys: [{entries}]\n") } else { format!("{line}\n") }
    };
    Ok(fs::write(&path, text.lines().map(line).collect::<String>())?)
}

/// Gives a node these keys and starts it again; then all of them hear each other, and nobody but one had the address.
async fn give_keys(lab: &mut Lab, place: usize, ids: &[u8]) -> Result<()> {
    let from = Instant::now();
    set_keys(lab, place, ids)?;
    ensure!(lab.nodes[place].process("vipd")?.stop().await?, "vipd on {} did not end", NODES[place]);
    lab.nodes[place].start_again("vipd")?;
    lab.calm(CALM, PATIENCE).await?;
    for (other, name) in NODES.iter().enumerate() {
        let status = lab.vipd_status(other)?;
        let peers = status["owners"][0]["peers"].as_array().map(Vec::as_slice).unwrap_or_default();
        let heard = peers.iter().filter(|peer| peer["authenticated"] == true && peer["trouble"].is_null());
        ensure!(heard.count() == NODES.len() - 1, "{name}, with {ids:?} on {}: {status}", NODES[place]);
    }
    let seen = lab.observe(from);
    ensure!(seen.overlaps.is_empty() && seen.answered_at_once <= 1, "two owners: {seen:?}");
    Ok(())
}

#[test]
fn a_key_is_replaced_host_by_host_and_all_hear_each_other_at_any_time() {
    in_a_lab("a_key_is_replaced_host_by_host_and_all_hear_each_other_at_any_time", async |mut lab| {
        lab.start_backends().await?;
        lab.aim(System::Vipd(Timing::Default))?;
        for place in 0..NODES.len() {
            lab.start_system_on(place, System::Vipd(Timing::Default))?;
            // Nobody has heard of the key that comes with the lab's files.
            lab.nodes[place].process("vipd")?.kill().await?;
            set_keys(&lab, place, &[1])?;
            lab.nodes[place].start_again("vipd")?;
        }
        lab.await_owner(PATIENCE, |_| true).await?;
        lab.set_probing(true).await?;
        lab.calm(CALM, PATIENCE).await?;

        for ids in [&[1, 2][..], &[2, 1], &[2]] {
            for place in 0..NODES.len() {
                give_keys(&mut lab, place, ids).await?;
            }
        }

        // One that has only the old key is no peer any more, and disturbs nobody.
        let from = Instant::now();
        let owner = lab.calm(CALM, PATIENCE).await?;
        let outsider = (owner + 1) % NODES.len();
        set_keys(&lab, outsider, &[1])?;
        ensure!(lab.nodes[outsider].process("vipd")?.stop().await?);
        lab.nodes[outsider].start_again("vipd")?;
        ensure!(lab.calm(CALM, PATIENCE).await? == owner, "the address moved");
        let seen = lab.observe(from);
        ensure!(seen.moves.is_empty() && seen.overlaps.is_empty(), "{seen:?}");
        Ok(())
    });
}
