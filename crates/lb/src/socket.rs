//! Socket options that listeners, flows and probes share.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::io::Errno;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};

use crate::config::Timeouts;

/// The kernel counts keepalive times in whole seconds, and 0 is refused.
const LEAST_KEEPALIVE: Duration = Duration::from_secs(1);

/// Options for a leg of a flow. Set on a listener, every accepted connection inherits them, which saves a
/// system call each.
pub(crate) fn tune(socket: &impl AsFd, timeouts: &Timeouts) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    let period = timeouts.keepalive.max(LEAST_KEEPALIVE);
    // Without a count: with TCP_USER_TIMEOUT set, the kernel takes that as the end instead.
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(period).with_interval(period))?;
    socket.set_tcp_user_timeout(Some(timeouts.user_timeout))
}

/// Connects to a backend for a check; a flow's own is [`Leg::connect`](crate::leg::Leg::connect).
///
/// # Errors
///
/// Those of the kernel; and `ConnectionRefused` when the kernel, choosing the port nobody listens on as our
/// own, has connected the socket to itself.
pub(crate) async fn connect(address: SocketAddr, timeouts: &Timeouts) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    tune(&socket, timeouts)?;
    let stream = socket.connect(address).await?;
    if address.ip().is_loopback() && stream.local_addr()? == address {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(stream)
}

/// Has the kernel tell the peer by a reset when the connection is closed.
pub(crate) fn reset_when_closed(socket: &impl AsFd) {
    // It fails only on a connection that is gone already.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// True for errors that are ours: no file descriptor, memory or local port left. They tell nothing about the
/// peer.
pub(crate) fn is_ours(error: &io::Error) -> bool {
    is_starvation(error) || matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse)
}

/// True when a file descriptor or memory is missing, which the end of a flow gives back.
pub(crate) fn is_starvation(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}
