//! Each attack of `vipd-lab attack` once: the address is where it should be, nobody else answers for it, and all is well again without a
//! hand.
//!
//! It needs a built vipd, beside this test's target folder or named by VIPD_BIN, and fails without one.

mod enclosed;

use std::time::Duration;

use anyhow::ensure;
use enclosed::in_a_lab;
use lab::attack::{Attack, Plan, run};
use lab::system::{System, Timing};

/// Long enough for twenty-five leases of the default profile.
const LASTS: Duration = Duration::from_secs(4);

fn withstands(test: &str, attacks: &[Attack]) {
    stands(test, System::Vipd(Timing::Default), attacks);
}

fn stands(test: &str, system: System, attacks: &[Attack]) {
    in_a_lab(test, async |mut lab| {
        let plan = Plan { attacks: attacks.to_vec(), tries: 1, lasts: LASTS };
        ensure!(run(&mut lab, system, &plan).await?, "what failed is told above");
        Ok(())
    });
}

#[test]
fn floods_of_datagrams_and_of_connections_move_nothing() {
    withstands(
        "floods_of_datagrams_and_of_connections_move_nothing",
        &[Attack::Forged, Attack::Strangers, Attack::Replayed, Attack::SynFlood],
    );
}

#[test]
fn a_station_that_claims_the_address_and_a_crowd_that_lingers_move_nothing() {
    withstands(
        "a_station_that_claims_the_address_and_a_crowd_that_lingers_move_nothing",
        &[Attack::Spoofed, Attack::SlowLoris],
    );
}

#[test]
fn an_owner_whose_interface_kernel_or_disk_fails_it_keeps_the_address_or_hands_it_over() {
    withstands(
        "an_owner_whose_interface_kernel_or_disk_fails_it_keeps_the_address_or_hands_it_over",
        &[Attack::Mtu, Attack::TinyMtu, Attack::Renamed, Attack::Overrun, Attack::DiskFull],
    );
}

/// The kernel remembers each connection that is begun, and gives it a port towards a backend, as long as its handshake may go on.
#[test]
fn a_flood_of_connections_takes_the_kernels_path_from_nobody() {
    stands(
        "a_flood_of_connections_takes_the_kernels_path_from_nobody",
        System::VipdKernel,
        &[Attack::SynFlood],
    );
}
