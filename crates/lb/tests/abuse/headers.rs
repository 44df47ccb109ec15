//! Headers of the PROXY protocol that are none, from a proxy that is believed and from a client that isn't.

use std::io;
use std::time::Duration;

use fastrand::Rng;
use lb::{CheckKind, Network};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::bystanders::{Bystanders, Elsewhere};
use crate::rig::{Rig, Server, backend, frontend, soon, until};
use crate::{ONE_AT_A_TIME, echo_server, echoes};

/// The proxy that is believed, and somebody who isn't.
const PROXY: [u8; 4] = [127, 0, 77, 1];
const STRANGER: [u8; 4] = [127, 0, 77, 2];

/// Headers of each kind.
const TIMES: usize = 100;

/// Proxies that say nothing, or half of what they should.
const SILENT: usize = 200;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// What is wrong with a header.
#[derive(Debug, Clone, Copy)]
enum Wrong {
    NoHeader,
    AFlood,
    Text,
    EndlessText,
    Version,
    TooLong,
    TooShortForItsFamily,
    CutOff,
}

impl Wrong {
    const ALL: [Self; 8] = [
        Self::NoHeader,
        Self::AFlood,
        Self::Text,
        Self::EndlessText,
        Self::Version,
        Self::TooLong,
        Self::TooShortForItsFamily,
        Self::CutOff,
    ];

    /// One that no reader may take for a header.
    fn draw(self, rng: &mut Rng) -> Vec<u8> {
        match self {
            Self::NoHeader => {
                let first = *rng.choice(b"GET\0\x16\xff ").unwrap();
                let length = rng.usize(0..600);
                [vec![first], noise(rng, length)].concat()
            }
            Self::AFlood => vec![0xff; 64 * 1024],
            Self::Text => {
                let wrong = [
                    "TCP4 1.2.3.4 5.6.7.8 1 65536",
                    "TCP4 1.2.3.4 5.6.7.8 1",
                    "TCP4 1.2.3.4 5.6.7.8 1 2 3",
                    "TCP4 1.2.3.256 5.6.7.8 1 2",
                    "TCP4 fd00::1 fd00::2 1 2",
                    "TCP6 1.2.3.4 5.6.7.8 1 2",
                    "TCP4 1.2.3.4 5.6.7.8 -1 2",
                    "UDP4 1.2.3.4 5.6.7.8 1 2",
                    "TCP4",
                    "",
                    "unknown",
                ];
                format!("PROXY {}\r\n", rng.choice(wrong).unwrap()).into_bytes()
            }
            Self::EndlessText => {
                let length = rng.usize(100..2000);
                [&b"PROXY UNKNOWN "[..], &vec![b'x'; length]].concat()
            }
            Self::Version => {
                let command = rng.choice([0x00, 0x10, 0x11, 0x22, 0x2f, 0x31, 0xff]).unwrap();
                [&SIGNATURE[..], &[command, 0x11, 0, 12], &noise(rng, 12)].concat()
            }
            Self::TooLong => {
                let length = rng.u16(1000..);
                [&SIGNATURE[..], &[0x21, 0x11], &length.to_be_bytes(), &noise(rng, 2000)].concat()
            }
            Self::TooShortForItsFamily => {
                let (family, least) = rng.choice([(0x11, 12), (0x21, 36)]).unwrap();
                let length = rng.u8(0..least);
                [&SIGNATURE[..], &[0x21, family, 0, length], &noise(rng, length.into())].concat()
            }
            Self::CutOff => {
                let whole = rng.choice(WHOLE).unwrap();
                whole[..rng.usize(0..whole.len())].to_vec()
            }
        }
    }
}

/// Headers that are right. The last one is of a family that isn't TCP's, which says nothing of who it is (§2.2).
const WHOLE: [&[u8]; 4] = [
    b"PROXY TCP4 192.0.2.1 192.0.2.9 4711 443\r\n",
    b"PROXY UNKNOWN\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc0\0\x02\x09\x12\x67\x01\xbb",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0\x04unix",
];

fn noise(rng: &mut Rng, length: usize) -> Vec<u8> {
    let mut noise = vec![0; length];
    rng.fill(&mut noise);
    noise
}

