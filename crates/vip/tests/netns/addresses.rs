//! The addresses on the interface: what they look like, how they go, how they come back.

use crate::owner::{EASY, Lease, Owner, Report, VIPS, ms, vips};
use crate::segment::{Namespace, PATIENCE, Segment, eventually};
use futures_util::{StreamExt as _, TryStreamExt as _};
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{Handle, MulticastGroup};
use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use vip::driver::Reason;
use vip::linux::Linux;
use vip::network::Network as _;
use vip::{Address, Error, State};

#[test]
fn an_address_is_held_with_a_short_life_and_without_side_effects() {
    let Some(segment) = Segment::new(1) else { return };
    let node = &segment.stations[0];
    let routes = || (node.ip("route show table main"), node.ip("-6 route show table main dev eth0"));
    let before = routes();

    let owner = Owner::active(node, ms(900));
    let v4 = node.ip("-o -d -4 address show dev eth0 to 10.0.0.162");
    let v6 = node.ip("-o -d -6 address show dev eth0 to fd00::162");

    let all = ["scope global", "deprecated", "noprefixroute", "preferred_lft 0sec"];
    for (text, own) in [(&v4, &["inet 10.0.0.162/24"][..]), (&v6, &["inet6 fd00::162/64", "nodad"])] {
        for expected in all.iter().chain(own) {
            assert!(text.contains(expected), "no '{expected}' in {text}");
        }
        assert!(text.contains("valid_lft 1sec") || text.contains("valid_lft 0sec"), "{text}");
        assert!(!text.contains("tentative"), "{text}");
    }
    assert_eq!(routes(), before, "a virtual IP adds no route");
    assert!(node.ip("route get 10.0.0.77").contains("src 10.0.0.1 "), "not chosen as a source");
    assert!(node.ip("route get fd00::77").contains("src fd00::1 "), "not chosen as a source");
    let handle = owner.handle.clone();
    assert_eq!((handle.status().releases, handle.status().last_release), (0, None));
    owner.stop();
    assert!(!node.has("10.0.0.162") && !node.has("fd00::162"));
    let (reason, held) = handle.status().last_release.unwrap();
    assert!(handle.status().releases == 1 && held > Duration::ZERO, "{held:?}");
    assert_eq!(reason, Reason::Stopped);
}

#[test]
fn an_ipv6_address_counts_as_held_only_when_the_kernel_takes_in_what_comes_for_it() {
    let Some(segment) = Segment::new(1) else { return };
    segment.stations[0].run(async {
        let vip = vips()[1];
        let (network, _events) = Linux::open("eth0", &[vip]).await.unwrap();
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        tokio::spawn(connection);
        for _ in 0..100 {
            network.hold(vip, Duration::from_secs(10)).await.unwrap();
            assert_eq!(route_kind(&handle, vip.ip).await, RouteType::Local);
            network.withdraw(vip).await.unwrap();
        }
    });
}

async fn route_kind(handle: &Handle, ip: IpAddr) -> RouteType {
    let mut query = RouteMessage::default();
    query.header.address_family = AddressFamily::Inet6;
    query.header.destination_prefix_length = 128;
    query.attributes.push(RouteAttribute::Destination(ip.into()));
    let found: Vec<_> = handle.route().get(query).execute().try_collect().await.unwrap();
    found[0].header.kind
}

#[test]
fn an_address_without_prefix_is_a_host_address() {
    let Some(segment) = Segment::new(1) else { return };
    let node = &segment.stations[0];

    let owner = Owner::start(node, &["192.168.7.7", "fd07::7"]).unwrap();
    owner.grant(Lease::Rolling(EASY));
    owner.becomes(State::Active);

    let text = node.ip("-o address show dev eth0");
    assert!(text.contains("inet 192.168.7.7/32") && text.contains("inet6 fd07::7/128"), "{text}");
    owner.stop();
}

