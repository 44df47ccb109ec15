//! Would the kernel take vipd's rules, and do others' rules let its packets through?
//!
//! Of others' rules, only what is certain is told: docs/check.md says what isn't looked at.

use std::io;
use std::net::SocketAddr;

use nft::ruleset::{Hook, Packet, Ruleset, Transport};

use super::examination::Situation;
use super::{Finding, about};
use crate::config::Config;
use crate::exit;

/// Has the kernel try what the configuration needs, and follows the packets that have to pass.
pub(super) fn look(situation: &Situation<'_>, peers_were_heard: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    if situation.link.is_some() {
        findings.push(fence());
    }
    if situation.running.is_none() {
        findings.extend(own(situation.config));
    }
    let wanted = wanted(situation, peers_were_heard);
    if wanted.is_empty() {
        return findings;
    }
    match Ruleset::read() {
        Ok(ruleset) => findings.extend(wanted.iter().map(|wanted| wanted.judge(&ruleset))),
        // Without nf_tables there are no such rules; that it is missing, the fence tells.
        Err(refusal) if refusal.errno == rustix::io::Errno::PROTONOSUPPORT => {}
        Err(refusal) => {
            let what = format!("what nftables does with such packets: {}", io::Error::from(refusal.errno));
            let subject = wanted[0].subject;
            findings.push(Finding::unseen(subject, what, "run as root; or look at `nft list ruleset`"));
        }
    }
    findings
}

/// Whether the kernel would silence an owner that is killed or frozen, as long as its address is still there.
fn fence() -> Finding {
    match vip::linux::rehearse_fence() {
        Ok(()) => {
            Finding::good(&about::FENCE, "the kernel can fence a node that is killed or frozen, by nftables")
        }
        Err(error) => {
            let error = format!("{:#}", anyhow::Error::new(error));
            Finding::doubtful(
                &about::FENCE,
                format!(
                    "the kernel can't fence a node that is killed or frozen: {error}; such a node answers for the \
                     virtual IP until its address's lifetime ends, up to two seconds after its lease"
                ),
                "use a kernel with nf_tables to be sure of one owner at any time",
            )
        }
    }
}

/// Rules and sockets of the load balancers that the kernel has to permit.
fn own(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for frontend in config.balancer.iter().flat_map(|balancer| &balancer.config.frontends) {
        if let lb::Listen::Forwarded(forward) = &frontend.listen {
            findings.extend(kernel_path(&frontend.name, forward));
        }
        if !frontend.transparent_source.is_empty() && frontend.listen.own_port().is_some() {
            findings.push(transparent_source(&frontend.name));
        }
        if let lb::Listen::Redirected { port, .. } = frontend.listen {
            findings.push(redirect(&frontend.name, port));
        }
    }
    findings
}

