//! What happens to the interface under a driver.

use crate::owner::{EASY, Lease, Owner, VIPS, ms};
use crate::segment::{Namespace, Segment, eventually};
use std::time::{Duration, Instant};
use vip::{Error, State};

#[test]
fn a_lost_carrier_withdraws_and_its_return_claims_and_announces_anew() {
    let Some(segment) = Segment::new(2) else { return };
    let [node, peer] = &segment.stations[..] else { unreachable!() };
    let owner = Owner::active(node, EASY);

    segment.switch.ip("link set p1 down");
    owner.becomes(State::Standby);
    assert!(!*owner.handle.link_up().borrow());
    assert!(!node.has("10.0.0.162") && !node.has("fd00::162"));
    let capture = peer.capture();
    segment.switch.ip("link set p1 up");
    owner.becomes(State::Active);

    assert!(*owner.handle.link_up().borrow());
    assert!(node.has("10.0.0.162") && node.has("fd00::162"));
    capture.next(|frame| crate::frames::claimed_v4(frame, "10.0.0.162"));
    owner.stop();
}

/// As the other port takes over, `eth0` keeps its carrier and notices nothing; switches beyond have to learn the new way.
#[test]
fn a_bridge_that_loses_one_of_two_uplinks_keeps_the_addresses_and_announces_anew() {
    let Some(segment) = Segment::new(2) else { return };
    let [node, peer] = &segment.stations[..] else { unreachable!() };
    // The station's own cable becomes the first port of a bridge that has its name and address.
    node.ip("link set eth0 down");
    node.ip("link set eth0 name up0");
    let mac = crate::segment::mac(1).map(|octet| format!("{octet:02x}")).join(":");
    node.ip(&format!("link add eth0 address {mac} type bridge forward_delay 0 mcast_snooping 0"));
    segment.switch.ip(&format!("link add p9 type veth peer name up1 netns {}", node.path()));
    node.ip("link set up0 master eth0 up");
    node.ip("link set up1 master eth0 up");
    node.ip("address add 10.0.0.1/24 dev eth0");
    node.ip("link set eth0 up");
    let capture = peer.capture();
    let owner = Owner::active(node, EASY);
    let claims = owner.handle.status().claims;
    // The burst of the claim slows down: after the round at 2.2 s comes the one at 5 s.
    let claim = || capture.next(|frame| crate::frames::claimed_v4(frame, "10.0.0.162")).0;
    let (mut before, mut last) = (claim(), claim());
    while last.duration_since(before) < Duration::from_secs(1) {
        (before, last) = (last, claim());
    }

    // Both at once would be a loop. The second comes before the first goes, so that the bridge always has a carrier.
    segment.switch.ip("link set p9 up");
    segment.switch.ip_batch("link set p1 nomaster\nlink set p9 master br0\nlink set p1 down\n");
    let forwards = || segment.switch.ip("-d -o link show dev p9").contains("state forwarding");
    eventually("the second port forwards", forwards);

    // Two rounds within a second are a burst; the one before would have gone on with rounds at 5, 35 and 65 s, of two frames.
    let bursts = (0..7).any(|_| {
        before = std::mem::replace(&mut last, claim());
        (ms(20)..Duration::from_secs(1)).contains(&last.duration_since(before))
    });
    assert!(bursts, "only the rounds that were due were sent");
    assert_eq!((owner.state(), owner.handle.status().claims), (State::Active, claims));
    owner.stop();
}

#[test]
fn an_interface_upon_another_follows_that_ones_carrier() {
    let Some(segment) = Segment::new(2) else { return };
    let [node, peer] = &segment.stations[..] else { unreachable!() };
    node.ip("link set eth0 name lower");
    node.ip("link add link lower name eth0 type macvlan mode bridge");
    node.ip("link set eth0 up");
    let owner = Owner::active(node, EASY);

    segment.switch.ip("link set p1 down");
    owner.becomes(State::Standby);
    let capture = peer.capture();
    segment.switch.ip("link set p1 up");
    owner.becomes(State::Active);

    capture.next(|frame| crate::frames::claimed_v4(frame, "10.0.0.162"));
    owner.stop();
}

