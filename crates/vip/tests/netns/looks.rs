//! Looks at a real segment: a tie-break that answers, an owner, and a rival.

use crate::frames::{gratuitous, send};
use crate::owner::{EASY, Owner};
use crate::segment::{Namespace, Segment, eventually, mac};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;
use vip::arp;
use vip::linux::default_gateway;
use vip::lookout::Look;
use vip::probe::Watch;

/// Answers come in less than a millisecond; the machine may be busy.
const LASTING: Duration = Duration::from_millis(300);

fn vips() -> [IpAddr; 2] {
    ["10.0.0.162", "fd00::162"].map(|ip| ip.parse().unwrap())
}

fn look(station: &Namespace, tie_break: &str) -> Look {
    let tie_break = tie_break.parse().unwrap();
    station.run(async move {
        let mut watch = Watch::open("eth0", &vips(), tie_break, || Duration::ZERO).await.unwrap();
        watch.look(LASTING).await.unwrap()
    })
}

#[test]
fn a_look_shows_the_tie_break_and_the_owner() {
    let Some(segment) = Segment::new(3) else { return };
    let [node, asking, _] = &segment.stations[..] else { unreachable!() };
    for tie_break in ["10.0.0.3", "fd00::3"] {
        let seen = look(asking, tie_break);
        assert!(seen.answered && seen.whole, "{tie_break}: {seen:?}");
        assert_eq!((seen.owner, seen.contested), (None, false), "{tie_break}");
    }
    assert!(!look(asking, "10.0.0.77").answered, "nobody has that address");

    let owner = Owner::active(node, EASY);
    for tie_break in ["10.0.0.3", "fd00::3"] {
        let seen = look(asking, tie_break);
        assert_eq!((seen.answered, seen.owner), (true, Some(mac(1))), "{tie_break}");
    }
    assert_eq!(look(node, "10.0.0.3").owner, None, "it has it itself");
    owner.stop();
}

#[test]
fn a_segment_of_one_family_is_looked_at_by_that_alone() {
    let Some(segment) = Segment::new(2) else { return };
    let [asking, _] = &segment.stations[..] else { unreachable!() };
    for (vip, tie_break) in [("10.0.0.162", "10.0.0.2"), ("fd00::162", "fd00::2")] {
        let (vip, tie_break): (IpAddr, IpAddr) = (vip.parse().unwrap(), tie_break.parse().unwrap());
        let seen = asking.run(async move {
            let mut watch = Watch::open("eth0", &[vip], tie_break, || Duration::ZERO).await.unwrap();
            watch.look(LASTING).await.unwrap()
        });
        assert!(seen.answered, "{tie_break}: {seen:?}");
    }
}

#[test]
fn a_look_during_which_the_interface_goes_down_is_no_failure_and_the_watch_stays_good() {
    let Some(segment) = Segment::new(2) else { return };
    let [asking, _] = &segment.stations[..] else { unreachable!() };
    let tie_break: IpAddr = "10.0.0.2".parse().unwrap();
    let answered = asking.run(async {
        let mut watch = Watch::open("eth0", &vips(), tie_break, || Duration::ZERO).await.unwrap();
        let down = async {
            tokio::time::sleep(LASTING / 3).await;
            asking.ip("link set eth0 down");
        };
        let (cut, ()) = tokio::join!(watch.look(LASTING), down);
        cut.unwrap();
        asking.ip("link set eth0 up");
        let forwards = || segment.switch.ip("-d -o link show dev p1").contains("state forwarding");
        eventually("the port forwards", forwards);
        [watch.look(LASTING).await.unwrap(), watch.look(LASTING).await.unwrap()]
            .iter()
            .any(|look| look.answered)
    });
    assert!(answered);
}

