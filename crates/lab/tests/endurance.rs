//! A few of the failovers of which `vipd-lab endure` has thousands: never two owners, always one again, and nothing left behind.
//!
//! It needs a built vipd, beside this test's target folder or named by VIPD_BIN, and fails without one.

mod enclosed;

use anyhow::ensure;
use enclosed::in_a_lab;
use lab::endurance::{Plan, run};
use lab::system::{System, Timing};

/// Few, as each takes more than a second; others in each run.
const FAILOVERS: usize = 20;

#[test]
fn a_row_of_failovers_never_finds_two_owners_and_leaves_nothing_behind() {
    let name = "a_row_of_failovers_never_finds_two_owners_and_leaves_nothing_behind";
    in_a_lab(name, async |mut lab| {
        let plan = Plan::new(fastrand::u64(..), FAILOVERS);
        eprintln!("{FAILOVERS} failovers from the seed {}", plan.seed);
        let passed = run(&mut lab, System::Vipd(Timing::Default), &plan, None).await?;
        ensure!(passed, "the seed is {}", plan.seed);
        Ok(())
    });
}