#[test]
fn an_interface_taken_down_and_up_again_has_the_addresses_back() {
    let Some(segment) = Segment::new(1) else { return };
    let node = &segment.stations[0];
    let owner = Owner::active(node, EASY);

    node.ip("link set eth0 down");
    owner.becomes(State::Standby);
    assert!(!node.has("10.0.0.162"), "IPv4 addresses survive in the kernel, this one must not");
    node.ip("link set eth0 up");
    owner.becomes(State::Active);
    assert!(node.has("10.0.0.162") && node.has("fd00::162"));

    let claims = owner.handle.status().claims;
    for _ in 0..20 {
        // Too fast to be seen as two states by anybody who looks at the state alone.
        node.ip_batch("link set eth0 down\nlink set eth0 up\n");
        eventually("the addresses are back", || node.has("10.0.0.162") && node.has("fd00::162"));
        owner.becomes(State::Active);
    }
    assert_eq!(owner.handle.status().claims, claims + 20, "each flap was seen");
    owner.stop();
}

#[test]
fn a_lost_carrier_is_seen_although_the_kernel_could_not_deliver_the_news() {
    let Some(segment) = Segment::new(1) else { return };
    let node = &segment.stations[0];
    let owner = Owner::start(node, VIPS).unwrap();
    owner.grant(Lease::Until(Instant::now() + Duration::from_mins(10)));
    owner.becomes(State::Active);

    // Nobody reads while far more is told than the socket's buffer holds, and the one thing that matters last.
    owner.freeze();
    let add: String =
        (0..2000).map(|n| format!("address add 10.99.{}.{}/32 dev eth0\n", n / 250, n % 250)).collect();
    node.ip_batch(&add);
    segment.switch.ip("link set p1 down");
    owner.thaw();

    owner.becomes(State::Standby);
    assert!(!*owner.handle.link_up().borrow());
    segment.switch.ip("link set p1 up");
    owner.becomes(State::Active);
    owner.stop();
}

#[test]
fn what_else_is_told_of_a_link_that_stays_up_moves_nothing() {
    let Some(segment) = Segment::new(1) else { return };
    let node = &segment.stations[0];
    let owner = Owner::active(node, EASY);

    for change in ["txqueuelen 500", "alias uplink", "mtu 1400", "promisc on"] {
        node.ip(&format!("link set eth0 {change}"));
    }
    // What is told later is looked at later.
    node.ip(&format!("address del {} dev eth0", VIPS[0]));
    eventually("it is back", || owner.handle.status().repairs > 0 && node.has("10.0.0.162"));

    let status = owner.handle.status();
    assert_eq!((status.claims, status.releases), (1, 0));
    owner.stop();
}

#[test]
fn a_renamed_interface_is_left_clean_and_found_again() {
    let Some(segment) = Segment::new(1) else { return };
    let node = &segment.stations[0];
    let owner = Owner::active(node, EASY);

    node.ip("link set eth0 name eth9");
    owner.becomes(State::Standby);
    assert!(!*owner.handle.link_up().borrow());
    let text = node.ip("-o address show dev eth9");
    assert!(!text.contains("10.0.0.162") && !text.contains("fd00::162"), "{text}");
    node.ip("link set eth9 name eth0");
    owner.becomes(State::Active);

    assert!(node.has("10.0.0.162") && node.has("fd00::162"));
    owner.stop();
}

#[test]
fn an_interface_made_anew_is_taken_with_its_new_index() {
    let Some(segment) = Segment::new(2) else { return };
    let [node, peer] = &segment.stations[..] else { unreachable!() };
    let owner = Owner::active(node, EASY);

    node.ip("link del eth0");
    owner.becomes(State::Standby);
    assert!(!*owner.handle.link_up().borrow());
    let capture = peer.capture();
    segment.plug(1);
    owner.becomes(State::Active);

    assert!(node.has("10.0.0.162") && node.has("fd00::162"));
    capture.next(|frame| crate::frames::claimed_v4(frame, "10.0.0.162"));
    // The listening sockets have moved to it too.
    let before = *owner.handle.conflict().borrow();
    crate::frames::claim_from(peer, 2, "10.0.0.162");
    eventually("the conflict is heard", || *owner.handle.conflict().borrow() > before);
    owner.stop();
}