#[test]
fn a_look_past_a_link_that_is_down_shows_nothing_and_the_next_one_works_again() {
    let Some(segment) = Segment::new(2) else { return };
    let [asking, _] = &segment.stations[..] else { unreachable!() };
    let tie_break: IpAddr = "10.0.0.2".parse().unwrap();
    segment.switch.ip("link set p2 down");
    let seen = asking.run(async {
        let mut watch = Watch::open("eth0", &vips(), tie_break, || Duration::ZERO).await.unwrap();
        let cut = watch.look(LASTING).await.unwrap();
        segment.switch.ip("link set p2 up");
        let forwards = || segment.switch.ip("-d -o link show dev p2").contains("state forwarding");
        eventually("the port forwards", forwards);
        // The first after the silence asks for the tie-break alone.
        let (first, second) = (watch.look(LASTING).await.unwrap(), watch.look(LASTING).await.unwrap());
        [cut, first, second]
    });
    let shown = seen.map(|look| (look.answered, look.whole));
    assert_eq!(shown, [(false, true), (true, false), (true, true)]);
}

#[test]
fn a_look_that_is_flooded_shows_nothing_although_it_was_answered_before() {
    let Some(segment) = Segment::new(3) else { return };
    let [flooding, asking, asked] = &segment.stations[..] else { unreachable!() };
    let tie_break: Ipv4Addr = "10.0.0.3".parse().unwrap();
    let looks = |lasting: Duration| {
        asking.run(async move {
            let mut watch = Watch::open("eth0", &vips(), tie_break.into(), || Duration::ZERO).await.unwrap();
            watch.look(lasting).await.unwrap()
        })
    };
    assert!(looks(LASTING).answered, "without a flood");

    let capture = asked.capture();
    let seen = std::thread::scope(|scope| {
        scope.spawn(move || {
            capture.next(|frame| (arp::Repr::parse(frame)?.target_ip == tie_break).then_some(()));
            send(flooding, vec![gratuitous(1, "10.0.0.162"); 1000]);
        });
        // A thousand frames take milliseconds.
        looks(LASTING * 5)
    });
    assert!(!seen.answered, "{seen:?}");
    assert_eq!(seen.owner, Some(mac(1)), "the flood was heard");
}

#[test]
fn of_two_that_look_at_the_same_time_the_smaller_hardware_address_is_a_rival_to_the_other() {
    let Some(segment) = Segment::new(3) else { return };
    let [first, second, _] = &segment.stations[..] else { unreachable!() };
    let looks = |station: &Namespace| {
        let tie_break: IpAddr = "10.0.0.3".parse().unwrap();
        station.run(async move {
            let mut watch = Watch::open("eth0", &vips(), tie_break, || Duration::ZERO).await.unwrap();
            let mut contested = false;
            for _ in 0..20 {
                contested |= watch.look(LASTING / 10).await.unwrap().contested;
            }
            contested
        })
    };
    let (of_first, of_second) = std::thread::scope(|scope| {
        let other = scope.spawn(|| looks(first));
        let own = looks(second);
        (other.join().unwrap(), own)
    });
    assert!(!of_first && of_second);
}

#[test]
fn the_router_of_an_interface_is_that_of_its_best_default_route() {
    let Some(segment) = Segment::new(1) else { return };
    let [node] = &segment.stations[..] else { unreachable!() };
    let router = |ipv4| node.run(default_gateway("eth0", ipv4)).unwrap().map(|ip| ip.to_string());
    assert_eq!(router(true), None);
    node.ip("route add default via 10.0.0.77 metric 200");
    node.ip("route add default via 10.0.0.78 metric 100");
    node.ip("-6 route add default via fd00::78");
    assert_eq!(router(true).as_deref(), Some("10.0.0.78"));
    assert_eq!(router(false).as_deref(), Some("fd00::78"));
    node.ip("link add other0 type veth peer name other1");
    assert_eq!(node.run(default_gateway("other0", true)).unwrap(), None, "they lead elsewhere");
    // Of several next hops the one that leaves by the interface.
    node.ip("link set other0 up");
    node.ip("link set other1 up");
    node.ip("address add 10.1.0.1/24 dev other0");
    node.ip("route add default metric 50 nexthop via 10.1.0.79 dev other0 nexthop via 10.0.0.79 dev eth0");
    assert_eq!(router(true).as_deref(), Some("10.0.0.79"));
}
