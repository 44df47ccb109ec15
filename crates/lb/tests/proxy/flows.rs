//! What happens to the bytes of a flow.

use std::time::Duration;

use fastrand::Rng;
use lb::Timeouts;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::rig::{Rig, Server, backend, echo, ended_by_reset, frontend, named_echo, read_name, soon};

const BULK: usize = 50 * 1024 * 1024;

/// Writes `length` bytes that follow from `seed`.
async fn say(stream: &mut (impl AsyncWrite + Unpin), seed: u64, length: usize) {
    let mut rng = Rng::with_seed(seed);
    let mut chunk = vec![0; 64 * 1024];
    for at in (0..length).step_by(chunk.len()) {
        rng.fill(&mut chunk);
        let end = chunk.len().min(length - at);
        stream.write_all(&chunk[..end]).await.unwrap();
    }
}

/// Reads `length` bytes and compares each with what follows from `seed`.
async fn hear(stream: &mut (impl AsyncRead + Unpin), seed: u64, length: usize) {
    let mut rng = Rng::with_seed(seed);
    let (mut expected, mut heard) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    for at in (0..length).step_by(expected.len()) {
        rng.fill(&mut expected);
        let end = expected.len().min(length - at);
        stream.read_exact(&mut heard[..end]).await.unwrap();
        assert!(heard[..end] == expected[..end], "bytes differ in the 64 KiB from {at}");
    }
}

#[tokio::test]
async fn fifty_megabytes_arrive_exactly_in_both_directions_at_once() {
    let server = Server::start(async |stream: TcpStream| {
        let (mut read, mut write) = stream.into_split();
        tokio::join!(hear(&mut read, 1, BULK), say(&mut write, 2, BULK));
        assert_eq!(read.read(&mut [0]).await.unwrap(), 0);
    })
    .await;
    let rig = Rig::judged(frontend(vec![backend("a", server.address)])).await;

    let (mut read, mut write) = rig.connect().await.into_split();
    tokio::join!(say(&mut write, 1, BULK), hear(&mut read, 2, BULK));
    drop(write);
    assert_eq!(soon(read.read(&mut [0])).await.unwrap(), 0);

    rig.wait(|status| status.connections == 0).await;
    let status = rig.backend("a");
    assert_eq!((status.bytes_to_backend, status.bytes_to_client), (BULK as u64, BULK as u64));
    assert_eq!((status.total, status.connections, status.retries), (1, 0, 0));
}

/// The acknowledgement that completes the handshake with a backend may wait for the client's first bytes, for 40 ms and more: not
/// where there are none, and the backend is to speak.
#[tokio::test]
async fn a_backend_that_speaks_first_does_not_wait_for_the_client() {
    let server = named_echo("a").await;
    let rig = Rig::judged(frontend(vec![backend("a", server.address)])).await;

    let mut waits = Vec::new();
    for _ in 0..15 {
        let began = tokio::time::Instant::now();
        let mut stream = rig.connect().await;
        assert_eq!(read_name(&mut stream).await.unwrap(), "a");
        waits.push(began.elapsed());
    }

    waits.sort();
    // Whatever else a busy machine does, half of them are quick.
    assert!(waits[waits.len() / 2] < Duration::from_millis(35), "{waits:?}");
}

