//! SIGUSR2: the next vipd takes over, and nobody is refused or reset.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::rig::{Daemon, Enclosed, PATIENCE, Place, free_port};
use crate::service::Manager;
use crate::traffic::{Traffic, connect, hear, named};

/// A vipd and those that it starts, all of which end with the test.
struct Family {
    first: Daemon,
    group: Pid,
}

impl Family {
    fn of(mut command: Command, name: &str, config: &str) -> Self {
        let first =
            Daemon::run(std::mem::replace(command.process_group(0), Command::new("true")), name, config, &[]);
        let group = Pid::from_child(&first.child);
        Self { first, group }
    }

    fn start(name: &str, config: &str) -> Self {
        let family = Self::of(Command::new(env!("CARGO_BIN_EXE_vipd")), name, config);
        family.first.answers();
        family
    }

    fn file(&self) -> PathBuf {
        self.first.socket.with_file_name("config.yaml")
    }

    /// The process that answers on the status socket now.
    fn pid(&self) -> Pid {
        let told: serde_json::Value = serde_json::from_slice(&self.first.status(&["--json"]).stdout).unwrap();
        Pid::from_raw(i32::try_from(told["pid"].as_i64().unwrap()).unwrap()).unwrap()
    }

    /// Has the one that answers start its successor; gives what was logged until that answers.
    fn succeed(&mut self) -> String {
        let before = self.pid();
        kill_process(before, Signal::USR2).unwrap();
        let told = self.first.read_until("the vipd before has given up all but its connections");
        self.first.answers();
        assert_ne!(self.pid(), before, "{told}");
        told
    }

    /// The same with one that can't.
    fn fail(&mut self) -> String {
        let before = self.pid();
        kill_process(before, Signal::USR2).unwrap();
        let told = self.first.read_until("the next vipd has not taken over, and this one goes on");
        assert_eq!(self.pid(), before, "{told}");
        told
    }

    /// Waits for the end of the first.
    fn first_ends(&mut self) -> ExitStatus {
        self.first.child.wait().unwrap()
    }

    /// Stops the one that answers, and gives the rest of the log of all.
    fn stop(mut self) -> String {
        kill_process(self.pid(), Signal::TERM).unwrap();
        let mut log = String::new();
        // It ends with the last of them.
        self.first.log.read_to_string(&mut log).unwrap();
        log
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        // Those that have ended are not there any more.
        let _ = kill_process_group(self.group, Signal::KILL);
    }
}

fn balancer(port: u16, backend: SocketAddr, more: &str) -> String {
    format!(
        "loadBalancers:\n- {{name: api, port: {port}, check: {{type: none}}, {more}, backends: [{{address: {}, port: {}}}]}}\n",
        backend.ip(),
        backend.port()
    )
}

#[test]
fn one_vipd_after_the_other_takes_over_under_traffic_and_nobody_is_lost() {
    let (port, metrics) = (free_port(), free_port());
    let (a, b) = (named(b'a'), named(b'b'));
    let config = |backend| {
        let head = format!("drainTimeout: 120s\nmetrics: 127.0.0.1:{metrics}\n");
        head + &balancer(port, backend, "bindToVip: false")
    };
    let mut family = Family::start("succession", &config(a));
    let traffic = Traffic::to(port);
    let (mut old, name) = connect(port);
    assert_eq!(name, b'a');
    traffic.goes_on();

    // With another configuration, which a restart would have taken to put in force: another number of workers, too.
    for (workers, backend, name) in [(1, b, b'b'), (2, a, b'a'), (4, b, b'b')] {
        fs::write(family.file(), format!("workers: {workers}\n{}", config(backend))).unwrap();
        family.succeed();
        traffic.goes_on();
        let connected = connect(port);
        // Those before may have one in their queues still.
        drop(connected);
        let began = tokio::time::Instant::now();
        while connect(port).1 != name {
            assert!(began.elapsed() < PATIENCE, "the next one's configuration is not in force");
        }
        old.write_all(b"x").unwrap();
        assert_eq!(hear(&mut old), b'x', "the first one's connection goes on");
        assert!(TcpStream::connect(("127.0.0.1", metrics)).is_ok(), "the next one serves metrics");
    }

    let connections = traffic.end();
    assert!(connections > 50, "{connections}");
    drop(old);
    // They have waited for nothing but their connections.
    assert!(family.first_ends().success());
    let log = family.stop();
    assert!(!log.contains("panicked") && !log.contains("reset=1"), "{log}");
}

