//! Connections that the kernel carries, and their end: with their backend, with the virtual IP, and not with the balancer.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use lb::{Check, CheckKind, Ended, Frontend, Health, Timeouts};

use crate::forwarded::{forwarded, leading, settled, three};
use crate::segment::{
    Namespace, Node, Segment, echo, eventually, name, serve, serve_until_told, virtual_port,
};

/// Backends that are found dead soon.
fn soon_dead(backends: &[u8]) -> Frontend {
    let check = Check {
        kind: CheckKind::Tcp,
        interval: Duration::from_millis(100),
        timeout: Duration::from_secs(1),
        rise: 1,
        fall: 1,
    };
    Frontend { check, ..forwarded(backends) }
}

/// A connection to each of `a` and `b`, in this order.
fn to_both(client: &Namespace, vip: SocketAddr) -> [TcpStream; 2] {
    let mut streams = BTreeMap::new();
    // Two are enough, but where the rules are written anew in between, as when a check fails for once: they begin with the first again.
    for _ in 0..4 {
        let mut stream = client.connect(vip).unwrap();
        streams.entry(name(&mut stream)).or_insert(stream);
        if streams.len() == 2 {
            break;
        }
    }
    ['a', 'b'].map(|name| streams.remove(&name).expect("both are reached"))
}

/// What is said of forgotten flows, until all of these are among it.
fn heard(node: &mut Node, wanted: &BTreeSet<SocketAddr>) {
    let mut ended = node.balancer.take_ended().unwrap();
    let mut clients = BTreeSet::new();
    eventually("the end of the flows is told", || {
        while let Ok(some) = ended.try_recv() {
            clients.extend(some.into_iter().map(|Ended { client, .. }| client));
        }
        wanted.is_subset(&clients)
    });
    assert_eq!(&clients, wanted);
}

#[test]
fn who_sends_to_a_backend_whose_host_is_gone_is_reset_and_the_others_go_on() {
    let Some(segment) = Segment::new(3) else { return };
    let [a, b, client] = &segment.stations[..] else { unreachable!("there are three") };
    serve(a, 'a');
    serve(b, 'b');
    a.pass_packets_on();
    let mut node = leading(&segment, soon_dead(&[1, 2]));
    let mut flows = virtual_port().map(|vip| to_both(client, vip));
    eventually("the flows are counted", || node.balancer.status().frontends[0].connections == 4);

    b.ip("link set eth0 down");
    let dead = |node: &Node| {
        let status = node.balancer.status();
        status.frontends[0].backends.iter().filter(|backend| backend.health == Health::Dead).count()
    };
    eventually("the backend is dead", || dead(&node) == 2);
    heard(&mut node, &flows.each_ref().map(|[_, b]| b.local_addr().unwrap()).into());

    for [alive, gone] in &mut flows {
        // The owner knows of no such connection.
        let error = echo(gone).expect_err("its backend is gone");
        assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
        echo(alive).unwrap();
    }
    for vip in virtual_port() {
        for _ in 0..4 {
            assert_eq!(client.ask(vip), 'a');
        }
    }
    eventually("what is left is counted", || node.balancer.status().frontends[0].connections == 2);
}

#[test]
fn a_backend_that_has_closed_its_port_answers_what_it_has_begun_for_a_while() {
    let Some(segment) = Segment::new(3) else { return };
    let [a, b, client] = &segment.stations[..] else { unreachable!("there are three") };
    serve(a, 'a');
    let end = serve_until_told(b, 'b');
    a.pass_packets_on();
    let closing = Duration::from_secs(5);
    let mut frontend = soon_dead(&[1, 2]);
    frontend.timeouts = Timeouts { closing, ..frontend.timeouts };
    let mut node = leading(&segment, frontend);
    let mut flows = virtual_port().map(|vip| to_both(client, vip));
    flows.iter_mut().flatten().for_each(|flow| echo(flow).unwrap());

    end();
    let dead = |node: &Node| {
        let status = node.balancer.status();
        status.frontends[0].backends.iter().filter(|backend| backend.health == Health::Dead).count()
    };
    eventually("the backend is dead", || dead(&node) == 2);

    for vip in virtual_port() {
        let served_by_other = || client.connect(vip).is_ok_and(|mut stream| name(&mut stream) == 'a');
        eventually("new ones go to the other", served_by_other);
    }
    // For far longer than it took to lead the new ones away.
    for _ in 0..20 {
        flows.iter_mut().flatten().for_each(|flow| echo(flow).unwrap());
        std::thread::sleep(Duration::from_millis(50));
    }
    heard(&mut node, &flows.each_ref().map(|[_, b]| b.local_addr().unwrap()).into());
    for [alive, gone] in &mut flows {
        let error = echo(gone).expect_err("its time is over");
        assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
        echo(alive).unwrap();
    }
}

