//! Which backend a connection comes to.

use std::net::SocketAddr;
use std::time::Duration;

use lb::{Backend, Frontend, Health, Policy};
use tokio::io::AsyncWriteExt as _;

use crate::rig::{Rig, Server, backend, closed_address, echo, frontend, named_echo, spread};

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

    rig.set(&[a.clone(), b.clone(), backend("c", closed_address().await)]);
    rig.wait_health("b", Health::Ready).await;
    rig.wait_health("c", Health::Dead).await;

    assert!(begins_slowly(&rig, "b"));
    assert_eq!((rig.backend("a").share, rig.backend("c").share), (WHOLE, WHOLE));
    // With a flow it stays known while it leaves.
    let _flow = rig.connect().await;
    rig.wait(|status| status.connections == 1).await;
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
