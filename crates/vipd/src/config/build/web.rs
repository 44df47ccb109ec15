//! Where metrics and health are served over HTTP.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::config::file::File;
use crate::config::reader::Reader;
use crate::config::source::Step;

/// What is right for `metrics`.
const HELP: &str = "write \":2112\" for every address of this host, or one of them: \"10.0.0.163:2112\", \"[fd00::163]:2112\"; \
                    without the key, no metrics are served";

/// The two listeners of a file.
pub(super) struct Web {
    /// Metrics and health.
    pub(super) metrics: Option<SocketAddr>,
    /// Health alone.
    pub(super) health: Option<SocketAddr>,
}

impl Web {
    /// Builds both; what a load balancer or the virtual address stands in the way of is an error.
    pub(super) fn new(
        reader: &mut Reader<'_>,
        file: &File,
        vips: &[IpAddr],
        balancer: Option<&lb::Config>,
    ) -> Self {
        let (metrics_at, health_at) = ([Step::Key("metrics")], [Step::Key("healthPort")]);
        let metrics = file.metrics.as_deref().and_then(|text| metrics(reader, &metrics_at, text, vips));
        let port = file.health_port.and_then(|port| reader.port(&health_at, port));
        let health = port.map(|port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)));
        for (at, address) in [(&metrics_at, metrics), (&health_at, health)] {
            let Some(address) = address else { continue };
            let taken = balancer
                .and_then(|balancer| balancer.frontends.iter().find(|other| meets(&other.listen, address)));
            if let Some(frontend) = taken {
                reader.error(
                    at,
                    format!(
                        "port {} is used twice: here and by the load balancer `{}`",
                        address.port(),
                        frontend.name
                    ),
                    "give one of the two another port",
                );
            }
        }
        if let (Some(metrics), Some(health)) = (metrics, health)
            && metrics.port() == health.port()
        {
            reader.error(
                &health_at,
                format!("port {} is used twice: by `metrics` and by `healthPort`", health.port()),
                "remove `healthPort`: the health paths are served beside the metrics too; or give it another port",
            );
        }
        Self { metrics, health }
    }
}

fn metrics(reader: &mut Reader<'_>, at: &[Step], text: &str, vips: &[IpAddr]) -> Option<SocketAddr> {
    let text = text.trim();
    if text.is_empty() {
        reader.error(at, "`metrics` is empty", HELP);
        return None;
    }
    let every = text.strip_prefix(':').filter(|port| port.chars().all(|digit| digit.is_ascii_digit()));
    let parsed = match every {
        // `[::]` listens for IPv4 too; where this host has no IPv6, IPv4 is what is left.
        Some(port) => port.parse().ok().map(|port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))),
        None => text.parse().ok(),
    };
    let Some(address) = parsed else {
        reader.error(at, format!("`{text}` is not a port, nor an address with a port"), HELP);
        return None;
    };
    if address.ip().is_multicast() {
        reader.error(at, format!("{} is not the address of a host", address.ip()), HELP);
        return None;
    }
    if vips.contains(&address.ip()) {
        reader.error(
            at,
            format!("{} is the virtual address, which is on one host at a time", address.ip()),
            "every host's metrics are its own: write \":2112\", or this host's own address",
        );
        return None;
    }
    reader.port(at, address.port())?;
    Some(address)
}

/// Whether one port can't serve both.
fn meets(listen: &lb::Listen, address: SocketAddr) -> bool {
    let wanted = address.port();
    let on = |ips: &[IpAddr]| address.ip().is_unspecified() || ips.contains(&address.ip());
    match listen {
        lb::Listen::Any { port } => *port == wanted,
        lb::Listen::Addresses { ips, port } => *port == wanted && on(ips),
        // The clients' port is somebody else's already, on every address but the virtual ones.
        lb::Listen::Redirected { ips, port, own } => [*port, *own].contains(&wanted) && on(ips),
        lb::Listen::Forwarded(lb::forward::Forward { protocol, ips, port, .. }) => {
            let tcp = *protocol == lb::forward::Protocol::Tcp;
            tcp && *port == wanted && (ips.is_empty() || on(ips))
        }
        lb::Listen::Nowhere => false,
    }
}
