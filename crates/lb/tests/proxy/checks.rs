//! What the health checks make of all kinds of backends.

use std::time::Duration;

use lb::{Ca, Check, Health};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

use crate::rig::{
    ApiServer, Identity, Rig, Server, auto, backend, closed_address, echo, frontend, https, own_ip,
    read_head, readyz, status,
};

/// The first judgement about one backend, and why it failed.
async fn first_judgement(api: &ApiServer, check: Check) -> (Health, Option<String>) {
    let mut config = frontend(vec![api.backend()]);
    config.check = check;
    let rig = Rig::judged(config).await;
    let status = rig.backend(&api.name);
    (status.health, status.last_error)
}

#[tokio::test]
async fn each_status_has_its_meaning() {
    let expected = [
        (200, Health::Ready),
        (204, Health::Ready),
        (302, Health::Ready),
        (401, Health::Ready),
        (403, Health::Ready),
        (404, Health::Draining),
        (429, Health::Draining),
        (500, Health::Draining),
        (503, Health::Draining),
    ];
    let api = ApiServer::start("a", status(200)).await;
    for (code, health) in expected {
        api.answer(status(code));

        let (found, error) = first_judgement(&api, readyz(https, Ca::None)).await;

        assert_eq!(found, health, "status {code}");
        let reason = (health == Health::Draining).then(|| format!("HTTP status {code}"));
        assert_eq!(error, reason, "status {code}");
    }
}

#[tokio::test]
async fn an_apiserver_that_refuses_while_another_tells_is_starting() {
    let telling = ApiServer::start("telling", status(200)).await;
    let starting = ApiServer::start("starting", status(403)).await;
    let mut config = frontend(vec![telling.backend(), starting.backend()]);
    config.check = readyz(https, Ca::None);
    let rig = Rig::judged(config).await;

    rig.wait_health("starting", Health::Draining).await;
    starting.answer(status(200));
    rig.wait_health("starting", Health::Ready).await;
}

#[tokio::test]
async fn nonsense_in_tls_means_draining_with_a_reason() {
    let mut endless = b"HTTP/1.1 200 OK\r\n".to_vec();
    endless.extend_from_slice(&b"X-Filler: abcdefghijklmnopqrstuvwxyz\r\n".repeat(1000));
    let cases: [(&str, Vec<u8>, &str); 4] = [
        ("garbage", b"\x00\xff\x13garbage\r\n\r\n".to_vec(), "the answer is not HTTP/1"),
        ("headers without end", endless, "the answer's headers are longer than 8 KiB"),
        (
            "a header without colon",
            b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n".to_vec(),
            "the answer's headers are malformed",
        ),
        ("nothing", b"Connection: close".to_vec(), "the answer is not HTTP/1"),
    ];
    let api = ApiServer::start("a", Vec::new()).await;
    for (case, answer, reason) in cases {
        api.answer(answer);

        let found = first_judgement(&api, readyz(https, Ca::None)).await;

        assert_eq!(found, (Health::Draining, Some(reason.to_owned())), "{case}");
    }
}

#[tokio::test]
async fn an_oversized_body_does_not_change_the_answer() {
    let mut huge = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n".to_vec();
    huge.resize(1_000_000, b'x');
    let api = ApiServer::start("a", huge).await;

    let (health, _) = first_judgement(&api, readyz(https, Ca::None)).await;

    assert_eq!(health, Health::Ready);
}

#[tokio::test]
async fn a_backend_that_shakes_hands_but_does_not_answer_is_draining() {
    let api = ApiServer::start("a", Vec::new()).await;
    let check = Check { timeout: Duration::from_millis(300), ..readyz(https, Ca::None) };

    let found = first_judgement(&api, check).await;

    assert_eq!(found, (Health::Draining, Some("no answer to the request within 300ms".into())));
}

