//! Handshakes that never end, and clients that are gone without a word: on a real segment, in network namespaces. Needs root.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fastrand::Rng;
use lb::{Balancer, CheckKind, Config, Frontend, Listen, Timeouts};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::bystanders::{Bystanders, Elsewhere};
use crate::ledger::Ledger;
use crate::rig::{Rig, Server, backend, echo, frontend, soon, until};
use crate::segment::{Namespace, Segment};
use crate::{ONE_AT_A_TIME, echoes};

/// Where the balancer is reached on its station, and the backends on theirs.
const BALANCER: SocketAddr = address(1, 7000);
const BACKEND: SocketAddr = address(2, 7001);

/// Requests of each kind that others make meanwhile.
const MEANWHILE: usize = 300;

/// SYNs sent at a time, and how often: twenty thousand a second.
const BURST: u32 = 500;
const BETWEEN: Duration = Duration::from_millis(25);

/// Clients of each kind that are gone without a word.
const GONE: usize = 50;

const fn address(station: u8, port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 0, 0, station)), port)
}

/// Four stations: the balancer's, the backend's, that of the others, and the abuser's.
struct Site {
    rig: Rig,
    others: Namespace,
    abuser: Namespace,
    balancer: Namespace,
    _elsewhere: Elsewhere,
    _server: Server,
    _segment: Segment,
}

impl Site {
    async fn new(configure: impl FnOnce(&mut Frontend)) -> Option<Self> {
        let segment = Segment::new(4)?;
        let [balancer, server, others, abuser] = &segment.stations[..] else {
            unreachable!("there are four")
        };
        let elsewhere = server.enter(Elsewhere::start);
        let running = elsewhere.run(Server::start_at(BACKEND, serve)).await;
        let mut config = frontend(vec![backend("a", BACKEND)]);
        config.listen = Listen::Addresses { ips: vec![BALANCER.ip()], port: BALANCER.port() };
        config.check.kind = CheckKind::None;
        configure(&mut config);
        let held = watch::Sender::new(BTreeSet::new());
        let config = Config { frontends: vec![config], workers: 2 };
        let started = balancer.enter(|| Balancer::start(config, held.subscribe())).unwrap();
        Some(Self {
            rig: Rig { balancer: started, held, address: BALANCER },
            others: others.clone(),
            abuser: abuser.clone(),
            balancer: balancer.clone(),
            _elsewhere: elsewhere,
            _server: running,
            _segment: segment,
        })
    }
}