#[test]
fn a_killed_driver_loses_the_addresses_by_the_kernels_hand() {
    let Some(segment) = Segment::new(1) else { return };
    let node = &segment.stations[0];

    Owner::active(node, ms(500)).kill();
    let killed = Instant::now();
    assert!(node.has("10.0.0.162") && node.has("fd00::162"), "nothing was cleaned up");
    let text = || node.ip("-o address show dev eth0");
    eventually("the kernel removes IPv4", || !text().contains("10.0.0.162"));
    let v4 = killed.elapsed();
    eventually("the kernel removes IPv6", || !text().contains("fd00::162"));
    let v6 = killed.elapsed();

    eprintln!("MEASURED after a kill, gone in {v4:?} (IPv4) and {v6:?} (IPv6)");
    assert!(v4.max(v6) < ms(10_000));
}

#[test]
fn a_lease_that_rolls_in_150_ms_keeps_the_addresses_without_a_gap() {
    let Some(segment) = Segment::new(1) else { return };
    let node = &segment.stations[0];
    let lease = ms(150);

    // A machine that is too busy to renew in time loses the lease, and rightly the address: that run shows nothing.
    let run = || {
        let owner = Owner::active(node, lease);
        let mut monitor = Monitor::start(node);
        let began = Instant::now();
        std::thread::sleep(ms(6000));
        monitor.stop();
        (monitor, owner.stop(), began.elapsed())
    };
    let in_time = |report: &Report| report.worst_gap < lease - ms(20);
    let mut tries = std::iter::repeat_with(run).take(5);
    let Some((monitor, report, took)) = tries.find(|(_, report, _)| in_time(report)) else {
        eprintln!("SKIPPED: this machine did not renew a lease of {lease:?} in time in five runs");
        return;
    };
    let lines = monitor.lines();
    let removed = lines.iter().filter(|line| line.starts_with("Deleted")).count();
    let added = lines.iter().filter(|line| line.contains("inet") && !line.starts_with("Deleted")).count();
    let share = report.cpu.as_secs_f64() / took.as_secs_f64() * 100.0;
    eprintln!("MEASURED in {took:?} with a renewal each 37 ms: {added} refreshes, {share:.2} % CPU");
    assert_eq!(removed, 0, "{lines:#?}");
    assert!((24..60).contains(&added), "{added} refreshes of two addresses");
    assert!(share < 10.0, "{share} % CPU");
}

#[test]
fn deleted_addresses_are_put_back_at_once() {
    let Some(segment) = Segment::new(1) else { return };
    let node = &segment.stations[0];
    let owner = Owner::active(node, EASY);

    for address in vips() {
        let mut times = node.run(deletions(address, 250));
        times.sort();
        let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
        let tenth = times[times.len() * 99 / 100];
        eprintln!(
            "MEASURED {address} back after 250 deletions: median {median:?}, p99 {tenth:?}, worst {worst:?}"
        );
        assert!(median < ms(100) && worst < ms(2000), "median {median:?}, worst {worst:?}");
    }

    assert_eq!(owner.state(), State::Active);
    assert_eq!(owner.handle.status().claims, 1, "it stayed Active all the time");
    let repairs = owner.handle.status().repairs;
    assert_eq!(*owner.handle.repairs().borrow(), repairs, "who follows the count sees them all");
    assert!((490..=500).contains(&repairs), "{repairs} repairs");
    owner.stop();
}

#[test]
fn an_agent_that_deletes_without_end_does_not_bind_us() {
    let Some(segment) = Segment::new(1) else { return };
    let node = &segment.stations[0];
    let owner = Owner::active(node, EASY);

    let (deleted, took) = node.run(async {
        let (handle, _connection) = connect();
        let address = find(&handle, vips()[0]).await;
        let (began, mut deleted) = (Instant::now(), 0);
        while began.elapsed() < ms(2000) {
            deleted += u64::from(handle.address().del(address.clone()).execute().await.is_ok());
        }
        (deleted, began.elapsed())
    });

    eventually("the address is there in the end", || node.has("10.0.0.162"));
    assert_eq!(owner.state(), State::Active);
    let repairs = owner.handle.status().repairs;
    let report = owner.stop();
    eprintln!("MEASURED {deleted} deletions in {took:?}: {repairs} repairs, {:?} CPU", report.cpu);
    assert!(repairs <= u64::try_from(took.as_millis()).unwrap() / 5 + 2, "{repairs} repairs");
}

