//! Running out of file descriptors. The limit is the process's, so this test has a process of its own.

use std::collections::BTreeSet;
use std::fs::File;
use std::time::Duration;

use lb::{Backend, Balancer, Check, CheckKind, Config, Frontend, Health, Limits, Listen, Policy, Timeouts};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Above what the test needs, below what a machine may allow by default.
const FILES: u64 = 256;

#[tokio::test]
async fn connections_wait_for_a_file_descriptor_and_no_backend_is_blamed() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(FILES), ..limit }).unwrap();
    // It never accepts: its descriptors are not what is measured, and a byte is never due.
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backends = vec![Backend { name: "a".into(), address: server.local_addr().unwrap(), cordoned: false }];
    let check =
        Check { kind: CheckKind::Tcp, interval: Duration::from_millis(20), fall: 1, ..Check::default() };
    let frontend = Frontend {
        name: "api".into(),
        listen: Listen::Addresses { ips: vec!["127.0.0.1".parse().unwrap()], port: 0 },
        backends,
        policy: Policy::LeastConnections,
        slow_start: None,
        check,
        timeouts: Timeouts { connect: Duration::from_secs(20), ..Timeouts::default() },
        limits: Limits { max_connections: 100, per_source: None },
        virtual_ips: Vec::new(),
        rebalance: None,
        proxies: Vec::new(),
        transparent_source: Vec::new(),
        proxy_protocol: None,
        access_log: false,
    };
    let (_sender, held) = tokio::sync::watch::channel(BTreeSet::new());
    let balancer = Balancer::start(Config { frontends: vec![frontend], workers: 1 }, held).unwrap();
    let address = balancer.status().frontends[0].listen[0];
    let mut changes = balancer.monitor().changes();
    while balancer.status().frontends[0].backends[0].health != Health::Ready {
        changes.changed().await.unwrap();
    }

    let (mut lasting, mut its_server) = (TcpStream::connect(address).await.unwrap(), None);
    lasting.write_all(b"?").await.unwrap();
    while its_server.is_none() {
        let (mut accepted, _) = server.accept().await.unwrap();
        // The check's connection says nothing.
        let said = tokio::time::timeout(Duration::from_millis(500), accepted.read_u8()).await;
        its_server = said.is_ok_and(|said| said.is_ok()).then_some(accepted);
    }
    let mut its_server = its_server.unwrap();

    // None free: accepting waits. One free: the connection is accepted, and connecting on waits.
    for free in [0, 1] {
        let total = free as u64 + 1;
        let client = TcpSocket::new_v4().unwrap();
        let mut fillers: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        fillers.truncate(fillers.len() - free);
        let mut client = client.connect(address).await.unwrap();
        let starved = tokio::time::timeout(Duration::from_millis(200), client.read_u8()).await;
        assert!(starved.is_err(), "with {free} free it ended: {starved:?}");
        assert_eq!(balancer.status().frontends[0].backends[0].total, total);
        // Those that are connected feel nothing of it.
        for _ in 0..100 {
            lasting.write_all(b"!").await.unwrap();
            let heard = tokio::time::timeout(Duration::from_secs(2), its_server.read_u8()).await;
            assert_eq!(heard.expect("it takes microseconds").unwrap(), b'!');
        }

        drop(fillers);

        let reached = async {
            while balancer.status().frontends[0].backends[0].total != total + 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), reached).await.expect("it takes half a second");
    }

    let backend = balancer.status().frontends[0].backends.remove(0);
    assert_eq!((backend.health, backend.connect_failures), (Health::Ready, 0));
    assert_eq!(balancer.status().frontends[0].refused, 0);
}
