//! Ports that are taken, and by whom.

use std::net::{TcpListener, UdpSocket};

use super::bench::Bench;

/// This test, as it is named among the holders of a port.
fn me() -> String {
    format!("(process {})", std::process::id())
}

#[test]
fn a_port_of_clients_that_is_taken_names_who_has_it() {
    let Some(bench) = Bench::new("port") else { return };
    let taken = bench.here.enter(|| TcpListener::bind("0.0.0.0:8443").unwrap());
    let findings = bench.check(&bench.config());
    findings.are(&[("port", "error")]);
    findings.tell("port", &me(), "`samePort: true`");
    findings.tell("port", "port 8443 of `api` is in use by ", "ss -lntp");
    drop(taken);
    bench.check(&bench.config()).are(&[]);
}

#[test]
fn a_port_of_peers_that_is_taken_names_who_has_it() {
    let Some(bench) = Bench::new("peer-port") else { return };
    let _taken = bench.here.enter(|| UdpSocket::bind("10.0.0.1:10000").unwrap());
    let findings = bench.check(&bench.config());
    findings.are(&[("peer-port", "error")]);
    findings.tell("peer-port", &me(), "choose another port");
}

#[test]
fn a_port_of_metrics_that_is_taken_is_no_obstacle() {
    let Some(bench) = Bench::new("web-port") else { return };
    let _taken = bench.here.enter(|| TcpListener::bind("0.0.0.0:2112").unwrap());
    let findings = bench.check(&format!("{}metrics: ':2112'\n", bench.config()));
    findings.are(&[("web-port", "warning")]);
    findings.tell("web-port", &me(), "ss -lnput");
}

#[test]
fn where_vipd_runs_its_own_ports_are_not_judged() {
    let Some(bench) = Bench::new("running") else { return };
    let here = |socket: &str| bench.folder.join(socket).display().to_string();
    let config = bench.config().replace(&here("vipd.sock"), &here("daemon/vipd.sock"));
    let daemon = bench.here.launch("check-running/daemon", &config);
    daemon.answers();
    let findings = bench.check(&config);
    // No peer runs.
    findings.are(&[("peer", "warning")]);
    findings.tell("peer", "has not heard the peer b", "does vipd run there");
    assert!(findings.all().any(|finding| finding["id"] == "vipd-running"), "{findings}");
    let (exit, log) = daemon.stop();
    assert!(exit.success(), "{log}");
}
