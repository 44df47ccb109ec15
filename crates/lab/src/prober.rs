//! What a client sees: a new HTTPS request to the virtual IP every few milliseconds.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use crate::journal::Journal;
use crate::namespace::Namespace;
use crate::observer::Observer;

/// Time between the starts of two attempts; also the resolution of a silence.
pub const INTERVAL: Duration = Duration::from_millis(4);
/// An attempt that takes longer has failed. Shorter than the kernel's first SYN retransmission (1 s), so that an
/// attempt never succeeds late because of it, and a silence ends with the first attempt that could succeed.
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(400);
/// Attempts at one time: those that start within one timeout, and some room.
const MAX_IN_FLIGHT: usize = 128;
/// Connections that stand but are not answered yet. With more, the machine (or the system) cannot follow, and further
/// handshakes would only make all of them late: attempts start [more slowly](SLOW_INTERVAL) until some are done.
const MAX_STANDING: usize = 16;
/// Time between the starts of two attempts while so many connections stand.
const SLOW_INTERVAL: Duration = Duration::from_millis(25);
/// Attempts remembered: eight minutes.
const MEMORY: usize = 120_000;
/// The answer to a probe has a few hundred bytes.
const MAX_ANSWER: usize = 16_384;

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Status 200.
    Ok,
    /// Answered with a reset: nobody listens.
    Refused,
    /// The network said no: no route, or nobody answers ARP.
    Unreachable,
    /// Nobody answered the connection request in time.
    ConnectTimeout,
    /// Connected, but TLS failed, was cut or took too long.
    HandshakeFailed,
    /// TLS stood, but the answer never came whole.
    RequestCut,
    /// A whole answer with another status.
    BadStatus,
}

impl Verdict {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::ConnectTimeout => "connect timeout",
            Self::HandshakeFailed => "handshake failed",
            Self::RequestCut => "request cut",
            Self::BadStatus => "bad status",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One request, from connect to the last byte of the answer.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// When it began.
    pub started: Instant,
    /// When TCP stood.
    pub connected: Option<Instant>,
    /// When TLS stood.
    pub secured: Option<Instant>,
    /// When it was over.
    pub ended: Instant,
    /// How it ended.
    pub verdict: Verdict,
}

/// Where to send requests, and whom to trust.
#[derive(Debug, Clone)]
pub struct Target {
    /// The address.
    pub address: SocketAddr,
    /// The TLS client.
    pub tls: Arc<rustls::ClientConfig>,
}

impl Target {
    /// Makes one request for `/readyz` and waits for its end, at most [`ATTEMPT_TIMEOUT`].
    pub async fn attempt(&self) -> Attempt {
        self.attempt_within(ATTEMPT_TIMEOUT).await
    }

    /// Makes one request with a time limit of its own.
    pub async fn attempt_within(&self, limit: Duration) -> Attempt {
        self.attempt_counted(limit, &AtomicUsize::new(0)).await
    }

    /// Makes one request and says which node's server answered: only the stand-in backends tell.
    ///
    /// # Errors
    /// If there is no whole answer in time, or it names nobody.
    pub async fn answering_node(&self, limit: Duration) -> Result<String> {
        let answer = tokio::time::timeout(limit, async {
            let stream = TcpStream::connect(self.address).await?;
            let name = ServerName::IpAddress(self.address.ip().into());
            let mut stream = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await?;
            exchange(&mut stream).await
        });
        let (_, answer) = answer.await.with_context(|| format!("no answer from {}", self.address))??;
        let head = String::from_utf8_lossy(&answer).into_owned();
        let node = head.lines().find_map(|line| line.strip_prefix("server: "));
        node.map(str::to_owned).with_context(|| format!("nobody's name in {head}"))
    }

    /// Makes so many requests from a host, one after the other, and says whose servers answered.
    ///
    /// # Errors
    /// Those of [`Target::answering_node`], at the first that fails.
    pub async fn answering_nodes(
        self,
        from: &Arc<Namespace>,
        requests: usize,
        limit: Duration,
    ) -> Result<BTreeSet<String>> {
        let ask = async move || {
            let mut nodes = BTreeSet::new();
            for _ in 0..requests {
                nodes.insert(self.answering_node(limit).await?);
            }
            Ok(nodes)
        };
        from.run(ask).await
    }