#[test]
fn a_next_one_that_can_not_begin_leaves_the_first_as_it_was() {
    let port = free_port();
    let (a, b) = (named(b'a'), named(b'b'));
    let mut family = Family::start("succession-refused", &balancer(port, a, "bindToVip: false"));
    let traffic = Traffic::to(port);

    fs::write(family.file(), "loadBalancers: [{port: 1}]\n").unwrap();
    let told = family.fail();
    assert!(
        told.contains("it has ended; above it says why") && told.contains("a load balancer without backends"),
        "{told}"
    );
    traffic.goes_on();
    let blocker = std::net::TcpListener::bind("[::]:0").unwrap();
    let other = blocker.local_addr().unwrap().port();
    let two = balancer(port, b, "bindToVip: false")
        + &balancer(other, b, "bindToVip: false")
            .replace("loadBalancers:\n", "")
            .replace("name: api", "name: other");
    fs::write(family.file(), two).unwrap();
    let told = family.fail();
    assert!(told.contains("the port is taken"), "{told}");
    traffic.goes_on();
    assert_eq!(connect(port).1, b'a');

    // And is as able as before.
    fs::write(family.file(), balancer(port, b, "bindToVip: false")).unwrap();
    family.succeed();
    traffic.goes_on();
    traffic.end();
    family.stop();
}

#[test]
fn the_service_manager_hears_whose_process_is_the_service() {
    let port = free_port();
    let manager = Manager::at("succession-notify");
    // As systemd starts it: signs of life are wanted of this process, and of whichever is the service later.
    let mut command = Command::new("sh");
    command.args(["-c", "WATCHDOG_PID=$$ exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_vipd")]);
    command.env("NOTIFY_SOCKET", manager.name()).env("WATCHDOG_USEC", "1000000");
    let mut family =
        Family::of(command, "succession-notify", &balancer(port, named(b'a'), "bindToVip: false"));
    manager.hears("READY=1\nSTATUS=balances only: no virtual address");
    manager.hears("WATCHDOG=1");

    family.succeed();

    manager.hears(&format!("MAINPID={}\nWATCHDOG=1", family.pid().as_raw_nonzero()));
    manager.hears("READY=1\nSTATUS=balances only: no virtual address");
    assert!(family.first_ends().success());
    manager.hears("WATCHDOG=1");
    family.stop();
    manager.hears("STOPPING=1");
}

/// On a host with the address: it is given up as at any stop, and taken by the next one only then.
#[test]
fn an_address_is_given_up_before_the_next_one_takes_part() {
    let Some(_) = Enclosed::new("a vipd with an address") else { return };
    let place = Place::with_network();
    let backend = place.enter(|| named(b'a'));
    let config = |more: &str| {
        format!("vip: 10.0.0.9/24\ninterface: eth0\nsingleNode: true\n{}", balancer(8443, backend, more))
    };
    let mut command = Command::new("nsenter");
    command.args(["--net", "--target", &place.pid(), env!("CARGO_BIN_EXE_vipd")]);
    let mut family = Family::of(command, "succession-address", &config("bindToVip: false"));
    family.first.read_until("claimed the virtual IP");
    family.first.answers();
    let traffic = place.enter(|| Traffic::to(8443));

    let told = family.succeed();
    let at = |words: &str| told.find(words).unwrap_or_else(|| panic!("no `{words}` in {told}"));
    assert!(at("the next vipd accepts") < at("released the virtual IP"), "{told}");
    assert!(!told.contains("claimed the virtual IP"), "{told}");
    family.first.read_until("claimed the virtual IP");
    // At the host's own address, nobody has noticed.
    traffic.goes_on();
    traffic.end();

    // Where the kernel leads connections by tables of the process, a restart is what it takes.
    fs::write(family.file(), config("samePort: true")).unwrap();
    kill_process(family.pid(), Signal::HUP).unwrap();
    family.first.read_until("the configuration is in force");
    let told = family.fail();
    assert!(told.contains("`samePort`") && told.contains("restart it"), "{told}");
    assert!(family.first_ends().success());
    let began = tokio::time::Instant::now();
    family.stop();
    assert!(began.elapsed() < Duration::from_secs(14), "{:?}", began.elapsed());
}
