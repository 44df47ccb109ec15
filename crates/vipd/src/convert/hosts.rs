//! Which hosts there are, and which of them this is.

use std::collections::BTreeMap;
use std::net::IpAddr;

use leader::NodeId;

use super::report::{Kind, Report};
use super::setup::Setup;
use super::{Named, Options};

/// Where peers reach one another, unless an option says otherwise.
const PORT_DEFAULT: u16 = 10_000;

/// The most hosts of an election.
const HOSTS_MAX: usize = 15;

/// One host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    /// Its name.
    pub(super) name: String,
    /// Its own address.
    pub(super) ip: IpAddr,
    /// The port that peers reach it at.
    pub(super) port: u16,
}

/// All hosts of an address.
#[derive(Debug)]
pub(super) struct Hosts {
    /// This one.
    pub(super) local: Host,
    /// The others.
    pub(super) others: Vec<Host>,
}

/// Finds them; `None` after what is missing was noted.
pub(super) fn find(setup: &Setup, options: &Options, report: &mut Report) -> Option<Hosts> {
    let named = servers(setup);
    let mut hosts = listed(setup, options, &named, report);
    let local = local(setup, options, (&mut hosts, &named), report)?;
    let others: Vec<Host> = hosts.into_iter().filter(|host| host.ip != local.ip).collect();
    if others.is_empty() {
        report.tell(
            Kind::Missing,
            "the other hosts: the files name none. Say each by `--peer NAME=ADDRESS`, and give haproxy.cfg, too, where its servers are the hosts",
        );
        return None;
    }
    if others.len() >= HOSTS_MAX {
        let told = format!(
            "{} hosts are more than the {HOSTS_MAX} that an election has: name the right ones by `--peer NAME=ADDRESS`",
            others.len() + 1
        );
        report.tell(Kind::Missing, told);
        return None;
    }
    if options.peers.is_empty() {
        let told = format!(
            "hosts talk to one another by UDP, port {PORT_DEFAULT}, where VRRP was protocol 112: let it through between them"
        );
        report.tell(Kind::Changed, told);
    }
    Some(Hosts { local, others })
}

/// Names of addresses, as the servers behind the load balancers have them.
fn servers(setup: &Setup) -> BTreeMap<IpAddr, String> {
    let mut named = BTreeMap::new();
    let virtual_ips: Vec<IpAddr> =
        setup.instances.iter().flat_map(|instance| &instance.addresses).map(|said| said.value.ip).collect();
    for backend in setup.balancers.iter().flat_map(|balancer| &balancer.backends) {
        let Some(ip) = backend.ip() else { continue };
        let name = backend.name.clone().filter(|name| NodeId::new(name).is_ok());
        if !virtual_ips.contains(&ip) && !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast() {
            named.entry(ip).or_insert_with(|| name.unwrap_or_else(|| ip.to_string()));
        }
    }
    // Two addresses of one name are two hosts all the same.
    let mut seen = std::collections::BTreeSet::new();
    for (ip, name) in &mut named {
        if !seen.insert(name.clone()) {
            *name = ip.to_string();
        }
    }
    named
}

/// The hosts that options, VRRP or haproxy name, whichever comes first.
fn listed(
    setup: &Setup,
    options: &Options,
    named: &BTreeMap<IpAddr, String>,
    report: &mut Report,
) -> Vec<Host> {
    let host = |ip: IpAddr| Host {
        name: named.get(&ip).cloned().unwrap_or_else(|| ip.to_string()),
        ip,
        port: PORT_DEFAULT,
    };
    if !options.peers.is_empty() {
        let host = |Named { name, ip, port }: &Named| Host {
            name: name.clone(),
            ip: *ip,
            port: port.unwrap_or(PORT_DEFAULT),
        };
        return options.peers.iter().map(host).collect();
    }
    if !setup.peers.is_empty() {
        let hosts: Vec<Host> = setup.peers.iter().map(|said| host(said.value)).collect();
        for (said, found) in
            setup.peers.iter().zip(&hosts).filter(|(said, _)| !named.contains_key(&said.value))
        {
            let told = format!(
                "is called {} in every host's file, for want of a name; `--peer NAME=ADDRESS` gives it one",
                found.name
            );
            report.note(Kind::Changed, &said.at, &said.words, told);
        }
        return hosts;
    }
    let hosts: Vec<Host> = named.keys().map(|ip| host(*ip)).collect();
    if !hosts.is_empty() {
        let names: Vec<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
        let told = format!(
            "VRRP by multicast names no hosts: those of the address are taken to be haproxy's servers, {}; otherwise say them by `--peer NAME=ADDRESS`",
            names.join(", ")
        );
        report.tell(Kind::Changed, told);
    }
    hosts
}

/// Which of them this is.
fn local(
    setup: &Setup,
    options: &Options,
    (hosts, named): (&mut Vec<Host>, &BTreeMap<IpAddr, String>),
    report: &mut Report,
) -> Option<Host> {
    let own = setup.local.as_ref();
    if let Some(said) = own
        && !hosts.iter().any(|host| host.ip == said.value)
    {
        let name = named.get(&said.value).or(options.node.as_ref()).cloned();
        let name = name.unwrap_or_else(|| said.value.to_string());
        hosts.push(Host { name, ip: said.value, port: PORT_DEFAULT });
    }
    // One that is a server, and not among VRRP's peers.
    let elsewhere = options.node.as_ref().and_then(|node| named.iter().find(|(_, name)| *name == node));
    if let Some((ip, name)) = elsewhere
        && own.is_none()
        && !hosts.iter().any(|host| host.ip == *ip)
    {
        hosts.push(Host { name: name.clone(), ip: *ip, port: PORT_DEFAULT });
    }
    let names: Vec<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
    let names = names.join(", ");
    let by_name = options.node.as_ref().map(|node| (node, hosts.iter().find(|host| host.name == *node)));
    let by_address = own.and_then(|said| hosts.iter().find(|host| host.ip == said.value));
    match (by_name, by_address) {
        (Some((_, Some(host))), None) => Some(host.clone()),
        (Some((_, Some(host))), Some(other)) if host == other => Some(host.clone()),
        (None, Some(host)) => Some(host.clone()),
        (Some((node, _)), Some(host)) => {
            let told = format!(
                "which host this is: `--node {node}`, and {} by its own address, which is {}'s; all files must call a host the same: say `--node {}`, or name all hosts by `--peer NAME=ADDRESS`",
                host.ip, host.name, host.name
            );
            report.tell(Kind::Missing, told);
            None
        }
        (Some((node, None)), None) => {
            let told = format!(
                "the address of `{node}`: the hosts known here are {}; `--peer {node}=ADDRESS` says it",
                or_none(&names)
            );
            report.tell(Kind::Missing, told);
            None
        }
        (None, None) => {
            let told = format!(
                "which host this is: `--node NAME` says it, of {}; `--peer NAME=ADDRESS` for each host, this one too, where a name is missing",
                or_none(&names)
            );
            report.tell(Kind::Missing, told);
            None
        }
    }
}

fn or_none(names: &str) -> &str {
    if names.is_empty() { "none" } else { names }
}
