//! vipd under faults: one owner at any time, and an owner again afterwards.
//!
//! They need a built vipd, beside this test's target folder or named by VIPD_BIN, and fail without one.

mod enclosed;

use std::io::{Read as _, Write as _};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use enclosed::in_a_lab;
use lab::fault::{Fault, Observation, Trial};
use lab::lab::Lab;
use lab::network::{FRONTEND, NODES};
use lab::ownership::{Change, holders};
use lab::process::STOP_PATIENCE;
use lab::system::{System, Timing};
use rustix::process::Signal;
use tokio::time::Instant;

/// The default profile fails over within 200 ms; a loaded machine may take much longer, and calm needs a
/// second without a single late answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Nothing may have happened for this long before and after a fault.
const CALM: Duration = Duration::from_secs(1);
/// By then the kernel has taken an address off that nobody refreshes: a lifetime of one second, and its grain.
const KERNEL_FENCE: Duration = Duration::from_secs(3);

/// Backends and vipd on all nodes, probed, calm; returns the owner.
async fn bring_up(lab: &mut Lab) -> Result<usize> {
    lab.start_backends().await?;
    lab.start_system(System::Vipd(Timing::Default))?;
    lab.await_owner(PATIENCE, |_| true).await?;
    lab.set_probing(true).await?;
    lab.calm(CALM, PATIENCE).await
}

fn never_two_owners(seen: &Observation) -> Result<()> {
    ensure!(seen.overlaps.is_empty(), "two nodes held the address: {:?}", seen.overlaps);
    never_two_answers(seen)
}

fn never_two_answers(seen: &Observation) -> Result<()> {
    ensure!(seen.answered_at_once <= 1, "{} nodes answered one ARP request", seen.answered_at_once);
    Ok(())
}

/// Waits until exactly these nodes hold the virtual IP.
async fn held_by(lab: &Lab, wanted: &[usize], patience: Duration) -> Result<()> {
    let wanted = wanted.iter().copied().collect();
    let vip = lab::network::VIP.into();
    let held = lab
        .ownership
        .changes()
        .wait_for(Instant::now() + patience, |changes| (holders(changes, vip) == wanted).then_some(()));
    held.await.with_context(|| format!("held by {:?}, not by {wanted:?}, after {patience:?}", lab.holders()))
}

/// Brings the lab up and lets one fault happen to the owner.
async fn after(lab: &mut Lab, fault: Fault) -> Result<Trial> {
    bring_up(lab).await?;
    let trial = lab.trial(fault).await?;
    ensure!(trial.recovered, "not calm again: {trial:?}");
    Ok(trial)
}

#[test]
fn sigterm_hands_over_without_two_owners() {
    in_a_lab("sigterm_hands_over_without_two_owners", async |mut lab| {
        let owner = bring_up(&mut lab).await?;
        let from = Instant::now();

        lab.nodes[owner].process("vipd")?.signal(Signal::TERM)?;

        let successor = lab.await_owner(PATIENCE, |node| node != owner).await?;
        ensure!(lab.calm(CALM, PATIENCE).await? == successor);
        let status = lab.nodes[owner].await_end("vipd", STOP_PATIENCE).await?;
        ensure!(status.success(), "vipd ended with {status}");
        never_two_owners(&lab.observe(from))
    });
}

/// A client that only listens, as `kubectl logs -f` does, sends nothing that could be refused: it has to be told.
#[test]
fn a_silent_client_is_told_of_a_planned_move() {
    in_a_lab("a_silent_client_is_told_of_a_planned_move", async |mut lab| {
        let owner = bring_up(&mut lab).await?;
        let mut client = lab.client.namespace.within(|| Ok(std::net::TcpStream::connect(FRONTEND)?))?;
        // The beginning of a TLS handshake: enough to be connected to a backend.
        client.write_all(&[0x16, 0x03, 0x01])?;
        client.set_read_timeout(Some(PATIENCE))?;

        lab.nodes[owner].process("vipd")?.signal(Signal::TERM)?;
        let told = tokio::task::spawn_blocking(move || client.read(&mut [0])).await?;

        let reset = told.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
        ensure!(reset, "told {told:?}");
        lab.await_owner(PATIENCE, |node| node != owner).await?;
        Ok(())
    });
}

#[test]
fn a_rolling_restart_of_all_nodes_never_has_two_owners() {
    in_a_lab("a_rolling_restart_of_all_nodes_never_has_two_owners", async |mut lab| {
        bring_up(&mut lab).await?;
        let from = Instant::now();
        for (place, name) in NODES.iter().enumerate() {
            let graceful = lab.nodes[place].process("vipd")?.stop().await?;
            ensure!(graceful, "vipd on {name} did not end on SIGTERM");
            lab.nodes[place].start_again("vipd")?;
            lab.calm(CALM, PATIENCE).await?;
        }
        never_two_owners(&lab.observe(from))
    });
}

