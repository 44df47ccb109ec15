//! A backend's process killed under load: nothing fails that could have been tried again, and nothing new goes there any more.
//!
//! A connection can go on elsewhere until its backend has said something. So a new connection may fail only if the killed one has spoken on
//! it, and on a connection that lasts the request alone that is under way at that moment.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lb::{Ca, Check, Health, Monitor};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};
use tokio_rustls::client::TlsStream;

use crate::ONE_AT_A_TIME;
use crate::bystanders::Elsewhere;
use crate::processes::{ANSWER_LENGTH, Process};
use crate::rig::{PATIENCE, Rig, accept_any, auto, frontend, own_ip, readyz};

/// Requests a second that are wanted, over connections that last; how many it became, is told.
const RATE: u32 = 5000;
/// Connections that last.
const LASTING: u32 = 64;

/// Clients that connect anew for each request, and how long they pause: a handshake takes milliseconds where nothing is optimised.
const ANEW: usize = 2;
const PAUSE: Duration = Duration::from_millis(30);

/// Clients that come at the moment of the kill, a millisecond one after the other.
const THEN: u32 = 24;

/// Load before each kill.
const BEFORE: Duration = Duration::from_secs(1);

/// Within this time nothing goes to the killed backend any more. Wanted are 10 ms, and told is how many it became; where the machine is
/// busy, threads wait for a processor.
const OFF: Duration = Duration::from_secs(1);

const REQUEST: &[u8] = b"GET /api/v1/nodes HTTP/1.1\r\nHost: x\r\n\r\n";

/// A connection that counts what is heard on it.
struct Counting {
    stream: TcpStream,
    heard: Arc<AtomicUsize>,
}

impl AsyncRead for Counting {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        self.heard.fetch_add(buffer.filled().len() - before, Ordering::Relaxed);
        Poll::Ready(read)
    }
}

impl AsyncWrite for Counting {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

type Stream = TlsStream<Counting>;

/// A request that has failed.
#[derive(Debug)]
struct Failure {
    /// When it was begun, with its connection if that was new.
    began: Instant,
    /// Whether anything had been heard on that connection.
    heard: bool,
    /// Who had answered on it before.
    by: Option<char>,
    error: io::Error,
}

/// What the clients tell.
#[derive(Debug, Default)]
struct Told {
    answered: AtomicUsize,
    /// Lasting connections that ended with nothing under way.
    ended: AtomicUsize,
    failures: Mutex<Vec<Failure>>,
}

impl Told {
    fn failed(&self, failure: Failure) {
        self.failures.lock().unwrap().push(failure);
    }
}

async fn connect(address: SocketAddr, heard: &Arc<AtomicUsize>) -> io::Result<Stream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let counting = Counting { stream, heard: Arc::clone(heard) };
    accept_any().connect("api.test".try_into().unwrap(), counting).await
}

/// Asks, and tells who has answered.
async fn ask(stream: &mut Stream) -> io::Result<char> {
    stream.write_all(REQUEST).await?;
    stream.flush().await?;
    let mut answer = [0; ANSWER_LENGTH];
    stream.read_exact(&mut answer).await?;
    Ok(char::from(answer[ANSWER_LENGTH - 1]))
}

