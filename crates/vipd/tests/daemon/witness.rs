//! A witness: it votes, and needs neither an interface nor a capability.

use tokio::time::Instant;

use super::rig::{Daemon, PATIENCE};

/// A witness's file, for an interface that no machine has.
fn config() -> String {
    let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    format!(
        "localPeer: {{id: c, address: 127.0.0.1, port: {port}, witness: true}}\n\
         remotePeers:\n- {{id: a, address: 127.0.0.2, port: {port}}}\n- {{id: b, address: 127.0.0.3, port: {port}}}\n\
         vip: 10.9.9.9\ninterface: missing0\n"
    )
}

#[test]
fn a_witness_runs_without_interface_and_capabilities() {
    let mut daemon = Daemon::powerless("witness", &config());
    let log = daemon.read_until("vipd starts");
    assert!(log.contains("a witness, which votes and never has the addresses"), "{log}");

    let began = Instant::now();
    let people = loop {
        let status = daemon.status(&[]);
        // The socket comes a moment after the first line.
        if status.status.success() {
            break String::from_utf8(status.stdout).unwrap();
        }
        assert!(began.elapsed() < PATIENCE, "no status: {}", String::from_utf8_lossy(&status.stderr));
    };
    assert!(people.contains("leader     nobody"), "{people}");
    assert!(people.contains("10.9.9.9/32: never here, this node is a witness and only votes"), "{people}");
    assert!(people.contains("peer       a (127.0.0.2:"), "{people}");
    let snapshot: serde_json::Value = serde_json::from_slice(&daemon.status(&["--json"]).stdout).unwrap();
    assert_eq!(snapshot["owners"][0]["state"], "witness", "{snapshot}");

    let (exit, log) = daemon.stop();
    assert!(exit.success(), "{log}");
    assert!(log.contains("vipd stopped"), "{log}");
}
