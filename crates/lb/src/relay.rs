//! Moving the bytes of one flow, both ways, as a poll function: an idle flow keeps two sockets and these few
//! words.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Sleep;

use crate::drain::End;
use crate::first_flight::FirstFlight;
use crate::lane::Record;
use crate::leg::Leg;
use crate::pipe::{Pipe, Pipes};
use crate::pool::{Candidate, Candidates, Counter, Member};

/// Bytes moved in one direction before the other flows of the worker get their turn, well under a millisecond
/// of copying.
const TURN: usize = 1024 * 1024;

/// Bytes taken at once with which splicing goes on. Below, the copy costs less than the system calls.
const WORTH_SPLICING: usize = 64 * 1024;

/// How long a backend's end of stream is kept from a client that has not spoken yet. A backend that dies
/// between accepting and the client's first bytes looks like one that has nothing to say; those bytes, mostly
/// under way already, tell whether the flow can start again elsewhere.
const EARLY_END_WAIT: Duration = Duration::from_millis(500);

/// Changes of its frontend's backends that a connection follows which finds none to connect to. One is what a
/// replaced node needs; a few more cost nothing, and for ever would keep a client that nobody serves.
const FOLLOWED: u8 = 3;

/// What a flow still needs as long as it may move to another backend: until a backend's first byte, or until
/// the client says something that can't be repeated.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) candidates: Candidates,
    /// Changes of the frontend's backends that it still follows; see [`FOLLOWED`].
    pub(crate) changes_left: u8,
    /// Those that took long to connect to, while others were left to try; at most all that were candidates.
    pub(crate) slow: VecDeque<Candidate>,
    flight: FirstFlight,
    early_end: Option<Pin<Box<Sleep>>>,
}

impl Opening {
    pub(crate) fn new(candidates: Candidates) -> Self {
        Self {
            candidates,
            changes_left: FOLLOWED,
            slow: VecDeque::new(),
            flight: FirstFlight::default(),
            early_end: None,
        }
    }
}

/// Why relaying has ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Both sides have said all, and all was handed on.
    Finished,
    /// The client's connection broke.
    Client(io::Error),
    /// The backend's connection broke; with an opening left, another may be tried.
    Backend(io::Error),
    /// It was ordered from outside.
    Ended(End),
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => formatter.write_str("finished"),
            Self::Client(error) => write!(formatter, "client: {error}"),
            Self::Backend(error) => write!(formatter, "backend: {error}"),
            Self::Ended(end) => write!(formatter, "{end}"),
        }
    }
}

/// One direction of a flow.
#[derive(Debug, Default)]
pub(crate) struct Direction {
    /// Taken from the source, but not yet by the destination; nothing more is read before it is.
    pending: Option<Box<Pending>>,
    /// The last read filled the buffer: what comes next is spliced, if there is a pipe.
    bulk: bool,
    /// The source has ended.
    ended: bool,
    /// The destination has been told so, or will be by the end of its connection.
    shut: bool,
}

/// What waits.
#[derive(Debug)]
enum Pending {
    /// At most [`BUFFER`](crate::lane::BUFFER) bytes, from `sent` on.
    Bytes { bytes: Vec<u8>, sent: usize },
    /// At most [`PIPE`](crate::pipe::PIPE) bytes.
    Spliced(Pipe),
}

impl Direction {
    /// Starts over towards another destination, with `pending` to be said first.
    fn restart(&mut self, pending: &[u8]) {
        *self = Self { ended: self.ended, ..Self::default() };
        self.keep(pending);
    }

