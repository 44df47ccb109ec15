//! Another configuration while connections go on: all of it or nothing, and nobody is lost.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use fastrand::Rng;
use lb::{Balancer, CheckKind, Config, Error, Frontend, FrontendStatus, Health, Limits, Listen, Policy};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::rig::{
    Rig, Server, backend, ended_by_reset, frontend, named_echo, own_ip, read_name, soon, until,
};

const WORKERS: usize = 2;

/// Clients that connect as fast as they are served, each on its own.
const CLIENTS: usize = 4;

const CONFIGURATIONS: usize = 200;

async fn apply(balancer: &Balancer, frontends: Vec<Frontend>) -> Result<(), Error> {
    soon(balancer.configuration().apply(Config { frontends, workers: WORKERS })).await
}

fn of<'a>(statuses: &'a [FrontendStatus], name: &str) -> &'a FrontendStatus {
    statuses.iter().find(|status| status.name == name).unwrap()
}

fn listening(balancer: &Balancer, name: &str) -> Vec<SocketAddr> {
    of(&balancer.status().frontends, name).listen.clone()
}

pub(crate) async fn echoed(stream: &mut TcpStream) {
    stream.write_all(b"x").await.unwrap();
    assert_eq!(soon(stream.read_u8()).await.unwrap(), b'x');
}

pub(crate) async fn greeted(address: SocketAddr) -> (TcpStream, String) {
    let mut stream = soon(TcpStream::connect(address)).await.unwrap();
    let name = read_name(&mut stream).await.unwrap();
    (stream, name)
}

/// A port that is free on every address of this host, and none that the kernel gives to connections meanwhile: there are many.
pub(crate) async fn free_port() -> u16 {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 20_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        // Each process begins elsewhere.
        let place = std::process::id().wrapping_mul(97).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(FIRST + place % COUNT).unwrap();
        if TcpListener::bind(("::", port)).await.is_ok() {
            return port;
        }
    }
}

/// Waits until nobody listens there.
pub(crate) async fn until_refused(address: SocketAddr) {
    let look = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon(look).await;
}

/// Whole conversations until told to stop: the connection must be taken, greeted, and end in good order.
async fn converse(address: SocketAddr, done: mpsc::Sender<()>, stop: watch::Receiver<bool>) -> usize {
    let mut conversations = 0;
    while !*stop.borrow() {
        let (mut stream, _) = greeted(address).await;
        echoed(&mut stream).await;
        stream.shutdown().await.unwrap();
        assert_eq!(soon(stream.read_to_end(&mut Vec::new())).await.unwrap(), 0);
        conversations += 1;
        // Nobody counts any more at the end.
        let _ = done.send(()).await;
    }
    conversations
}

/// Traffic to an address while something changes.
pub(crate) struct Traffic {
    tasks: JoinSet<usize>,
    conversations: mpsc::Receiver<()>,
    stop: watch::Sender<bool>,
}

impl Traffic {
    pub(crate) fn to(address: SocketAddr) -> Self {
        let (done, conversations) = mpsc::channel(CLIENTS);
        let stop = watch::Sender::new(false);
        let mut tasks = JoinSet::new();
        for _ in 0..CLIENTS {
            tasks.spawn(converse(address, done.clone(), stop.subscribe()));
        }
        Self { tasks, conversations, stop }
    }

    /// Waits until as many have been had as there are clients: all of them have begun anew.
    pub(crate) async fn goes_on(&mut self) {
        for _ in 0..=CLIENTS {
            soon(self.conversations.recv()).await.unwrap();
        }
    }

    /// Ends it, and fails where one of its connections did; gives their number.
    pub(crate) async fn end(mut self) -> usize {
        self.stop.send_replace(true);
        drop(self.conversations);
        let mut conversations = 0;
        while let Some(ended) = soon(self.tasks.join_next()).await {
            conversations += ended.unwrap();
        }
        conversations
    }
}

