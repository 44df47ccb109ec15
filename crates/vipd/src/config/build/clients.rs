//! Who the client is: what proxies tell of it, and what backends are told.

use std::net::IpAddr;

use crate::config::file::{LoadBalancer, ProxyProtocol, TransparentSource};
use crate::config::reader::Reader;
use crate::config::source::Step;

/// Who may say on whose behalf it comes.
pub(super) fn proxies(reader: &mut Reader<'_>, base: &[Step], balancer: &LoadBalancer) -> Vec<lb::Network> {
    let texts = balancer.accept_proxy_protocol.as_deref().unwrap_or_default();
    networks(reader, base, "acceptProxyProtocol", texts)
}

/// How backends are told who the client is.
pub(super) fn proxy_protocol(balancer: &LoadBalancer) -> Option<lb::ProxyProtocol> {
    balancer.proxy_protocol.map(|version| match version {
        ProxyProtocol::V1 => lb::ProxyProtocol::V1,
        ProxyProtocol::V2 => lb::ProxyProtocol::V2,
    })
}

/// The clients whose own address backends see.
pub(super) fn transparent_source(
    reader: &mut Reader<'_>,
    base: &[Step],
    balancer: &LoadBalancer,
    (vips, backends): (&[IpAddr], &[lb::Backend]),
) -> Vec<lb::Network> {
    let at = [base, &[Step::Key("transparentSource")]].concat();
    let clients = match &balancer.transparent_source {
        None | Some(TransparentSource::All(false)) => return Vec::new(),
        Some(TransparentSource::All(true)) => {
            networks(reader, base, "transparentSource", &["0.0.0.0/0", "::/0"])
        }
        Some(TransparentSource::Of(texts)) if texts.is_empty() => {
            reader.error(&at, "no network is listed", "write true for all clients, or remove the key");
            return Vec::new();
        }
        Some(TransparentSource::Of(texts)) => networks(reader, base, "transparentSource", texts),
    };
    let is_reached =
        |backend: &&lb::Backend| vips.iter().any(|vip| vip.is_ipv4() == backend.address.is_ipv4());
    if let Some(backend) = backends.iter().find(|backend| !is_reached(backend)).filter(|_| !vips.is_empty()) {
        reader.warn(
            &at,
            format!(
                "{} will not see clients' addresses: no virtual address is of its IP version",
                backend.address
            ),
            "write an address of the same IP version, there or under `vips`",
        );
    }
    clients
}

/// What a list of addresses and networks says.
fn networks(
    reader: &mut Reader<'_>,
    base: &[Step],
    key: &'static str,
    texts: &[impl AsRef<str>],
) -> Vec<lb::Network> {
    let mut networks = Vec::new();
    for (place, text) in texts.iter().map(AsRef::as_ref).enumerate() {
        match network(text) {
            Some(network) => networks.push(network),
            None => {
                let at = [base, &[Step::Key(key), Step::Index(place)]].concat();
                let message = format!("`{text}` is no address or network");
                reader.error(&at, message, "write 192.0.2.7, 10.0.0.0/24 or fd00::/64");
            }
        }
    }
    networks
}

fn network(text: &str) -> Option<lb::Network> {
    let (ip, prefix) = text.split_once('/').map_or((text, None), |(ip, bits)| (ip, Some(bits)));
    let ip: IpAddr = ip.parse().ok()?;
    let prefix = match prefix {
        Some(bits) => bits.parse().ok()?,
        None if ip.is_ipv4() => 32,
        None => 128,
    };
    lb::Network::new(ip, prefix)
}
