//! SIGHUP, or a file that has changed: what the file says is put in force whole and under the eyes of connections, or nothing of it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

use crate::rig::{Daemon, Enclosed, PATIENCE, Place, free_port};
use crate::traffic::{Traffic, connect, hear, named};

/// One load balancer of a file.
fn balancer(name: &str, port: u16, backends: &[SocketAddr], more: &str) -> String {
    let listed: Vec<_> =
        backends.iter().map(|at| format!("{{address: {}, port: {}}}", at.ip(), at.port())).collect();
    format!("- {{name: {name}, port: {port}, backends: [{}], {more}}}\n", listed.join(", "))
}

fn file(balancers: &[String], more: &str) -> String {
    format!("{more}loadBalancers:\n{}", balancers.concat())
}

/// A load balancer that checks nothing.
fn plain(name: &str, port: u16, backend: SocketAddr) -> String {
    balancer(name, port, &[backend], "check: {type: none}")
}

impl Daemon {
    fn file(&self) -> PathBuf {
        self.socket.with_file_name("config.yaml")
    }

    fn hang_up(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    }

    /// Writes the file and has it read; gives what was told of it.
    fn reload(&mut self, text: &str) -> String {
        fs::write(self.file(), text).unwrap();
        self.hang_up();
        self.read_until("the configuration is in force")
    }

    /// The same with a file that is refused.
    fn refuse(&mut self, text: &str) -> String {
        fs::write(self.file(), text).unwrap();
        self.hang_up();
        self.read_until("nothing has changed")
    }

    fn balancers(&self) -> Vec<serde_json::Value> {
        let told: serde_json::Value = serde_json::from_slice(&self.status(&["--json"]).stdout).unwrap();
        told["load_balancers"].as_array().unwrap().clone()
    }
}

fn is_refused(port: u16) {
    until("the port is closed", || TcpStream::connect(("127.0.0.1", port)).is_err());
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "waited in vain: {what}");
        thread::park_timeout(Duration::from_millis(20));
    }
}

#[test]
fn every_kind_of_change_is_made_under_traffic_and_nobody_is_lost() {
    let (port, second, third) = (free_port(), free_port(), free_port());
    let (a, b) = (named(b'a'), named(b'b'));
    let mut daemon = Daemon::launch("reload", &file(&[plain("api", port, a)], ""), &[]);
    daemon.answers();
    let traffic = Traffic::to(port);

    // Backends.
    daemon.reload(&file(&[plain("api", port, b)], ""));
    assert_eq!(connect(port).1, b'b');
    traffic.goes_on();
    // How they are checked, chosen and waited for, and how much there may be.
    let more = "check: {type: tcp, interval: 200ms}, policy: roundRobin, connectTimeout: 3s, idleTimeout: 10m, \
                maxConnections: 500, maxConnectionsPerSource: 400, accessLog: true";
    daemon.reload(&file(&[balancer("api", port, &[a, b], more)], ""));
    until("it is each one's turn", || connect(port).1 == b'a');
    assert_eq!(daemon.balancers()[0]["max_connections"], 500);
    traffic.goes_on();
    // Another name, another rule, and one more.
    let other = |port| plain("other", port, b);
    daemon.reload(&file(&[plain("main", port, a), other(second)], ""));
    let (mut old, name) = connect(second);
    assert_eq!((connect(port).1, name), (b'a', b'b'));
    traffic.goes_on();
    // Where it listens.
    daemon.reload(&file(&[other(third), plain("main", port, a)], ""));
    assert_eq!(connect(third).1, b'b');
    is_refused(second);
    traffic.goes_on();
    // One less.
    daemon.reload(&file(&[plain("main", port, a)], "drainTimeout: 100ms\n"));
    is_refused(third);
    traffic.goes_on();
    old.write_all(b"x").unwrap();
    assert_eq!(hear(&mut old), b'x', "a connection of what is gone goes on");
    until("it is shown until it ends", || {
        let shown = String::from_utf8(daemon.status(&[]).stdout).unwrap();
        shown.contains("balancer   other no more in the configuration: 1 open")
    });
    drop(old);
    until("it is gone", || daemon.balancers().iter().all(|balancer| balancer["name"] != "other"));

    traffic.goes_on();
    let connections = traffic.end();
    assert!(connections > 100, "{connections}");
    // What is open is cut by the time that the last file gave.
    let (_idle, _) = connect(port);
    let began = Instant::now();
    let (exit, log) = daemon.stop();
    assert!(exit.success() && log.contains("reset=1"), "{log}");
    assert!(began.elapsed() < Duration::from_secs(14), "{:?}", began.elapsed());
}

