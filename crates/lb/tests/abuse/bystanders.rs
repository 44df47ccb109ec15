//! Clients that behave well, while others don't, and what they felt.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// Clients with a connection that lasts, and as many that connect anew each time.
const EACH: usize = 4;

/// From an answer to the next request.
const PAUSE: Duration = Duration::from_millis(5);

/// What a request may take, from connecting to its answer, on a machine that others use as well. A lost SYN is repeated after a second.
pub(crate) const BEARABLE: Duration = Duration::from_secs(2);

/// A runtime on a thread of its own, for what must not wait until the test has time for it. It ends with this.
pub(crate) struct Elsewhere {
    handle: Handle,
    _end: oneshot::Sender<()>,
}

impl Elsewhere {
    /// Its thread is in the network namespace of the caller.
    pub(crate) fn start() -> Self {
        let (end, ended) = oneshot::channel();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        std::thread::spawn(move || runtime.block_on(ended));
        Self { handle, _end: end }
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Runs it there; what it spawns stays there.
    pub(crate) async fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        self.handle.spawn(future).await.unwrap()
    }
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

type Dialled = Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send>>;

/// How a client connects, what it says, and what it expects.
#[derive(Clone)]
pub(crate) struct Talk {
    dial: Arc<dyn Fn() -> Dialled + Send + Sync>,
    request: &'static [u8],
    /// How many bytes are an answer.
    answer: usize,
    /// After which time it has failed.
    patience: Duration,
}

impl Talk {
    pub(crate) fn new<F>(
        dial: impl Fn() -> F + Send + Sync + 'static,
        request: &'static [u8],
        answer: usize,
    ) -> Self
    where
        F: Future<Output = io::Result<Box<dyn Stream>>> + Send + 'static,
    {
        let dial = Arc::new(move || -> Dialled { Box::pin(dial()) });
        Self { dial, request, answer, patience: Duration::from_secs(10) }
    }

    /// Over TCP alone.
    pub(crate) fn plain(address: SocketAddr, request: &'static [u8], answer: usize) -> Self {
        let dial = move || async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        };
        Self::new(dial, request, answer)
    }

