//! Connections that are moved to a backend that has come.

use std::num::NonZeroUsize;
use std::time::Duration;

use lb::Backend;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::rig::{Rig, Server, backend, exchange, flow, frontend, named, once, soon};

/// Clients that only listen, besides one that does not.
const LISTENERS: usize = 12;

/// A balancer before one backend, which moves up to four connections a second.
async fn moving(only: &Backend) -> Rig {
    let mut config = frontend(vec![only.clone()]);
    config.check = once();
    config.rebalance = NonZeroUsize::new(4);
    Rig::judged(config).await
}

/// All are connected, and neither of the two backends has many more than the other.
fn is_even(rig: &Rig) -> bool {
    let [one, other] = ["a", "b"].map(|name| rig.backend(name).connections);
    one + other == LISTENERS + 1 && one.abs_diff(other) <= 3
}

/// Clients that only listen, each of which connects anew when its connection ends; who was in the middle of something stays where it is.
#[tokio::test]
async fn silent_connections_are_moved_to_one_that_has_come_until_it_has_its_share_and_busy_ones_are_not() {
    let ((_a, a), (_b, b)) = (named("a").await, named("b").await);
    let rig = moving(&a).await;
    let address = rig.address;
    let mut listeners = tokio::task::JoinSet::new();
    for _ in 0..LISTENERS {
        listeners.spawn(async move {
            loop {
                let mut client = TcpStream::connect(address).await.unwrap();
                // Everything that comes until an end in good order.
                client.read_to_end(&mut Vec::new()).await.unwrap();
            }
        });
    }
    let mut busy = flow(&rig, "a").await;
    rig.wait(|status| status.connections == LISTENERS + 1).await;

    rig.set(&[a, b]);
    let even = async {
        loop {
            exchange(&mut busy).await;
            if is_even(&rig) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    soon(even).await;

    exchange(&mut busy).await;
    let moved = rig.status().rebalanced;
    assert!((4..=8).contains(&moved), "{moved} were moved");
    drop(listeners);
}

/// Says its name, and then a kibibyte every 50 ms to whoever is connected, whatever that says.
async fn talker(name: &'static str) -> (Server, Backend) {
    let server = Server::start(move |mut stream: TcpStream| async move {
        let (mut read, mut write) = stream.split();
        let talk = async {
            let mut told = write.write_all(name.as_bytes()).await;
            while told.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
                told = write.write_all(&[0; 1024]).await;
            }
        };
        // Until one of the two ends.
        let mut sink = tokio::io::sink();
        tokio::select! {
            () = talk => {}
            _ = tokio::io::copy(&mut read, &mut sink) => {}
        }
    })
    .await;
    let backend = backend(name, server.address);
    (server, backend)
}

/// Watches of what changes all the time: never silent, but their clients say no more than HTTP/2's flow control takes.
#[tokio::test]
async fn connections_whose_clients_only_listen_are_moved_though_no_one_is_silent_and_askers_are_not() {
    let ((_a, a), (_b, b)) = (talker("a").await, talker("b").await);
    let rig = moving(&a).await;
    let address = rig.address;
    let mut listeners = tokio::task::JoinSet::new();
    for _ in 0..LISTENERS {
        listeners.spawn(async move {
            loop {
                let mut client = TcpStream::connect(address).await.unwrap();
                // Acknowledges as Go does, until an end in good order.
                let mut told = vec![0; 4096];
                while client.read_exact(&mut told).await.is_ok() {
                    // At its end, what it says goes nowhere.
                    let _ = client.write_all(&[0; 48]).await;
                }
            }
        });
    }
    // One that asks more often than it could be told to be waiting.
    let (mut read, mut asker) = flow(&rig, "a").await.into_split();
    let mut heard = tokio::spawn(async move { read.read_to_end(&mut Vec::new()).await });
    rig.wait(|status| status.connections == LISTENERS + 1).await;

    rig.set(&[a, b]);
    let even = async {
        loop {
            asker.write_all(&[0; 200]).await.unwrap();
            if is_even(&rig) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    soon(even).await;

    assert!(!heard.is_finished(), "{:?}", soon(&mut heard).await);
    assert!((4..=8).contains(&rig.status().rebalanced), "{} were moved", rig.status().rebalanced);
    drop(listeners);
}
