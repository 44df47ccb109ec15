//! Sends tickles, by way of the kernel's routes.

use std::io;
use std::net::SocketAddr;

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use crate::failure::unless;
use crate::tickle::Connection;

/// Raw sockets (raw(7)) that take whole IP packets. Needs the capability `NET_RAW`.
#[derive(Debug)]
pub struct Tickler {
    ipv4: Socket,
    /// `None` where the kernel has no IPv6.
    ipv6: Option<Socket>,
}

impl Tickler {
    /// Opens the sockets, in the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// The capability `NET_RAW` is missing.
    pub fn open() -> io::Result<Self> {
        let open = |domain| {
            // With this protocol a socket sends whole packets, and receives nothing.
            Socket::new(domain, Type::RAW.nonblocking().cloexec(), Some(Protocol::from(IPPROTO_RAW)))
        };
        let ipv6 = unless(Errno::AFNOSUPPORT, open(Domain::IPV6))?;
        Ok(Self { ipv4: open(Domain::IPV4)?, ipv6 })
    }

    /// Sends one. The virtual IP must be on this host by now: what the client answers has to come here.
    ///
    /// # Errors
    ///
    /// There is no route to the client, or the queue of the interface is full. The tickle is lost.
    pub fn send(&self, connection: &Connection) -> io::Result<()> {
        let client = connection.client().ip();
        let socket = if client.is_ipv4() { Some(&self.ipv4) } else { self.ipv6.as_ref() };
        let socket = socket.ok_or(io::ErrorKind::Unsupported)?;
        // The port is in the packet; in the address it would be the protocol.
        socket.send_to(&connection.tickle(), &SocketAddr::new(client, 0).into())?;
        Ok(())
    }
}

const IPPROTO_RAW: i32 = 255;
