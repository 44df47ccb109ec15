//! The fence in the kernel: who is killed, frozen or starved falls silent with its lease, and nobody else does.

use crate::owner::{EASY, Lease, Owner, VIPS, ms};
use crate::segment::{Namespace, Segment, eventually, mac};
use rustix::thread::{CapabilitySet, CapabilitySets};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};
use vip::linux::{FenceError, rehearse_fence};
use vip::{State, probe};

/// How one can learn that a host has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Answers {
    arp: bool,
    neighbour_discovery: bool,
    tcp: [bool; 2],
}

impl Answers {
    const ALL: Self = Self { arp: true, neighbour_discovery: true, tcp: [true; 2] };
    const NONE: Self = Self { arp: false, neighbour_discovery: false, tcp: [false; 2] };

    /// Asks a node, from a peer that knows where to send what is for the virtual IPs.
    fn of(peer: &Namespace) -> Self {
        let [v4, v6] = ips();
        let answers = |ip| asked(peer, ip);
        Self {
            arp: answers(v4),
            neighbour_discovery: answers(v6),
            tcp: [v4, v6].map(|ip| connects(peer, ip, SILENCE)),
        }
    }
}

fn ips() -> [IpAddr; 2] {
    ["10.0.0.162", "fd00::162"].map(|ip| ip.parse().unwrap())
}

/// Whether anybody answers for the address, by ARP or neighbour discovery.
fn asked(peer: &Namespace, ip: IpAddr) -> bool {
    peer.run(async move { probe::owner_of("eth0", ip, SILENCE).await.unwrap() }).is_some()
}

fn connects(from: &Namespace, ip: IpAddr, within: Duration) -> bool {
    from.enter(|| TcpStream::connect_timeout(&SocketAddr::new(ip, PORT), within).is_ok())
}

/// Two stations: the first listens at all its addresses, the second never has to ask where the first is.
fn segment() -> Option<(Segment, [TcpListener; 2])> {
    let segment = Segment::new(2)?;
    let [node, peer] = &segment.stations[..] else { unreachable!() };
    let listen = |ip: &str| node.enter(|| TcpListener::bind((ip, PORT)).unwrap());
    // The second without the first's port, as it would take IPv4's too.
    let v4 = listen("0.0.0.0");
    let v6 = node.enter(|| {
        let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
        socket.set_only_v6(true).unwrap();
        let any: SocketAddr = format!("[::]:{PORT}").parse().unwrap();
        socket.bind(&any.into()).unwrap();
        socket.listen(128).unwrap();
        TcpListener::from(socket)
    });
    for ip in ips() {
        peer.ip(&format!("neigh replace {ip} lladdr 02:00:00:00:00:01 nud permanent dev eth0"));
    }
    Some((segment, [v4, v6]))
}

#[test]
fn an_owner_answers_and_a_standby_is_silent_although_it_has_the_address() {
    let Some((segment, _listeners)) = segment() else { return };
    let [node, peer] = &segment.stations[..] else { unreachable!() };
    let owner = Owner::start(node, VIPS).unwrap();
    // Which its driver would remove, if it were the owner; nobody is.
    node.ip(&format!("address add {} dev eth0", VIPS[0]));
    node.ip(&format!("address add {} dev eth0 nodad", VIPS[1]));
    assert_eq!(Answers::of(peer), Answers::NONE);
    assert!(!ips().into_iter().any(|ip| connects(node, ip, SILENCE)), "nor does it reach itself");

    owner.grant(Lease::Until(Instant::now() + Duration::from_mins(1)));
    owner.becomes(State::Active);
    assert_eq!(Answers::of(peer), Answers::ALL);
    assert!(ips().into_iter().all(|ip| connects(node, ip, PATIENT)), "it reaches itself");

    owner.grant(Lease::None);
    owner.becomes(State::Standby);
    node.ip(&format!("address add {} dev eth0", VIPS[0]));
    node.ip(&format!("address add {} dev eth0 nodad", VIPS[1]));
    assert_eq!(Answers::of(peer), Answers::NONE);
    owner.stop();
}