async fn in_time<T>(future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// One request over a new connection, and that if it was answered.
async fn ask_anew(address: SocketAddr, told: &Told) -> Option<(Stream, char)> {
    let (began, heard) = (Instant::now(), Arc::new(AtomicUsize::new(0)));
    let asked = in_time(async {
        let mut stream = connect(address, &heard).await?;
        let by = ask(&mut stream).await?;
        Ok((stream, by))
    });
    match asked.await {
        Ok(answered) => {
            told.answered.fetch_add(1, Ordering::Relaxed);
            Some(answered)
        }
        Err(error) => {
            let heard = heard.load(Ordering::Relaxed) > 0;
            told.failed(Failure { began, heard, by: None, error });
            None
        }
    }
}

/// Requests at a steady rate over a connection that lasts; as a client of HTTP does, it listens between them.
async fn last(address: SocketAddr, told: Arc<Told>, stopped: watch::Receiver<bool>) {
    let interval = Duration::from_secs(1) * LASTING / RATE;
    let mut open: Option<(Stream, char)> = None;
    let mut due = tokio::time::Instant::now();
    while !*stopped.borrow() {
        due = (due + interval).max(tokio::time::Instant::now());
        let Some((stream, by)) = &mut open else {
            open = ask_anew(address, &told).await;
            continue;
        };
        let mut more = [0; 1];
        tokio::select! {
            biased;
            // Nothing is due, so it is its end.
            _ = stream.read(&mut more) => {
                told.ended.fetch_add(1, Ordering::Relaxed);
                open = None;
                continue;
            }
            () = sleep_until(due) => {}
        }
        let began = Instant::now();
        match in_time(ask(stream)).await {
            Ok(_) => drop(told.answered.fetch_add(1, Ordering::Relaxed)),
            Err(error) => {
                told.failed(Failure { began, heard: true, by: Some(*by), error });
                open = None;
            }
        }
    }
}

/// A new connection for each request.
async fn come_anew(address: SocketAddr, told: Arc<Told>, stopped: watch::Receiver<bool>) {
    while !*stopped.borrow() {
        drop(ask_anew(address, &told).await);
        tokio::time::sleep(PAUSE).await;
    }
}

/// When a backend got what was its last.
#[derive(Debug, Clone, Copy)]
struct Off {
    /// The last new connection, whether it was taken or not.
    attempt: Instant,
    /// The end of its last connection.
    connection: Instant,
}

/// A thread that looks at a backend several times a millisecond, until it is told to stop.
struct Lookout {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Off>,
}

impl Lookout {
    fn start(monitor: Monitor, name: String) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let look = || {
                let status = monitor.status().frontends.remove(0);
                status.backends.into_iter().find(|backend| backend.name == name).unwrap()
            };
            let (mut attempts, now) = (0, Instant::now());
            let mut off = Off { attempt: now, connection: now };
            while !stopped.load(Ordering::Relaxed) {
                let (seen, now) = (look(), Instant::now());
                if attempts != seen.total + seen.connect_failures {
                    (attempts, off.attempt) = (seen.total + seen.connect_failures, now);
                }
                if seen.connections > 0 {
                    off.connection = now;
                }
                std::thread::sleep(Duration::from_micros(200));
            }
            off
        });
        Self { stop, thread }
    }

    fn stop(self) -> Off {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// One kill.
#[derive(Debug, Clone, Copy)]
struct Kill {
    name: char,
    /// The kernel had ended the process, with all that it had open.
    done: Instant,
    /// The balancer had ended its last connection to it, too.
    over: Instant,
}

#[tokio::test]
async fn a_backend_killed_under_load_fails_no_request_that_could_be_tried_again() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let names = ['a', 'b', 'c'];
    let mut processes = names.map(|name| Process::start(name, SocketAddr::new(own_ip(), 0)));
    let mut config = frontend(processes.iter().map(Process::backend).collect());
    // As it is by default, but that a backend that has come back is found sooner.
    config.check = Check { interval: Duration::from_millis(300), ..readyz(auto, Ca::None) };
    let rig = Rig::judged(config).await;
    let (told, stop, clients) = (Arc::new(Told::default()), watch::Sender::new(false), Elsewhere::start());
    let mut load = JoinSet::new();
    for _ in 0..LASTING {
        load.spawn_on(last(rig.address, Arc::clone(&told), stop.subscribe()), clients.handle());
    }
    for _ in 0..ANEW {
        load.spawn_on(come_anew(rig.address, Arc::clone(&told), stop.subscribe()), clients.handle());
    }

    let mut kills = Vec::new();
    for process in &mut processes {
        let name = process.name.to_string();
        rig.wait(|_| rig.backend(&name).connections >= 8).await;
        let answered = told.answered.load(Ordering::Relaxed);
        tokio::time::sleep(BEFORE).await;
        let rate = told.answered.load(Ordering::Relaxed) - answered;
        let lookout = Lookout::start(rig.balancer.monitor(), name.clone());
        let ordered = Instant::now();
        process.kill();
        for n in 0..THEN {
            let (address, told) = (rig.address, Arc::clone(&told));
            let comes = async move {
                tokio::time::sleep(Duration::from_millis(1) * n).await;
                drop(ask_anew(address, &told).await);
            };
            load.spawn_on(comes, clients.handle());
        }
        while !process.has_ended() {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        let done = Instant::now();
        rig.wait_health(&name, Health::Dead).await;
        let known = rig.backend(&name).since;
        tokio::time::sleep(BEFORE).await;
        let off = lookout.stop();
        let after = |then: Instant| then.saturating_duration_since(ordered);
        eprintln!(
            "{name} killed at {rate} requests/s: gone after {:.1?}, known to be dead after {:.1?}, its last new connection after {:.1?}, \
             its last one ended after {:.1?}",
            after(done),
            after(known),
            after(off.attempt),
            after(off.connection)
        );
        assert!(after(off.attempt).max(after(off.connection)) < OFF, "{off:?}");
        kills.push(Kill { name: process.name, done, over: done.max(off.connection) });
        process.replace();
        rig.wait_health(&name, Health::Ready).await;
    }
    stop.send_replace(true);
    while let Some(client) = load.join_next().await {
        client.unwrap();
    }
    judge(&told, &kills);
    assert_eq!(rig.status().refused, 0);
}

/// Fails the test if a request has failed that needn't have.
fn judge(told: &Told, kills: &[Kill]) {
    let failures = told.failures.lock().unwrap();
    let (new, lasting): (Vec<_>, Vec<_>) = failures.iter().partition(|failure| failure.by.is_none());
    eprintln!(
        "{} answered; under way at a kill: {} on lasting connections, {} on new ones with half an answer; {} were idle",
        told.answered.load(Ordering::Relaxed),
        lasting.len(),
        new.len(),
        told.ended.load(Ordering::Relaxed)
    );
    for failure in failures.iter() {
        let hung = failure.error.kind() == io::ErrorKind::TimedOut;
        assert!(!hung, "its client was not told: {failure:?}");
    }
    for failure in new {
        assert!(failure.heard, "it could have gone elsewhere: {failure:?}");
        assert!(kills.iter().any(|kill| failure.began < kill.done), "it came afterwards: {failure:?}");
    }
    for failure in lasting {
        // Its client may hear of the end a moment later.
        let was_under_way = |kill: &Kill| failure.by == Some(kill.name) && failure.began < kill.over + OFF;
        assert!(kills.iter().any(was_under_way), "its backend was well: {failure:?}");
    }
}
