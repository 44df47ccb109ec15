//! keepalived and haproxy on three nodes are given to vipd one by one, with the files that `vipd convert` makes of theirs, and back.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lab::lab::Lab;
use lab::network::{NODES, nft};
use lab::system::{Programs, System, Variant};
use tokio::time::Instant;

use crate::enclosed::in_a_lab;
use crate::guide::{Step, carry_out, start_vipd, stop, table};
use crate::say;

const GUIDE: &str = include_str!("../../../../docs/migrating-from-keepalived-haproxy.md");

/// keepalived's election takes 3.6 s; a loaded machine may take much longer.
const PATIENCE: Duration = Duration::from_secs(120);
/// For so long nothing moves and every request is answered, before the next step.
const CALM: Duration = Duration::from_secs(2);
/// The longest silence at any step. A planned move takes the end of one program and the start of the other, and an election, a few seconds
/// together; a machine that is busy with other work takes longer for everything.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Writes a node's config.yaml, from the very files that its keepalived and haproxy run by.
fn convert(lab: &Lab, place: usize) -> Result<()> {
    let folder = lab.nodes[place].folder();
    let output = Command::new(Programs::default().vipd()?)
        .args(["convert", "keepalived.conf", "haproxy.cfg", "--node", NODES[place]])
        .current_dir(folder)
        .output()?;
    let report = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(0), "{}: {report}", NODES[place]);
    // What is shown is the order of the steps. On a host that stalls for longer than a lease the address moves without one.
    let document = format!("{}timing: relaxed\n", String::from_utf8(output.stdout)?);
    std::fs::write(folder.join("config.yaml"), document)?;
    Ok(())
}

/// What has been seen since, with one owner at a time throughout.
fn one_owner(lab: &Lab, from: Instant, what: &str) -> Result<()> {
    let seen = lab.observe(from);
    say(&format!("{what}: silent for {} ms, {} moves", seen.service.silence.as_millis(), seen.moves.len()));
    ensure!(seen.overlaps.is_empty(), "{what}: two nodes had the address: {:?}", seen.overlaps);
    ensure!(seen.answered_at_once <= 1, "{what}: {} nodes answered", seen.answered_at_once);
    ensure!(seen.service.good > 0, "{what}: nobody was asked");
    ensure!(seen.service.silence <= SILENCE_MAX, "{what}: silent for {:?}", seen.service.silence);
    Ok(())
}

/// Which nodes the guide means.
struct Roles {
    /// O, which has the address when the steps begin.
    owner: usize,
    /// W.
    waiting: usize,
    /// F.
    first: usize,
}

impl Roles {
    fn of(lab: &Lab) -> Result<Self> {
        let owner = lab.owner().context("nobody owns the address, or several do")?;
        let mut others = (0..NODES.len()).filter(|place| *place != owner);
        let (Some(waiting), Some(first)) = (others.next(), others.next()) else {
            anyhow::bail!("there are three nodes")
        };
        Ok(Self { owner, waiting, first })
    }

    async fn carry_out(&self, lab: &mut Lab, step: &Step) -> Result<()> {
        let place = match step.host.as_str() {
            "O" => self.owner,
            "W" => self.waiting,
            "F" => self.first,
            other => anyhow::bail!("who is {other}?"),
        };
        carry_out(&mut lab.nodes[place], &step.commands).await
    }
}

/// The guide's steps to vipd.
async fn forward(lab: &mut Lab) -> Result<()> {
    let roles = Roles::of(lab)?;
    let steps = table(GUIDE, "\n## Setup A")?;
    let [one, two, three, four] = &steps[..] else { anyhow::bail!("four steps: {steps:?}") };
    let from = Instant::now();
    // A node without the address: one of three has no majority, so it balances and claims nothing. Then VRRP must not answer the owner's
    // end, so nobody else may speak it.
    for step in [one, two] {
        roles.carry_out(lab, step).await?;
        lab.calm(CALM, PATIENCE).await?;
        ensure!(lab.owner() == Some(roles.owner), "the address has left {}", NODES[roles.owner]);
    }
    one_owner(lab, from, "the address where it was")?;
    let from = Instant::now();
    roles.carry_out(lab, three).await?;
    lab.await_owner(PATIENCE, |_| true).await?;
    lab.calm(CALM, PATIENCE).await?;
    one_owner(lab, from, "from VRRP to vipd")?;
    let from = Instant::now();
    roles.carry_out(lab, four).await?;
    lab.calm(CALM, PATIENCE).await?;
    one_owner(lab, from, "the third vipd")
}

