//! Backends that see the client's own address: with the commands of `docs/transparent-source.md`, and without.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lb::{Backend, CheckKind, Frontend, Health, Listen, Network};
use rustix::thread::CapabilitySet;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::segment::{Namespace, Node, PORT, eventually, frontend};

/// The document that an operator follows.
const DOCUMENT: &str = include_str!("../../../../docs/transparent-source.md");

/// Where clients connect.
const FRONT: u16 = 8443;

/// A network of one IP version.
struct Side {
    clients: &'static str,
    client: &'static str,
    /// Towards the clients, and towards the hosts.
    router: [&'static str; 2],
    vip: &'static str,
    /// The owner of the virtual address, and the other.
    hosts: [&'static str; 2],
    prefix: u8,
    /// How `ip` is told of the version.
    ip: &'static str,
}

const SIDES: [Side; 2] = [
    Side {
        clients: "10.1.0.0/24",
        client: "10.1.0.2",
        router: ["10.1.0.1", "10.2.0.1"],
        vip: "10.2.0.9",
        hosts: ["10.2.0.2", "10.2.0.3"],
        prefix: 24,
        ip: "-4",
    },
    Side {
        clients: "fd01::/64",
        client: "fd01::2",
        router: ["fd01::1", "fd02::1"],
        vip: "fd02::9",
        hosts: ["fd02::2", "fd02::3"],
        prefix: 64,
        ip: "-6",
    },
];

/// Clients behind a router; a host that owns the virtual addresses and has a backend, too; and another with a backend.
///
/// ```text
///  client ── router ──┬── owner: vipd, a backend
///                     └── other: a backend
/// ```
struct Routed {
    client: Namespace,
    _router: Namespace,
    owner: Namespace,
    other: Namespace,
}

/// The commands of the document that begin with this comment.
fn documented(title: &str) -> String {
    let marker = format!("# {title}\n");
    let block = DOCUMENT.split("```sh\n").find(|block| block.trim_start().starts_with(&marker));
    let block = block.unwrap_or_else(|| panic!("the document has no commands of `{title}`"));
    let block = block.split("```").next().unwrap();
    // In a list it is indented, which the end of a here-document must not be.
    let indent = block.len() - block.trim_start().len();
    let unindented = |line: &str| line.get(indent..).unwrap_or_default().to_owned() + "\n";
    block.lines().map(unindented).collect()
}

impl Routed {
    /// Builds it, with the backends' routes; `None`, said aloud, without the rights to.
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: network namespaces need root");
            return None;
        }
        let [client, router, owner, other] = [(); 4].map(|()| Namespace::new());
        for namespace in [&client, &router, &owner, &other] {
            namespace.ip("link set lo up");
        }
        for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            // Those of the thread's own namespace.
            router.enter(|| std::fs::write(format!("/proc/sys/net/{setting}"), "1")).unwrap();
        }
        router.ip("link add br0 type bridge forward_delay 0 mcast_snooping 0");
        router.ip("link set br0 up");
        for (name, end) in [("client", &client), ("owner", &owner), ("other", &other)] {
            router.ip(&format!("link add {name} type veth peer name eth0 netns {}", end.path()));
            router.ip(&format!("link set {name} up"));
            end.ip("link set eth0 up");
            if name != "client" {
                router.ip(&format!("link set {name} master br0"));
                let forwards =
                    || router.ip(&format!("-d -o link show dev {name}")).contains("state forwarding");
                eventually("the port forwards", forwards);
            }
        }
        for side in &SIDES {
            let add = |namespace: &Namespace, address: &str, device: &str| {
                let more = if side.ip == "-6" { " nodad" } else { "" };
                namespace.ip(&format!("address add {address}/{} dev {device}{more}", side.prefix));
            };
            add(&client, side.client, "eth0");
            add(&router, side.router[0], "client");
            add(&router, side.router[1], "br0");
            add(&owner, side.hosts[0], "eth0");
            // As vipd does it: no source of what this host begins.
            owner.ip(&format!("address add {}/{} dev eth0 nodad preferred_lft 0", side.vip, side.prefix));
            add(&other, side.hosts[1], "eth0");
            let is_local = || owner.ip(&format!("route get {}", side.vip)).starts_with("local");
            eventually("the address is this host's", is_local);
            client.ip(&format!("{} route add default via {}", side.ip, side.router[0]));
            // As hosts have it: what isn't told otherwise goes to the router.
            for host in [&owner, &other] {
                host.ip(&format!("{} route add default via {}", side.ip, side.router[1]));
            }
            let commands = format!("CLIENTS={} VIP={}\n{}", side.clients, side.vip, documented("backend"));
            other.command("sh", "-e", &commands).unwrap();
        }
        for host in [&owner, &other] {
            tell(host);
        }
        Some(Self { client, _router: router, owner, other })
    }

    /// Starts a balancer on the owner, which shows all clients' addresses, in front of these backends; and waits until it has judged them.
    fn balancer(&self, backends: &[&str], change: impl FnOnce(&mut Frontend)) -> Node {
        let vips: Vec<IpAddr> = SIDES.iter().map(|side| side.vip.parse().unwrap()).collect();
        let backend = |ip: &&str| {
            let address = SocketAddr::new(ip.parse().unwrap(), PORT);
            Backend { name: (*ip).to_owned(), address, cordoned: false }
        };
        let mut config = Frontend {
            listen: Listen::Addresses { ips: vips, port: FRONT },
            backends: backends.iter().map(backend).collect(),
            transparent_source: everybody(),
            ..frontend(&[])
        };
        change(&mut config);
        let node = Node::start(&self.owner, config);
        let is_ready = || {
            let status = node.balancer.status().frontends.remove(0);
            status.backends.iter().all(|backend| backend.health == Health::Ready)
        };
        eventually("the backends are ready", is_ready);
        node
    }
}

