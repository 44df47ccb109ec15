//! The driver on real sockets: three members on loopback addresses of their own.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod consumer;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use consumer::consumer;
use leader::{
    Handle, Leadership, NodeId, Timing,
    peers::{Change, Client, Config, Driver, Key, Mismatch, Monitor, NOTE_BYTES_MAX, PeerStatus},
    quorum::{self, Impediment, StepDownError},
};
use tokio::{sync::watch, task::JoinHandle, time::Instant};

/// What is awaited here takes milliseconds, a lease or two at most. The machine may be busy.
const PATIENCE: Duration = Duration::from_secs(30);

fn moderate() -> Timing {
    Timing::new(Duration::from_millis(100), Duration::from_millis(800)).unwrap()
}

/// A cluster's addresses, unlike those of other clusters and other processes on this machine.
struct Cluster {
    addresses: BTreeMap<NodeId, SocketAddr>,
    timing: Timing,
}

struct Node {
    handle: Handle,
    monitor: Monitor,
    driver: JoinHandle<()>,
    consumer: JoinHandle<()>,
}

impl Cluster {
    fn new(nodes: u8, timing: Timing) -> Self {
        static CLUSTERS: AtomicU8 = AtomicU8::new(1);
        let [.., high, low] = std::process::id().to_be_bytes();
        let first = CLUSTERS.fetch_add(8, Ordering::Relaxed);
        let address = |n: u8| SocketAddr::from((Ipv4Addr::new(127, high, low, first + n), 10_240));
        let addresses = (0..nodes).map(|n| (name(n), address(n))).collect();
        Self { addresses, timing }
    }

    fn config(&self, n: u8) -> Config {
        let me = name(n);
        Config {
            listen: self.addresses[&me],
            peers: self
                .addresses
                .iter()
                .filter(|(id, _)| **id != me)
                .map(|(id, at)| (id.clone(), *at))
                .collect(),
            subject: None,
            keys: vec![Key::new(1, b"a secret of sixteen bytes or more").unwrap()],
            version: "0.1.0".to_owned(),
            quorum: quorum::Config {
                members: self.addresses.keys().cloned().collect(),
                witnesses: BTreeSet::new(),
                timing: self.timing,
                priority: 100,
                preempt: false,
                preempt_delay: Duration::ZERO,
                start_as_leader: false,
                tie_break: None,
                me,
            },
        }
    }

    async fn start(&self, n: u8) -> Node {
        Node::start(self.config(n), 1 + u64::from(n)).await
    }
}

impl Node {
    async fn start(config: Config, incarnation: u64) -> Self {
        let (driver, handle, monitor) = Driver::bind(config, incarnation, incarnation).await.unwrap();
        let driver = tokio::spawn(async move { driver.run().await.unwrap() });
        let consumer = consumer(&handle);
        Self { handle, monitor, driver, consumer }
    }

    async fn leads(&self) {
        until(self.handle.leadership(), |leadership| matches!(leadership, Leadership::Leader { .. })).await;
    }

    async fn follows(&self, leader: u8) {
        let wanted = Leadership::Follower { leader: Some(name(leader)) };
        until(self.handle.leadership(), |leadership| *leadership == wanted).await;
    }

    async fn sees(&self, peer: u8, what: impl Fn(&PeerStatus) -> bool) {
        let name = name(peer);
        until(self.monitor.peers(), |peers| peers.iter().any(|peer| peer.id == name && what(peer))).await;
    }

    async fn shut_down(self) {
        self.handle.shutdown().await;
        self.driver.await.unwrap();
        self.consumer.await.unwrap();
    }

    /// Ends it without a word, as a crash would.
    async fn crash(self) {
        self.driver.abort();
        assert!(self.driver.await.unwrap_err().is_cancelled());
        self.consumer.await.unwrap();
    }
}

fn name(n: u8) -> NodeId {
    NodeId::new(&format!("n{n}")).unwrap()
}

async fn until<T>(mut watched: watch::Receiver<T>, reached: impl Fn(&T) -> bool) {
    let reached = tokio::time::timeout(PATIENCE, watched.wait_for(reached)).await;
    drop(reached.expect("it happens in time").expect("the driver runs"));
}

