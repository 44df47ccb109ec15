//! Starting, limits, the virtual IP, draining and stopping.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::Duration;

use lb::{Balancer, Ca, CheckKind, Config, Error, Frontend, Health, Limits, Listen, Policy};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

use crate::rig::{
    Rig, Server, backend, closed_address, echo, ended_by_reset, frontend, named_echo, own_ip, read_name,
    soon, wait,
};

async fn exchange(stream: &mut TcpStream) {
    stream.write_all(b"x").await.unwrap();
    assert_eq!(soon(stream.read_u8()).await.unwrap(), b'x');
}

fn start(frontend: Frontend) -> Result<Balancer, Error> {
    let (_, held) = watch::channel(BTreeSet::new());
    Balancer::start(Config { frontends: vec![frontend], workers: 2 }, held)
}

/// A host that asks for too much doesn't take it from others.
#[tokio::test]
async fn one_client_host_has_as_many_connections_as_it_may_have_and_others_are_served() {
    let server = named_echo("a").await;
    let mut config = frontend(vec![backend("a", server.address)]);
    config.limits = Limits { max_connections: 100, per_source: NonZeroUsize::new(2) };
    let rig = Rig::judged(config).await;
    let from = async |last: u8| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 77, last], 0).into()).unwrap();
        soon(socket.connect(rig.address)).await
    };
    let (mut one, mut two) = (from(1).await.unwrap(), from(1).await.unwrap());
    assert_eq!(
        (read_name(&mut one).await.unwrap(), read_name(&mut two).await.unwrap()),
        ("a".into(), "a".into())
    );

    let third_is_reset = match from(1).await {
        Ok(mut three) => ended_by_reset(&mut three).await,
        // The reset was faster than we.
        Err(_) => true,
    };
    let mut other = from(2).await.unwrap();

    assert!(third_is_reset);
    assert_eq!(read_name(&mut other).await.unwrap(), "a");
    assert_eq!(rig.status().rejected, 1);
    drop(one);
    rig.wait(|status| status.connections == 2).await;
    assert_eq!(read_name(&mut from(1).await.unwrap()).await.unwrap(), "a");
}

#[tokio::test]
async fn flows_to_the_virtual_ip_end_when_it_leaves_and_others_go_on() {
    let server = Server::start(echo).await;
    let (vip, other) = (own_ip(), own_ip());
    let mut config = frontend(vec![backend("a", server.address)]);
    config.listen = Listen::Any { port: 0 };
    config.virtual_ips = vec![vip];
    let rig = Rig::judged(config).await;
    let port = rig.address.port();
    let mut to_vip = TcpStream::connect((vip, port)).await.unwrap();
    let mut to_host = TcpStream::connect((other, port)).await.unwrap();
    exchange(&mut to_vip).await;
    exchange(&mut to_host).await;

    rig.held.send_replace(BTreeSet::new());

    assert!(ended_by_reset(&mut to_vip).await);
    exchange(&mut to_host).await;
    // It comes back: nothing is left of the departure.
    rig.held.send_replace(BTreeSet::from([vip]));
    let mut again = TcpStream::connect((vip, port)).await.unwrap();
    exchange(&mut again).await;
    rig.held.send_replace(BTreeSet::new());
    assert!(ended_by_reset(&mut again).await);
}

#[tokio::test]
async fn of_two_virtual_ips_only_the_flows_to_the_one_that_leaves_end() {
    let server = Server::start(echo).await;
    let (stays, leaves) = (own_ip(), own_ip());
    let mut config = frontend(vec![backend("a", server.address)]);
    config.listen = Listen::Any { port: 0 };
    config.virtual_ips = vec![stays, leaves];
    let rig = Rig::judged(config).await;
    let port = rig.address.port();
    let mut to_stays = TcpStream::connect((stays, port)).await.unwrap();
    let mut to_leaves = TcpStream::connect((leaves, port)).await.unwrap();
    exchange(&mut to_stays).await;
    exchange(&mut to_leaves).await;

    rig.held.send_replace(BTreeSet::from([stays]));

    assert!(ended_by_reset(&mut to_leaves).await);
    exchange(&mut to_stays).await;
    // The one that left comes back, which is no reason to end anything.
    rig.held.send_replace(BTreeSet::from([stays, leaves]));
    let mut again = TcpStream::connect((leaves, port)).await.unwrap();
    exchange(&mut again).await;
    exchange(&mut to_stays).await;
}