    /// The same, by clients who give up after so long.
    #[must_use]
    pub(crate) fn patient_for(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    async fn exchange(&self, stream: &mut dyn Stream) -> io::Result<()> {
        stream.write_all(self.request).await?;
        stream.flush().await?;
        let mut answer = vec![0; self.answer];
        stream.read_exact(&mut answer).await?;
        Ok(())
    }

    async fn in_time<T>(&self, future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        timeout(self.patience, future).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Requests over one connection, and another one when that has broken.
    async fn last(self, wires: Wires) -> Share {
        let mut share = Share::default();
        let mut open: Option<Box<dyn Stream>> = None;
        while !*wires.stopped.borrow() {
            let began = Instant::now();
            let done = self.in_time(async {
                let mut stream = match open.take() {
                    Some(stream) => stream,
                    None => (self.dial)().await?,
                };
                self.exchange(&mut *stream).await?;
                Ok(stream)
            });
            let done = done.await;
            share.add(began, done.as_ref().err());
            open = done.ok();
            wires.made.send_modify(|made| made.lasting += 1);
            tokio::time::sleep(PAUSE).await;
        }
        share
    }

    /// A connection for each request, ended in good order.
    async fn come_anew(self, wires: Wires) -> Share {
        let mut share = Share::default();
        while !*wires.stopped.borrow() {
            let began = Instant::now();
            let done = self.in_time(async {
                let mut stream = (self.dial)().await?;
                self.exchange(&mut *stream).await?;
                stream.shutdown().await?;
                match stream.read(&mut [0]).await {
                    Ok(0) => Ok(()),
                    Ok(_) => Err(io::Error::other("more than an answer came")),
                    // A server that forgets to end TLS before TCP has answered all the same.
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
                    Err(error) => Err(error),
                }
            });
            let done = done.await;
            share.add(began, done.as_ref().err());
            wires.made.send_modify(|made| made.anew += 1);
            tokio::time::sleep(PAUSE).await;
        }
        share
    }
}

/// Requests made so far, in vain or not.
#[derive(Debug, Default, Clone, Copy)]
struct Made {
    lasting: usize,
    anew: usize,
}

/// From the clients to the test, and back.
#[derive(Clone)]
struct Wires {
    stopped: watch::Receiver<bool>,
    made: watch::Sender<Made>,
}

/// What became of requests of one kind.
#[derive(Debug, Default)]
pub(crate) struct Share {
    /// Of those that were answered.
    taken: Vec<Duration>,
    pub(crate) failures: Vec<String>,
}

impl Share {
    fn add(&mut self, began: Instant, error: Option<&io::Error>) {
        match error {
            None => self.taken.push(began.elapsed()),
            Some(error) => self.failures.push(format!("{error} after {:?}", began.elapsed())),
        }
    }

    fn merge(&mut self, other: Self) {
        self.taken.extend(other.taken);
        self.taken.sort_unstable();
        self.failures.extend(other.failures);
    }

    /// What all but one in a hundred took at most.
    fn p99(&self) -> Duration {
        self.taken.get(self.taken.len() * 99 / 100).copied().unwrap_or_default()
    }

    pub(crate) fn longest(&self) -> Duration {
        self.taken.last().copied().unwrap_or_default()
    }

    pub(crate) fn answered(&self) -> usize {
        self.taken.len()
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (answered, failed) = (self.answered(), self.failures.len());
        write!(
            f,
            "{answered} answered, p99 {:.1?}, longest {:.1?}, {failed} failed",
            self.p99(),
            self.longest()
        )
    }
}

/// Clients under way.
pub(crate) struct Bystanders {
    stop: watch::Sender<bool>,
    made: watch::Receiver<Made>,
    felt: oneshot::Receiver<Felt>,
    _elsewhere: Elsewhere,
}

/// What they felt.
#[derive(Debug, Default)]
pub(crate) struct Felt {
    /// Over connections that last.
    pub(crate) lasting: Share,
    /// Over a connection each.
    pub(crate) anew: Share,
}

impl Bystanders {
    /// Sends some on their way, from the network namespace of the caller.
    pub(crate) fn start(talk: &Talk) -> Self {
        let stop = watch::Sender::new(false);
        let (tell, felt) = oneshot::channel();
        let elsewhere = Elsewhere::start();
        let mut lasting = JoinSet::new();
        let mut anew = JoinSet::new();
        let (told, made) = watch::channel(Made::default());
        let wires = Wires { stopped: stop.subscribe(), made: told };
        for _ in 0..EACH {
            lasting.spawn_on(talk.clone().last(wires.clone()), &elsewhere.handle);
            anew.spawn_on(talk.clone().come_anew(wires.clone()), &elsewhere.handle);
        }
        elsewhere.handle.spawn(async move {
            let mut felt = Felt::default();
            while let Some(share) = lasting.join_next().await {
                felt.lasting.merge(share.unwrap());
            }
            while let Some(share) = anew.join_next().await {
                felt.anew.merge(share.unwrap());
            }
            // A test that has failed doesn't ask.
            let _ = tell.send(felt);
        });
        Self { stop, made, felt, _elsewhere: elsewhere }
    }

    /// Waits until they have made so many more requests of each kind: they have felt what goes on now.
    pub(crate) async fn go_on(&mut self, requests: usize) {
        self.go_on_by(requests, requests).await;
    }

    /// The same, of so many over lasting connections and so many over new ones.
    pub(crate) async fn go_on_by(&mut self, lasting: usize, anew: usize) {
        let before = *self.made.borrow();
        let enough =
            |made: &Made| made.lasting >= before.lasting + lasting && made.anew >= before.anew + anew;
        self.made.wait_for(enough).await.unwrap();
    }

    /// Asks them what they felt, and says it aloud.
    pub(crate) async fn stop(self, of: &str) -> Felt {
        self.stop.send_replace(true);
        let felt = self.felt.await.unwrap();
        eprintln!("{of}\n  lasting connections: {}\n  new connections:     {}", felt.lasting, felt.anew);
        felt
    }
}

impl Felt {
    /// How many connections the lasting ones were.
    pub(crate) fn lasting_connections(&self) -> usize {
        EACH + self.lasting.failures.len()
    }

    /// Fails the test unless they were served as ever.
    #[track_caller]
    pub(crate) fn was_nothing(&self) {
        for (kind, share) in [("lasting", &self.lasting), ("new", &self.anew)] {
            assert!(share.failures.is_empty(), "of {kind} connections: {:?}", share.failures);
            assert!(share.answered() >= EACH, "{kind} connections: {share}");
            assert!(share.longest() < BEARABLE, "{kind} connections: {share}");
        }
    }
}
