//! Backends that refuse, die, drain and come back.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lb::{Ca, Check, CheckKind, Health, Policy, Timeouts};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::rig::{
    ApiServer, Rig, Server, backend, closed_address, echo, ended_by_reset, frontend, https, named_echo,
    read_name, readyz, soon, spread, status, whoami,
};

/// Only connects are tried, so that the data path is on its own.
fn unchecked() -> Check {
    Check { kind: CheckKind::None, ..Check::default() }
}

#[tokio::test]
async fn a_refused_connect_goes_to_the_next_backend_and_the_client_sees_nothing() {
    let server = named_echo("b").await;
    let mut config = frontend(vec![backend("a", closed_address().await), backend("b", server.address)]);
    config.check = unchecked();
    config.policy = Policy::RoundRobin;
    let rig = Rig::judged(config).await;

    let names = spread(&rig, 20).await;

    assert_eq!(names, [("b".to_owned(), 20)].into());
    assert_eq!(rig.backend("a").connect_failures, 10);
    assert_eq!(rig.status().refused, 0);
}

#[tokio::test]
async fn a_connect_that_is_not_answered_goes_to_the_next_backend() {
    // A full accept queue drops SYNs, as a host that has lost its power does.
    let full = std::net::TcpListener::bind(SocketAddr::new(crate::rig::own_ip(), 0)).unwrap();
    rustix::net::listen(&full, 0).unwrap();
    let address = full.local_addr().unwrap();
    let _filler = TcpStream::connect(address).await.unwrap();
    let server = named_echo("b").await;
    let mut config = frontend(vec![backend("a", address), backend("b", server.address)]);
    config.check = unchecked();
    config.policy = Policy::RoundRobin;
    config.timeouts = Timeouts { connect: Duration::from_secs(3600), ..Timeouts::default() };
    let rig = Rig::judged(config).await;

    let names = spread(&rig, 4).await;

    assert_eq!(names, [("b".to_owned(), 4)].into());
    assert_eq!(rig.backend("a").connect_failures, 2);
}

#[tokio::test]
async fn a_slow_connect_is_waited_for_when_no_other_backend_answers() {
    let slow = std::net::TcpListener::bind(SocketAddr::new(crate::rig::own_ip(), 0)).unwrap();
    rustix::net::listen(&slow, 0).unwrap();
    let address = slow.local_addr().unwrap();
    let filler = TcpStream::connect(address).await.unwrap();
    let mut config = frontend(vec![backend("slow", address), backend("gone", closed_address().await)]);
    config.check = unchecked();
    config.timeouts = Timeouts { connect: Duration::from_secs(3600), ..Timeouts::default() };
    let rig = Rig::judged(config).await;
    let mut client = rig.connect().await;

    // It was given up once, and the other one has refused.
    rig.wait(|status| status.backends.iter().all(|backend| backend.connect_failures == 1)).await;
    let (accepted, _) = slow.accept().unwrap();
    drop((accepted, filler));
    // The kernel repeats the SYN a second later, and there is room now.
    let (mut accepted, _) = soon(tokio::task::spawn_blocking(move || slow.accept())).await.unwrap().unwrap();
    io::Write::write_all(&mut accepted, b"hello").unwrap();
    let mut hello = [0; 5];
    soon(client.read_exact(&mut hello)).await.unwrap();
    assert_eq!((&hello, rig.status().refused), (b"hello", 0));
}

#[tokio::test]
async fn without_any_backend_the_client_is_reset() {
    let config = frontend(vec![backend("a", closed_address().await), backend("b", closed_address().await)]);
    let rig = Rig::judged(config).await;

    assert!(rig.resets().await);

    assert_eq!(rig.status().refused, 1);
    assert!(!*rig.balancer.usable().borrow());
}

