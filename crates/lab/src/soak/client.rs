//! A client that carries out one stream after the other, and reports each.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use fastrand::Rng;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::content::{Content, Way};
use super::kind::{Errand, Kind, Scale, between};
use super::talk::{Head, Order, RECEIPT, receipt};
use super::wire::{Counts, Trouble, receive, receive_content, receive_end, send, send_content};

/// A round takes this much longer than its pace says only if something is stuck. A machine that is busy is not.
const STUCK: Duration = Duration::from_secs(60);
/// A connection is had in this time.
const CONNECT: Duration = Duration::from_secs(20);
/// A stream that vipd is to end for its silence is not ended after so many times the timeout.
const SILENT_TIMES: u32 = 2;
/// Bytes that a client asks for which it doesn't read.
const DEAF: u64 = 1 << 20;
/// Standing connections are made over this time, not all at once.
const SPREAD: f64 = 2.0;

/// What became of a stream, as its client saw it.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) stream: u64,
    pub(super) kind: Kind,
    /// Its first bytes could be said again to another backend.
    pub(super) repeatable: bool,
    /// The client's port; none if it never had a connection.
    pub(super) port: Option<u16>,
    pub(super) began: Instant,
    pub(super) ended: Instant,
    pub(super) counts: Counts,
    pub(super) outcome: Outcome,
}

/// How a stream ended for its client.
#[derive(Debug)]
pub(super) enum Outcome {
    /// All was said, and came, up to the end of both directions.
    Done,
    /// It was reset by the client, as planned.
    Reset,
    /// It was ended by vipd for its silence, as planned.
    Idled,
    /// It did not end as it should.
    Failed(Trouble),
}

/// What all streams have in common.
#[derive(Debug, Clone)]
pub(super) struct Load {
    pub(super) target: SocketAddr,
    /// What content follows from.
    pub(super) seed: u64,
    /// What is drawn follows from it.
    pub(super) dice: u64,
    /// The first of its streams has this number, and the others follow.
    pub(super) first: u64,
    pub(super) scale: Scale,
    pub(super) reports: mpsc::Sender<Report>,
    /// No stream begins any more, and those that would go on for long end in good order.
    pub(super) stop: CancellationToken,
}

impl Load {
    /// Keeps as many streams of each kind as there are to be, until it is stopped and the last has ended.
    ///
    /// # Errors
    /// If a task panicked.
    pub(super) async fn run(self) -> Result<()> {
        let load = Arc::new(self);
        let mut slots = JoinSet::new();
        let kinds = Kind::ALL.into_iter().flat_map(|kind| (0..kind.standing()).map(move |_| kind));
        for (number, kind) in (0..).zip(kinds) {
            slots.spawn(Arc::clone(&load).slot(number, kind));
        }
        while let Some(ended) = slots.join_next().await {
            ended?;
        }
        Ok(())
    }

    async fn slot(self: Arc<Self>, number: u64, kind: Kind) {
        let mut dice = Rng::with_seed(self.dice ^ (number << 32));
        let mut pause = between(&mut dice, 0.0, SPREAD);
        // A slot has room for 2^32 streams.
        for stream in self.first + (number << 32).. {
            if self.stop.run_until_cancelled(sleep(pause)).await.is_none() {
                return;
            }
            let errand = Errand::draw(kind, &self.scale, &mut dice);
            let report = self.carry_out(stream, &errand, &mut dice).await;
            if self.reports.send(report).await.is_err() {
                return;
            }
            pause = kind.rest(&mut dice);
        }
    }

    async fn carry_out(&self, stream: u64, errand: &Errand, dice: &mut Rng) -> Report {
        let began = Instant::now();
        let (mut port, mut counts) = (None, Counts::default());
        let outcome = match timeout(CONNECT, TcpStream::connect(self.target)).await {
            Ok(Ok(socket)) => {
                port = socket.local_addr().ok().map(|address| address.port());
                let mut talk = Talk { load: self, stream, errand, socket, counts, dice, answered: began };
                let outcome = talk.whole().await;
                counts = talk.counts;
                if matches!(outcome, Outcome::Reset) {
                    talk.socket.set_zero_linger().ok();
                }
                outcome
            }
            Ok(Err(error)) => Outcome::Failed(error.into()),
            Err(_) => Outcome::Failed(Trouble::Stuck),
        };
        let Errand { kind, repeatable, .. } = *errand;
        Report { stream, kind, repeatable, port, began, ended: Instant::now(), counts, outcome }
    }
}

/// One stream.
struct Talk<'a> {
    load: &'a Load,
    stream: u64,
    errand: &'a Errand,
    socket: TcpStream,
    counts: Counts,
    dice: &'a mut Rng,
    /// When the latest round began that was answered in full. vipd has heard of it after that.
    answered: Instant,
}

