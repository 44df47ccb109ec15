//! A client that only listens, when the owner of the address is gone.

use crate::segment::{Namespace, PATIENCE, Segment, eventually};
use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};
use vip::linux::{Forwarded, Sockets, Tickler};
use vip::tickle::Connection;

const VIPS: [&str; 2] = ["10.0.0.9", "fd00::9"];
const CONNECTIONS: usize = 3;
/// More than one message of netlink holds; both ends are files of this process.
const MANY: usize = 3_000;

fn claim(station: &Namespace) {
    station.ip("address add 10.0.0.9/24 dev eth0");
    station.ip("address add fd00::9/64 dev eth0 nodad");
}

/// Where the servers of the virtual IPs listen.
fn servers() -> [SocketAddr; 2] {
    VIPS.map(|vip| SocketAddr::new(vip.parse().unwrap(), 8443))
}

/// Connections to one of the addresses, with the ends that the server keeps.
fn connect(client: &Namespace, owner: &Namespace, vip: SocketAddr) -> Vec<(TcpStream, TcpStream)> {
    let listener = owner.enter(|| TcpListener::bind(vip).unwrap());
    let connect = || client.enter(|| TcpStream::connect_timeout(&vip, PATIENCE).unwrap());
    (0..CONNECTIONS).map(|_| (connect(), listener.accept().unwrap().0)).collect()
}

#[test]
fn an_idle_client_learns_by_a_tickle_and_by_nothing_else_that_its_connection_is_gone() {
    let Some(segment) = Segment::new(3) else { return };
    let [client, old, new] = &segment.stations[..] else { unreachable!("there are three") };
    claim(old);
    let vips = servers();
    let connections = vips.map(|vip| connect(client, old, vip));

    // The owner is cut off, the next one has the address, and the client knows where.
    segment.switch.ip("link set p2 down");
    claim(new);
    client.ip("neigh flush dev eth0");

    let tickler = new.enter(Tickler::open).unwrap();
    for (vip, connections) in vips.into_iter().zip(&connections) {
        let [tickled, others @ ..] = &connections[..] else { unreachable!("there are some") };
        let mut tickled = &tickled.0;
        let connection = Connection::new(tickled.local_addr().unwrap(), vip).unwrap();
        tickled.set_read_timeout(Some(PATIENCE)).unwrap();

        let began = Instant::now();
        tickler.send(&connection).unwrap();
        // Unlike `read`, this goes on after a signal, which ends a system call that has a time limit.
        let end = tickled.read_exact(&mut [0]);
        eprintln!("{vip}: the client knew after {} us", began.elapsed().as_micros());

        assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
        for (other, _) in others {
            let mut other = other;
            other.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            assert_eq!(
                other.read_exact(&mut [0]).unwrap_err().kind(),
                ErrorKind::WouldBlock,
                "nobody told it"
            );
        }
    }
}

#[test]
fn a_connection_that_stands_is_not_harmed_by_a_tickle() {
    let Some(segment) = Segment::new(2) else { return };
    let [client, owner] = &segment.stations[..] else { unreachable!("there are two") };
    claim(owner);
    let tickler = owner.enter(Tickler::open).unwrap();
    for vip in servers() {
        for (mut near, mut far) in connect(client, owner, vip) {
            let connection = Connection::new(near.local_addr().unwrap(), vip).unwrap();
            near.set_read_timeout(Some(PATIENCE)).unwrap();
            far.set_read_timeout(Some(PATIENCE)).unwrap();
            for word in [b"one", b"two"] {
                tickler.send(&connection).unwrap();
                let mut heard = [0; 3];
                near.write_all(word).unwrap();
                far.read_exact(&mut heard).unwrap();
                far.write_all(&heard).unwrap();
                near.read_exact(&mut heard).unwrap();
                assert_eq!(&heard, word);
            }
        }
    }
}

#[test]
fn the_kernel_knows_who_is_connected_to_the_virtual_ips() {
    let Some(segment) = Segment::new(2) else { return };
    let [client, owner] = &segment.stations[..] else { unreachable!("there are two") };
    claim(owner);
    let vips = servers();
    let connections = vips.map(|vip| connect(client, owner, vip));
    // Neither the host's own address nor what it connects to itself is the virtual IPs' concern.
    let other = connect(client, owner, "10.0.0.2:8444".parse().unwrap());
    // A socket for both families, as kube-apiserver's: its client has an address of IPv4.
    let (both, mapped) = {
        let listener = owner.enter(|| TcpListener::bind("[::]:6443").unwrap());
        let near =
            client.enter(|| TcpStream::connect_timeout(&"10.0.0.9:6443".parse().unwrap(), PATIENCE).unwrap());
        (listener.accept().unwrap(), near)
    };
    let expected = |vip, near: &TcpStream| Connection::new(near.local_addr().unwrap(), vip).unwrap();
    let mut all: Vec<_> = vips
        .iter()
        .zip(&connections)
        .flat_map(|(vip, ends)| ends.iter().map(move |(near, _)| expected(*vip, near)))
        .chain([expected("10.0.0.9:6443".parse().unwrap(), &mapped)])
        .collect();
    all.sort_unstable();

    let list = |limit| {
        owner.run(async move { Sockets::open().unwrap().connections(&vips.map(|vip| vip.ip()), limit).await })
    };
    let began = Instant::now();
    let mut listed = list(1000).unwrap();
    eprintln!("listed after {} us", began.elapsed().as_micros());
    listed.sort_unstable();

    assert_eq!(listed, all);
    assert_eq!(list(2).unwrap().len(), 2);
    drop((other, both));
}

