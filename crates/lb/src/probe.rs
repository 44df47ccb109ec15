//! Asking one backend for its health, again and again, over a connection that is held open.
//!
//! The held connection is the fastest news there is: when a process is killed, its kernel closes it within a
//! millisecond. Then a new connect is tried at once, and a refusal is proof that nobody listens.

mod held;
mod plan;

use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::board::Board;
use crate::config::{Check, Timeouts};
use crate::frontend::Shared;
use crate::health::{Answer, Health, Machine, Observation};
use crate::http::{self, Progress};
use crate::proxy_protocol::ProxyProtocol;
use crate::readiness::{Reading, Told};
use crate::socket;
use crate::target::Target;
use crate::tls::{self, Failure};

use held::{CHATTER, Held};
use plan::Method;

pub(crate) use plan::Plan;

/// Least time between two checks that failing flows ask for: a burst of refused connections is one question.
const DOUBT_SPACING: Duration = Duration::from_millis(100);

/// After a connection was lost, and the one in its place as well, the next check is as soon as this: the kernel ends a process in
/// less time.
const SECOND_LOOK: Duration = Duration::from_millis(20);

/// After a connection was lost, a handshake that isn't answered within this time is the new process's, which listens and doesn't serve
/// yet: a kube-apiserver does so for seconds. Nothing new is sent there until it does. Far more than a handshake takes, and a wrong
/// guess costs nothing but a detour.
const SUCCESSOR_PATIENCE: Duration = Duration::from_millis(300);

/// A check that has had no answer for so long makes its backend one that others are preferred to: its host may have lost its power,
/// which is known for certain only when checks have failed. The balancer itself gives a backend as long before it tries another.
const OVERDUE: Duration = Duration::from_millis(300);

/// What makes the next check begin.
enum Cause {
    Time,
    Closed(io::ErrorKind),
    Doubt,
}

/// Checks one backend.
pub(crate) struct Prober {
    board: Rc<Board>,
    shared: Arc<Shared>,
    target: Arc<Target>,
    check: Check,
    method: Method,
    machine: Machine,
    reading: Reading,
    /// Shared by the backends of a frontend.
    told: Arc<Told>,
    held: Held,
    chatter: usize,
    /// The held connection was lost, and the backend has not shaken hands since.
    lost: bool,
    rng: Rng,
    /// Options of its own connections: a host that vanished is noticed after as long as failing checks would
    /// take.
    timeouts: Timeouts,
    closing: Duration,
    /// When the flows to a backend are reset whose port was found closed.
    burial: Option<Instant>,
    proxy_protocol: Option<ProxyProtocol>,
    /// The backend has spoken TLS: silence in a handshake is then a failure, not another protocol.
    spoke_tls: bool,
    /// The backend has spoken HTTP, likewise.
    spoke_http: bool,
    /// From when on the end of the held connection is worth an extra check; a server that closes at once must
    /// not make us spin.
    next_reconnect: Instant,
    /// From when on doubt is.
    next_doubt: Instant,
}

impl Prober {
    pub(crate) fn new(
        plan: &Plan,
        board: Rc<Board>,
        shared: Arc<Shared>,
        target: Arc<Target>,
        rng: Rng,
    ) -> Self {
        let now = Instant::now();
        let check = plan.check.clone();
        let timeouts = Timeouts {
            keepalive: check.interval,
            user_timeout: check.timeout.saturating_mul(check.fall),
            ..Timeouts::default()
        };
        let (health, since) = {
            let judgement = target.judgement.borrow();
            (judgement.health, judgement.since)
        };
        Self {
            machine: Machine::anew(check.rise, check.fall, health, since),
            method: plan.method.clone(),
            reading: Reading::default(),
            told: Arc::clone(&plan.told),
            held: Held::Nothing,
            chatter: CHATTER,
            lost: false,
            closing: plan.closing,
            // Of the check before this one.
            burial: target.member.is_closing().then(|| now + plan.closing),
            spoke_tls: false,
            spoke_http: false,
            next_reconnect: now,
            next_doubt: now,
            board,
            shared,
            target,
            check,
            rng,
            timeouts,
            proxy_protocol: plan.proxy_protocol,
        }
    }

