//! What three nodes tell over HTTP about their election, asked from another host of the segment.

mod enclosed;
mod hosts;
#[path = "../../vipd/tests/daemon/openmetrics.rs"]
mod openmetrics;
mod served;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use enclosed::in_a_lab;
use lab::lab::Lab;
use lab::network::{NODES, VIP, node_address};
use served::{PORT, start};
use tokio::time::Instant;

/// Far longer than anything here takes; a loaded machine may take longer than usual.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks a node from the client; gives the status code and the body.
fn ask(lab: &Lab, place: usize, path: &str) -> Result<(u16, String)> {
    let text = lab.client.namespace.within(|| {
        let mut stream = TcpStream::connect((node_address(place), PORT))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", NODES[place])?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })?;
    let (head, body) = text.split_once("\r\n\r\n").context("no head of an answer")?;
    Ok((head.split(' ').nth(1).context("no status code")?.parse()?, body.to_owned()))
}

type Scrape = BTreeMap<String, BTreeMap<openmetrics::Labels, f64>>;

fn scrape(lab: &Lab, place: usize) -> Result<Scrape> {
    let (code, body) = ask(lab, place, "/metrics")?;
    ensure!(code == 200, "{code}: {body}");
    let families = openmetrics::read(&body).map_err(|error| anyhow!("{error}\n{body}"))?;
    Ok(families.into_iter().map(|family| (family.name, family.samples)).collect())
}

/// The value of the sample with these labels and no others.
fn value(scrape: &Scrape, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
    let wanted = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let samples = scrape.get(name).with_context(|| format!("no {name}"))?;
    samples.get(&wanted).copied().with_context(|| format!("no {name} with {labels:?}: {samples:?}"))
}

/// Asks again and again until something holds.
async fn eventually<T>(what: &str, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look() {
            Ok(seen) => return Ok(seen),
            Err(error) if Instant::now() > deadline => return Err(error.context(what.to_owned())),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Holds when all of these nodes agree that `owner` leads and has the address.
fn agree(lab: &Lab, nodes: &[usize], owner: usize) -> Result<()> {
    for &place in nodes {
        let seen = scrape(lab, place)?;
        let own = f64::from(u8::from(place == owner));
        let labels = [("node", NODES[place]), ("lease_name", "peers")];
        ensure!(value(&seen, "kube_vip_is_leader", &labels)? == own, "{} about itself", NODES[place]);
        ensure!(value(&seen, "vipd_vip_held", &[("address", &VIP.to_string())])? == own, "{}", NODES[place]);
        ensure!(
            (value(&seen, "vipd_lease_left_seconds", &[])? > 0.0) == (place == owner),
            "{}",
            NODES[place]
        );
        ensure!(
            (seen["vipd_term"].len() == 1) == (place == owner),
            "{}: {:?}",
            NODES[place],
            seen["vipd_term"]
        );
        for (node, name) in NODES.iter().enumerate() {
            let leads = f64::from(u8::from(node == owner));
            ensure!(value(&seen, "vipd_leader", &[("node", name)])? == leads, "{} of {name}", NODES[place]);
        }
        let (code, body) = ask(lab, place, "/readyz")?;
        ensure!(code == 200, "{}: {body}", NODES[place]);
    }
    Ok(())
}

#[test]
fn three_nodes_tell_one_story_through_a_move_and_without_a_majority() {
    in_a_lab("three_nodes_tell_one_story_through_a_move_and_without_a_majority", async |mut lab| {
        lab.start_backends().await?;
        for place in 0..NODES.len() {
            start(&mut lab, place)?;
        }
        let owner = lab.await_owner(PATIENCE, |_| true).await?;
        eventually("no agreement at first", || agree(&lab, &[0, 1, 2], owner)).await?;
        let followers: Vec<usize> = (0..NODES.len()).filter(|place| *place != owner).collect();
        let transitions = |lab: &Lab, place| {
            value(
                &scrape(lab, place)?,
                "kube_vip_leader_election_transitions_total",
                &[("lease_name", "peers")],
            )
        };
        let before = transitions(&lab, followers[0])?;
        let seen = scrape(&lab, owner)?;
        for &place in &followers {
            let age = value(&seen, "vipd_peer_heard_age_seconds", &[("peer", NODES[place])])?;
            ensure!(age < PATIENCE.as_secs_f64(), "{} was heard {age} s ago", NODES[place]);
        }

        // No apiserver lives: nobody is ready for requests, and every vipd is alive.
        for place in 0..NODES.len() {
            lab.nodes[place].process("apiserver")?.kill().await?;
        }
        let dead = |lab: &Lab| -> Result<()> {
            let seen = scrape(lab, owner)?;
            let state =
                |(labels, value): (&openmetrics::Labels, &f64)| labels["state"] == "dead" && *value == 1.0;
            let count = seen["vipd_backend_state"].iter().filter(|sample| state(*sample)).count();
            ensure!(count == NODES.len(), "{count} backends are dead");
            Ok(())
        };
        eventually("the backends are not all dead", || dead(&lab)).await?;
        for (place, node) in NODES.iter().enumerate() {
            for path in ["/livez", "/healthz"] {
                ensure!(ask(&lab, place, path)? == (200, "ok".to_owned()), "{node} {path}");
            }
        }

        // The lead moves, and is counted where it was seen.
        lab.nodes[owner].terminate_owner()?;
        lab.nodes[owner].await_end("vipd", PATIENCE).await?;
        let next = lab.await_owner(PATIENCE, |node| node != owner).await?;
        eventually("no agreement after the move", || agree(&lab, &followers, next)).await?;
        let counted = transitions(&lab, followers[0])? - before;
        ensure!(counted >= 1.0, "{counted} transitions were counted");
        // Whoever got the address knows why, and how long nobody had it.
        let seen = scrape(&lab, next)?;
        let failovers = &seen["vipd_failovers_total"];
        // Without apiservers the owner may have become unfit a moment before the others did, and have gone for that.
        let of = |reason| value(&seen, "vipd_failovers_total", &[("reason", reason)]);
        ensure!(of("stopped")? + of("unfit")? >= 1.0, "{failovers:?}");
        let first = of("first")?;
        let timed = value(&seen, "vipd_failover_duration_seconds", &[("le", "+Inf")])?;
        ensure!(timed == failovers.values().sum::<f64>() - first, "{timed} of {failovers:?}");

        // One of three is no majority: alive, and not ready.
        let last = followers.iter().copied().find(|place| *place != next).context("two were left")?;
        lab.nodes[next].process("vipd")?.kill().await?;
        let alone = || -> Result<String> {
            let (code, body) = ask(&lab, last, "/readyz")?;
            ensure!(code == 503, "{code}: {body}");
            Ok(body)
        };
        let body = eventually("ready without a majority", alone).await?;
        ensure!(body.contains("[-]election failed: no leader is known\n"), "{body}");
        ensure!(ask(&lab, last, "/livez")?.0 == 200);
        Ok(())
    });
}
