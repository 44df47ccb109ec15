//! The network of the lab does what its drawing says.

mod enclosed;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use enclosed::in_a_lab;
use futures_util::TryStreamExt as _;
use lab::delay::Slowness;
use lab::lab::Lab;
use lab::network::Host;
use rtnetlink::packet_route::link::LinkFlags;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::{Instant, timeout};

/// An answer takes microseconds, the first one with its ARP.
const PATIENCE: Duration = Duration::from_secs(5);
/// What does not come within this does not come.
const SILENCE: Duration = Duration::from_millis(400);

fn hosts(lab: &Lab) -> Vec<&Host> {
    lab.nodes.iter().map(|node| &node.host).chain([&lab.client, &lab.onlooker]).collect()
}

/// Whether a host answers: a connection to a port where nobody listens is refused by its kernel.
async fn reaches(from: &Host, to: IpAddr, patience: Duration) -> Result<bool> {
    let closed_port = SocketAddr::from((to, 9));
    let attempt = async move || Ok(timeout(patience, TcpStream::connect(closed_port)).await);
    let answer = from.namespace.run(attempt).await?;
    Ok(matches!(answer, Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused))
}

async fn has_carrier(host: &Host) -> Result<bool> {
    let mut links = host.netlink.handle().link().get().match_index(host.interface).execute();
    let link = links.try_next().await?.context("the interface is there")?;
    Ok(link.header.flags.contains(LinkFlags::LowerUp))
}

#[test]
fn every_host_reaches_every_other_by_ipv4_and_ipv6() {
    in_a_lab("every_host_reaches_every_other_by_ipv4_and_ipv6", async |lab| {
        for from in hosts(&lab) {
            for to in hosts(&lab) {
                for address in [IpAddr::from(to.address), to.address6().into()] {
                    let name = from.namespace.name();
                    ensure!(reaches(from, address, PATIENCE).await?, "{name} does not reach {address}");
                }
            }
        }
        Ok(())
    });
}

#[test]
fn a_link_that_goes_down_takes_the_carrier_and_gives_it_back() {
    in_a_lab("a_link_that_goes_down_takes_the_carrier_and_gives_it_back", async |lab| {
        let node = &lab.nodes[0].host;
        ensure!(has_carrier(node).await?);

        lab.switch.set_link("master-1", false).await?;
        ensure!(!has_carrier(node).await?, "the carrier stays");
        ensure!(!reaches(&lab.client, node.address.into(), SILENCE).await?, "it is still reached");

        lab.switch.set_link("master-1", true).await?;
        ensure!(has_carrier(node).await?, "the carrier does not come back");
        ensure!(reaches(&lab.client, node.address.into(), PATIENCE).await?, "it is not reached again");
        Ok(())
    });
}

#[test]
fn an_unplugged_node_keeps_its_carrier_but_is_not_reached() {
    in_a_lab("an_unplugged_node_keeps_its_carrier_but_is_not_reached", async |lab| {
        let node = &lab.nodes[1].host;

        lab.switch.set_plugged("master-2", false).await?;
        ensure!(has_carrier(node).await?, "the carrier went");
        ensure!(!reaches(&lab.client, node.address.into(), SILENCE).await?, "it is still reached");

        lab.switch.set_plugged("master-2", true).await?;
        ensure!(reaches(&lab.client, node.address.into(), PATIENCE).await?, "it is not reached again");
        Ok(())
    });
}

#[test]
fn a_partitioned_node_reaches_the_client_but_no_node() {
    in_a_lab("a_partitioned_node_reaches_the_client_but_no_node", async |mut lab| {
        lab.partition(2).await?;
        let cut = &lab.nodes[2].host;
        ensure!(reaches(cut, lab.client.address.into(), PATIENCE).await?, "it does not reach the client");
        for other in [0, 1] {
            let other = &lab.nodes[other].host;
            ensure!(!reaches(cut, other.address.into(), SILENCE).await?, "it reaches {:?}", other.address);
            ensure!(!reaches(other, cut.address.into(), SILENCE).await?, "{:?} reaches it", other.address);
            ensure!(
                !reaches(cut, other.address6().into(), SILENCE).await?,
                "it reaches {:?}",
                other.address6()
            );
        }
        ensure!(reaches(&lab.nodes[0].host, lab.nodes[1].host.address.into(), PATIENCE).await?);

        lab.switch.heal().await?;
        let (cut, other) = (&lab.nodes[2].host, &lab.nodes[0].host);
        ensure!(reaches(cut, other.address.into(), PATIENCE).await?, "the cut is not healed");
        Ok(())
    });
}