#[test]
fn what_can_not_be_is_refused_whole_and_named_and_the_running_configuration_goes_on() {
    let (port, other) = (free_port(), free_port());
    let (a, b) = (named(b'a'), named(b'b'));
    let good = file(&[plain("api", port, a)], "");
    let mut daemon = Daemon::launch("reload-refused", &good, &[]);
    daemon.answers();
    let traffic = Traffic::to(port);
    let blocker = TcpListener::bind("[::]:0").unwrap();
    let blocked = blocker.local_addr().unwrap().port();

    // Each changes the backend as well, which must not be seen.
    let changed = plain("api", port, b);
    let one = std::slice::from_ref(&changed);
    let told = daemon.refuse(&file(one, "vipp: 10.0.0.1\n"));
    assert!(told.contains("unknown key `vipp`"), "{told}");
    let whole = file(one, "");
    let told = daemon.refuse(&whole[..whole.len() - 30]);
    assert!(told.contains("the file is wrong"), "{told}");
    let told = daemon.refuse(&file(one, "workers: 1\nmetrics: 127.0.0.1:1\nnode: me\n"));
    assert!(told.contains("keys=\"metrics, node, workers\"") && told.contains("restart vipd"), "{told}");
    let told = daemon.refuse(&file(&[changed.clone(), plain("other", blocked, b)], ""));
    assert!(told.contains(&format!("[::]:{blocked}")) && told.contains("the port is taken"), "{told}");
    let told = daemon.refuse(&file(&[changed.clone(), plain("other", port, b)], ""));
    assert!(told.contains("is used twice"), "{told}");
    fs::remove_file(daemon.file()).unwrap();
    daemon.hang_up();
    daemon.read_until("the file can't be read: nothing has changed");
    traffic.goes_on();
    assert_eq!(connect(port).1, b'a');
    assert_eq!(daemon.balancers().len(), 1);

    // It is as able to change as before.
    drop(blocker);
    daemon.reload(&file(&[changed, plain("other", other, a)], ""));
    assert_eq!((connect(port).1, connect(other).1), (b'b', b'a'));
    traffic.goes_on();
    traffic.end();
    let (exit, log) = daemon.stop();
    assert!(exit.success(), "{log}");
}

