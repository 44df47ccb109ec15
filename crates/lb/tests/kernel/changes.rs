//! Another configuration while the kernel leads connections to the balancer.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};

use lb::{Config, Error, Frontend, Listen, redirect};

use crate::forwarded::forwarded;
use crate::segment::{Node, PORT, Segment, VIPS, eventually, frontend, name, serve, virtual_port};

/// Another port that the kernel leads to the balancer.
const OTHER: u16 = 7443;

fn apply(node: &Node, frontends: Vec<Frontend>) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(node.balancer.configuration().apply(Config { frontends, workers: 2 }))
}

fn listening(listen: Listen) -> Frontend {
    Frontend { listen, ..frontend(&[2]) }
}

fn redirected(port: u16, own: u16) -> Listen {
    Listen::Redirected { ips: VIPS.map(|vip| vip.parse().unwrap()).to_vec(), port, own }
}

fn echoed(flow: &mut TcpStream) {
    flow.write_all(b"word").unwrap();
    let mut echo = [0; 4];
    flow.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"word");
}

#[test]
fn the_own_port_changes_without_a_gap_and_a_port_that_is_redirected_no_more_is_the_hosts_own_again() {
    let Some(segment) = Segment::new(3) else { return };
    let [a, b, client] = &segment.stations[..] else { unreachable!("there are three") };
    serve(a, 'a');
    serve(b, 'b');
    let node = Node::start(a, listening(redirected(PORT, 16443)));
    segment.move_to(0);
    let vip = virtual_port()[0];
    let mut flow = client.connect(vip).unwrap();
    assert_eq!(name(&mut flow), 'b');

    // Connections all the while, each of which must come to the balancer.
    let stop = AtomicBool::new(false);
    let connections = std::thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            let mut connections = 0;
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(client.ask(vip), 'b');
                connections += 1;
            }
            connections
        });
        for own in [16444, 16445, 16443, 16444] {
            let accepted = node.accepted();
            apply(&node, vec![listening(redirected(PORT, own))]).unwrap();
            eventually("connections go on", || node.accepted() > accepted + 4);
            echoed(&mut flow);
        }
        stop.store(true, Ordering::Relaxed);
        traffic.join().unwrap()
    });
    assert_eq!(node.accepted(), connections + 1);
    assert!(a.ruleset().contains("dnat ip to 10.0.0.9:16444"), "{}", a.ruleset());
    assert!(!a.ruleset().contains(":16443"), "{}", a.ruleset());

    // Another port of the virtual addresses, without a redirect: the flow is still led where it was.
    let plain = Listen::Addresses { ips: VIPS.map(|vip| vip.parse().unwrap()).to_vec(), port: OTHER };
    apply(&node, vec![listening(plain.clone())]).unwrap();
    assert_eq!(client.ask(vip), 'a');
    assert_eq!(client.ask(SocketAddr::new(vip.ip(), OTHER)), 'b');
    echoed(&mut flow);
    apply(&node, vec![listening(redirected(PORT, 16443))]).unwrap();
    assert_eq!(client.ask(vip), 'b');
    echoed(&mut flow);

    // It goes with its last flow.
    apply(&node, vec![listening(plain), Frontend { name: "other".into(), ..listening(Listen::Nowhere) }])
        .unwrap();
    assert!(a.ruleset().contains("vipd-10.0.0.9-6443"), "{}", a.ruleset());
    echoed(&mut flow);
    drop(flow);
    eventually("no flow is left", || node.balancer.status().frontends[0].connections == 0);
    apply(&node, vec![Frontend { name: "other".into(), ..listening(Listen::Nowhere) }]).unwrap();
    eventually("the table is gone", || a.ruleset().is_empty());
}

#[test]
fn a_redirect_that_is_refused_leaves_the_others_as_they_were() {
    let Some(segment) = Segment::new(3) else { return };
    let [a, b, client] = &segment.stations[..] else { unreachable!("there are three") };
    serve(a, 'a');
    serve(b, 'b');
    let taken = Node::start(a, listening(redirected(OTHER, 17443)));
    let node = Node::start(a, listening(redirected(PORT, 16443)));
    segment.move_to(0);

    let other = Frontend { name: "other".into(), ..listening(redirected(OTHER, 27443)) };
    let refused = apply(&node, vec![listening(redirected(PORT, 16444)), other]).unwrap_err();

    let Error::Redirect { frontend, source: redirect::Error::Taken { .. }, .. } = &refused else {
        panic!("{refused}")
    };
    assert_eq!(frontend, "other");
    assert!(a.ruleset().contains("dnat ip to 10.0.0.9:16443"), "{}", a.ruleset());
    assert!(!a.ruleset().contains(":16444"), "{}", a.ruleset());
    assert_eq!(client.ask(virtual_port()[0]), 'b');
    assert_eq!(client.ask(SocketAddr::new(virtual_port()[0].ip(), OTHER)), 'b');
    assert_eq!((node.accepted(), taken.accepted()), (1, 1));
    // What was refused has left nothing behind that is in the way.
    drop(taken);
    let other = Frontend { name: "other".into(), ..listening(redirected(OTHER, 27443)) };
    apply(&node, vec![listening(redirected(PORT, 16444)), other]).unwrap();
    assert_eq!(client.ask(SocketAddr::new(virtual_port()[1].ip(), OTHER)), 'b');
    drop(node);
    assert_eq!(a.ruleset(), "");
}

#[test]
fn where_the_kernel_leads_connections_its_backends_change_and_its_ports_need_a_restart() {
    let Some(segment) = Segment::new(3) else { return };
    let [a, b, client] = &segment.stations[..] else { unreachable!("there are three") };
    serve(a, 'a');
    serve(b, 'b');
    a.pass_packets_on();
    let node = Node::start(a, forwarded(&[1]));
    eventually("the backends are known", || node.healthy() == 2);
    segment.move_to(0);
    let vip = virtual_port()[0];
    let mut flow = client.connect(vip).unwrap();
    assert_eq!(name(&mut flow), 'a');

    apply(&node, vec![forwarded(&[2])]).unwrap();
    eventually("connections are led to the other", || client.ask(vip) == 'b');
    echoed(&mut flow);

    let mut elsewhere = forwarded(&[1]);
    let Listen::Forwarded(forward) = &mut elsewhere.listen else { unreachable!("it is") };
    forward.port = OTHER;
    for other in [vec![elsewhere], vec![listening(redirected(PORT, 16443))], Vec::new()] {
        let refused = apply(&node, other).unwrap_err();
        assert!(matches!(&refused, Error::OtherForward { frontend } if frontend == "api"), "{refused}");
    }
    // One more that has nothing to do with it.
    let plain = Listen::Addresses { ips: VIPS.map(|vip| vip.parse().unwrap()).to_vec(), port: OTHER };
    let other = Frontend { name: "other".into(), ..frontend(&[1]) };
    apply(&node, vec![forwarded(&[2]), Frontend { listen: plain, ..other }]).unwrap();
    assert_eq!(client.ask(SocketAddr::new(vip.ip(), OTHER)), 'a');
    assert_eq!(client.ask(vip), 'b');
}