    /// Checks at once and then every interval, earlier when the held connection ends or flows have doubts.
    ///
    /// Waits on time, the held connection and the doubt of flows; writes the judgement and the board. May be
    /// cancelled at any point: nothing outlives it but the last judgement.
    pub(crate) async fn run(mut self) {
        if let Method::Nothing = self.method {
            return self.judge(&Observation::ready("not checked"));
        }
        // The second checks are spread over an interval, so that the backends of many nodes are not asked all
        // together.
        let mut gap = self.check.interval.mul_f64(0.5 + self.rng.f64());
        let mut cause = Cause::Time;
        loop {
            let started = Instant::now();
            // A connection that is held for its own sake isn't asked anything.
            let asks = !(matches!(cause, Cause::Time) && self.held.is_for_its_own_sake());
            let observation = self.observe_in_time(&cause, started).await;
            if asks {
                self.target.member.checks.count(observation.answer, started.elapsed());
            }
            self.judge(&observation);
            // A process that is killed loses its sockets one after the other: the one that listens may be the last, and take
            // a connection with it.
            let ending = matches!(cause, Cause::Closed(_))
                && observation.answer == Answer::Nothing
                && !observation.certain;
            cause = self.wait(started + if ending { SECOND_LOOK } else { gap }).await;
            gap = self.check.interval;
        }
    }

    async fn wait(&mut self, next: Instant) -> Cause {
        let doubt = &self.target.doubt;
        loop {
            let (from, burial) = (self.next_doubt, self.burial);
            let cause = tokio::select! {
                biased;
                () = sleep_until(burial.unwrap_or(next)), if burial.is_some() => {
                    self.burial = None;
                    self.board.bury(&self.target);
                    continue;
                }
                kind = self.held.closed(&mut self.chatter) => Cause::Closed(kind),
                () = async { sleep_until(from).await; doubt.notified().await } => Cause::Doubt,
                () = sleep_until(next) => Cause::Time,
            };
            let now = Instant::now();
            match cause {
                Cause::Time => return cause,
                Cause::Doubt => {
                    self.next_doubt = now + DOUBT_SPACING;
                    return cause;
                }
                Cause::Closed(_) => {
                    (self.held, self.lost) = (Held::Nothing, true);
                    if self.next_reconnect <= now {
                        self.next_reconnect = now + self.check.interval;
                        return cause;
                    }
                }
            }
        }
    }

    fn judge(&mut self, observation: &Observation) {
        let flip = self.machine.observe(observation, Instant::now().into_std());
        let (health, since) = (self.machine.health(), self.machine.since());
        let target = &self.target;
        target.judgement.send_modify(|judgement| {
            (judgement.health, judgement.since) = (health, since);
            match observation.answer {
                Answer::Ready if health == Health::Ready => judgement.last_error = None,
                Answer::Ready => {}
                Answer::NotReady | Answer::Nothing | Answer::Refused | Answer::NotAsked => {
                    judgement.last_error = Some(observation.reason.to_string())
                }
            }
        });
        if let Some(flip) = flip {
            tracing::info!(
                frontend = self.shared.name,
                backend = &*target.name(),
                from = %flip.from,
                to = %flip.to,
                reason = %flip.reason,
                "backend health changed"
            );
            let closed = observation.answer == Answer::Refused && !self.closing.is_zero();
            if flip.to == Health::Dead {
                self.burial = closed.then(|| Instant::now() + self.closing);
            }
            self.board.publish(&self.shared, target, &flip, closed);
        }
    }

    /// Observes, and says meanwhile when that takes long.
    async fn observe_in_time(&mut self, cause: &Cause, started: Instant) -> Observation {
        let (target, shared) = (Arc::clone(&self.target), Arc::clone(&self.shared));
        let say = |overdue| {
            if target.member.set_overdue(overdue) {
                shared.tell_preferences();
            }
        };
        let mut observing = pin!(self.observe(cause));
        let observation = tokio::select! {
            biased;
            observation = &mut observing => observation,
            () = sleep_until(started + OVERDUE) => {
                say(true);
                observing.await
            }
        };
        say(matches!(observation.answer, Answer::Nothing | Answer::Refused));
        observation
    }