#[tokio::test]
async fn timeouts_limits_and_rules_change_while_flows_go_on() {
    let (a, b) = (named_echo("a").await, named_echo("b").await);
    let config = frontend(vec![backend("a", a.address), backend("b", b.address)]);
    let rig = Rig::judged(config.clone()).await;
    let mut lasting = rig.connect().await;
    read_name(&mut lasting).await.unwrap();
    let total = |rig: &Rig| rig.status().backends.iter().map(|backend| backend.total).sum::<u64>();

    let mut other = config.clone();
    other.policy = Policy::RoundRobin;
    other.limits = Limits { max_connections: 3, per_source: NonZeroUsize::new(2) };
    apply(&rig.balancer, vec![other.clone()]).await.unwrap();

    assert_eq!((rig.status().max_connections, rig.status().connections, total(&rig)), (3, 1, 1));
    // By turns, and two of one host besides the one that nobody counted.
    let (_one, first) = greeted(rig.address).await;
    let (_two, second) = greeted(rig.address).await;
    assert_ne!(first, second);
    assert!(rig.resets().await);
    assert_eq!(rig.status().rejected, 1);
    echoed(&mut lasting).await;

    other.limits = Limits { max_connections: 2, per_source: None };
    other.timeouts.idle = Some(Duration::from_millis(200));
    apply(&rig.balancer, vec![other]).await.unwrap();

    // More than there may be, and none of them is ended for that; but all have nothing to say.
    assert_eq!((rig.status().max_connections, rig.status().connections), (2, 3));
    assert!(ended_by_reset(&mut lasting).await, "the idle timeout holds for it too");
    rig.wait(|status| status.connections == 0).await;
    apply(&rig.balancer, vec![config]).await.unwrap();
    let (mut again, _) = greeted(rig.address).await;
    echoed(&mut again).await;
    assert_eq!((rig.status().accepted, rig.status().refused), (5, 0));
}

#[tokio::test]
async fn another_check_asks_at_once_and_what_was_known_stands_until_then() {
    let server = named_echo("a").await;
    let mut config = frontend(vec![backend("a", server.address)]);
    // It speaks no TLS.
    config.check.kind = CheckKind::Https { path: "/readyz".into(), ca: lb::Ca::None };
    config.check.interval = Duration::from_secs(3600);
    let rig = Rig::start(config.clone());
    rig.wait_health("a", Health::Dead).await;
    let checks = server.accepted();

    // The same again is no reason to ask.
    apply(&rig.balancer, vec![config.clone()]).await.unwrap();
    assert_eq!(rig.backend("a").health, Health::Dead);
    config.check.kind = CheckKind::Tcp;
    config.check.rise = 100;
    apply(&rig.balancer, vec![config.clone()]).await.unwrap();

    rig.wait_health("a", Health::Ready).await;
    until(|| server.accepted() == checks + 1).await;
    config.check.kind = CheckKind::None;
    apply(&rig.balancer, vec![config]).await.unwrap();
    assert_eq!(rig.backend("a").health, Health::Ready);
    until(|| server.open() == 0).await;
}

#[tokio::test]
async fn a_frontend_that_comes_listens_at_once_and_one_that_goes_keeps_its_flows() {
    let (a, b) = (named_echo("a").await, named_echo("b").await);
    let api = frontend(vec![backend("a", a.address)]);
    let rig = Rig::judged(api.clone()).await;
    let mut other = frontend(vec![backend("b", b.address)]);
    other.name = "other".into();

    apply(&rig.balancer, vec![other.clone(), api.clone()]).await.unwrap();

    let address = listening(&rig.balancer, "other")[0];
    let (mut flow, name) = greeted(address).await;
    assert_eq!(name, "b");
    let names: Vec<_> = rig.balancer.status().frontends.into_iter().map(|status| status.name).collect();
    assert_eq!(names, ["other", "api"], "in the order of the configuration");

    apply(&rig.balancer, vec![api.clone()]).await.unwrap();

    until_refused(address).await;
    until(|| of(&rig.balancer.status().frontends, "other").connections == 1).await;
    let status = rig.balancer.status();
    assert!(of(&status.frontends, "other").leaving && !of(&status.frontends, "api").leaving);
    assert!(rig.balancer.backends().set("other", Vec::new()).is_err(), "it can't be given anything");
    echoed(&mut flow).await;
    assert_eq!(greeted(rig.address).await.1, "a");

    // It comes back as what it is, elsewhere, and goes again.
    other.listen = Listen::Addresses { ips: vec![own_ip()], port: 0 };
    apply(&rig.balancer, vec![api.clone(), other]).await.unwrap();
    let back = of(&rig.balancer.status().frontends, "other").clone();
    assert_eq!((back.leaving, back.connections), (false, 1));
    assert_ne!(back.listen[0], address);
    let (second, _) = greeted(back.listen[0]).await;
    apply(&rig.balancer, vec![api]).await.unwrap();

    // Its backends are checked as long as it has flows: a dead one ends them, although their clients don't.
    drop(second);
    b.kill().await;
    until(|| rig.balancer.status().frontends.len() == 1).await;
    drop(flow);
    assert!(*rig.balancer.usable().borrow(), "what has gone is nobody's trouble");
}

