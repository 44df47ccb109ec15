//! What is told over HTTP: by real daemons, asked over loopback.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::ptrace;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::time::Instant;

use super::health::{assert_unwell, assert_well};
use super::openmetrics::{self, Family};
use super::rig::{Answer, Daemon, PATIENCE, ask, balancer, free_port};

/// As many connections as one listener holds.
const CONNECTIONS_MAX: usize = 64;

fn get(port: u16, path: &str) -> Answer {
    ask(port, "GET", path)
}

/// A daemon with a balancer on a port, and everything served on another.
fn serving(name: &str) -> (Daemon, u16, u16) {
    let (port, web) = (free_port(), free_port());
    let daemon = Daemon::serving(name, &format!("{}metrics: ':{web}'\n", balancer(port)), &[]);
    (daemon, port, web)
}

fn scrape(port: u16) -> Vec<Family> {
    let answer = get(port, "/metrics");
    assert_eq!(answer.code, 200, "{answer:?}");
    let media = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(answer.head.contains(media), "{}", answer.head);
    openmetrics::read(&answer.body).unwrap_or_else(|error| panic!("{error}\n{}", answer.body))
}

/// The value of the one sample whose labels include these.
fn value(families: &[Family], name: &str, labels: &[(&str, &str)]) -> f64 {
    let family = families.iter().find(|family| family.name == name).unwrap_or_else(|| panic!("no {name}"));
    let fits = |given: &openmetrics::Labels| {
        labels.iter().all(|(label, value)| given.get(*label).is_some_and(|given| given == value))
    };
    let mut found = family.samples.iter().filter(|(given, _)| fits(given));
    let (_, value) = found.next().unwrap_or_else(|| panic!("no {name} with {labels:?}: {family:?}"));
    assert!(found.next().is_none(), "more than one {name} with {labels:?}: {family:?}");
    *value
}

