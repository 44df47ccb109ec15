//! The failover benchmark: the same faults for several systems, in turn, in one run.
//!
//! Round by round every system is started anew and gets every fault once, so that a noisy minute of the machine hits
//! all of them alike. The method and its limits are in `benches/failover/README.md`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::demo::{Console, readable};
use crate::fault::{Fault, Trial};
use crate::lab::Lab;
use crate::network::NODES;
use crate::system::{System, Timing, Variant};

/// A system's first owner must be there by then.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// What to run.
#[derive(Debug, Clone)]
pub struct Matrix {
    /// How often each cell is measured.
    pub runs: usize,
    /// The columns.
    pub systems: Vec<System>,
    /// The rows.
    pub faults: Vec<Fault>,
    /// Where to write every single result.
    pub json: Option<PathBuf>,
}

impl Matrix {
    /// The systems compared if nothing is said.
    pub const SYSTEMS: [System; 4] = [
        System::Vipd(Timing::Default),
        System::Vipd(Timing::Fast),
        System::Keepalived(Variant::AsDocumented),
        System::Keepalived(Variant::Tuned),
    ];
    /// The faults compared if nothing is said.
    pub const FAULTS: [Fault; 4] = [Fault::LinkDown, Fault::Sigterm, Fault::ApiserverKilled, Fault::Sigkill];
}

type Cells = BTreeMap<(Fault, System), Vec<Trial>>;

/// Measures every cell and prints the table.
///
/// # Errors
/// If a program is missing, or the lab itself fails.
pub async fn run(lab: &mut Lab, matrix: &Matrix) -> Result<()> {
    let console = Console;
    for system in &matrix.systems {
        // Said before minutes are spent on the others.
        lab.aim(*system)?;
    }
    lab.start_backends().await?;
    let mut cells = Cells::new();
    for round in 1..=matrix.runs {
        for system in &matrix.systems {
            let place = format!("round {round}  {system:<21}");
            if let Err(error) = column(lab, *system, matrix, &place, &mut cells).await {
                console.line(format!("{place} {error:#}; on with the next"));
            }
            lab.set_probing(false).await?;
            lab.remove_system().await?;
            lab.restore().await?;
            lab.free_lease().await?;
        }
        if let Some(path) = &matrix.json {
            write_json(path, &cells)?;
        }
    }
    console.line(format!("\n{}", table(matrix, &cells)));
    Ok(())
}

/// Starts a system and gives it every fault once. A system that never gets calm leaves the rest of its cells empty.
async fn column(
    lab: &mut Lab,
    system: System,
    matrix: &Matrix,
    place: &str,
    cells: &mut Cells,
) -> Result<()> {
    lab.start_system(system)?;
    lab.await_owner(START_PATIENCE, |_| true).await?;
    lab.set_probing(true).await?;
    for fault in &matrix.faults {
        let trial = lab.trial(*fault).await.with_context(|| format!("{fault}"))?;
        Console.line(format!("{place} {fault:<17} {}", line(&trial)));
        cells.entry((*fault, system)).or_default().push(trial);
    }
    Ok(())
}

fn line(trial: &Trial) -> String {
    let seen = &trial.seen;
    format!(
        "silence {:>8}  failed {:>4}  two addresses {:>8}  two ARP answers {:>8}{}",
        readable(seen.service.silence),
        seen.service.failures(),
        readable(seen.longest_overlap()),
        readable(seen.answered_overlap),
        if trial.recovered { "" } else { "  not calm again" }
    )
}

fn table(matrix: &Matrix, cells: &Cells) -> String {
    let mut text = String::from(
        "silence a client sees: median / worst; then the longest time with two owners, by address and by ARP\n\n",
    );
    text += &format!("{:<18}", "");
    for system in &matrix.systems {
        text += &format!("| {:<34}", system.name());
    }
    text += "\n";
    for fault in &matrix.faults {
        text += &format!("{:<18}", fault.name());
        for system in &matrix.systems {
            let trials = cells.get(&(*fault, *system)).map(Vec::as_slice).unwrap_or_default();
            text += &format!("| {:<34}", cell(trials, matrix.runs));
        }
        text += "\n";
    }
    text
}

fn cell(trials: &[Trial], runs: usize) -> String {
    let silences = trials.iter().map(|trial| trial.seen.service.silence);
    let mut sorted: Vec<Duration> = silences.collect();
    sorted.sort_unstable();
    let Some(worst) = sorted.last() else { return "-".to_owned() };
    let overlap = trials.iter().map(|trial| trial.seen.longest_overlap()).max().unwrap_or_default();
    let answered = trials.iter().map(|trial| trial.seen.answered_overlap).max().unwrap_or_default();
    let endless = trials.iter().any(|trial| trial.seen.holders.len() > 1);
    let count = if trials.len() < runs { format!(" ({} of {runs})", trials.len()) } else { String::new() };
    format!(
        "{} / {}; {}{} / {}{count}",
        readable(median(&sorted)),
        readable(*worst),
        if endless { "endless, > " } else { "" },
        readable(overlap),
        readable(answered)
    )
}

/// The middle one, or the mean of the two in the middle.
fn median(sorted: &[Duration]) -> Duration {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2 }
}

fn write_json(path: &Path, cells: &Cells) -> Result<()> {
    let trials =
        cells.iter().flat_map(|((_, system), trials)| trials.iter().map(move |trial| (system, trial)));
    let rows: Vec<serde_json::Value> = trials.map(|(system, trial)| row(*system, trial)).collect();
    let text = serde_json::to_string_pretty(&rows)?;
    std::fs::write(path, text + "\n").with_context(|| format!("failed to write {}", path.display()))
}

fn row(system: System, trial: &Trial) -> serde_json::Value {
    let seen = &trial.seen;
    let failed: BTreeMap<&str, usize> =
        seen.service.failed.iter().map(|(verdict, count)| (verdict.name(), *count)).collect();
    let milliseconds = |duration: Duration| duration.as_secs_f64() * 1000.0;
    json!({
        "system": system.name(),
        "fault": trial.fault.name(),
        "owner": NODES[trial.owner],
        "holders_after": seen.holders.iter().map(|node| NODES[*node]).collect::<Vec<_>>(),
        "recovered": trial.recovered,
        "silence_ms": milliseconds(seen.service.silence),
        "good": seen.service.good,
        "failed": failed,
        "moves": seen.moves.len(),
        "two_addresses_ms": milliseconds(seen.longest_overlap()),
        "two_arp_answers_ms": milliseconds(seen.answered_overlap),
    })
}