/// May backends be shown the clients' own addresses? Whether their answers come back, the network decides.
fn transparent_source(name: &str) -> Finding {
    match lb::transparent::rehearse() {
        Ok(()) => Finding::good(
            &about::TRANSPARENT,
            format!(
                "backends of `{name}` can be shown the clients' own addresses; their answers must come back through this host"
            ),
        ),
        Err(error) => Finding::bad(
            &about::TRANSPARENT,
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
    let rules = rehearsed(lb::forward::rehearse(), &what, "write `mode: proxy`");
    let forwarding = match forward.not_forwarding() {
        None => Finding::good(
            &about::FORWARDING,
            format!("this host passes packets on to the backends of `{name}`"),
        ),
        Some(setting) => Finding::bad(
            &about::FORWARDING,
            exit::CONFIG,
            format!("this host passes no packets on to the backends of `{name}`: {setting} is 0"),
            format!(
                "`sysctl -w {setting}=1`, and a file in /etc/sysctl.d that says so; or write `mode: proxy`"
            ),
        ),
    };
    vec![rules, forwarding]
}

/// What came of asking the kernel to make rules and take them back.
fn rehearsed(outcome: Result<bool, lb::redirect::Error>, what: &str, way_out: &str) -> Finding {
    let refused = match outcome {
        Ok(true) => return Finding::good(&about::KERNEL_RULES, what.to_owned()),
        Ok(false) => {
            return Finding::doubtful(
                &about::KERNEL_RULES,
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
    Finding::bad(&about::KERNEL_RULES, code, text, help)
}

/// A packet that has to pass.
struct Wanted {
    subject: &'static super::subjects::Subject,
    hook: Hook,
    packet: Packet,
    /// What it is, for a sentence.
    what: String,
    /// A rule that lets it through, as `nft` takes it.
    rule: String,
}

impl Wanted {
    fn judge(&self, ruleset: &Ruleset) -> Finding {
        match ruleset.drops(self.hook, &self.packet) {
            None => {
                Finding::good(self.subject, format!("no rule of nftables is known to drop {}", self.what))
            }
            Some(chain) => Finding::doubtful(
                self.subject,
                format!("the nftables chain `{chain}` drops {}", self.what),
                format!(
                    "`nft insert rule {chain} {}`, and the same where the firewall is configured",
                    self.rule
                ),
            ),
        }
    }
}

/// The packets that begin what peers and clients do.
fn wanted(situation: &Situation<'_>, peers_were_heard: bool) -> Vec<Wanted> {
    let mut all = Vec::new();
    if !peers_were_heard {
        all.extend(situation.elections().flat_map(|election| of_peers(situation, election)));
    }
    for frontend in situation.config.balancer.iter().flat_map(|balancer| &balancer.config.frontends) {
        all.extend(of_clients(situation, frontend));
        all.extend(to_backends(situation, frontend));
    }
    all
}

/// What peers send first. What answers this host is let through by most firewalls; an election can't wait for that.
fn of_peers<'a>(
    situation: &'a Situation<'_>,
    election: &'a leader::peers::Config,
) -> impl Iterator<Item = Wanted> + 'a {
    let here = election.listen;
    election.peers.iter().map(move |(id, address)| Wanted {
        subject: &about::PEER_FIREWALL,
        hook: Hook::Input,
        packet: Packet {
            transport: Transport::Udp,
            source: Some(*address),
            destination: here,
            // A witness may be anywhere; the others are on the addresses' segment.
            comes_by: situation.link.clone().filter(|_| !election.quorum.witnesses.contains(id)),
        },
        what: format!("what the peer {id} sends first, from {address} to UDP port {}", here.port()),
        rule: format!("{} saddr {} udp dport {} accept", version(*address), address.ip(), here.port()),
    })
}

/// A client's first packet to the virtual address, at the port that is listened on.
fn of_clients(situation: &Situation<'_>, frontend: &lb::Frontend) -> Vec<Wanted> {
    let Some(port) = frontend.listen.own_port() else { return Vec::new() };
    let wanted = |ip| Wanted {
        subject: &about::INPUT_FIREWALL,
        hook: Hook::Input,
        packet: Packet {
            transport: Transport::Tcp,
            source: None,
            destination: SocketAddr::new(ip, port),
            comes_by: situation.link.clone(),
        },
        what: format!("what clients of `{}` send to TCP port {port} of {ip}", frontend.name),
        rule: format!("tcp dport {port} accept"),
    };
    situation.virtual_ips().into_iter().map(wanted).collect()
}

/// A client's first packet on its way to a backend.
fn to_backends(situation: &Situation<'_>, frontend: &lb::Frontend) -> Vec<Wanted> {
    let lb::Listen::Forwarded(forward) = &frontend.listen else { return Vec::new() };
    let (transport, word) = match forward.protocol {
        lb::forward::Protocol::Tcp => (Transport::Tcp, "tcp"),
        lb::forward::Protocol::Udp => (Transport::Udp, "udp"),
    };
    let wanted = |backend: &lb::Backend| Wanted {
        subject: &about::FORWARD_FIREWALL,
        hook: Hook::Forward,
        packet: Packet {
            transport,
            source: None,
            destination: backend.address,
            comes_by: situation.link.clone(),
        },
        what: format!("what goes on to the backend {} of `{}`", backend.address, frontend.name),
        rule: format!(
            "{} daddr {} {word} dport {} accept",
            version(backend.address),
            backend.address.ip(),
            backend.address.port()
        ),
    };
    frontend.backends.iter().map(wanted).collect()
}

/// As `nft` calls the IP version.
fn version(address: SocketAddr) -> &'static str {
    if address.is_ipv4() { "ip" } else { "ip6" }
}
