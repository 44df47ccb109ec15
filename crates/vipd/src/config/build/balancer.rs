//! Frontends and their backends.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZero, NonZeroUsize};
use std::time::Duration;

use super::check::check;
use super::{backends, bind, choice, clients, kernel_path};
use crate::config::Balancer;
use crate::config::file::{Election, File, LoadBalancer, Mode, Protocol};
use crate::config::reader::Reader;
use crate::config::source::Step;

/// The port of an apiserver, unless `backendPort` says otherwise.
pub(super) const BACKEND_PORT_DEFAULT: u16 = 6443;

/// What is added to the port of clients, or taken from a high one, for the port that a load balancer with `samePort`
/// listens on: out of the way of node ports (30000 to 32767) and of the ports of outgoing connections (32768 to 60999)
/// for an apiserver's usual ports.
const LISTEN_PORT_STEP: u16 = 10_000;

/// The shortest age that connections end at.
const MAX_AGE_MIN: Duration = Duration::from_secs(1);

/// Threads that carry connections, unless the file says otherwise: more than four gain nothing for an apiserver's load.
const WORKERS_DEFAULT_MAX: usize = 4;

/// More threads than any machine that runs an apiserver gives to its balancer.
const WORKERS_MAX: usize = 256;

/// The balancer of a file; `None` where it lists none.
pub(super) fn balancer(
    reader: &mut Reader<'_>,
    file: &File,
    vips: &[IpAddr],
    local: Option<IpAddr>,
) -> Option<Balancer> {
    let listed = file.load_balancers.as_deref().unwrap_or_default();
    if listed.is_empty() {
        return None;
    }
    // One that is wrong is there all the same, and told elsewhere.
    let has_vip = file.vip.is_some() || file.vips.is_some();
    let mut ports = BTreeMap::new();
    let mut frontends = Vec::new();
    let (mut discovered, mut named) = (BTreeMap::new(), BTreeMap::new());
    let mut names = BTreeSet::new();
    for (index, balancer) in listed.iter().enumerate() {
        let base = [Step::Key("loadBalancers"), Step::Index(index)];
        let name = balancer.name.clone().unwrap_or_else(|| format!("port-{}", balancer.port));
        let listens = balancer.same_port == Some(true) && balancer.mode != Some(Mode::Kernel);
        let own = listens.then(|| ("listenPort", listen_port(balancer)));
        let own = own.filter(|(_, own)| *own != balancer.port);
        for (key, port) in [("port", balancer.port)].into_iter().chain(own) {
            let udp = balancer.kind == Some(Protocol::Udp);
            if let Some(other) = ports.insert((udp, port), name.clone()) {
                reader.error(
                    &[&base[..], &[key.into()]].concat(),
                    format!("port {port} is used twice: by `{other}` and by `{name}`"),
                    "give every load balancer a port of its own",
                );
            }
        }
        let finds =
            |balancer: &LoadBalancer| balancer.discover == Some(true) || backends::has_names(balancer);
        if !names.insert(name.clone()) && listed.iter().any(finds) {
            reader.error(
                &[&base[..], &["name".into()]].concat(),
                format!("two load balancers are called `{name}`"),
                "where backends are discovered, or named, every load balancer needs a name of its own",
            );
        }
        if balancer.discover == Some(true) {
            check_discovery(reader, &base, balancer, file, has_vip);
            discovered.insert(name.clone(), balancer.backend_port.unwrap_or(BACKEND_PORT_DEFAULT));
        }
        let servers = backends::listed(reader, &base, balancer);
        let known = backends::known(&servers);
        if known.len() < servers.len() {
            named.insert(name.clone(), servers);
        }
        let common = (vips, has_vip, local, listed.len());
        frontends.extend(frontend(reader, &base, balancer, (name, known), common));
    }
    let config = lb::Config { frontends, workers: workers(reader, file) };
    Some(Balancer { config, discovered, named })
}

/// Whether there is an API to discover backends with, and this host's own apiserver leaves the port free.
fn check_discovery(
    reader: &mut Reader<'_>,
    base: &[Step],
    balancer: &LoadBalancer,
    file: &File,
    has_vip: bool,
) {
    let at = |key: &'static str| [base, &[Step::Key(key)]].concat();
    let backend_port = balancer.backend_port.unwrap_or(BACKEND_PORT_DEFAULT);
    reader.port(&at("backendPort"), backend_port);
    // Without an address, no election is needed to ask the API.
    if !has_vip {
        return;
    }
    if file.election != Some(Election::Kubernetes) {
        reader.error(
            &at("discover"),
            "`discover: true` asks the Kubernetes API, which beside a `vip` only `election: kubernetes` does",
            "add `election: kubernetes`, or remove the key and list the apiservers under `backends`",
        );
    }
    if balancer.port == backend_port && !balancer.is_on_vip() {
        reader.error(
            &at("port"),
            format!("port {backend_port} is used twice: by this load balancer on every address, and by the apiserver of this host"),
            "write `samePort: true`: the balancer then has the port on the virtual address alone; or give it another port, such as 8443",
        );
    }
}