#[test]
fn a_killed_vipd_that_is_started_at_once_never_makes_two_owners() {
    in_a_lab("a_killed_vipd_that_is_started_at_once_never_makes_two_owners", async |mut lab| {
        let owner = bring_up(&mut lab).await?;
        let from = Instant::now();

        lab.nodes[owner].process("vipd")?.kill().await?;
        lab.nodes[owner].start_again("vipd")?;

        lab.calm(CALM, PATIENCE).await?;
        never_two_answers(&lab.observe(from))
    });
}

#[test]
fn a_partitioned_owner_loses_the_address_before_the_majority_gets_it() {
    in_a_lab("a_partitioned_owner_loses_the_address_before_the_majority_gets_it", async |mut lab| {
        let owner = bring_up(&mut lab).await?;
        let from = Instant::now();

        lab.partition(owner).await?;
        lab.await_owner(PATIENCE, |node| node != owner).await?;
        lab.calm(CALM, PATIENCE).await?;
        never_two_owners(&lab.observe(from))?;

        let healed = Instant::now();
        lab.switch.heal().await?;
        lab.calm(CALM, PATIENCE).await?;
        never_two_owners(&lab.observe(healed))
    });
}

#[test]
fn an_unplugged_owner_with_carrier_is_replaced_without_two_owners() {
    in_a_lab("an_unplugged_owner_with_carrier_is_replaced_without_two_owners", async |mut lab| {
        let owner = bring_up(&mut lab).await?;
        let from = Instant::now();

        lab.switch.set_plugged(NODES[owner], false).await?;
        lab.await_owner(PATIENCE, |node| node != owner).await?;
        lab.calm(CALM, PATIENCE).await?;
        lab.switch.set_plugged(NODES[owner], true).await?;
        lab.calm(CALM, PATIENCE).await?;

        never_two_owners(&lab.observe(from))
    });
}

#[test]
fn without_a_majority_nobody_holds_the_address() {
    in_a_lab("without_a_majority_nobody_holds_the_address", async |mut lab| {
        bring_up(&mut lab).await?;
        let from = Instant::now();

        lab.partition(0).await?;
        lab.partition(1).await?;
        held_by(&lab, &[], PATIENCE).await?;
        never_two_owners(&lab.observe(from))?;

        let healed = Instant::now();
        lab.switch.heal().await?;
        lab.await_owner(PATIENCE, |_| true).await?;
        lab.calm(CALM, PATIENCE).await?;
        never_two_owners(&lab.observe(healed))
    });
}

#[test]
fn an_owner_that_is_not_heard_is_replaced_without_two_owners() {
    in_a_lab("an_owner_that_is_not_heard_is_replaced_without_two_owners", async |mut lab| {
        let owner = bring_up(&mut lab).await?;
        let from = Instant::now();
        let others = (0..NODES.len()).filter(|node| *node != owner);

        // The owner hears the others, but they do not hear it.
        lab.switch.cut(others.map(|other| (NODES[owner].to_owned(), NODES[other].to_owned()))).await?;
        lab.await_owner(PATIENCE, |node| node != owner).await?;
        lab.calm(CALM, PATIENCE).await?;
        lab.switch.heal().await?;
        lab.calm(CALM, PATIENCE).await?;

        never_two_owners(&lab.observe(from))
    });
}

#[test]
fn an_owner_that_hears_nobody_is_replaced_without_two_owners() {
    in_a_lab("an_owner_that_hears_nobody_is_replaced_without_two_owners", async |mut lab| {
        let owner = bring_up(&mut lab).await?;
        let from = Instant::now();
        let others = (0..NODES.len()).filter(|node| *node != owner);

        lab.switch.cut(others.map(|other| (NODES[other].to_owned(), NODES[owner].to_owned()))).await?;
        lab.await_owner(PATIENCE, |node| node != owner).await?;
        lab.calm(CALM, PATIENCE).await?;
        lab.switch.heal().await?;
        lab.calm(CALM, PATIENCE).await?;

        never_two_owners(&lab.observe(from))
    });
}

#[test]
fn a_cut_between_two_nodes_does_not_take_the_service_away() {
    in_a_lab("a_cut_between_two_nodes_does_not_take_the_service_away", async |mut lab| {
        let owner = bring_up(&mut lab).await?;
        let from = Instant::now();
        let other = (owner + 1) % NODES.len();
        let (one, two) = (NODES[owner].to_owned(), NODES[other].to_owned());

        // Each of the two still has the third node: a majority on either side.
        lab.switch.cut([(one.clone(), two.clone()), (two, one)]).await?;
        lab.calm(CALM, PATIENCE).await?;
        lab.switch.heal().await?;
        lab.calm(CALM, PATIENCE).await?;

        never_two_owners(&lab.observe(from))
    });
}

