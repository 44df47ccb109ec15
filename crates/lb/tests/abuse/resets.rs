//! Backends that reset.

use lb::{Ca, CheckKind, Health};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::ONE_AT_A_TIME;
use crate::bystanders::{Bystanders, Elsewhere};
use crate::moods::{Mood, Moody, https};
use crate::rig::{Rig, Server, auto, backend, closed_address, frontend, readyz};

/// Requests of each kind that others make meanwhile.
const MEANWHILE: usize = 50;

/// When a backend resets that never serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    AtTheConnect,
    OnceAccepted,
    AfterTheFirstBytes,
}

async fn broken(elsewhere: &Elsewhere, when: When) -> Server {
    elsewhere
        .run(Server::start(move |mut stream: TcpStream| async move {
            if when == When::AfterTheFirstBytes {
                // Part of a ClientHello, or a check's end.
                let _ = stream.read(&mut [0; 16]).await;
            }
            stream.set_zero_linger().unwrap();
        }))
        .await
}

/// Nothing was answered yet, so the next backend hears the same.
#[tokio::test]
async fn a_backend_that_resets_before_it_has_said_anything_is_felt_by_nobody() {
    let _turn = ONE_AT_A_TIME.lock().await;
    for when in [When::AtTheConnect, When::OnceAccepted, When::AfterTheFirstBytes] {
        let elsewhere = Elsewhere::start();
        let well = [
            Moody::start(&elsewhere, "b", Mood::Serves).await,
            Moody::start(&elsewhere, "c", Mood::Serves).await,
        ];
        let broken = broken(&elsewhere, when).await;
        let address = if when == When::AtTheConnect { closed_address().await } else { broken.address };
        let mut config = frontend(vec![backend("a", address), well[0].backend(), well[1].backend()]);
        config.check.kind = CheckKind::None;
        let rig = Rig::start(config);
        let mut others = Bystanders::start(&https(rig.address));
        others.go_on(MEANWHILE).await;

        others.stop(&format!("1 of 3 backends resets {when:?}, no checks")).await.was_nothing();
        let tried = rig.backend("a");
        let seen = if when == When::AtTheConnect { tried.connect_failures } else { tried.retries };
        assert!(seen > 0, "{when:?}: {tried:?}");
        assert_eq!(rig.status().refused, 0);
    }
}

/// What was begun there can't be said again; what comes once the checks know goes elsewhere.
#[tokio::test]
async fn a_backend_that_breaks_off_its_answers_harms_those_alone_and_gets_nothing_new() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let elsewhere = Elsewhere::start();
    let servers = [
        Moody::start(&elsewhere, "a", Mood::Serves).await,
        Moody::start(&elsewhere, "b", Mood::Serves).await,
        Moody::start(&elsewhere, "c", Mood::Serves).await,
    ];
    let mut config = frontend(servers.iter().map(Moody::backend).collect());
    config.check = readyz(auto, Ca::None);
    let rig = Rig::judged(config).await;
    let mut others = Bystanders::start(&https(rig.address));
    others.go_on(MEANWHILE).await;

    let before = servers[0].server.accepted() - servers[0].server.open();
    servers[0].set(Mood::BreaksOff);
    rig.wait_health("a", Health::Draining).await;

    let felt = others.stop("1 of 3 backends breaks off its answers, until the checks know").await;
    let went_there = servers[0].server.accepted() - before;
    let failed = [&felt.lasting, &felt.anew].map(|share| share.failures.len()).iter().sum::<usize>();
    assert!(failed <= went_there, "{failed} failed, {went_there} went there: {felt:?}");

    let mut others = Bystanders::start(&https(rig.address));
    others.go_on(MEANWHILE).await;
    others.stop("the same, once they know").await.was_nothing();
}