#[tokio::test]
async fn a_vanished_watcher_of_the_virtual_ip_changes_nothing() {
    let server = Server::start(echo).await;
    let Rig { balancer, held, address } = Rig::judged(frontend(vec![backend("a", server.address)])).await;
    drop(held);

    let mut client = TcpStream::connect(address).await.unwrap();

    exchange(&mut client).await;
    assert_eq!(balancer.drain(Duration::ZERO).await.reset, 1);
}

#[tokio::test]
async fn every_address_of_the_host_is_served_in_both_families() {
    let server = named_echo("a").await;
    let mut config = frontend(vec![backend("a", server.address)]);
    config.listen = Listen::Any { port: 0 };
    let rig = Rig::judged(config).await;

    for ip in [own_ip(), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        match TcpStream::connect((ip, rig.address.port())).await {
            Ok(mut client) => assert_eq!(read_name(&mut client).await.unwrap(), "a"),
            Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable && ip.is_ipv6() => {
                eprintln!("SKIPPED: no IPv6 on this machine: {error}");
            }
            Err(error) => panic!("{ip}: {error}"),
        }
    }
}

#[tokio::test]
async fn an_address_that_is_not_there_yet_is_bound() {
    let absent = Listen::Addresses {
        ips: vec!["192.0.2.77".parse().unwrap(), "2001:db8::77".parse().unwrap()],
        port: 0,
    };
    let config = Frontend { listen: absent, ..frontend(vec![backend("a", closed_address().await)]) };

    let balancer = match start(config) {
        Ok(balancer) => balancer,
        Err(Error::Listen { address, source, .. }) if address.is_ipv6() => {
            return eprintln!("SKIPPED: no IPv6 on this machine: {source}");
        }
        Err(error) => panic!("{error}"),
    };

    assert_eq!(balancer.status().frontends[0].listen.len(), 2);
    assert!(balancer.status().frontends[0].listen.iter().all(|address| address.port() != 0));
}

#[tokio::test]
async fn a_taken_port_is_an_error_that_names_it_and_the_way_out() {
    let taken = TcpListener::bind((own_ip(), 0)).await.unwrap().local_addr().unwrap();
    let apiserver = TcpListener::bind(("0.0.0.0", 0)).await.unwrap();
    let port = apiserver.local_addr().unwrap().port();
    let _also = TcpListener::bind(taken).await.unwrap();
    let at = |listen| Frontend { listen, ..frontend(vec![backend("a", taken)]) };

    let any = start(at(Listen::Any { port })).unwrap_err().to_string();
    let vip = start(at(Listen::Addresses { ips: vec![own_ip()], port })).unwrap_err().to_string();
    let same =
        start(at(Listen::Addresses { ips: vec![taken.ip()], port: taken.port() })).unwrap_err().to_string();

    assert!(any.starts_with("failed to listen on "), "{any}");
    assert!(
        any.contains(&format!(":{port} for frontend api: the port is taken; give the frontend another port")),
        "{any}"
    );
    assert!(vip.contains("a kube-apiserver has on *:6443, takes the port of the virtual IP too"), "{vip}");
    assert!(same.contains(&taken.to_string()), "{same}");
}

