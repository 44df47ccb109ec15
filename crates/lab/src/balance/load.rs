//! Loads: as much as goes through, a steady rate, and connections that only stand.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::str::FromStr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::thread::{ClockId, Timespec};
use tokio::time::Instant;

use crate::namespace::Namespace;
use crate::network::find_program;

/// Connections of a full load at the same time.
const CONNECTIONS: usize = 64;
/// Threads of a steady load, one connection each.
const PACERS: usize = 16;
/// An answer takes microseconds; without it by then, nobody serves.
const ANSWER_TIME: Duration = Duration::from_secs(5);

const REQUEST: &[u8] = b"GET /small HTTP/1.1\r\nHost: x\r\n\r\n";

/// What a contender is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// As many requests as it can take.
    Requests,
    /// As many connections.
    Connections,
    /// As many bytes.
    Bulk,
    /// Requests at a steady rate.
    Steady,
    /// Nothing, over many connections; and then requests beside them.
    Idle,
}

impl Load {
    /// All of them, in the order in which they are laid on.
    pub const ALL: [Self; 5] = [Self::Requests, Self::Connections, Self::Bulk, Self::Steady, Self::Idle];

    fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Connections => "connections",
            Self::Bulk => "bulk",
            Self::Steady => "steady",
            Self::Idle => "idle",
        }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Load {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|load| load.name() == text);
        found.ok_or_else(|| format!("no load {text}: there is {}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// Kinds of a full load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// Requests for 200 bytes over connections that stay.
    Requests,
    /// The same, each over a connection of its own.
    Connections,
    /// Files of 16 MiB over four connections.
    Bulk,
}

/// What went through.
#[derive(Debug, Clone, Copy)]
pub(super) struct Done {
    /// Requests that were answered.
    pub(super) requests: f64,
    /// Bytes of answers.
    pub(super) bytes: f64,
    /// For how long, in seconds.
    pub(super) seconds: f64,
}

/// Has the client do as much as goes through, by wrk.
///
/// # Errors
/// If wrk is missing, fails, or counts an error.
pub(super) async fn full(
    client: &Namespace,
    target: (Ipv4Addr, u16),
    kind: Full,
    lasts: Duration,
) -> Result<Done> {
    let wrk = find_program("wrk", "wrk")?;
    let (path, connections) = match kind {
        Full::Requests | Full::Connections => ("small", CONNECTIONS),
        Full::Bulk => ("bulk", 4),
    };
    let mut command = tokio::process::Command::new(wrk);
    command
        .args(["--threads", "2", "--timeout", "10s", "--connections", &connections.to_string()])
        .args(["--duration", &format!("{}s", lasts.as_secs())])
        .args((kind == Full::Connections).then_some(["--header", "Connection: close"]).into_iter().flatten())
        .arg(format!("http://{}:{}/{path}", target.0, target.1))
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true);
    let child = client.within(|| Ok(command.spawn()?)).context("failed to start wrk")?;
    let output = child.wait_with_output().await?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "wrk: {}: {text}", output.status);
    told_by_wrk(&text).with_context(|| format!("wrk printed {text:?}"))
}

/// Reads `N requests in 5.10s, 1.5GB read`, and refuses what counts errors.
fn told_by_wrk(text: &str) -> Result<Done> {
    for trouble in ["Socket errors", "Non-2xx"] {
        ensure!(!text.contains(trouble), "not all went well");
    }
    let line = text.lines().find(|line| line.contains(" requests in ")).context("there is no sum")?;
    let mut words = line.split_ascii_whitespace();
    let mut number = |place: usize| words.nth(place).context("a number is missing");
    let requests = number(0)?.parse().context("how many is no number")?;
    let seconds = amount(number(2)?.trim_end_matches(','), &[("ms", 1e-3), ("s", 1.0), ("m", 60.0)])?;
    let units = [("KB", 1024.0), ("MB", 1048576.0), ("GB", 1073741824.0), ("B", 1.0)];
    let bytes = amount(number(0)?, &units)?;
    Ok(Done { requests, bytes, seconds })
}

fn amount(text: &str, units: &[(&str, f64)]) -> Result<f64> {
    for (unit, size) in units {
        if let Some(number) = text.strip_suffix(unit) {
            return Ok(number.parse::<f64>().with_context(|| format!("{text} is no amount"))? * size);
        }
    }
    anyhow::bail!("{text} has none of the known units")
}

/// How long answers took under a steady load.
#[derive(Debug, Clone, Copy)]
pub(super) struct Latency {
    pub(super) p50: Duration,
    pub(super) p99: Duration,
}

