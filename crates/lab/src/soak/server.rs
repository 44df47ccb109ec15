//! A backend: checks what it is sent, answers what it is asked for, and tells the lab what came of each stream.
//!
//! It serves vipd's checks as well, over TLS on the same port: `/readyz` says whether it's about to end. SIGUSR1 changes that, SIGTERM
//! ends it as soon as what is asked of it is answered.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixDatagram};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::content::{Content, Way};
use super::talk::{HEAD, Head, Order, is_tls, receipt};
use super::wire::{Counts, Trouble, receive, receive_content, receive_end, send, send_content};
use crate::backend::{Answers, converse};
use crate::isolation::Signals;
use crate::pki::Pki;

/// More than a load ever opens.
const MAX_CONNECTIONS: usize = 4096;
/// How long what has begun may go on after SIGTERM.
const GRACE: Duration = Duration::from_secs(3);
/// Most bytes of an [`Entry`] on its way.
pub(super) const ENTRY_MAX: usize = 1024;

/// What a backend is started with.
#[derive(Debug, Clone)]
pub struct Backend {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Its name.
    pub name: String,
    /// The folder with the certificates.
    pub certificates: PathBuf,
    /// The socket that takes the entries.
    pub ledger: PathBuf,
    /// What all content follows from.
    pub seed: u64,
}

/// What a backend tells of a stream when it has ended for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) stream: u64,
    /// Where it listens.
    pub(super) backend: SocketAddr,
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) verdict: Verdict,
}

/// How a stream ended for its backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Verdict {
    /// All came, right, up to its end, and all was answered.
    Whole,
    /// It ended before.
    Cut(String),
    /// What came was not what the client had said.
    Wrong(String),
}

/// Serves until SIGTERM.
///
/// # Errors
/// If the certificates cannot be read, the port is taken, or nobody takes the entries.
pub async fn serve(backend: &Backend) -> Result<()> {
    let tls = TlsAcceptor::from(Pki::open(&backend.certificates).server()?);
    let listener = TcpListener::bind(backend.listen)
        .await
        .with_context(|| format!("failed to listen on {}", backend.listen))?;
    let desk = Arc::new(Desk::open(backend, tls)?);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut toggle = signal(SignalKind::user_defined1())?;
    let mut end = Signals::new()?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if places.available_permits() > 0 => {
                let Ok((stream, _)) = accepted else { continue };
                let place = Arc::clone(&places).try_acquire_owned().context("one was free")?;
                let desk = Arc::clone(&desk);
                connections.spawn(async move {
                    let _place = place;
                    desk.take(stream).await;
                });
            }
            Some(_) = connections.join_next() => {}
            _ = toggle.recv() => desk.answers.toggle(),
            _ = end.next() => break,
        }
    }
    drop(listener);
    // Those that rest don't end by themselves, and are cut: that is what the time is for.
    tokio::time::timeout(GRACE, async { while connections.join_next().await.is_some() {} }).await.ok();
    Ok(())
}

/// What all connections need.
struct Desk {
    address: SocketAddr,
    seed: u64,
    tls: TlsAcceptor,
    answers: Answers,
    ledger: UnixDatagram,
}

impl Desk {
    fn open(backend: &Backend, tls: TlsAcceptor) -> Result<Self> {
        let ledger = UnixDatagram::unbound()?;
        ledger
            .connect(&backend.ledger)
            .with_context(|| format!("nobody takes entries at {}", backend.ledger.display()))?;
        let answers = Answers::new(backend.name.clone());
        Ok(Self { address: backend.listen, seed: backend.seed, tls, answers, ledger })
    }

