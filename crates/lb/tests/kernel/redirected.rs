//! Who is reached, from where, at which address.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use crate::segment::{Node, PATIENCE, PORT, Segment, eventually, frontend, name, serve, virtual_port};

/// Enough for round robin to reach each of two backends, wherever it begins.
const ENOUGH: u64 = 4;

#[test]
fn from_outside_the_virtual_port_leads_to_the_balancer_and_a_hosts_own_to_its_server() {
    let Some(segment) = Segment::new(3) else { return };
    let [a, b, client] = &segment.stations[..] else { unreachable!("there are three") };
    serve(a, 'a');
    serve(b, 'b');
    let node = Node::start(a, frontend(&[1, 2]));
    segment.move_to(0);

    for vip in virtual_port() {
        let before = node.accepted();
        let names: BTreeSet<char> = (0..ENOUGH).map(|_| client.ask(vip)).collect();
        assert_eq!(names, BTreeSet::from(['a', 'b']), "{vip}");
        assert_eq!(node.accepted() - before, ENOUGH, "{vip}");
    }
    let before = node.accepted();
    for own in [SocketAddr::from(([10, 0, 0, 1], PORT)), SocketAddr::new("fd00::1".parse().unwrap(), PORT)] {
        let names: BTreeSet<char> = (0..ENOUGH).map(|_| client.ask(own)).collect();
        assert_eq!(names, BTreeSet::from(['a']), "{own}");
    }
    assert_eq!(node.accepted(), before, "a host's own address went through the balancer");
}

#[test]
fn the_owner_reaches_its_own_balancer_a_standby_the_owners_and_a_move_changes_both() {
    let Some(segment) = Segment::new(3) else { return };
    let [a, b, client] = &segment.stations[..] else { unreachable!("there are three") };
    serve(a, 'a');
    serve(b, 'b');
    let nodes = [Node::start(a, frontend(&[1, 2])), Node::start(b, frontend(&[1, 2]))];

    for owner in [0, 1, 0] {
        segment.move_to(owner);
        let accepted = |n: usize| nodes[n].accepted();
        for vip in virtual_port() {
            for (who, station) in [("a", a), ("b", b), ("client", client)] {
                let before = [accepted(0), accepted(1)];
                let names: BTreeSet<char> = (0..ENOUGH).map(|_| station.ask(vip)).collect();
                assert_eq!(names, BTreeSet::from(['a', 'b']), "{who} to {vip}");
                let through = [accepted(0) - before[0], accepted(1) - before[1]];
                let expected = if owner == 0 { [ENOUGH, 0] } else { [0, ENOUGH] };
                assert_eq!(through, expected, "{who} to {vip}, owned by {owner}");
            }
        }
    }
}

#[test]
fn without_the_virtual_ip_nothing_is_redirected() {
    let Some(segment) = Segment::new(2) else { return };
    let [a, client] = &segment.stations[..] else { unreachable!("there are two") };
    serve(a, 'a');
    let node = Node::start(a, frontend(&[1]));

    assert_eq!(client.ask(SocketAddr::from(([10, 0, 0, 1], PORT))), 'a');
    for vip in virtual_port() {
        let error = a.connect(vip).map(drop).expect_err("nobody has the address");
        assert_eq!(error.kind(), std::io::ErrorKind::HostUnreachable, "{vip}: {error}");
    }
    assert_eq!(node.accepted(), 0);
}

#[test]
fn flows_are_known_as_the_virtual_ips_and_reset_when_it_leaves() {
    let Some(segment) = Segment::new(2) else { return };
    let [a, client] = &segment.stations[..] else { unreachable!("there are two") };
    serve(a, 'a');
    let node = Node::start(a, frontend(&[1]));
    segment.move_to(0);
    let mut flows = [client, client, a, a]
        .into_iter()
        .zip(virtual_port().into_iter().cycle())
        .map(|(from, vip)| from.connect(vip).unwrap())
        .collect::<Vec<_>>();
    flows.iter_mut().for_each(|flow| assert_eq!(name(flow), 'a'));

    node.held.send_replace(BTreeSet::new());

    for flow in &mut flows {
        let error = flow.read(&mut [0; 1]).expect_err("the flow is cut");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}

/// In a namespace where nobody else translates addresses: the kernel does so only as long as somebody has rules for it.
#[test]
fn flows_go_on_while_the_balancer_drains_and_what_comes_then_reaches_the_hosts_own_server() {
    let Some(segment) = Segment::new(3) else { return };
    let [a, b, client] = &segment.stations[..] else { unreachable!("there are three") };
    serve(a, 'a');
    serve(b, 'b');
    let node = Node::start(a, frontend(&[2]));
    segment.move_to(0);
    let mut flow = client.connect(virtual_port()[0]).unwrap();
    assert_eq!(name(&mut flow), 'b');

    let drained = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(node.balancer.drain(PATIENCE))
    });
    eventually("no connection is redirected any more", || !a.ruleset().contains("jump"));
    assert_eq!(client.ask(virtual_port()[0]), 'a');
    assert_eq!(a.ask(virtual_port()[1]), 'a');
    for word in [b"one", b"two"] {
        flow.write_all(word).unwrap();
        let mut echo = [0; 3];
        flow.read_exact(&mut echo).unwrap();
        assert_eq!(&echo, word);
        // Long after the listeners have closed.
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(!drained.is_finished(), "it did not wait for the flow");
    drop(flow);

    assert_eq!(drained.join().unwrap().reset, 0);
    assert_eq!(a.ruleset(), "");
}
