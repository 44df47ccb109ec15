//! The listening sockets.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind as bind_socket, listen, socket_with, sockopt,
};

/// Connections that may wait to be accepted. They are taken at once, whatever they do then.
const BACKLOG: i32 = 128;

/// Listens on an address. `[::]` stands for all of IPv4 too, and for that alone where this machine has no IPv6.
///
/// # Errors
/// The port is taken, may not be had, or the address is not this machine's.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    match open(address) {
        Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL)
            if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) =>
        {
            Ok(open(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())))?)
        }
        opened => Ok(opened?),
    }
}

fn open(address: SocketAddr) -> Result<TcpListener, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    // For connections of an earlier run that linger: it never lets two sockets listen.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        // Whatever net.ipv6.bindv6only says: probes of an IPv4 host come here too.
        sockopt::set_ipv6_v6only(&socket, !address.ip().is_unspecified())?;
    }
    bind_socket(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}
