//! Backends that come, stay, leave and come back while the balancer runs.

use std::net::SocketAddr;
use std::time::Duration;

use lb::{Backend, Check, CheckKind, Health, Policy, SetBackendsError, Timeouts};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::rig::{
    Rig, Server, backend, closed_address, echo, ended_by_reset, exchange, flow, frontend, named, once,
    own_ip, read_name, soon, spread, until,
};

/// A rig over these backends, checked once.
async fn rig(backends: &[Backend]) -> Rig {
    let mut config = frontend(backends.to_vec());
    config.check = once();
    Rig::judged(config).await
}

/// A flow to the backend of this name, however many have to be tried.
async fn flow_to(rig: &Rig, name: &str) -> TcpStream {
    loop {
        let mut client = rig.connect().await;
        if read_name(&mut client).await.unwrap() == name {
            return client;
        }
    }
}

fn names(rig: &Rig) -> Vec<(String, bool)> {
    rig.status().backends.into_iter().map(|backend| (backend.name, backend.leaving)).collect()
}

#[tokio::test]
async fn a_backend_that_comes_is_checked_at_once_and_gets_its_share() {
    let ((_a, a), (_b, b)) = (named("a").await, named("b").await);
    let mut config = frontend(vec![a.clone()]);
    config.check = once();
    config.policy = Policy::RoundRobin;
    let rig = Rig::judged(config).await;
    let before = *rig.balancer.monitor().changes().borrow();

    rig.set(&[a, b, backend("c", closed_address().await)]);

    rig.wait_health("b", Health::Ready).await;
    rig.wait_health("c", Health::Dead).await;
    assert!(*rig.balancer.monitor().changes().borrow() > before);
    assert_eq!(spread(&rig, 20).await, [("a".to_owned(), 10), ("b".to_owned(), 10)].into());
}

#[tokio::test]
async fn a_backend_that_stays_keeps_its_flow_its_counts_and_its_check() {
    let ((server, a), (_b, b)) = (named("a").await, named("b").await);
    let rig = rig(std::slice::from_ref(&a)).await;
    let mut client = flow(&rig, "a").await;
    exchange(&mut client).await;
    let before = rig.backend("a");

    let renamed = backend("renamed", a.address);
    for set in [&[b.clone(), a.clone()][..], &[a], &[b, renamed]] {
        rig.set(set);
        exchange(&mut client).await;
    }

    rig.wait_health("b", Health::Ready).await;
    assert_eq!(names(&rig), [("b".to_owned(), false), ("renamed".to_owned(), false)]);
    let after = rig.backend("renamed");
    assert_eq!((after.health, after.since), (before.health, before.since));
    assert_eq!((after.connections, after.total), (1, 1));
    assert_eq!((before.bytes_to_backend, after.bytes_to_backend), (1, 4));
    // The flow and the one check: nothing was opened again.
    assert_eq!((server.accepted(), server.open()), (2, 2));
}

#[tokio::test]
async fn least_connections_goes_on_counting_what_stays() {
    let ((_a, a), (_b, b)) = (named("a").await, named("b").await);
    let rig = rig(std::slice::from_ref(&a)).await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(flow(&rig, "a").await);
    }

    rig.set(&[a, b]);
    rig.wait_health("b", Health::Ready).await;

    for _ in 0..10 {
        clients.push(flow(&rig, "b").await);
    }
    assert_eq!((rig.backend("a").connections, rig.backend("b").connections), (10, 10));
}

