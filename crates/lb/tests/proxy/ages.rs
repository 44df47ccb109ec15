//! Connections that have lasted for long enough.

use std::time::Duration;

use lb::{CheckKind, Frontend, Timeouts};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::rig::{Rig, Server, backend, echo, ended_by_reset, frontend, soon};

/// A frontend over one backend whose connections last for a second, and five more without a silence of three.
fn short_lived(server: &Server) -> Frontend {
    let mut config = frontend(vec![backend("a", server.address)]);
    config.check.kind = CheckKind::None;
    config.timeouts = Timeouts { max_age: Some(Duration::from_secs(1)), ..Timeouts::default() };
    config
}

/// Sends a byte there and back; what was read instead of it, otherwise.
async fn exchange(client: &mut TcpStream) -> std::io::Result<usize> {
    client.write_all(b"x").await?;
    soon(client.read(&mut [0])).await
}

#[tokio::test]
async fn an_old_connection_ends_in_its_first_silence_and_one_that_is_never_silent_a_little_later() {
    // One from each of two connections.
    let (told, mut ends) = mpsc::channel(2);
    let server = Server::start(move |mut stream: TcpStream| {
        let told = told.clone();
        async move {
            let (mut read, mut write) = stream.split();
            told.send(tokio::io::copy(&mut read, &mut write).await).await.unwrap();
        }
    })
    .await;
    let rig = Rig::start(short_lived(&server));
    let (mut silent, mut talking) = (rig.connect().await, rig.connect().await);
    assert_eq!(exchange(&mut silent).await.unwrap(), 1);
    assert_eq!(exchange(&mut talking).await.unwrap(), 1);

    let began = Instant::now();
    let silence = async {
        assert_eq!(soon(silent.read(&mut [0])).await.unwrap(), 0, "the end is one in good order");
        assert_eq!(soon(ends.recv()).await.unwrap().unwrap(), 1, "for the backend, too, and nothing is lost");
    };
    let talk = async {
        // The byte that finds the end is lost, as ever; what comes of it depends on the kernel's timing.
        while let Ok(1) = exchange(&mut talking).await {
            // Far more often than every three seconds.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // It has come up to a second before it was counted.
        assert!(began.elapsed() > Duration::from_secs(5), "{:?}", began.elapsed());
    };
    tokio::join!(silence, talk);
    rig.wait(|status| status.connections == 0 && status.aged == 2).await;
    assert_eq!(rig.backend("a").retries, 0);
}

#[tokio::test]
async fn what_is_on_its_way_is_no_silence_and_is_not_cut_off_in_good_order() {
    let server = Server::start(async |mut stream: TcpStream| {
        // More than the buffers of two connections hold.
        let _ = stream.write_all(&vec![7; 64 << 20]).await;
        echo(stream).await;
    })
    .await;
    let rig = Rig::start(short_lived(&server));

    // It reads nothing: for as long as it may be silent, no byte moves, and some wait.
    let mut client = rig.connect().await;
    rig.wait(|status| status.aged == 1 && status.connections == 0).await;

    assert!(ended_by_reset(&mut client).await, "it would look as if that was all");
}

/// The ages of connections are counted for each, and not from the start of the balancer.
#[tokio::test]
async fn a_connection_is_as_old_as_itself() {
    let server = Server::start(echo).await;
    let mut config = short_lived(&server);
    config.timeouts.max_age = Some(Duration::from_secs(3));
    let rig = Rig::start(config);
    let mut first = rig.connect().await;
    assert_eq!(exchange(&mut first).await.unwrap(), 1);
    assert_eq!(soon(first.read(&mut [0])).await.unwrap(), 0);

    let began = Instant::now();
    let mut second = rig.connect().await;
    assert_eq!(exchange(&mut second).await.unwrap(), 1);
    assert_eq!(soon(second.read(&mut [0])).await.unwrap(), 0);

    // It has come up to a second before it was counted.
    assert!(began.elapsed() > Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(rig.status().aged, 2);
}
