//! One connection of a flow.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Context, Poll};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, ipproto, sockopt};
use socket2::SockRef;

use crate::config::Timeouts;
use crate::reactor::Reactor;
use crate::socket;
use crate::transparent;

/// One connection of a flow. Dropping it resets the connection, unless it was ended properly: whoever forgets
/// a flow, tells its peers.
#[derive(Debug)]
pub(crate) struct Leg {
    socket: OwnedFd,
    reactor: Rc<Reactor>,
    key: usize,
    finished: bool,
}

/// What was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Read {
    /// How many bytes; none at the end of the stream.
    pub(crate) length: usize,
    /// Nothing comes after them.
    pub(crate) last: bool,
}

impl Leg {
    /// A connection that was accepted.
    ///
    /// # Errors
    /// It can't be watched; it is reset then.
    pub(crate) fn new(socket: OwnedFd, reactor: &Rc<Reactor>) -> io::Result<Self> {
        match reactor.register(&socket) {
            Ok(key) => Ok(Self { socket, reactor: Rc::clone(reactor), key, finished: false }),
            Err(error) => {
                socket::reset_when_closed(&socket);
                Err(error)
            }
        }
    }

    /// Connects to a backend, from an address that may be another host's.
    ///
    /// # Errors
    ///
    /// Those of the kernel; and `ConnectionRefused` when the kernel, choosing the port nobody listens on as our
    /// own, has connected the socket to itself.
    pub(crate) async fn connect(
        address: SocketAddr,
        source: Option<IpAddr>,
        timeouts: &Timeouts,
        reactor: &Rc<Reactor>,
    ) -> io::Result<Self> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
        socket::tune(&socket, timeouts)?;
        if let Some(source) = source {
            transparent::assume(&socket, source)?;
        }
        // The answer to the backend's SYN goes with the first bytes then; see `acknowledge`. Where it can't be had, it goes alone.
        let _ = sockopt::set_tcp_quickack(&socket, false);
        match rustix::net::connect(&socket, &address) {
            // Interrupted, it goes on like one in progress (connect(2)).
            Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let leg = Self::new(socket, reactor)?;
        poll_fn(|context| {
            let readiness = leg.reactor.readiness(leg.key, context);
            if readiness.write { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        if let Err(error) = sockopt::socket_error(&leg.socket)? {
            return Err(error.into());
        }
        if address.ip().is_loopback() && leg.local_address()? == address {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        Ok(leg)
    }

    /// Whether something may be there to be read.
    pub(crate) fn may_read(&self) -> bool {
        self.reactor.may_read(self.key)
    }

    /// Whether the connection is known to be broken.
    pub(crate) fn is_broken(&self) -> bool {
        self.reactor.is_broken(self.key)
    }

    /// Completes the handshake at once, when there is nothing yet to send to a backend; it might be the one to speak first, and the
    /// kernel would wait for up to 200 ms for something that goes with the acknowledgement.
    pub(crate) fn acknowledge(&self) {
        let _ = sockopt::set_tcp_quickack(&self.socket, true);
    }

    /// The address of this host that the connection has.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn local_address(&self) -> io::Result<SocketAddr> {
        let address = SockRef::from(&self.socket).local_addr()?.as_socket();
        let address = address.ok_or(io::ErrorKind::InvalidData)?;
        Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
    }

    /// Reads into the buffer.
    pub(crate) fn poll_read(&self, context: &Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<Read>> {
        let size = buffer.len();
        let read = self.reactor.poll_read(self.key, context, || rustix::io::read(&self.socket, &mut *buffer));
        read.map_ok(|(length, readiness)| {
            // All that was there; the system call that would find nothing is saved. More is told anew, but of the end only once.
            let is_all = length < size;
            if is_all && !readiness.ended {
                self.reactor.clear_read(self.key);
            }
            Read { length, last: length == 0 || is_all && readiness.ended && !readiness.broken }
        })
    }

    /// The same, but what is read stays where it is. When it doesn't suffice, [`await_more`](Self::await_more).
    pub(crate) fn poll_peek(&self, context: &Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<Read>> {
        let size = buffer.len();
        let peek = || rustix::net::recv(&self.socket, &mut *buffer, RecvFlags::PEEK);
        let peeked = self.reactor.poll_read(self.key, context, peek);
        peeked.map_ok(|((length, _), readiness)| Read {
            length,
            last: length == 0 || length < size && readiness.ended,
        })
    }

    /// Whether there is something to be read right now, told yet or not.
    pub(crate) fn has_some(&self) -> bool {
        rustix::net::recv(&self.socket, &mut [0; 1][..], RecvFlags::PEEK).is_ok_and(|(_, length)| length > 0)
    }

    /// Has the next read wait until something has come since the last.
    pub(crate) fn await_more(&self) {
        self.reactor.clear_read(self.key);
    }

    /// Writes what there is room for. `more` says that something, if only the end of the stream, is said at once afterwards.
    pub(crate) fn poll_write(
        &self,
        context: &Context<'_>,
        bytes: &[u8],
        more: bool,
    ) -> Poll<io::Result<usize>> {
        let flags = if more { SendFlags::NOSIGNAL | SendFlags::MORE } else { SendFlags::NOSIGNAL };
        let written =
            self.reactor.poll_write(self.key, context, || rustix::net::send(&self.socket, bytes, flags));
        written.map_ok(|length| {
            // No room is left: more is told anew.
            if length < bytes.len() {
                self.reactor.clear_write(self.key);
            }
            length
        })
    }

    /// Ends our stream; the peer may go on.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn shutdown(&self) -> io::Result<()> {
        match rustix::net::shutdown(&self.socket, Shutdown::Write) {
            // The peer has reset it: reading tells.
            Ok(()) | Err(Errno::NOTCONN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Has the connection closed in the normal way when this is dropped, after the peer has ended its stream; ours ends by it, if it
    /// hasn't yet.
    pub(crate) fn finish(&mut self) {
        self.finished = true;
    }
}

impl Drop for Leg {
    fn drop(&mut self) {
        self.reactor.deregister(self.key);
        if !self.finished {
            // The virtual IP that a client reached may have left this host just now. From an address that isn't its own, the kernel
            // sends nothing, not even this reset, unless it is told so; without the right to, the client stays in the dark.
            let _ = SockRef::from(&self.socket).set_ip_transparent_v4(true);
            socket::reset_when_closed(&self.socket);
        }
    }
}

#[cfg(test)]
mod tests;