#[tokio::test]
async fn a_change_that_can_not_be_made_whole_is_not_made_at_all() {
    let (a, b) = (named_echo("a").await, named_echo("b").await);
    let api = frontend(vec![backend("a", a.address)]);
    let rig = Rig::judged(api.clone()).await;
    let blocker = TcpListener::bind((own_ip(), 0)).await.unwrap();
    let blocked = blocker.local_addr().unwrap();
    let changed = Frontend {
        listen: Listen::Addresses { ips: vec![own_ip()], port: 0 },
        backends: vec![backend("b", b.address)],
        limits: Limits { max_connections: 1, per_source: None },
        ..api.clone()
    };
    let other = Frontend {
        name: "other".into(),
        listen: Listen::Addresses { ips: vec![blocked.ip()], port: blocked.port() },
        ..frontend(vec![backend("b", b.address)])
    };
    let before = rig.status();

    let refused = apply(&rig.balancer, vec![changed.clone(), other.clone()]).await.unwrap_err();
    assert!(matches!(&refused, Error::AddressInUse { address, .. } if *address == blocked), "{refused}");
    let refused = apply(&rig.balancer, vec![changed.clone(), other.clone(), other]).await.unwrap_err();
    assert!(matches!(&refused, Error::Impossible { frontend, .. } if frontend == "other"), "{refused}");
    let mut nothing = changed.clone();
    nothing.limits.max_connections = 0;
    let refused = apply(&rig.balancer, vec![nothing]).await.unwrap_err();
    assert!(matches!(&refused, Error::Impossible { frontend, .. } if frontend == "api"), "{refused}");
    let config = Config { frontends: vec![changed], workers: WORKERS + 1 };
    let refused = rig.balancer.configuration().apply(config).await.unwrap_err();
    assert!(matches!(refused, Error::Workers { running: WORKERS, .. }), "{refused}");

    let after = rig.status();
    assert_eq!((before.listen, before.max_connections), (after.listen, after.max_connections));
    assert_eq!(rig.balancer.status().frontends.len(), 1);
    assert_eq!(greeted(rig.address).await.1, "a");
    let configuration = rig.balancer.configuration();
    drop(rig);
    let late = soon(configuration.apply(Config { frontends: vec![api], workers: WORKERS })).await;
    assert!(matches!(late, Err(Error::Ending)), "{late:?}");
}

/// From every address to one of them and back, and under another name: each time the port is the same, and has no gap.
#[tokio::test]
async fn a_port_that_stays_loses_no_connection_whoever_has_it() {
    let server = named_echo("a").await;
    let (ip, port) = (own_ip(), free_port().await);
    let (any, one) = (Listen::Any { port }, Listen::Addresses { ips: vec![ip], port });
    let of = |name: &str, listen: &Listen| Frontend {
        name: name.into(),
        listen: listen.clone(),
        ..frontend(vec![backend("a", server.address)])
    };
    let address = SocketAddr::new(ip, port);
    let rig = Rig::judged(of("api", &any)).await;
    let mut traffic = Traffic::to(address);
    let mut lasting = greeted(address).await.0;

    for (name, listen) in [("api", &one), ("new", &one), ("new", &any), ("api", &any), ("api", &one)] {
        traffic.goes_on().await;
        apply(&rig.balancer, vec![of(name, listen)]).await.unwrap();
        traffic.goes_on().await;
        echoed(&mut lasting).await;
        // At once again: no change waits for the end of the last.
        apply(&rig.balancer, vec![of(name, listen)]).await.unwrap();
    }

    let conversations = traffic.end().await;
    assert!(conversations > 10 * CLIENTS, "{conversations}");
    until_refused(SocketAddr::new(own_ip(), port)).await;
    assert_eq!(greeted(address).await.1, "a");
    echoed(&mut lasting).await;
    let sum = |of: fn(&FrontendStatus) -> u64| rig.balancer.status().frontends.iter().map(of).sum::<u64>();
    assert_eq!((sum(|status| status.refused), sum(|status| status.rejected)), (0, 0));
}