    async fn attempt_counted(&self, limit: Duration, standing: &AtomicUsize) -> Attempt {
        let started = Instant::now();
        let deadline = started + limit;
        let mut attempt =
            Attempt { started, connected: None, secured: None, ended: started, verdict: Verdict::Ok };
        let connected = timeout_at(deadline, TcpStream::connect(self.address)).await;
        attempt.ended = Instant::now();
        attempt.verdict = match connected {
            Ok(Ok(stream)) => {
                attempt.connected = Some(attempt.ended);
                standing.fetch_add(1, Ordering::Relaxed);
                let verdict = self.fill(stream, &mut attempt, deadline).await;
                standing.fetch_sub(1, Ordering::Relaxed);
                verdict
            }
            Ok(Err(error)) => connect_failure(&error),
            Err(_) => Verdict::ConnectTimeout,
        };
        attempt
    }

    /// The part of an attempt after TCP stands.
    async fn fill(&self, stream: TcpStream, attempt: &mut Attempt, deadline: Instant) -> Verdict {
        stream.set_nodelay(true).ok();
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let name = ServerName::IpAddress(self.address.ip().into());
        let secured = timeout_at(deadline, connector.connect(name, stream)).await;
        attempt.ended = Instant::now();
        let Ok(Ok(mut stream)) = secured else { return Verdict::HandshakeFailed };
        attempt.secured = Some(attempt.ended);

        let answer = timeout_at(deadline, exchange(&mut stream)).await;
        attempt.ended = Instant::now();
        let verdict = match answer {
            Ok(Ok((200, _))) => Verdict::Ok,
            Ok(Ok(_)) => Verdict::BadStatus,
            Ok(Err(_)) | Err(_) => Verdict::RequestCut,
        };
        // The server closes first, so that the client's ports are free again at once.
        let mut rest = [0; 512];
        timeout_at(deadline, stream.read(&mut rest)).await.ok();
        verdict
    }
}

fn connect_failure(error: &io::Error) -> Verdict {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, TimedOut};
    if [ConnectionRefused, ConnectionReset].contains(&error.kind()) {
        Verdict::Refused
    } else if error.kind() == TimedOut {
        Verdict::ConnectTimeout
    } else {
        Verdict::Unreachable
    }
}

/// Sends the request and reads one answer with a Content-Length; returns its status and all of it.
async fn exchange(stream: &mut tokio_rustls::client::TlsStream<TcpStream>) -> io::Result<(u16, Vec<u8>)> {
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n").await?;
    let mut answer = Vec::with_capacity(512);
    loop {
        if let Some(status) = whole_answer(&answer) {
            return Ok((status, answer));
        }
        if answer.len() > MAX_ANSWER || stream.read_buf(&mut answer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// The status of an HTTP/1.1 answer, once it is all there.
fn whole_answer(answer: &[u8]) -> Option<u16> {
    let head_end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&answer[..head_end]).ok()?;
    let status = head.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    })?;
    (answer.len() - head_end >= length).then_some(status)
}

/// Makes an attempt every [`INTERVAL`], or at another pace, from one namespace until it is dropped.
#[derive(Debug)]
pub struct Prober {
    attempts: Arc<Journal<Attempt>>,
    _observer: Observer,
}

impl Prober {
    /// Starts probing.
    ///
    /// # Errors
    /// If its thread cannot be started.
    pub async fn start(from: Arc<Namespace>, target: Target) -> Result<Self> {
        Self::start_paced(from, target, INTERVAL).await
    }

    /// Starts probing with another time between the starts of two attempts, where several probers share the machine.
    ///
    /// # Errors
    /// If its thread cannot be started.
    pub async fn start_paced(from: Arc<Namespace>, target: Target, interval: Duration) -> Result<Self> {
        let attempts = Arc::new(Journal::new(MEMORY));
        let journal = Arc::clone(&attempts);
        let observer = Observer::start("prober", from, move |stop, ready| async move {
            ready.send(()).ok();
            probe(target, interval, journal, stop).await;
            Ok(())
        });
        Ok(Self { attempts, _observer: observer.await? })
    }

    /// All attempts that have ended.
    pub fn attempts(&self) -> &Journal<Attempt> {
        &self.attempts
    }
}

