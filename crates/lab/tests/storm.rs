//! Faults in a row, drawn from a seed. The long ones are run by hand: `vipd-lab storm --faults 500`.
//!
//! It needs a built vipd, beside this test's target folder or named by VIPD_BIN, and fails without one.

#![expect(clippy::print_stderr, reason = "a seed is shown")]

mod enclosed;

use anyhow::{Result, ensure};
use enclosed::in_a_lab;
use lab::lab::Lab;
use lab::storm::{Plan, run};
use lab::system::{System, Timing};

/// Few, as each takes two seconds; another storm in each run.
const FAULTS: usize = 20;

async fn weather(lab: &mut Lab, seed: u64) -> Result<()> {
    eprintln!("{FAULTS} faults from the seed {seed}");
    let system = System::Vipd(Timing::Default);
    let plan = Plan::new(system, seed, FAULTS, None);
    ensure!(run(lab, system, &plan, None).await?, "the seed is {seed}");
    Ok(())
}

#[test]
fn a_storm_from_a_new_seed_never_finds_two_owners_and_always_one_again() {
    let name = "a_storm_from_a_new_seed_never_finds_two_owners_and_always_one_again";
    in_a_lab(name, async |mut lab| weather(&mut lab, fastrand::u64(..)).await);
}

/// Started in each order, one after the other: the last one that comes finds an owner, or is it.
#[test]
fn nodes_that_start_in_any_order_have_one_owner() {
    in_a_lab("nodes_that_start_in_any_order_have_one_owner", async |mut lab| {
        let system = System::Vipd(Timing::Default);
        lab.start_backends().await?;
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let from = tokio::time::Instant::now();
            lab.aim(system)?;
            for place in order {
                lab.start_system_on(place, system)?;
            }
            lab.set_probing(true).await?;
            lab.calm(CALM, PATIENCE).await?;
            let seen = lab.observe(from);
            ensure!(seen.answered_at_once <= 1 && seen.overlaps.is_empty(), "{order:?}: {seen:?}");
            lab.set_probing(false).await?;
            lab.remove_system().await?;
        }
        Ok(())
    });
}

const CALM: std::time::Duration = std::time::Duration::from_secs(1);
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);
