//! `bind`: a load balancer that listens on some addresses of its host.

use std::net::{IpAddr, SocketAddr};

use crate::config::file::{LoadBalancer, Mode};
use crate::config::reader::Reader;
use crate::config::source::Step;

/// Complains of keys that say something else.
pub(super) fn contradicts(reader: &mut Reader<'_>, base: &[Step], balancer: &LoadBalancer) {
    if balancer.bind.is_none() {
        return;
    }
    let others = [
        ("bindToVip: true", balancer.bind_to_vip == Some(true)),
        ("samePort: true", balancer.same_port == Some(true)),
        ("mode: kernel", balancer.mode == Some(Mode::Kernel)),
    ];
    for (other, _) in others.into_iter().filter(|(_, there)| *there) {
        reader.error(
            &[base, &["bind".into()]].concat(),
            format!("`bind` and `{other}` contradict each other: both say where connections come from"),
            "remove one of the two",
        );
    }
}

/// Where it listens, if not on every address.
pub(super) fn addresses(
    reader: &mut Reader<'_>,
    base: &[Step],
    balancer: &LoadBalancer,
    backends: &[lb::Backend],
) -> Option<Vec<IpAddr>> {
    let texts = balancer.bind.as_ref()?;
    let at = [base, &["bind".into()]].concat();
    if texts.is_empty() {
        reader.error(
            &at,
            "`bind` lists no address",
            "write `bind: [127.0.0.1]`, or remove the key to listen on every address",
        );
    }
    let mut ips = Vec::new();
    for (place, text) in texts.iter().enumerate() {
        let at = [&at[..], &[place.into()]].concat();
        let Some(ip) = reader.ip(&at, text) else { continue };
        if ips.contains(&ip) {
            reader.error(&at, format!("{ip} is listed twice"), "list every address once");
            continue;
        }
        if backends.iter().any(|backend| backend.address == SocketAddr::new(ip, balancer.port)) {
            reader.error(
                &at,
                format!("{ip} is this load balancer itself at port {}, and one of its backends: its connections would go in circles", balancer.port),
                "remove the backend, or give the load balancer another port",
            );
        }
        ips.push(ip);
    }
    Some(ips)
}
