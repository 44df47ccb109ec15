//! What a machine needs to run a configuration, looked at one thing after another.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use rustix::thread::CapabilitySet;

use super::Finding;
use crate::config::{Config, Election, Vip};
use crate::daemon::interface;
use crate::{exit, status, web};

/// How long an owner of the address, or a peer, has to answer.
const ANSWER_TIME: Duration = Duration::from_millis(500);

/// Looks at everything the configuration needs.
pub(super) async fn examine(config: &Config) -> Vec<Finding> {
    let running = status::ask(&config.socket).is_ok();
    let mut findings = Vec::new();
    if running {
        findings.push(Finding::good(format!(
            "a vipd runs here and answers on {}: its own ports and addresses are not judged",
            config.socket.display()
        )));
    }
    findings.extend(for_addresses(config));
    findings.extend(for_ports(config));
    if let Some(vip) = &config.vip {
        let (name, link) = link(vip, &mut findings).await;
        match &vip.election {
            Election::Peers(_) => {}
            Election::Kubernetes(election) => findings.push(credentials(election)),
        }
        if !running {
            findings.extend(peer_port(vip));
        }
        if link {
            findings.extend(subnets(vip, &name).await);
            findings.extend(secondaries(vip, &name));
            if !running {
                strangers(vip, &name, &mut findings).await;
            }
            peers(vip, &name, &mut findings).await;
        }
    }
    if !running {
        findings.extend(frontends(config));
        findings.extend(web_ports(config));
    }
    findings
}

/// The capabilities that the addresses need.
pub(super) fn for_addresses(config: &Config) -> Vec<Finding> {
    let needed = config.vip.is_some();
    capabilities(&[
        (CapabilitySet::NET_ADMIN, "NET_ADMIN", "put the address on the interface", needed),
        (CapabilitySet::NET_RAW, "NET_RAW", "send ARP and ND frames", needed),
    ])
}

/// The capability that a port below 1024 needs.
fn for_ports(config: &Config) -> Vec<Finding> {
    let low_port = config
        .balancer
        .iter()
        .flat_map(|balancer| &balancer.config.frontends)
        .filter_map(|frontend| frontend.listen.own_port())
        .any(|port| port < 1024);
    capabilities(&[(
        CapabilitySet::NET_BIND_SERVICE,
        "NET_BIND_SERVICE",
        "listen on a port below 1024",
        low_port,
    )])
}

/// Which of the capabilities that are needed this process has: each with its name and its purpose.
fn capabilities(needed: &[(CapabilitySet, &str, &str, bool)]) -> Vec<Finding> {
    let effective = match rustix::thread::capabilities(None) {
        Ok(sets) => sets.effective,
        Err(error) => {
            return vec![Finding::doubtful(
                format!("failed to read this process's capabilities: {error}"),
                "run as root",
            )];
        }
    };
    needed
        .iter()
        .filter(|&&(.., needed)| needed)
        .map(|&(capability, name, why, _)| {
            if effective.contains(capability) {
                Finding::good(format!("the capability {name} is here, to {why}"))
            } else {
                Finding::bad(
                    exit::NOPERM,
                    format!("the capability {name} is missing: it is needed to {why}"),
                    format!("run as root, or add {name} to the container's or the unit's capabilities"),
                )
            }
        })
        .collect()
}

/// Which interface it is, and whether it is there and up.
async fn link(vip: &Vip, findings: &mut Vec<Finding>) -> (String, bool) {
    let name = match interface::find(&vip.interface).await {
        Ok(name) => name,
        Err(error) => {
            findings.push(Finding::bad(exit::CONFIG, format!("{error:#}"), "write `interface: NAME`"));
            return (String::new(), false);
        }
    };
    let (is_up, finding) = match vip::linux::interface(&name).await {
        Ok(link) if link.up => (true, Finding::good(format!("the interface {name} is up"))),
        Ok(_) => (
            false,
            Finding::bad(
                exit::CONFIG,
                format!("the interface {name} is down, or has no carrier"),
                format!("`ip link set {name} up`, and look at the cable or the switch port"),
            ),
        ),
        Err(error) => {
            let all = vip::linux::interfaces().await.unwrap_or_default();
            let names = all.into_iter().map(|link| link.name).collect::<Vec<_>>().join(", ");
            let help = format!("correct `interface`; this machine has {names}");
            (false, Finding::bad(exit::CONFIG, error.to_string(), help))
        }
    };
    findings.push(finding);
    (name, is_up)
}

