//! The listening sockets.
//!
//! Every worker has its own socket per address, in a `SO_REUSEPORT` group, so that the kernel spreads
//! connections and no worker wakes for another's. Such a group would let a second instance of this program in
//! unnoticed. So the first socket is bound *and listens* without the option, which fails if anybody else
//! listens there, and only then is the group opened: at no moment can two programs both get in.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Context, Poll};

use rustix::io::Errno;
use rustix::net::SocketFlags;
use socket2::{Domain, Protocol, Socket, Type};

use crate::Error;
use crate::config::{Frontend, Listen};
use crate::reactor::Reactor;
use crate::socket;

/// Connections that may wait to be accepted; the kernel lowers it to net.core.somaxconn, 4096 by default.
const BACKLOG: i32 = 4096;

/// A connection that was accepted.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) socket: OwnedFd,
    /// Who is at its other end.
    pub(crate) client: Option<SocketAddr>,
}

/// A listening socket in the hands of its worker.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: TcpListener,
    reactor: Rc<Reactor>,
    key: usize,
}

impl Listener {
    /// Has a socket watched.
    ///
    /// # Errors
    /// It can't be watched.
    pub(crate) fn new(socket: TcpListener, reactor: &Rc<Reactor>) -> io::Result<Self> {
        let key = reactor.register(&socket)?;
        Ok(Self { socket, reactor: Rc::clone(reactor), key })
    }

    /// Takes the next connection; it doesn't block.
    pub(crate) fn poll_accept(&self, context: &Context<'_>) -> Poll<io::Result<Accepted>> {
        self.reactor.poll_read(self.key, context, || self.take()).map_ok(|(accepted, _)| accepted)
    }

    /// Takes a connection that has come already.
    ///
    /// # Errors
    /// Those of accept(2); `WouldBlock` when there is none.
    pub(crate) fn accept_now(&self) -> io::Result<Accepted> {
        Ok(self.take()?)
    }

    fn take(&self) -> rustix::io::Result<Accepted> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (socket, peer) = rustix::net::acceptfrom_with(&self.socket, flags)?;
        // Asked now, since the kernel doesn't tell any more when the client has reset the connection.
        let client = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
        let canonical = |client: SocketAddr| SocketAddr::new(client.ip().to_canonical(), client.port());
        Ok(Accepted { socket, client: client.map(canonical) })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.reactor.deregister(self.key);
    }
}

/// Binds a frontend: for every worker one listener per address.
pub(crate) fn bind(frontend: &Frontend, workers: usize) -> Result<Vec<Vec<TcpListener>>, Error> {
    let mut per_worker: Vec<Vec<TcpListener>> = (0..workers).map(|_| Vec::new()).collect();
    for address in addresses(&frontend.listen) {
        let error = |source| Error::listen(&frontend.name, &frontend.listen, address, source);
        let group = group(address, frontend, workers).map_err(error)?;
        for (listeners, socket) in per_worker.iter_mut().zip(group) {
            listeners.push(socket.into());
        }
    }
    Ok(per_worker)
}

fn addresses(listen: &Listen) -> Vec<SocketAddr> {
    match listen {
        Listen::Any { port } => vec![SocketAddr::from((Ipv6Addr::UNSPECIFIED, *port))],
        Listen::Forwarded(_) | Listen::Nowhere => Vec::new(),
        Listen::Addresses { ips, port } | Listen::Redirected { ips, own: port, .. } => {
            ips.iter().map(|ip| SocketAddr::from((*ip, *port))).collect()
        }
    }
}

fn group(address: SocketAddr, frontend: &Frontend, workers: usize) -> io::Result<Vec<Socket>> {
    let first = match alone(address, frontend) {
        Err(error) if is_without_ipv6(&error) && address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
            alone(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())), frontend)?
        }
        other => other?,
    };
    // The port, where the kernel chose it; the family, where IPv6 is off.
    let bound = first.local_addr()?.as_socket().ok_or(io::ErrorKind::InvalidData)?;
    first.set_reuse_port(true)?;
    let mut group = vec![first];
    while group.len() < workers {
        let member = socket_for(bound, frontend)?;
        member.set_reuse_port(true)?;
        member.bind(&bound.into())?;
        member.listen(BACKLOG)?;
        group.push(member);
    }
    Ok(group)
}

/// A socket that listens on `address` and proves by it that nobody else does.
fn alone(address: SocketAddr, frontend: &Frontend) -> io::Result<Socket> {
    let socket = socket_for(address, frontend)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn socket_for(address: SocketAddr, frontend: &Frontend) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    // For TIME_WAIT and established flows of an earlier run only: it never lets two sockets listen.
    socket.set_reuse_address(true)?;
    let any = address.ip().is_unspecified();
    if address.is_ipv6() {
        socket.set_only_v6(!any)?;
    }
    match address {
        _ if any => {}
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => socket.set_freebind_v6(true)?,
    }
    socket::tune(&socket, &frontend.timeouts)?;
    Ok(socket)
}

/// How a kernel without IPv6, or with IPv6 turned off, refuses.
fn is_without_ipv6(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}
