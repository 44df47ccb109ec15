//! Another balancer takes the place of one that runs, with its listening sockets: nobody is refused or reset.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use lb::{Balancer, Config, Frontend, Listen};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::apply::{Traffic, echoed, free_port, greeted, until_refused};
use crate::rig::{Rig, backend, frontend, named_echo, own_ip, soon};

/// Longer than any of this takes.
const DRAIN: Duration = Duration::from_secs(60);

async fn successor(of: &Balancer, frontends: Vec<Frontend>, workers: usize) -> Balancer {
    let listeners = soon(of.configuration().listeners()).await.unwrap();
    let (_, held) = watch::channel(BTreeSet::new());
    Balancer::succeed(Config { frontends, workers }, held, listeners).unwrap()
}

#[tokio::test]
async fn connections_come_to_the_successor_without_a_gap_and_those_that_stand_go_on() {
    let server = named_echo("a").await;
    let ip = own_ip();
    let at = |ip, port| SocketAddr::new(ip, port);
    let mut config = frontend(vec![backend("a", server.address)]);
    config.listen = Listen::Addresses { ips: vec![ip], port: free_port().await };
    let port = config.listen.port().unwrap();
    // Two workers.
    let rig = Rig::judged(config.clone()).await;
    let mut traffic = Traffic::to(at(ip, port));
    let mut lasting = greeted(at(ip, port)).await.0;
    traffic.goes_on().await;

    // As many, more and fewer.
    let (mut now, mut drained) = (rig.balancer, Vec::new());
    for workers in [2, 3, 2] {
        let next = successor(&now, vec![config.clone()], workers).await;
        traffic.goes_on().await;
        drained.push(tokio::spawn(now.drain(DRAIN)));
        traffic.goes_on().await;
        echoed(&mut lasting).await;
        assert_eq!(next.status().frontends[0].listen, [at(ip, port)]);
        now = next;
    }

    let accepted = now.status().frontends[0].accepted;
    traffic.goes_on().await;
    assert!(now.status().frontends[0].accepted > accepted, "it is the last one that accepts");
    // The first one waits for the connection that it has.
    drop(lasting);
    for drained in drained {
        assert_eq!(soon(drained).await.unwrap().reset, 0);
    }
    assert!(traffic.end().await > 10);
    drop(now);
    until_refused(at(ip, port)).await;
}

#[tokio::test]
async fn the_successor_listens_where_its_own_configuration_says_and_closes_the_rest() {
    let server = named_echo("a").await;
    let (ip, kept, left) = (own_ip(), free_port().await, free_port().await);
    let on = |name: &str, listen| Frontend {
        name: name.into(),
        listen,
        ..frontend(vec![backend("a", server.address)])
    };
    let (_, held) = watch::channel(BTreeSet::new());
    let before = vec![
        on("kept", Listen::Any { port: kept }),
        on("left", Listen::Addresses { ips: vec![ip], port: left }),
    ];
    let first = Balancer::start(Config { frontends: before, workers: 2 }, held).unwrap();

    // From every address to one of them, under another name: a socket of its own beside those.
    let after = vec![on("other", Listen::Addresses { ips: vec![ip], port: kept })];
    let second = successor(&first, after, 2).await;
    assert_eq!(soon(first.drain(DRAIN)).await.reset, 0);

    assert_eq!(greeted(SocketAddr::new(ip, kept)).await.1, "a");
    assert_eq!(second.status().frontends[0].accepted, 1);
    until_refused(SocketAddr::new(ip, left)).await;
    until_refused(SocketAddr::new(own_ip(), kept)).await;
}

/// Nothing has been handed over then, and nothing is missing.
#[tokio::test]
async fn a_successor_that_gives_up_leaves_the_first_as_it_was() {
    let server = named_echo("a").await;
    let config = frontend(vec![backend("a", server.address)]);
    let rig = Rig::judged(config.clone()).await;

    drop(soon(rig.balancer.configuration().listeners()).await.unwrap());
    let mut nothing = config;
    nothing.limits.max_connections = 0;
    let listeners = soon(rig.balancer.configuration().listeners()).await.unwrap();
    let (_, held) = watch::channel(BTreeSet::new());
    Balancer::succeed(Config { frontends: vec![nothing], workers: 2 }, held, listeners).unwrap_err();

    let mut client: TcpStream = rig.connect().await;
    assert_eq!(soon(client.read_u8()).await.unwrap(), b'a');
}