/// Repeats what it hears; to one who begins with `>` it talks for ever, at a megabyte a second.
async fn serve(mut stream: TcpStream) {
    let mut first = [0];
    match stream.peek(&mut first).await {
        Ok(1) if first == *b">" => {
            while stream.write_all(&[b'x'; 4096]).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        Ok(_) | Err(_) => echo(stream).await,
    }
}

/// A thread that begins handshakes in the names of hosts that don't exist.
struct Flood {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Flood {
    fn start(from: &Namespace) -> Self {
        // The kernel takes the header as it is.
        let raw = || Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255)));
        let socket = from.enter(raw).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut rng = Rng::with_seed(1);
            let mut sent = 0;
            while !stopped.load(Ordering::Relaxed) {
                let burst = Instant::now();
                for _ in 0..BURST {
                    let source = SocketAddr::new([10, 0, 0, rng.u8(100..250)].into(), rng.u16(1024..));
                    // A full queue loses it, as a wire would.
                    sent += u64::from(socket.send_to(&syn(source, rng.u32(..)), &BALANCER.into()).is_ok());
                }
                std::thread::sleep(BETWEEN.saturating_sub(burst.elapsed()));
            }
            sent
        });
        Self { stop, thread }
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// The first packet of a connection to the balancer (RFC 9293 §3.1), with the IPv4 header before it.
fn syn(source: SocketAddr, sequence: u32) -> Vec<u8> {
    let ip = |address: SocketAddr| match address.ip() {
        std::net::IpAddr::V4(ip) => ip.octets(),
        std::net::IpAddr::V6(_) => unreachable!("the segment's stations are known by IPv4 here"),
    };
    let ips = [ip(source), ip(BALANCER)].concat();
    let mut segment = [source.port(), BALANCER.port()].map(u16::to_be_bytes).concat();
    segment.extend(sequence.to_be_bytes());
    // No acknowledgement; five words of header, SYN, a window, and the checksum's place.
    segment.extend([0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    let pseudo = [&ips[..], &[0, 6, 0, 20], &segment].concat();
    segment[16..18].copy_from_slice(&checksum(&pseudo).to_be_bytes());
    // The kernel fills in the header's own checksum.
    let header = [0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
    [&header[..], &ips, &segment].concat()
}

/// RFC 1071, of an even number of octets.
fn checksum(octets: &[u8]) -> u16 {
    let sum: u32 = octets.chunks_exact(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap()
}

/// One of the kernel's counters of TCP in a namespace.
fn counted(station: &Namespace, name: &str) -> u64 {
    let text = station.enter(|| std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap());
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, numbers) = (lines.next().unwrap(), lines.next().unwrap());
    let found = names.split(' ').zip(numbers.split(' ')).find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("no {name} in {names}")).1.parse().unwrap()
}

#[tokio::test]
async fn a_flood_of_half_open_handshakes_takes_no_place_and_is_felt_by_nobody() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(site) = Site::new(|_| {}).await else { return };
    let mut others = site.others.enter(|| Bystanders::start(&echoes(BALANCER)));
    others.go_on(1).await;

    let flood = Flood::start(&site.abuser);
    // The queue is full when the kernel begins to answer without remembering; then it counts.
    until(|| counted(&site.balancer, "TCPReqQFullDoCookies") > 0).await;
    others.go_on(MEANWHILE).await;
    let sent = flood.stop();

    let cookies = counted(&site.balancer, "TCPReqQFullDoCookies");
    let felt =
        others.stop(&format!("{sent} SYNs of hosts that don't exist, {cookies} beyond the queue")).await;
    felt.was_nothing();
    site.rig.wait(|status| status.connections == 0).await;
    let made = felt.anew.answered() + felt.lasting_connections();
    assert_eq!(site.rig.status().accepted, made as u64, "only the others came");
}

#[tokio::test]
async fn clients_that_are_gone_without_a_word_are_found_whether_silent_or_busy() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let timeouts = Timeouts {
        keepalive: Duration::from_secs(1),
        user_timeout: Duration::from_secs(3),
        ..Timeouts::default()
    };
    let configure = |config: &mut Frontend| (config.timeouts, config.access_log) = (timeouts, true);
    let Some(site) = Site::new(configure).await else { return };
    let ledger = Ledger::open();
    let mut others = site.others.enter(|| Bystanders::start(&echoes(BALANCER)));
    others.go_on(1).await;
    let elsewhere = site.abuser.enter(Elsewhere::start);
    let mut gone = Vec::new();
    let mut readers = JoinSet::new();
    for n in 0..2 * GONE {
        let said = if n < GONE { b"?" } else { b">" };
        let served = async move {
            let mut client = TcpStream::connect(BALANCER).await.unwrap();
            client.write_all(said).await.unwrap();
            client.read_u8().await.unwrap();
            client
        };
        let mut client = soon(elsewhere.run(served)).await;
        gone.push(client.local_addr().unwrap());
        readers.spawn(async move {
            let mut buffer = vec![0; 64 * 1024];
            while client.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
        });
    }
    until(|| site.rig.status().backends[0].bytes_to_client >= 1024 * 1024).await;

    site.abuser.ip("link set eth0 down");
    let began = Instant::now();
    others.go_on(MEANWHILE).await;
    until(|| gone.iter().all(|client| ledger.end_of(*client).is_some())).await;
    let took = began.elapsed();

    let of =
        format!("{} clients gone without a word, half of them in an answer, found in {took:.1?}", 2 * GONE);
    others.stop(&of).await.was_nothing();
    assert!(gone.iter().all(|client| ledger.end_of(*client).unwrap() == "client"));
    site.rig.wait(|status| status.connections == 0 && status.backends[0].connections == 0).await;
}