#[test]
fn a_one_way_cut_drops_one_direction_only() {
    in_a_lab("a_one_way_cut_drops_one_direction_only", async |mut lab| {
        let socket = |host: &Host| {
            let address = SocketAddr::from((host.address, 7777));
            host.namespace.within(move || {
                let socket = std::net::UdpSocket::bind(address)?;
                socket.set_nonblocking(true)?;
                Ok(Arc::new(UdpSocket::from_std(socket)?))
            })
        };
        let (one, two) = (socket(&lab.nodes[0].host)?, socket(&lab.nodes[1].host)?);
        let arrives = async |from: &UdpSocket, to: &UdpSocket, patience: Duration| -> Result<bool> {
            from.send_to(b"hello", to.local_addr()?).await?;
            Ok(timeout(patience, to.recv(&mut [0; 16])).await.is_ok())
        };
        // Both learn the other's Ethernet address while they can.
        ensure!(arrives(&one, &two, PATIENCE).await? && arrives(&two, &one, PATIENCE).await?);

        lab.switch.cut([("master-1".to_owned(), "master-2".to_owned())]).await?;

        ensure!(!arrives(&one, &two, SILENCE).await?, "the cut direction lets frames through");
        ensure!(arrives(&two, &one, PATIENCE).await?, "the other direction is cut too");
        Ok(())
    });
}

#[test]
fn the_network_is_up_in_seconds_at_most() {
    let began = Instant::now();
    in_a_lab("the_network_is_up_in_seconds_at_most", async |_lab| Ok(()));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

/// Sends so many octets from one host to another and gives the time from the first to the last; they must arrive as they were.
async fn transfer(from: &Host, to: &Host, octets: usize) -> Result<Duration> {
    let address = SocketAddr::from((to.address, 9));
    let listener = to.namespace.within(|| {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(TcpListener::from_std(listener)?)
    })?;
    let sent: Vec<u8> = (0..octets).map(|place| u8::try_from(place % 251).unwrap_or_default()).collect();
    let copy = sent.clone();
    let began = Instant::now();
    let send = from.namespace.run(async move || {
        TcpStream::connect(address).await?.write_all(&copy).await?;
        Ok(())
    });
    let receive = async {
        let mut received = Vec::new();
        listener.accept().await?.0.read_to_end(&mut received).await?;
        ensure!(received == sent, "{} octets came, not as they were sent", received.len());
        Ok(())
    };
    tokio::try_join!(send, receive)?;
    Ok(began.elapsed())
}

/// Longer than one piece of the kernel's segmentation, so that whole ones pass the slow cable.
const LARGE: usize = 1 << 20;

#[test]
fn a_slow_cable_holds_frames_back_either_way_loses_none_and_can_be_made_fast_again() {
    let name = "a_slow_cable_holds_frames_back_either_way_loses_none_and_can_be_made_fast_again";
    in_a_lab(name, async |mut lab| {
        let slow = Duration::from_millis(200);
        let slowness = Slowness { latency: slow, jitter: Duration::ZERO };
        lab.switch.delay("master-1", slowness).await?;
        ensure!(lab.switch.delay("master-1", slowness).await.is_err(), "made slow twice");
        ensure!(has_carrier(&lab.nodes[0].host).await?, "the carrier went");
        // An octet needs a handshake before it: three ways, and four with the address.
        for (from, to) in [(&lab.client, &lab.nodes[0].host), (&lab.nodes[0].host, &lab.client)] {
            ensure!(transfer(from, to, 1).await? >= 3 * slow, "too fast");
            transfer(from, to, LARGE).await?;
        }
        // Cuts are for the port that the switch has in the meantime.
        lab.switch.cut([("client".to_owned(), "master-1".to_owned())]).await?;
        ensure!(
            !reaches(&lab.client, lab.nodes[0].host.address.into(), 6 * slow).await?,
            "reached past a cut"
        );

        lab.switch.heal().await?;
        let took = transfer(&lab.client, &lab.nodes[0].host, 1).await?;
        ensure!(took < 3 * slow, "still slow: {took:?}");
        let jitter = Slowness { latency: Duration::ZERO, jitter: Duration::from_millis(5) };
        lab.switch.delay("master-2", jitter).await?;
        transfer(&lab.client, &lab.nodes[1].host, LARGE).await?;
        Ok(())
    });
}
