//! An upgrade, and back: two versions of vipd in one cluster.
//!
//! Node by node the one version ends and the other starts, with the same file. After each step the cluster has another mixture, in
//! which the owner is killed: whoever is left has to elect, whatever versions they are.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::Instant;

use crate::demo::{Console, readable};
use crate::fault::{Fault, Observation};
use crate::lab::Lab;
use crate::network::NODES;
use crate::system::{Programs, System};

/// The first owner must be there by then, and all must be well again.
const PATIENCE: Duration = Duration::from_secs(60);
/// So long all must be well between two steps: peers have heard each other by then, however old they are.
const CALM: Duration = Duration::from_secs(1);

/// Two versions of vipd.
#[derive(Debug, Clone)]
pub struct Versions {
    /// The one that is there.
    pub from: PathBuf,
    /// The one that comes, and goes again.
    pub to: PathBuf,
}

/// Upgrades a cluster and goes back; true if never two nodes answered, and one did again after each step.
///
/// # Errors
/// If the lab cannot be brought up, or all is not well again after a step.
pub async fn run(lab: &mut Lab, system: System, versions: &Versions) -> Result<bool> {
    let Versions { from, to } = versions;
    lab.start_backends().await?;
    lab.plan.programs = Programs { vipd: Some(from.clone()) };
    lab.start_system(system)?;
    lab.await_owner(PATIENCE, |_| true).await?;
    lab.set_probing(true).await?;
    let mut holds = true;
    for (word, program) in [("up", to), ("back", from)] {
        for (place, name) in NODES.iter().enumerate() {
            holds &= step(lab, &format!("{word}: {name} changes"), Some((place, program, system))).await?;
            holds &= step(lab, &format!("{word}: the owner is killed"), None).await?;
        }
    }
    Console.line(if holds {
        "passed: there and back, never two nodes that answered, always one again"
    } else {
        "FAILED: see above"
    });
    Ok(holds)
}

/// Has one node change its version, or the owner killed and started again.
async fn step(lab: &mut Lab, what: &str, change: Option<(usize, &Path, System)>) -> Result<bool> {
    let owner = lab.calm(CALM, PATIENCE).await.with_context(|| format!("before {what}"))?;
    let from = Instant::now();
    let fault = match change {
        Some((place, program, system)) => {
            lab.nodes[place].end_system().await?;
            lab.plan.programs = Programs { vipd: Some(program.to_owned()) };
            lab.start_system_on(place, system)?;
            Fault::Sigterm
        }
        None => {
            lab.inflict(Fault::Sigkill, owner).await?;
            lab.await_another(owner, PATIENCE).await?;
            lab.undo(Fault::Sigkill, owner).await?;
            Fault::Sigkill
        }
    };
    let to = lab.calm(CALM, PATIENCE).await.with_context(|| format!("after {what}"))?;
    let seen = lab.observe(from);
    let holds = seen.answered_at_once <= 1 && seen.longest_overlap() <= fault.overlap_allowed();
    Console.line(line(what, [owner, to], &seen, holds));
    Ok(holds)
}

fn line(what: &str, [from, to]: [usize; 2], seen: &Observation, holds: bool) -> String {
    format!(
        "{what}: {} to {}, silence {}, {} requests answered, {} failed, two addresses {}, {} answered at once{}",
        NODES[from],
        NODES[to],
        readable(seen.service.silence),
        seen.service.good,
        seen.service.failures(),
        readable(seen.longest_overlap()),
        seen.answered_at_once,
        if holds { "" } else { "  FAILED" }
    )
}