    async fn observe(&mut self, cause: &Cause) -> Observation {
        self.chatter = CHATTER;
        let deadline = Instant::now() + self.check.timeout;
        let held = std::mem::take(&mut self.held);
        match (held, cause) {
            (Held::ForRequests(stream), Cause::Time) => match self.ask(stream, deadline).await {
                Reply::Observed(observation) => observation,
                // It may have ended just while we asked: that says nothing yet.
                Reply::Closed => {
                    self.lost = true;
                    self.connect(cause, deadline).await
                }
                Reply::Malformed(error) => Observation::not_ready(error.to_string()),
                // Not enough to tell a busy backend from a frozen one; the next check begins with a
                // handshake.
                Reply::Silent => Observation::nothing(self.late("no answer")),
            },
            (held @ (Held::Plain(_) | Held::Encrypted(_)), Cause::Time) => {
                self.held = held;
                Observation::ready("its connection is open")
            }
            // What made flows doubt happened to new connections, so a new one is tried.
            (_, Cause::Time | Cause::Doubt | Cause::Closed(_)) => self.connect(cause, deadline).await,
        }
    }

    async fn connect(&mut self, cause: &Cause, deadline: Instant) -> Observation {
        let stream = match self.open(deadline).await {
            Ok(stream) => stream,
            // The kernel has asked in vain for as long as failing checks would have taken.
            Err(lost)
                if lost.answer == Answer::Nothing
                    && matches!(cause, Cause::Closed(io::ErrorKind::TimedOut)) =>
            {
                return Observation { certain: true, ..lost };
            }
            Err(lost) => return lost,
        };
        match self.method.clone() {
            Method::Nothing | Method::Connect => {
                self.held = Held::Plain(stream);
                Observation::ready("connected")
            }
            Method::Request { connector, auto, .. } => {
                let early = self.lost.then(|| Instant::now() + SUCCESSOR_PATIENCE);
                self.shake_hands(stream, &connector, auto, early, deadline).await
            }
        }
    }