#[tokio::test]
async fn the_end_of_the_client_s_stream_is_passed_on_and_the_answer_still_comes() {
    let server = Server::start(async |mut stream: TcpStream| {
        let mut question = Vec::new();
        stream.read_to_end(&mut question).await.unwrap();
        stream.write_all(&question.repeat(2)).await.unwrap();
    })
    .await;
    let rig = Rig::judged(frontend(vec![backend("a", server.address)])).await;

    let mut client = rig.connect().await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();

    let mut answer = String::new();
    soon(client.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(answer, "questionquestion");
}

#[tokio::test]
async fn the_end_of_the_backend_s_stream_is_passed_on_and_the_client_may_go_on() {
    let (heard, mut hears) = tokio::sync::mpsc::channel(1);
    let server = Server::start(move |mut stream: TcpStream| {
        let heard = heard.clone();
        async move {
            stream.write_all(b"hello").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut rest = String::new();
            if stream.read_to_string(&mut rest).await.is_ok() && !rest.is_empty() {
                heard.send(rest).await.unwrap();
            }
        }
    })
    .await;
    let rig = Rig::judged(frontend(vec![backend("a", server.address)])).await;

    let mut client = rig.connect().await;
    let mut hello = String::new();
    soon(client.read_to_string(&mut hello)).await.unwrap();
    client.write_all(b"and one more thing").await.unwrap();
    client.shutdown().await.unwrap();

    assert_eq!(hello, "hello");
    assert_eq!(soon(hears.recv()).await.unwrap(), "and one more thing");
}

#[tokio::test]
async fn a_backend_that_ends_without_a_word_still_hears_a_client_of_another_protocol() {
    let (heard, mut hears) = tokio::sync::mpsc::channel(1);
    let server = Server::start(move |mut stream: TcpStream| {
        let heard = heard.clone();
        async move {
            stream.shutdown().await.unwrap();
            let mut rest = String::new();
            if stream.read_to_string(&mut rest).await.is_ok() && !rest.is_empty() {
                heard.send(rest).await.unwrap();
            }
        }
    })
    .await;
    let rig = Rig::judged(frontend(vec![backend("a", server.address)])).await;

    let mut client = rig.connect().await;
    client.write_all(b"a file").await.unwrap();
    client.shutdown().await.unwrap();

    assert_eq!(soon(hears.recv()).await.unwrap(), "a file");
    assert!(!ended_by_reset(&mut client).await);
}

#[tokio::test]
async fn a_backend_that_closes_without_a_word_closes_a_silent_client_too() {
    let server = Server::start(async |_| {}).await;
    let rig = Rig::judged(frontend(vec![backend("a", server.address)])).await;

    let mut client = rig.connect().await;

    assert!(!ended_by_reset(&mut client).await);
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard() {
    let server = named_echo("a").await;
    let rig = Rig::judged(frontend(vec![backend("a", server.address)])).await;

    let mut client = rig.connect().await;

    assert_eq!(read_name(&mut client).await.unwrap(), "a");
}

#[tokio::test]
async fn a_backend_that_does_not_read_holds_the_client_back_and_loses_nothing() {
    const SAID: usize = 64 * 1024 * 1024;
    let (go, may_read) = tokio::sync::watch::channel(false);
    let server = Server::start(move |mut stream: TcpStream| {
        let mut may_read = may_read.clone();
        async move {
            if may_read.wait_for(|go| *go).await.is_ok() {
                let mut first = [0; 1];
                // The held connection of the health check says nothing.
                if stream.peek(&mut first).await.is_ok_and(|length| length > 0) {
                    hear(&mut stream, 3, SAID).await;
                    stream.write_all(b"!").await.unwrap();
                }
            }
        }
    })
    .await;
    let rig = Rig::judged(frontend(vec![backend("a", server.address)])).await;

    let (mut read, mut write) = rig.connect().await.into_split();
    let said = tokio::spawn(async move {
        say(&mut write, 3, SAID).await;
        write
    });
    // Until the kernel's buffers are full: two looks at the counter, far apart, that agree.
    let mut before = u64::MAX;
    while rig.backend("a").bytes_to_backend != before || before == 0 {
        before = rig.backend("a").bytes_to_backend;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(!said.is_finished() && before < SAID as u64, "{before} bytes went nowhere");
    go.send_replace(true);

    assert_eq!(soon(read.read_u8()).await.unwrap(), b'!');
    drop(said.await.unwrap());
}

#[tokio::test]
async fn a_silent_flow_is_reset_after_its_idle_timeout_and_an_active_one_is_not() {
    let server = Server::start(echo).await;
    let mut config = frontend(vec![backend("a", server.address)]);
    config.timeouts = Timeouts { idle: Some(Duration::from_millis(800)), ..Timeouts::default() };
    let rig = Rig::judged(config).await;
    let (mut silent, mut active) = (rig.connect().await, rig.connect().await);
    rig.wait(|status| status.connections == 2).await;

    let began = tokio::time::Instant::now();
    let talk = async {
        let mut beat = tokio::time::interval(Duration::from_millis(20));
        loop {
            beat.tick().await;
            active.write_all(b"x").await.unwrap();
            assert_eq!(active.read_u8().await.unwrap(), b'x');
        }
    };
    let reset = tokio::select! {
        reset = ended_by_reset(&mut silent) => reset,
        () = talk => unreachable!("it talks for ever"),
    };

    assert!(reset);
    assert!(began.elapsed() >= Duration::from_millis(700), "after {:?}", began.elapsed());
    // An answer may still be under way from the interrupted talk.
    active.write_all(b"y").await.unwrap();
    while soon(active.read_u8()).await.unwrap() != b'y' {}
}

#[tokio::test]
async fn a_client_that_resets_ends_its_flow_whatever_the_phase() {
    let server = Server::start(echo).await;
    let rig = Rig::judged(frontend(vec![backend("a", server.address)])).await;
    let reset = |client: TcpStream| client.set_zero_linger().unwrap();

    // Before a word.
    let client = rig.connect().await;
    rig.wait(|status| status.connections == 1).await;
    reset(client);
    rig.wait(|status| status.connections == 0).await;
    // In the middle of a conversation.
    let mut client = rig.connect().await;
    client.write_all(b"x").await.unwrap();
    soon(client.read_u8()).await.unwrap();
    reset(client);
    rig.wait(|status| status.connections == 0).await;
    // While data come towards it that it never reads.
    let mut client = rig.connect().await;
    let flood = vec![0; 32 * 1024];
    for _ in 0..32 {
        client.write_all(&flood).await.unwrap();
    }
    reset(client);
    rig.wait(|status| status.connections == 0).await;
    // At once.
    reset(rig.connect().await);
    rig.wait(|status| status.connections == 0 && status.accepted == 4).await;

    assert_eq!(rig.backend("a").connections, 0);
}

#[tokio::test]
async fn the_backend_learns_that_its_client_has_reset() {
    let (ended, mut ends) = tokio::sync::mpsc::channel(1);
    let server = Server::start(move |mut stream: TcpStream| {
        let ended = ended.clone();
        async move {
            if stream.read_u8().await.is_ok() {
                ended.send(stream.read_u8().await.unwrap_err().kind()).await.unwrap();
            }
        }
    })
    .await;
    let rig = Rig::judged(frontend(vec![backend("a", server.address)])).await;

    let mut client = rig.connect().await;
    client.write_all(b"x").await.unwrap();
    rig.wait(|status| status.backends[0].bytes_to_backend == 1).await;
    client.set_zero_linger().unwrap();
    drop(client);

    assert_eq!(soon(ends.recv()).await.unwrap(), std::io::ErrorKind::ConnectionReset);
}