/// Asks so many times a second, whether or not answers come in time, and measures each from when it was due: a balancer that stalls can't
/// hide it by being asked less.
///
/// # Errors
/// If a connection breaks.
pub(super) fn steady(
    client: &Arc<Namespace>,
    target: (Ipv4Addr, u16),
    rate: f64,
    lasts: Duration,
) -> Result<Latency> {
    let interval = Duration::from_secs_f64(PACERS as f64 / rate);
    let begin = Instant::now() + Duration::from_millis(50);
    let pacers: Vec<_> = (0..PACERS)
        .map(|place| {
            let client = Arc::clone(client);
            // Spread over the interval, so that they don't all ask at once.
            let begin = begin + interval.mul_f64(place as f64 / PACERS as f64);
            thread::spawn(move || -> Result<Vec<Duration>> {
                client.enter()?;
                pace(target, begin, interval, lasts)
            })
        })
        .collect();
    let mut all = Vec::new();
    for pacer in pacers {
        all.extend(pacer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
    }
    all.sort_unstable();
    let at = |share: f64| {
        let place = (all.len() as f64 * share) as usize;
        all.get(place).copied().context("nothing was measured")
    };
    Ok(Latency { p50: at(0.5)?, p99: at(0.99)? })
}

fn pace(
    target: (Ipv4Addr, u16),
    begin: Instant,
    interval: Duration,
    lasts: Duration,
) -> Result<Vec<Duration>> {
    // Else a sleep may last 50 µs longer, as much as some answers take.
    rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1))?;
    let mut stream = open(target)?;
    let mut buffer = [0; 1024];
    let mut taken = Vec::with_capacity((lasts.as_secs_f64() / interval.as_secs_f64()) as usize + 1);
    let mut due = begin;
    while due < begin + lasts {
        sleep_until(due);
        ask(&mut stream, &mut buffer)?;
        taken.push(due.elapsed());
        due += interval;
    }
    Ok(taken)
}

fn sleep_until(due: Instant) {
    let left = due.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return;
    }
    let left = Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    };
    // Interrupted, it is a little early, and measured like any other.
    let _ = rustix::thread::clock_nanosleep_relative(ClockId::Monotonic, &left);
}

fn open(target: (Ipv4Addr, u16)) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::from(target), ANSWER_TIME)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_TIME))?;
    Ok(stream)
}

/// Asks for 200 bytes, and reads the answer.
fn ask(stream: &mut TcpStream, buffer: &mut [u8; 1024]) -> Result<()> {
    stream.write_all(REQUEST)?;
    let mut filled = 0;
    loop {
        let more = stream.read(&mut buffer[filled..])?;
        ensure!(more > 0, "the connection ended in an answer");
        filled += more;
        // The body is 200 bytes of x, behind an empty line.
        let body = buffer[..filled].windows(4).position(|four| four == b"\r\n\r\n");
        if body.is_some_and(|head| filled >= head + 4 + 200) {
            return Ok(());
        }
    }
}

/// Whether somebody serves there.
///
/// # Errors
/// If nobody does.
pub(super) fn ask_once(target: (Ipv4Addr, u16)) -> Result<()> {
    ask(&mut open(target)?, &mut [0; 1024])
}

/// Connections that have been served once, and say nothing any more.
///
/// # Errors
/// If one can't be had.
pub(super) fn stand(client: &Namespace, target: (Ipv4Addr, u16), count: usize) -> Result<Vec<TcpStream>> {
    client.within(|| {
        let mut buffer = [0; 1024];
        (0..count)
            .map(|place| {
                let mut stream = open(target).with_context(|| format!("connection {place}"))?;
                ask(&mut stream, &mut buffer)?;
                Ok(stream)
            })
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wrk_prints_is_read() {
        let text = "Running 5s test @ http://10.0.0.20:8443/small\n  2 threads and 64 connections\n  285127 requests in \
                    5.10s, 101.70MB read\nRequests/sec:  55909.01\nTransfer/sec:     19.94MB\n";
        let done = told_by_wrk(text).unwrap();
        assert_eq!((done.requests, done.seconds), (285_127.0, 5.1));
        assert!((done.bytes - 101.7 * 1_048_576.0).abs() < 1.0);
        let trouble = format!("{text}  Socket errors: connect 0, read 3, write 0, timeout 0\n");
        assert!(told_by_wrk(&trouble).is_err());
        assert!(told_by_wrk("unable to connect").is_err());
    }
}
