//! Endurance: thousands of failovers in a row, the next as soon as all is well again after the one before.
//!
//! In the first part no process ends: what the three vipds take after thousands of failovers is compared with what they took after the
//! first. In the second each owner is killed or asked to end, so what the kernel keeps of the dead is what counts: when all is over, each
//! node's network is to be as it was before.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::time::Instant;

use crate::demo::Console;
use crate::fault::Fault;
use crate::lab::Lab;
use crate::system::System;

mod report;
mod traces;

use report::{Failover, Report};

/// The first owner must be there by then, and all must be well again. A machine that is busy makes it long, a system that is stuck endless.
const PATIENCE: Duration = Duration::from_secs(60);
/// Before and after a failover all must be well for this long: two owners that follow each other show in it.
const CALM: Duration = Duration::from_millis(150);
/// At least so often is looked at what processes take, where there are as many failovers.
const LOOKS: usize = 160;
/// So many failovers are between two lines that tell how far it has come.
const TELL_EVERY: usize = 100;

/// What moves the address and ends no process.
const LIVING: [Fault; 7] = [
    Fault::StepDown,
    Fault::LinkDown,
    Fault::Unplugged,
    Fault::Partitioned,
    Fault::Mute,
    Fault::Deaf,
    Fault::Sigstop,
];
/// What ends the owner's process.
const ENDING: [Fault; 2] = [Fault::Sigkill, Fault::Sigterm];

/// Which failovers there are to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What they were drawn from.
    pub seed: u64,
    /// The faults in their order; each happens to who is the owner then.
    pub faults: Vec<Fault>,
    /// In the first so many of them no process ends.
    pub living: usize,
}

impl Plan {
    /// Draws so many: four fifths in which all processes live, and one in which the owner's ends.
    pub fn new(seed: u64, count: usize) -> Self {
        let mut dice = fastrand::Rng::with_seed(seed);
        let living = count - count / 5;
        let mut draw = |of: &[Fault], count: usize| -> Vec<Fault> {
            (0..count).filter_map(|_| dice.choice(of).copied()).collect()
        };
        let mut faults = draw(&LIVING, living);
        faults.extend(draw(&ENDING, count - living));
        Self { seed, faults, living }
    }
}

/// Runs them and tells what came of them; true if never two nodes answered, one did again each time, and nothing grew or stayed behind.
///
/// # Errors
/// If the lab cannot be brought up, a fault cannot be made, or all is not well again after one.
pub async fn run(lab: &mut Lab, system: System, plan: &Plan, json: Option<&Path>) -> Result<bool> {
    ensure!(
        matches!(
            system,
            System::Vipd(_) | System::VipdSamePort(_) | System::VipdKernel | System::VipdAddress(_)
        ),
        "three vipds among peers are meant, not {system}"
    );
    Console.line(format!("{system}: {} failovers from the seed {}", plan.faults.len(), plan.seed));
    lab.start_backends().await?;
    let before = traces(lab)?;
    lab.start_system(system)?;
    lab.await_owner(PATIENCE, |_| true).await?;
    lab.set_probing(true).await?;
    let mut report = Report::default();
    let went = all(lab, plan, &mut report).await;
    if let Some(path) = json {
        report.write(path)?;
    }
    if let Err(error) = went {
        Console.line(report.tell());
        return Err(error.context(format!("once more with --seed {}", plan.seed)));
    }
    lab.set_probing(false).await?;
    lab.end_system().await?;
    report.left_behind(&before, &traces(lab)?);
    Console.line(report.tell());
    Ok(report.passed())
}

/// What each node's network holds.
fn traces(lab: &Lab) -> Result<Vec<String>> {
    lab.nodes.iter().map(|node| traces::look(&node.host.namespace)).collect()
}

async fn all(lab: &mut Lab, plan: &Plan, report: &mut Report) -> Result<()> {
    let mut from = Instant::now();
    let look_every = (plan.living / LOOKS).max(1);
    for (number, fault) in (1_usize..).zip(plan.faults.iter().copied()) {
        let one = fail_over(lab, fault, &mut from, report)
            .await
            .with_context(|| format!("failover {number} ({fault})"))?;
        if !one.passed() {
            Console.line(format!("{number:>5}  {}", one.line()));
        }
        report.failovers.push(one);
        if number <= plan.living && number % look_every == 0 {
            report.look(lab)?;
        }
        if number % TELL_EVERY == 0 {
            Console.line(format!("{number:>5}  {}", report.so_far()));
        }
    }
    Ok(())
}

/// Moves the address once. What is seen of it begins where that of the one before ended, so that nothing is left out.
async fn fail_over(lab: &mut Lab, fault: Fault, from: &mut Instant, report: &mut Report) -> Result<Failover> {
    let owner = loop {
        let owner = lab.calm(CALM, PATIENCE).await?;
        lab.others_are_fit(owner, PATIENCE).await?;
        let inflicted = lab.inflict(fault, owner).await;
        // On a machine that stalls for longer than a lease it moves by itself as well, and whoever had it hasn't any more.
        if lab.owner() != Some(owner) && inflicted.is_err() {
            report.unasked += 1;
            continue;
        }
        inflicted?;
        break owner;
    };
    lab.await_another(owner, PATIENCE).await?;
    // A client is answered before the fault is over, unless it is stuck; that shows in the calm.
    lab.undo(fault, owner).await?;
    let to = lab.calm(CALM, PATIENCE).await?;
    let seen = lab.observe(std::mem::replace(from, Instant::now()));
    Ok(Failover::new(fault, [owner, to], &seen))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_is_the_same_row_of_failovers_and_processes_end_in_the_last_fifth_alone() {
        let plan = Plan::new(7, 500);
        assert_eq!(plan, Plan::new(7, 500));
        assert_ne!(plan, Plan::new(8, 500));
        assert_eq!((plan.faults.len(), plan.living), (500, 400));
        let (living, ending) = plan.faults.split_at(plan.living);
        assert!(
            LIVING.iter().all(|fault| living.contains(fault)) && living.iter().all(|it| LIVING.contains(it))
        );
        assert!(
            ENDING.iter().all(|fault| ending.contains(fault)) && ending.iter().all(|it| ENDING.contains(it))
        );
    }
}
