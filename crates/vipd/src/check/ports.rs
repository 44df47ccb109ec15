//! Which ports are taken, and by whom? Each is bound as vipd would, and closed again.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use super::examination::Situation;
use super::holders::{self, Transport};
use super::subjects::Subject;
use super::{Finding, about};
use crate::config::Config;
use crate::{exit, web};

/// Looks at all ports; those of a vipd that runs here are its own.
pub(super) fn look(situation: &Situation<'_>) -> Vec<Finding> {
    if situation.running.is_some() {
        return Vec::new();
    }
    let mut findings: Vec<Finding> = situation.elections().filter_map(peer_port).collect();
    findings.extend(frontends(situation.config));
    findings.extend(web_ports(situation.config));
    findings
}

fn peer_port(election: &leader::peers::Config) -> Option<Finding> {
    if election.peers.is_empty() {
        return None;
    }
    let listen = election.listen;
    Some(match UdpSocket::bind(listen) {
        Ok(_) => Finding::good(&about::PEER_PORT, format!("{listen} (UDP) is free, for the peers")),
        Err(error) => bind_failed(&about::PEER_PORT, "localPeer", (Transport::Udp, listen), &error),
    })
}

/// Can the frontends listen?
fn frontends(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for frontend in config.balancer.iter().flat_map(|balancer| &balancer.config.frontends) {
        // An address that comes and goes can't be bound without the flag that vipd uses; its port can be judged anyway.
        let Some(port) = frontend.listen.own_port() else { continue };
        findings.push(match bind(&frontend.listen, port) {
            Ok(()) => Finding::good(&about::PORT, format!("port {port} is free, for `{}`", frontend.name)),
            Err((address, error)) => frontend_failed(frontend, address, &error),
        });
    }
    findings
}

/// Tries whether a port is free: on the addresses that are wanted, if they are here, or else on all.
fn bind(listen: &lb::Listen, port: u16) -> Result<(), (SocketAddr, io::Error)> {
    let absent = |error: &io::Error| {
        matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::AddrNotAvailable)
    };
    if let lb::Listen::Addresses { ips, .. } = listen {
        let mut tried = ips.iter().map(|ip| (SocketAddr::new(*ip, port), TcpListener::bind((*ip, port))));
        match tried.find_map(|(address, bound)| Some((address, bound.err()?))) {
            None => return Ok(()),
            Some((_, error)) if absent(&error) => {}
            Some(refused) => return Err(refused),
        }
    }
    let all = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let bound = match TcpListener::bind(all) {
        // Without IPv6 there is no `::`.
        Err(error) if absent(&error) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)),
        bound => bound,
    };
    bound.map(drop).map_err(|error| (all, error))
}

/// A port in use may be that of this host's own apiserver, and both can have it.
fn frontend_failed(frontend: &lb::Frontend, address: SocketAddr, error: &io::Error) -> Finding {
    let mut finding = bind_failed(&about::PORT, &frontend.name, (Transport::Tcp, address), error);
    if error.kind() == io::ErrorKind::AddrInUse {
        let way_out = if matches!(frontend.listen, lb::Listen::Redirected { .. }) {
            "stop that, or choose another `listenPort`"
        } else {
            "if it is this host's apiserver, write `samePort: true`; otherwise stop it, or choose another port"
        };
        finding.help = Some(format!("`ss -lntp sport = :{}` shows by whom; {way_out}", address.port()));
    }
    finding
}

/// Can metrics and health be served? vipd starts without them, so nothing about them is worse than doubtful.
fn web_ports(config: &Config) -> Vec<Finding> {
    let wanted = [("metrics", config.metrics), ("healthPort", config.health)];
    let wanted = wanted.into_iter().filter_map(|(key, address)| Some((key, address?)));
    wanted
        .map(|(key, address)| match web::bind(address) {
            Ok(_) => Finding::good(&about::WEB_PORT, format!("port {} is free, for `{key}`", address.port())),
            Err(error) => {
                let Finding { text, help, .. } =
                    bind_failed(&about::WEB_PORT, key, (Transport::Tcp, address), &error);
                let text = format!("{text}: vipd would start without it");
                Finding::doubtful(&about::WEB_PORT, text, help.unwrap_or_default())
            }
        })
        .collect()
}

fn bind_failed(
    subject: &'static Subject,
    what: &str,
    (transport, address): (Transport, SocketAddr),
    error: &io::Error,
) -> Finding {
    let port = address.port();
    let kind = error.kind();
    let (code, text, help) = if kind == io::ErrorKind::AddrInUse {
        let by = holders::of(transport, address).map(|holders| format!(" by {holders}")).unwrap_or_default();
        (
            exit::CONFIG,
            format!("port {port} of `{what}` is in use{by}"),
            format!("`ss -lnput sport = :{port}` shows by whom; stop that, or choose another port"),
        )
    } else if kind == io::ErrorKind::PermissionDenied {
        (
            exit::NOPERM,
            format!("port {port} of `{what}` may not be opened"),
            "ports below 1024 need root, or the capability NET_BIND_SERVICE".to_owned(),
        )
    } else if kind == io::ErrorKind::AddrNotAvailable {
        (
            exit::CONFIG,
            format!("{} of `{what}` is not an address of this host", address.ip()),
            "write this host's own address, as `ip -br address` shows it".to_owned(),
        )
    } else {
        (
            exit::OSERR,
            format!("failed to open {address} for `{what}`: {error}"),
            "look at the kernel's log".to_owned(),
        )
    };
    Finding::bad(subject, code, text, help)
}
