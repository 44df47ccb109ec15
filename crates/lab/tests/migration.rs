//! The guide of docs/migrating-from-keepalived-haproxy.md, carried out: three nodes with keepalived and haproxy are given to vipd one by
//! one, with the files that `vipd convert` makes of theirs, and back, while a client asks all the time.
//!
//! They need a built vipd, beside this test's target folder or named by VIPD_BIN, and fail without one; and keepalived and haproxy.

mod enclosed;

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use enclosed::in_a_lab;
use lab::lab::Lab;
use lab::network::{NODES, nft};
use lab::process::{Launch, STOP_PATIENCE};
use lab::system::{Programs, System, Variant};
use tokio::time::Instant;

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

fn start_vipd(lab: &mut Lab, place: usize) -> Result<()> {
    let config = lab.nodes[place].folder().join("config.yaml");
    let socket = lab.nodes[place].vipd_socket();
    let mut launch = Launch::new("vipd", &Programs::default().vipd()?, ["start", "-c"]);
    launch.args.extend([config.into(), "--socket".into(), socket.clone().into()]);
    launch.leftovers.push(socket);
    lab.nodes[place].run(launch)
}

/// `systemctl stop`: SIGTERM, and waiting for the end.
async fn stop(lab: &mut Lab, place: usize, names: &[&str]) -> Result<()> {
    for name in names {
        lab.nodes[place].process(name)?.signal(rustix::process::Signal::TERM)?;
    }
    for name in names {
        lab.nodes[place].await_end(name, STOP_PATIENCE).await?;
    }
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

fn say(text: &str) {
    use std::io::Write as _;
    writeln!(std::io::stderr(), "{text}").ok();
}

/// The owner, and the two others.
fn roles(lab: &Lab) -> Result<(usize, usize, usize)> {
    let owner = lab.owner().context("nobody owns the address, or several do")?;
    let mut others = (0..NODES.len()).filter(|place| *place != owner);
    let (Some(one), Some(other)) = (others.next(), others.next()) else {
        anyhow::bail!("there are three nodes")
    };
    Ok((owner, one, other))
}

/// Steps 1 to 4 of the guide.
async fn forward(lab: &mut Lab) -> Result<()> {
    let (owner, waiting, first) = roles(lab)?;
    let from = Instant::now();
    // 1. A node without the address: one of three has no majority, so it balances and claims nothing.
    stop(lab, first, &["keepalived", "haproxy"]).await?;
    start_vipd(lab, first)?;
    lab.calm(CALM, PATIENCE).await?;
    ensure!(lab.owner() == Some(owner), "the address has left {}", NODES[owner]);
    // 2. VRRP must not answer the owner's end, so nobody else may speak it.
    stop(lab, waiting, &["keepalived"]).await?;
    lab.calm(CALM, PATIENCE).await?;
    ensure!(lab.owner() == Some(owner), "the address has left {}", NODES[owner]);
    one_owner(lab, from, "the address where it was")?;
    // 3. The move.
    let from = Instant::now();
    stop(lab, owner, &["keepalived", "haproxy"]).await?;
    start_vipd(lab, owner)?;
    lab.await_owner(PATIENCE, |_| true).await?;
    lab.calm(CALM, PATIENCE).await?;
    one_owner(lab, from, "from VRRP to vipd")?;
    // 4. The last.
    let from = Instant::now();
    stop(lab, waiting, &["haproxy"]).await?;
    start_vipd(lab, waiting)?;
    lab.calm(CALM, PATIENCE).await?;
    one_owner(lab, from, "the third vipd")
}

/// The way back.
async fn back(lab: &mut Lab) -> Result<()> {
    let (owner, waiting, first) = roles(lab)?;
    let from = Instant::now();
    // 1. Two of three are a majority.
    stop(lab, waiting, &["vipd"]).await?;
    lab.nodes[waiting].start_again("haproxy")?;
    lab.calm(CALM, PATIENCE).await?;
    one_owner(lab, from, "a vipd less")?;
    // The preferred node may have taken the address meanwhile.
    let held = lab.owner().context("nobody owns the address")?;
    let first = if held == first { owner } else { first };
    // 2. One of three is none: the owner lets go, and VRRP begins elsewhere.
    let from = Instant::now();
    stop(lab, first, &["vipd"]).await?;
    lab.nodes[first].start_again("haproxy")?;
    lab.nodes[first].start_again("keepalived")?;
    lab.await_owner(PATIENCE, |node| node == first).await?;
    lab.calm(CALM, PATIENCE).await?;
    one_owner(lab, from, "from vipd to VRRP")?;
    // 3. and 4. The rest is VRRP's own.
    stop(lab, held, &["vipd"]).await?;
    lab.nodes[held].start_again("haproxy")?;
    lab.nodes[held].start_again("keepalived")?;
    lab.nodes[waiting].start_again("keepalived")?;
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
fn keepalived_and_haproxy_are_replaced_node_by_node_and_back_with_one_owner_throughout() {
    let name = "keepalived_and_haproxy_are_replaced_node_by_node_and_back_with_one_owner_throughout";
    in_a_lab(name, async |mut lab| {
        begin(&mut lab).await?;
        forward(&mut lab).await?;
        let running: Vec<Vec<&str>> = lab.nodes.iter_mut().map(lab::node::Node::running).collect();
        let replaced = |names: &Vec<&str>| names.contains(&"vipd") && !names.contains(&"keepalived");
        ensure!(running.iter().all(replaced), "{running:?}");
        back(&mut lab).await
    });
}

/// The order for static Pods, whose start takes as long as a kubelet likes: it is no part of the gap.
#[test]
fn two_vipds_whose_votes_are_held_apart_wait_for_the_end_of_the_last_keepalived() {
    let name = "two_vipds_whose_votes_are_held_apart_wait_for_the_end_of_the_last_keepalived";
    in_a_lab(name, async |mut lab| {
        begin(&mut lab).await?;
        let (owner, waiting, first) = roles(&lab)?;
        let from = Instant::now();
        let hold = "add table inet hold\nadd chain inet hold in { type filter hook input priority -10; }\n\
                    add rule inet hold in udp dport 10000 drop\n";
        nft(Some(&lab.nodes[first].host.namespace), hold).await?;
        for place in [first, waiting] {
            stop(&mut lab, place, &["keepalived", "haproxy"]).await?;
            start_vipd(&mut lab, place)?;
        }
        lab.calm(CALM, PATIENCE).await?;
        ensure!(lab.owner() == Some(owner), "the address has left {}", NODES[owner]);
        one_owner(&lab, from, "two vipds that hear no majority")?;

        let from = Instant::now();
        stop(&mut lab, owner, &["keepalived"]).await?;
        nft(Some(&lab.nodes[first].host.namespace), "delete table inet hold\n").await?;
        lab.await_owner(PATIENCE, |node| node != owner).await?;
        lab.calm(CALM, PATIENCE).await?;
        one_owner(&lab, from, "from VRRP to vipds that run")?;

        let from = Instant::now();
        stop(&mut lab, owner, &["haproxy"]).await?;
        start_vipd(&mut lab, owner)?;
        lab.calm(CALM, PATIENCE).await?;
        one_owner(&lab, from, "the third vipd")
    });
}