impl Talk<'_> {
    async fn whole(&mut self) -> Outcome {
        match self.rounds().await {
            Ok(outcome) => outcome,
            Err(Trouble::Broken(_)) if self.is_idle() => Outcome::Idled,
            Err(trouble) => Outcome::Failed(trouble),
        }
    }

    /// Whether vipd may have ended it for its silence: it has had nothing to carry since the latest round, which was a short one, or nothing
    /// but what has crossed its end. But for those that wait for it, that takes a machine on which everything has stood still.
    fn is_idle(&self) -> bool {
        let is_brief =
            matches!(self.errand.kind, Kind::KeepAlive | Kind::Ticking | Kind::Quiet | Kind::Silent);
        is_brief && self.answered.elapsed() >= self.load.scale.idle
    }

    async fn rounds(&mut self) -> Result<Outcome, Trouble> {
        self.socket.set_nodelay(true)?;
        for round in 0..self.errand.rounds {
            if round > 0 && !self.rest().await? {
                break;
            }
            let begins = Instant::now();
            match self.errand.reset_after.filter(|_| round > 0) {
                Some(after) => match timeout(after, self.round(round)).await {
                    Ok(done) => done?,
                    Err(_) => return Ok(Outcome::Reset),
                },
                None => self.round(round).await?,
            }
            self.answered = begins;
        }
        if self.errand.kind == Kind::Silent {
            return self.be_silent().await;
        }
        if self.errand.reset_after.is_some() {
            return Ok(Outcome::Reset);
        }
        let ends = matches!(self.errand.order, Order::ClientEnds | Order::BackendEnds);
        if !ends {
            self.socket.shutdown().await?;
            in_time(STUCK, receive_end(&mut self.socket, &mut self.counts.received)).await?;
        }
        Ok(Outcome::Done)
    }

    /// Rests until it is time for the next round; false if it is to be the last.
    async fn rest(&mut self) -> Result<bool, Trouble> {
        let pause = between(self.dice, self.errand.pause.0, self.errand.pause.1);
        if pause.is_zero() {
            return Ok(true);
        }
        let mut buffer = [0; 1];
        tokio::select! {
            () = self.load.stop.cancelled() => Ok(false),
            () = sleep(pause) => Ok(true),
            read = self.socket.read(&mut buffer) => match read? {
                0 => Err(Trouble::Short),
                _ => Err(Trouble::Wrong("something came without having been asked for".to_owned())),
            },
        }
    }

    async fn round(&mut self, round: u32) -> Result<(), Trouble> {
        let (up, down) = self.errand.lengths(round, self.dice);
        let Errand { repeatable, order, pace, think, .. } = *self.errand;
        let think = if round == 0 {
            u32::try_from(think.mul_f64(self.dice.f64()).as_millis()).unwrap_or(0)
        } else {
            0
        };
        let head = Head { repeatable, order, round, stream: self.stream, up, down, think, pace };
        if self.errand.deaf && round > 0 {
            return self.turn_deaf(head).await;
        }
        let paced = (up + down).checked_div(pace).unwrap_or(0);
        in_time(STUCK + Duration::from_secs(paced), self.exchange(head)).await
    }

    /// Asks for much, and reads nothing of it: what vipd and the kernel take is taken, and the rest must wait.
    async fn turn_deaf(&mut self, head: Head) -> Result<(), Trouble> {
        let head = Head { order: Order::InTurn, up: 0, down: DEAF, pace: 0, ..head };
        send(&mut self.socket, &head.bytes(), &mut self.counts.sent).await?;
        std::future::pending().await
    }

    async fn exchange(&mut self, head: Head) -> Result<(), Trouble> {
        let (mut reader, mut writer) = self.socket.split();
        let up = Content::new(self.load.seed, head.stream, head.round, Way::Up);
        let down = Content::new(self.load.seed, head.stream, head.round, Way::Down);
        let Counts { sent, received, acknowledged } = &mut self.counts;
        send(&mut writer, &head.bytes(), sent).await?;
        let sum = match head.order {
            Order::InTurn => {
                let sum = send_content(&mut writer, up, head.up, head.pace, sent).await?;
                receive_content(&mut reader, down, head.down, received).await?;
                sum
            }
            Order::Together => {
                let (sum, _) = tokio::try_join!(
                    send_content(&mut writer, up, head.up, head.pace, sent),
                    receive_content(&mut reader, down, head.down, received),
                )?;
                sum
            }
            Order::ClientEnds => {
                let sum = send_content(&mut writer, up, head.up, head.pace, sent).await?;
                writer.shutdown().await?;
                receive_content(&mut reader, down, head.down, received).await?;
                sum
            }
            Order::BackendEnds => {
                receive_content(&mut reader, down, head.down, received).await?;
                receive_end(&mut reader, received).await?;
                send_content(&mut writer, up, head.up, head.pace, sent).await?;
                writer.shutdown().await?;
                return Ok(());
            }
        };
        let mut bytes = [0; RECEIPT];
        if !receive(&mut reader, &mut bytes, received).await? {
            return Err(Trouble::Short);
        }
        if bytes != receipt(sum.value()) {
            return Err(Trouble::Wrong(format!("the backend's receipt for {} bytes differs", head.up)));
        }
        *acknowledged = *sent;
        if head.order == Order::ClientEnds {
            receive_end(&mut reader, received).await?;
        }
        Ok(())
    }

    /// Waits for vipd to reset the connection for its silence, not before its time and not long after.
    async fn be_silent(&mut self) -> Result<Outcome, Trouble> {
        let limit = self.load.scale.idle * SILENT_TIMES + STUCK;
        let mut buffer = [0; 1];
        let read = tokio::select! {
            // In good order, as nobody waits for its end then.
            () = self.load.stop.cancelled() => {
                self.socket.shutdown().await?;
                in_time(STUCK, receive_end(&mut self.socket, &mut self.counts.received)).await?;
                return Ok(Outcome::Done);
            }
            read = timeout(limit, self.socket.read(&mut buffer)) => read,
        };
        match read {
            Err(_) => Err(Trouble::Stuck),
            Ok(Ok(0)) => Err(Trouble::Short),
            Ok(Ok(_)) => Err(Trouble::Wrong("something came without having been asked for".to_owned())),
            Ok(Err(error)) => Err(error.into()),
        }
    }
}

async fn in_time<T>(limit: Duration, step: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
    timeout(limit, step).await.unwrap_or(Err(Trouble::Stuck))
}