async fn connect_from(ip: [u8; 4], rig: &Rig) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((ip, 0).into()).unwrap();
    let stream = soon(socket.connect(rig.address)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Says it in pieces of up to so many bytes, until all is said or nobody listens any more.
async fn say_in_pieces(stream: &mut TcpStream, bytes: &[u8], most: usize) -> io::Result<()> {
    for piece in bytes.chunks(most) {
        stream.write_all(piece).await?;
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// A rig that believes the proxy, and its backend, which echoes.
async fn believing(elsewhere: &Elsewhere) -> (Rig, Server) {
    let server = echo_server(elsewhere).await;
    let mut config = frontend(vec![backend("a", server.address)]);
    config.check.kind = CheckKind::None;
    config.proxies = vec![Network::new(PROXY.into(), 32).unwrap()];
    (Rig::start(config), server)
}

#[tokio::test]
async fn garbage_from_a_proxy_ends_its_connection_and_reaches_no_backend() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let seed = Rng::new().u64(..);
    eprintln!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let elsewhere = Elsewhere::start();
    let (rig, _server) = believing(&elsewhere).await;
    // Others are told from the garbage by what they say, which is as often as they come.
    let mut others = Bystanders::start(&echoes(rig.address));
    others.go_on(1).await;

    for wrong in Wrong::ALL {
        for _ in 0..TIMES {
            let rejected = rig.status().rejected;
            let garbage = wrong.draw(&mut rng);
            // A byte at a time, or in larger pieces, or all at once.
            let pieces = rng.choice([1, 7, usize::MAX]).unwrap();
            let mut proxy = connect_from(PROXY, &rig).await;
            // It may be reset before all is said; the kernel tells that once.
            let said = say_in_pieces(&mut proxy, &garbage, pieces).await;
            if said.is_ok() && matches!(wrong, Wrong::CutOff) {
                proxy.shutdown().await.unwrap();
            }
            let mut heard = Vec::new();
            let ended = soon(proxy.read_to_end(&mut heard)).await;
            let was_reset = said.is_err() || ended.is_err();
            assert!(was_reset && heard.is_empty(), "{wrong:?}: {garbage:x?}: {said:?} {ended:?} {heard:x?}");
            rig.wait(|status| status.rejected == rejected + 1).await;
        }
    }
    others.go_on(1).await;
    others.stop("garbage headers of eight kinds from a proxy").await.was_nothing();

    // Each whose word was heard was one of theirs.
    rig.wait(|status| status.connections == 0).await;
    let status = rig.status();
    assert_eq!(status.rejected, (Wrong::ALL.len() * TIMES) as u64);
    assert_eq!(status.accepted - status.rejected, status.backends[0].total);
}

#[tokio::test]
async fn a_header_that_comes_a_byte_at_a_time_is_heard() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let elsewhere = Elsewhere::start();
    let (rig, _server) = believing(&elsewhere).await;
    for whole in WHOLE {
        let mut proxy = connect_from(PROXY, &rig).await;
        say_in_pieces(&mut proxy, &[whole, b"word"].concat(), 1).await.unwrap();
        let mut heard = [0; 4];
        soon(proxy.read_exact(&mut heard)).await.unwrap();
        assert_eq!(&heard, b"word", "{whole:x?}");
    }
    rig.wait(|status| status.connections == 0 && status.rejected == 0).await;
}

#[tokio::test]
async fn from_a_stranger_headers_and_garbage_are_what_he_says() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let seed = Rng::new().u64(..);
    eprintln!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let elsewhere = Elsewhere::start();
    let (rig, _server) = believing(&elsewhere).await;
    let said = Wrong::ALL.iter().map(|wrong| wrong.draw(&mut rng)).chain(WHOLE.map(<[u8]>::to_vec));
    for said in said.filter(|said| !said.is_empty()) {
        let mut stranger = connect_from(STRANGER, &rig).await;
        let (mut read, mut write) = stranger.split();
        let mut heard = vec![0; said.len()];
        let (wrote, got) =
            soon(async { tokio::join!(write.write_all(&said), read.read_exact(&mut heard)) }).await;
        wrote.unwrap();
        got.unwrap();
        assert!(heard == said, "{said:x?} came back as {heard:x?}");
    }
    rig.wait(|status| status.connections == 0 && status.rejected == 0).await;
}

/// They have five seconds.
#[tokio::test]
async fn proxies_that_say_nothing_or_half_of_it_are_ended_and_hold_up_nobody() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let elsewhere = Elsewhere::start();
    let (rig, server) = believing(&elsewhere).await;
    let mut others = Bystanders::start(&echoes(rig.address));
    others.go_on(1).await;

    let mut silent = JoinSet::new();
    for n in 0..SILENT {
        let mut proxy = connect_from(PROXY, &rig).await;
        silent.spawn(async move {
            let half = &WHOLE[n % WHOLE.len()][..n % 12];
            proxy.write_all(half).await.unwrap();
            // What comes is its end.
            tokio::time::timeout(Duration::from_secs(20), proxy.read_u8()).await.unwrap().unwrap_err().kind()
        });
    }
    until(|| rig.status().connections >= SILENT).await;
    others.go_on(1).await;
    while let Some(end) = silent.join_next().await {
        assert_eq!(end.unwrap(), io::ErrorKind::ConnectionReset);
    }

    others.stop("200 connections of a proxy that doesn't say on whose behalf").await.was_nothing();
    rig.wait(|status| status.connections == 0 && status.rejected == SILENT as u64).await;
    assert_eq!(rig.status().accepted - SILENT as u64, server.accepted() as u64);
}
