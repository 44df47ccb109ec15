//! Which backend a connection comes to.

use std::net::SocketAddr;
use std::time::Duration;

use lb::{Backend, CheckKind, Frontend, Health, Network, Policy};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpSocket;

use crate::rig::{Rig, Server, backend, closed_address, echo, frontend, named_echo, read_name, soon, spread};

/// A slow start that no test sees the end of.
const FOR_LONG: Option<Duration> = Some(Duration::from_secs(3600));

/// All of a share, and what a slow start begins with.
const WHOLE: u32 = 1000;
const FIRST: u32 = 100;

/// Two backends in turn, and a slow start.
fn in_turn(backends: Vec<Backend>, slow_start: Option<Duration>) -> Frontend {
    Frontend { policy: Policy::RoundRobin, slow_start, ..frontend(backends) }
}

/// Says `b` first, where another process was before.
async fn restarted(address: SocketAddr) -> Server {
    Server::start_at(address, async |mut stream| {
        let _ = stream.write_all(b"b").await;
        echo(stream).await;
    })
    .await
}

/// What is listed as having its share grow, of backends that have just come back.
fn begins_slowly(rig: &Rig, name: &str) -> bool {
    (FIRST..FIRST + 50).contains(&rig.backend(name).share)
}

#[tokio::test]
async fn a_backend_that_was_dead_gets_little_at_first() {
    let (a, b) = (named_echo("a").await, named_echo("b").await);
    let address = b.address;
    let rig = Rig::judged(in_turn(vec![backend("a", a.address), backend("b", address)], FOR_LONG)).await;
    assert_eq!(
        (rig.backend("a").share, rig.backend("b").share),
        (WHOLE, WHOLE),
        "nobody starts slowly at first"
    );
    assert_eq!(spread(&rig, 20).await["b"], 10);

    b.kill().await;
    rig.wait_health("b", Health::Dead).await;
    let _b = restarted(address).await;
    rig.wait_health("b", Health::Ready).await;

    assert!(begins_slowly(&rig, "b"), "{}", rig.backend("b").share);
    // In turn it would be 100; a tenth of that is 10, and 40 nine standard deviations more.
    let counts = spread(&rig, 200).await;
    assert!(counts.get("b").is_none_or(|count| *count < 40), "{counts:?}");
}

#[tokio::test]
async fn after_its_slow_start_a_backend_has_its_share() {
    let (a, b) = (named_echo("a").await, named_echo("b").await);
    let address = b.address;
    let short = Some(Duration::from_millis(200));
    let rig = Rig::judged(in_turn(vec![backend("a", a.address), backend("b", address)], short)).await;
    b.kill().await;
    rig.wait_health("b", Health::Dead).await;
    let _b = restarted(address).await;

    rig.wait_health("b", Health::Ready).await;
    rig.wait(|status| status.backends.iter().all(|backend| backend.share == WHOLE)).await;

    assert_eq!(spread(&rig, 20).await, [("a".to_owned(), 10), ("b".to_owned(), 10)].into());
}

#[tokio::test]
async fn a_backend_that_is_the_only_one_left_gets_everything() {
    let (a, b) = (named_echo("a").await, named_echo("b").await);
    let address = b.address;
    let rig = Rig::judged(in_turn(vec![backend("a", a.address), backend("b", address)], FOR_LONG)).await;
    b.kill().await;
    rig.wait_health("b", Health::Dead).await;
    let _b = restarted(address).await;
    rig.wait_health("b", Health::Ready).await;

    a.kill().await;
    rig.wait_health("a", Health::Dead).await;

    assert!(begins_slowly(&rig, "b"));
    assert_eq!(spread(&rig, 50).await, [("b".to_owned(), 50)].into());
}

#[tokio::test]
async fn a_backend_that_is_new_or_named_again_starts_slowly_and_those_of_the_first_set_do_not() {
    let (a, b) = (named_echo("a").await, named_echo("b").await);
    let (a, b) = (backend("a", a.address), backend("b", b.address));
    let rig = Rig::start(in_turn(Vec::new(), FOR_LONG));
    rig.set(std::slice::from_ref(&a));
    rig.wait_health("a", Health::Ready).await;
    assert_eq!(rig.backend("a").share, WHOLE);
    // With a flow it stays known while it leaves.
    let mut flow = rig.connect().await;
    assert_eq!(read_name(&mut flow).await.unwrap(), "a");

    rig.set(&[a.clone(), b.clone(), backend("c", closed_address().await)]);
    rig.wait_health("b", Health::Ready).await;
    rig.wait_health("c", Health::Dead).await;

    assert!(begins_slowly(&rig, "b"));
    assert_eq!((rig.backend("a").share, rig.backend("c").share), (WHOLE, WHOLE));
    rig.set(std::slice::from_ref(&b));
    rig.set(&[a, b]);
    assert!(begins_slowly(&rig, "a"));
}

