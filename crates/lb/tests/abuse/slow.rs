//! Clients that take their time.

use std::io;
use std::num::NonZeroUsize;
use std::time::Duration;

use lb::CheckKind;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::bystanders::{Bystanders, Elsewhere};
use crate::ledger::Ledger;
use crate::rig::{Rig, Server, backend, frontend, soon, until};
use crate::{ONE_AT_A_TIME, echo_server, echoes};

/// Slow clients of each kind.
const CROWD: usize = 300;

/// What is said of an abuser that must not have the loopback's only address.
const ABUSER: [u8; 4] = [127, 0, 0, 66];

/// Requests that others make meanwhile.
const MEANWHILE: usize = 200;

async fn connect(rig: &Rig) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((ABUSER, 0).into())?;
    let stream = soon(socket.connect(rig.address)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

#[tokio::test]
async fn clients_that_say_a_byte_at_a_time_and_clients_that_say_nothing_hold_up_nobody() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let elsewhere = Elsewhere::start();
    let server = echo_server(&elsewhere).await;
    let rig = Rig::judged(frontend(vec![backend("a", server.address)])).await;
    let mut others = Bystanders::start(&echoes(rig.address));

    let mut silent = Vec::new();
    let mut slow = JoinSet::new();
    for n in 0..CROWD {
        silent.push(connect(&rig).await.unwrap());
        let mut stream = connect(&rig).await.unwrap();
        slow.spawn(async move {
            let said = *b"slowly";
            for byte in said {
                stream.write_u8(byte).await.unwrap();
                tokio::time::sleep(Duration::from_millis(200)).await;
                assert_eq!(soon(stream.read_u8()).await.unwrap(), byte, "client {n}");
            }
            stream.shutdown().await.unwrap();
            assert_eq!(soon(stream.read(&mut [0])).await.unwrap(), 0, "client {n}");
        });
    }
    others.go_on(MEANWHILE).await;
    while let Some(client) = slow.join_next().await {
        client.unwrap();
    }

    others.stop("300 clients that say a byte at a time, and 300 that say nothing").await.was_nothing();
    rig.wait(|status| status.connections == CROWD).await;
    drop(silent);
    rig.wait(|status| status.connections == 0 && status.refused == 0).await;
}

/// The limit of each host keeps one from taking the places of all.
#[tokio::test]
async fn a_host_that_opens_what_it_can_and_says_nothing_takes_no_place_from_others() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let elsewhere = Elsewhere::start();
    let server = echo_server(&elsewhere).await;
    let mut config = frontend(vec![backend("a", server.address)]);
    config.limits.max_connections = 100;
    config.limits.per_source = NonZeroUsize::new(80);
    let rig = Rig::judged(config).await;
    let mut others = Bystanders::start(&echoes(rig.address));

    let mut silent = Vec::new();
    for _ in 0..CROWD {
        // One too many may have been reset by the time it could say so.
        silent.push(connect(&rig).await);
    }
    others.go_on(MEANWHILE).await;

    others.stop("a host that opens 300 connections where it may have 80 of 100").await.was_nothing();
    rig.wait(|status| status.connections == 80 && status.rejected == 220).await;
}

/// Its kernel answers that there is no room, again and again; that counts like no answer.
#[tokio::test]
async fn a_client_that_never_reads_what_it_is_sent_is_given_up() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let ledger = Ledger::open();
    let elsewhere = Elsewhere::start();
    let flood =
        Server::start(|mut stream| async move { while stream.write_all(&[b'x'; 65536]).await.is_ok() {} });
    let (flood, server) = (elsewhere.run(flood).await, echo_server(&elsewhere).await);
    let mut config = frontend(vec![backend("a", flood.address)]);
    (config.check.kind, config.access_log) = (CheckKind::None, true);
    config.timeouts.user_timeout = Duration::from_secs(2);
    let rig = Rig::start_all(vec![config, frontend(vec![backend("b", server.address)])]);
    let mut others = Bystanders::start(&echoes(rig.balancer.status().frontends[1].listen[0]));

    let clients = [connect(&rig).await.unwrap(), connect(&rig).await.unwrap()];
    let owns = clients.each_ref().map(|client| client.local_addr().unwrap());
    others.go_on(MEANWHILE).await;
    until(|| owns.iter().all(|own| ledger.end_of(*own).is_some())).await;

    others.stop("2 clients that are given up since they never read").await.was_nothing();
    assert_eq!(owns.map(|own| ledger.end_of(own).unwrap()), ["client", "client"]);
    rig.wait(|status| status.connections == 0).await;
}
