//! Steps of the wall clock, which nothing may come of. The other election's are `vipd-lab clocks --kubernetes --system vipd-lease-2`.
//!
//! It needs a built vipd beside this test's target folder (`cargo build -p vipd`), whatever VIPD_BIN says, and fails without one: a
//! static one doesn't take what shifts its clock.

mod enclosed;

use anyhow::ensure;
use enclosed::in_a_lab;
use lab::system::{System, Timing};
use lab::wall_clock::run;

/// With a lease that a busy machine keeps: what it would lose otherwise says nothing about clocks.
#[test]
fn a_wall_clock_that_steps_by_an_hour_moves_nothing() {
    in_a_lab("a_wall_clock_that_steps_by_an_hour_moves_nothing", async |mut lab| {
        ensure!(
            run(&mut lab, System::Vipd(Timing::Relaxed)).await?,
            "a step of the wall clock had an effect"
        );
        Ok(())
    });
}