/// A virtual address outside the interface's subnets is reachable only through routes that nobody announces.
async fn subnets(vip: &Vip, name: &str) -> Vec<Finding> {
    let own = match vip::linux::interface_addresses(name).await {
        Ok(own) => own,
        Err(error) => {
            return vec![Finding::doubtful(
                format!("failed to list the addresses of {name}: {error}"),
                "look at `ip address`",
            )];
        }
    };
    vip.addresses
        .iter()
        .map(|address| {
            let inside = own.iter().any(|other| other.ip != address.ip && other.contains(address.ip));
            if inside {
                return Finding::good(format!("{} lies in a subnet of {name}", address.ip));
            }
            let subnets = own.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            Finding::doubtful(
                format!("{} lies outside the subnets of {name} ({subnets})", address.ip),
                "choose a free address of the hosts' subnet: others can't be reached without a route of your own",
            )
        })
        .collect()
}

/// A kubeconfig that appears later (`kubeadm init` writes it after the static Pods) is found then.
fn credentials(election: &leader::kubernetes::Config) -> Finding {
    let named = &election.access.kubeconfigs;
    match named.iter().find(|file| std::fs::File::open(file).is_ok()) {
        Some(file) => Finding::good(format!("{} can be read, for the Lease", file.display())),
        None => {
            let names = named.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ");
            Finding::doubtful(
                format!(
                    "no kubeconfig can be read (tried {names}): nobody leads from here until there is one"
                ),
                "before `kubeadm init` that is as it should be; otherwise correct `kubernetes.kubeconfig`",
            )
        }
    }
}

/// An address with the subnet's own prefix can become the primary one of its subnet, and take the others along when it goes.
fn secondaries(vip: &Vip, name: &str) -> Option<Finding> {
    let shares = vip.addresses.iter().any(|address| address.ip.is_ipv4() && address.prefix < 32);
    if !shares || vip::linux::promotes_secondaries(name).unwrap_or(true) {
        return None;
    }
    Some(Finding::doubtful(
        format!(
            "{name} does not promote secondary addresses: releasing the virtual address may take the host's own along"
        ),
        format!(
            "`sysctl -w net.ipv4.conf.{name}.promote_secondaries=1`, or give the virtual address no prefix"
        ),
    ))
}

/// Does anybody else answer for an address?
async fn strangers(vip: &Vip, name: &str, findings: &mut Vec<Finding>) {
    for address in &vip.addresses {
        match vip::probe::owner_of(name, address.ip, ANSWER_TIME).await {
            Ok(None) => findings.push(Finding::good(format!("nobody answers for {}", address.ip))),
            Ok(Some(mac)) => {
                findings.push(Finding::doubtful(
                    format!("{} is in use: {} answers for it", address.ip, vip::Station(mac)),
                    "if that is another vipd of this cluster, or what vipd replaces, all is well; otherwise choose a free address",
                ));
            }
            Err(error) => findings.push(Finding::doubtful(
                format!("failed to ask the segment who has {}: {error}", address.ip),
                "run as root, or with the capability NET_RAW",
            )),
        }
    }
}

fn peer_port(vip: &Vip) -> Option<Finding> {
    let Election::Peers(election) = &vip.election else { return None };
    if election.peers.is_empty() {
        return None;
    }
    let listen = election.listen;
    Some(match UdpSocket::bind(listen) {
        Ok(_) => Finding::good(format!("{listen} (UDP) is free, for the peers")),
        Err(error) => bind_failed("localPeer", listen, &error),
    })
}

/// Are the peers there? A host answers ARP or ND; its vipd has the port open.
async fn peers(vip: &Vip, name: &str, findings: &mut Vec<Finding>) {
    let Election::Peers(election) = &vip.election else { return };
    for (id, address) in &election.peers {
        match vip::probe::owner_of(name, address.ip(), ANSWER_TIME).await {
            Ok(Some(_)) => findings.push(peer_vipd(id, *address).await),
            Ok(None) => findings.push(Finding::doubtful(
                format!("the peer {id} does not answer: no host has {} on this segment", address.ip()),
                "is it up, is its address right, and is it on the same subnet?",
            )),
            Err(error) => findings.push(Finding::doubtful(
                format!("failed to ask for the peer {id} at {address}: {error}"),
                "run as root, or with the capability NET_RAW",
            )),
        }
    }
}

