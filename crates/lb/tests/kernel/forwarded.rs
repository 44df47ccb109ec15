//! Connections that the kernel leads to backends: who is reached, from where, and who the backends see.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lb::forward::{self, Forward, Protocol};
use lb::{Backend, Frontend, Listen, Policy};

use crate::segment::{Namespace, Node, PORT, Segment, VIPS, eventually, frontend, name, serve, virtual_port};

/// A frontend that the kernel carries, over these stations' servers by IPv4 and IPv6.
pub(crate) fn forwarded(backends: &[u8]) -> Frontend {
    let known = frontend(backends);
    let ipv6 = backends.iter().map(|n| backend(SocketAddr::new(format!("fd00::{n}").parse().unwrap(), PORT)));
    Frontend {
        listen: Listen::Forwarded(Forward {
            protocol: Protocol::Tcp,
            ips: known.virtual_ips.clone(),
            port: PORT,
            keep_source: false,
        }),
        backends: known.backends.iter().cloned().chain(ipv6).collect(),
        ..known
    }
}

pub(crate) fn backend(address: SocketAddr) -> Backend {
    Backend { name: address.to_string(), address, cordoned: false }
}

/// Two servers, whose hosts pass packets on, and a client.
pub(crate) fn three() -> Option<Segment> {
    let segment = Segment::new(3)?;
    let [a, b, _] = &segment.stations[..] else { unreachable!("there are three") };
    serve(a, 'a');
    serve(b, 'b');
    a.pass_packets_on();
    b.pass_packets_on();
    Some(segment)
}

/// Waits until both backends are known to be ready, by both families, and the kernel leads to both.
pub(crate) fn settled(node: &Node, station: &Namespace) {
    let leads = || station.ruleset().matches(" mod 2 ").count() == 2;
    eventually("the rules name what is ready", || node.healthy() == 4 && leads());
}

/// Starts it on the first station, which has the virtual addresses then, and waits until the kernel leads there.
pub(crate) fn leading(segment: &Segment, frontend: Frontend) -> Node {
    let first = &segment.stations[0];
    let node = Node::start(first, frontend);
    settled(&node, first);
    segment.move_to(0);
    node
}

/// Connections enough to reach each of two.
fn ask_twice(station: &Namespace, to: SocketAddr) -> BTreeSet<char> {
    (0..2).map(|_| station.ask(to)).collect()
}

fn both() -> BTreeSet<char> {
    BTreeSet::from(['a', 'b'])
}

#[test]
fn the_owner_a_standby_and_a_client_reach_each_backend_in_turn_wherever_the_virtual_ip_is() {
    let Some(segment) = three() else { return };
    let [a, b, client] = &segment.stations[..] else { unreachable!("there are three") };
    let nodes = [Node::start(a, forwarded(&[1, 2])), Node::start(b, forwarded(&[1, 2]))];
    settled(&nodes[0], a);
    settled(&nodes[1], b);

    for owner in [0, 1, 0] {
        segment.move_to(owner);
        for vip in virtual_port() {
            for (who, station) in [("a", a), ("b", b), ("client", client)] {
                assert_eq!(ask_twice(station, vip), both(), "{who} to {vip}, owned by {owner}");
            }
        }
    }
    for own in [SocketAddr::from(([10, 0, 0, 1], PORT)), SocketAddr::new("fd00::1".parse().unwrap(), PORT)] {
        assert_eq!(ask_twice(client, own), BTreeSet::from(['a']), "{own}");
    }
}

/// One connection from here to each of two backends.
fn connect_twice(station: &Namespace, to: SocketAddr) -> [(char, TcpStream); 2] {
    [(); 2].map(|()| {
        let mut stream = station.connect(to).unwrap();
        (name(&mut stream), stream)
    })
}

#[test]
fn a_backend_beside_the_owner_sees_its_clients_and_the_others_see_the_owner() {
    let Some(segment) = three() else { return };
    let [a, b, client] = &segment.stations[..] else { unreachable!("there are three") };
    let _node = leading(&segment, forwarded(&[1, 2]));

    for (family, vip) in virtual_port().into_iter().enumerate() {
        let address = |n: u8| -> IpAddr {
            if family == 0 { [10, 0, 0, n].into() } else { format!("fd00::{n}").parse().unwrap() }
        };
        let probes = [a.clients(), b.clients()];
        let streams = connect_twice(client, vip);
        assert_eq!(streams.iter().map(|(name, _)| *name).collect::<BTreeSet<_>>(), both());
        let seen = [&a.clients() - &probes[0], &b.clients() - &probes[1]];
        assert_eq!(seen[0], BTreeSet::from([address(3)]), "{vip}");
        // The checks come from the owner, too.
        assert_eq!(seen[1], BTreeSet::new(), "{vip}");
        assert!(b.clients().contains(&address(1)), "{vip}");
    }
}