    async fn take(&self, stream: TcpStream) {
        stream.set_nodelay(true).ok();
        let mut stream = stream;
        let mut begin = [0; 4];
        // Checks that only connect, and connections that vipd didn't need in the end, say nothing.
        if stream.read_exact(&mut begin).await.is_err() {
            return;
        }
        if is_tls(begin) {
            let (reader, writer) = stream.into_split();
            let whole = tokio::io::join(std::io::Cursor::new(begin).chain(reader), writer);
            // What becomes of a check is vipd's to judge.
            converse(whole, &self.tls, &self.answers).await.ok();
            return;
        }
        let mut session =
            Session { seed: self.seed, stream: None, counts: Counts { received: 4, ..Counts::default() } };
        let done = session.run(&mut stream, begin).await;
        let verdict = match done {
            Ok(()) => Verdict::Whole,
            Err(Trouble::Wrong(what)) => Verdict::Wrong(what),
            Err(trouble @ (Trouble::Short | Trouble::Broken(_) | Trouble::Stuck)) => {
                Verdict::Cut(trouble.to_string())
            }
        };
        let whole = verdict == Verdict::Whole;
        self.tell(&session, verdict).await;
        if whole {
            stream.shutdown().await.ok();
        }
    }

    /// Before the client learns of the end, so that nobody who was killed has kept it to himself.
    async fn tell(&self, session: &Session, verdict: Verdict) {
        let Counts { received, sent, .. } = session.counts;
        let entry = Entry {
            stream: session.stream.unwrap_or(u64::MAX),
            backend: self.address,
            received,
            sent,
            verdict,
        };
        if let Ok(text) = serde_json::to_vec(&entry) {
            // Without the lab there is nobody to serve either.
            self.ledger.send(&text).await.ok();
        }
    }
}

/// One stream.
struct Session {
    seed: u64,
    stream: Option<u64>,
    counts: Counts,
}

impl Session {
    /// Answers round after round; `begin` are the first four bytes of the first head.
    async fn run(&mut self, stream: &mut TcpStream, begin: [u8; 4]) -> Result<(), Trouble> {
        let mut bytes = [0; HEAD];
        bytes[..4].copy_from_slice(&begin);
        let mut filled = 4;
        for round in 0.. {
            if !receive(stream, &mut bytes[filled..], &mut self.counts.received).await? {
                return if filled == 0 { Ok(()) } else { Err(Trouble::Short) };
            }
            filled = 0;
            let head = Head::read(&bytes).map_err(|_| Trouble::Wrong(format!("no head: {bytes:02x?}")))?;
            if head.round != round || *self.stream.get_or_insert(head.stream) != head.stream {
                return Err(Trouble::Wrong(format!("round {round} of {:?} is {head:?}", self.stream)));
            }
            if self.answer(stream, head).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Carries out one round; true if it was the last.
    async fn answer(&mut self, stream: &mut TcpStream, head: Head) -> Result<bool, Trouble> {
        let up = Content::new(self.seed, head.stream, head.round, Way::Up);
        let down = Content::new(self.seed, head.stream, head.round, Way::Down);
        let Counts { received, sent, .. } = &mut self.counts;
        let think = tokio::time::sleep(Duration::from_millis(head.think.into()));
        match head.order {
            Order::InTurn | Order::ClientEnds => {
                let sum = receive_content(stream, up, head.up, received).await?;
                if head.order == Order::ClientEnds {
                    receive_end(stream, received).await?;
                }
                think.await;
                send_content(stream, down, head.down, head.pace, sent).await?;
                send(stream, &receipt(sum.value()), sent).await?;
            }
            Order::Together => {
                let (mut reader, mut writer) = stream.split();
                let (sum, _) = tokio::try_join!(
                    receive_content(&mut reader, up, head.up, received),
                    send_content(&mut writer, down, head.down, head.pace, sent),
                )?;
                send(stream, &receipt(sum.value()), sent).await?;
            }
            Order::BackendEnds => {
                send_content(stream, down, head.down, head.pace, sent).await?;
                stream.shutdown().await?;
                receive_content(stream, up, head.up, received).await?;
                receive_end(stream, received).await?;
            }
        }
        Ok(matches!(head.order, Order::ClientEnds | Order::BackendEnds))
    }
}

/// The socket that backends tell of their streams.
///
/// # Errors
/// If it can't be made.
pub(super) fn ledger(path: &Path) -> Result<UnixDatagram> {
    UnixDatagram::bind(path).with_context(|| format!("failed to make {}", path.display()))
}