/// A closed port is answered by ICMP, which the socket reports; an open one takes a byte in silence.
async fn peer_vipd(id: &leader::NodeId, address: SocketAddr) -> Finding {
    let unspecified =
        if address.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let ask = async {
        let socket = tokio::net::UdpSocket::bind((unspecified, 0)).await?;
        socket.connect(address).await?;
        socket.send(&[0]).await?;
        let mut answer = [0; 1];
        socket.recv(&mut answer).await
    };
    match tokio::time::timeout(ANSWER_TIME, ask).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Finding::good(format!("the peer {id} is up; no vipd runs there yet ({address} is closed)"))
        }
        Ok(Err(error)) => Finding::doubtful(
            format!("the peer {id} is up, but {address} can't be reached: {error}"),
            "let UDP through between the hosts",
        ),
        Ok(Ok(_)) | Err(_) => Finding::good(format!("the peer {id} is up, and {address} is open")),
    }
}

/// Can the frontends listen?
fn frontends(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for frontend in config.balancer.iter().flat_map(|balancer| &balancer.config.frontends) {
        // An address that comes and goes can't be bound without the flag that vipd uses; its port can be judged anyway.
        let Some(port) = frontend.listen.own_port() else { continue };
        if let lb::Listen::Redirected { port, .. } = frontend.listen {
            findings.push(redirect(&frontend.name, port));
        }
        let all = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        // Without IPv6 there is no `::`.
        let without_ipv6 = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::AddrNotAvailable)
        };
        let bound = match TcpListener::bind(all) {
            Err(error) if without_ipv6(&error) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)),
            bound => bound,
        };
        findings.push(match bound {
            Ok(_) => Finding::good(format!("port {port} is free, for `{}`", frontend.name)),
            Err(error) => frontend_failed(frontend, all, &error),
        });
    }
    findings
}

/// Would the kernel redirect the port? It is asked to make the rules and to take them back.
fn redirect(name: &str, port: u16) -> Finding {
    let refused = match lb::redirect::rehearse() {
        Ok(true) => {
            return Finding::good(format!(
                "port {port} of the virtual address can be redirected, for `{name}`"
            ));
        }
        Ok(false) => {
            return Finding::doubtful(
                format!(
                    "port {port} of the virtual address can be redirected, for `{name}`, but stays so when vipd is killed"
                ),
                "vipd puts that right when it starts again; with Linux 5.12 or newer the redirect ends with it",
            );
        }
        Err(refused) => refused,
    };
    let denied = matches!(&refused, lb::redirect::Error::Refused { source, .. }
        if source.kind() == io::ErrorKind::PermissionDenied);
    let (code, help) = if denied {
        (exit::NOPERM, "run as root, or add NET_ADMIN to the container's or the unit's capabilities")
    } else {
        (exit::CONFIG, "give the load balancer another port, such as 8443, and remove `samePort`")
    };
    let refused = anyhow::Error::new(refused);
    let text = format!("port {port} of the virtual address can't be redirected, for `{name}`: {refused:#}");
    Finding::bad(code, text, help)
}

/// A port in use may be that of this host's own apiserver, and both can have it.
fn frontend_failed(frontend: &lb::Frontend, address: SocketAddr, error: &io::Error) -> Finding {
    let mut finding = bind_failed(&frontend.name, address, error);
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
            Ok(_) => Finding::good(format!("port {} is free, for `{key}`", address.port())),
            Err(error) => {
                let Finding { text, help, .. } = bind_failed(key, address, &error);
                Finding::doubtful(format!("{text}: vipd would start without it"), help.unwrap_or_default())
            }
        })
        .collect()
}

fn bind_failed(what: &str, address: SocketAddr, error: &io::Error) -> Finding {
    let port = address.port();
    let kind = error.kind();
    if kind == io::ErrorKind::AddrInUse {
        Finding::bad(
            exit::CONFIG,
            format!("port {port} of `{what}` is in use"),
            format!("`ss -lnput sport = :{port}` shows by whom; stop that, or choose another port"),
        )
    } else if kind == io::ErrorKind::PermissionDenied {
        Finding::bad(
            exit::NOPERM,
            format!("port {port} of `{what}` may not be opened"),
            "ports below 1024 need root, or the capability NET_BIND_SERVICE",
        )
    } else if kind == io::ErrorKind::AddrNotAvailable {
        Finding::bad(
            exit::CONFIG,
            format!("{} of `{what}` is not an address of this host", address.ip()),
            "write this host's own address, as `ip -br address` shows it",
        )
    } else {
        Finding::bad(
            exit::OSERR,
            format!("failed to open {address} for `{what}`: {error}"),
            "look at the kernel's log",
        )
    }
}
