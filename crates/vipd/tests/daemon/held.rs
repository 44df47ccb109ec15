//! An owner that is held (SIGSTOP) beyond its lease, and goes on: it says nothing of the address before it has asked its peers.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::time::Instant;
use vip::arp;

use super::rig::{Daemon, Enclosed, PATIENCE, Place};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 162);

/// A lease that a busy machine keeps.
const TIMING: &str = "{heartbeat: 100ms, lease: 1s}";

/// From a claim on until its last announcement but the periodic ones is due.
const ANNOUNCED: Duration = Duration::from_secs(5);

/// How long an answer is waited for, three times asked.
const ANSWER: Duration = Duration::from_millis(200);

/// Whether anybody on the other end of the wire answers for the address.
fn is_answered(place: &Place) -> bool {
    place.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let owner = vip::probe::owner_of("eth0", IpAddr::V4(VIP), ANSWER);
        runtime.block_on(owner).unwrap().is_some()
    })
}

/// The ARP frames that come in.
struct Ears(Socket);

impl Ears {
    fn at(place: &Place) -> Self {
        const ARP: u16 = 0x0806;
        let arp = Protocol::from(i32::from(ARP.to_be()));
        let socket = place.enter(|| Socket::new(Domain::PACKET, Type::RAW, Some(arp)).unwrap());
        socket.set_nonblocking(true).unwrap();
        Self(socket)
    }

    /// Those since the last look that claim the address.
    fn claims(&mut self) -> Vec<arp::Repr> {
        let mut claims = Vec::new();
        let mut frame = [0; 2048];
        loop {
            match self.0.read(&mut frame) {
                Ok(length) => {
                    let claim = arp::Repr::parse(&frame[..length]).filter(|arp| arp.sender_ip == VIP);
                    claims.extend(claim);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return claims,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn config(me: usize) -> String {
    let peer = |place: usize| format!("{{id: node-{place}, address: 10.0.0.{place}, port: 10000}}");
    // The third is not there: the two are a majority, and neither alone is one.
    let others: Vec<String> = (1..=3).filter(|place| *place != me).map(peer).collect();
    format!(
        "localPeer: {}\nremotePeers: [{}]\nvip: {VIP}/24\ninterface: eth0\nstartAsLeader: {}\npriority: {}\ntiming: {TIMING}\n",
        peer(me),
        others.join(", "),
        me == 1,
        200 - me
    )
}

fn signal(daemon: &Daemon, signal: Signal) {
    kill_process(Pid::from_child(&daemon.child), signal).unwrap();
}

fn state(daemon: &Daemon) -> String {
    let told: serde_json::Value = serde_json::from_slice(&daemon.status(&["--json"]).stdout).unwrap();
    told["owners"][0]["state"].as_str().unwrap().to_owned()
}

#[test]
fn an_owner_that_was_held_beyond_its_lease_says_nothing_of_the_address_before_it_has_a_new_one() {
    let Some(_) = Enclosed::new("a vipd with an address") else { return };
    let places = [Place::new(), Place::new()];
    places[0].ip(&format!("link add eth0 type veth peer name eth0 netns {}", places[1].pid()));
    for (number, place) in (1..).zip(&places) {
        place.ip(&format!("address add 10.0.0.{number}/24 dev eth0"));
        place.ip("link set eth0 up");
    }
    let [near, far] = &places;
    let mut owner = near.launch("held-owner", &config(1));
    owner.read_until("claimed the virtual IP");
    let claimed = Instant::now();
    let mut voter = far.launch("held-voter", &config(2));
    owner.read_until("peer heard");
    voter.read_until("follows");
    let mut ears = Ears::at(far);
    assert!(is_answered(far), "the owner answers");
    assert!(!ears.claims().is_empty(), "and is heard");

    signal(&owner, Signal::STOP);
    let held = Instant::now();
    // The kernel falls silent at the lease's end; announcements become due that nobody sends.
    while is_answered(far) || claimed.elapsed() < ANNOUNCED + ANSWER {
        assert!(held.elapsed() < PATIENCE, "a held owner answers on and on");
    }
    // Whom it would ask is held, too: until that one goes on, there is no new lease.
    signal(&voter, Signal::STOP);
    ears.claims();
    signal(&owner, Signal::CONT);
    owner.read_until("released the virtual IP");
    let went_on = Instant::now();
    while went_on.elapsed() < Duration::from_secs(2) {
        assert!(!is_answered(far), "it answers without a lease");
        assert_eq!(state(&owner), "standby");
    }
    assert_eq!(ears.claims(), []);

    signal(&voter, Signal::CONT);
    let asked = Instant::now();
    while state(&owner) != "active" && state(&voter) != "active" {
        assert!(asked.elapsed() < PATIENCE, "nobody has the address again");
    }
}
