//! What a running vipd has left of its privileges, as the kernel tells it.

use std::fs;

use crate::rig::{Daemon, PATIENCE, free_port};

/// NET_BIND_SERVICE, NET_ADMIN, NET_RAW, IPC_LOCK, SYS_NICE, by their numbers in capability.h.
const KEPT: u64 = 1 << 10 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 23;

const NET_RAW: u64 = 1 << 13;

/// What the kernel tells of a thread.
struct Thread {
    name: String,
    status: String,
}

impl Thread {
    fn all(process: u32) -> Vec<Self> {
        let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap();
        let read = |path: std::path::PathBuf| fs::read_to_string(path).unwrap();
        let thread = |path: std::path::PathBuf| Self {
            name: read(path.join("comm")).trim().to_owned(),
            status: read(path.join("status")),
        };
        threads.map(|entry| thread(entry.unwrap().path())).collect()
    }

    fn field(&self, name: &str) -> &str {
        let line = self.status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("{} has no {name}", self.name)).trim()
    }

    fn capabilities(&self, set: &str) -> u64 {
        u64::from_str_radix(self.field(set), 16).unwrap()
    }
}

fn config() -> String {
    let (port, web, backend) = (free_port(), free_port(), free_port());
    format!(
        "metrics: '127.0.0.1:{web}'\nloadBalancers:\n- {{name: api, port: {port}, bind: [127.0.0.1], check: {{type: none}}, \
         backends: [{{address: 127.0.0.1, port: {backend}}}]}}\n"
    )
}

/// The log's thread gives up its part when it comes to it.
fn settled(process: u32) -> Vec<Thread> {
    let began = tokio::time::Instant::now();
    loop {
        let threads = Thread::all(process);
        let log = threads.iter().find(|thread| thread.name == "vipd-log").unwrap();
        if log.capabilities("CapPrm") == 0 {
            return threads;
        }
        assert!(began.elapsed() < PATIENCE, "the log's thread keeps {}", log.field("CapPrm"));
    }
}

#[test]
fn each_thread_has_no_more_than_it_needs() {
    let daemon = Daemon::serving("confined", &config(), &[]);
    let threads = settled(daemon.child.id());
    let names: Vec<_> = threads.iter().map(|thread| thread.name.as_str()).collect();
    for wanted in ["vipd-log", "lb-control", "lb-worker-0", "web"] {
        assert!(names.contains(&wanted), "{names:?}");
    }
    for thread in &threads {
        let name = &thread.name;
        assert_eq!(thread.field("NoNewPrivs"), "1", "{name}");
        // SECCOMP_MODE_FILTER.
        assert_eq!(thread.field("Seccomp"), "2", "{name}");
        if rustix::process::geteuid().is_root() {
            assert_eq!(thread.capabilities("CapBnd") & !KEPT, 0, "{name}");
        }
        // They read what anybody sends.
        let most = match name.as_str() {
            "web" | "vipd-log" => 0,
            name if name.starts_with("lb-worker-") => NET_RAW,
            _ => KEPT,
        };
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(thread.capabilities(set) & !most, 0, "{name}: {set}");
        }
    }
}

#[test]
fn with_unconfined_it_keeps_what_it_was_started_with() {
    let daemon = Daemon::serving("unconfined", &config(), &["--unconfined"]);
    let own =
        Thread { name: "the test".to_owned(), status: fs::read_to_string("/proc/self/status").unwrap() };
    for thread in Thread::all(daemon.child.id()) {
        for field in ["NoNewPrivs", "Seccomp", "CapPrm", "CapBnd"] {
            assert_eq!(thread.field(field), own.field(field), "{}: {field}", thread.name);
        }
    }
}