#[test]
fn with_routes_that_lead_back_every_backend_sees_its_clients() {
    let Some(segment) = three() else { return };
    let [a, b, client] = &segment.stations[..] else { unreachable!("there are three") };
    let mut frontend = forwarded(&[1, 2]);
    frontend.listen = Listen::Forwarded(Forward {
        protocol: Protocol::Tcp,
        ips: VIPS.map(|vip| vip.parse().unwrap()).to_vec(),
        port: PORT,
        keep_source: true,
    });
    let _node = leading(&segment, frontend);
    // What the network does where the balancer is the way to the clients.
    b.ip("route add 10.0.0.3/32 via 10.0.0.1 dev eth0");
    b.ip("route add fd00::3/128 via fd00::1 dev eth0");

    for (vip, own) in virtual_port().into_iter().zip(["10.0.0.3", "fd00::3"]) {
        let own = own.parse::<IpAddr>().unwrap();
        let streams = connect_twice(client, vip);
        assert_eq!(streams.iter().map(|(name, _)| *name).collect::<BTreeSet<_>>(), both());
        for station in [a, b] {
            assert!(station.clients().contains(&own), "{vip}: {:?}", station.clients());
        }
        // A backend that comes to itself, and the owner, would not find back.
        for station in [a, b] {
            assert_eq!(ask_twice(station, vip), both(), "{vip}");
        }
    }
}

#[test]
fn by_source_a_client_always_comes_to_the_same_backend_whichever_host_leads_it() {
    let Some(segment) = three() else { return };
    let [a, b, client] = &segment.stations[..] else { unreachable!("there are three") };
    let start = |station| {
        let frontend = Frontend { policy: Policy::SourceHash, ..forwarded(&[1, 2]) };
        let node = Node::start(station, frontend);
        let leads = || station.ruleset().matches(" mod 1021 ").count() == 2;
        eventually("the rules name what is ready", || node.healthy() == 4 && leads());
        node
    };
    let nodes = [start(a), start(b)];
    // Some addresses more, as many clients have.
    let own: Vec<String> = (20..40).map(|n| format!("10.0.0.{n}")).collect();
    own.iter().for_each(|ip| drop(client.ip(&format!("address add {ip}/24 dev eth0"))));
    let vip = virtual_port()[0];
    let ask =
        || own.iter().map(|ip| name(&mut client.connect_from(ip.parse().unwrap(), vip))).collect::<Vec<_>>();

    segment.move_to(0);
    let first = ask();
    assert_eq!(first.iter().copied().collect::<BTreeSet<_>>(), both());
    assert_eq!(ask(), first);
    segment.move_to(1);
    assert_eq!(ask(), first, "the other host leads");
    drop(nodes);
}

#[test]
fn a_backend_that_has_come_back_gets_little_at_first() {
    let Some(segment) = three() else { return };
    let [a, _, client] = &segment.stations[..] else { unreachable!("there are three") };
    let node =
        leading(&segment, Frontend { slow_start: Some(Duration::from_secs(3600)), ..forwarded(&[1, 2]) });
    let rules = || a.nft("list chain inet vipd-10.0.0.9-6443 balancer", "");

    let _ = node.balancer.backends().set_drained("10.0.0.2", true);
    eventually("the rules follow", || !rules().contains("10.0.0.2"));
    let _ = node.balancer.backends().set_drained("10.0.0.2", false);
    eventually("one slot of eleven is its own", || rules().contains("numgen inc mod 11 "));

    let asked: String = (0..11).map(|_| client.ask(virtual_port()[0])).collect();
    assert_eq!(asked.matches('b').count(), 1, "{asked}");
}

#[test]
fn without_a_virtual_ip_every_address_of_the_host_leads_to_backends() {
    let Some(segment) = three() else { return };
    let [a, _, client] = &segment.stations[..] else { unreachable!("there are three") };
    let mut frontend = forwarded(&[1, 2]);
    frontend.virtual_ips = Vec::new();
    frontend.listen = Listen::Forwarded(Forward {
        protocol: Protocol::Tcp,
        ips: Vec::new(),
        port: 8443,
        keep_source: false,
    });
    let node = Node::start(a, frontend);
    settled(&node, a);

    for to in ["10.0.0.1:8443", "[fd00::1]:8443"] {
        assert_eq!(ask_twice(client, to.parse().unwrap()), both(), "{to}");
        assert_eq!(ask_twice(a, to.parse().unwrap()), both(), "{to}");
    }
    for to in ["127.0.0.1:8443", "[::1]:8443"] {
        let error = a.connect(to.parse::<SocketAddr>().unwrap()).map(drop).expect_err("nobody listens there");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{to}");
    }
    assert!(a.ruleset().contains("table inet vipd-any-8443 {"), "{}", a.ruleset());
}