#[test]
fn a_scrape_tells_what_the_balancer_did() {
    let (daemon, port, web) = serving("web-scrape");
    let before = scrape(web);
    for _ in 0..3 {
        let mut greeting = String::new();
        TcpStream::connect(("127.0.0.1", port)).unwrap().read_to_string(&mut greeting).unwrap();
        assert_eq!(greeting, "hello");
    }
    let api: &[(&str, &str)] = &[("frontend", "api")];
    let began = Instant::now();
    // A connection is counted off a moment after its client has seen the end, and a backend's first check takes one.
    let ready: &[(&str, &str)] = &[("frontend", "checked"), ("state", "ready")];
    let after = loop {
        let families = scrape(web);
        let is_over = value(&families, "vipd_frontend_open_connections", api) == 0.0;
        if is_over && value(&families, "vipd_backend_state", ready) == 1.0 {
            break families;
        }
        assert!(began.elapsed() < PATIENCE, "connections stay open, or a backend unknown: {families:?}");
    };
    assert_eq!(value(&before, "vipd_frontend_accepted_total", api), 0.0);
    assert_eq!(value(&after, "vipd_frontend_accepted_total", api), 3.0);
    assert_eq!(value(&after, "vipd_frontend_refused_total", api), 0.0);
    assert_eq!(value(&after, "vipd_backend_connections_total", api), 3.0);
    assert_eq!(value(&after, "vipd_backend_open_connections", api), 0.0);
    let bytes = |direction| {
        value(&after, "vipd_backend_bytes_total", &[("frontend", "api"), ("direction", direction)])
    };
    assert_eq!((bytes("to_client"), bytes("to_backend")), (15.0, 0.0));
    let state =
        |frontend, state| value(&after, "vipd_backend_state", &[("frontend", frontend), ("state", state)]);
    assert_eq!((state("checked", "ready"), state("checked", "dead")), (1.0, 0.0));
    assert_eq!(value(&after, "kube_vip_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), 1.0);
    // Nobody is elected where there is no address.
    assert!(after.iter().any(|family| family.name == "kube_vip_is_leader" && family.samples.is_empty()));

    let process = format!("/proc/{}", daemon.child.id());
    let open = fs::read_dir(format!("{process}/fd")).unwrap().count() as f64;
    let told = value(&after, "process_open_fds", &[]);
    assert!((told - open).abs() <= 8.0, "{told} descriptors are told, {open} are open");
    assert!(value(&after, "process_resident_memory_bytes", &[]) > 1_000_000.0);
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    let age = now - value(&after, "process_start_time_seconds", &[]);
    assert!((-2.0..600.0).contains(&age), "started {age} s ago");
}

#[test]
fn every_metric_is_documented_and_every_documented_one_is_there() {
    let (_daemon, _, web) = serving("web-documented");
    let exposed: BTreeSet<(String, String)> =
        scrape(web).into_iter().map(|family| (family.name, family.kind)).collect();
    let text =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/metrics.md"))
            .unwrap();
    let documented: BTreeSet<(String, String)> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .map(|(name, rest)| (name.to_owned(), rest.split(' ').next().unwrap().to_owned()))
        .collect();
    let missing: Vec<_> = exposed.difference(&documented).collect();
    let invented: Vec<_> = documented.difference(&exposed).collect();
    assert!(
        missing.is_empty() && invented.is_empty(),
        "not documented: {missing:?}; not there: {invented:?}"
    );
}

#[test]
fn paths_and_methods_are_few() {
    let (port, web, health) = (free_port(), free_port(), free_port());
    let config = format!("{}metrics: '127.0.0.1:{web}'\nhealthPort: {health}\n", balancer(port));
    let _daemon = Daemon::serving("web-paths", &config, &[]);
    for port in [web, health] {
        for path in ["/livez", "/healthz", "/readyz"] {
            let answer = get(port, path);
            assert_eq!((answer.code, answer.body.as_str()), (200, "ok"), "{path}");
            assert!(answer.head.contains("cache-control: no-store"), "{}", answer.head);
            let head = ask(port, "HEAD", path);
            assert_eq!((head.code, head.body.as_str()), (200, ""), "{path}");
            assert!(head.head.contains("content-length: 2"), "{}", head.head);
        }
        let livez = get(port, "/livez?verbose").body;
        assert_eq!(livez, "[+]main-loop ok\nlivez check passed\n");
        let readyz = get(port, "/readyz?verbose=1").body;
        assert_eq!(readyz, "[+]main-loop ok\n[+]running ok\n[+]listeners ok\nreadyz check passed\n");
        for path in ["/page", "/metricsz", "/livez/", "/metrics/../metrics", "*"] {
            assert_eq!(get(port, path).code, 404, "{path}");
        }
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"] {
            let answer = ask(port, method, "/livez");
            assert_eq!(answer.code, 405, "{method}");
            assert!(answer.head.contains("allow: get, head"), "{}", answer.head);
        }
    }
    assert_eq!(get(web, "/metrics").code, 200);
    for path in ["/", "/page.js", "/page.css", "/status.json", "/metrics"] {
        assert_eq!(get(health, path).code, 404, "{path}");
    }
    for (path, media) in [("/", "text/html"), ("/page.js", "text/javascript"), ("/page.css", "text/css")] {
        let answer = get(web, path);
        assert_eq!(answer.code, 200, "{path}");
        assert!(answer.head.contains(&format!("content-type: {media}; charset=utf-8")), "{}", answer.head);
        assert!(answer.head.contains("content-security-policy: default-src 'none'; "), "{}", answer.head);
    }
    let status: serde_json::Value = serde_json::from_str(&get(web, "/status.json").body).unwrap();
    assert_eq!(status["load_balancers"].as_array().unwrap().len(), 2);
    // Not HTTP/1.1 at all.
    let mut stream = TcpStream::connect(("127.0.0.1", web)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    let mut seen = Vec::new();
    let _ = stream.read_to_end(&mut seen);
    assert!(seen.is_empty() || seen.starts_with(b"HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&seen));
}

#[test]
fn without_the_keys_nothing_is_served() {
    let mut daemon = Daemon::launch("web-none", &balancer(free_port()), &[]);
    // It heeds a signal once everything has been started, so the whole log tells what was.
    let begin = daemon.read_until("backend health changed");
    let (exit, rest) = daemon.stop();
    assert!(exit.success() && rest.contains("vipd stopped"), "{rest}");
    assert!(!(begin + &rest).contains("serve"), "something was served: {rest}");
}

#[test]
fn a_port_that_is_taken_is_told_and_vipd_does_its_work() {
    let taken = TcpListener::bind("[::]:0").unwrap();
    let (web, port) = (taken.local_addr().unwrap().port(), free_port());
    let config = format!("{}metrics: ':{web}'\n", balancer(port));
    let mut daemon = Daemon::launch("web-taken", &config, &[]);
    let log = daemon.read_until("not served");
    let line = log.lines().last().unwrap();
    assert!(line.contains("WARN") && line.contains(&web.to_string()) && line.contains("in use"), "{line}");
    let mut greeting = String::new();
    TcpStream::connect(("127.0.0.1", port)).unwrap().read_to_string(&mut greeting).unwrap();
    assert_eq!(greeting, "hello");
    let (exit, rest) = daemon.stop();
    assert!(exit.success(), "{rest}");
    assert!(!rest.contains("WARN"), "{rest}");

    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("web-taken.yaml");
    fs::write(&file, config).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_vipd")).args(["check", "-c"]).arg(&file).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}");
    let warning = format!("warning: port {web} of `metrics` is in use by ");
    assert!(text.contains(&warning) && text.contains(&format!("ss -lnput sport = :{web}")), "{text}");
    assert!(
        text.contains(&format!(" (process {}): vipd would start without it\n", std::process::id())),
        "{text}"
    );
}

#[test]
fn connections_that_say_nothing_keep_nobody_out() {
    let (daemon, _, web) = serving("web-flood");
    let files = format!("/proc/{}/fd", daemon.child.id());
    let open = || fs::read_dir(&files).unwrap().count();
    let before = open();
    let mut silent = Vec::new();
    for number in 0..10 * CONNECTIONS_MAX {
        silent.push(TcpStream::connect(("127.0.0.1", web)).unwrap());
        if number % CONNECTIONS_MAX == 0 {
            assert_eq!(get(web, "/livez").code, 200, "with {number} silent connections");
        }
    }
    assert_eq!(get(web, "/metrics").code, 200);
    let more = open().saturating_sub(before);
    assert!(more <= CONNECTIONS_MAX + 8, "{more} more descriptors are open");
    // The first ones had to make room.
    let mut first = silent.swap_remove(0);
    first.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(first.read(&mut [0]).unwrap_or(0), 0);
}

#[test]
fn nothing_that_apiservers_do_touches_liveness() {
    let (port, web) = (free_port(), free_port());
    // Nobody listens there.
    let dead = free_port();
    let config = format!(
        "loadBalancers:\n- name: api\n  port: {port}\n  check: {{type: tcp, interval: 50ms, fall: 1}}\n  \
         backends: [{{address: 127.0.0.1, port: {dead}}}]\nmetrics: ':{web}'\n"
    );
    let _daemon = Daemon::serving("web-dead", &config, &[]);
    let began = Instant::now();
    while value(&scrape(web), "vipd_backend_state", &[("state", "dead")]) != 1.0 {
        assert!(began.elapsed() < PATIENCE, "the backend is not dead");
    }
    for path in ["/livez", "/healthz", "/readyz"] {
        assert_eq!(get(web, path).code, 200, "{path}");
    }
}

/// A debugger that holds one thread is how the main loop gets stuck here, and what makes probes worth their while in life: a
/// deadlock, a system call that never returns.
#[test]
fn a_main_loop_that_is_stuck_fails_liveness_until_it_runs_again() {
    let (port, web) = (free_port(), free_port());
    let config = format!("{}metrics: ':{web}'\n", balancer(port));
    let mut daemon = Daemon::serving("web-stuck", &config, &[]);
    assert_eq!(get(web, "/livez").code, 200);
    let main_thread = Pid::from_raw(i32::try_from(daemon.child.id()).unwrap());
    ptrace::seize(main_thread, ptrace::Options::empty()).unwrap();
    ptrace::interrupt(main_thread).unwrap();
    let held = waitpid(main_thread, None).unwrap();
    assert!(matches!(held, WaitStatus::PtraceEvent(..)), "{held:?}");

    let is_stuck = || {
        let mut status = UnixStream::connect(&daemon.socket).unwrap();
        status.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        status.read(&mut [0]).is_err()
    };
    let stuck = Instant::now();
    let failed = loop {
        let answer = get(web, "/livez");
        if answer.code == 503 {
            break answer;
        }
        assert_eq!(answer.code, 200);
        assert!(stuck.elapsed() < PATIENCE, "the main loop is stuck, and said to be alive");
        // The status does not answer; that takes the time which makes this no busy loop.
        assert!(is_stuck());
    };
    let reason = failed.body.lines().next().unwrap();
    assert!(
        reason.starts_with("[-]main-loop failed: it has not run for ") && reason.ends_with(" ms"),
        "{failed:?}"
    );
    assert_eq!(failed.body.lines().last(), Some("livez check failed"));
    assert!(failed.head.contains("content-type: text/plain"), "{}", failed.head);
    let ready = get(web, "/readyz");
    assert!(ready.code == 503 && ready.body.contains("[+]listeners ok\n"), "{ready:?}");
    assert_unwell(&daemon, &[], "has not answered for 5 s");
    assert_eq!(get(web, "/metrics").code, 200);

    ptrace::detach(main_thread, None).unwrap();
    let again = Instant::now();
    while get(web, "/livez").code != 200 {
        assert!(again.elapsed() < PATIENCE, "the main loop does not run again");
    }
    daemon.child.kill().unwrap();
}

#[test]
fn while_connections_drain_vipd_is_alive_and_not_ready() {
    let (port, web) = (free_port(), free_port());
    let backend = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = backend.local_addr().unwrap();
    let config = format!(
        "loadBalancers:\n- name: api\n  port: {port}\n  check: {{type: none}}\n  backends: [{{address: 127.0.0.1, port: {}}}]\n\
         drainTimeout: 1h\nmetrics: ':{web}'\n",
        address.port()
    );
    let mut daemon = Daemon::serving("web-drain", &config, &[]);
    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let (held, _) = backend.accept().unwrap();
    assert_eq!(get(web, "/readyz").code, 200);
    daemon.terminate();
    daemon.read_until("stopping");
    assert_well(&daemon, &[]);
    assert_unwell(&daemon, &["--ready"], "running: a stop was asked for");
    let ready = get(web, "/readyz");
    assert_eq!(ready.code, 503, "{ready:?}");
    assert!(ready.body.contains("[-]running failed: a stop was asked for\n"), "{ready:?}");
    let draining = Instant::now();
    // Longer than a silent loop may be silent: it is not.
    while draining.elapsed() < Duration::from_secs(6) {
        let live = get(web, "/livez");
        assert_eq!(live.code, 200, "{live:?}");
        client.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        assert!((&client).read(&mut [0]).is_err(), "the connection was ended");
    }
    // A connection lasts until both of its ends have closed.
    drop((client, held));
    let mut rest = String::new();
    daemon.log.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("vipd stopped"), "{rest}");
    assert!(daemon.child.wait().unwrap().success());
    assert!(TcpStream::connect(("127.0.0.1", web)).is_err(), "the port is still open");
}

/// The election is on the main thread, in a real-time class where that is permitted.
#[test]
fn serving_has_a_thread_of_its_own_with_less_than_ordinary_priority() {
    let (daemon, _, _) = serving("web-thread");
    let tasks = fs::read_dir(format!("/proc/{}/task", daemon.child.id())).unwrap();
    let stat = |path: &Path| fs::read_to_string(path.join("stat")).unwrap();
    let serving: Vec<String> =
        tasks.map(|task| stat(&task.unwrap().path())).filter(|stat| stat.contains("(web)")).collect();
    assert_eq!(serving.len(), 1, "{serving:?}");
    let fields: Vec<&str> = serving[0].rsplit_once(')').unwrap().1.split_ascii_whitespace().collect();
    // Fields 19 and 41 of proc(5): niceness, and the scheduling policy, of which 0 is the ordinary one.
    assert_eq!((fields[19 - 3], fields[41 - 3]), ("5", "0"), "{serving:?}");
}
