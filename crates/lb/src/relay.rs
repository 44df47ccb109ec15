//! Moving the bytes of one flow, both ways, as a poll function: an idle flow keeps two sockets and these few
//! words.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Sleep;

use crate::account::{Account, Ending};
use crate::drain::End;
use crate::first_flight::FirstFlight;
use crate::lane::{Kit, Record, Waits};
use crate::leg::Leg;
use crate::pool::{Candidate, Candidates, Counter, Member};

/// Bytes moved in one direction before the other flows of the worker get their turn, well under a millisecond
/// of copying.
const TURN: usize = 1024 * 1024;

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
    /// What each backend is told before anything of the client; empty for those that expect nothing.
    header: Vec<u8>,
    /// Whose it is, where that is known.
    pub(crate) client: Option<IpAddr>,
    pub(crate) candidates: Candidates,
    /// Changes of the frontend's backends that it still follows; see [`FOLLOWED`].
    pub(crate) changes_left: u8,
    /// Those that took long to connect to, while others were left to try; at most all that were candidates.
    pub(crate) slow: VecDeque<Candidate>,
    flight: FirstFlight,
    early_end: Option<Pin<Box<Sleep>>>,
}

impl Opening {
    pub(crate) fn new(client: Option<IpAddr>, candidates: Candidates, header: Vec<u8>) -> Self {
        Self {
            header,
            client,
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
    /// Both sides have said all, and all was handed on; or the backend has, and hears nothing any more.
    Finished,
    /// The client's connection broke.
    Client(io::Error),
    /// The backend's connection broke; with an opening left, another may be tried.
    Backend(io::Error),
    /// It was ordered from outside.
    Ended(End),
}

impl Outcome {
    /// What it means for a flow that doesn't go on elsewhere.
    pub(crate) fn ending(&self) -> Ending {
        match self {
            Self::Finished => Ending::Finished,
            Self::Client(_) => Ending::Client,
            Self::Backend(_) => Ending::Backend,
            Self::Ended(end) => Ending::Ordered(*end),
        }
    }
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
    /// Read, but not yet taken by the destination; nothing more is read before it is.
    pending: Option<Box<Pending>>,
    /// The source has ended.
    ended: bool,
    /// The destination has been told so, or will be by the end of its connection.
    shut: bool,
}

/// At most [`BUFFER`](crate::lane::BUFFER) bytes that wait; [`LITTLE`](crate::lane::LITTLE) where much does already.
#[derive(Debug)]
struct Pending {
    bytes: Vec<u8>,
    sent: usize,
    /// None for the few that are known before anything is read.
    _counted: Option<Waits>,
}

impl Direction {
    /// Starts over towards another destination, with `pending` to be said first.
    fn restart(&mut self, pending: &[u8]) {
        *self = Self { ended: self.ended, ..Self::default() };
        self.keep(pending, None);
    }

    fn keep(&mut self, bytes: &[u8], counted: Option<Waits>) {
        if !bytes.is_empty() {
            self.pending = Some(Box::new(Pending { bytes: bytes.to_vec(), sent: 0, _counted: counted }));
        }
    }

    /// Sends what is left over, then the end of the stream if there is one. Ready when there is nothing more
    /// to send. If this is the `last` of the flow's two directions, the connections are closed next, which says the same.
    fn poll_flush(
        &mut self,
        context: &Context<'_>,
        to: &Leg,
        count: &Counter,
        last: bool,
    ) -> Poll<io::Result<()>> {
        if let Some(pending) = &mut self.pending {
            while pending.sent < pending.bytes.len() {
                let rest = &pending.bytes[pending.sent..];
                let written = ready!(to.poll_write(context, rest, self.ended))?;
                count.add(written as u64);
                pending.sent += written;
            }
            self.pending = None;
        }
        if self.ended && !self.shut {
            if !last {
                to.shutdown()?;
            }
            self.shut = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Sends `bytes` as far as the destination takes them now, and keeps the rest.
    fn send(
        &mut self,
        context: &Context<'_>,
        (to, kit): (&Leg, &Kit),
        bytes: &[u8],
        count: &Counter,
    ) -> io::Result<()> {
        debug_assert!(self.pending.is_none(), "reading went on with bytes left over");
        let mut written = 0;
        while written < bytes.len() {
            match to.poll_write(context, &bytes[written..], self.ended)? {
                Poll::Ready(more) => {
                    count.add(more as u64);
                    written += more;
                }
                Poll::Pending => {
                    self.keep(&bytes[written..], Some(kit.waits(bytes.len() - written)));
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// Both directions of a flow.
#[derive(Debug, Default)]
pub(crate) struct Directions {
    pub(crate) up: Direction,
    pub(crate) down: Direction,
}

impl Directions {
    /// Those of a flow that begins.
    pub(crate) fn new(opening: &Opening) -> Self {
        let mut directions = Self::default();
        directions.up.keep(&opening.header, None);
        directions
    }

    /// Whether something waits, in either direction.
    fn hold_some(&self) -> bool {
        self.up.pending.is_some() || self.down.pending.is_some()
    }

    /// Whether something waits for the backend.
    pub(crate) fn has_more(&self) -> bool {
        self.up.pending.is_some()
    }

    /// Prepares for another backend.
    pub(crate) fn restart(&mut self, opening: &mut Opening) {
        self.up.restart(&[&opening.header, opening.flight.bytes()].concat());
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
    pub(crate) account: Option<&'a mut Account>,
    pub(crate) record: &'a Record,
    pub(crate) member: &'a Member,
    pub(crate) kit: &'a Kit,
}

impl Relay<'_> {
    /// Moves what can be moved now.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Outcome> {
        let mut overdue = false;
        while let Poll::Ready(end) = self.record.poll_end(context) {
            let is_fit = match end {
                // Bytes on their way are silent, too, when nobody takes them; and the client may have asked just now.
                End::Rebalanced | End::Aged => {
                    self.opening.is_none() && !self.directions.hold_some() && !self.client.has_some()
                }
                // What has come already is passed on before.
                End::Overdue => {
                    overdue = true;
                    false
                }
                End::BackendClosed => self.opening.is_some(),
                End::Idle | End::BackendDead | End::VirtualIpLost | End::Stopped => true,
            };
            if is_fit {
                return Poll::Ready(Outcome::Ended(end));
            }
            if matches!(end, End::Rebalanced | End::Aged) {
                self.record.stay();
            }
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
        // Whoever has ended its stream isn't read any more, so its reset must be looked for: nobody else would tell of it. A backend that
        // hears nothing any more has still said all, and what the kernel has of that for the client isn't taken back.
        if down && (up || self.backend.is_broken()) {
            return Poll::Ready(Outcome::Finished);
        }
        match (up && self.client.is_broken(), overdue) {
            (true, _) => Poll::Ready(Outcome::Client(io::ErrorKind::BrokenPipe.into())),
            // An end in good order would look as if nothing was missing.
            (false, true) if self.directions.hold_some() => Poll::Ready(Outcome::Ended(End::Overdue)),
            (false, true) => Poll::Ready(Outcome::Ended(End::Aged)),
            (false, false) => Poll::Pending,
        }
    }

    /// From the client to the backend; ready when this direction has ended.
    fn poll_up(&mut self, context: &Context<'_>) -> Poll<Result<(), Outcome>> {
        let Directions { up: direction, down } = &mut *self.directions;
        let count = &self.member.to_backend;
        let mut turn = TURN;
        loop {
            ready!(direction.poll_flush(context, self.backend, count, down.shut))
                .map_err(Outcome::Backend)?;
            if direction.ended {
                return Poll::Ready(Ok(()));
            }
            if turn == 0 {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let mut buffer = self.kit.buffer.borrow_mut();
            let portion = &mut buffer[..self.kit.portion()];
            let read = ready!(self.client.poll_read(context, portion)).map_err(Outcome::Client)?;
            turn = turn.saturating_sub(read.length);
            if let Some(account) = &mut self.account {
                account.to_backend += read.length as u64;
            }
            self.record.said(read.length);
            direction.ended = read.last;
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
            direction.send(context, (self.backend, self.kit), bytes, count).map_err(Outcome::Backend)?;
        }
    }

    /// From the backend to the client; ready when this direction has ended.
    fn poll_down(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Outcome>> {
        let Directions { up, down: direction } = &mut *self.directions;
        let count = &self.member.to_client;
        let mut turn = TURN;
        loop {
            ready!(direction.poll_flush(context, self.client, count, up.shut)).map_err(Outcome::Client)?;
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
            let mut buffer = self.kit.buffer.borrow_mut();
            let portion = &mut buffer[..self.kit.portion()];
            let read = ready!(self.backend.poll_read(context, portion)).map_err(Outcome::Backend)?;
            turn = turn.saturating_sub(read.length);
            if let Some(account) = &mut self.account {
                account.to_client += read.length as u64;
            }
            self.record.told(read.length);
            if read.length > 0 {
                let bytes = &buffer[..read.length];
                *self.opening = None;
                direction.ended = read.last;
                direction.send(context, (self.client, self.kit), bytes, count).map_err(Outcome::Client)?;
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
