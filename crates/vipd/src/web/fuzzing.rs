//! What fuzzing calls of the server. See [`crate::fuzzing`].

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use super::answer::{Site, Sources, answer};
use super::connection;
use crate::daemon::Pulse;
use crate::status::Reporter;

/// What is answered to one request has no more bytes: the page's script is the longest.
const ANSWER_MAX: usize = 256 * 1024;

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
}

/// A stream that says what it has piece by piece, then ends, and keeps what it is told.
struct Stream<'a> {
    pieces: Vec<&'a [u8]>,
    told: Rc<RefCell<Vec<u8>>>,
}

impl AsyncRead for Stream<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(piece) = self.pieces.last_mut() else { return Poll::Ready(Ok(())) };
        let (now, later) = piece.split_at(piece.len().min(into.remaining()));
        into.put_slice(now);
        *piece = later;
        if later.is_empty() {
            self.pieces.pop();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.told.borrow_mut().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What a client says to the server of metrics and health, on one connection.
///
/// What it is answered doesn't depend on how that is cut, as long as it makes sense; there are no more answers than there is room for requests; and each begins as one.
pub fn requests(bytes: &[u8]) {
    let whole = answered(vec![bytes]);
    let statuses = |answers: &[u8]| answers.windows(9).filter(|nine| nine == b"HTTP/1.1 ").count();
    // The shortest request is `GET / HTTP/1.0` and two ends of a line; one that is none has one answer, the last.
    let most = bytes.len() / 18 + 1;
    assert!(whole.is_empty() || whole.starts_with(b"HTTP/1."), "{}", whole.escape_ascii());
    assert!(statuses(&whole) <= most && whole.len() <= most * ANSWER_MAX);
    if let Some(middle) = bytes.len().checked_div(2).filter(|middle| *middle > 0) {
        let cut = answered(vec![&bytes[middle..], &bytes[..middle]]);
        // Where a body isn't read, that may be the last answer.
        for (one, other) in dateless(&cut).iter().zip(dateless(&whole)) {
            assert_eq!(*one, other);
        }
    }
}

/// What is answered to pieces, of which the last is said first.
fn answered(pieces: Vec<&[u8]>) -> Vec<u8> {
    let told = Rc::new(RefCell::new(Vec::new()));
    let pieces: Vec<&[u8]> = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
    let stream = Stream { pieces, told: Rc::clone(&told) };
    let (_others, heard) = watch::channel(BTreeMap::new());
    let pulse = Pulse::of_one_beat();
    let sources = Sources { reporter: Reporter::of_others(heard, pulse.clone()), pulse };
    RUNTIME.with(|runtime| {
        runtime.block_on(connection::serve(stream, |request| {
            answer(Site::MetricsAndHealth, &sources, request.method(), request.uri())
        }));
    });
    told.take()
}

/// The answers of this server, without what differs from one moment to the next: the date, figures, and whether the connection ends. What
/// hyper says of bytes that are no request depends on how they come, and is the last that is said.
fn dateless(answers: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(answers);
    let is_of_the_moment = |line: &str| {
        ["date: ", "connection: "].iter().any(|of| line.starts_with(of))
            || line.contains(|c: char| c.is_ascii_digit())
    };
    let own = text.split("HTTP/1.").skip(1).take_while(|answer| answer.contains("cache-control: no-store"));
    own.map(|answer| {
        let (status, rest) = answer.split_once('\n').unwrap_or((answer, ""));
        let rest = rest.lines().filter(|line| !is_of_the_moment(line));
        std::iter::once(status).chain(rest).collect::<Vec<_>>().join("\n")
    })
    .collect()
}