    async fn open(&self, deadline: Instant) -> Result<TcpStream, Observation> {
        let address = self.target.address;
        let connect = async {
            let mut stream = socket::connect(address, &self.timeouts).await?;
            if let Some(version) = self.proxy_protocol {
                stream.write_all(&version.own_header()).await?;
            }
            io::Result::Ok(stream)
        };
        match timeout_at(deadline, connect).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                Err(Observation::refused("connection refused"))
            }
            Ok(Err(error)) if socket::is_ours(&error) => {
                Err(Observation::not_asked(format!("failed to check: {error}")))
            }
            Ok(Err(error)) => Err(Observation::nothing(format!("failed to connect: {error}"))),
            Err(_) => Err(Observation::nothing(self.late("no answer to connecting"))),
        }
    }

    async fn shake_hands(
        &mut self,
        stream: TcpStream,
        connector: &TlsConnector,
        auto: bool,
        early: Option<Instant>,
        deadline: Instant,
    ) -> Observation {
        let name: ServerName<'_> = tls::server_name(self.target.address);
        let mut shaking = pin!(timeout_at(deadline, connector.connect(name, stream)));
        let soon = match early.filter(|early| *early < deadline) {
            Some(early) => timeout_at(early, shaking.as_mut()).await.ok(),
            None => None,
        };
        let shaken = match soon {
            Some(shaken) => shaken,
            None => {
                if early.is_some() && self.spoke_tls {
                    let reason = "its connection was lost, and what listens there now does not answer yet";
                    self.judge(&Observation { certain: true, ..Observation::not_ready(reason) });
                }
                shaking.await
            }
        };
        let failure = match shaken {
            Ok(Ok(stream)) => {
                (self.spoke_tls, self.lost) = (true, false);
                self.told.speaks_tls();
                return self.first_request(Box::new(stream), auto, deadline).await;
            }
            Ok(Err(error)) => tls::classify(&error),
            Err(_) => Failure::Broken(self.late("no answer to the TLS handshake")),
        };
        match failure {
            Failure::NotTls if auto => {
                self.spoke_tls = false;
                self.judge_by_connection("it speaks no TLS").await
            }
            Failure::Alert(reason) if auto => self.judge_by_connection(&reason).await,
            Failure::Broken(reason) if auto && !self.spoke_tls && !self.told.is_tls() => {
                self.judge_by_connection(&reason).await
            }
            Failure::NotTls => Observation::nothing("it speaks no TLS"),
            Failure::Alert(reason) | Failure::Broken(reason) | Failure::Certificate(reason) => {
                Observation::nothing(reason)
            }
        }
    }

    /// The request on a connection whose handshake has just shown that the backend is alive.
    async fn first_request(
        &mut self,
        stream: Box<TlsStream<TcpStream>>,
        auto: bool,
        deadline: Instant,
    ) -> Observation {
        let reason = match self.ask(stream, deadline).await {
            Reply::Observed(observation) => return observation,
            Reply::Silent => return Observation::not_ready(self.late("no answer to the request")),
            Reply::Closed => "it closed the connection without an answer".to_owned(),
            Reply::Malformed(error) => error.to_string(),
        };
        if auto && !self.spoke_http {
            self.judge_by_connection(&reason).await
        } else {
            Observation::not_ready(reason)
        }
    }

    /// Opens the connection by which alone the backend is judged until it ends.
    async fn judge_by_connection(&mut self, why: &str) -> Observation {
        // Its own time: the attempt before may have used up the first.
        match self.open(Instant::now() + self.check.timeout).await {
            Ok(stream) => {
                self.held = Held::Plain(stream);
                Observation::ready(format!("judged by its connection: {why}"))
            }
            Err(lost) => lost,
        }
    }

    fn late(&self, what: &str) -> String {
        format!("{what} within {:?}", self.check.timeout)
    }

    /// Sends the request and judges the answer; the connection is held if it can carry another.
    async fn ask(&mut self, mut stream: Box<TlsStream<TcpStream>>, deadline: Instant) -> Reply {
        let Method::Request { path, auto, .. } = self.method.clone() else { return Reply::Closed };
        let authority = self.target.address.to_string();
        let mut answer = Vec::new();
        let request = http::request(&path, &authority);
        let exchange = exchange(&mut stream, &request, &mut answer);
        let ended = timeout_at(deadline, exchange).await;
        let found = match http::parse(&answer) {
            Ok(Progress::Complete(found)) => found,
            Ok(Progress::Body(found)) => http::Answer { reusable: false, ..found },
            Ok(Progress::Head) if ended.is_err() => return Reply::Silent,
            Ok(Progress::Head) => return Reply::Closed,
            Err(error) => return Reply::Malformed(error),
        };
        self.spoke_http = true;
        let reuse = |held: fn(Box<TlsStream<TcpStream>>) -> Held| {
            if found.reusable { held(stream) } else { Held::Nothing }
        };
        Reply::Observed(match found.status {
            404 if auto && found.reusable => {
                self.held = reuse(Held::Encrypted);
                Observation::ready(format!("judged by its connection: it does not know {path} (404)"))
            }
            404 if auto => self.judge_by_connection(&format!("it does not know {path} (404)")).await,
            status => {
                self.held = reuse(Held::ForRequests);
                self.reading.judge(status, &self.told, Instant::now().into_std())
            }
        })
    }
}

/// How a request went.
enum Reply {
    /// There was an answer.
    Observed(Observation),
    /// The connection ended before one.
    Closed,
    /// It was not HTTP.
    Malformed(http::Malformed),
    /// It did not come in time.
    Silent,
}

/// Sends `request` and collects the answer until it is complete, malformed or too long, or the connection
/// ends.
async fn exchange(stream: &mut TlsStream<TcpStream>, request: &[u8], answer: &mut Vec<u8>) -> io::Result<()> {
    stream.write_all(request).await?;
    stream.flush().await?;
    while answer.len() < http::ANSWER && matches!(http::parse(answer), Ok(Progress::Head | Progress::Body(_)))
    {
        if stream.read_buf(answer).await? == 0 {
            break;
        }
    }
    Ok(())
}
