//! What a machine needs to run a configuration, looked at one thing after another.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use rustix::thread::CapabilitySet;

use super::{Finding, segment};
use crate::config::{Config, Election, Vip};
use crate::daemon::{interface, resolution};
use crate::{exit, memory, punctuality, scheduling, status, web};

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
    // What all addresses have in common is the same for the first of them.
    if let Some(first) = config.vips.first() {
        findings.push(memory());
        let (name, link) = link(first, &mut findings).await;
        for vip in &config.vips {
            match &vip.election {
                Election::Peers(election) if !running => findings.extend(peer_port(election)),
                Election::Peers(_) => {}
                Election::Kubernetes(election) => findings.push(credentials(&election.access)),
            }
        }
        if !running {
            findings.extend(timing(first).await);
        }
        if link {
            let addresses: Vec<_> = config.vips.iter().flat_map(|vip| &vip.addresses).copied().collect();
            findings.extend(segment::subnets(&addresses, &name).await);
            findings.extend(segment::secondaries(&addresses, &name));
            findings.push(fence());
            if !running {
                segment::strangers(&addresses, &name, &mut findings).await;
            }
            segment::peers(&config.vips, &name, &mut findings).await;
            if let Some(rule) = first.tie_break {
                findings.push(segment::tie_break(rule, first, &name).await);
            }
        }
    }
    for witness in &config.witnesses {
        if !running {
            findings.extend(peer_port(&witness.election));
        }
        for (id, address) in &witness.election.peers {
            findings.push(segment::peer_vipd(id, *address, false).await);
        }
    }
    if !running {
        findings.extend(frontends(config));
        findings.extend(web_ports(config));
    }
    findings.extend(config.discovery.as_ref().map(credentials_alone));
    findings.extend(names(config).await);
    findings
}

/// Whether the names of backends resolve. One that doesn't is no obstacle: vipd goes on asking.
async fn names(config: &Config) -> Vec<Finding> {
    let listed = config.balancer.iter().flat_map(|balancer| balancer.named.values().flatten());
    let hosts: BTreeSet<&str> = listed.filter_map(resolution::host).collect();
    let mut findings = Vec::new();
    for host in hosts {
        findings.push(match resolution::look_up(host).await {
            Ok(found) => Finding::good(format!("the backend {host} is {}", crate::listed(found))),
            Err(error) => Finding::doubtful(
                format!("the backend {host} has no address: {error}"),
                "mend its records or this host's resolver (/etc/resolv.conf); vipd starts without it, and asks until it has one",
            ),
        });
    }
    findings
}

/// The capabilities that the addresses need.
pub(super) fn for_addresses(config: &Config) -> Vec<Finding> {
    let needed = !config.vips.is_empty();
    capabilities(&[
        (CapabilitySet::NET_ADMIN, "NET_ADMIN", "put the address on the interface", needed),
        (CapabilitySet::NET_RAW, "NET_RAW", "send ARP and ND frames", needed),
    ])
}

/// Whether an owner of the address would stay in RAM.
fn memory() -> Finding {
    match memory::is_permitted() {
        Ok(true) => {
            Finding::good("memory can be locked: a host that is short of it does not stall the election")
        }
        Ok(false) => Finding::doubtful(
            "memory can't be locked: a host that is short of it may stall the election",
            memory::HELP,
        ),
        Err(error) => Finding::doubtful(
            format!("failed to find out whether memory can be locked: {error}"),
            "run as root",
        ),
    }
}