fn workers(reader: &mut Reader<'_>, file: &File) -> usize {
    match file.workers {
        Some(workers) if (1..=WORKERS_MAX).contains(&workers) => workers,
        Some(workers) => {
            reader.error(
                &["workers".into()],
                format!("{workers} is not a number of threads"),
                "write 1 to 256, or remove the key: as many as the machine has cores, at most four",
            );
            1
        }
        None => std::thread::available_parallelism().map_or(1, NonZero::get).min(WORKERS_DEFAULT_MAX),
    }
}

fn frontend(
    reader: &mut Reader<'_>,
    base: &[Step],
    balancer: &LoadBalancer,
    (name, backends): (String, Vec<lb::Backend>),
    (vips, has_vip, local, frontends): (&[IpAddr], bool, Option<IpAddr>, usize),
) -> Option<lb::Frontend> {
    let at = |key: &'static str| [base, &[Step::Key(key)]].concat();
    unsupported(reader, base, balancer);
    let port = reader.port(&at("port"), balancer.port);
    let by_kernel = balancer.mode == Some(Mode::Kernel);
    let same_port = if by_kernel { None } else { same_port(reader, base, balancer, &backends, vips) };
    without_vip(reader, base, balancer, has_vip);
    bind::contradicts(reader, base, balancer);
    if !balancer.is_on_vip() && !by_kernel && balancer.bind.is_none() {
        let own = backends.iter().position(|backend| {
            backend.address.port() == balancer.port
                && local
                    .is_some_and(|local| backend.address.ip() == local || backend.address.ip().is_loopback())
        });
        if let Some(own) = own {
            reader.error(
                &at("port"),
                format!("port {} is used twice: by this load balancer on every address, and by the backend {} on this host", balancer.port, backends[own].address),
                "write `samePort: true`: the balancer then has the port on the virtual address alone; or give it another port, such as 8443",
            );
        }
    }
    // The kernel does that by itself.
    let transparent_source = if by_kernel {
        Vec::new()
    } else {
        clients::transparent_source(reader, base, balancer, (vips, &backends))
    };
    let mut check = check(reader, &at("check"), balancer.check.as_ref());
    let told = balancer.check.as_ref().is_some_and(|check| check.kind.is_some());
    if balancer.kind == Some(Protocol::Udp) && !told {
        // Whether a server of datagrams is well, only its own clients can tell.
        check.kind = lb::CheckKind::None;
    }
    let timeouts = timeouts(reader, base, balancer);
    // What the open files allow is shared by all frontends.
    let share = lb::Limits::default().max_connections / frontends;
    let limits = limits(reader, base, balancer, share);
    let port = port?;
    let listen = match same_port {
        _ if by_kernel => kernel_path::listen(reader, base, balancer, &backends, (vips, has_vip, port)),
        Some(own) => lb::Listen::Redirected { ips: vips.to_vec(), port, own },
        None if balancer.is_on_vip() => lb::Listen::Addresses { ips: vips.to_vec(), port },
        None => match bind::addresses(reader, base, balancer, &backends) {
            Some(ips) => lb::Listen::Addresses { ips, port },
            None => lb::Listen::Any { port },
        },
    };
    Some(lb::Frontend {
        name,
        listen,
        backends,
        policy: choice::policy(reader, base, balancer),
        slow_start: choice::slow_start(reader, base, balancer),
        check,
        timeouts,
        limits,
        virtual_ips: vips.to_vec(),
        rebalance: at_least_one(
            reader,
            base,
            "rebalance",
            balancer.rebalance,
            "0 connections a second would move none",
        ),
        proxies: clients::proxies(reader, base, balancer),
        transparent_source,
        proxy_protocol: clients::proxy_protocol(balancer),
        access_log: balancer.access_log == Some(true),
    })
}

/// How many connections there may be.
fn limits(reader: &mut Reader<'_>, base: &[Step], balancer: &LoadBalancer, share: usize) -> lb::Limits {
    let mut limits = lb::Limits { max_connections: share.max(1), per_source: None };
    if let Some(most) = balancer.max_connections {
        limits.max_connections = most;
        let zero = "0 connections would serve nobody";
        at_least_one(reader, base, "maxConnections", Some(most), zero);
    }
    let zero = "0 connections of each client would serve nobody";
    let per_source = balancer.max_connections_per_source;
    limits.per_source = at_least_one(reader, base, "maxConnectionsPerSource", per_source, zero);
    limits
}