#[test]
fn who_sends_to_a_virtual_ip_that_has_left_is_reset_by_whoever_has_it() {
    let Some(segment) = three() else { return };
    let [a, b, client] = &segment.stations[..] else { unreachable!("there are three") };
    let nodes = [Node::start(a, forwarded(&[1, 2])), Node::start(b, forwarded(&[1, 2]))];
    settled(&nodes[0], a);
    settled(&nodes[1], b);
    segment.move_to(0);
    let mut flows = virtual_port().map(|vip| to_both(client, vip));

    nodes[0].held.send_replace(BTreeSet::new());
    let remembered = || a.enter(|| std::fs::read_to_string("/proc/thread-self/net/nf_conntrack").unwrap());
    let of_the_vips = || {
        remembered()
            .lines()
            .filter(|flow| {
                flow.contains("ESTABLISHED") && (flow.contains("dst=10.0.0.9 ") || flow.contains(":0009 "))
            })
            .count()
    };
    eventually("the flows are forgotten", || of_the_vips() == 0);
    segment.move_to(1);

    for flow in flows.iter_mut().flatten() {
        let error = echo(flow).expect_err("the owner knows of no such connection");
        assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
    }
}

/// In a namespace where nobody else translates addresses: the kernel does so only as long as somebody has rules for it.
#[test]
fn the_kernel_goes_on_when_the_balancer_ends_and_another_takes_over() {
    let Some(segment) = three() else { return };
    let [a, _, client] = &segment.stations[..] else { unreachable!("there are three") };
    let node = leading(&segment, forwarded(&[1, 2]));
    let mut flows = virtual_port().map(|vip| to_both(client, vip));

    drop(node);
    assert!(!a.ruleset().contains("map {"), "{}", a.ruleset());
    // What comes now finds the host's own server.
    assert_eq!(client.ask(virtual_port()[0]), 'a');
    assert_eq!(client.ask(virtual_port()[0]), 'a');
    flows.iter_mut().flatten().for_each(|flow| echo(flow).unwrap());

    let node = Node::start(a, forwarded(&[1, 2]));
    settled(&node, a);
    flows.iter_mut().flatten().for_each(|flow| echo(flow).unwrap());
    for flow in flows.iter_mut().flatten() {
        flow.flush().unwrap();
    }
    let backends = || {
        node.balancer.status().frontends[0]
            .backends
            .iter()
            .map(|backend| backend.connections)
            .collect::<Vec<_>>()
    };
    eventually("its predecessor's flows are counted", || backends() == [1, 1, 1, 1]);
}

/// A flood of them would take the host's ports towards its backends for as long as they are remembered.
#[test]
fn a_handshake_that_nobody_goes_on_with_is_forgotten_in_seconds_and_a_connection_is_not() {
    let Some(segment) = three() else { return };
    let [a, _, client] = &segment.stations[..] else { unreachable!("there are three") };
    let _node = leading(&segment, forwarded(&[1, 2]));
    let mut flows = virtual_port().map(|vip| to_both(client, vip));

    client.nft(
        "-f -",
        "table inet deaf { chain input { type filter hook input priority 0; \
         tcp flags & (syn | ack) == syn | ack drop; }; }",
    );
    for vip in virtual_port().into_iter().cycle().take(4) {
        client.enter(|| {
            let socket =
                socket2::Socket::new(socket2::Domain::for_address(vip), socket2::Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            // Closed at once, it asks no second time.
            socket.connect(&vip.into()).expect_err("nobody hears the answer");
        });
    }
    // ipv4 2 tcp 6 SECONDS STATE src=…
    let half_open = || {
        let table = a.enter(|| std::fs::read_to_string("/proc/thread-self/net/nf_conntrack").unwrap());
        let of_vips = table.lines().filter(|flow| flow.contains("dst=10.0.0.9 ") || flow.contains(":0009 "));
        let words = of_vips.map(|flow| flow.split_whitespace().collect::<Vec<_>>());
        let waiting = words.filter(|words| words[5] == "SYN_RECV").map(|words| words[4].parse().unwrap());
        waiting.collect::<Vec<u64>>()
    };
    eventually("the backends have answered", || half_open().len() == 4);
    assert!(half_open().iter().all(|seconds| *seconds <= 3), "{:?}", half_open());
    // A minute is what the kernel gives others.
    eventually("they are forgotten", || half_open().is_empty());

    flows.iter_mut().flatten().for_each(|flow| echo(flow).unwrap());
}