#[tokio::test]
async fn a_backend_that_leaves_keeps_its_flows_and_gets_no_new_ones_from_that_moment() {
    let ((server, a), (_b, b)) = (named("a").await, named("b").await);
    let rig = rig(std::slice::from_ref(&a)).await;
    let mut clients = [flow(&rig, "a").await, flow(&rig, "a").await];

    rig.set(&[b]);

    // Not even while the new one has not been checked.
    assert_eq!(spread(&rig, 50).await, [("b".to_owned(), 50)].into());
    assert_eq!(names(&rig), [("b".to_owned(), false), ("a".to_owned(), true)]);
    assert_eq!((rig.backend("a").connections, rig.backend("a").total), (2, 2));
    for client in &mut clients {
        exchange(client).await;
    }
    let [mut first, second] = clients;
    first.shutdown().await.unwrap();
    assert!(!ended_by_reset(&mut first).await);
    rig.wait(|status| status.backends[1].connections == 1).await;
    // The other flow, and the check that watches over it.
    until(|| server.open() == 2).await;
    drop(second);
    rig.wait(|status| status.backends.len() == 1).await;
    until(|| server.open() == 0).await;
    assert_eq!(server.accepted(), 3, "no check was begun after it had left");
}

#[tokio::test]
async fn a_backend_without_flows_is_gone_at_once_and_so_is_its_check() {
    for kind in [CheckKind::Tcp, CheckKind::None] {
        let ((server, a), (_b, b)) = (named("a").await, named("b").await);
        let mut config = frontend(vec![a, b.clone()]);
        config.check = Check { kind, ..once() };
        let rig = Rig::judged(config).await;

        rig.set(&[b]);

        assert_eq!(names(&rig), [("b".to_owned(), false)]);
        until(|| server.open() == 0).await;
    }
}

#[tokio::test]
async fn flows_of_a_backend_that_has_left_are_reset_when_it_is_found_dead() {
    // Its listener closes, but what it has accepted stays open and never speaks: only the check can tell.
    let (held, mut holds) = tokio::sync::mpsc::channel(16);
    let dying = Server::start(move |mut stream: TcpStream| {
        let held = held.clone();
        async move {
            if stream.read_u8().await.is_ok() {
                stream.write_all(b"!").await.unwrap();
                held.send(stream).await.unwrap();
            }
        }
    })
    .await;
    let (_b, b) = named("b").await;
    let mut config = frontend(vec![backend("a", dying.address)]);
    config.check = once();
    config.timeouts = Timeouts { closing: Duration::from_millis(200), ..Timeouts::default() };
    let rig = Rig::judged(config).await;
    let mut client = rig.connect().await;
    client.write_all(b"?").await.unwrap();
    assert_eq!(soon(client.read_u8()).await.unwrap(), b'!');
    let mut kept = soon(holds.recv()).await.unwrap();
    rig.set(&[b]);
    rig.wait_health("b", Health::Ready).await;
    let mut other = flow(&rig, "b").await;
    assert_eq!(rig.backend("a").connections, 1);

    dying.kill().await;

    assert!(ended_by_reset(&mut client).await);
    assert!(ended_by_reset(&mut kept).await);
    rig.wait(|status| status.backends.len() == 1).await;
    exchange(&mut other).await;
    assert!(*rig.balancer.usable().borrow(), "one that has left does not count");
}

#[tokio::test]
async fn a_backend_comes_back_as_itself_while_a_flow_is_open_and_as_a_new_one_after() {
    let ((server, a), (_b, b)) = (named("a").await, named("b").await);
    let rig = rig(std::slice::from_ref(&a)).await;
    let mut client = flow(&rig, "a").await;
    let before = rig.backend("a");
    rig.set(std::slice::from_ref(&b));
    assert!(rig.backend("a").leaving);

    rig.set(std::slice::from_ref(&a));

    exchange(&mut client).await;
    let back = rig.backend("a");
    assert_eq!((back.leaving, back.health, back.since), (false, Health::Ready, before.since));
    assert_eq!((back.connections, back.total), (1, 1));
    drop(flow(&rig, "a").await);
    assert_eq!(server.accepted(), 3, "two flows and one check");

    drop(client);
    rig.wait(|status| status.connections == 0).await;
    rig.set(std::slice::from_ref(&b));
    assert_eq!(names(&rig), [("b".to_owned(), false)]);
    rig.set(&[a]);
    rig.wait_health("a", Health::Ready).await;
    assert_eq!(rig.backend("a").total, 0);
    drop(flow(&rig, "a").await);
}

