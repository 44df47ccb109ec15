//! A reset in every phase of a connection, from either side: it is counted out, its descriptors are free, and the access log says who
//! it was.

use std::net::SocketAddr;
use std::time::Duration;

use lb::{CheckKind, Frontend};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::bystanders::{Bystanders, Elsewhere};
use crate::ledger::Ledger;
use crate::rig::{Rig, backend, ended_by_reset, frontend, own_ip, soon, until};
use crate::{ONE_AT_A_TIME, echo_server, echoes};

/// Connections that are reset in each phase.
const TIMES: usize = 20;

/// More than the kernel keeps of an answer that nobody reads.
const MOST: usize = 64 * 1024 * 1024;

/// A backend whose every move is the test's.
struct Puppet {
    listener: TcpListener,
    address: SocketAddr,
}

impl Puppet {
    async fn new() -> Self {
        let listener = TcpListener::bind((own_ip(), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { listener, address }
    }

    /// The next connection that the balancer makes.
    async fn accept(&self) -> TcpStream {
        soon(self.listener.accept()).await.unwrap().0
    }
}

/// One backend, about whom nothing is asked.
fn alone(address: SocketAddr) -> Frontend {
    let mut config = frontend(vec![backend("a", address)]);
    config.check.kind = CheckKind::None;
    config.access_log = true;
    config
}

fn reset(stream: TcpStream) {
    stream.set_zero_linger().unwrap();
}

async fn say(stream: &mut TcpStream, word: &[u8]) {
    soon(stream.write_all(word)).await.unwrap();
}

async fn hear(stream: &mut TcpStream, word: &[u8]) {
    let mut heard = vec![0; word.len()];
    soon(stream.read_exact(&mut heard)).await.unwrap();
    assert_eq!(heard, word);
}

async fn hear_the_end(stream: &mut TcpStream) {
    assert_eq!(soon(stream.read(&mut [0])).await.unwrap(), 0);
}

/// Where a connection is when it is reset.
#[derive(Debug, Clone, Copy)]
enum Phase {
    BeforeAWord,
    AfterTheRequest,
    InTheAnswer,
    InTheAnswerThatNobodyReads,
    AfterTheClientsEnd,
    AfterTheBackendsEnd,
}

impl Phase {
    const ALL: [Self; 6] = [
        Self::BeforeAWord,
        Self::AfterTheRequest,
        Self::InTheAnswer,
        Self::InTheAnswerThatNobodyReads,
        Self::AfterTheClientsEnd,
        Self::AfterTheBackendsEnd,
    ];

    /// What is told of a connection that the backend has reset there. Before a word, another backend would be gone to.
    fn end_of_backend(self) -> &'static str {
        match self {
            Self::BeforeAWord => "no-backend",
            Self::AfterTheRequest
            | Self::InTheAnswer
            | Self::InTheAnswerThatNobodyReads
            | Self::AfterTheClientsEnd => "backend",
            Self::AfterTheBackendsEnd => "finished",
        }
    }

    /// Brings a connection there.
    async fn reach(self, rig: &Rig, puppet: &Puppet) -> (TcpStream, TcpStream) {
        let mut client = rig.connect().await;
        let mut server = puppet.accept().await;
        if let Self::BeforeAWord = self {
            return (client, server);
        }
        say(&mut client, b"request").await;
        hear(&mut server, b"request").await;
        match self {
            Self::BeforeAWord | Self::AfterTheRequest => {}
            Self::InTheAnswer => {
                say(&mut server, b"half an ").await;
                hear(&mut client, b"half an ").await;
            }
            Self::InTheAnswerThatNobodyReads => {
                let answer = vec![b'a'; 256 * 1024];
                let mut said = 0;
                // Until nobody takes any more.
                while let Ok(more) =
                    tokio::time::timeout(Duration::from_millis(100), server.write(&answer)).await
                {
                    said += more.unwrap();
                    assert!(said < MOST, "it went nowhere");
                }
            }
            Self::AfterTheClientsEnd => {
                client.shutdown().await.unwrap();
                hear_the_end(&mut server).await;
            }
            Self::AfterTheBackendsEnd => {
                server.shutdown().await.unwrap();
                hear_the_end(&mut client).await;
            }
        }
        (client, server)
    }
}

/// Descriptors of the others' connections, which come and go meanwhile: three ends of each in this process, and their backend's.
const SPREAD: usize = 8 * 4;

/// Sockets of this process. Other descriptors come and go with the runtimes of tests that wait for their turn.
fn sockets() -> usize {
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap();
    // One that is closed meanwhile leads nowhere.
    let leads_to = descriptors.filter_map(|descriptor| std::fs::read_link(descriptor.unwrap().path()).ok());
    leads_to.filter(|path| path.to_string_lossy().starts_with("socket:")).count()
}

async fn is_told(client: SocketAddr, end: &str, phase: impl std::fmt::Debug) {
    let ledger = Ledger::open();
    until(|| ledger.end_of(client).is_some()).await;
    assert_eq!(ledger.end_of(client).unwrap(), end, "{phase:?}");
}

/// Resets one side of many connections in every phase, and looks at the other one.
async fn in_every_phase(resets_client: bool, of: &str) {
    let _turn = ONE_AT_A_TIME.lock().await;
    Ledger::open();
    let (puppet, elsewhere) = (Puppet::new().await, Elsewhere::start());
    let server = echo_server(&elsewhere).await;
    let rig = Rig::start_all(vec![alone(puppet.address), frontend(vec![backend("b", server.address)])]);
    let mut others = Bystanders::start(&echoes(rig.balancer.status().frontends[1].listen[0]));
    others.go_on(1).await;
    let before = sockets();
    for phase in Phase::ALL {
        for _ in 0..TIMES {
            let (client, server) = phase.reach(&rig, &puppet).await;
            let own = client.local_addr().unwrap();
            let (one, mut other) = if resets_client { (client, server) } else { (server, client) };
            reset(one);
            match (phase, resets_client) {
                // Who has heard the end of a stream hears no more of it; the kernel knows.
                (Phase::AfterTheClientsEnd, true) => until(|| other.take_error().unwrap().is_some()).await,
                // Its answer is whole.
                (Phase::AfterTheBackendsEnd, false) => {}
                _ => assert!(ended_by_reset(&mut other).await, "{phase:?}"),
            }
            rig.wait(|status| status.connections == 0 && status.backends[0].connections == 0).await;
            is_told(own, if resets_client { "client" } else { phase.end_of_backend() }, phase).await;
        }
    }
    others.go_on(1).await;
    until(|| sockets() <= before + SPREAD).await;
    others.stop(of).await.was_nothing();
}

#[tokio::test]
async fn clients_that_reset_in_whatever_phase_are_counted_out_and_told_of() {
    in_every_phase(true, "clients that reset in every phase").await;
}

#[tokio::test]
async fn backends_that_reset_in_whatever_phase_are_counted_out_and_told_of() {
    in_every_phase(false, "backends that reset in every phase").await;
}

#[tokio::test]
async fn clients_that_reset_before_they_are_accepted_are_counted_in_and_out() {
    let _turn = ONE_AT_A_TIME.lock().await;
    Ledger::open();
    let puppet = Puppet::new().await;
    let mut config = alone(puppet.address);
    config.limits.max_connections = 1;
    let rig = Rig::start(config);
    let before = sockets();
    let first = rig.connect().await;
    let _server = puppet.accept().await;

    // Each worker takes one and holds it; the others wait in the kernel.
    let mut owns = Vec::new();
    for _ in 0..TIMES {
        let client = rig.connect().await;
        owns.push(client.local_addr().unwrap());
        reset(client);
    }
    assert!(rig.status().accepted < 1 + TIMES as u64);
    reset(first);

    rig.wait(|status| status.accepted == 1 + TIMES as u64 && status.connections == 0).await;
    for own in owns {
        is_told(own, "client", "in the accept queue").await;
    }
    drop((puppet, _server));
    until(|| sockets() < before).await;
}

/// A listener whose queue is full, so that connecting to it takes until there is room; and the connection that fills it.
pub(crate) async fn full() -> (TcpListener, SocketAddr, TcpStream) {
    let listener = std::net::TcpListener::bind((own_ip(), 0)).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let filler = TcpStream::connect(address).await.unwrap();
    (TcpListener::from_std(listener).unwrap(), address, filler)
}

#[tokio::test]
async fn a_client_that_resets_while_its_backend_is_connected_to_is_told_of_afterwards() {
    let _turn = ONE_AT_A_TIME.lock().await;
    Ledger::open();
    let (listener, address, _filler) = full().await;
    let mut config = alone(address);
    config.timeouts.connect = Duration::from_secs(3600);
    let rig = Rig::start(config);

    let client = rig.connect().await;
    let own = client.local_addr().unwrap();
    rig.wait(|status| status.backends[0].connections == 1).await;
    reset(client);
    // There is room from now on. The backend may never hear of it: the reset comes with the last word of the handshake.
    let _filled = listener.accept().await.unwrap();

    rig.wait(|status| status.backends[0].total == 1).await;
    rig.wait(|status| status.connections == 0 && status.backends[0].connections == 0).await;
    is_told(own, "client", "connecting").await;
}

#[tokio::test]
async fn a_backend_that_refuses_or_resets_what_it_has_not_accepted_yet_is_told_of() {
    let _turn = ONE_AT_A_TIME.lock().await;
    Ledger::open();
    for says_something in [false, true] {
        let puppet = Puppet::new().await;
        let rig = Rig::start(alone(puppet.address));
        let mut client = rig.connect().await;
        let own = client.local_addr().unwrap();
        rig.wait(|status| status.backends[0].total == 1).await;
        if says_something {
            say(&mut client, b"request").await;
            rig.wait(|status| status.backends[0].bytes_to_backend == 7).await;
        }
        drop(puppet);

        assert!(ended_by_reset(&mut client).await);
        rig.wait(|status| status.connections == 0).await;
        // Who has said nothing goes on to the next backend, if there is one.
        let end = if says_something { "backend" } else { "no-backend" };
        is_told(own, end, "in the backend's queue").await;
        assert_eq!(rig.status().refused, u64::from(!says_something));

        // Nobody listens there any more.
        let client = soon(TcpStream::connect(rig.address)).await;
        if let Ok(mut client) = client {
            let own = client.local_addr().unwrap();
            assert!(ended_by_reset(&mut client).await);
            is_told(own, "no-backend", "refused").await;
        }
    }
}

#[tokio::test]
async fn what_a_backend_has_said_reaches_its_client_whole_although_it_resets_afterwards() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let puppet = Puppet::new().await;
    let rig = Rig::start(alone(puppet.address));
    let mut client = rig.connect().await;
    let mut server = puppet.accept().await;
    say(&mut client, b"request").await;
    hear(&mut server, b"request").await;
    // The kernel keeps as much for a client that doesn't read yet.
    let answer = vec![b'a'; 128 * 1024];
    say(&mut server, &answer).await;
    server.shutdown().await.unwrap();
    rig.wait(|status| status.backends[0].bytes_to_client == answer.len() as u64).await;

    reset(server);

    rig.wait(|status| status.connections == 0).await;
    hear(&mut client, &answer).await;
    hear_the_end(&mut client).await;
}