#[tokio::test]
async fn a_killed_backend_resets_its_clients_at_once_and_new_ones_go_elsewhere() {
    let a = ApiServer::start("a", status(200)).await;
    let b = ApiServer::start("b", status(200)).await;
    let mut config = frontend(vec![a.backend(), b.backend()]);
    // No regular check comes in time: the held connection must tell.
    config.check = Check { interval: Duration::from_secs(3600), ..readyz(https, Ca::None) };
    config.policy = Policy::RoundRobin;
    let rig = Rig::judged(config).await;
    let connector = crate::rig::accept_any();
    let mut clients = Vec::new();
    for _ in 0..4 {
        let stream = rig.connect().await;
        let mut stream = soon(connector.connect("api.test".try_into().unwrap(), stream)).await.unwrap();
        stream.write_all(b"GET /whoami HTTP/1.1\r\n\r\n").await.unwrap();
        let mut answer = [0; 64];
        let length = soon(stream.read(&mut answer)).await.unwrap();
        clients.push((answer[length - 1], stream));
    }

    a.server.kill().await;

    rig.wait_health("a", Health::Dead).await;
    for (name, mut stream) in clients {
        if name == b'a' {
            let error = soon(stream.read_u8()).await.unwrap_err();
            assert!(
                matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof),
                "{error}"
            );
        } else {
            stream.write_all(b"GET /whoami HTTP/1.1\r\n\r\n").await.unwrap();
            assert!(soon(stream.read(&mut [0; 64])).await.unwrap() > 0);
        }
    }
    for _ in 0..10 {
        assert_eq!(soon(whoami(rig.connect().await)).await.unwrap(), "b");
    }
    assert_eq!(rig.backend("a").connect_failures, 0, "a dead backend is not tried while another is ready");
}

/// A backend whose accepted connections outlive it, once they have spoken: the health check's does not, and dies with its listener.
async fn survived() -> (Server, tokio::sync::mpsc::Receiver<TcpStream>) {
    let (held, holds) = tokio::sync::mpsc::channel(16);
    let server = Server::start(move |mut stream: TcpStream| {
        let held = held.clone();
        async move {
            if stream.read_u8().await.is_ok() {
                stream.write_all(b"!").await.unwrap();
                held.send(stream).await.unwrap();
            }
        }
    })
    .await;
    (server, holds)
}

/// A flow to it that is served, from its both ends.
async fn served(rig: &Rig, holds: &mut tokio::sync::mpsc::Receiver<TcpStream>) -> (TcpStream, TcpStream) {
    let mut client = rig.connect().await;
    client.write_all(b"?").await.unwrap();
    assert_eq!(soon(client.read_u8()).await.unwrap(), b'!');
    (client, soon(holds.recv()).await.unwrap())
}

#[tokio::test]
async fn a_backend_that_has_closed_its_port_answers_what_it_has_begun_and_gets_nothing_new() {
    let (ending, mut holds) = survived().await;
    let other = named_echo("b").await;
    let mut config = frontend(vec![backend("a", ending.address), backend("b", other.address)]);
    config.policy = Policy::RoundRobin;
    let rig = Rig::judged(config).await;
    let (mut client, mut kept) = served(&rig, &mut holds).await;

    // Told to end, as a kube-apiserver that still has requests.
    ending.kill().await;
    rig.wait_health("a", Health::Dead).await;

    assert_eq!(spread(&rig, 6).await, [("b".to_owned(), 6)].into());
    for _ in 0..2 {
        kept.write_all(b"answer").await.unwrap();
        let mut answer = [0; 6];
        soon(client.read_exact(&mut answer)).await.unwrap();
        client.write_all(b"more").await.unwrap();
        soon(kept.read_exact(&mut [0; 4])).await.unwrap();
    }
    drop(kept);
    assert_eq!(soon(client.read(&mut [0; 1])).await.unwrap(), 0, "the end is the backend's own");
}

#[tokio::test]
async fn what_is_left_a_while_after_the_port_was_closed_is_reset_on_both_legs() {
    // A process stuck in its exit.
    let (stuck, mut holds) = survived().await;
    let mut config = frontend(vec![backend("a", stuck.address)]);
    config.timeouts = Timeouts { closing: Duration::from_millis(200), ..Timeouts::default() };
    let rig = Rig::judged(config).await;
    let (mut client, mut kept) = served(&rig, &mut holds).await;

    stuck.kill().await;

    assert!(ended_by_reset(&mut client).await);
    assert!(ended_by_reset(&mut kept).await);
}

#[tokio::test]
async fn flows_of_a_new_process_are_not_reset_with_those_of_the_one_before() {
    let (ending, mut holds) = survived().await;
    let address = ending.address;
    let mut config = frontend(vec![backend("a", address)]);
    config.timeouts = Timeouts { closing: Duration::from_millis(500), ..Timeouts::default() };
    let rig = Rig::judged(config).await;
    let (mut client, mut kept) = served(&rig, &mut holds).await;
    ending.kill().await;
    rig.wait_health("a", Health::Dead).await;
    let successor = Server::start_at(address, echo).await;
    rig.wait_health("a", Health::Ready).await;
    let mut newer = rig.connect().await;

    assert!(ended_by_reset(&mut client).await);
    assert!(ended_by_reset(&mut kept).await);

    newer.write_all(b"x").await.unwrap();
    assert_eq!(soon(newer.read_u8()).await.unwrap(), b'x');
    drop(successor);
}

