//! Backends that serve as an apiserver does, until they don't.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use lb::Backend;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::bystanders::{Elsewhere, Stream, Talk};
use crate::rig::{Identity, Server, accept_any, backend, own_ip, read_head};

/// What every request is answered.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Between two bytes of a backend that trickles: a whole answer takes four seconds.
const TRICKLE: Duration = Duration::from_millis(100);

/// How a backend behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Serves,
    /// As a stopped process does: its kernel takes connections and bytes, and it says nothing any more.
    Frozen,
    /// It resets in the middle of an answer.
    BreaksOff,
    /// It answers a byte at a time, some ten a second.
    Trickles,
}

/// An HTTPS server that can be told how to behave, on a thread of its own.
pub(crate) struct Moody {
    name: &'static str,
    pub(crate) server: Server,
    mood: watch::Sender<Mood>,
}

impl Moody {
    pub(crate) async fn start(elsewhere: &Elsewhere, name: &'static str, mood: Mood) -> Self {
        let mood = watch::Sender::new(mood);
        let seen = mood.subscribe();
        let ip = own_ip();
        let identity = Identity::new(ip);
        let server = Server::start_at(SocketAddr::new(ip, 0), move |stream| {
            converse(stream, identity.clone(), seen.clone())
        });
        Self { name, server: elsewhere.run(server).await, mood }
    }

    pub(crate) fn set(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    pub(crate) fn backend(&self) -> Backend {
        backend(self.name, self.server.address)
    }
}

/// Serves a connection, in whatever mood.
async fn converse(stream: TcpStream, identity: Identity, mut mood: watch::Receiver<Mood>) {
    let own = mood.clone();
    let mut serving = pin!(serve(stream, &identity, own));
    tokio::select! {
        biased;
        // A test that has ended tells nothing any more.
        _ = mood.wait_for(|mood| *mood == Mood::Frozen) => {}
        () = &mut serving => return,
    }
    // What serves is still there, and is never looked at again.
    std::future::pending::<()>().await;
}

async fn serve(stream: TcpStream, identity: &Identity, mood: watch::Receiver<Mood>) {
    let Ok(mut stream) = identity.accept(stream).await else { return };
    while read_head(&mut stream).await.is_some() {
        let mood = *mood.borrow();
        let breaks_off = mood == Mood::BreaksOff;
        if mood == Mood::Trickles {
            if trickle(&mut stream).await.is_err() {
                return;
            }
            continue;
        }
        let answer = if breaks_off { &ANSWER[..ANSWER.len() / 2] } else { ANSWER };
        if stream.write_all(answer).await.is_err() || stream.flush().await.is_err() {
            return;
        }
        if breaks_off {
            stream.get_ref().0.set_zero_linger().unwrap();
            return;
        }
    }
}

async fn trickle(stream: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
    for byte in ANSWER {
        stream.write_all(&[*byte]).await?;
        stream.flush().await?;
        // How it behaves, not a wait for something.
        tokio::time::sleep(TRICKLE).await;
    }
    Ok(())
}

/// Clients of such a backend.
pub(crate) fn https(address: SocketAddr) -> Talk {
    let dial = move || async move {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let stream = accept_any().connect("api.test".try_into().unwrap(), stream).await?;
        Ok(Box::new(stream) as Box<dyn Stream>)
    };
    Talk::new(dial, b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n", ANSWER.len())
}