#[test]
fn a_flush_and_a_removed_primary_are_repaired() {
    let Some(segment) = Segment::new(1) else { return };
    let node = &segment.stations[0];
    let owner = Owner::active(node, EASY);
    assert!(node.ip("-o -4 address show dev eth0 secondary").contains("10.0.0.162"));

    // The kernel removes a secondary address with the primary of its subnet.
    let removals = [
        "address del 10.0.0.1/24 dev eth0",
        "-4 address flush dev eth0",
        "-6 address flush dev eth0 scope global",
    ];
    for removal in removals {
        let before = owner.handle.status().repairs;
        node.ip(removal);
        eventually(removal, || owner.handle.status().repairs > before);
        eventually(removal, || node.has("10.0.0.162") && node.has("fd00::162"));
    }

    assert_eq!(owner.handle.status().claims, 1);
    owner.stop();
}

#[test]
fn what_becomes_of_other_addresses_is_no_reason_to_repair_ours() {
    let Some(segment) = Segment::new(1) else { return };
    let node = &segment.stations[0];
    let owner = Owner::active(node, EASY);

    for n in 50..55 {
        node.ip(&format!("address add 10.0.0.{n}/24 dev eth0"));
        node.ip(&format!("address del 10.0.0.{n}/24 dev eth0"));
    }
    // What is told later is looked at later.
    node.ip(&format!("address del {} dev eth0", VIPS[0]));
    eventually("it is back", || owner.handle.status().repairs > 0 && node.has("10.0.0.162"));

    assert_eq!(owner.handle.status().repairs, 1);
    owner.stop();
}

#[test]
fn the_nodes_own_address_survives_a_release_only_where_the_kernel_promotes_secondaries() {
    let Some(segment) = Segment::new(2) else { return };

    for (n, (station, promotes)) in (1..).zip(segment.stations.iter().zip([true, false])) {
        let own = format!("10.0.0.{n}");
        let value = if promotes { "1" } else { "0" };
        station.enter(|| std::fs::write("/proc/sys/net/ipv4/conf/eth0/promote_secondaries", value).unwrap());
        assert_eq!(station.enter(|| vip::linux::promotes_secondaries("eth0")).unwrap(), promotes);
        let owner = Owner::active(station, EASY);

        // A restart of the network configuration: the virtual IP becomes the first address of the subnet.
        station.ip(&format!("address del {own}/24 dev eth0"));
        eventually("the virtual IP is there", || station.has("10.0.0.162"));
        station.ip(&format!("address add {own}/24 dev eth0"));
        owner.stop();

        // Where it doesn't, the kernel removes it with the virtual IP, and with its lifetime too. Nothing short of
        // owning the node's network configuration can prevent that: a warning at the start says so.
        assert_eq!(station.has(&own), promotes);
    }
}

#[test]
fn a_frozen_owner_loses_the_addresses_and_wakes_up_as_standby() {
    let Some(segment) = Segment::new(2) else { return };
    let [node, peer] = &segment.stations[..] else { unreachable!() };
    let owner = Owner::active(node, ms(500));

    owner.freeze();
    eventually("the kernel removes them", || !node.has("10.0.0.162") && !node.has("fd00::162"));
    assert_eq!(owner.state(), State::Active, "it still stands, and believes what it last knew");
    let capture = peer.capture();
    owner.thaw();
    owner.becomes(State::Standby);

    assert!(!node.has("10.0.0.162") && !node.has("fd00::162"), "it did not put them back");
    assert_eq!(owner.handle.status().repairs, 0);
    let sent = capture.so_far(|frame| crate::frames::claimed_v4(frame, "10.0.0.162"));
    assert!(sent.is_empty(), "nor announced them");
    owner.stop();
}

