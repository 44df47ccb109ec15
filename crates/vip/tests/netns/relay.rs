//! A planned move, and a client that hears of it late: what it sends to the old owner reaches the new one.

use crate::owner::{EASY, Lease, Owner, VIPS, ms};
use crate::segment::{Namespace, PATIENCE, Segment, mac};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};
use vip::State;
use vip::relay::{FOLLOWS_FOR, SUCCESSOR_WITHIN};

const PORT: u16 = 8443;
const ETH_P_ALL: u16 = 3;

/// A client that never learns where the address has gone, an old owner that has it, a new one that waits, and their servers.
struct Scene {
    segment: Segment,
    old: Owner,
    new: Owner,
    listeners: [[TcpListener; 2]; 2],
}

impl Scene {
    fn new() -> Option<Self> {
        Self::of(VIPS)
    }

    fn of(addresses: &[&str]) -> Option<Self> {
        let segment = Segment::new(3)?;
        let [client, first, second] = &segment.stations[..] else { unreachable!() };
        let listeners = [first, second].map(listen);
        for ip in ips() {
            client.ip(&format!("neigh replace {ip} lladdr 02:00:00:00:00:02 nud permanent dev eth0"));
        }
        // Nor does the new owner have to ask where the client is: that would tell the client where it is itself.
        second.ip("neigh replace fd00::1 lladdr 02:00:00:00:00:01 nud permanent dev eth0");
        let [old, new] = [first, second].map(|station| Owner::start(station, addresses).unwrap());
        old.grant(Lease::Rolling(EASY));
        old.becomes(State::Active);
        Some(Self { old, new, listeners, segment })
    }

    fn client(&self) -> &Namespace {
        &self.segment.stations[0]
    }

    /// The old owner gives the address up, and the new one gets it when it has been given up and this has happened; tells how
    /// long that took.
    fn moves(&self, meanwhile: impl FnOnce()) -> Duration {
        let began = Instant::now();
        self.old.grant(Lease::None);
        self.old.becomes(State::Standby);
        meanwhile();
        self.new.grant(Lease::Rolling(EASY));
        self.new.becomes(State::Active);
        began.elapsed()
    }

    /// And back again, once nothing is relayed any more.
    fn returns(&self) {
        self.new.grant(Lease::None);
        self.new.becomes(State::Standby);
        self.old.grant(Lease::Rolling(EASY));
        self.old.becomes(State::Active);
        std::thread::sleep(SUCCESSOR_WITHIN + FOLLOWS_FOR);
    }

    fn ends(self) {
        self.old.stop();
        self.new.stop();
    }
}

fn ips() -> [IpAddr; 2] {
    ["10.0.0.162", "fd00::162"].map(|ip| ip.parse().unwrap())
}

/// A listener for each family, at all addresses.
fn listen(station: &Namespace) -> [TcpListener; 2] {
    station.enter(|| {
        let v6 = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
        v6.set_only_v6(true).unwrap();
        v6.bind(&format!("[::]:{PORT}").parse::<SocketAddr>().unwrap().into()).unwrap();
        v6.listen(128).unwrap();
        [TcpListener::bind(("0.0.0.0", PORT)).unwrap(), TcpListener::from(v6)]
    })
}

fn connect(client: &Namespace, ip: IpAddr, within: Duration) -> std::io::Result<TcpStream> {
    client.enter(|| TcpStream::connect_timeout(&SocketAddr::new(ip, PORT), within))
}

/// How often a station has sent the beginning of a connection a second time.
fn repeated_syns(station: &Namespace) -> u64 {
    let text = station.enter(|| std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap());
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut pairs = names.split(' ').zip(values.split(' '));
    pairs.find(|(name, _)| *name == "TCPSynRetrans").unwrap().1.parse().unwrap()
}

/// A move that this machine delayed beyond the time of a relay shows nothing.
fn is_late(took: Duration) -> bool {
    if took >= SUCCESSOR_WITHIN {
        eprintln!("the machine is busy: the move took {took:?}");
    }
    took >= SUCCESSOR_WITHIN
}

#[test]
fn a_connection_begun_at_the_old_owner_is_taken_by_the_new_one() {
    let Some(scene) = Scene::new() else { return };
    for forwards in [false, true] {
        for station in &scene.segment.stations[1..] {
            station.enter(|| {
                let value = if forwards { "1" } else { "0" };
                for path in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                    std::fs::write(format!("/proc/sys/net/{path}"), value).unwrap();
                }
            });
        }
        for (family, ip) in ips().into_iter().enumerate() {
            let [old, new] = &scene.listeners;
            connect(scene.client(), ip, PATIENCE).unwrap();
            old[family].accept().unwrap();
            let before = repeated_syns(scene.client());
            let sent = scene.segment.stations[1].capture();

            std::thread::scope(|scope| {
                let mut begun = None;
                let took = scene.moves(|| {
                    begun = Some(scope.spawn(|| {
                        let asked = Instant::now();
                        (connect(scene.client(), ip, PATIENCE), asked.elapsed())
                    }));
                    sent.next(|frame| is_syn_to(frame, ip));
                });
                if is_late(took) {
                    return;
                }
                let (connected, after) = begun.unwrap().join().unwrap();
                let (mut near, mut far) = (connected.unwrap(), new[family].accept().unwrap().0);
                eprintln!(
                    "MEASURED {ip}, forwarding {forwards}: the move took {took:?}, the connect {after:?}"
                );
                assert_eq!(repeated_syns(scene.client()), before, "its first SYN arrived");
                near.write_all(b"hello").unwrap();
                let mut heard = [0; 5];
                far.read_exact(&mut heard).unwrap();
                assert_eq!(&heard, b"hello");
            });
            scene.returns();
        }
    }
    scene.ends();
}

