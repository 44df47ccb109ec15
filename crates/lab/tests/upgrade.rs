//! A cluster that is upgraded node by node, and goes back, with the owner killed in each mixture (`vipd-lab upgrade`).
//!
//! VIPD_OLD_BIN names the version before, without which there is nothing to see. It needs a built vipd, beside this test's target folder
//! or named by VIPD_BIN.

mod enclosed;

use anyhow::ensure;
use enclosed::in_a_lab;
use lab::system::{Programs, System, Timing};
use lab::upgrade::{Versions, run};

#[test]
fn a_rolling_upgrade_and_the_way_back_never_find_two_owners() {
    let Some(old) = std::env::var_os("VIPD_OLD_BIN") else {
        eprintln!(
            "SKIPPED: VIPD_OLD_BIN names no version of vipd before this one, and this machine has none"
        );
        return;
    };
    in_a_lab("a_rolling_upgrade_and_the_way_back_never_find_two_owners", async |mut lab| {
        let from = Programs { vipd: Some(old.into()) }.vipd()?;
        let versions = Versions { from, to: Programs::default().vipd()? };
        ensure!(run(&mut lab, System::Vipd(Timing::Default), &versions).await?, "what failed is told above");
        Ok(())
    });
}
