//! Every observer sees what it is there to see, and nothing else.

mod enclosed;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use enclosed::in_a_lab;
use lab::lab::Lab;
use lab::network::{BACKEND_PORT, PREFIX, VIP};
use lab::ownership::{moves, overlaps};
use lab::pki::Pki;
use lab::prober::{Attempt, Prober, Service, Target, Verdict};
use rustix::process::Signal;
use tokio::net::TcpListener;
use tokio::time::Instant;

/// What is awaited comes within milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

async fn give_vip(lab: &Lab, node: usize) -> Result<()> {
    let host = &lab.nodes[node].host;
    host.netlink.add_address(host.interface, VIP.into(), PREFIX).await
}

/// Waits until a request that left after now has been answered by exactly so many.
async fn answered_by(lab: &Lab, count: usize) -> Result<()> {
    let (now, deadline) = (Instant::now(), Instant::now() + PATIENCE);
    let seen = lab.arp.rounds().wait_for(deadline, |rounds| {
        let last = rounds.back().filter(|round| round.at > now)?;
        (last.answers.len() == count).then_some(())
    });
    seen.await.with_context(|| format!("no ARP request was answered by {count}"))
}

#[test]
fn two_owners_made_on_purpose_are_seen_by_address_and_by_arp() {
    in_a_lab("two_owners_made_on_purpose_are_seen_by_address_and_by_arp", async |lab| {
        let from = Instant::now();
        answered_by(&lab, 0).await?;
        give_vip(&lab, 0).await?;
        answered_by(&lab, 1).await?;
        ensure!(lab.owner() == Some(0));

        let both_since = Instant::now();
        give_vip(&lab, 2).await?;
        answered_by(&lab, 2).await?;
        let both_for = both_since.elapsed();
        ensure!(lab.holders() == [0, 2].into(), "{:?}", lab.holders());
        lab.nodes[0].remove_addresses().await?;
        answered_by(&lab, 1).await?;

        let seen = lab.observe(from);
        ensure!(seen.overlaps.len() == 1, "{:?}", seen.overlaps);
        let overlap = &seen.overlaps[0];
        ensure!(
            overlap.nodes == [0, 2].into() && overlap.duration >= both_for / 2,
            "{overlap:?}, {both_for:?}"
        );
        ensure!(seen.answered_at_once == 2, "{}", seen.answered_at_once);
        ensure!(!seen.answered_overlap.is_zero() && seen.owners_at_once() == 2);
        Ok(())
    });
}

#[test]
fn an_orderly_move_is_one_move_and_no_overlap() {
    in_a_lab("an_orderly_move_is_one_move_and_no_overlap", async |lab| {
        let from = Instant::now();
        give_vip(&lab, 0).await?;
        answered_by(&lab, 1).await?;
        ensure!(lab.nodes[0].remove_addresses().await?);
        answered_by(&lab, 0).await?;
        give_vip(&lab, 1).await?;
        answered_by(&lab, 1).await?;

        let changes = lab.ownership.changes().entries();
        ensure!(overlaps(&changes, from, Instant::now()).is_empty(), "{changes:?}");
        let moved = moves(&changes, VIP.into(), from);
        ensure!(moved.len() == 1 && (moved[0].from, moved[0].to) == (0, 1), "{moved:?}");
        ensure!(lab.observe(from).answered_at_once == 1);
        Ok(())
    });
}

fn apiserver_of(lab: &Lab, node: usize) -> Result<Target> {
    let address = SocketAddr::from((lab.nodes[node].host.address, BACKEND_PORT));
    Ok(Target { address, tls: lab.pki.client()? })
}

/// Waits for a good answer to an attempt that began after now.
async fn good_answer(prober: &Prober) -> Result<()> {
    let now = Instant::now();
    let good = |attempt: &&Attempt| attempt.started > now && attempt.verdict == Verdict::Ok;
    let seen = prober.attempts().wait_for(now + PATIENCE, |all| all.iter().rev().find(good).map(|_| ()));
    seen.await.context("no good answer")
}