    fn keep(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.pending = Some(Box::new(Pending::Bytes { bytes: bytes.to_vec(), sent: 0 }));
        }
    }

    /// Sends what is left over, then the end of the stream if there is one. Ready when there is nothing more
    /// to send. If this is the `last` of the flow's two directions, the connections are closed next, which says the same.
    fn poll_flush(
        &mut self,
        context: &Context<'_>,
        to: &Leg,
        way: &Way<'_>,
        last: bool,
    ) -> Poll<io::Result<()>> {
        if let Some(pending) = self.pending.as_deref_mut() {
            match pending {
                Pending::Bytes { bytes, sent } => {
                    while *sent < bytes.len() {
                        let written = ready!(to.poll_write(context, &bytes[*sent..], self.ended))?;
                        way.count.add(written as u64);
                        *sent += written;
                    }
                }
                Pending::Spliced(pipe) => {
                    while pipe.filled > 0 {
                        let written = ready!(to.poll_drain(context, pipe, self.ended))?;
                        way.count.add(written as u64);
                        pipe.filled -= written;
                    }
                }
            }
            if let Some(Pending::Spliced(pipe)) = self.pending.take().map(|pending| *pending) {
                way.pipes.put(pipe);
            }
        }
        if self.ended && !self.shut {
            if !last {
                to.shutdown()?;
            }
            self.shut = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Takes what the source has into a pipe, if that is worth it and there is one; `None` if not. Otherwise the number of bytes,
    /// none at the end of the stream.
    fn poll_splice(
        &mut self,
        context: &Context<'_>,
        from: &Leg,
        way: &Way<'_>,
    ) -> Poll<io::Result<Option<usize>>> {
        let Some(mut pipe) = self.bulk.then(|| way.pipes.take()).flatten() else {
            return Poll::Ready(Ok(None));
        };
        match from.poll_fill(context, &pipe) {
            Poll::Ready(Ok(length)) => {
                self.bulk = length >= WORTH_SPLICING;
                pipe.filled = length;
                if length > 0 {
                    self.pending = Some(Box::new(Pending::Spliced(pipe)));
                }
                Poll::Ready(Ok(Some(length)))
            }
            Poll::Ready(Err(error)) if way.pipes.is_refused(&error) => {
                self.bulk = false;
                Poll::Ready(Ok(None))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                way.pipes.put(pipe);
                Poll::Pending
            }
        }
    }

    /// Sends `bytes` as far as the destination takes them now, and keeps the rest.
    fn send(&mut self, context: &Context<'_>, to: &Leg, bytes: &[u8], way: &Way<'_>) -> io::Result<()> {
        debug_assert!(self.pending.is_none(), "reading went on with bytes left over");
        let mut written = 0;
        while written < bytes.len() {
            match to.poll_write(context, &bytes[written..], self.ended)? {
                Poll::Ready(more) => {
                    way.count.add(more as u64);
                    written += more;
                }
                Poll::Pending => {
                    self.keep(&bytes[written..]);
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// What a direction goes through.
struct Way<'a> {
    /// The bytes that have gone.
    count: &'a Counter,
    pipes: &'a Pipes,
}

/// Both directions of a flow.
#[derive(Debug, Default)]
pub(crate) struct Directions {
    pub(crate) up: Direction,
    pub(crate) down: Direction,
}

impl Directions {
    /// Whether something waits for the backend.
    pub(crate) fn has_more(&self) -> bool {
        self.up.pending.is_some()
    }

    /// Prepares for another backend.
    pub(crate) fn restart(&mut self, opening: &mut Opening) {
        self.up.restart(opening.flight.bytes());
        self.down.restart(&[]);
        opening.early_end = None;
    }
}

/// A flow and everything it needs for one poll.
pub(crate) struct Relay<'a> {
    pub(crate) client: &'a Leg,
    pub(crate) backend: &'a Leg,
    pub(crate) directions: &'a mut Directions,
    pub(crate) opening: &'a mut Option<Box<Opening>>,
    pub(crate) record: &'a Record,
    pub(crate) member: &'a Member,
    pub(crate) buffer: &'a RefCell<Box<[u8]>>,
    pub(crate) pipes: &'a Pipes,
}

impl Relay<'_> {
    /// Moves what can be moved now.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Outcome> {
        if let Poll::Ready(end) = self.record.poll_end(context) {
            return Poll::Ready(Outcome::Ended(end));
        }
        let up = match self.poll_up(context) {
            Poll::Ready(Err(outcome)) => return Poll::Ready(outcome),
            Poll::Ready(Ok(())) => true,
            Poll::Pending => false,
        };
        let down = match self.poll_down(context) {
            Poll::Ready(Err(outcome)) => return Poll::Ready(outcome),
            Poll::Ready(Ok(())) => true,
            Poll::Pending => false,
        };
        if up && down { Poll::Ready(Outcome::Finished) } else { Poll::Pending }
    }

    /// From the client to the backend; ready when this direction has ended.
    fn poll_up(&mut self, context: &Context<'_>) -> Poll<Result<(), Outcome>> {
        let Directions { up: direction, down } = &mut *self.directions;
        let way = Way { count: &self.member.to_backend, pipes: self.pipes };
        let mut turn = TURN;
        loop {
            ready!(direction.poll_flush(context, self.backend, &way, down.shut)).map_err(Outcome::Backend)?;
            if direction.ended {
                return Poll::Ready(Ok(()));
            }
            if turn == 0 {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let spliced = direction.poll_splice(context, self.client, &way);
            if let Some(length) = ready!(spliced).map_err(Outcome::Client)? {
                turn = turn.saturating_sub(length);
                self.record.touch();
                direction.ended = length == 0;
                continue;
            }
            let mut buffer = self.buffer.borrow_mut();
            let read = ready!(self.client.poll_read(context, &mut buffer)).map_err(Outcome::Client)?;
            turn = turn.saturating_sub(read.length);
            self.record.touch();
            direction.ended = read.last;
            direction.bulk = read.length == buffer.len() && self.opening.is_none();
            let bytes = &buffer[..read.length];
            if bytes.is_empty() {
                continue;
            }
            if let Some(opening) = self.opening.as_mut() {
                if !opening.flight.keep(bytes) {
                    *self.opening = None;
                } else if opening.early_end.is_some() {
                    return Poll::Ready(Err(backend_ended()));
                }
            }
            direction.send(context, self.backend, bytes, &way).map_err(Outcome::Backend)?;
        }
    }

    /// From the backend to the client; ready when this direction has ended.
    fn poll_down(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Outcome>> {
        let Directions { up, down: direction } = &mut *self.directions;
        let way = Way { count: &self.member.to_client, pipes: self.pipes };
        let mut turn = TURN;
        loop {
            ready!(direction.poll_flush(context, self.client, &way, up.shut)).map_err(Outcome::Client)?;
            if direction.ended {
                return Poll::Ready(Ok(()));
            }
            if turn == 0 {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            if let Some(wait) = self.opening.as_mut().and_then(|opening| opening.early_end.as_mut()) {
                // A client that has ended will not say anything that could tell more.
                if !up.ended {
                    ready!(wait.as_mut().poll(context));
                }
                *self.opening = None;
                direction.ended = true;
                continue;
            }
            let spliced = direction.poll_splice(context, self.backend, &way);
            if let Some(length) = ready!(spliced).map_err(Outcome::Backend)? {
                turn = turn.saturating_sub(length);
                self.record.touch();
                direction.ended = length == 0;
                continue;
            }
            let mut buffer = self.buffer.borrow_mut();
            let read = ready!(self.backend.poll_read(context, &mut buffer)).map_err(Outcome::Backend)?;
            turn = turn.saturating_sub(read.length);
            self.record.touch();
            direction.bulk = read.length == buffer.len();
            if read.length > 0 {
                let bytes = &buffer[..read.length];
                *self.opening = None;
                direction.ended = read.last;
                direction.send(context, self.client, bytes, &way).map_err(Outcome::Client)?;
                continue;
            }
            match self.opening.as_mut() {
                Some(opening) if opening.flight.is_empty() => {
                    opening.early_end = Some(Box::pin(tokio::time::sleep(EARLY_END_WAIT)));
                }
                Some(_) => return Poll::Ready(Err(backend_ended())),
                None => direction.ended = true,
            }
        }
    }
}

/// A handshake that was answered by the end of the stream.
fn backend_ended() -> Outcome {
    Outcome::Backend(io::ErrorKind::UnexpectedEof.into())
}

#[cfg(test)]
mod tests;