#[test]
fn the_end_of_the_lease_withdraws_with_nobody_saying_so() {
    let Some(segment) = Segment::new(1) else { return };
    let node = &segment.stations[0];
    let owner = Owner::start(node, VIPS).unwrap();

    let end = Instant::now() + ms(3000);
    owner.grant(Lease::Until(end));
    owner.becomes(State::Active);
    let mut monitor = Monitor::start(node);
    let states = owner.handle.state();
    eventually("it is withdrawn", || *states.borrow() == State::Standby);
    let late = end.elapsed();

    assert!(Instant::now() >= end);
    assert!(!node.has("10.0.0.162") && !node.has("fd00::162"));
    monitor.stop();
    assert_eq!(monitor.lines().iter().filter(|line| line.starts_with("Deleted")).count(), 2);
    let release = owner.handle.status().last_release;
    assert!(matches!(release, Some((Reason::LeaseEnded, _))), "{release:?}");
    eprintln!("MEASURED withdrawn {late:?} after the lease's end (seen by a poll of 2 ms)");
    assert!(late < ms(500), "{late:?}");
    owner.stop();
}

#[test]
fn leftovers_of_an_earlier_life_are_removed_and_nothing_else_is() {
    let Some(segment) = Segment::new(1) else { return };
    let node = &segment.stations[0];
    let earlier = Owner::start(node, &["10.0.0.150/24", "10.0.0.151", "fd00::150/64"]).unwrap();
    earlier.grant(Lease::Rolling(Duration::from_mins(10)));
    earlier.becomes(State::Active);
    earlier.kill();
    node.ip("address add 10.0.0.152/32 dev eth0 preferred_lft 0 valid_lft 30");
    assert!(node.has("10.0.0.150") && node.has("10.0.0.151") && node.has("fd00::150"));

    let owner = Owner::start(node, &["10.0.0.150/24"]).unwrap();

    assert!(!node.has("10.0.0.150") && !node.has("10.0.0.151") && !node.has("fd00::150"));
    for other in ["10.0.0.1", "10.0.0.152", "fd00::1"] {
        assert!(node.has(other), "{other} is not ours");
    }
    owner.stop();
}

#[test]
fn an_address_that_somebody_else_has_put_there_is_refused_and_left_alone() {
    let Some(segment) = Segment::new(1) else { return };
    let node = &segment.stations[0];
    node.ip("address add 10.0.0.200/24 dev eth0");
    node.ip("address add fd00::200/128 dev lo nodad");
    let before = node.ip("-o address show");

    let cases = [
        (
            "10.0.0.200",
            "failed to take 10.0.0.200/32: eth0 carries it already as 10.0.0.200/24, and not from us",
        ),
        (
            "fd00::200/64",
            "failed to take fd00::200/64: lo carries it already as fd00::200/128, and not from us",
        ),
        (
            "10.0.0.1/24",
            "failed to take 10.0.0.1/24: eth0 carries it already as 10.0.0.1/24, and not from us",
        ),
    ];
    for (address, expected) in cases {
        let error = Owner::start(node, &["10.0.0.162", address]).err().expect("it is refused");
        assert!(matches!(error, Error::Foreign { .. }), "{error:?}");
        assert!(error.to_string().starts_with(expected), "{error}");
    }

    let strip = |text: String| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(strip(node.ip("-o address show")), strip(before));
}

#[test]
fn the_lists_for_a_check_name_interfaces_and_their_addresses() {
    let Some(segment) = Segment::new(1) else { return };
    let node = &segment.stations[0];

    let links = node.run(vip::linux::interfaces()).unwrap();
    let addresses = node.run(vip::linux::interface_addresses("eth0")).unwrap();
    let missing = node.run(vip::linux::interface_addresses("eth7")).unwrap_err();

    let eth0 = links.iter().find(|link| link.name == "eth0").unwrap();
    assert!(eth0.up && eth0.mac == crate::segment::mac(1) && eth0.index > 1);
    assert!(links.iter().any(|link| link.name == "lo"));
    let texts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    assert!(
        texts.contains(&"10.0.0.1/24".to_owned()) && texts.contains(&"fd00::1/64".to_owned()),
        "{texts:?}"
    );
    assert_eq!(missing.to_string(), "failed to find interface eth7");

    let enabled = || node.run(vip::linux::is_enabled("eth0")).unwrap();
    assert!(enabled());
    segment.switch.ip("link set p1 down");
    assert!(enabled(), "whatever its carrier");
    node.ip("link set eth0 down");
    assert!(!enabled());
    let missing = node.run(vip::linux::is_enabled("eth7")).unwrap_err();
    assert_eq!(missing.to_string(), "failed to find interface eth7");
}