#[tokio::test]
async fn a_single_member_leads_at_once() {
    let cluster = Cluster::new(1, Timing::RELAXED);
    let begun = Instant::now();
    let node = cluster.start(0).await;
    node.leads().await;
    assert!(begun.elapsed() < Timing::RELAXED.lease(), "took {:?}", begun.elapsed());
    assert_eq!(node.handle.step_down(None).await, Err(StepDownError::NoSuccessor));
    let begun = Instant::now();
    node.shut_down().await;
    assert!(
        begun.elapsed() < Timing::RELAXED.lease(),
        "it waited for the end of its lease: {:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn traffic_is_counted_and_told_a_few_times_a_second() {
    let cluster = Cluster::new(3, moderate());
    let mut config = cluster.config(0);
    // Where the kernel lets nobody send to who hasn't asked for it.
    let nowhere = SocketAddr::from((Ipv4Addr::BROADCAST, 10_240));
    *config.peers.get_mut(&name(2)).unwrap() = nowhere;
    let (a, b) = (Node::start(config, 1).await, cluster.start(1).await);
    a.leads().await;
    let mut traffic = a.monitor.traffic();
    until(traffic.clone(), |traffic| traffic.sent > 9 && traffic.unsent > 9 && traffic.received > 9).await;
    assert_eq!(b.monitor.traffic().borrow().unsent, 0);

    let mut told = 0;
    let _over = tokio::time::timeout(Duration::from_secs(2), async {
        while traffic.changed().await.is_ok() {
            told += 1;
        }
    })
    .await;
    assert!((1..50).contains(&told), "{told} times in two seconds, with nothing but heartbeats");
    b.shut_down().await;
    a.shut_down().await;
}

#[tokio::test]
async fn three_members_elect_one_and_survive_its_crash() {
    let cluster = Cluster::new(3, moderate());
    let [a, b, c] = [cluster.start(0).await, cluster.start(1).await, cluster.start(2).await];
    a.leads().await;
    b.follows(0).await;
    c.follows(0).await;
    let until = a.handle.leadership().borrow().lease_end(Instant::now().into_std());
    assert!(until.is_some(), "the lease is ahead");

    let begun = Instant::now();
    a.crash().await;
    b.leads().await;
    let outage = begun.elapsed();
    println!("the successor led {outage:?} after the crash, with a lease of {:?}", cluster.timing.lease());
    c.follows(1).await;
    assert!(outage < cluster.timing.exclusion() * 10);

    // The crashed one comes back as another incarnation, and is believed once it has proved to be alive.
    let a = Node::start(cluster.config(0), 77).await;
    a.follows(1).await;
    a.shut_down().await;
    c.shut_down().await;
    b.shut_down().await;
}

#[tokio::test]
async fn a_shutdown_hands_over_to_the_successor_without_a_timeout() {
    let cluster = Cluster::new(3, Timing::RELAXED);
    let [a, b, c] = [cluster.start(0).await, cluster.start(1).await, cluster.start(2).await];
    a.leads().await;
    b.follows(0).await;
    c.follows(0).await;

    let begun = Instant::now();
    let leaving = tokio::spawn(a.shut_down());
    b.leads().await;
    let handed_over = begun.elapsed();
    println!("the successor led {handed_over:?} after the shutdown began");
    assert!(
        handed_over < Timing::RELAXED.lease() / 2,
        "no timeout may be in the path, but it took {handed_over:?}"
    );
    leaving.await.unwrap();
    c.follows(1).await;
    c.shut_down().await;
    b.shut_down().await;
}

#[tokio::test]
async fn stepping_down_by_command_gives_the_lead_away_and_keeps_it_away() {
    let cluster = Cluster::new(3, moderate());
    let [a, b, c] = [cluster.start(0).await, cluster.start(1).await, cluster.start(2).await];
    a.leads().await;
    b.follows(0).await;
    c.follows(0).await;
    a.sees(1, |peer| peer.said.as_ref().is_some_and(|said| !said.abstaining)).await;
    a.sees(2, |peer| peer.said.as_ref().is_some_and(|said| !said.abstaining)).await;

    assert_eq!(b.handle.step_down(None).await, Err(StepDownError::NotLeader));
    assert_eq!(a.handle.step_down(None).await, Ok(Some(name(1))));
    b.leads().await;
    a.follows(1).await;
    b.sees(0, |peer| peer.said.as_ref().is_some_and(|said| said.stopping && said.resting)).await;
    let resting = StepDownError::Impeded { node: name(0), impediment: Impediment::Resting };
    assert_eq!(b.handle.step_down(Some(name(0))).await, Err(resting));
    assert_eq!(b.handle.step_down(Some(name(2))).await, Ok(Some(name(2))));
    c.leads().await;
    for node in [a, c, b] {
        node.shut_down().await;
    }
}

#[tokio::test]
async fn an_ineligible_leader_hands_over_to_an_eligible_member() {
    let cluster = Cluster::new(3, moderate());
    let [a, b, c] = [cluster.start(0).await, cluster.start(1).await, cluster.start(2).await];
    a.leads().await;
    b.handle.set_eligible(false);
    a.sees(1, |peer| peer.said.as_ref().is_some_and(|said| !said.eligible)).await;
    a.handle.set_eligible(false);
    c.leads().await;
    for node in [a, b, c] {
        node.shut_down().await;
    }
}

#[tokio::test]
async fn a_member_with_a_wrong_key_is_refused_and_seen() {
    let cluster = Cluster::new(3, moderate());
    let mut wrong = cluster.config(2);
    wrong.keys = vec![Key::new(1, b"quite another secret than theirs").unwrap()];
    let stranger = Node::start(wrong, 9).await;
    let [a, b] = [cluster.start(0).await, cluster.start(1).await];
    a.leads().await;
    b.follows(0).await;
    a.sees(2, |peer| peer.mismatch == Some(Mismatch::BadSignature { key: 1 }) && peer.heard.is_none()).await;
    stranger
        .sees(0, |peer| peer.mismatch == Some(Mismatch::BadSignature { key: 1 }) && !peer.authenticated)
        .await;
    a.sees(1, |peer| peer.mismatch.is_none() && peer.authenticated).await;
    until(a.monitor.traffic(), |traffic| traffic.dropped.unreadable > 0 && traffic.sent > 0).await;
    assert_eq!(*stranger.handle.leadership().borrow(), Leadership::Follower { leader: None });
    for node in [stranger, b, a] {
        node.shut_down().await;
    }
}

#[tokio::test]
async fn the_clients_of_a_leader_that_crashed_are_inherited_by_the_next() {
    let cluster = Cluster::new(3, moderate());
    let [a, b, c] = [cluster.start(0).await, cluster.start(1).await, cluster.start(2).await];
    a.leads().await;
    b.follows(0).await;
    c.follows(0).await;
    let clients: Vec<_> =
        (0..3_000_u32).map(|number| Client::new(&number.to_be_bytes().repeat(9)).unwrap()).collect();
    let came: Vec<_> = clients.iter().cloned().map(Change::Came).collect();

    let begun = Instant::now();
    a.monitor.clients().tell(&came).await;
    for node in [&b, &c] {
        until(node.monitor.clients().known(), |known| known.heard == clients.len()).await;
    }
    println!("{} clients were known to all after {:?} at most", clients.len(), begun.elapsed());
    assert_eq!(b.monitor.clients().inherit().await, [], "it doesn't lead");
    a.crash().await;
    b.leads().await;

    let mut inherited = b.monitor.clients().inherit().await;
    inherited.sort_unstable();
    assert_eq!(inherited, clients);
    until(c.monitor.clients().known(), |known| known.heard == 0).await;

    b.monitor.clients().tell(&came[..1]).await;
    until(c.monitor.clients().known(), |known| known.heard == 1).await;
    until(b.monitor.clients().known(), |known| known.own == 1).await;
    b.monitor.clients().clear().await;
    until(c.monitor.clients().known(), |known| known.heard == 0).await;
    c.shut_down().await;
    b.shut_down().await;
}

/// From the first moment that its reader is known to live, and from a process that was started anew.
#[tokio::test]
async fn notes_reach_every_member_whole_and_the_latest_counts() {
    let cluster = Cluster::new(3, moderate());
    let (a, b, c) = (cluster.start(0).await, cluster.start(1).await, cluster.start(2).await);
    a.leads().await;
    for (node, others) in [(&a, [1, 2]), (&b, [0, 2]), (&c, [0, 1])] {
        for other in others {
            node.sees(other, |peer| peer.heard.is_some()).await;
        }
    }
    let text = |seed: u8, length: usize| -> Vec<u8> {
        (0..length).map(|at| u8::try_from(at % 251).unwrap() ^ seed).collect()
    };
    let hears = async |node: &Node, of: u8, wanted: &[u8]| {
        let of = name(of);
        until(node.monitor.notes().heard(), |notes| {
            notes.get(&of).is_some_and(|note| *note.bytes == *wanted)
        })
        .await;
    };
    for length in [1, 5000, NOTE_BYTES_MAX] {
        a.monitor.notes().tell(text(1, length)).await;
        hears(&b, 0, &text(1, length)).await;
        hears(&c, 0, &text(1, length)).await;
    }
    c.monitor.notes().tell(text(3, 2000)).await;
    hears(&a, 2, &text(3, 2000)).await;
    assert!(!b.monitor.notes().heard().borrow().contains_key(&name(1)), "its own is no news to it");

    // Too long: what was told before stands.
    a.monitor.notes().tell(text(9, NOTE_BYTES_MAX + 1)).await;
    a.monitor.notes().tell(text(2, 10)).await;
    hears(&b, 0, &text(2, 10)).await;

    // The next process counts anew, and may have to be heard first.
    c.crash().await;
    let c = Node::start(cluster.config(2), 77).await;
    c.sees(0, |peer| peer.heard.is_some()).await;
    a.sees(2, |peer| peer.said.as_ref().is_some_and(|said| said.abstaining)).await;
    c.monitor.notes().tell(text(4, 2000)).await;
    hears(&a, 2, &text(4, 2000)).await;
}
