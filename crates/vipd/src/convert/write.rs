//! From the setup to the text of a config.yaml.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_yaml::{Mapping, Value};

use super::hosts::{self, Host, Hosts};
use super::report::{Kind, Report};
use super::setup::{Balancer, Check, Idle, Instance, Said, Setup, Virtual};
use super::{Options, time};

/// The most addresses that can be spread over the hosts.
const SPREAD_MAX: usize = 16;

/// The document; `None` after what is missing was noted.
pub(super) fn write(setup: &Setup, options: &Options, report: &mut Report) -> Option<Mapping> {
    let mut document = Mapping::new();
    let addresses = (!setup.instances.is_empty()).then(|| addresses(setup, report));
    let hosts = addresses.as_ref().and_then(|_| hosts::find(setup, options, report));
    if let Some(hosts) = &hosts {
        put(&mut document, "localPeer", peer(&hosts.local));
        put(&mut document, "remotePeers", hosts.others.iter().map(peer).collect::<Vec<_>>());
    }
    if let Some((addresses, interface, spread)) = &addresses {
        match &addresses[..] {
            [] => report.tell(
                Kind::Missing,
                "a virtual address: no `vrrp_instance` has one that could be carried over",
            ),
            [one] => put(&mut document, "vip", one.as_str()),
            several => put(&mut document, "vips", several.to_vec()),
        }
        if *spread {
            put(&mut document, "spread", true);
        }
        if let Some(interface) = interface {
            put(&mut document, "interface", interface.as_str());
        }
        preferences(setup, *spread, &mut document, report);
        two_hosts(hosts.as_ref(), &mut document, report);
    }
    balancers(setup, hosts.as_ref().map(|hosts| &hosts.local), &mut document, report);
    if let Some(workers) = setup.workers {
        put(&mut document, "workers", workers);
    }
    if let Some(drain) = setup.drain {
        put(&mut document, "drainTimeout", time::text(drain));
    }
    if setup.metrics {
        put(&mut document, "metrics", ":2112");
    }
    if setup.instances.is_empty() && setup.balancers.is_empty() && !report.has(Kind::Missing) {
        report.tell(Kind::Missing, "something to do: neither an address nor a load balancer was found");
    }
    (!report.has(Kind::Missing)).then_some(document)
}

fn put(map: &mut Mapping, key: &str, value: impl Into<Value>) {
    map.insert(key.into(), value.into());
}

fn peer(host: &Host) -> Value {
    let mut map = Mapping::new();
    put(&mut map, "id", host.name.as_str());
    put(&mut map, "address", host.ip.to_string());
    put(&mut map, "port", u64::from(host.port));
    map.into()
}

/// The addresses, where they go, and whether each is on a host of its own.
type Addresses = (Vec<String>, Option<String>, bool);

fn addresses(setup: &Setup, report: &mut Report) -> Addresses {
    let interface_of = |instance: &Instance, said: &Said<Virtual>| {
        said.value.device.clone().or_else(|| instance.interface.as_ref().map(|said| said.value.clone()))
    };
    let all = || {
        setup
            .instances
            .iter()
            .flat_map(|instance| instance.addresses.iter().map(move |said| (instance, said)))
    };
    let interface = all().find_map(|(instance, said)| interface_of(instance, said));
    let mut written = Vec::new();
    let mut seen = BTreeSet::new();
    for (instance, said) in all() {
        let Virtual { ip, prefix, .. } = &said.value;
        let own = interface_of(instance, said);
        if own.is_some() && own != interface {
            let told = format!(
                "goes on another interface than the first, {}: a vipd has its addresses on one. Run a second one, with a file, a `socket` and a port of its own",
                interface.as_deref().unwrap_or_default()
            );
            report.note(Kind::Refused, &said.at, &said.words, told);
        } else if !seen.insert(*ip) {
            report.note(Kind::Changed, &said.at, &said.words, "listed once");
        } else {
            report.note(Kind::Carried, &said.at, &said.words, format!("a virtual address, {ip}/{prefix}"));
            written.push(format!("{ip}/{prefix}"));
        }
    }
    for instance in &setup.instances {
        match &instance.interface {
            Some(said) if Some(&said.value) == interface.as_ref() => {
                report.note(Kind::Carried, &said.at, &said.words, format!("interface: {}", said.value));
            }
            Some(said) => report.note(Kind::Lost, &said.at, &said.words, "vipd has one interface"),
            None => {}
        }
    }
    let here = |instance: &&Instance| {
        instance.addresses.iter().any(|said| interface_of(instance, said) == interface)
    };
    let spread = is_spread(setup, &setup.instances.iter().filter(here).collect::<Vec<_>>(), written.len());
    for instance in &setup.instances {
        let (kind, told) = match (setup.instances.len(), spread) {
            (1, _) => (Kind::Carried, format!("the election of `{}`", instance.name)),
            (_, true) => (
                Kind::Changed,
                "spread: true: the first address of `vips` is meant for the first host by name, the second for the second, and so on; keep their order the same on every host".to_owned(),
            ),
            (_, false) => (Kind::Changed, "one election for all addresses, which move together".to_owned()),
        };
        report.note(kind, &instance.at, &instance.words, told);
    }
    (written, interface, spread)
}