#[tokio::test]
async fn a_backend_that_does_not_shake_hands_is_dead() {
    let server = Server::start(async |mut stream: TcpStream| {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let mut config = frontend(vec![backend("a", server.address)]);
    config.check = Check { timeout: Duration::from_millis(300), ..readyz(https, Ca::None) };
    let rig = Rig::judged(config).await;

    let status = rig.backend("a");

    assert_eq!(status.health, Health::Dead);
    assert_eq!(status.last_error.as_deref(), Some("no answer to the TLS handshake within 300ms"));
}

#[tokio::test]
async fn the_right_ca_is_accepted_and_a_foreign_one_refused() {
    let api = ApiServer::start("a", status(200)).await;
    let foreign = Identity::new(api.server.address.ip());

    let own = first_judgement(&api, readyz(https, Ca::Pem(api.identity.ca_pem.clone()))).await;
    let other = first_judgement(&api, readyz(https, Ca::Pem(foreign.ca_pem.clone()))).await;
    let both = [foreign.ca_pem, api.identity.ca_pem.clone()].concat();
    let bundle = first_judgement(&api, readyz(https, Ca::Pem(both))).await;

    assert_eq!(own, (Health::Ready, None));
    assert_eq!(other.0, Health::Dead);
    assert!(other.1.as_ref().is_some_and(|error| error.contains("UnknownIssuer")), "{other:?}");
    assert_eq!(bundle.0, Health::Ready);
}

#[tokio::test]
async fn a_certificate_for_another_address_is_refused_under_a_ca() {
    let ip = own_ip();
    let identity = Identity::new("192.0.2.1".parse().unwrap());
    let api = ApiServer::start_at((ip, 0).into(), "a", status(200), identity.clone()).await;

    let (health, error) = first_judgement(&api, readyz(https, Ca::Pem(identity.ca_pem))).await;

    assert_eq!(health, Health::Dead);
    assert!(error.as_ref().is_some_and(|error| error.contains("not valid for name")), "{error:?}");
    assert_eq!(first_judgement(&api, readyz(https, Ca::None)).await.0, Health::Ready);
}

#[tokio::test]
async fn auto_takes_a_service_without_tls_by_its_connection() {
    // One repeats our ClientHello, one speaks first, one closes on it, one says nothing at all.
    let echo = Server::start(echo).await;
    let first = Server::start(async |mut stream: TcpStream| {
        let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.9\r\n").await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let closing = Server::start(async |mut stream: TcpStream| {
        let _ = stream.read_u8().await;
    })
    .await;
    let silent = Server::start(async |mut stream: TcpStream| {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let servers = [("echo", &echo), ("first", &first), ("closing", &closing), ("silent", &silent)];
    let mut config = frontend(servers.iter().map(|(name, server)| backend(name, server.address)).collect());
    config.check = Check { timeout: Duration::from_millis(300), ..readyz(auto, Ca::None) };
    let rig = Rig::judged(config).await;

    for (name, _) in servers {
        assert_eq!(rig.backend(name).health, Health::Ready, "{name}");
    }

    echo.kill().await;
    silent.kill().await;
    rig.wait_health("echo", Health::Dead).await;
    rig.wait_health("silent", Health::Dead).await;
    assert_eq!(rig.backend("first").health, Health::Ready);
}

#[tokio::test]
async fn auto_takes_404_by_the_connection_and_asks_again_when_that_ends() {
    let api = ApiServer::start("a", status(404)).await;
    let mut config = frontend(vec![api.backend()]);
    config.check = readyz(auto, Ca::None);
    let rig = Rig::judged(config).await;
    assert_eq!(rig.backend("a").health, Health::Ready);

    // As long as the connection stays, nothing is asked: this answer would mean draining.
    api.answer(status(500));
    let accepted = api.server.accepted();
    let identity = api.identity.clone();
    let address = api.server.kill().await;
    rig.wait_health("a", Health::Dead).await;
    assert_eq!(accepted, 1);

    let _api = ApiServer::start_at(address, "a", status(500), identity).await;
    rig.wait_health("a", Health::Draining).await;
}

#[tokio::test]
async fn auto_takes_an_apiserver_by_its_answer() {
    let api = ApiServer::start("a", status(503)).await;

    let found = first_judgement(&api, readyz(auto, Ca::None)).await;

    assert_eq!(found, (Health::Draining, Some("HTTP status 503".into())));
}

#[tokio::test]
async fn checks_use_one_connection_as_long_as_it_lasts() {
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".to_vec();
    for answer in [status(200), status(500), chunked] {
        let api = ApiServer::start("a", answer).await;
        let mut config = frontend(vec![api.backend()]);
        config.check = Check { interval: Duration::from_millis(5), ..readyz(https, Ca::None) };
        let rig = Rig::judged(config).await;
        let health = rig.backend("a").health;

        // A change of the answer is seen, so many checks have been made meanwhile.
        for change in [200, 500, 200, 500] {
            api.answer(status(change));
            rig.wait_health("a", if change == 200 { Health::Ready } else { Health::Draining }).await;
        }

        assert_eq!(api.server.accepted(), 1, "first {health}");
    }
}

#[tokio::test]
async fn a_server_that_closes_after_each_answer_neither_flaps_nor_makes_us_spin() {
    let polite = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok".to_vec();
    let api = ApiServer::start("a", polite).await;
    // It closes at once, whoever comes.
    let rude = Server::start(async |_| {}).await;
    let mut config = frontend(vec![api.backend()]);
    config.check = readyz(https, Ca::None);
    let polite = Rig::judged(config).await;
    let rude_rig = Rig::judged(frontend(vec![backend("rude", rude.address)])).await;
    let since = (polite.backend("a").since, rude_rig.backend("rude").since);

    // Time is what is measured here: 20 intervals.
    tokio::time::sleep(Duration::from_secs(1)).await;

    assert_eq!((polite.backend("a").health, rude_rig.backend("rude").health), (Health::Ready, Health::Ready));
    assert_eq!((polite.backend("a").since, rude_rig.backend("rude").since), since);
    assert!((5..=25).contains(&api.server.accepted()), "{} connects", api.server.accepted());
    assert!((5..=45).contains(&rude.accepted()), "{} connects", rude.accepted());
}

#[tokio::test]
async fn a_death_is_noticed_by_the_held_connection_long_before_the_next_check() {
    for check in [frontend(Vec::new()).check, readyz(https, Ca::None), readyz(auto, Ca::None)] {
        let api = ApiServer::start("a", status(200)).await;
        let mut config = frontend(vec![api.backend()]);
        config.check = Check { interval: Duration::from_secs(3600), fall: 1000, ..check };
        let rig = Rig::judged(config).await;
        assert_eq!(rig.backend("a").health, Health::Ready);

        api.server.kill().await;

        rig.wait_health("a", Health::Dead).await;
        assert_eq!(rig.backend("a").last_error.as_deref(), Some("connection refused"));
    }
}

/// A kube-apiserver that was killed and is started again at once: its port is open seconds before it serves.
#[tokio::test]
async fn a_process_in_the_place_of_a_lost_one_gets_nothing_new_until_it_answers() {
    #[derive(Clone, Copy, PartialEq)]
    enum Process {
        Serves,
        IsLostAndTheNextIsSilent,
    }
    async fn reaches(seen: &mut watch::Receiver<Process>, is_so: impl Fn(&Process) -> bool) {
        // Nobody tells any more when the test ends.
        let _ = seen.wait_for(is_so).await;
    }
    let ip = own_ip();
    let (life, seen) = watch::channel(Process::Serves);
    let identity = Identity::new(ip);
    let server = Server::start_at((ip, 0).into(), move |stream| {
        let (mut seen, identity) = (seen.clone(), identity.clone());
        async move {
            let serves = |process: &Process| *process == Process::Serves;
            reaches(&mut seen, serves).await;
            let Ok(mut stream) = identity.accept(stream).await else { return };
            loop {
                tokio::select! {
                    request = read_head(&mut stream) => match request {
                        Some(_) => stream.write_all(&status(200)).await.unwrap(),
                        None => return,
                    },
                    () = reaches(&mut seen, |process| !serves(process)) => return,
                }
            }
        }
    })
    .await;
    let mut config = frontend(vec![backend("a", server.address)]);
    // The handshake that nobody answers would be judged only after a minute.
    config.check = Check { timeout: Duration::from_secs(60), ..readyz(https, Ca::None) };
    let rig = Rig::judged(config).await;
    assert_eq!(rig.backend("a").health, Health::Ready);

    life.send_replace(Process::IsLostAndTheNextIsSilent);

    rig.wait_health("a", Health::Draining).await;
    assert!(rig.backend("a").last_error.unwrap().contains("does not answer yet"));
    life.send_replace(Process::Serves);
    rig.wait_health("a", Health::Ready).await;
}

#[tokio::test]
async fn a_failed_connect_in_the_data_path_brings_the_next_check_forward() {
    // Its checks are satisfied by a connection that stays, although nobody takes new ones.
    let (hold, mut holds) = tokio::sync::mpsc::channel(1);
    let server = Server::start(move |stream| {
        let hold = hold.clone();
        async move { hold.send(stream).await.unwrap() }
    })
    .await;
    let mut config = frontend(vec![backend("a", server.address)]);
    config.check.interval = Duration::from_secs(3600);
    let rig = Rig::judged(config).await;
    let _held = holds.recv().await.unwrap();
    server.kill().await;
    assert_eq!(rig.backend("a").health, Health::Ready);

    assert!(rig.resets().await);

    rig.wait_health("a", Health::Dead).await;
}

#[tokio::test]
async fn a_dead_backend_rises_after_its_successes_in_a_row() {
    let address = closed_address().await;
    let rig = Rig::judged(frontend(vec![backend("a", address)])).await;
    assert_eq!(rig.backend("a").health, Health::Dead);

    let _server = Server::start_at(address, echo).await;

    rig.wait_health("a", Health::Ready).await;
    assert_eq!(rig.backend("a").last_error, None);
}

#[tokio::test]
async fn a_process_whose_listening_socket_is_closed_last_is_dead_at_once_all_the_same() {
    let identity = Identity::new(own_ip());
    let listener = TcpListener::bind((own_ip(), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (kill, killed) = oneshot::channel::<()>();
    let process = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = identity.accept(stream).await.unwrap();
        read_head(&mut stream).await.unwrap();
        stream.write_all(&status(200)).await.unwrap();
        killed.await.unwrap();
        drop(stream);
        // The next connection comes while the socket still listens, and goes with it.
        let (last, _) = listener.accept().await.unwrap();
        socket2::SockRef::from(&last).set_linger(Some(Duration::ZERO)).unwrap();
    });
    let mut config = frontend(vec![backend("a", address)]);
    config.check = readyz(https, Ca::None);
    // The next check by time would be far away.
    config.check.interval = Duration::from_secs(600);
    let rig = Rig::judged(config).await;
    assert_eq!(rig.backend("a").health, Health::Ready);

    kill.send(()).unwrap();

    process.await.unwrap();
    rig.wait_health("a", Health::Dead).await;
}