#[test]
fn a_killed_or_frozen_owner_falls_silent_with_its_lease_and_not_with_its_address() {
    let Some((segment, _listeners)) = segment() else { return };
    let [node, peer] = &segment.stations[..] else { unreachable!() };
    let lease = ms(300);

    for kill in [false, true] {
        let owner = Owner::start(node, VIPS).unwrap();
        // Its last lease but one was long: so the address stays, and only the fence can make it silent.
        owner.grant(Lease::Until(Instant::now() + Duration::from_mins(1)));
        owner.becomes(State::Active);
        owner.grant(Lease::Rolling(lease));
        eventually("the lease rolls", || {
            owner.handle.status().lease.is_some_and(|end| end < Instant::now() + lease)
        });
        assert_eq!(Answers::of(peer), Answers::ALL);

        let frozen = if kill {
            owner.kill();
            None
        } else {
            owner.freeze();
            Some(owner)
        };
        let stopped = Instant::now();
        let mut last = stopped;
        while stopped.elapsed() < lease + ms(300) {
            if peer.run(async { probe::owner_of("eth0", ips()[0], ms(30)).await.unwrap() }).is_some() {
                last = Instant::now();
            }
        }
        eprintln!(
            "MEASURED after the end of renewals, lease {lease:?}: last answer after {:?}",
            last - stopped
        );
        assert!(last - stopped < lease + MARGIN, "{:?}", last - stopped);
        assert_eq!(Answers::of(peer), Answers::NONE);
        if let Some(owner) = frozen {
            owner.thaw();
            owner.becomes(State::Standby);
            owner.stop();
        } else {
            assert!(tables(node) > 0, "it has to outlive the process");
        }
    }

    // The next one makes it anew, and leaves nothing.
    node.nft("add chain inet vipd-fence-10.0.0.162 old");
    let owner = Owner::active(node, EASY);
    assert!(!node.nft("list ruleset").contains("chain old"));
    assert_eq!(Answers::of(peer), Answers::ALL);
    owner.stop();
    assert_eq!(node.nft("list ruleset"), "");
}

#[test]
fn renewals_keep_it_open_without_one_lost_answer() {
    let Some((segment, listeners)) = segment() else { return };
    let [node, peer] = &segment.stations[..] else { unreachable!() };
    let owner = Owner::start(node, VIPS).unwrap();
    owner.grant(Lease::Rolling(ms(400)));
    owner.becomes(State::Active);
    let began = Instant::now();
    let (mut connects_made, mut worst) = (0, Duration::ZERO);

    // Twenty leases long. A lost packet costs a connect a second, and is not patiently waited for.
    while began.elapsed() < ms(8000) {
        for (ip, listener) in ips().into_iter().zip(&listeners) {
            let asked = Instant::now();
            assert!(connects(peer, ip, PATIENT), "after {:?}", began.elapsed());
            worst = worst.max(asked.elapsed());
            listener.accept().unwrap();
            connects_made += 1;
        }
    }

    let report = owner.stop();
    eprintln!("MEASURED {connects_made} connects, the slowest {worst:?}, {report:?}");
    // A renewal that came too late is this machine's fault, and a gap then the fence's duty.
    assert!(worst < ms(900) || report.worst_gap > ms(300), "{worst:?}, {report:?}");
}

#[test]
fn it_says_what_it_is_and_ends_with_its_driver() {
    let Some(segment) = Segment::new(1) else { return };
    let node = &segment.stations[0];
    node.nft("add table inet kept");
    let owner = Owner::active(node, EASY);
    let other = Owner::start(node, &["10.0.0.170"]).unwrap();

    let ruleset = node.nft("list ruleset");
    for line in [
        "table inet vipd-fence-10.0.0.162 {",
        "table arp vipd-fence-10.0.0.162 {",
        "table inet vipd-fence-fd00--162 {",
        "table arp vipd-fence-10.0.0.170 {",
        "ip daddr 10.0.0.162 ip daddr != @armed drop",
        "arp saddr ip 10.0.0.162 arp saddr ip != @armed drop",
        "ip6 daddr fd00::162 ip6 daddr != @armed drop",
        // What follows, `nft` prints in a way that depends on its version.
        "icmpv6 type nd-neighbor-advert ",
        "elements = { 10.0.0.162 timeout",
        "elements = { fd00::162 timeout",
    ] {
        assert!(ruleset.contains(line), "no '{line}' in\n{ruleset}");
    }
    assert!(!ruleset.contains("10.0.0.170 timeout"), "a standby's is closed: {ruleset}");
    assert!(owner.handle.status().fenced && other.handle.status().fenced);

    other.stop();
    assert_eq!(tables(node), 3, "another's stay");
    owner.stop();
    assert_eq!(node.nft("list ruleset"), "table inet kept {\n}\n");
}

