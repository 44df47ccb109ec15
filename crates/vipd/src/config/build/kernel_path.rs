//! `mode: kernel`: what a load balancer may say whose connections the kernel carries.

use std::net::IpAddr;

use crate::config::file::{LoadBalancer, Policy, Protocol, TransparentSource};
use crate::config::reader::Reader;
use crate::config::source::Step;

/// Where the kernel takes connections from. Complains of keys that only the proxy can follow.
pub(super) fn listen(
    reader: &mut Reader<'_>,
    base: &[Step],
    balancer: &LoadBalancer,
    backends: &[lb::Backend],
    (vips, has_vip, port): (&[IpAddr], bool, u16),
) -> lb::Listen {
    let at = |key: &'static str| [base, &[Step::Key(key)]].concat();
    for (key, _) in of_the_proxy(balancer).into_iter().filter(|(_, there)| *there) {
        reader.error(
            &at(key),
            format!("`{key}` asks for something that `mode: kernel` can't do: no byte of a connection comes to vipd"),
            "remove the key, or write `mode: proxy`",
        );
    }
    if balancer.policy == Some(Policy::LeastConnections) {
        reader.error(
            &at("policy"),
            "`mode: kernel` counts no connections where it chooses",
            "write roundRobin or sourceHash, or remove the key; or write `mode: proxy`",
        );
    }
    let on_vip = balancer.is_on_vip();
    let ips = if on_vip { vips } else { &[] };
    let protocol = match balancer.kind {
        Some(Protocol::Udp) => lb::forward::Protocol::Udp,
        Some(Protocol::Tcp | Protocol::Http) | None => lb::forward::Protocol::Tcp,
    };
    let keep_source = match &balancer.transparent_source {
        Some(TransparentSource::All(all)) => *all,
        Some(TransparentSource::Of(_)) => {
            reader.error(
                &at("transparentSource"),
                "`mode: kernel` lets backends see all clients' own addresses, or none but those beside it",
                "write true, or remove the key",
            );
            false
        }
        None => false,
    };
    let forwarded = || {
        let ips = ips.to_vec();
        lb::Listen::Forwarded(lb::forward::Forward { protocol, ips, port, keep_source })
    };
    if on_vip && !has_vip {
        return forwarded();
    }
    places(reader, base, balancer, backends, (on_vip, vips, port));
    forwarded()
}

/// Complains of backends that the kernel can't lead anybody to, and of circles.
fn places(
    reader: &mut Reader<'_>,
    base: &[Step],
    balancer: &LoadBalancer,
    backends: &[lb::Backend],
    (on_vip, vips, port): (bool, &[IpAddr], u16),
) {
    let at = |key: &'static str| [base, &[Step::Key(key)]].concat();
    for backend in backends {
        let address = backend.address;
        let place = super::backends::place(balancer, address);
        let of_backend = [base, &["backends".into(), place.into(), "address".into()]].concat();
        if !on_vip && address.port() == port {
            reader.error(
                &at("port"),
                format!("port {port} is that of the backend {address} too: where vipd runs beside it, its connections would be led on and on"),
                "write `samePort: true`: only connections to the virtual address are led to backends; or choose another port, such as 8443",
            );
            break;
        }
        if on_vip && vips.contains(&address.ip()) && address.port() == port {
            super::backends::in_circles(reader, base, balancer, address);
        }
        if address.ip().is_loopback() {
            reader.error(
                &of_backend,
                format!(
                    "{} is every host's own: the kernel leads nobody there who comes from elsewhere",
                    address.ip()
                ),
                "write this host's address on the network, or write `mode: proxy`",
            );
        }
        let same_family = |vip: &IpAddr| vip.is_ipv4() == address.is_ipv4();
        if on_vip && !vips.is_empty() && !vips.iter().any(same_family) {
            let (its, other) = if address.is_ipv4() { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
            reader.error(
                &of_backend,
                format!("{address} would never be used: the kernel leads no {other} connections to {its} backends, and no virtual address is {its}"),
                "write the backend's address of the virtual address's kind, or write `mode: proxy`",
            );
        }
    }
}

/// The keys that say something about connections, and whether each is there.
fn of_the_proxy(balancer: &LoadBalancer) -> [(&'static str, bool); 10] {
    [
        ("listenPort", balancer.listen_port.is_some()),
        ("connectTimeout", balancer.connect_timeout.is_some()),
        ("idleTimeout", balancer.idle_timeout.is_some()),
        ("maxConnections", balancer.max_connections.is_some()),
        ("maxConnectionsPerSource", balancer.max_connections_per_source.is_some()),
        ("rebalance", balancer.rebalance.is_some()),
        ("maxConnectionAge", balancer.max_connection_age.is_some()),
        ("proxyProtocol", balancer.proxy_protocol.is_some()),
        ("acceptProxyProtocol", balancer.accept_proxy_protocol.is_some()),
        ("accessLog", balancer.access_log == Some(true)),
    ]
}
