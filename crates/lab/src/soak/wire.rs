//! One end of a stream: content is sent and compared, and every byte is counted.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::Instant;

use super::content::{Checksum, Content};

/// Bytes that are read or written at once.
const PIECE: usize = 16 * 1024;

/// Why a stream did not end as it should.
#[derive(Debug)]
pub(super) enum Trouble {
    /// What came is not what was sent.
    Wrong(String),
    /// It ended too early, in order.
    Short,
    /// It broke.
    Broken(io::Error),
    /// Nothing came for far too long.
    Stuck,
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Wrong(what) => write!(f, "wrong bytes: {what}"),
            Self::Short => f.write_str("ended too early"),
            Self::Broken(error) => write!(f, "broke: {error}"),
            Self::Stuck => f.write_str("nothing came for too long"),
        }
    }
}

/// Bytes that the kernel has taken from this end, and given to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) sent: u64,
    pub(super) received: u64,
    /// Of those sent, how many the other end has acknowledged by a receipt.
    pub(super) acknowledged: u64,
}

/// Sends content, at this pace at most; gives its checksum.
pub(super) async fn send_content(
    to: &mut (impl AsyncWrite + Unpin),
    content: Content,
    length: u64,
    pace: u64,
    sent: &mut u64,
) -> Result<Checksum, Trouble> {
    let (begin, mut at, mut sum) = (Instant::now(), 0, Checksum::default());
    let mut buffer = vec![0; PIECE.min(usize::try_from(length).unwrap_or(PIECE))];
    while at < length {
        let piece = &mut buffer[..PIECE.min(usize::try_from(length - at).unwrap_or(PIECE))];
        content.fill(at, piece);
        sum.add(piece);
        send(to, piece, sent).await?;
        at += piece.len() as u64;
        if pace > 0 && at < length {
            tokio::time::sleep_until(begin + Duration::from_secs_f64(at as f64 / pace as f64)).await;
        }
    }
    Ok(sum)
}

/// Sends bytes, and counts them as the kernel takes them.
pub(super) async fn send(
    to: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
    sent: &mut u64,
) -> Result<(), Trouble> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let length = to.write(rest).await?;
        *sent += length as u64;
        rest = &rest[length..];
    }
    Ok(())
}

/// Reads content and compares it; gives its checksum.
pub(super) async fn receive_content(
    from: &mut (impl AsyncRead + Unpin),
    content: Content,
    length: u64,
    received: &mut u64,
) -> Result<Checksum, Trouble> {
    let (mut at, mut sum) = (0, Checksum::default());
    let mut buffer = vec![0; PIECE.min(usize::try_from(length).unwrap_or(PIECE))];
    while at < length {
        let most = PIECE.min(usize::try_from(length - at).unwrap_or(PIECE));
        let read = from.read(&mut buffer[..most]).await?;
        if read == 0 {
            return Err(Trouble::Short);
        }
        *received += read as u64;
        if let Some(place) = content.first_wrong(at, &buffer[..read]) {
            return Err(Trouble::Wrong(format!("byte {place} of {length}")));
        }
        sum.add(&buffer[..read]);
        at += read as u64;
    }
    Ok(sum)
}

/// Fills a buffer; false if the stream ended before its first byte.
pub(super) async fn receive(
    from: &mut (impl AsyncRead + Unpin),
    buffer: &mut [u8],
    received: &mut u64,
) -> Result<bool, Trouble> {
    let mut at = 0;
    while at < buffer.len() {
        let read = from.read(&mut buffer[at..]).await?;
        *received += read as u64;
        at += read;
        match (read, at) {
            (0, 0) => return Ok(false),
            (0, _) => return Err(Trouble::Short),
            _ => {}
        }
    }
    Ok(true)
}

/// Waits for the end of the stream, behind which nothing may come.
pub(super) async fn receive_end(
    from: &mut (impl AsyncRead + Unpin),
    received: &mut u64,
) -> Result<(), Trouble> {
    let read = from.read(&mut [0; 64]).await?;
    *received += read as u64;
    if read == 0 { Ok(()) } else { Err(Trouble::Wrong("more came than all".to_owned())) }
}