#[test]
fn thousands_of_connections_are_listed_whole() {
    let Some(segment) = Segment::new(2) else { return };
    let [client, owner] = &segment.stations[..] else { unreachable!("there are two") };
    claim(owner);
    let [vip, _] = servers();
    let listener = owner.enter(|| TcpListener::bind(vip).unwrap());
    let connections: Vec<_> = client.enter(|| {
        let connect = |_| (TcpStream::connect_timeout(&vip, PATIENCE).unwrap(), listener.accept().unwrap());
        (0..MANY).map(connect).collect()
    });

    let (listed, took) = owner.run(async move {
        let sockets = Sockets::open().unwrap();
        let began = Instant::now();
        (sockets.connections(&[vip.ip()], 2 * MANY).await.unwrap(), began.elapsed())
    });
    eprintln!("{} connections listed in {} us", listed.len(), took.as_micros());

    let mut listed: Vec<_> = listed.iter().map(Connection::client).collect();
    listed.sort_unstable();
    let mut expected: Vec<_> = connections.iter().map(|(near, _)| near.local_addr().unwrap()).collect();
    expected.sort_unstable();
    assert_eq!(listed, expected);
}

/// No socket of the owner's has them: the kernel leads them elsewhere, here to another port of its own.
#[test]
fn connections_that_the_kernel_leads_elsewhere_are_found_in_its_memory() {
    let Some(segment) = Segment::new(2) else { return };
    let [client, owner] = &segment.stations[..] else { unreachable!("there are two") };
    claim(owner);
    owner.nft("add table inet led");
    owner.nft("add chain inet led arriving { type nat hook prerouting priority -100 ; }");
    let lead = |rule: &str| drop(owner.nft(&format!("add rule inet led arriving {rule}")));
    lead("ip daddr 10.0.0.9 tcp dport 8443 dnat ip to 10.0.0.2:9000");
    lead("ip daddr 10.0.0.9 tcp dport 8444 dnat ip to 10.0.0.77:9000");
    lead("ip daddr 10.0.0.2 tcp dport 8443 dnat ip to 10.0.0.2:9000");
    let listen = |at: &str| owner.enter(|| TcpListener::bind(at).unwrap());
    let (backend, own) = (listen("10.0.0.2:9000"), listen("[fd00::9]:8443"));
    let connect = |to: &str, listener: &TcpListener| {
        let to: SocketAddr = to.parse().unwrap();
        let near = client.enter(|| TcpStream::connect_timeout(&to, PATIENCE).unwrap());
        (near, listener.accept().unwrap().0)
    };
    let mut led: Vec<_> = (0..3).map(|_| connect("10.0.0.9:8443", &backend)).collect();
    let _elsewhere = [connect("10.0.0.2:8443", &backend), connect("[fd00::9]:8443", &own)];
    // Nobody answers there.
    client.enter(|| {
        let unanswered = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        unanswered.set_nonblocking(true).unwrap();
        let to: SocketAddr = "10.0.0.9:8444".parse().unwrap();
        unanswered.connect(&to.into()).expect_err("nobody is there");
    });

    let forwarded = owner.enter(|| Forwarded::open(vec![8443, 8444])).unwrap();
    let vips = VIPS.map(|vip| vip.parse().unwrap());
    let found = |limit| {
        let connections = owner.enter(|| forwarded.connections(&vips, limit)).unwrap();
        connections.into_iter().collect::<BTreeSet<_>>()
    };
    let of = |led: &[(TcpStream, TcpStream)]| -> BTreeSet<_> {
        let vip = servers()[0];
        led.iter().map(|(near, _)| Connection::new(near.local_addr().unwrap(), vip).unwrap()).collect()
    };
    assert_eq!(found(10), of(&led));
    assert_eq!(found(2).len(), 2);
    assert!(owner.enter(|| forwarded.connections(&[], 10)).unwrap().is_empty());

    drop(led.pop());
    eventually("the one that has ended is none", || found(10) == of(&led));
}