#[tokio::test]
async fn a_second_instance_of_ourselves_is_refused() {
    for listen in [Listen::Any { port: 0 }, Listen::Addresses { ips: vec![own_ip()], port: 0 }] {
        let config =
            Frontend { listen: listen.clone(), ..frontend(vec![backend("a", closed_address().await)]) };
        let first = start(config.clone()).unwrap();
        let port = first.status().frontends[0].listen[0].port();
        let again = match listen {
            Listen::Any { .. } => Listen::Any { port },
            Listen::Addresses { ips, .. } => Listen::Addresses { ips, port },
            other @ (Listen::Nowhere | Listen::Redirected { .. } | Listen::Forwarded(_)) => other,
        };
        let config = Frontend { listen: again, ..config };

        assert!(matches!(start(config.clone()), Err(Error::AddressInUse { .. })));

        drop(first);
        drop(start(config).unwrap());
    }
}

#[tokio::test]
async fn a_frontend_that_listens_nowhere_judges_its_backends_and_can_be_drained() {
    let server = Server::start(echo).await;
    let config = Frontend { listen: Listen::Nowhere, ..frontend(vec![backend("a", server.address)]) };
    let balancer = start(config).unwrap();
    let monitor = balancer.monitor();

    wait(&monitor, |frontend| frontend.backends[0].health == Health::Ready).await;
    server.kill().await;
    wait(&monitor, |frontend| frontend.backends[0].health == Health::Dead).await;

    assert_eq!(balancer.status().frontends[0].listen, []);
    assert_eq!(soon(balancer.drain(Duration::from_secs(1))).await.reset, 0);
}

#[tokio::test]
async fn a_full_frontend_lets_connections_wait_and_serves_them_when_there_is_room() {
    let server = named_echo("a").await;
    let mut config = frontend(vec![backend("a", server.address)]);
    config.limits = Limits { max_connections: 3, per_source: None };
    let rig = Rig::judged(config).await;
    let mut served = Vec::new();
    for _ in 0..3 {
        let mut client = rig.connect().await;
        read_name(&mut client).await.unwrap();
        served.push(client);
    }

    let mut waiting = [rig.connect().await, rig.connect().await, rig.connect().await];
    for client in &mut waiting {
        let early = tokio::time::timeout(Duration::from_millis(50), client.read_u8()).await;
        assert!(early.is_err(), "a connection beyond the limit was served: {early:?}");
    }
    assert_eq!((rig.status().connections, rig.backend("a").connections), (3, 3));
    drop(served);

    for client in &mut waiting {
        assert_eq!(read_name(client).await.unwrap(), "a");
    }
}

#[tokio::test]
async fn draining_refuses_new_connections_and_lets_a_flow_end_by_itself() {
    let server = Server::start(echo).await;
    let Rig { balancer, address, .. } = Rig::judged(frontend(vec![backend("a", server.address)])).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    exchange(&mut client).await;

    let monitor = balancer.monitor();
    let drained = tokio::spawn(balancer.drain(Duration::from_secs(600)));
    let refused = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    soon(refused).await;
    exchange(&mut client).await;
    wait(&monitor, |status| status.connections == 1).await;
    client.shutdown().await.unwrap();
    assert!(!ended_by_reset(&mut client).await);

    assert_eq!(soon(drained).await.unwrap().reset, 0);
    wait(&monitor, |status| status.connections == 0).await;
}

#[tokio::test]
async fn connections_in_the_accept_queue_are_served_while_draining() {
    let server = named_echo("a").await;
    let Rig { balancer, address, .. } = Rig::judged(frontend(vec![backend("a", server.address)])).await;

    // The kernel has completed them; the workers may not have seen them yet.
    let mut clients = Vec::new();
    for _ in 0..50 {
        clients.push(TcpStream::connect(address).await.unwrap());
    }
    let drained = tokio::spawn(balancer.drain(Duration::from_secs(600)));

    for client in &mut clients {
        assert_eq!(read_name(client).await.unwrap(), "a");
    }
    drop(clients);
    assert_eq!(soon(drained).await.unwrap().reset, 0);
}