#[test]
fn a_check_learns_whose_an_address_is_and_which_interfaces_lead_to_it() {
    let Some(segment) = Segment::new(1) else { return };
    let node = &segment.stations[0];
    node.ip("link add other type veth peer name end");
    node.ip("address add 10.0.0.200/32 dev other");
    let foreign = |wanted: &str| {
        let wanted = [wanted.parse().unwrap(), "10.0.0.201/24".parse().unwrap()];
        let found = node.run(vip::linux::foreign(&wanted)).unwrap();
        found.into_iter().map(|one| format!("{} on {}", one.address, one.interface)).collect::<Vec<_>>()
    };
    assert_eq!(foreign("10.0.0.200/24"), ["10.0.0.200/32 on other"]);
    assert_eq!(foreign("10.0.0.1/32"), ["10.0.0.1/24 on eth0"]);
    let owner = Owner::active(node, EASY);
    assert_eq!(foreign(VIPS[0]), <[String; 0]>::default(), "our own");
    owner.stop();

    let towards = |ip: &str| {
        let found = node.run(vip::linux::interfaces_towards(ip.parse().unwrap())).unwrap();
        found.into_iter().map(|(name, subnet)| format!("{subnet} by {name}")).collect::<Vec<_>>()
    };
    assert_eq!(towards("10.0.0.77"), ["10.0.0.1/24 by eth0"]);
    assert_eq!(towards("10.0.0.1"), <[String; 0]>::default(), "it leads to nobody else");
    assert_eq!(towards("10.1.0.1"), <[String; 0]>::default());
}

/// Deletes the address again and again; returns how long each time it took until the kernel had it again.
async fn deletions(address: Address, times: usize) -> Vec<Duration> {
    let (handle, _connection) = connect();
    let groups = [MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
    let (connection, _handle, mut news) = rtnetlink::new_multicast_connection(&groups).unwrap();
    let _monitor = tokio::spawn(connection);
    let message = find(&handle, address).await;
    let mut taken = Vec::new();
    for _ in 0..times {
        // Longer than a repair's spacing, so that each deletion is a new one.
        tokio::time::sleep(ms(8)).await;
        let began = Instant::now();
        handle.address().del(message.clone()).execute().await.unwrap();
        let mut deleted = false;
        loop {
            let next = tokio::time::timeout(PATIENCE, news.next()).await.expect("it comes back").unwrap();
            if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelAddress(news)) = &next.0.payload {
                deleted |= is(news, address);
            } else if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(news)) =
                &next.0.payload
                && deleted
                && is(news, address)
            {
                break;
            }
        }
        taken.push(began.elapsed());
    }
    taken
}

fn connect() -> (Handle, tokio::task::JoinHandle<()>) {
    let (connection, handle, _) = rtnetlink::new_connection().unwrap();
    (handle, tokio::spawn(connection))
}

async fn find(handle: &Handle, address: Address) -> AddressMessage {
    let list: Vec<_> = handle.address().get().execute().try_collect().await.unwrap();
    list.into_iter().find(|message| is(message, address)).expect("the address is there")
}

fn is(message: &AddressMessage, address: Address) -> bool {
    message.attributes.contains(&AddressAttribute::Address(address.ip))
}

/// `ip monitor address`: what another program sees of the addresses.
struct Monitor {
    child: Child,
    lines: Receiver<String>,
    reader: Option<JoinHandle<()>>,
}

impl Monitor {
    fn start(node: &Namespace) -> Self {
        let mut child = node.enter(|| {
            Command::new("ip")
                .args(["monitor", "address"])
                .stdout(Stdio::piped())
                .spawn()
                .expect("ip is installed")
        });
        let output = child.stdout.take().expect("it is piped");
        let (sender, lines) = channel();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self { child, lines, reader: Some(reader) }
    }

    fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }

    fn lines(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.stop();
    }
}