fn everybody() -> Vec<Network> {
    [IpAddr::from([0; 4]), IpAddr::from([0; 16])].map(|ip| Network::new(ip, 0).unwrap()).to_vec()
}

/// A server that tells whom it sees, in a line, and then repeats what it hears.
fn tell(host: &Namespace) {
    let listener = host.enter(|| TcpListener::bind(("::", PORT)).unwrap());
    // Ends with the process, as the namespace does.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let seen = stream.peer_addr()?.ip().to_canonical();
                let mut read = stream.try_clone()?;
                writeln!(stream, "{seen}")?;
                io::copy(&mut read, &mut stream)
            });
        }
    });
}

/// Whom the backend sees, by what it tells.
fn seen(stream: &mut TcpStream) -> io::Result<String> {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    Ok(String::from_utf8(line).unwrap().trim_end().to_owned())
}

/// Connects to the virtual address.
fn connect(from: &Namespace, side: &Side) -> TcpStream {
    from.connect(SocketAddr::new(side.vip.parse().unwrap(), FRONT)).unwrap()
}

#[test]
fn with_the_documented_commands_backends_see_the_client_wherever_they_run() {
    let Some(network) = Routed::new() else { return };
    network.owner.command("sh", "-e", &documented("balancer")).unwrap();

    for side in &SIDES {
        let node = network.balancer(&side.hosts, |_| {});
        for _ in 0..4 {
            let mut stream = connect(&network.client, side);
            assert_eq!(seen(&mut stream).unwrap(), side.client);
            // Far more than one packet, both ways.
            let said = vec![7; 100_000];
            stream.write_all(&said).unwrap();
            let mut heard = vec![0; said.len()];
            stream.read_exact(&mut heard).unwrap();
            assert!(said == heard);
        }
        let status = node.balancer.status().frontends.remove(0);
        let counts: Vec<_> =
            status.backends.iter().map(|backend| (backend.total, backend.connect_failures)).collect();
        assert_eq!(counts, [(2, 0), (2, 0)], "in turn, on the owner itself and on the other host");

        // The rules, which lead answers to clients' addresses here, don't keep from the client what vipd itself says.
        let mut streams = [connect(&network.client, side), connect(&network.client, side)];
        for stream in &mut streams {
            assert_eq!(seen(stream).unwrap(), side.client);
        }
        drop(node);
        for mut stream in streams {
            assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        }
    }

    network.owner.command("sh", "-e", &documented("undo")).unwrap();
    assert_eq!(network.owner.ruleset(), "");
    for side in &SIDES {
        assert!(!network.owner.ip(&format!("{} rule", side.ip)).contains("0x2000"));
        // An empty table is none.
        let left = network.owner.command("ip", &format!("{} route show table 8443", side.ip), "");
        assert!(left.is_err() || left.as_deref() == Ok(""), "{left:?}");
    }
}

#[test]
fn a_client_on_a_backends_host_or_on_vipds_comes_to_it_all_the_same() {
    let Some(network) = Routed::new() else { return };
    network.owner.command("sh", "-e", &documented("balancer")).unwrap();

    for side in &SIDES {
        let node = network.balancer(&side.hosts, |_| {});
        // To itself, it comes from vipd's address; to the owner, from its own.
        let from_other: Vec<_> = (0..4).map(|_| seen(&mut connect(&network.other, side)).unwrap()).collect();
        assert_eq!(from_other.iter().filter(|seen| *seen == side.hosts[1]).count(), 2, "{from_other:?}");
        assert_eq!(from_other.iter().filter(|seen| *seen == side.hosts[0]).count(), 2, "{from_other:?}");
        // To its own virtual address, a host comes from whichever of its own the kernel takes.
        for _ in 0..4 {
            let seen = seen(&mut connect(&network.owner, side)).unwrap();
            assert!([side.vip, side.hosts[0]].contains(&&*seen), "{seen}");
        }
        let status = node.balancer.status().frontends.remove(0);
        assert!(status.backends.iter().all(|backend| backend.connect_failures == 0), "{status:#?}");
    }
}