/// By an editor, by a deployment tool, as a volume of Kubernetes.
#[test]
fn a_file_that_changes_is_followed_where_that_is_wanted() {
    let port = free_port();
    let (a, b) = (named(b'a'), named(b'b'));
    let text = |backend, on: bool| file(&[plain("api", port, backend)], &format!("reloadOnChange: {on}\n"));
    let mut daemon = Daemon::launch("reload-watch", &text(a, false), &[]);
    daemon.answers();
    let (path, beside) = (daemon.file(), daemon.file().with_file_name("config.yaml.new"));
    let traffic = Traffic::to(port);
    daemon.reload(&text(a, true));

    fs::write(&path, text(b, true)).unwrap();
    daemon.read_until("the configuration is in force");
    assert_eq!(connect(port).1, b'b');
    fs::write(&beside, text(a, true)).unwrap();
    fs::rename(&beside, &path).unwrap();
    daemon.read_until("the configuration is in force");
    assert_eq!(connect(port).1, b'a');

    // Half of it, and a moment later the rest.
    let whole = text(b, true);
    let mut written = fs::File::create(&path).unwrap();
    written.write_all(&whole.as_bytes()[..40]).unwrap();
    drop(written);
    daemon.read_until("the file is wrong: nothing has changed");
    assert_eq!(connect(port).1, b'a');
    fs::write(&path, &whole).unwrap();
    daemon.read_until("the configuration is in force");
    assert_eq!(connect(port).1, b'b');

    let folder = path.parent().unwrap().to_owned();
    let _ = fs::remove_file(folder.join("..data"));
    for (version, backend, name) in [("..first", a, b'a'), ("..second", b, b'b'), ("..third", a, b'a')] {
        let _ = fs::remove_dir_all(folder.join(version));
        fs::create_dir(folder.join(version)).unwrap();
        fs::write(folder.join(version).join("config.yaml"), text(backend, true)).unwrap();
        symlink(version, folder.join("..data_tmp")).unwrap();
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
        if !path.is_symlink() {
            symlink("..data/config.yaml", &beside).unwrap();
            fs::rename(&beside, &path).unwrap();
        }
        daemon.read_until("the configuration is in force");
        assert_eq!(connect(port).1, name);
    }

    // No more: SIGHUP alone counts.
    fs::remove_file(&path).unwrap();
    fs::write(&path, text(a, false)).unwrap();
    daemon.read_until("the configuration is in force");
    fs::write(&path, text(b, false)).unwrap();
    traffic.goes_on();
    assert_eq!(connect(port).1, b'a');
    daemon.hang_up();
    daemon.read_until("the configuration is in force");
    assert_eq!(connect(port).1, b'b');
    traffic.end();
    let (exit, log) = daemon.stop();
    assert!(exit.success(), "{log}");
}

/// On a host with the address: its load balancers change, where the address is and who decides doesn't.
#[test]
fn the_address_stays_where_it_is_while_its_load_balancers_change() {
    let Some(_) = Enclosed::new("a vipd with an address") else { return };
    let place = Place::with_network();
    let backend = place.enter(|| named(b'a'));
    let text = |vip: &str, more: &str| {
        let balancer = balancer("api", 8443, &[backend], &format!("check: {{type: none}}, {more}"));
        file(&[balancer], &format!("vip: {vip}\ninterface: eth0\nsingleNode: true\n"))
    };
    let mut daemon = place.launch("reload-address", &text("10.0.0.9/24", "bindToVip: false"));
    daemon.read_until("claimed the virtual IP");
    let ask = |to: &str| {
        let to: SocketAddr = to.parse().unwrap();
        place.enter(|| {
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut name = [0];
            stream.read_exact(&mut name).map(|()| name[0])
        })
    };
    assert_eq!(ask("10.0.0.9:8443").unwrap(), b'a');
    let owner = |daemon: &Daemon| {
        let told: serde_json::Value = serde_json::from_slice(&daemon.status(&["--json"]).stdout).unwrap();
        let owner = &told["owners"][0];
        ["state", "term", "transitions", "repairs"].map(|key| owner[key].clone())
    };
    let before = owner(&daemon);
    assert_eq!(before[0], "active");

    daemon.reload(&text("10.0.0.9/24", "bindToVip: true"));
    assert_eq!(ask("10.0.0.9:8443").unwrap(), b'a');
    let told = daemon.refuse(&text("10.0.0.8/24", "bindToVip: false"));
    assert!(told.contains("keys=\"vip\"") && told.contains("`vipd step-down`"), "{told}");
    // Where the kernel can: the port that a server on every address has as well.
    let can = Command::new("nft").arg("--version").output().is_ok_and(|output| output.status.success());
    if can {
        let _server = place.enter(|| TcpListener::bind("[::]:8443"));
        daemon.reload(&text("10.0.0.9/24", "samePort: true"));
        assert_eq!(ask("10.0.0.9:8443").unwrap(), b'a');
    }
    assert_eq!(owner(&daemon), before);
    let (exit, log) = daemon.stop();
    assert!(exit.success() && !log.contains("lost"), "{log}");
}
