//! The connection that a probe keeps between two checks.

use std::io;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// Bytes read and dropped between two checks from a backend that talks on a connection held for its own sake.
/// Beyond it the rest waits in the kernel, and so does the news of the connection's end, until the next
/// check.
pub(super) const CHATTER: usize = 64 * 1024;

/// The connection held between two checks.
#[derive(Debug, Default)]
pub(super) enum Held {
    #[default]
    Nothing,
    /// Carries the next request.
    ForRequests(Box<TlsStream<TcpStream>>),
    /// Judges the backend by its being there.
    Plain(TcpStream),
    /// The same, over TLS.
    Encrypted(Box<TlsStream<TcpStream>>),
}

impl Held {
    /// True if nothing is asked on it: that it is there is what counts.
    pub(super) fn is_for_its_own_sake(&self) -> bool {
        matches!(self, Self::Plain(_) | Self::Encrypted(_))
    }

    /// Waits until the connection can't be used any more, and returns why. Cancel-safe: it only reads what it
    /// drops.
    pub(super) async fn closed(&mut self, chatter: &mut usize) -> io::ErrorKind {
        let mut buffer = [0; 1024];
        loop {
            if *chatter == 0 {
                return std::future::pending().await;
            }
            let read = match self {
                Self::Nothing => return std::future::pending().await,
                // Whatever comes without a request, it is not the answer to the next one.
                Self::ForRequests(stream) => stream.read(&mut buffer).await.and(Ok(0)),
                Self::Plain(stream) => stream.read(&mut buffer).await,
                Self::Encrypted(stream) => stream.read(&mut buffer).await,
            };
            match read {
                Ok(0) => return io::ErrorKind::UnexpectedEof,
                Ok(length) => *chatter = chatter.saturating_sub(length),
                Err(error) => return error.kind(),
            }
        }
    }
}