#[tokio::test]
async fn a_backend_that_is_taken_back_into_use_starts_slowly() {
    let (a, b) = (named_echo("a").await, named_echo("b").await);
    let (a, b) = (backend("a", a.address), backend("b", b.address));
    let rig = Rig::judged(in_turn(vec![a.clone(), b.clone()], FOR_LONG)).await;

    let _ = rig.balancer.backends().set_drained("a", true);
    assert_eq!(rig.backend("a").share, WHOLE, "out of use, it gets nothing anyway");
    let _ = rig.balancer.backends().set_drained("a", false);
    rig.set(&[a.clone(), Backend { cordoned: true, ..b.clone() }]);
    assert_eq!(rig.backend("b").share, WHOLE);
    rig.set(&[a, b]);

    assert!(begins_slowly(&rig, "a") && begins_slowly(&rig, "b"));
}

#[tokio::test]
async fn without_a_slow_start_a_backend_has_its_share_at_once() {
    let (a, b) = (named_echo("a").await, named_echo("b").await);
    let address = b.address;
    let rig = Rig::judged(in_turn(vec![backend("a", a.address), backend("b", address)], None)).await;
    b.kill().await;
    rig.wait_health("b", Health::Dead).await;
    let _b = restarted(address).await;

    rig.wait_health("b", Health::Ready).await;

    assert_eq!(rig.backend("b").share, WHOLE);
    assert_eq!(spread(&rig, 20).await["b"], 10);
}

/// Who answers clients at this many addresses of the loopback network, each asked twice.
async fn answers(rig: &Rig, clients: u8) -> Vec<String> {
    let ask = async |last: u8| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 78, last], 0).into()).unwrap();
        read_name(&mut soon(socket.connect(rig.address)).await.unwrap()).await.unwrap()
    };
    let mut names = Vec::new();
    for last in 1..=clients {
        let name = ask(last).await;
        assert_eq!(ask(last).await, name, "the next connection of 127.0.78.{last}");
        names.push(name);
    }
    names
}

#[tokio::test]
async fn by_source_hash_a_client_comes_to_its_backend_whichever_balancer_it_asks() {
    let (a, b, c) = (named_echo("a").await, named_echo("b").await, named_echo("c").await);
    let b_address = b.address;
    let backends = vec![backend("a", a.address), backend("b", b_address), backend("c", c.address)];
    let by_hash = |backends| Frontend { policy: Policy::SourceHash, ..frontend(backends) };
    let rig = Rig::judged(by_hash(backends.clone())).await;
    let other = Rig::judged(by_hash(backends.into_iter().rev().collect())).await;

    // The addresses of the backends are this run's own, so who answers whom is, too.
    let before = answers(&rig, 40).await;
    assert_eq!(answers(&other, 40).await, before);

    b.kill().await;
    rig.wait_health("b", Health::Dead).await;
    let without = answers(&rig, 40).await;
    for (before, without) in before.iter().zip(&without) {
        assert!(before == without || before == "b" && without != "b", "{before} {without}");
    }

    let _b = restarted(b_address).await;
    rig.wait_health("b", Health::Ready).await;
    assert_eq!(answers(&rig, 40).await, before);
}

#[tokio::test]
async fn by_source_hash_it_is_the_client_that_counts_of_whom_a_proxy_tells() {
    let (a, b) = (named_echo("a").await, named_echo("b").await);
    let mut config = frontend(vec![backend("a", a.address), backend("b", b.address)]);
    (config.policy, config.check.kind) = (Policy::SourceHash, CheckKind::None);
    let direct = Rig::judged(config.clone()).await;
    config.proxies = vec![Network::new([127, 0, 0, 0].into(), 8).unwrap()];
    let behind_a_proxy = Rig::judged(config).await;

    for (last, name) in (1..).zip(answers(&direct, 20).await) {
        // In version 1 an IPv4 address, in either form.
        for said in [
            format!("PROXY TCP4 127.0.78.{last} 192.0.2.9 4711 443\r\n"),
            format!("PROXY TCP6 ::ffff:127.0.78.{last} ::ffff:192.0.2.9 4711 443\r\n"),
        ] {
            let mut proxy = behind_a_proxy.connect().await;
            proxy.write_all(said.as_bytes()).await.unwrap();
            assert_eq!(read_name(&mut proxy).await.unwrap(), name, "{said}");
        }
    }
}