#[test]
fn backends_come_and_go_and_no_connection_fails() {
    let Some(segment) = three() else { return };
    let [a, _, client] = &segment.stations[..] else { unreachable!("there are three") };
    let node = leading(&segment, forwarded(&[1, 2]));
    let all = forwarded(&[1, 2]).backends;
    let stop = AtomicBool::new(false);

    let asked = std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut asked = 0;
            while !stop.load(Ordering::Relaxed) {
                assert!(both().contains(&client.ask(virtual_port()[asked % 2])));
                asked += 1;
            }
            asked
        });
        for round in 0..20 {
            let set = if round % 2 == 0 { forwarded(&[1]).backends } else { all.clone() };
            node.balancer.backends().set("api", set).unwrap();
            let wanted = if round % 2 == 0 { 1 } else { 2 };
            let followed = || {
                a.nft("list chain inet vipd-10.0.0.9-6443 balancer", "").contains(&format!("mod {wanted} "))
            };
            eventually("the rules follow", || node.healthy() == 2 * wanted && followed());
        }
        stop.store(true, Ordering::Relaxed);
        asking.join().unwrap()
    });
    assert!(asked > 20, "only {asked} connections");
}

#[test]
fn one_that_is_drained_by_command_gets_nothing_new_and_keeps_what_it_has() {
    let Some(segment) = three() else { return };
    let [a, _, client] = &segment.stations[..] else { unreachable!("there are three") };
    let node = leading(&segment, forwarded(&[1, 2]));
    let vip = virtual_port()[0];
    let mut streams = connect_twice(client, vip);

    assert_eq!(node.balancer.backends().set_drained("10.0.0.2", true).len(), 1);
    let rules = || a.nft("list chain inet vipd-10.0.0.9-6443 balancer", "");
    eventually("the rules follow", || !rules().contains("10.0.0.2"));

    for _ in 0..4 {
        assert_eq!(client.ask(vip), 'a');
    }
    for (name, stream) in &mut streams {
        crate::segment::echo(stream).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let _ = node.balancer.backends().set_drained("10.0.0.2", false);
    eventually("the rules follow", || rules().contains("10.0.0.2"));
    assert_eq!(ask_twice(client, vip), both());
}

#[test]
fn the_rules_can_be_saved_and_end_with_the_balancer() {
    let Some(segment) = three() else { return };
    let a = &segment.stations[0];
    let node = Node::start(a, forwarded(&[1, 2]));
    settled(&node, a);

    let ruleset = a.ruleset();
    for rule in [
        "ip daddr 10.0.0.9 tcp dport 6443 fib daddr type local tcp flags syn / syn,ack ct timeout set \"handshake\" dnat ip to numgen inc mod 2 map { 0 : 10.0.0.1 . 6443, 1 : 10.0.0.2 . 6443 }",
        "ip6 daddr fd00::9 tcp dport 6443 fib daddr type local tcp flags syn / syn,ack ct timeout set \"handshake\" dnat ip6 to numgen inc mod 2 map { 0 : fd00::1 . 6443, 1 : fd00::2 . 6443 }",
        "ct original ip daddr 10.0.0.9 oif != \"lo\" masquerade",
        "flags owner",
    ] {
        assert!(ruleset.contains(rule), "{rule} in\n{ruleset}");
    }
    Namespace::new().nft("-c -f -", &ruleset);
    let status = node.balancer.status();
    assert!(status.frontends[0].forwarded);
    assert_eq!(status.frontends[0].listen, virtual_port());

    drop(node);
    assert_eq!(a.ruleset(), "");
}

#[test]
fn a_host_that_passes_nothing_on_is_told_so() {
    let Some(segment) = Segment::new(1) else { return };
    let a = &segment.stations[0];
    let refused = |setting: &str| {
        let error = Node::try_start(a, forwarded(&[1])).map(drop).unwrap_err().to_string();
        assert!(error.contains(&format!("set {setting}=1 with sysctl")), "{error}");
        assert_eq!(a.ruleset(), "");
    };
    refused("net.ipv4.ip_forward");
    a.enter(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap());
    refused("net.ipv6.conf.all.forwarding");
    a.pass_packets_on();
    drop(Node::start(a, forwarded(&[1])));
    assert!(a.enter(forward::rehearse).unwrap(), "this kernel ties tables to processes");
    assert_eq!(a.ruleset(), "");
}