#[test]
fn a_gap_made_on_purpose_is_measured_about_right() {
    in_a_lab("a_gap_made_on_purpose_is_measured_about_right", async |mut lab| {
        lab.start_backends().await?;
        let client = Arc::clone(&lab.client.namespace);
        let prober = Prober::start(client, apiserver_of(&lab, 0)?).await?;
        good_answer(&prober).await?;
        let quiet = Instant::now();
        good_answer(&prober).await?;
        let gap = Duration::from_secs(1);

        let from = Instant::now();
        lab.switch.set_link("master-1", false).await?;
        // The gap itself: there is no event to wait for.
        tokio::time::sleep(gap).await;
        lab.switch.set_link("master-1", true).await?;
        good_answer(&prober).await?;

        let attempts = prober.attempts().entries();
        let undisturbed = Service::between(&attempts, quiet, from);
        ensure!(undisturbed.silence < gap, "a gap where there was none: {undisturbed:?}");
        let seen = Service::between(&attempts, from, Instant::now());
        ensure!(seen.silence >= gap && seen.silence < gap * 10, "{seen:?}");
        ensure!(seen.failed.contains_key(&Verdict::ConnectTimeout), "{seen:?}");
        Ok(())
    });
}

#[test]
fn the_prober_tells_the_ways_to_fail_apart() {
    in_a_lab("the_prober_tells_the_ways_to_fail_apart", async |mut lab| {
        lab.start_backends().await?;
        let good = apiserver_of(&lab, 0)?;
        let from = |address: SocketAddr| Target { address, ..good.clone() };
        let node: Ipv4Addr = lab.nodes[0].host.address;
        let tls = tokio_rustls::TlsAcceptor::from(lab.pki.server()?);
        let listen = async |port| {
            lab.nodes[0].host.namespace.within(|| {
                let listener = std::net::TcpListener::bind((node, port))?;
                listener.set_nonblocking(true)?;
                Ok(TcpListener::from_std(listener)?)
            })
        };
        let (rude, short) = (listen(1001).await?, listen(1002).await?);
        // Closes instead of a handshake; closes instead of an answer.
        let rude = tokio::spawn(async move { while rude.accept().await.is_ok() {} });
        let short = tokio::spawn(async move {
            while let Ok((stream, _)) = short.accept().await {
                drop(tls.accept(stream).await);
            }
        });
        let stranger = Pki::create(&lab.nodes[0].folder().join("stranger"))?;
        let distrust = Target { tls: stranger.client()?, ..good.clone() };

        let cases = [
            ("a ready apiserver", good.clone(), Verdict::Ok),
            ("a closed port", from((node, 9).into()), Verdict::Refused),
            ("no route", from(([192, 0, 2, 1], 443).into()), Verdict::Unreachable),
            ("nobody has the address", from(([10, 0, 0, 99], 443).into()), Verdict::ConnectTimeout),
            ("no TLS", from((node, 1001).into()), Verdict::HandshakeFailed),
            ("another authority", distrust, Verdict::HandshakeFailed),
            ("no answer", from((node, 1002).into()), Verdict::RequestCut),
        ];
        for (name, target, expected) in cases {
            let attempt = lab.client.namespace.run(async move || Ok(target.attempt().await)).await?;
            ensure!(attempt.verdict == expected, "{name}: {attempt:?}");
        }
        lab.nodes[0].process("apiserver")?.signal(Signal::USR1)?;
        let prober = Prober::start(Arc::clone(&lab.client.namespace), good).await?;
        let unready = |attempt: &&Attempt| attempt.verdict == Verdict::BadStatus;
        let seen =
            prober.attempts().wait_for(Instant::now() + PATIENCE, |all| all.iter().find(unready).map(|_| ()));
        seen.await.context("an apiserver that is not ready was never seen as such")?;
        rude.abort();
        short.abort();
        Ok(())
    });
}

#[test]
fn a_prober_without_a_server_sees_nothing_but_silence() {
    in_a_lab("a_prober_without_a_server_sees_nothing_but_silence", async |lab| {
        let prober = Prober::start(Arc::clone(&lab.client.namespace), apiserver_of(&lab, 0)?).await?;
        let hundred = |all: &std::collections::VecDeque<Attempt>| (all.len() >= 100).then_some(());
        prober.attempts().wait_for(Instant::now() + PATIENCE, hundred).await.context("it does not probe")?;

        let attempts = prober.attempts().entries();
        let (first, last) = (attempts[0].started, attempts[attempts.len() - 1].ended);
        let seen = Service::between(&attempts, first, last);
        ensure!(seen.good == 0 && seen.failures() == seen.failed[&Verdict::Refused], "{seen:?}");
        ensure!(seen.silence == last - first, "{seen:?}");
        Ok(())
    });
}