#[test]
fn a_missing_interface_is_refused_at_the_start() {
    let Some(segment) = Segment::new(1) else { return };
    let node = &segment.stations[0];
    node.ip("link set eth0 name other");

    let error = Owner::start(node, VIPS).err().expect("it is refused");

    assert!(matches!(&error, Error::NoInterface { interface } if interface == "eth0"), "{error:?}");
}

#[test]
fn an_interface_that_is_down_at_the_start_is_claimed_when_it_comes_up() {
    let Some(segment) = Segment::new(1) else { return };
    let node = &segment.stations[0];
    node.ip("link set eth0 down");

    let owner = Owner::start(node, VIPS).unwrap();
    owner.grant(Lease::Rolling(EASY));
    std::thread::sleep(ms(100));
    assert_eq!(owner.state(), State::Standby);
    node.ip("link set eth0 up");

    owner.becomes(State::Active);
    owner.stop();
}

/// An owner on an interface without IPv6 claims nothing, says why, and claims all as soon as there is some; and it lets go of all when
/// there is none any more.
fn is_not_held_at_all(node: &Namespace, without: impl Fn(), with: impl Fn()) {
    without();
    let owner = Owner::start(node, VIPS).unwrap();
    owner.grant(Lease::Rolling(EASY));
    eventually("the claim fails", || owner.handle.status().failures >= 2);

    let failure = owner.handle.status().last_failure.unwrap();
    assert!(
        failure
            .starts_with("failed to add fd00::162/64 to eth0, which has no IPv6: its MTU is below 1280, or "),
        "{failure}"
    );
    assert_eq!(owner.handle.status().claims, 0);
    with();
    owner.becomes(State::Active);
    without();
    // Not at the end of the kernel's lifetimes, which are longer than this waits.
    owner.becomes(State::Standby);
    with();
    owner.becomes(State::Active);
    owner.stop();
}

#[test]
fn a_group_that_the_kernel_takes_only_in_part_is_not_held_at_all() {
    let Some(segment) = Segment::new(1) else { return };
    let node = &segment.stations[0];
    let disable = |word: &str| {
        node.enter(|| std::fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", word).unwrap())
    };
    is_not_held_at_all(node, || disable("1"), || disable("0"));
    let resize = |mtu: u16| drop(node.ip(&format!("link set eth0 mtu {mtu}")));
    is_not_held_at_all(node, || resize(1279), || resize(1280));
}

#[test]
fn the_default_route_tells_the_interface_ipv4_first_and_by_metric() {
    let Some(segment) = Segment::new(1) else { return };
    let node = &segment.stations[0];
    let found = || {
        node.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(vip::linux::default_interface()).unwrap().map(|link| link.name)
        })
    };
    assert_eq!(found(), None);

    node.ip("link add other type veth peer name end");
    node.ip("link set end up");
    node.ip("link set other up");
    node.ip("address add 10.1.0.1/24 dev other");
    node.ip("-6 route add default via fd00::254 dev eth0");
    assert_eq!(found().as_deref(), Some("eth0"), "IPv6 counts where IPv4 has no default route");
    node.ip("route add default via 10.1.0.254 dev other metric 200");
    assert_eq!(found().as_deref(), Some("other"), "IPv4 comes first");
    node.ip("route add default via 10.0.0.254 dev eth0 metric 100");
    assert_eq!(found().as_deref(), Some("eth0"), "the smaller metric counts");
    node.ip("route del default via 10.0.0.254 dev eth0 metric 100");
    node.ip("route add default metric 50 nexthop via 10.0.0.254 dev eth0 nexthop via 10.1.0.254 dev other");
    assert_eq!(found().as_deref(), Some("eth0"), "of several next hops the first counts");
    node.ip("route add unreachable default metric 10");
    assert_eq!(found().as_deref(), Some("eth0"), "a route that leads nowhere names no interface");
}