/// The number under a key, where it is there; `zero` is what is wrong with none.
fn at_least_one(
    reader: &mut Reader<'_>,
    base: &[Step],
    key: &'static str,
    number: Option<usize>,
    zero: &str,
) -> Option<NonZeroUsize> {
    let known = NonZeroUsize::new(number?);
    if known.is_none() {
        reader.error(&[base, &[Step::Key(key)]].concat(), zero, "write at least 1, or remove the key");
    }
    known
}

/// How long connecting and silence may last.
fn timeouts(reader: &mut Reader<'_>, base: &[Step], balancer: &LoadBalancer) -> lb::Timeouts {
    let at = |key: &'static str| [base, &[Step::Key(key)]].concat();
    let mut timeouts = lb::Timeouts::default();
    timeouts.connect =
        reader.duration(&at("connectTimeout"), balancer.connect_timeout.as_deref(), timeouts.connect);
    let (idle, help) = (balancer.idle_timeout.as_deref(), "write 1h or so, or `none`");
    timeouts.idle = reader.duration_or_none(&at("idleTimeout"), idle, timeouts.idle, help);
    let (age, help) = (balancer.max_connection_age.as_deref(), "write 4h or so, or remove the key");
    timeouts.max_age = reader.duration_or_none(&at("maxConnectionAge"), age, None, help);
    if timeouts.max_age.is_some_and(|age| age < MAX_AGE_MIN) {
        reader.error(&at("maxConnectionAge"), "less than a second is no age: it is counted in seconds", help);
    }
    timeouts
}

/// Complains where the virtual address is wanted and there is none, or is wanted and is not.
fn without_vip(reader: &mut Reader<'_>, base: &[Step], balancer: &LoadBalancer, has_vip: bool) {
    let at = |key: &'static str| [base, &[Step::Key(key)]].concat();
    if balancer.bind_to_vip == Some(true) && !has_vip {
        reader.error(
            &at("bindToVip"),
            "`bindToVip: true` without a `vip`",
            "add `vip: ADDRESS`, or write false to listen on every address",
        );
    }
    if balancer.same_port == Some(true) && !has_vip {
        reader.error(
            &at("samePort"),
            "`samePort: true` without a `vip`: only what comes for the virtual address is redirected",
            "add `vip: ADDRESS`, or give the load balancer a port of its own and remove the key",
        );
    }
    if balancer.same_port == Some(true) && balancer.bind_to_vip == Some(false) {
        reader.error(
            &at("bindToVip"),
            "`bindToVip: false` and `samePort: true` contradict each other",
            "remove one of the two: with `samePort` the balancer has the port on the virtual address alone",
        );
    }
}

/// The port that a load balancer listens on whose clients' port is redirected; `None` where it isn't.
fn same_port(
    reader: &mut Reader<'_>,
    base: &[Step],
    balancer: &LoadBalancer,
    backends: &[lb::Backend],
    vips: &[IpAddr],
) -> Option<u16> {
    let at = |key: &'static str| [base, &[Step::Key(key)]].concat();
    if balancer.same_port != Some(true) {
        if balancer.listen_port.is_some() {
            reader.error(
                &at("listenPort"),
                "`listenPort` belongs to `samePort: true`: otherwise a load balancer listens on its `port`",
                "add `samePort: true`, or remove the key",
            );
        }
        return None;
    }
    let own = reader.port(&at("listenPort"), listen_port(balancer))?;
    if own == balancer.port {
        reader.error(
            &at("listenPort"),
            format!("the balancer can't listen on port {own} itself: with `samePort` the apiserver has that"),
            "remove the key, or write another port: clients don't see it",
        );
    }
    let circles =
        |address: &SocketAddr| vips.contains(&address.ip()) && [balancer.port, own].contains(&address.port());
    if let Some(address) = backends.iter().map(|backend| backend.address).find(circles) {
        backends::in_circles(reader, base, balancer, address);
    }
    Some(own)
}

/// The port that a load balancer with `samePort` listens on.
fn listen_port(balancer: &LoadBalancer) -> u16 {
    let default = || match balancer.port.checked_add(LISTEN_PORT_STEP) {
        Some(higher) => higher,
        None => balancer.port - LISTEN_PORT_STEP,
    };
    balancer.listen_port.unwrap_or_else(default)
}

/// What the keys can say and this version can't do.
fn unsupported(reader: &mut Reader<'_>, base: &[Step], balancer: &LoadBalancer) {
    let at = |key: &'static str| [base, &[Step::Key(key)]].concat();
    match balancer.kind {
        Some(Protocol::Http) => reader.error(
            &at("type"),
            "`type: http` is not balanced as such",
            "write tcp: TLS and HTTP pass through it untouched",
        ),
        Some(Protocol::Udp) if balancer.mode != Some(Mode::Kernel) => reader.error(
            &at("type"),
            "datagrams are the kernel's to carry: `type: udp` needs `mode: kernel`",
            "add `mode: kernel`; or write tcp",
        ),
        Some(Protocol::Tcp | Protocol::Udp) | None => {}
    }
}
