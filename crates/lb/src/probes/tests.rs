use std::sync::Weak;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout};

use super::*;
use crate::config::{Backend, Check, CheckKind, Frontend, Limits, Listen, Policy, Timeouts};
use crate::frontend::{Bells, Settings};
use crate::health::Health;

const PATIENCE: Duration = Duration::from_secs(20);

/// Takes connections and holds them until the other side ends them.
async fn server() -> Backend {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            spawn_local(async move { stream.read_u8().await });
        }
    });
    Backend { name: address.to_string(), address, cordoned: false }
}

fn frontend(kind: CheckKind) -> Frontend {
    Frontend {
        name: "api".into(),
        listen: Listen::Nowhere,
        backends: Vec::new(),
        policy: Policy::RoundRobin,
        slow_start: None,
        check: Check { kind, interval: Duration::from_secs(3600), ..Check::default() },
        timeouts: Timeouts::default(),
        limits: Limits { max_connections: 1, per_source: None },
        virtual_ips: Vec::new(),
        rebalance: None,
        proxies: Vec::new(),
        transparent_source: Vec::new(),
        proxy_protocol: None,
        access_log: false,
    }
}

/// Swaps the one backend `swaps` times, each time until it has been judged, then takes it away.
async fn churn(kind: CheckKind, swaps: usize) -> (Probes, Vec<Weak<Target>>) {
    let servers = [server().await, server().await, server().await];
    let (frontend, bells) = (frontend(kind), Bells::default());
    let settings = Arc::new(Settings::new(&frontend, Vec::new(), None));
    let shared = Arc::new(Shared::new(1, &frontend, settings, bells.clone(), Instant::now().into_std()));
    let board = Rc::new(Board::new(vec![Arc::clone(&shared)].into()));
    let mut probes = Probes::new(board, bells.review, Rng::with_seed(1));
    probes.plan(&shared, Plan::new(&frontend).unwrap());
    let mut seen = Vec::new();
    for turn in 0..swaps {
        let now = Instant::now().into_std();
        shared.set_backends(vec![servers[turn % servers.len()].clone()], now);
        probes.review().await;
        probes.follow();

        let roster = shared.roster();
        let target = &roster.present()[0];
        seen.push(Arc::downgrade(target));
        let mut judged = target.judgement.subscribe();
        let judged = judged.wait_for(|judgement| judgement.health == Health::Ready);
        timeout(PATIENCE, judged).await.expect("a check takes milliseconds").unwrap();
        // The one that is there, and the one before it where its end has not been seen.
        assert!(probes.tasks.len() <= 2, "{} in turn {turn}", probes.tasks.len());
    }
    shared.set_backends(Vec::new(), Instant::now().into_std());
    probes.review().await;
    probes.follow();
    (probes, seen)
}

#[test]
fn hundreds_of_swaps_leave_no_task_and_no_backend_behind() {
    for kind in [CheckKind::Tcp, CheckKind::None] {
        let runtime =
            Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
        runtime.block_on(async {
            let (mut probes, seen) = churn(kind, 300).await;

            let ended = async {
                while !probes.tasks.is_empty() {
                    let _ = timeout(Duration::from_millis(5), probes.review()).await;
                }
            };
            timeout(PATIENCE, ended).await.expect("an aborted task ends at once");
            assert_eq!(seen.len(), 300);
            assert_eq!(seen.iter().filter(|target| target.strong_count() > 0).count(), 0);
            assert!(probes.followed[0].probes.is_empty());
        });
    }
}
