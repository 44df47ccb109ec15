//! Where a load balancer is reached itself, so that none of these is taken for one of its backends.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The addresses that lead to the load balancer itself: as its own backend, its connections would go in circles.
#[derive(Clone, Debug, Default)]
pub(super) struct Own {
    ips: Vec<IpAddr>,
    ports: Vec<u16>,
}

impl Own {
    /// Those of a frontend.
    pub(super) fn of(frontend: &lb::Frontend) -> Self {
        let listen = &frontend.listen;
        let every = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let ips = match listen {
            lb::Listen::Addresses { ips, .. } | lb::Listen::Redirected { ips, .. } => ips.as_slice(),
            lb::Listen::Any { .. } | lb::Listen::Forwarded(_) => &every,
            lb::Listen::Nowhere => &[],
        };
        let ports = listen.port().into_iter().chain(listen.own_port()).collect();
        Self { ips: ips.iter().chain(&frontend.virtual_ips).copied().collect(), ports }
    }

    /// Whether this is one of them.
    pub(super) fn contains(&self, address: SocketAddr) -> bool {
        self.ports.contains(&address.port()) && self.ips.contains(&address.ip())
    }

    /// These, for tests.
    #[cfg(test)]
    pub(super) fn at(ips: &[&str], ports: &[u16]) -> Self {
        Self { ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(), ports: ports.to_vec() }
    }
}
