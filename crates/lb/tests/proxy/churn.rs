//! Backends that are swapped hundreds of times under traffic.

use fastrand::Rng;
use lb::Backend;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::rig::{Rig, Server, backend, frontend, named_echo, read_name, soon, until};

const SWAPS: usize = 300;

/// Connections that are made one after the other, at the same time as each other.
const CLIENTS: usize = 6;

/// Flows that last from the first swap to the last.
const LASTING: usize = 6;

/// Says up to 32 KiB of chance and compares what comes back.
async fn echoed(stream: &mut TcpStream, rng: &mut Rng) {
    let mut said = vec![0; rng.usize(1..32 * 1024)];
    rng.fill(&mut said);
    let mut heard = vec![0; said.len()];
    let (mut read, mut write) = stream.split();
    let (wrote, got) =
        soon(async { tokio::join!(write.write_all(&said), read.read_exact(&mut heard)) }).await;
    wrote.unwrap();
    got.unwrap();
    assert!(said == heard, "the bytes differ");
}

/// Whole conversations, one after the other, until told to stop; each is reported.
async fn converse(
    rig: std::net::SocketAddr,
    mut rng: Rng,
    done: mpsc::Sender<()>,
    stop: watch::Receiver<bool>,
) {
    while !*stop.borrow() {
        let mut stream = soon(TcpStream::connect(rig)).await.unwrap();
        read_name(&mut stream).await.unwrap();
        echoed(&mut stream, &mut rng).await;
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        soon(stream.read_to_end(&mut rest)).await.unwrap();
        assert_eq!(rest, [], "nothing comes after what was said");
        // Nobody listens any more at the end.
        let _ = done.send(()).await;
    }
}

/// One flow that talks until told to stop.
async fn last(mut stream: TcpStream, mut rng: Rng, stop: watch::Receiver<bool>) {
    while !*stop.borrow() {
        echoed(&mut stream, &mut rng).await;
    }
}

#[tokio::test]
async fn hundreds_of_swaps_under_traffic_lose_no_byte_and_leave_nothing_behind() {
    let seed = Rng::new().u64(..);
    eprintln!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let names = ["a", "b", "c", "d", "e"];
    let mut servers: Vec<Server> = Vec::new();
    for name in names {
        servers.push(named_echo(name).await);
    }
    let all: Vec<Backend> =
        servers.iter().zip(names).map(|(server, name)| backend(name, server.address)).collect();
    let rig = Rig::judged(frontend(all.clone())).await;
    // As many reports as there are clients wait at a time.
    let (done, mut conversations) = mpsc::channel(CLIENTS);
    let stop = watch::Sender::new(false);
    let mut traffic = JoinSet::new();
    for _ in 0..LASTING {
        let mut stream = rig.connect().await;
        read_name(&mut stream).await.unwrap();
        traffic.spawn(last(stream, rng.fork(), stop.subscribe()));
    }
    for _ in 0..CLIENTS {
        traffic.spawn(converse(rig.address, rng.fork(), done.clone(), stop.subscribe()));
    }

    for _ in 0..SWAPS {
        let mut set = all.clone();
        rng.shuffle(&mut set);
        set.truncate(rng.usize(1..=all.len()));
        rig.set(&set);
        // From this moment on, not from some later one.
        let name = read_name(&mut rig.connect().await).await.unwrap();
        assert!(set.iter().any(|backend| backend.name == name), "{name} is none of {set:?}");
        // The traffic goes on between two swaps.
        soon(conversations.recv()).await.unwrap();
    }

    rig.set(&all[..1]);
    assert_eq!(rig.status().refused, 0);
    stop.send_replace(true);
    drop(conversations);
    while let Some(ended) = soon(traffic.join_next()).await {
        ended.unwrap();
    }
    rig.wait(|status| status.connections == 0 && status.backends.len() == 1).await;
    assert_eq!(rig.backend("a").connections, 0);
    // The check of the one that is left; of all the others not even that.
    until(|| servers.iter().map(Server::open).eq([1, 0, 0, 0, 0])).await;
}