/// A backend that takes the ClientHello and then breaks, by reset or by its end.
async fn breaker(reset: bool) -> Server {
    Server::start(move |mut stream: TcpStream| async move {
        let mut hello = [0; 512];
        if stream.read(&mut hello).await.is_ok_and(|length| length > 0) && reset {
            stream.set_zero_linger().unwrap();
        }
    })
    .await
}

#[tokio::test]
async fn a_tls_handshake_that_a_dying_backend_took_is_said_again_to_another() {
    for reset in [true, false] {
        let dying = breaker(reset).await;
        let alive = ApiServer::start("b", status(200)).await;
        let mut config = frontend(vec![backend("a", dying.address), alive.backend()]);
        config.check = unchecked();
        config.policy = Policy::RoundRobin;
        let rig = Rig::judged(config).await;

        for _ in 0..6 {
            assert_eq!(soon(whoami(rig.connect().await)).await.unwrap(), "b", "reset: {reset}");
        }

        assert_eq!((dying.accepted(), rig.backend("a").retries), (3, 3), "reset: {reset}");
        rig.wait(|status| status.connections == 0).await;
    }
}

#[tokio::test]
async fn a_flow_whose_backend_breaks_before_anyone_spoke_goes_to_another() {
    // One closes politely, the other resets: what a killed process leaves depends on what had arrived.
    for reset in [true, false] {
        let dying = Server::start(move |stream: TcpStream| async move {
            if reset {
                stream.set_zero_linger().unwrap();
            }
        })
        .await;
        let alive = ApiServer::start("b", status(200)).await;
        let mut config = frontend(vec![backend("a", dying.address), alive.backend()]);
        config.check = unchecked();
        config.policy = Policy::RoundRobin;
        let rig = Rig::judged(config).await;

        for _ in 0..6 {
            assert_eq!(soon(whoami(rig.connect().await)).await.unwrap(), "b", "reset: {reset}");
        }

        assert!(rig.backend("a").retries > 0, "reset: {reset}");
    }
}

#[tokio::test]
async fn a_handshake_waiting_on_a_frozen_backend_moves_when_that_is_found_dead() {
    // It takes the hello and stays silent; its death is known only from the health check.
    let (hold, mut holds) = tokio::sync::mpsc::channel(16);
    let frozen = Server::start(move |mut stream: TcpStream| {
        let hold = hold.clone();
        async move {
            if stream.read(&mut [0; 512]).await.is_ok_and(|length| length > 0) {
                hold.send(stream).await.unwrap();
            }
        }
    })
    .await;
    let alive = ApiServer::start("b", status(200)).await;
    let mut config = frontend(vec![backend("a", frozen.address), alive.backend()]);
    config.policy = Policy::RoundRobin;
    let rig = Rig::judged(config).await;
    let clients = [rig.connect().await, rig.connect().await].map(|stream| tokio::spawn(whoami(stream)));
    let _held = soon(holds.recv()).await.unwrap();

    frozen.kill().await;

    for client in clients {
        assert_eq!(soon(client).await.unwrap().unwrap(), "b");
    }
    assert_eq!(rig.backend("a").retries, 1);
}

