//! The limit of open files, reached by connections within the limit that follows from it, and reached in spite of it.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::backends::{Backends, lift_the_limit};
use crate::bystanders::{BEARABLE, Bystanders};
use crate::rig::{Daemon, PATIENCE, ask, free_port};
use crate::{echoes, metric};

/// The limit of open files, and what follows from it for connections: half of what is left beside 256.
const FILES: u64 = 20_000;
const CONNECTIONS: usize = 9_872;

/// Connections beyond the limit.
const BEYOND: usize = 50;

/// How long somebody waits who comes when all places are taken.
const WAITS: Duration = Duration::from_secs(120);

/// Requests over lasting connections that others make meanwhile.
const MEANWHILE: usize = 200;

/// Connections that are made and say nothing.
fn crowd(port: u16, count: usize) -> Vec<TcpStream> {
    let one = |_| {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        // Its end is a reset: nothing of it stays in the kernel.
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        stream
    };
    (0..count).map(one).collect()
}

fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A vipd that may open so many files.
fn limited(files: u64, name: &str, config: &str) -> Daemon {
    let mut command = Command::new("prlimit");
    command.arg(format!("--nofile={files}:{files}")).arg(env!("CARGO_BIN_EXE_vipd"));
    let mut daemon = Daemon::run(command, name, config, &[]);
    daemon.read_until("serves metrics and health");
    daemon.answers();
    daemon
}

fn open(metrics: u16) -> usize {
    metric(metrics, "vipd_frontend_open_connections") as usize
}

#[tokio::test]
async fn twenty_thousand_descriptors_are_used_up_and_those_who_are_in_feel_nothing() {
    let own = lift_the_limit();
    if own < FILES / 2 + 1000 {
        eprintln!("SKIPPED: this machine lets a process open {own} files, too few for the clients");
        return;
    }
    let (backends, port, metrics) = (Backends::start(3), free_port(), free_port());
    let comes_later: SocketAddr = ([127, 0, 0, 1], free_port()).into();
    let config = format!(
        "metrics: \":{metrics}\"\nloadBalancers:\n- name: api\n  port: {port}\n  check: {{type: tcp, interval: 100ms}}\n  \
         backends: [{}, {{address: 127.0.0.1, port: {}}}]\n",
        backends.listed(),
        comes_later.port()
    );
    let daemon = limited(FILES, "descriptors", &config);
    let mut others = Bystanders::start(&echoes(port).patient_for(WAITS));
    others.go_on(MEANWHILE).await;
    let before = metric(metrics, "process_open_fds");
    assert_eq!(metric(metrics, "vipd_frontend_connections_limit") as usize, CONNECTIONS);

    let began = Instant::now();
    let crowd = crowd(port, CONNECTIONS + BEYOND);
    eventually("all places are taken", || open(metrics) == CONNECTIONS);
    let took = began.elapsed();
    others.go_on_by(MEANWHILE, 0).await;

    // All else works: who asks is answered, and a backend that comes is found.
    let files = metric(metrics, "process_open_fds") as u64;
    assert!((2 * CONNECTIONS as u64..FILES).contains(&files), "{files} are open");
    assert_eq!(ask(metrics, "GET", "/readyz").code, 200);
    assert!(daemon.status(&[]).status.success());
    let state = |state| {
        metric(
            metrics,
            &format!(r#"vipd_backend_state{{frontend="api",backend="{comes_later}",state="{state}"}}"#),
        )
    };
    let later = TcpListener::bind(comes_later).unwrap();
    eventually("a backend that has come is ready", || state("ready") == 1.0);
    drop(later);
    eventually("a backend that has gone is dead", || state("dead") == 1.0);
    assert_eq!(open(metrics), CONNECTIONS);

    drop(crowd);
    others.go_on(MEANWHILE).await;
    let felt = others.stop(&format!("{CONNECTIONS} connections, all there may be, after {took:.1?}")).await;
    assert!(felt.lasting.failures.is_empty() && felt.anew.failures.is_empty(), "{felt:?}");
    assert!(felt.lasting.longest() < BEARABLE, "{}", felt.lasting);
    eventually("all is as before", || open(metrics) == 0 && metric(metrics, "process_open_fds") <= before);
    assert_eq!(metric(metrics, "vipd_frontend_refused_total"), 0.0);
    let (exit, log) = daemon.stop();
    assert!(exit.success() && log.matches("frontend is full").count() == 1, "{log}");
}

/// Whoever writes `maxConnections` down may write more than the files that may be open.
#[tokio::test]
async fn without_a_descriptor_left_connections_wait_or_are_refused_and_no_backend_is_blamed() {
    let (backends, port, metrics) = (Backends::start(3), free_port(), free_port());
    let config = format!(
        "metrics: \":{metrics}\"\nloadBalancers:\n- name: api\n  port: {port}\n  maxConnections: 1000\n  \
         check: {{type: tcp, interval: 100ms}}\n  backends: [{}]\n",
        backends.listed()
    );
    let mut daemon = limited(400, "starved", &config);
    let mut others = Bystanders::start(&echoes(port).patient_for(WAITS));
    others.go_on(MEANWHILE).await;
    let before = metric(metrics, "process_open_fds");

    let crowd = crowd(port, 500);
    daemon.read_until("out of file descriptors");
    let (began, used) = (Instant::now(), processor_time(&daemon));
    others.go_on_by(5 * MEANWHILE, 0).await;
    let (lasted, used) = (began.elapsed(), processor_time(&daemon) - used);
    // Whoever waits for a descriptor doesn't ask for it all the time.
    assert!(used < lasted / 2, "{used:?} of a processor in {lasted:?}");

    drop(crowd);
    others.go_on(MEANWHILE).await;
    let felt = others.stop("400 descriptors, all used up").await;
    assert!(felt.lasting.failures.is_empty(), "{felt:?}");
    assert!(felt.lasting.longest() < BEARABLE, "{}", felt.lasting);
    // Who was accepted and found no descriptor for the way to a backend, was refused after some seconds.
    let refused = metric(metrics, "vipd_frontend_refused_total") as usize;
    assert!(felt.anew.failures.len() <= refused, "{refused} were refused: {felt:?}");
    for backend in &backends.addresses {
        let labels = format!(r#"{{frontend="api",backend="{backend}""#);
        assert_eq!(metric(metrics, &format!("vipd_backend_connect_failures_total{labels}}}")), 0.0);
        assert_eq!(metric(metrics, &format!(r#"vipd_backend_state{labels},state="ready"}}"#)), 1.0);
    }
    eventually("all is as before", || open(metrics) == 0 && metric(metrics, "process_open_fds") <= before);
    assert!(daemon.status(&[]).status.success());
}

/// What a daemon has used of the processors.
fn processor_time(daemon: &Daemon) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemon.child.id())).unwrap();
    // In ticks; its name may hold anything, and its times are the twelfth field after it and the next.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}