/// The way back.
async fn back(lab: &mut Lab) -> Result<()> {
    let mut roles = Roles::of(lab)?;
    let steps = table(GUIDE, "\n**Back again**")?;
    let [one, two, three, four] = &steps[..] else { anyhow::bail!("four steps: {steps:?}") };
    let from = Instant::now();
    // Two of three are a majority.
    roles.carry_out(lab, one).await?;
    lab.calm(CALM, PATIENCE).await?;
    one_owner(lab, from, "a vipd less")?;
    // The preferred node may have taken the address meanwhile.
    let held = lab.owner().context("nobody owns the address")?;
    if held == roles.first {
        std::mem::swap(&mut roles.first, &mut roles.owner);
    }
    // One of three is none: the owner lets go, and VRRP begins elsewhere.
    let from = Instant::now();
    roles.carry_out(lab, two).await?;
    lab.await_owner(PATIENCE, |node| node == roles.first).await?;
    lab.calm(CALM, PATIENCE).await?;
    one_owner(lab, from, "from vipd to VRRP")?;
    // The rest is VRRP's own.
    roles.carry_out(lab, three).await?;
    roles.carry_out(lab, four).await?;
    lab.calm(Duration::from_secs(5), PATIENCE).await?;
    Ok(())
}

/// Three nodes with keepalived and haproxy, calm, and the files for vipd beside theirs.
async fn begin(lab: &mut Lab) -> Result<()> {
    lab.start_backends().await?;
    lab.start_system(System::Keepalived(Variant::AsDocumented))?;
    lab.await_owner(PATIENCE, |_| true).await?;
    lab.set_probing(true).await?;
    lab.calm(Duration::from_secs(6), PATIENCE).await?;
    (0..NODES.len()).try_for_each(|place| convert(lab, place))
}

#[test]
fn both_are_replaced_node_by_node_and_back_with_one_owner_throughout() {
    let name = "keepalived::both_are_replaced_node_by_node_and_back_with_one_owner_throughout";
    in_a_lab(name, async |mut lab| {
        begin(&mut lab).await?;
        forward(&mut lab).await?;
        let running: Vec<Vec<&str>> = lab.nodes.iter_mut().map(lab::node::Node::running).collect();
        let replaced = |names: &Vec<&str>| names.contains(&"vipd") && !names.contains(&"keepalived");
        ensure!(running.iter().all(replaced), "{running:?}");
        back(&mut lab).await
    });
}

/// The order for static Pods, whose start takes as long as a kubelet likes: it is no part of the gap. `tests/kube/life` has the Pods.
#[test]
fn two_vipds_whose_votes_are_held_apart_wait_for_the_end_of_the_last_keepalived() {
    let name = "keepalived::two_vipds_whose_votes_are_held_apart_wait_for_the_end_of_the_last_keepalived";
    in_a_lab(name, async |mut lab| {
        begin(&mut lab).await?;
        let Roles { owner, waiting, first } = Roles::of(&lab)?;
        let from = Instant::now();
        let hold = "add table inet hold\nadd chain inet hold in { type filter hook input priority -10; }\n\
                    add rule inet hold in udp dport 10000 drop\n";
        nft(Some(&lab.nodes[first].host.namespace), hold).await?;
        for place in [first, waiting] {
            stop(&mut lab.nodes[place], &["keepalived", "haproxy"]).await?;
            start_vipd(&mut lab.nodes[place])?;
        }
        lab.calm(CALM, PATIENCE).await?;
        ensure!(lab.owner() == Some(owner), "the address has left {}", NODES[owner]);
        one_owner(&lab, from, "two vipds that hear no majority")?;

        let from = Instant::now();
        stop(&mut lab.nodes[owner], &["keepalived"]).await?;
        nft(Some(&lab.nodes[first].host.namespace), "delete table inet hold\n").await?;
        lab.await_owner(PATIENCE, |node| node != owner).await?;
        lab.calm(CALM, PATIENCE).await?;
        one_owner(&lab, from, "from VRRP to vipds that run")?;

        let from = Instant::now();
        stop(&mut lab.nodes[owner], &["haproxy"]).await?;
        start_vipd(&mut lab.nodes[owner])?;
        lab.calm(CALM, PATIENCE).await?;
        one_owner(&lab, from, "the third vipd")
    });
}