/// Several instances that move by themselves, each with an address, and not all meant for the same host.
fn is_spread(setup: &Setup, instances: &[&Instance], addresses: usize) -> bool {
    let together =
        setup.together.iter().any(|group| instances.iter().all(|instance| group.contains(&instance.name)));
    let meant = |instance: &Instance| (instance.master, instance.priority.as_ref().map(|said| said.value));
    let differ = instances.iter().any(|instance| meant(instance) != meant(instances[0]));
    let one_each = instances.iter().all(|instance| instance.addresses.len() == 1);
    instances.len() > 1
        && addresses == instances.len()
        && addresses <= SPREAD_MAX
        && !together
        && differ
        && one_each
}

fn preferences(setup: &Setup, spread: bool, document: &mut Mapping, report: &mut Report) {
    let stays = setup.instances.iter().any(|instance| instance.stays.is_some());
    let mut first: Option<u8> = None;
    for said in setup.instances.iter().filter_map(|instance| instance.priority.as_ref()) {
        if spread {
            report.note(
                Kind::Changed,
                &said.at,
                &said.words,
                "each address is meant for a host by its place in `vips`",
            );
        } else if first.is_none_or(|first| first == said.value) {
            first = Some(said.value);
            report.note(Kind::Carried, &said.at, &said.words, format!("priority: {}", said.value));
        } else {
            report.note(
                Kind::Changed,
                &said.at,
                &said.words,
                "addresses that move together have one priority, the first",
            );
        }
    }
    if let Some(priority) = first {
        put(document, "priority", u64::from(priority));
    }
    for said in setup.instances.iter().filter_map(|instance| instance.stays.as_ref()) {
        report.note(Kind::Carried, &said.at, &said.words, "preempt: false");
    }
    if stays || !spread {
        put(document, "preempt", !stays);
    }
    let delays: Vec<&Said<u64>> =
        setup.instances.iter().filter_map(|instance| instance.delay.as_ref()).collect();
    for said in &delays {
        let (kind, told) = match (stays, said.value) {
            (true, _) => (Kind::Lost, "without preemption there is nothing to wait for".to_owned()),
            (false, 0) => (Kind::Changed, "vipd waits, 30 s unless `preemptDelay` says otherwise".to_owned()),
            (false, millis) => (Kind::Carried, format!("preemptDelay: {}", time::text(millis))),
        };
        report.note(kind, &said.at, &said.words, told);
    }
    let delay = delays.iter().map(|said| said.value).find(|millis| *millis > 0);
    match delay.filter(|_| !stays) {
        Some(delay) => put(document, "preemptDelay", time::text(delay)),
        None if !stays => report.tell(
            Kind::Changed,
            "a preferred host takes the address back once it has been well for 30 s (`preemptDelay`), in a planned move; VRRP took it at once",
        ),
        None => {}
    }
}

/// Of two hosts, VRRP let either go on alone.
fn two_hosts(hosts: Option<&Hosts>, document: &mut Mapping, report: &mut Report) {
    if hosts.is_some_and(|hosts| hosts.others.len() == 1) {
        put(document, "tieBreak", "gateway");
        let told = "two hosts have no majority without each other: the router decides (tieBreak: gateway); a third host that only votes is better (docs/two-nodes.md)";
        report.tell(Kind::Changed, told);
    }
}

fn balancers(setup: &Setup, local: Option<&Host>, document: &mut Mapping, report: &mut Report) {
    let vips: Vec<IpAddr> =
        setup.instances.iter().flat_map(|instance| &instance.addresses).map(|said| said.value.ip).collect();
    let (mut ports, mut names) = (BTreeSet::new(), BTreeSet::new());
    let mut written = Vec::new();
    for balancer in &setup.balancers {
        if !ports.insert((balancer.udp, balancer.port)) {
            let told =
                format!("port {} has a load balancer already: vipd has one for each port", balancer.port);
            report.note(Kind::Refused, &balancer.at, &balancer.words, told);
            continue;
        }
        let name = if names.contains(&balancer.name) {
            format!("{}-{}", balancer.name, balancer.port)
        } else {
            balancer.name.clone()
        };
        names.insert(name.clone());
        written.push(self::balancer(balancer, &name, (&vips, local), report));
    }
    if !written.is_empty() {
        put(document, "loadBalancers", written);
    } else if !setup.instances.is_empty() {
        let Some(said) = &setup.watched else { return };
        let mut check = Mapping::new();
        put(&mut check, "address", "127.0.0.1");
        put(&mut check, "port", u64::from(said.value));
        put(document, "healthCheck", check);
        let told =
            format!("healthCheck: this host's own apiserver at port {}, asked for /readyz", said.value);
        report.note(Kind::Changed, &said.at, &said.words, told);
    }
}