#[test]
fn addresses_of_one_family_alone_are_relayed_for_as_well() {
    for (family, ip) in ips().into_iter().enumerate() {
        let Some(scene) = Scene::of(&VIPS[family..=family]) else { return };
        let sent = scene.segment.stations[1].capture();
        std::thread::scope(|scope| {
            let mut begun = None;
            let took = scene.moves(|| {
                begun = Some(scope.spawn(|| connect(scene.client(), ip, PATIENCE)));
                sent.next(|frame| is_syn_to(frame, ip));
            });
            begun.unwrap().join().unwrap().unwrap();
            if !is_late(took) {
                assert_eq!(repeated_syns(scene.client()), 0, "{ip}: its first SYN arrived");
            }
        });
        scene.ends();
    }
}

#[test]
fn frames_that_the_kernel_has_put_together_are_passed_on_whole() {
    let Some(scene) = Scene::new() else { return };
    for (family, ip) in ips().into_iter().enumerate() {
        let seen = scene.segment.stations[2].enter(|| {
            let socket =
                Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(ETH_P_ALL.to_be()))))
                    .unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        });
        let took = scene.moves(|| {});
        let began = Instant::now();
        let near = connect(scene.client(), ip, PATIENCE).unwrap();
        let mut far = scene.listeners[1][family].accept().unwrap().0;
        let data: Vec<u8> = (0..400_000_u32).map(|n| (n % 251) as u8).collect();
        let mut received = vec![0; data.len()];
        std::thread::scope(|scope| {
            scope.spawn(|| (&near).write_all(&data));
            far.set_read_timeout(Some(FOLLOWS_FOR)).unwrap();
            let outcome = far.read_exact(&mut received);
            if is_late(took) || began.elapsed() >= FOLLOWS_FOR {
                eprintln!("the machine is busy: {:?}", began.elapsed());
                near.shutdown(std::net::Shutdown::Both).unwrap();
            } else {
                outcome.unwrap();
            }
        });
        if began.elapsed() < FOLLOWS_FOR {
            assert!(received == data);
            let longest = longest_relayed(&seen);
            eprintln!(
                "MEASURED {ip}: {} octets in {:?}, the longest frame of {longest}",
                data.len(),
                began.elapsed()
            );
            assert!(longest > 3000, "{longest}: longer than the interface's 1500");
        }
        scene.returns();
    }
    scene.ends();
}

/// The longest of the frames that the old owner has sent to the new one.
fn longest_relayed(socket: &Socket) -> usize {
    let mut buffer = vec![0; 1 << 17];
    let mut longest = 0;
    let mut socket = socket;
    while let Ok(length) = socket.read(&mut buffer) {
        if buffer[..12] == [mac(3), mac(2)].concat()[..] {
            longest = longest.max(length);
        }
    }
    longest
}

#[test]
fn when_it_is_over_nothing_is_passed_on_and_nothing_answered() {
    let Some(scene) = Scene::new() else { return };
    scene.moves(|| {});
    std::thread::sleep(SUCCESSOR_WITHIN + FOLLOWS_FOR);
    let arrived = scene.segment.stations[2].capture();
    for ip in ips() {
        let error = connect(scene.client(), ip, ms(300)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "{error}: not even a refusal");
        assert_eq!(arrived.so_far(|frame| is_syn_to(frame, ip)).len(), 0);
    }
    scene.ends();
}

#[test]
fn what_an_owner_that_holds_the_address_is_sent_goes_nowhere_else() {
    let Some(scene) = Scene::new() else { return };
    let arrived = scene.segment.stations[2].capture();
    for (family, ip) in ips().into_iter().enumerate() {
        connect(scene.client(), ip, PATIENCE).unwrap();
        scene.listeners[0][family].accept().unwrap();
        assert_eq!(arrived.so_far(|frame| is_syn_to(frame, ip)).len(), 0);
    }
    scene.ends();
}

/// Picks the first packet of a TCP connection to this address.
fn is_syn_to(frame: &[u8], ip: IpAddr) -> Option<()> {
    let packet = etherparse::SlicedPacket::from_ethernet(frame).ok()?;
    let destination: IpAddr = match packet.net? {
        etherparse::NetSlice::Ipv4(v4) => v4.header().destination_addr().into(),
        etherparse::NetSlice::Ipv6(v6) => v6.header().destination_addr().into(),
        etherparse::NetSlice::Arp(_) => return None,
    };
    let etherparse::TransportSlice::Tcp(tcp) = packet.transport? else { return None };
    (destination == ip && tcp.syn() && !tcp.ack()).then_some(())
}