#[tokio::test]
async fn words_of_other_protocols_are_never_said_twice() {
    let heard = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&heard);
    let serve = move |mut stream: TcpStream| {
        let count = Arc::clone(&count);
        async move {
            if stream.read(&mut [0; 512]).await.is_ok_and(|length| length > 0) {
                count.fetch_add(1, Ordering::Relaxed);
                stream.set_zero_linger().unwrap();
            }
        }
    };
    let (a, b) = (Server::start(serve.clone()).await, Server::start(serve).await);
    let mut config = frontend(vec![backend("a", a.address), backend("b", b.address)]);
    config.check = unchecked();
    let rig = Rig::judged(config).await;

    let mut client = rig.connect().await;
    client.write_all(b"POST /pay HTTP/1.1\r\n\r\n").await.unwrap();

    assert!(ended_by_reset(&mut client).await);
    assert_eq!(heard.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_handshake_that_no_backend_answers_ends_with_a_reset_after_one_try_each() {
    let servers = [breaker(true).await, breaker(false).await, breaker(true).await];
    let names = ["a", "b", "c"];
    let mut config =
        frontend(servers.iter().zip(names).map(|(server, name)| backend(name, server.address)).collect());
    config.check = unchecked();
    let rig = Rig::judged(config).await;

    let mut client = rig.connect().await;
    client.write_all(&[0x16, 0x03, 0x01, 0x00, 0x01, 0x01]).await.unwrap();

    assert!(ended_by_reset(&mut client).await);
    assert_eq!(servers.iter().map(Server::accepted).collect::<Vec<_>>(), [1, 1, 1]);
}

#[tokio::test]
async fn a_draining_backend_keeps_its_flows_and_gets_no_new_ones() {
    let a = ApiServer::start("a", status(200)).await;
    let b = ApiServer::start("b", status(200)).await;
    let mut config = frontend(vec![a.backend(), b.backend()]);
    config.check = readyz(https, Ca::None);
    config.policy = Policy::RoundRobin;
    let rig = Rig::judged(config).await;
    let connector = crate::rig::accept_any();
    let mut clients = Vec::new();
    for _ in 0..2 {
        let stream = rig.connect().await;
        clients.push(soon(connector.connect("api.test".try_into().unwrap(), stream)).await.unwrap());
    }
    rig.wait(|status| status.backends.iter().all(|backend| backend.connections == 1)).await;

    a.answer(status(500));

    rig.wait_health("a", Health::Draining).await;
    assert_eq!(rig.backend("a").last_error.as_deref(), Some("HTTP status 500"));
    for _ in 0..10 {
        assert_eq!(soon(whoami(rig.connect().await)).await.unwrap(), "b");
    }
    for client in &mut clients {
        client.write_all(b"GET /whoami HTTP/1.1\r\n\r\n").await.unwrap();
        assert!(soon(client.read(&mut [0; 64])).await.unwrap() > 0);
    }
    a.answer(status(200));
    rig.wait_health("a", Health::Ready).await;
    assert_eq!(rig.backend("a").last_error, None);
}

#[tokio::test]
async fn when_all_are_draining_or_dead_connections_are_still_tried() {
    let a = ApiServer::start("a", status(500)).await;
    let mut config = frontend(vec![a.backend(), backend("b", closed_address().await)]);
    config.check = readyz(https, Ca::None);
    let rig = Rig::judged(config).await;
    assert_eq!((rig.backend("a").health, rig.backend("b").health), (Health::Draining, Health::Dead));

    assert_eq!(soon(whoami(rig.connect().await)).await.unwrap(), "a");
    assert!(*rig.balancer.usable().borrow());

    // Dead for the check alone: it demands another CA.
    let mut config = frontend(vec![a.backend()]);
    config.check = readyz(https, Ca::Pem(crate::rig::Identity::new(a.server.address.ip()).ca_pem));
    let rig = Rig::judged(config).await;
    assert_eq!(rig.backend("a").health, Health::Dead);
    assert_eq!(soon(whoami(rig.connect().await)).await.unwrap(), "a");
}

#[tokio::test]
async fn usable_follows_the_last_backend() {
    let server = Server::start(echo).await;
    let rig =
        Rig::judged(frontend(vec![backend("a", server.address), backend("b", closed_address().await)])).await;
    let mut usable = rig.balancer.usable();
    assert!(*usable.borrow_and_update());

    let address = server.kill().await;
    soon(usable.wait_for(|usable| !*usable)).await.unwrap();

    let _server = Server::start_at(address, echo).await;
    soon(usable.wait_for(|usable| *usable)).await.unwrap();
}

#[tokio::test]
async fn least_connections_fills_the_emptier_backend() {
    let (a, b) = (named_echo("a").await, named_echo("b").await);
    let rig = Rig::judged(frontend(vec![backend("a", a.address), backend("b", b.address)])).await;

    let mut clients = Vec::new();
    for _ in 0..40 {
        let mut client = rig.connect().await;
        read_name(&mut client).await.unwrap();
        clients.push(client);
    }

    // Of two backends both are always compared, so they never differ by more than one.
    assert_eq!((rig.backend("a").connections, rig.backend("b").connections), (20, 20));
}

#[tokio::test]
async fn round_robin_takes_turns_over_all_workers() {
    let (a, b) = (named_echo("a").await, named_echo("b").await);
    let mut config = frontend(vec![backend("a", a.address), backend("b", b.address)]);
    config.policy = Policy::RoundRobin;
    let rig = Rig::judged(config).await;

    let names = spread(&rig, 20).await;

    assert_eq!(names, [("a".to_owned(), 10), ("b".to_owned(), 10)].into());
}