#[tokio::test]
async fn what_is_left_at_the_deadline_is_reset_on_both_legs() {
    let (ended, mut ends) = tokio::sync::mpsc::channel(16);
    let server = Server::start(move |mut stream: TcpStream| {
        let ended = ended.clone();
        async move {
            // The health check's connection says nothing and closes.
            if stream.read_u8().await.is_ok() {
                stream.write_all(b"x").await.unwrap();
                ended.send(stream.read_u8().await.map_err(|error| error.kind())).await.unwrap();
            }
        }
    })
    .await;
    let Rig { balancer, address, .. } = Rig::judged(frontend(vec![backend("a", server.address)])).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    exchange(&mut client).await;

    let drained = soon(balancer.drain(Duration::from_millis(50))).await;

    assert_eq!(drained.reset, 1);
    assert!(ended_by_reset(&mut client).await);
    assert_eq!(soon(ends.recv()).await.unwrap(), Err(std::io::ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn dropping_the_balancer_resets_its_flows_and_frees_its_port() {
    let server = Server::start(echo).await;
    let Rig { balancer, address, .. } = Rig::judged(frontend(vec![backend("a", server.address)])).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    exchange(&mut client).await;

    drop(balancer);

    assert!(ended_by_reset(&mut client).await);
    drop(TcpListener::bind(address).await.unwrap());
}

#[tokio::test]
async fn what_can_not_work_is_refused_before_anything_is_bound() {
    let good = frontend(vec![backend("a", SocketAddr::new(own_ip(), 1))]);
    let check = good.check.clone();
    let with_check = |kind| Frontend { check: lb::Check { kind, ..check.clone() }, ..good.clone() };
    let many = (0..256).map(|port| backend("a", SocketAddr::new(own_ip(), port))).collect();
    let twice = vec![good.backends[0].clone(), backend("b", good.backends[0].address)];
    let cases = [
        (Frontend { backends: twice, ..good.clone() }, "it has two backends of one address"),
        (Frontend { backends: many, ..good.clone() }, "it has more than 255 backends"),
        (
            Frontend { limits: Limits { max_connections: 0, per_source: None }, ..good.clone() },
            "it may hold no connection",
        ),
        (
            Frontend { listen: Listen::Addresses { ips: Vec::new(), port: 1 }, ..good.clone() },
            "no address to listen",
        ),
        (Frontend { slow_start: Some(Duration::ZERO), ..good.clone() }, "a slow start must be longer than 0"),
        (
            Frontend {
                timeouts: lb::Timeouts { max_age: Some(Duration::ZERO), ..good.timeouts },
                ..good.clone()
            },
            "last for longer than 0",
        ),
        (
            Frontend { policy: Policy::SourceHash, rebalance: NonZeroUsize::new(1), ..good.clone() },
            "comes back to the same",
        ),
        (Frontend { check: lb::Check { rise: 0, ..check.clone() }, ..good.clone() }, "count from 1"),
        (
            Frontend { check: lb::Check { timeout: Duration::ZERO, ..check.clone() }, ..good.clone() },
            "longer than 0",
        ),
        (
            with_check(CheckKind::Https { path: "readyz".into(), ca: Ca::None }),
            "the path of the check must begin with /",
        ),
        (with_check(CheckKind::Https { path: "/a\r\nb".into(), ca: Ca::None }), "hold no blanks"),
        (
            with_check(CheckKind::Auto { path: "/".into(), ca: Ca::Pem(b"no pem".to_vec()) }),
            "it holds no certificate",
        ),
    ];
    for (config, reason) in cases {
        let error = start(config).unwrap_err().to_string();
        assert!(error.contains(reason) && error.contains("frontend api"), "{error}");
    }
    let (_, held) = watch::channel(BTreeSet::new());
    let none = Balancer::start(Config { frontends: vec![good], workers: 0 }, held);
    assert!(matches!(none, Err(Error::NoWorkers)));
}
