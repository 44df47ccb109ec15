//! The listening sockets.
//!
//! Every worker has its own socket per address, in a `SO_REUSEPORT` group, so that the kernel spreads
//! connections and no worker wakes for another's. Such a group would let a second instance of this program in
//! unnoticed. So the first socket is bound *and listens* without the option, which fails if anybody else
//! listens there, and only then is the group opened: at no moment can two programs both get in.
//!
//! Where another address of the same port is this balancer's already, as when it goes from every address to one of them, a socket
//! alone would be refused for its sake. Then the group's own sockets are the proof: whoever has the port on an address that they cover
//! was found when they were bound.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Context, Poll};

use rustix::io::Errno;
use rustix::net::SocketFlags;
use socket2::{Domain, Protocol, Socket, Type};

use crate::Error;
use crate::config::{Frontend, Listen, Timeouts};
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

    /// Sets the options that connections inherit which come from now on.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn tune(&self, timeouts: &Timeouts) -> io::Result<()> {
        socket::tune(&self.socket, timeouts)
    }

    /// A duplicate, for another process.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub(crate) fn duplicate(&self) -> io::Result<TcpListener> {
        self.socket.try_clone()
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
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
        // Another process may have a duplicate, with which it would stay watched when it is closed.
        self.reactor.unwatch(self.key, &self.socket);
    }
}

/// One address, bound: for every worker a listener.
#[derive(Debug)]
pub(crate) struct Bound {
    /// The address that was bound: with its port, where the kernel chose that.
    pub(crate) address: SocketAddr,
    pub(crate) listeners: Vec<TcpListener>,
}

/// Binds one of a frontend's addresses. `beside` tells that the balancer has an overlapping one.
///
/// # Errors
/// Somebody else has it, or the kernel refuses for another reason. Nothing is bound then.
pub(crate) fn bind(
    frontend: &Frontend,
    address: SocketAddr,
    workers: usize,
    beside: bool,
) -> Result<Bound, Error> {
    let error = |source| Error::listen(&frontend.name, &frontend.listen, address, source);
    group(address, frontend, workers, beside).map_err(error)
}

/// Takes over the sockets of one address from another process, and adds those that are missing. Nobody else can have it: those were bound
/// alone.
///
/// # Errors
/// The kernel refuses another.
pub(crate) fn join(
    frontend: &Frontend,
    mut listeners: Vec<TcpListener>,
    workers: usize,
) -> Result<Bound, Error> {
    let first = listeners.first().and_then(|listener| listener.local_addr().ok());
    let Some(address) = first else {
        return Ok(Bound { address: SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)), listeners: Vec::new() });
    };
    if listeners.len() > workers {
        tracing::warn!(
            frontend = frontend.name, %address, workers, listeners = listeners.len(),
            "fewer workers than before: clients that are just connecting at the other listeners may be reset"
        );
        listeners.truncate(workers);
    }
    while listeners.len() < workers {
        let error = |source| Error::listen(&frontend.name, &frontend.listen, address, source);
        listeners.push(member(address, frontend).map_err(error)?.into());
    }
    Ok(Bound { address, listeners })
}

/// The addresses that a frontend asks for.
pub(crate) fn addresses(listen: &Listen) -> Vec<SocketAddr> {
    match listen {
        Listen::Any { port } => vec![SocketAddr::from((Ipv6Addr::UNSPECIFIED, *port))],
        Listen::Forwarded(_) | Listen::Nowhere => Vec::new(),
        Listen::Addresses { ips, port } | Listen::Redirected { ips, own: port, .. } => {
            ips.iter().map(|ip| SocketAddr::from((*ip, *port))).collect()
        }
    }
}

/// Whether what comes for the second comes for the first as well: the unspecified address of IPv6 is every address, that of IPv4
/// every one of IPv4.
pub(crate) fn covers(one: SocketAddr, other: SocketAddr) -> bool {
    let wide = match one.ip() {
        IpAddr::V4(ip) => ip.is_unspecified() && other.is_ipv4(),
        IpAddr::V6(ip) => ip.is_unspecified(),
    };
    one.port() == other.port() && (wide || one.ip() == other.ip())
}

fn group(address: SocketAddr, frontend: &Frontend, workers: usize, beside: bool) -> io::Result<Bound> {
    let first = match first(address, frontend, beside) {
        Err(error) if is_without_ipv6(&error) && address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
            first(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())), frontend, beside)?
        }
        other => other?,
    };
    // The port, where the kernel chose it; the family, where IPv6 is off.
    let bound = first.local_addr()?.as_socket().ok_or(io::ErrorKind::InvalidData)?;
    first.set_reuse_port(true)?;
    let mut group = vec![first];
    while group.len() < workers {
        group.push(member(bound, frontend)?);
    }
    Ok(Bound { address: bound, listeners: group.into_iter().map(Into::into).collect() })
}

/// One more of a group that is open.
fn member(address: SocketAddr, frontend: &Frontend) -> io::Result<Socket> {
    let member = socket_for(address, frontend)?;
    member.set_reuse_port(true)?;
    member.bind(&address.into())?;
    member.listen(BACKLOG)?;
    Ok(member)
}

/// A socket that listens on `address`, and proves by it that nobody else does, unless it comes `beside` one of our own.
fn first(address: SocketAddr, frontend: &Frontend, beside: bool) -> io::Result<Socket> {
    let socket = socket_for(address, frontend)?;
    if beside {
        socket.set_reuse_port(true)?;
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_covers_itself_and_the_unspecified_one_covers_all_of_its_port() {
        let covers = |one: &str, other: &str| covers(one.parse().unwrap(), other.parse().unwrap());
        assert!(
            covers("[::]:1", "[::]:1") && covers("[::]:1", "10.0.0.1:1") && covers("[::]:1", "[fd00::1]:1")
        );
        assert!(covers("[::]:1", "0.0.0.0:1") && !covers("0.0.0.0:1", "[::]:1"));
        assert!(covers("0.0.0.0:1", "10.0.0.1:1") && !covers("0.0.0.0:1", "[fd00::1]:1"));
        assert!(covers("10.0.0.1:1", "10.0.0.1:1") && !covers("10.0.0.1:1", "10.0.0.2:1"));
        assert!(!covers("10.0.0.1:1", "[::]:1") && !covers("[::]:1", "10.0.0.1:2"));
    }
}
