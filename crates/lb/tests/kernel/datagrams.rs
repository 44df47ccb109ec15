//! Datagrams that the kernel leads to backends.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use lb::forward::{Forward, Protocol};
use lb::{Check, CheckKind, Frontend, Listen, Timeouts};

use crate::forwarded::forwarded;
use crate::segment::{
    Namespace, Node, PATIENCE, PORT, Segment, eventually, serve, serve_until_told, virtual_port,
};

/// A host's own server: it answers each datagram with its name and where that came from.
fn answer(station: &Namespace, name: char) {
    let socket = station.enter(|| UdpSocket::bind(("::", PORT)).unwrap());
    // Ends with the process, as the namespace does.
    std::thread::spawn(move || {
        let mut datagram = [0; 64];
        while let Ok((_, from)) = socket.recv_from(&mut datagram) {
            let ip = from.ip().to_canonical();
            let _ = socket.send_to(format!("{name} {ip}").as_bytes(), from);
        }
    });
}

/// One end, which knows nobody but this other.
fn end(station: &Namespace, to: SocketAddr) -> UdpSocket {
    station.enter(|| {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).unwrap();
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    })
}

/// Who answers this end, and whom it sees.
fn ask(end: &UdpSocket) -> (char, String) {
    end.send(b"who?").unwrap();
    let mut datagram = [0; 64];
    let length = end.recv(&mut datagram).unwrap();
    let text = std::str::from_utf8(&datagram[..length]).unwrap();
    let (name, seen) = text.split_once(' ').unwrap();
    (name.parse().unwrap(), seen.to_owned())
}

/// A frontend of datagrams over these stations' servers, whose dead are found soon.
fn datagrams(backends: &[u8]) -> Frontend {
    let known = forwarded(backends);
    Frontend {
        listen: Listen::Forwarded(Forward {
            protocol: Protocol::Udp,
            ips: known.virtual_ips.clone(),
            port: PORT,
            keep_source: false,
        }),
        check: Check {
            kind: CheckKind::Tcp,
            interval: Duration::from_millis(100),
            timeout: Duration::from_secs(1),
            rise: 1,
            fall: 1,
        },
        ..known
    }
}

#[test]
fn the_same_two_ends_have_the_same_backend_until_it_is_dead() {
    let Some(segment) = Segment::new(3) else { return };
    let [a, b, client] = &segment.stations[..] else { unreachable!("there are three") };
    for (station, name) in [(a, 'a'), (b, 'b')] {
        answer(station, name);
        // What is checked.
        serve(station, name);
    }
    a.pass_packets_on();
    let node = Node::start(a, datagrams(&[1, 2]));
    crate::forwarded::settled(&node, a);
    assert!(a.ruleset().contains("table inet vipd-10.0.0.9-6443-udp {"), "{}", a.ruleset());
    segment.move_to(0);

    for vip in virtual_port() {
        let ends = [end(client, vip), end(client, vip)];
        let first = ends.each_ref().map(ask);
        assert_eq!(
            first.each_ref().map(|(name, _)| *name).into_iter().collect::<BTreeSet<_>>(),
            BTreeSet::from(['a', 'b'])
        );
        for (name, seen) in &first {
            let station = if *name == 'a' { 3 } else { 1 };
            let seen_as =
                if vip.is_ipv4() { format!("10.0.0.{station}") } else { format!("fd00::{station}") };
            assert_eq!(*seen, seen_as, "by {name}");
        }
        for _ in 0..3 {
            assert_eq!(ends.each_ref().map(ask), first);
        }
    }
    let ends: Vec<_> =
        virtual_port().into_iter().flat_map(|vip| [end(client, vip), end(client, vip)]).collect();
    ends.iter().for_each(|end| drop(ask(end)));
    eventually("the flows are counted", || node.balancer.status().frontends[0].connections >= ends.len());

    b.ip("link set eth0 down");
    let dead = || !a.ruleset().contains("10.0.0.2 . ") && !a.ruleset().contains("fd00::2 . ");
    eventually("the rules name only what lives", dead);

    for end in &ends {
        // The kernel is told a moment after the rules are.
        eventually("it goes on with another", || {
            end.send(b"who?").unwrap();
            end.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            end.recv(&mut [0; 64]).is_ok()
        });
    }
}

#[test]
fn nobody_waits_for_a_backend_that_has_closed_the_port_that_is_checked() {
    let Some(segment) = Segment::new(3) else { return };
    let [a, b, client] = &segment.stations[..] else { unreachable!("there are three") };
    answer(a, 'a');
    answer(b, 'b');
    serve(a, 'a');
    let close = serve_until_told(b, 'b');
    a.pass_packets_on();
    let mut frontend = datagrams(&[1, 2]);
    // What connections would have.
    frontend.timeouts = Timeouts { closing: Duration::from_secs(3600), ..frontend.timeouts };
    let _node = crate::forwarded::leading(&segment, frontend);
    let ends: Vec<_> =
        virtual_port().into_iter().flat_map(|vip| [end(client, vip), end(client, vip)]).collect();
    let names: BTreeSet<_> = ends.iter().map(|end| ask(end).0).collect();
    assert_eq!(names, BTreeSet::from(['a', 'b']));

    close();

    for end in &ends {
        eventually("it goes on with the other", || ask(end).0 == 'a');
    }
}
