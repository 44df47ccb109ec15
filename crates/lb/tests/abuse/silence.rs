//! Backends that take connections and say nothing, or don't even take them.

use std::time::Duration;

use lb::{Ca, Check, CheckKind, Health};

use crate::bystanders::{Bystanders, Elsewhere};
use crate::moods::{Mood, Moody, https};
use crate::rig::{Rig, auto, backend, frontend, readyz};
use crate::{ONE_AT_A_TIME, echo_server, echoes};

/// Requests of each kind that others make meanwhile.
const MEANWHILE: usize = 50;

/// How long a client waits for an answer that doesn't come.
const GIVEN_UP: Duration = Duration::from_millis(1500);

/// A client that waits for an answer of four seconds, and for what a busy machine adds.
const PATIENT: Duration = Duration::from_secs(30);

/// When a backend that has fallen silent must be known to be dead: three checks of half a second, and what a busy machine adds.
const FOUND: Duration = Duration::from_secs(8);

fn quick() -> Check {
    Check {
        interval: Duration::from_millis(100),
        timeout: Duration::from_millis(500),
        ..readyz(auto, Ca::None)
    }
}

async fn three(elsewhere: &Elsewhere) -> [Moody; 3] {
    [
        Moody::start(elsewhere, "a", Mood::Serves).await,
        Moody::start(elsewhere, "b", Mood::Serves).await,
        Moody::start(elsewhere, "c", Mood::Serves).await,
    ]
}

/// A balancer that knows of each of them what its checks say.
async fn checked(servers: &[Moody]) -> Rig {
    let mut config = frontend(servers.iter().map(Moody::backend).collect());
    config.check = quick();
    Rig::judged(config).await
}

/// Without checks nothing tells that it is silent; whoever comes to it waits until it gives up itself, and nobody else does.
#[tokio::test]
async fn a_backend_that_falls_silent_unchecked_harms_those_that_come_to_it_and_nobody_else() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let elsewhere = Elsewhere::start();
    let servers = three(&elsewhere).await;
    let mut config = frontend(servers.iter().map(Moody::backend).collect());
    config.check.kind = CheckKind::None;
    let rig = Rig::start(config);
    let mut others = Bystanders::start(&https(rig.address).patient_for(GIVEN_UP));
    others.go_on(MEANWHILE).await;

    let before = servers[0].server.accepted() - servers[0].server.open();
    servers[0].set(Mood::Frozen);
    others.go_on(MEANWHILE).await;

    let felt = others.stop("1 of 3 backends silent, no checks, clients that wait for 1.5 s").await;
    let went_there = servers[0].server.accepted() - before;
    let failed = [&felt.lasting, &felt.anew].map(|share| share.failures.len()).iter().sum::<usize>();
    assert!(failed > 0 && failed <= went_there, "{failed} failed, {went_there} went there: {felt:?}");
    assert_eq!((rig.status().refused, rig.backend("a").retries), (0, 0));
}

/// A handshake that waits there goes to another backend as soon as the checks know; new clients do from then on.
#[tokio::test]
async fn a_backend_that_falls_silent_is_found_by_its_checks_and_no_connection_fails_that_comes_then() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let elsewhere = Elsewhere::start();
    let servers = three(&elsewhere).await;
    let rig = checked(&servers).await;
    let mut before = Bystanders::start(&https(rig.address));
    before.go_on(MEANWHILE).await;

    servers[0].set(Mood::Frozen);
    let open = servers[0].server.open();
    let mut after = Bystanders::start(&https(rig.address));
    rig.wait_health("a", Health::Dead).await;
    before.go_on(MEANWHILE).await;
    after.go_on(MEANWHILE).await;

    let felt = before.stop("1 of 3 backends falls silent, checked every 0.1 s with 0.5 s to answer").await;
    // What it has begun to answer, nobody else can go on with.
    let failures: Vec<_> = felt.lasting.failures.iter().chain(&felt.anew.failures).collect();
    assert!(failures.len() <= open, "{open} were open: {failures:?}");
    let felt = after.stop("the same, clients that came while it was not known").await;
    for share in [&felt.lasting, &felt.anew] {
        assert!(share.failures.is_empty() && share.longest() < FOUND, "{share}: {:?}", share.failures);
    }
    assert_eq!(rig.backend("a").connections, 0);
}

/// Its check is answered a byte at a time, too, and so not in its time: new connections go to the others. Who has its answer from it gets
/// it whole, however slowly.
#[tokio::test]
async fn a_backend_that_trickles_gets_nothing_new_once_that_is_known_and_its_answers_arrive_whole() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let elsewhere = Elsewhere::start();
    let servers = three(&elsewhere).await;
    let rig = checked(&servers).await;
    let mut before = Bystanders::start(&https(rig.address).patient_for(PATIENT));
    before.go_on(MEANWHILE).await;

    servers[0].set(Mood::Trickles);
    rig.wait_health("a", Health::Draining).await;
    let known = rig.backend("a").total;
    let mut after = Bystanders::start(&https(rig.address));
    after.go_on(MEANWHILE).await;

    after.stop("1 of 3 backends trickles, clients that came when it was known").await.was_nothing();
    assert_eq!(rig.backend("a").total, known, "new connections went there");
    let felt = before.stop("the same, clients that were there, some of them on it").await;
    for share in [&felt.lasting, &felt.anew] {
        assert!(share.failures.is_empty(), "{share}: {:?}", share.failures);
    }
}

/// It was frozen when the balancer came; what the others speak tells that silence is not its protocol.
#[tokio::test]
async fn a_backend_that_was_silent_from_the_beginning_is_not_taken_for_one_of_another_protocol() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let elsewhere = Elsewhere::start();
    let servers = three(&elsewhere).await;
    servers[0].set(Mood::Frozen);
    let rig = checked(&servers).await;

    let mut others = Bystanders::start(&https(rig.address));
    others.go_on(MEANWHILE).await;

    others.stop("1 of 3 backends silent from the beginning, checked").await.was_nothing();
    let silent = rig.backend("a");
    assert_eq!((silent.health, silent.connections), (Health::Dead, 0), "{:?}", silent.last_error);
}

/// A host that is overloaded, or gone, answers no SYN: after 0.3 s another backend is tried, and none at all once it is known.
#[tokio::test]
async fn a_backend_whose_queue_is_full_costs_a_detour_until_it_is_known() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let elsewhere = Elsewhere::start();
    let servers = [echo_server(&elsewhere).await, echo_server(&elsewhere).await];
    let (_full, address, _filler) = crate::phases::full().await;
    let mut backends: Vec<_> =
        servers.iter().zip(["b", "c"]).map(|(server, name)| backend(name, server.address)).collect();
    backends.push(backend("a", address));
    for (kind, of) in [
        (CheckKind::None, "1 of 3 backends answers no SYN, no checks"),
        (CheckKind::Tcp, "the same, once the checks know"),
    ] {
        let mut config = frontend(backends.clone());
        config.check = Check { kind: kind.clone(), ..quick() };
        let rig = Rig::judged(config).await;
        let mut others = Bystanders::start(&echoes(rig.address));
        others.go_on(MEANWHILE).await;

        others.stop(of).await.was_nothing();
        let tried = rig.backend("a");
        match tried.health {
            Health::Dead => assert_eq!(tried.connect_failures, 0),
            Health::Ready | Health::Unknown | Health::Draining => assert!(tried.connect_failures > 0),
        }
        assert_eq!((rig.status().refused, tried.total), (0, 0));
    }
}