#[tokio::test]
async fn connections_that_wait_for_room_at_a_port_that_goes_are_served_when_there_is_some() {
    let server = named_echo("a").await;
    let mut config = frontend(vec![backend("a", server.address)]);
    config.limits.max_connections = 1;
    let rig = Rig::judged(config.clone()).await;
    let (mut first, _) = greeted(rig.address).await;
    // One is taken from each queue, the others stay there.
    let mut waiting = Vec::new();
    for _ in 0..8 {
        waiting.push(rig.connect().await);
    }

    config.listen = Listen::Addresses { ips: vec![own_ip()], port: 0 };
    apply(&rig.balancer, vec![config.clone()]).await.unwrap();
    // The next change leaves it at once.
    apply(&rig.balancer, vec![config]).await.unwrap();
    until_refused(rig.address).await;

    echoed(&mut first).await;
    assert_eq!(rig.status().connections, 1);
    drop(first);
    // One after the other, in whatever order.
    let mut served = JoinSet::new();
    for mut stream in waiting {
        served.spawn(async move {
            assert_eq!(read_name(&mut stream).await.unwrap(), "a");
            echoed(&mut stream).await;
        });
    }
    while let Some(one) = soon(served.join_next()).await {
        one.unwrap();
    }
    rig.wait(|status| status.connections == 0).await;
}

/// A configuration by chance: the frontend that everybody uses, with whatever may change of it, and up to two others that swap ports and
/// names, at every address or at one.
fn chance(rng: &mut Rng, fixed: &Frontend, ports: [u16; 2]) -> Vec<Frontend> {
    let mut always = fixed.clone();
    rng.shuffle(&mut always.backends);
    always.backends.truncate(rng.usize(1..=fixed.backends.len()));
    always.access_log = rng.bool();
    always.limits.max_connections = rng.usize(50..1000);
    always.timeouts.idle = Some(Duration::from_secs(rng.u64(60..3600)));
    let mut frontends = vec![always];
    let Listen::Addresses { ips, .. } = &fixed.listen else { unreachable!("it has one") };
    let mut names = ["one", "two"];
    rng.shuffle(&mut names);
    for (name, port) in names.into_iter().zip(ports) {
        let listen = match rng.u8(..4) {
            0 => Listen::Any { port },
            1 => Listen::Addresses { ips: ips.clone(), port },
            2 => Listen::Nowhere,
            _ => continue,
        };
        frontends.push(Frontend { name: name.into(), listen, ..frontend(fixed.backends.clone()) });
    }
    rng.shuffle(&mut frontends);
    frontends
}

#[tokio::test]
async fn hundreds_of_configurations_under_traffic_lose_nobody_and_leave_nothing_behind() {
    let seed = Rng::new().u64(..);
    eprintln!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let servers = [named_echo("a").await, named_echo("b").await, named_echo("c").await];
    let (ip, ports) = (own_ip(), [free_port().await, free_port().await, free_port().await]);
    let backends: Vec<_> =
        servers.iter().map(|server| backend(&server.address.to_string(), server.address)).collect();
    let fixed = Frontend {
        name: "fixed".into(),
        listen: Listen::Addresses { ips: vec![ip], port: ports[0] },
        ..frontend(backends)
    };
    let (_held, held) = watch::channel(BTreeSet::new());
    let config = Config { frontends: vec![fixed.clone()], workers: WORKERS };
    let balancer = Balancer::start(config, held).unwrap();
    let address = SocketAddr::new(ip, ports[0]);
    let mut traffic = Traffic::to(address);
    let (mut lasting, mut flows) = (greeted(address).await.0, Vec::new());

    for _ in 0..CONFIGURATIONS {
        let frontends = chance(&mut rng, &fixed, [ports[1], ports[2]]);
        let there: Vec<_> = frontends.iter().filter_map(|it| it.listen.port()).collect();
        apply(&balancer, frontends).await.unwrap();

        for port in there {
            let (stream, _) = greeted(SocketAddr::new(ip, port)).await;
            if rng.u8(..8) == 0 {
                flows.push(stream);
            }
        }
        soon(traffic.conversations.recv()).await.unwrap();
        echoed(&mut lasting).await;
    }

    for flow in &mut flows {
        echoed(flow).await;
    }
    let last = Frontend { backends: fixed.backends[..1].to_vec(), ..fixed };
    apply(&balancer, vec![last]).await.unwrap();
    assert!(traffic.end().await >= CONFIGURATIONS);
    drop((flows, lasting));
    until(|| balancer.status().frontends.len() == 1).await;
    let left = balancer.status().frontends.remove(0);
    assert_eq!((left.refused, left.rejected), (0, 0));
    // Of all backends the check of the one that is left.
    until(|| servers.iter().map(Server::open).eq([1, 0, 0])).await;
    for port in [ports[1], ports[2]] {
        until_refused(SocketAddr::new(ip, port)).await;
    }
}