#[tokio::test]
async fn without_backends_clients_are_refused_until_there_are_some() {
    let (_a, a) = named("a").await;
    let rig = rig(std::slice::from_ref(&a)).await;
    let mut usable = rig.balancer.usable();
    let mut client = flow(&rig, "a").await;

    rig.set(&[]);

    assert!(rig.resets().await);
    assert_eq!(rig.status().refused, 1);
    soon(usable.wait_for(|usable| !*usable)).await.unwrap();
    exchange(&mut client).await;

    rig.set(&[a]);

    soon(usable.wait_for(|usable| *usable)).await.unwrap();
    drop(flow(&rig, "a").await);
    exchange(&mut client).await;
    assert_eq!(rig.status().refused, 1);
}

#[tokio::test]
async fn a_frontend_may_be_started_without_backends() {
    let (_a, a) = named("a").await;
    let rig = rig(&[]).await;
    let mut usable = rig.balancer.usable();
    assert!(!*usable.borrow_and_update());
    assert!(rig.resets().await);

    rig.set(&[backend("dead", closed_address().await)]);
    rig.wait_health("dead", Health::Dead).await;
    soon(usable.wait_for(|usable| !*usable)).await.unwrap();
    rig.set(&[a]);

    soon(usable.wait_for(|usable| *usable)).await.unwrap();
    drop(flow(&rig, "a").await);
}

#[tokio::test]
async fn a_connection_that_waits_for_a_backend_that_left_goes_on_to_one_that_came() {
    // A full accept queue drops SYNs, as a host that has lost its power does.
    let full = std::net::TcpListener::bind(SocketAddr::new(own_ip(), 0)).unwrap();
    rustix::net::listen(&full, 0).unwrap();
    let lost = backend("lost", full.local_addr().unwrap());
    let _filler = TcpStream::connect(lost.address).await.unwrap();
    let ((_b, b), (_c, c)) = (named("b").await, named("c").await);
    let mut config = frontend(vec![lost]);
    config.check = Check { kind: CheckKind::None, ..once() };
    config.timeouts = Timeouts { connect: Duration::from_millis(500), ..Timeouts::default() };
    let rig = Rig::judged(config).await;
    let mut client = rig.connect().await;
    rig.wait(|status| status.backends[0].connections == 1).await;

    rig.set(&[b]);
    rig.set(&[c]);

    assert_eq!(read_name(&mut client).await.unwrap(), "c");
    assert_eq!((rig.backend("c").total, rig.status().refused), (1, 0));
    rig.wait(|status| status.backends.len() == 1).await;
}

#[tokio::test]
async fn a_set_that_can_not_be_is_refused_and_the_one_in_force_stays() {
    let (_a, a) = named("a").await;
    let rig = rig(std::slice::from_ref(&a)).await;
    let mut client = flow(&rig, "a").await;
    let ip = own_ip();
    let many = |count| (0..count).map(|port| backend("x", SocketAddr::new(ip, port))).collect();
    let twice = vec![backend("x", SocketAddr::new(ip, 1)), backend("y", SocketAddr::new(ip, 1))];
    let set = |name: &str, backends: Vec<Backend>| rig.balancer.backends().set(name, backends).unwrap_err();

    let errors = [set("api", many(256)), set("api", twice), set("other", Vec::new())];

    assert!(matches!(errors[0], SetBackendsError::TooMany { count: 256, .. }));
    let texts = errors.map(|error| error.to_string());
    assert!(texts[0].contains("frontend api: 256 are too many, it can have 255"), "{}", texts[0]);
    assert!(texts[1].contains(&format!("{ip}:1 (backend y) is there twice")), "{}", texts[1]);
    assert!(texts[2].contains("frontend other: there is no such frontend"), "{}", texts[2]);
    assert_eq!(names(&rig), [("a".to_owned(), false)]);
    exchange(&mut client).await;
    drop(flow(&rig, "a").await);
}