#[test]
fn a_fence_that_somebody_takes_away_silences_nobody_and_comes_back() {
    let Some((segment, _listeners)) = segment() else { return };
    let [node, peer] = &segment.stations[..] else { unreachable!() };
    // A lease that is not renewed: what comes back, comes back by the check.
    let owner = Owner::start(node, VIPS).unwrap();
    owner.grant(Lease::Until(Instant::now() + Duration::from_mins(1)));
    owner.becomes(State::Active);

    node.nft("flush ruleset");
    assert_eq!(Answers::of(peer), Answers::ALL);
    eventually("it is back, and open", || node.nft("list ruleset").matches("expires").count() == 3);
    assert_eq!(Answers::of(peer), Answers::ALL);

    owner.grant(Lease::None);
    owner.becomes(State::Standby);
    node.nft("flush ruleset");
    owner.grant(Lease::Rolling(EASY));
    owner.becomes(State::Active);
    assert_eq!(Answers::of(peer), Answers::ALL);
    owner.kill();
    eventually("it falls silent", || Answers::of(peer) == Answers::NONE);
}

/// Another program has made a table of the same name its own, which the kernel lets nobody else touch.
#[test]
fn a_fence_that_cannot_be_put_back_is_told_as_none_until_it_is_there_again() {
    let Some(segment) = Segment::new(1) else { return };
    let node = &segment.stations[0];
    let owner = Owner::active(node, EASY);
    assert!(owner.handle.status().fenced);

    let table = "table inet vipd-fence-10.0.0.162";
    let mut usurper = node.nft_that_waits();
    usurper.say(&format!("delete {table}; add {table} {{ flags owner; }}"));
    eventually("there is none", || !owner.handle.status().fenced);
    assert_eq!(owner.state(), State::Active);
    drop(usurper);
    eventually("it is there again", || owner.handle.status().fenced);
    owner.stop();
}

#[test]
fn a_standby_finds_the_owner_and_hears_of_the_next() {
    let Some(segment) = Segment::new(2) else { return };
    let [first, second] = &segment.stations[..] else { unreachable!() };
    let (one, two) = (Owner::active(first, EASY), Owner::start(second, VIPS).unwrap());
    let knows = |node: &Namespace, owner: usize| {
        let mac = mac(owner).map(|octet| format!("{octet:02x}")).join(":");
        ips().into_iter().all(|ip| node.ip(&format!("neigh show {ip} dev eth0")).contains(&mac))
    };

    assert!(ips().into_iter().all(|ip| asked(second, ip)), "a standby may ask");
    for ip in ips() {
        // Nobody listens: it is refused by the owner, which the kernel has looked for.
        connects(second, ip, PATIENT);
    }
    assert!(knows(second, 1));

    one.grant(Lease::None);
    one.becomes(State::Standby);
    ips()
        .into_iter()
        .for_each(|ip| drop(first.ip(&format!("neigh replace {ip} lladdr {FORMER} nud stale dev eth0"))));
    two.grant(Lease::Rolling(EASY));
    two.becomes(State::Active);
    eventually("the former owner hears of the next", || knows(first, 2));
    one.stop();
    two.stop();
}

#[test]
fn without_the_right_to_it_that_is_said_and_the_address_works_all_the_same() {
    let Some((segment, _listeners)) = segment() else { return };
    let [node, peer] = &segment.stations[..] else { unreachable!() };
    assert!(node.enter(rehearse_fence).is_ok());
    assert_eq!(node.nft("list ruleset"), "", "a rehearsal changes nothing");
    let refused = node.enter(|| {
        without_admin();
        rehearse_fence().unwrap_err()
    });
    assert!(refused.to_string().contains("NET_ADMIN is missing"), "{refused}");
    assert!(matches!(&refused, FenceError::Refused { .. }), "{refused:?}");

    // The thread of the fence alone has not the right.
    let owner = Owner::start_urgent(node, VIPS, without_admin).unwrap();
    owner.grant(Lease::Rolling(EASY));
    owner.becomes(State::Active);
    assert_eq!(Answers::of(peer), Answers::ALL);
    assert!(!owner.handle.status().fenced);
    assert_eq!(node.nft("list ruleset"), "");
    owner.stop();
}

fn without_admin() {
    let sets = rustix::thread::capabilities(None).unwrap();
    let less = |set: CapabilitySet| set.difference(CapabilitySet::NET_ADMIN);
    let sets = CapabilitySets { effective: less(sets.effective), ..sets };
    rustix::thread::set_capabilities(None, sets).unwrap();
}

/// How many tables there are.
fn tables(node: &Namespace) -> usize {
    node.nft("list tables").matches("vipd-fence").count()
}

/// PATIENT is for what is there, SILENCE for what is not.
const PATIENT: Duration = Duration::from_secs(20);
const SILENCE: Duration = Duration::from_millis(300);
/// Beyond the lease, on a machine that is busy: the kernel's own grain is ten milliseconds at most.
const MARGIN: Duration = Duration::from_millis(100);
const PORT: u16 = 8443;
const FORMER: &str = "02:00:00:00:00:01";
