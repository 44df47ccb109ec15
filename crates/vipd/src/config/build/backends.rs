//! The servers behind a load balancer: addresses, and names of which only a name server knows the addresses.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::balancer::BACKEND_PORT_DEFAULT;
use crate::config::file::{self, LoadBalancer};
use crate::config::reader::Reader;
use crate::config::source::Step;
use crate::config::{Listed, value};

/// Those of a load balancer, in the order of the file.
pub(super) fn listed(reader: &mut Reader<'_>, base: &[Step], balancer: &LoadBalancer) -> Vec<Listed> {
    let backends = balancer.backends.as_deref().unwrap_or_default();
    let discover = balancer.discover.unwrap_or(false);
    if backends.is_empty() && !discover {
        reader.error(
            &[base, &["backends".into()]].concat(),
            "a load balancer without backends serves nobody",
            "list the apiservers: `backends: [{address: 10.0.0.163, port: 6443}, …]`",
        );
    }
    let mut seen = BTreeSet::new();
    let mut listed = Vec::new();
    for (index, backend) in backends.iter().enumerate() {
        let at = |key: &'static str| [base, &["backends".into(), index.into(), key.into()]].concat();
        if backend.url.is_some() {
            reader.warn(
                &at("url"),
                "`url` is obsolete: it belonged to HTTP load balancers",
                "remove the key; `address` and `port` say all",
            );
        }
        let host = host(reader, &at("address"), &backend.address);
        if discover && matches!(host, Some(Host::Named(_))) {
            reader.error(
                &at("address"),
                "where backends are discovered, those that are known beforehand must be addresses",
                "write the apiserver's address, or remove the entry: discovery finds it",
            );
        }
        let Some(port) = port(balancer, backend) else {
            reader.error(
                &[base, &["backends".into(), index.into()]].concat(),
                "the key `port` is missing",
                "write the port that the apiserver listens on: `port: 6443` here, or `backendPort: 6443` for all of them",
            );
            continue;
        };
        let port = reader.port(&at("port"), port);
        let (Some(host), Some(port)) = (host, port) else { continue };
        if !seen.insert((host.clone(), port)) {
            let text = match &host {
                Host::Known(ip) => SocketAddr::new(*ip, port).to_string(),
                Host::Named(name) => format!("{name}:{port}"),
            };
            reader.error(&at("address"), format!("{text} is listed twice"), "list every backend once");
        }
        let name = backend.name.clone();
        listed.push(match host {
            Host::Known(ip) => {
                let address = SocketAddr::new(ip, port);
                let name = name.unwrap_or_else(|| address.to_string());
                Listed::Known(lb::Backend { name, address, cordoned: false })
            }
            Host::Named(host) => Listed::Named { name: name.unwrap_or_else(|| host.clone()), host, port },
        });
    }
    listed
}

/// Those whose addresses the file tells.
pub(super) fn known(listed: &[Listed]) -> Vec<lb::Backend> {
    let known = |listed: &Listed| match listed {
        Listed::Known(backend) => Some(backend.clone()),
        Listed::Named { .. } => None,
    };
    listed.iter().filter_map(known).collect()
}

/// Whether a load balancer has backends by name.
pub(super) fn has_names(balancer: &LoadBalancer) -> bool {
    balancer.backends.iter().flatten().any(|backend| backend.address.trim().parse::<IpAddr>().is_err())
}

/// Complains of a backend that is the load balancer itself.
pub(super) fn in_circles(
    reader: &mut Reader<'_>,
    base: &[Step],
    balancer: &LoadBalancer,
    address: SocketAddr,
) {
    let place = place(balancer, address);
    reader.error(
        &[base, &["backends".into(), place.into(), "address".into()]].concat(),
        format!("{address} is this load balancer itself: its connections would go in circles"),
        "write the apiserver's own address, not the virtual one",
    );
}

/// Where a backend stands whose address the file tells.
pub(super) fn place(balancer: &LoadBalancer, address: SocketAddr) -> usize {
    let is_meant = |backend: &file::Backend| {
        let ip = backend.address.trim().parse::<IpAddr>();
        ip.is_ok_and(|ip| ip == address.ip()) && port(balancer, backend) == Some(address.port())
    };
    balancer.backends.iter().flatten().position(is_meant).unwrap_or_default()
}

fn port(balancer: &LoadBalancer, backend: &file::Backend) -> Option<u16> {
    let discovers = balancer.discover == Some(true);
    let default = balancer.backend_port.or_else(|| discovers.then_some(BACKEND_PORT_DEFAULT));
    backend.port.or(default)
}

/// A server's host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Host {
    Known(IpAddr),
    Named(String),
}

fn host(reader: &mut Reader<'_>, path: &[Step], text: &str) -> Option<Host> {
    let text = text.trim();
    match text.parse::<IpAddr>() {
        Ok(_) => reader.ip(path, text).map(Host::Known),
        // Upper and lower case are one name (RFC 4343).
        Err(_) if value::is_host(text) => Some(Host::Named(text.to_ascii_lowercase())),
        Err(_) => {
            reader.error(
                path,
                format!("`{text}` is neither an IP address nor a DNS name"),
                "write an address such as 10.0.0.163 or fd00::163, or a name such as master-1.example.com",
            );
            None
        }
    }
}
