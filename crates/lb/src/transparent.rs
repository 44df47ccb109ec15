//! Connections to backends that come from the client's own address.
//!
//! The kernel lets a socket have an address that is another host's (`IP_TRANSPARENT`, ip(7)); that answers to it come back to this host, the
//! network's routes must see to: `docs/transparent-source.md`.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::client::Network;

/// Whose address is shown to the backends of a frontend, and what has come of it.
#[derive(Debug)]
pub(crate) struct Transparent {
    clients: Vec<Network>,
    /// A backend has answered to a client's address.
    answered: AtomicBool,
    /// It was said that none has.
    warned: AtomicBool,
}

impl Transparent {
    /// Shows the addresses of these clients; `None` where there are none.
    pub(crate) fn of(clients: &[Network]) -> Option<Self> {
        let clients = clients.to_vec();
        let none = || AtomicBool::new(false);
        (!clients.is_empty()).then(|| Self { clients, answered: none(), warned: none() })
    }

    /// The client's address, if a backend can be connected to from it.
    pub(crate) fn source(&self, client: Option<IpAddr>, backend: IpAddr) -> Option<IpAddr> {
        let (client, backend) = (client?.to_canonical(), backend.to_canonical());
        let is_meant = || self.clients.iter().any(|network| network.contains(client));
        (can_reach(client, backend) && is_meant()).then_some(client)
    }

    /// Notes how it went to connect to a backend from a client's address. The first time that one is silent before any has answered, it is
    /// said where to look.
    pub(crate) fn note(&self, frontend: &str, error: Option<&io::Error>) {
        if self.answered.load(Ordering::Relaxed) {
            return;
        }
        let is_silent = error.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut);
        if error.is_none() {
            self.answered.store(true, Ordering::Relaxed);
        } else if is_silent && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                frontend,
                "no backend has answered to a client's address yet: do its answers come back through this host? \
                 see docs/transparent-source.md"
            );
        }
    }
}

/// Whether a connection to this backend can come from this client's address.
fn can_reach(client: IpAddr, backend: IpAddr) -> bool {
    let is_of_a_host = !(client.is_unspecified() || client.is_multicast() || client.is_loopback());
    let beyond_its_link = match client {
        IpAddr::V4(ip) => !(ip.is_broadcast() || ip.is_link_local()),
        IpAddr::V6(ip) => !ip.is_unicast_link_local(),
    };
    // A host takes nothing from outside that seems to come from itself.
    is_of_a_host && beyond_its_link && client.is_ipv4() == backend.is_ipv4() && client != backend
}

/// Gives a socket that isn't connected yet the address of another host.
///
/// # Errors
/// Without the right to it, `PermissionDenied`; `AddrInUse` when the address has no port left.
pub(crate) fn assume(socket: &impl AsFd, ip: IpAddr) -> io::Result<()> {
    let socket = SockRef::from(socket);
    allow(&socket, ip.is_ipv4())?;
    socket.bind(&SocketAddr::new(ip, 0).into())
}

fn allow(socket: &Socket, is_ipv4: bool) -> io::Result<()> {
    if is_ipv4 { socket.set_ip_transparent_v4(true) } else { socket.set_ip_transparent_v6(true) }
}

/// Tries whether this process may show its clients' addresses to backends, and changes nothing.
///
/// # Errors
/// `PermissionDenied` without the capability `NET_ADMIN` or `NET_RAW`.
pub fn rehearse() -> io::Result<()> {
    allow(&Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(clients: &[(&str, u8)], client: &str, backend: &str) -> Option<String> {
        let network = |(ip, prefix): &(&str, u8)| Network::new(ip.parse().unwrap(), *prefix).unwrap();
        let transparent = Transparent::of(&clients.iter().map(network).collect::<Vec<_>>())?;
        let source = transparent.source(Some(client.parse().unwrap()), backend.parse().unwrap())?;
        Some(source.to_string())
    }

    const ALL: &[(&str, u8)] = &[("0.0.0.0", 0), ("::", 0)];

    #[test]
    fn a_clients_address_is_taken_in_its_canonical_form() {
        assert_eq!(source(ALL, "10.1.0.2", "10.2.0.2").unwrap(), "10.1.0.2");
        assert_eq!(source(ALL, "::ffff:10.1.0.2", "10.2.0.2").unwrap(), "10.1.0.2");
        assert_eq!(source(ALL, "fd01::2", "fd02::2").unwrap(), "fd01::2");
    }

    #[test]
    fn where_it_could_not_work_it_is_not_tried() {
        for (client, backend) in [
            ("10.1.0.2", "fd02::2"),
            ("fd01::2", "10.2.0.2"),
            ("10.2.0.2", "10.2.0.2"),
            ("::ffff:10.2.0.2", "10.2.0.2"),
            ("127.0.0.1", "10.2.0.2"),
            ("::1", "fd02::2"),
            ("0.0.0.0", "10.2.0.2"),
            ("255.255.255.255", "10.2.0.2"),
            ("224.0.0.1", "10.2.0.2"),
            ("169.254.1.1", "10.2.0.2"),
            ("fe80::1", "fd02::2"),
            ("ff02::1", "fd02::2"),
        ] {
            assert_eq!(source(ALL, client, backend), None, "{client} to {backend}");
        }
    }

    #[test]
    fn only_the_clients_that_are_meant_are_shown() {
        assert_eq!(source(&[("10.1.0.0", 24)], "10.1.0.2", "10.2.0.2").unwrap(), "10.1.0.2");
        assert_eq!(source(&[("10.1.0.0", 24)], "10.1.1.2", "10.2.0.2"), None);
        assert_eq!(source(&[], "10.1.0.2", "10.2.0.2"), None);
    }
}