#[test]
fn a_pulled_cable_moves_the_address_without_two_owners() {
    in_a_lab("a_pulled_cable_moves_the_address_without_two_owners", async |mut lab| {
        let trial = after(&mut lab, Fault::LinkDown).await?;
        never_two_owners(&trial.seen)?;
        ensure!(!trial.seen.holders.contains(&trial.owner), "{trial:?}");
        let back = Instant::now();
        lab.calm(CALM, PATIENCE).await?;
        never_two_owners(&lab.observe(back))
    });
}

#[test]
fn a_killed_owner_is_silent_before_another_answers_and_the_kernel_takes_its_address_off() {
    let name = "a_killed_owner_is_silent_before_another_answers_and_the_kernel_takes_its_address_off";
    in_a_lab(name, async |mut lab| {
        let owner = bring_up(&mut lab).await?;
        let from = Instant::now();

        lab.nodes[owner].process("vipd")?.signal(Signal::KILL)?;

        // For that long two have it, of which the one is fenced.
        gone_from(&lab, owner).await?;
        lab.await_owner(PATIENCE, |node| node != owner).await?;
        lab.calm(CALM, PATIENCE).await?;
        never_two_answers(&lab.observe(from))
    });
}

#[test]
fn a_frozen_owner_is_silent_before_another_answers_and_stays_so_when_it_thaws() {
    let name = "a_frozen_owner_is_silent_before_another_answers_and_stays_so_when_it_thaws";
    in_a_lab(name, async |mut lab| {
        // From less than a lease to more than an address's lifetime.
        for milliseconds in [50, 250, 1_000, 4_000] {
            let owner = match lab.prober() {
                None => bring_up(&mut lab).await?,
                Some(_) => lab.calm(CALM, PATIENCE).await?,
            };
            let from = Instant::now();

            lab.nodes[owner].process("vipd")?.signal(Signal::STOP)?;
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            lab.nodes[owner].process("vipd")?.signal(Signal::CONT)?;

            lab.calm(CALM, PATIENCE).await?;
            let seen = lab.observe(from);
            never_two_answers(&seen).with_context(|| format!("frozen for {milliseconds} ms: {seen:?}"))?;
        }
        Ok(())
    });
}

/// Late frames cost an owner a part of its lease, and whoever has less than all of it must not have the address for more.
#[test]
fn a_slow_cable_never_makes_two_owners() {
    in_a_lab("a_slow_cable_never_makes_two_owners", async |mut lab| {
        let mut owner = bring_up(&mut lab).await?;
        for fault in [Fault::Latency, Fault::Jitter] {
            let from = Instant::now();
            lab.inflict(fault, owner).await?;
            // As long as an election and its retries.
            tokio::time::sleep(Duration::from_secs(2)).await;
            lab.undo(fault, owner).await?;
            owner = lab.calm(CALM, PATIENCE).await?;
            never_two_owners(&lab.observe(from)).with_context(|| fault.to_string())?;
        }
        Ok(())
    });
}

/// Waits until the kernel has taken the virtual IP off a node that can't do it itself.
async fn gone_from(lab: &Lab, node: usize) -> Result<()> {
    let vip = lab::network::VIP.into();
    let gone =
        |changes: &std::collections::VecDeque<Change>| (!holders(changes, vip).contains(&node)).then_some(());
    let seen = lab.ownership.changes().wait_for(Instant::now() + KERNEL_FENCE, gone).await;
    seen.with_context(|| format!("{} still has the address after {KERNEL_FENCE:?}", NODES[node]))
}

#[test]
fn an_address_that_somebody_deletes_is_put_back() {
    in_a_lab("an_address_that_somebody_deletes_is_put_back", async |mut lab| {
        let owner = bring_up(&mut lab).await?;
        let from = Instant::now();

        ensure!(lab.nodes[owner].remove_addresses().await?);

        // 10 ms are expected.
        held_by(&lab, &[owner], Duration::from_secs(1)).await?;
        lab.calm(CALM, PATIENCE).await?;
        let seen = lab.observe(from);
        ensure!(seen.moves.is_empty(), "{:?}", seen.moves);
        never_two_owners(&seen)
    });
}

#[test]
fn a_dead_apiserver_on_the_owner_does_not_move_the_address() {
    in_a_lab("a_dead_apiserver_on_the_owner_does_not_move_the_address", async |mut lab| {
        let trial = after(&mut lab, Fault::ApiserverKilled).await?;
        ensure!(trial.seen.moves.is_empty() && trial.seen.service.good > 0, "{trial:?}");
        never_two_owners(&trial.seen)
    });
}