#[test]
fn clients_that_are_not_listed_and_those_of_another_ip_version_come_from_vipds_address() {
    let Some(network) = Routed::new() else { return };
    network.owner.command("sh", "-e", &documented("balancer")).unwrap();
    let [v4, v6] = &SIDES;

    let listed = network.balancer(&[v4.hosts[1]], |config| {
        config.transparent_source = vec![Network::new("10.9.0.0".parse().unwrap(), 16).unwrap()];
    });
    assert_eq!(seen(&mut connect(&network.client, v4)).unwrap(), v4.hosts[0]);
    drop(listed);

    let _crossed = network.balancer(&[v4.hosts[1]], |_| {});
    assert_eq!(seen(&mut connect(&network.client, v6)).unwrap(), v4.hosts[0]);
    assert_eq!(seen(&mut connect(&network.client, v4)).unwrap(), v4.client);
}

#[test]
fn the_client_that_a_proxy_tells_of_is_the_one_that_is_seen() {
    let Some(network) = Routed::new() else { return };
    network.owner.command("sh", "-e", &documented("balancer")).unwrap();
    let side = &SIDES[0];
    let _node = network.balancer(&[side.hosts[1]], |config| {
        config.proxies = vec![Network::new(side.client.parse().unwrap(), 32).unwrap()];
    });

    let mut proxy = connect(&network.client, side);
    proxy.write_all(b"PROXY TCP4 10.1.0.77 10.2.0.9 4711 8443\r\n").unwrap();

    assert_eq!(seen(&mut proxy).unwrap(), "10.1.0.77");
}

/// The checks, which come from vipd's own address, find the backend well.
#[test]
fn without_the_commands_nobody_answers_and_the_client_is_reset() {
    let Some(network) = Routed::new() else { return };
    let _ = tracing::subscriber::set_global_default(Listener);
    let side = &SIDES[0];
    let node = network.balancer(&[side.hosts[1]], |config| {
        config.check.kind = CheckKind::Tcp;
        config.timeouts.connect = Duration::from_millis(500);
        config.name = FRONTEND_WITHOUT.to_owned();
    });

    for _ in 0..2 {
        let mut stream = connect(&network.client, side);
        assert_eq!(seen(&mut stream).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    let status = node.balancer.status().frontends.remove(0);
    assert_eq!((status.refused, status.backends[0].health), (2, Health::Ready));
    assert!(status.backends[0].connect_failures >= 2);
    assert_eq!(WARNINGS.load(Ordering::Relaxed), 1, "it is said once");
}

/// The frontend whose warnings are counted.
const FRONTEND_WITHOUT: &str = "without-commands";

/// Warnings of that frontend that no backend has answered.
static WARNINGS: AtomicUsize = AtomicUsize::new(0);

/// Counts them.
struct Listener;

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        if text.0.contains(FRONTEND_WITHOUT) && text.0.contains("docs/transparent-source.md") {
            WARNINGS.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// All fields of an event, one after the other.
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, _: &Field, value: &dyn fmt::Debug) {
        self.0 += &format!("{value:?} ");
    }
}

#[test]
fn without_the_right_to_it_the_balancer_does_not_start_and_says_what_is_missing() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("SKIPPED: to give up capabilities takes root");
    }
    let mut config = frontend(&[]);
    config.listen = Listen::Addresses { ips: vec![[127, 0, 0, 1].into()], port: 0 };
    config.transparent_source = everybody();
    let (start, with_one) = Namespace::new().enter(|| {
        let mut sets = rustix::thread::capabilities(None).unwrap();
        // Of this thread, which ends here; either of the two is enough.
        sets.effective.remove(CapabilitySet::NET_ADMIN);
        rustix::thread::set_capabilities(None, sets).unwrap();
        let one = lb::transparent::rehearse();
        sets.effective.remove(CapabilitySet::NET_RAW);
        rustix::thread::set_capabilities(None, sets).unwrap();
        let (_, held) = tokio::sync::watch::channel(std::collections::BTreeSet::new());
        (lb::Balancer::start(lb::Config { frontends: vec![config], workers: 1 }, held).map(drop), one)
    });

    assert!(with_one.is_ok());
    let error = start.unwrap_err();
    let lb::Error::TransparentSource { source, .. } = &error else { panic!("{error}") };
    assert_eq!(source.kind(), io::ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("frontend api") && error.to_string().contains("NET_ADMIN"), "{error}");
}