async fn probe(target: Target, interval: Duration, journal: Arc<Journal<Attempt>>, stop: CancellationToken) {
    let target = Arc::new(target);
    let places = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
    let standing = Arc::new(AtomicUsize::new(0));
    let mut running = JoinSet::new();
    let mut last_start = Instant::now();
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            now = ticks.tick() => {
                let crowded = standing.load(Ordering::Relaxed) >= MAX_STANDING;
                if crowded && now.duration_since(last_start) < SLOW_INTERVAL {
                    continue;
                }
                last_start = now;
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
                let (target, journal) = (Arc::clone(&target), Arc::clone(&journal));
                let standing = Arc::clone(&standing);
                running.spawn(async move {
                    let attempt = target.attempt_counted(ATTEMPT_TIMEOUT, &standing).await;
                    drop(place);
                    journal.push(attempt);
                });
            }
            Some(_) = running.join_next() => {}
        }
    }
    running.shutdown().await;
}

/// What the attempts of a stretch of time say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Service {
    /// Good answers.
    pub good: usize,
    /// The longest time between the ends of two successive good answers, or from the last one to the end.
    pub silence: Duration,
    /// Failed attempts by the way they failed.
    pub failed: BTreeMap<Verdict, usize>,
}

impl Service {
    /// Reads the attempts that ended after `from`; the last good answer before it is where a silence may begin.
    pub fn between(attempts: &[Attempt], from: Instant, until: Instant) -> Self {
        let mut service = Self::default();
        let mut good: Vec<Instant> = Vec::new();
        for attempt in attempts {
            if attempt.ended > until {
                continue;
            }
            if attempt.verdict == Verdict::Ok {
                good.push(attempt.ended);
            } else if attempt.ended > from {
                *service.failed.entry(attempt.verdict).or_default() += 1;
            }
        }
        good.sort_unstable();
        let first_inside = good.partition_point(|ended| *ended <= from);
        service.good = good.len() - first_inside;
        // Without a good answer before, a silence begins with the window, or with the first attempt ever.
        let begin =
            attempts.iter().map(|attempt| attempt.started).min().map_or(until, |first| first.max(from));
        let mut last = if first_inside == 0 { begin } else { good[first_inside - 1] };
        for ended in good[first_inside..].iter().copied().chain([until]) {
            service.silence = service.silence.max(ended.saturating_duration_since(last));
            last = ended;
        }
        service
    }

    /// Failed attempts, all ways together.
    pub fn failures(&self) -> usize {
        self.failed.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(start: Instant, ended: u64, verdict: Verdict) -> Attempt {
        let ended = start + Duration::from_millis(ended);
        Attempt { started: ended - Duration::from_millis(1), connected: None, secured: None, ended, verdict }
    }

    #[test]
    fn a_silence_begins_with_the_last_good_answer_before_the_window() {
        let start = Instant::now() + Duration::from_secs(1);
        let attempts = [
            attempt(start, 0, Verdict::Ok),
            attempt(start, 50, Verdict::Refused),
            attempt(start, 104, Verdict::Ok),
            attempt(start, 100, Verdict::Ok),
        ];

        let from = start + Duration::from_millis(10);
        let seen = Service::between(&attempts, from, start + Duration::from_millis(110));

        assert_eq!((seen.silence, seen.good), (Duration::from_millis(100), 2));
        assert_eq!(seen.failed, [(Verdict::Refused, 1)].into());
    }

    #[test]
    fn a_silence_that_does_not_end_lasts_until_the_end_of_the_window() {
        let start = Instant::now() + Duration::from_secs(1);
        let attempts = [attempt(start, 0, Verdict::Ok), attempt(start, 10, Verdict::ConnectTimeout)];

        let seen = Service::between(&attempts, start, start + Duration::from_millis(700));

        assert_eq!(seen.silence, Duration::from_millis(700));
    }

    #[test]
    fn an_answer_is_whole_with_its_last_byte() {
        let whole = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\n\r\nno!";
        assert_eq!(whole_answer(whole), Some(503));
        assert_eq!(whole_answer(&whole[..whole.len() - 1]), None);
        assert_eq!(whole_answer(b"HTTP/1.1 200 OK\r\n"), None);
        assert_eq!(whole_answer(b"\xff\xfe\r\n\r\n"), None);
    }
}
