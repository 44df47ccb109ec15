//! What can't run: a configuration that can't be used, a machine that lacks something. Each ends with a line that says what,
//! where and what would be right, and an honest exit code; and each runs as soon as that is mended.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tokio::time::Instant;

use super::rig::{Daemon, Enclosed, PATIENCE, balancer, free_port};

/// One host that owns an address alone, on this interface.
fn alone(interface: &str) -> String {
    format!("vip: 10.9.9.9\ninterface: {interface}\nsingleNode: true\n")
}

/// Starts a vipd that ends by itself; gives its exit code and what it said.
fn refused(file: &Path) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_vipd"))
        .args(["start", "-c"])
        .arg(file)
        .arg("--socket")
        .arg(file.with_extension("sock"))
        .output()
        .unwrap();
    assert_eq!(output.stdout, b"");
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// The end of a daemon that ends by itself: its exit code and the rest of its log.
fn end(mut daemon: Daemon) -> (Option<i32>, String) {
    let mut log = String::new();
    daemon.log.read_to_string(&mut log).unwrap();
    (daemon.child.wait().unwrap().code(), log)
}

fn place(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder.join("config.yaml")
}

#[test]
fn a_file_that_cannot_be_used_is_named_with_the_way_out() {
    let file = place("unfit-file");
    let name = file.display().to_string();
    let good = balancer(free_port());
    let unknown = good.replace("port:", "prot:");
    let cases: &[(&str, Option<&str>, &str, &str)] = &[
        ("missing", None, ": failed to read the file: No such file", "`vipd sample config` prints one"),
        ("empty", Some(""), ": is empty", "`vipd sample config` prints a file"),
        ("only a comment", Some("# later\n"), ": is empty", "`vipd sample config` prints a file"),
        ("no YAML", Some("loadBalancers: [\n"), ":2:1: ", "`vipd sample config` shows the form"),
        ("an unknown key", Some(&unknown), ":3:", "port"),
    ];
    for (case, text, what, way_out) in cases {
        if let Some(text) = text {
            fs::write(&file, text).unwrap();
        }
        let (code, said) = refused(&file);
        assert_eq!(code, Some(78), "{case}: {said}");
        let lines: Vec<&str> = said.lines().collect();
        assert!(lines[0].starts_with(&format!("error: {name}{what}")), "{case}: {said}");
        assert!(lines.last().unwrap().trim_start().starts_with("help: "), "{case}: {said}");
        assert!(lines.last().unwrap().contains(way_out), "{case}: {said}");
        assert_eq!(said.matches("error: ").count(), 1, "{case}: {said}");
    }
    // A kubelet makes a hostPath that does not exist as a directory.
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    let (code, said) = refused(&file);
    assert_eq!(code, Some(78), "{said}");
    assert!(said.starts_with(&format!("error: {name}: is a directory, not a file\n  help: ")), "{said}");
    assert!(said.contains("remove it, and put the file there"), "{said}");
    fs::remove_dir(&file).unwrap();
    // Mended, it is what the next start reads.
    let mut daemon = Daemon::launch("unfit-file", &good, &[]);
    daemon.read_until("backend health changed");
}

#[test]
fn a_node_that_may_not_set_addresses_does_not_stand_for_election() {
    let Some(network) = Enclosed::new("a vipd with an address") else { return };
    for (taken, name) in
        [("-net_admin", "NET_ADMIN"), ("-net_raw", "NET_RAW"), ("-net_admin,-net_raw", "NET_ADMIN")]
    {
        let (code, log) = end(network.launch("unfit-capabilities", &alone("lo"), Some(taken)));
        assert_eq!(code, Some(77), "{taken}: {log}");
        let last = log.lines().last().unwrap();
        assert!(last.starts_with(&format!("error: the capability {name} is missing")), "{taken}: {log}");
        assert!(last.contains("container's"), "{taken}: {log}");
        assert!(!log.contains("became leader"), "{taken}: {log}");
    }
    let mut mended = network.launch("unfit-capabilities", &alone("lo"), None);
    mended.read_until("became leader");
    let (exit, log) = mended.stop();
    assert!(exit.success(), "{log}");
}

#[test]
fn a_balancer_that_may_not_show_its_clients_addresses_says_so_before_and_at_its_start() {
    let config = format!(
        "loadBalancers:\n- {{name: api, port: {}, transparentSource: true, backends: [{{address: 10.9.9.1, port: 6443}}]}}\n",
        free_port()
    );
    let file = place("unfit-source-check");
    fs::write(&file, &config).unwrap();

    let (code, log) = end(Daemon::powerless("unfit-source", &config));
    assert_eq!(code, Some(77), "{log}");
    let last = log.lines().last().unwrap();
    assert!(
        last.contains("frontend api (`transparentSource`)") && last.contains("NET_ADMIN or NET_RAW"),
        "{log}"
    );

    let mut command = Command::new(env!("CARGO_BIN_EXE_vipd"));
    if rustix::process::geteuid().is_root() {
        command = Command::new("setpriv");
        command.args(["--bounding-set", "-all", "--inh-caps", "-all", env!("CARGO_BIN_EXE_vipd")]);
    }
    let output = command.args(["check", "-c"]).arg(&file).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(77), "{said}");
    assert!(said.contains("error: backends of `api` can't be shown the clients' own addresses"), "{said}");
    assert!(said.contains("help: run as root, or add NET_ADMIN or NET_RAW"), "{said}");
}

/// At boot, interfaces come when they come. One that does not come is most likely misspelt, and only a new start reads the
/// corrected file.
#[test]
fn an_interface_may_be_late_but_not_missing() {
    let Some(network) = Enclosed::new("a vipd with an address") else { return };
    let mut missing = network.launch("unfit-missing", &alone("ens3"), None);
    let mut late = network.launch("unfit-late", &alone("ens3"), None);
    let mut stopped = network.launch("unfit-stopped", &alone("ens3"), None);
    let mut routeless = network.launch("unfit-route", "vip: 10.9.9.9\nsingleNode: true\n", None);
    for daemon in [&mut missing, &mut late, &mut stopped] {
        let said = daemon.read_until("waiting 20 s");
        assert!(said.contains("there is no interface ens3 (this machine has lo)"), "{said}");
    }
    routeless.read_until("there is no default route to find it by");

    let pid = late.child.id().to_string();
    let made = Command::new("nsenter")
        .args([
            "--net", "--target", &pid, "ip", "link", "add", "ens3", "type", "veth", "peer", "name", "other",
        ])
        .stderr(Stdio::inherit())
        .status()
        .unwrap();
    assert!(made.success(), "no interface could be made");
    late.read_until("became leader");
    let (exit, log) = late.stop();
    assert!(exit.success(), "{log}");

    let (exit, log) = stopped.stop();
    assert!(exit.success() && log.contains("vipd stopped"), "{log}");

    let began = Instant::now();
    for (daemon, reason) in [(missing, "no interface ens3"), (routeless, "no default route")] {
        let (code, log) = end(daemon);
        assert_eq!(code, Some(69), "{log}");
        let last = log.lines().last().unwrap();
        assert!(last.starts_with("error: after 20 s, ") && last.contains(reason), "{log}");
    }
    assert!(began.elapsed() < PATIENCE);
}