/// Whether this host wakes a process in time for an election of short deadlines: one that runs here tells in its status.
async fn timing(vip: &Vip) -> Option<Finding> {
    let timing = vip.timing().filter(|timing| punctuality::is_worth_a_trial(timing))?;
    // As the daemon's main thread is. It is the last of this command's cares whether that is permitted: the finding tells.
    let is_realtime = scheduling::raise().is_ok();
    let trial = punctuality::measure(timing).await?;
    Some(match trial.refusal(timing, is_realtime) {
        None => Finding::good(format!(
            "this host wakes vipd in time for a lease of {:?}: {:?} late, {:?} permitted",
            timing.lease(),
            trial.delay(),
            timing.tolerance()
        )),
        Some(refusal) if vip.refuses_late_hosts => {
            Finding::bad(exit::UNAVAILABLE, refusal.to_string(), refusal.help())
        }
        Some(refusal) => Finding::doubtful(refusal.to_string(), refusal.help()),
    })
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

/// Whether the kernel would silence an owner that is killed or frozen, as long as its address is still there.
fn fence() -> Finding {
    match vip::linux::rehearse_fence() {
        Ok(()) => Finding::good("the kernel can fence a node that is killed or frozen, by nftables"),
        Err(error) => {
            let error = format!("{:#}", anyhow::Error::new(error));
            Finding::doubtful(
                format!(
                    "the kernel can't fence a node that is killed or frozen: {error}; such a node answers for the \
                     virtual IP until its address's lifetime ends, up to two seconds after its lease"
                ),
                "use a kernel with nf_tables to be sure of one owner at any time",
            )
        }
    }
}

/// A kubeconfig that appears later (`kubeadm init` writes it after the static Pods) is found then.
fn credentials(access: &leader::kubernetes::Access) -> Finding {
    let named = &access.kubeconfigs;
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

/// What the apiservers are asked with where no Lease is held. The rights of a node's own kubelet are not enough.
fn credentials_alone(access: &leader::kubernetes::Access) -> Finding {
    let named = &access.kubeconfigs;
    match named.iter().find(|file| std::fs::File::open(file).is_ok()) {
        Some(file) => Finding::good(format!("{} can be read, to discover the apiservers", file.display())),
        None => Finding::doubtful(
            format!(
                "no kubeconfig can be read (tried {}): in a pod, its ServiceAccount is used; elsewhere, nothing is discovered",
                crate::listed(named.iter().map(|file| file.display()))
            ),
            "docs/balancer-alone.md has a ServiceAccount and its Role; write its kubeconfig to `kubernetes.kubeconfig`",
        ),
    }
}

fn peer_port(election: &leader::peers::Config) -> Option<Finding> {
    if election.peers.is_empty() {
        return None;
    }
    let listen = election.listen;
    Some(match UdpSocket::bind(listen) {
        Ok(_) => Finding::good(format!("{listen} (UDP) is free, for the peers")),
        Err(error) => bind_failed("localPeer", listen, &error),
    })
}

/// Can the frontends listen?
fn frontends(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for frontend in config.balancer.iter().flat_map(|balancer| &balancer.config.frontends) {
        if let lb::Listen::Forwarded(forward) = &frontend.listen {
            findings.extend(kernel_path(&frontend.name, forward));
        }
        // An address that comes and goes can't be bound without the flag that vipd uses; its port can be judged anyway.
        let Some(port) = frontend.listen.own_port() else { continue };
        if !frontend.transparent_source.is_empty() {
            findings.push(transparent_source(&frontend.name));
        }
        if let lb::Listen::Redirected { port, .. } = frontend.listen {
            findings.push(redirect(&frontend.name, port));
        }
        findings.push(match bind(&frontend.listen, port) {
            Ok(()) => Finding::good(format!("port {port} is free, for `{}`", frontend.name)),
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

/// May backends be shown the clients' own addresses? Whether their answers come back, the network decides.
fn transparent_source(name: &str) -> Finding {
    match lb::transparent::rehearse() {
        Ok(()) => Finding::good(format!(
            "backends of `{name}` can be shown the clients' own addresses; their answers must come back through this host"
        )),
        Err(error) => Finding::bad(
            if error.kind() == io::ErrorKind::PermissionDenied { exit::NOPERM } else { exit::OSERR },
            format!(
                "backends of `{name}` can't be shown the clients' own addresses (`transparentSource`): {error}"
            ),
            "run as root, or add NET_ADMIN or NET_RAW to the container's or the unit's capabilities",
        ),
    }
}

/// Would the kernel redirect the port? It is asked to make the rules and to take them back.
fn redirect(name: &str, port: u16) -> Finding {
    let what = format!("port {port} of the virtual address can be redirected, for `{name}`");
    let way_out = "give the load balancer another port, such as 8443, and remove `samePort`";
    rehearsed(lb::redirect::rehearse(), &what, way_out)
}

/// Would the kernel lead the port's connections to the backends, and do packets for others leave this host?
fn kernel_path(name: &str, forward: &lb::forward::Forward) -> Vec<Finding> {
    let what = format!("the kernel can lead port {} to the backends of `{name}`", forward.port);
    let mut findings = vec![rehearsed(lb::forward::rehearse(), &what, "write `mode: proxy`")];
    if let Some(setting) = forward.not_forwarding() {
        let text = format!("this host passes no packets on to the backends of `{name}`: {setting} is 0");
        let help = format!(
            "`sysctl -w {setting}=1`, and a file in /etc/sysctl.d that says so; or write `mode: proxy`"
        );
        findings.push(Finding::bad(exit::CONFIG, text, &help));
    }
    findings
}

/// What came of asking the kernel to make rules and take them back.
fn rehearsed(outcome: Result<bool, lb::redirect::Error>, what: &str, way_out: &str) -> Finding {
    let refused = match outcome {
        Ok(true) => return Finding::good(what.to_owned()),
        Ok(false) => {
            return Finding::doubtful(
                format!("{what}, but stays so when vipd is killed"),
                "vipd puts that right when it starts again; with Linux 5.12 or newer its rules end with it",
            );
        }
        Err(refused) => refused,
    };
    let denied = matches!(&refused, lb::redirect::Error::Refused { source, .. }
        if source.kind() == io::ErrorKind::PermissionDenied);
    let (code, help) = if denied {
        (exit::NOPERM, "run as root, or add NET_ADMIN to the container's or the unit's capabilities")
    } else {
        (exit::CONFIG, way_out)
    };
    let refused = anyhow::Error::new(refused);
    let text = format!("{}: {refused:#}", what.replacen(" can ", " can't ", 1));
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