#[tokio::test]
async fn a_flow_to_a_backend_that_has_left_counts_in_the_drain() {
    let server = Server::start(echo).await;
    let (_b, b) = named("b").await;
    let rig = rig(&[backend("a", server.address)]).await;
    let mut client = rig.connect().await;
    exchange(&mut client).await;
    rig.set(&[b]);

    let drained = soon(rig.balancer.drain(Duration::from_millis(50))).await;

    assert_eq!(drained.reset, 1);
    assert!(ended_by_reset(&mut client).await);
    until(|| server.open() == 0).await;
}

#[tokio::test]
async fn one_that_is_taken_out_keeps_its_flow_and_gets_no_new_ones_until_it_is_taken_back() {
    let ((_a, a), (_b, b)) = (named("a").await, named("b").await);
    let mut config = frontend(vec![a.clone(), b]);
    config.check = once();
    config.policy = Policy::RoundRobin;
    let rig = Rig::judged(config).await;
    let mut client = rig.connect().await;
    let first = read_name(&mut client).await.unwrap();
    let maintenance = rig.balancer.backends();

    let maintained = maintenance.set_drained(&first, true);

    let [of_it] = &maintained[..] else { panic!("{maintained:?}") };
    assert_eq!((of_it.frontend.as_str(), of_it.backend.connections, of_it.replaced), ("api", 1, true));
    let other = if first == "a" { "b" } else { "a" };
    assert_eq!(spread(&rig, 10).await, [(other.to_owned(), 10)].into());
    exchange(&mut client).await;
    let status = rig.backend(&first);
    assert_eq!((status.drained, status.health, status.leaving), (true, Health::Ready, false));

    assert_eq!(maintenance.set_drained(&first, false).len(), 1);

    assert_eq!(spread(&rig, 10).await, [("a".to_owned(), 5), ("b".to_owned(), 5)].into());
    assert!(!rig.backend(&first).drained);
}

#[tokio::test]
async fn one_that_is_taken_out_serves_where_nobody_else_can() {
    let (_a, a) = named("a").await;
    let rig = rig(&[a.clone(), backend("c", closed_address().await)]).await;
    rig.wait_health("c", Health::Dead).await;
    let maintenance = rig.balancer.backends();

    let by_address = maintenance.set_drained(&a.address.to_string(), true);
    let of_nobody = maintenance.set_drained("d", true);

    assert!(matches!(&by_address[..], [one] if one.backend.drained && !one.replaced), "{by_address:?}");
    assert_eq!((of_nobody, maintenance.names()), (Vec::new(), vec!["a".to_owned(), "c".to_owned()]));
    assert_eq!(spread(&rig, 4).await, [("a".to_owned(), 4)].into());
}

#[tokio::test]
async fn one_whose_set_says_that_it_is_about_to_go_gets_no_new_ones_until_the_set_says_otherwise() {
    let ((_a, a), (_b, b)) = (named("a").await, named("b").await);
    let rig = rig(&[a.clone(), b.clone()]).await;
    let mut client = flow_to(&rig, "b").await;

    rig.set(&[a.clone(), Backend { cordoned: true, ..b.clone() }]);

    assert_eq!(spread(&rig, 10).await, [("a".to_owned(), 10)].into());
    exchange(&mut client).await;
    let status = rig.backend("b");
    assert_eq!((status.cordoned, status.drained, status.health), (true, false, Health::Ready));
    // A command doesn't undo what the set says, and the other way round.
    assert_eq!(rig.balancer.backends().set_drained("b", false).len(), 1);
    assert!(rig.backend("b").cordoned);

    rig.set(&[a, b]);

    assert!(spread(&rig, 20).await.contains_key("b"));
}
