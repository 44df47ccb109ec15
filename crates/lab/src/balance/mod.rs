//! The balancer's benchmark: the same loads for vipd, haproxy, nginx, the kernel's own DNAT and no balancer, in turn, in one run.
//!
//! Round by round every contender is started anew and gets every load once, so that a noisy minute of the machine hits all alike, and
//! ratios are of the same round. The method and its limits are in `benches/balancer/README.md`.

mod contender;
mod load;
mod meter;
mod site;
mod table;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};

pub use contender::Contender;
pub use load::Load;

use load::{Done, Full};
use site::Site;

use crate::demo::Console;
use crate::isolation::Enclosure;
use crate::network::Switch;
use crate::process::Process;
use crate::system::Programs;

/// Memory is looked at when what a load has left is settled.
const SETTLED: Duration = Duration::from_secs(1);

/// What to run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How often each cell is measured.
    pub rounds: usize,
    /// Who is compared.
    pub contenders: Vec<Contender>,
    /// What they are asked for.
    pub loads: Vec<Load>,
    /// How long each load lasts.
    pub lasts: Duration,
    /// Connections that stand idle.
    pub idle: usize,
    /// Where to write every single result.
    pub json: Option<PathBuf>,
}

/// What is measured, in the order in which it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Measure {
    /// Requests a second over connections that stay.
    Requests,
    /// Time of processors for each, in microseconds.
    CpuPerRequest,
    /// Connections a second, each with one request.
    Connections,
    /// Time of processors for each, in microseconds.
    CpuPerConnection,
    /// Megabytes (10^6) a second.
    Bulk,
    /// Time of processors for each, in microseconds.
    CpuPerMegabyte,
    /// The median answer at half of haproxy's most, in microseconds.
    Median,
    /// All but one in a hundred are faster, in microseconds.
    P99,
    /// Memory without connections, in kB.
    Base,
    /// Memory for each idle connection, in kB.
    PerIdle,
    /// Requests a second beside the idle connections.
    RequestsBesideIdle,
}

/// What one contender did in one round.
pub(crate) type Row = BTreeMap<Measure, f64>;

/// Measures every cell and prints the tables.
///
/// # Errors
/// If a program is missing, or a load fails.
pub async fn run(enclosure: &Enclosure, programs: &Programs, plan: &Plan) -> Result<()> {
    let console = Console;
    let switch = Switch::create().await?;
    let mut rounds: Vec<BTreeMap<Contender, Row>> = Vec::new();
    // Half of what haproxy does at most is what all are asked at a steady rate; until that is known, half of the first's.
    let mut rate = None;
    for round in 1..=plan.rounds {
        let mut rows = BTreeMap::new();
        for contender in order(&plan.contenders, round) {
            // A place of its own for each: what is left of another's connections, on the servers too, makes some of the next one's wait for
            // a second.
            let site = Site::build(enclosure, &switch).await?;
            let row = measure(&site, contender, programs, plan, &mut rate)
                .await
                .with_context(|| format!("{contender} in round {round}"))?;
            site.end(&switch).await?;
            console.line(format!("round {round}  {contender:<8} {}", table::line(&row)));
            rows.insert(contender, row);
        }
        rounds.push(rows);
        if let Some(path) = &plan.json {
            std::fs::write(path, serde_json::to_vec_pretty(&table::json(&rounds))?)?;
        }
    }
    console.line(format!("\n{}", table::of(&plan.contenders, &rounds)));
    Ok(())
}

/// haproxy first, whose most sets the rate; then the others, in another order each round.
fn order(contenders: &[Contender], round: usize) -> Vec<Contender> {
    let mut order: Vec<Contender> = contenders.to_vec();
    order.rotate_left(round % contenders.len().max(1));
    order.sort_by_key(|contender| *contender != Contender::Haproxy);
    order
}

async fn measure(
    site: &Site,
    contender: Contender,
    programs: &Programs,
    plan: &Plan,
    rate: &mut Option<f64>,
) -> Result<Row> {
    let mut row = Row::new();
    let process = site.start(contender, programs).await?;
    let base = memory(process.as_ref()).await?;
    let target = contender.target();
    let client = &site.client.namespace;

    let wanted = |load| plan.loads.contains(&load);
    // Others need the rate that this one finds.
    if wanted(Load::Requests) || wanted(Load::Steady) && rate.is_none() {
        let (done, cpu) = full(site, contender, Full::Requests, plan.lasts).await?;
        row.insert(Measure::Requests, done.requests / done.seconds);
        row.insert(Measure::CpuPerRequest, cpu / done.requests);
        if contender == Contender::Haproxy || rate.is_none() {
            *rate = Some(done.requests / done.seconds / 2.0);
        }
    }
    if wanted(Load::Connections) {
        let (done, cpu) = full(site, contender, Full::Connections, plan.lasts).await?;
        row.insert(Measure::Connections, done.requests / done.seconds);
        row.insert(Measure::CpuPerConnection, cpu / done.requests);
    }
    if wanted(Load::Bulk) {
        let (done, cpu) = full(site, contender, Full::Bulk, plan.lasts).await?;
        let megabytes = done.bytes / 1e6;
        row.insert(Measure::Bulk, megabytes / done.seconds);
        row.insert(Measure::CpuPerMegabyte, cpu / megabytes);
    }
    if wanted(Load::Steady) {
        let (client, lasts) = (std::sync::Arc::clone(client), plan.lasts);
        let rate = rate.context("a rate was measured above")?;
        let steady =
            tokio::task::spawn_blocking(move || load::steady(&client, target, rate, lasts)).await??;
        row.insert(Measure::Median, steady.p50.as_secs_f64() * 1e6);
        row.insert(Measure::P99, steady.p99.as_secs_f64() * 1e6);
    }
    site.stop(contender, process).await?;
    if let Some(base) = base {
        row.insert(Measure::Base, base);
    }
    if wanted(Load::Idle) {
        idle(site, contender, programs, plan, &mut row).await?;
    }
    Ok(row)
}

/// Many connections that stand idle, in a program that was started anew, so that no memory is left of other loads.
async fn idle(
    site: &Site,
    contender: Contender,
    programs: &Programs,
    plan: &Plan,
    row: &mut Row,
) -> Result<()> {
    let process = site.start(contender, programs).await?;
    let before = memory(process.as_ref()).await?;
    let standing = load::stand(&site.client.namespace, contender.target(), plan.idle)?;
    let after = memory(process.as_ref()).await?;
    if let (Some(before), Some(after)) = (before, after) {
        row.insert(Measure::PerIdle, (after - before) / plan.idle as f64);
    }
    let (done, _) = full(site, contender, Full::Requests, plan.lasts).await?;
    row.insert(Measure::RequestsBesideIdle, done.requests / done.seconds);
    drop(standing);
    site.stop(contender, process).await
}

/// A full load, and the processors' time that it took, in microseconds.
async fn full(site: &Site, contender: Contender, kind: Full, lasts: Duration) -> Result<(Done, f64)> {
    let before = meter::busy()?;
    let done = load::full(&site.client.namespace, contender.target(), kind, lasts)
        .await
        .with_context(|| format!("{kind:?}"))?;
    Ok((done, (meter::busy()? - before).as_secs_f64() * 1e6))
}

/// A contender's memory in kB, where it is a program.
async fn memory(process: Option<&Process>) -> Result<Option<f64>> {
    let Some(group) = process.and_then(Process::pid) else { return Ok(None) };
    tokio::time::sleep(SETTLED).await;
    Ok(Some(meter::memory(group)? as f64))
}