fn balancer(
    balancer: &Balancer,
    name: &str,
    (vips, local): (&[IpAddr], Option<&Host>),
    report: &mut Report,
) -> Value {
    let mut map = Mapping::new();
    put(&mut map, "name", name);
    put(&mut map, "type", if balancer.udp { "udp" } else { "tcp" });
    put(&mut map, "port", u64::from(balancer.port));
    place(balancer, (vips, local), &mut map, report);
    if balancer.by_kernel {
        put(&mut map, "mode", "kernel");
    }
    if let Some(policy) = balancer.policy {
        put(&mut map, "policy", policy);
    }
    let check = check(&balancer.check);
    if !check.is_empty() {
        put(&mut map, "check", check);
    }
    if let Some(slow_start) = balancer.slow_start {
        put(&mut map, "slowStart", time::text(slow_start));
    }
    if let Some(connect) = balancer.connect {
        put(&mut map, "connectTimeout", time::text(connect));
    }
    match balancer.idle {
        Some(Idle::For(millis)) => put(&mut map, "idleTimeout", time::text(millis)),
        Some(Idle::Ever) => put(&mut map, "idleTimeout", "none"),
        None => {}
    }
    if let Some(most) = balancer.max_connections {
        put(&mut map, "maxConnections", most);
    }
    if let Some(version) = balancer.proxy_protocol {
        put(&mut map, "proxyProtocol", version);
    }
    if balancer.accepts_proxy {
        put(&mut map, "acceptProxyProtocol", vec!["0.0.0.0/0".to_owned(), "::/0".to_owned()]);
    }
    if balancer.access_log {
        put(&mut map, "accessLog", true);
    }
    let backends = balancer.backends.iter().map(|backend| {
        let mut map = Mapping::new();
        if let Some(name) = &backend.name {
            put(&mut map, "name", name.as_str());
        }
        put(&mut map, "address", backend.host.as_str());
        put(&mut map, "port", u64::from(backend.port));
        Value::from(map)
    });
    put(&mut map, "backends", backends.collect::<Vec<_>>());
    map.into()
}

/// On which addresses it listens.
fn place(
    balancer: &Balancer,
    (vips, local): (&[IpAddr], Option<&Host>),
    map: &mut Mapping,
    report: &mut Report,
) {
    let Balancer { at, words, port, .. } = balancer;
    let every = balancer.binds.iter().any(Option::is_none);
    let named: BTreeSet<IpAddr> = balancer.binds.iter().copied().flatten().collect();
    let on_vips = named.iter().filter(|ip| vips.contains(ip)).count();
    if !every && on_vips == named.len() && !named.is_empty() {
        put(map, "bindToVip", true);
        if on_vips < vips.len() {
            report.note(Kind::Changed, at, words, "bindToVip: true is on all virtual addresses");
        }
        return;
    }
    if !every && on_vips == 0 && !balancer.by_kernel {
        put(map, "bind", named.iter().map(ToString::to_string).collect::<Vec<_>>());
        return;
    }
    if !every {
        report.note(
            Kind::Changed,
            at,
            words,
            "bindToVip: false: on every address, since it was on the virtual one and on others",
        );
    }
    let is_own = |ip: IpAddr| ip.is_loopback() || local.is_some_and(|local| local.ip == ip);
    let clashes =
        balancer.backends.iter().any(|backend| backend.port == *port && backend.ip().is_some_and(is_own));
    if clashes && !vips.is_empty() {
        put(map, "samePort", true);
        let told = "samePort: true: the port is the apiserver's, too, so the load balancer has it on the virtual address alone";
        report.note(Kind::Changed, at, words, told);
    } else if !vips.is_empty() {
        put(map, "bindToVip", false);
    }
}

fn check(check: &Check) -> Mapping {
    let mut map = Mapping::new();
    if let Some(kind) = check.kind {
        put(&mut map, "type", kind);
    }
    if let Some(path) = &check.path {
        put(&mut map, "path", path.as_str());
    }
    for (key, millis) in [("interval", check.interval), ("timeout", check.timeout)] {
        if let Some(millis) = millis {
            put(&mut map, key, time::text(millis));
        }
    }
    for (key, number) in [("rise", check.rise), ("fall", check.fall)] {
        if let Some(number) = number {
            put(&mut map, key, u64::from(number));
        }
    }
    map
}
