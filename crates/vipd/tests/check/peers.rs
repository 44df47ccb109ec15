//! Peers that are away, far, or set up otherwise.

use std::fs;

use super::bench::Bench;
use super::rig::Daemon;

/// The peer `b`, which leads alone on the other machine and speaks to all members.
fn peer(bench: &Bench, name: &str, keys: &str) -> Daemon {
    let config = format!(
        "localPeer: {{id: b, address: 10.0.0.2, port: 10000}}\nremotePeers:\n\
         - {{id: a, address: 10.0.0.1, port: 10000}}\n- {{id: c, address: 10.0.0.3, port: 10000}}\n\
         vip: 10.0.0.9\ninterface: eth0\nstartAsLeader: true\n{keys}\n"
    );
    let mut daemon = bench.there.launch(&format!("check-{name}/peer"), &config);
    daemon.read_until("became leader");
    daemon
}

/// The line of a configuration that has this key, which is written to a file.
fn key(bench: &Bench, name: &str, secret: &str) -> String {
    let file = bench.folder.join(name);
    // 32 bytes in base64.
    fs::write(&file, format!("{}=\n", secret.repeat(43))).unwrap();
    format!("peerKeys: [{{id: 1, file: {}}}]\n", file.display())
}

#[test]
fn a_peer_that_is_not_there() {
    let Some(bench) = Bench::new("peer") else { return };
    bench.there.ip("address delete 10.0.0.3/24 dev eth0");
    let findings = bench.check(&bench.config());
    findings.are(&[("peer", "warning")]);
    findings.tell("peer", "the peer c does not answer: no host has 10.0.0.3", "same subnet");
}

#[test]
fn a_timing_that_is_faster_than_the_way_to_the_peers() {
    let Some(bench) = Bench::new("round-trip") else { return };
    // Woken as late as is tolerated three times, nothing is left of such a lease.
    let config = bench.config().replace("timing: relaxed", "timing: {heartbeat: 2ms, lease: 6ms}");
    let findings = bench.check(&config);
    // This host may be late, too.
    findings.are_but_for(&[("round-trip", "warning")], &["wake-ups"]);
    findings.tell("round-trip", "the peer b answers within", "slower `timing`");
}

#[test]
fn a_peer_with_another_key_is_named_and_one_with_the_same_is_understood() {
    let Some(bench) = Bench::new("peer-key") else { return };
    let theirs = key(&bench, "theirs.key", "A");
    let _peer = peer(&bench, "peer-key", &format!("timing: relaxed\n{theirs}"));
    // It leads, and has the address.
    let in_use = ("address-in-use", "warning");
    bench.check(&format!("{}{theirs}", bench.config())).are(&[in_use]);

    let ours = key(&bench, "ours.key", "Q");
    let findings = bench.check(&format!("{}{ours}", bench.config()));
    findings.are(&[in_use, ("peer-key", "warning")]);
    findings.tell(
        "peer-key",
        "the peer b runs, and this host would drop what it says: it has another secret for key 1",
        "sha256sum",
    );
    // And without any.
    let findings = bench.check(&bench.config());
    findings.are(&[in_use, ("peer-key", "warning")]);
    findings.tell("peer-key", "signs with key 1, and this node has no peer key", "peerKeys");
}

#[test]
fn a_peer_with_another_timing() {
    let Some(bench) = Bench::new("peer-settings") else { return };
    let _peer = peer(&bench, "peer-settings", "timing: {heartbeat: 400ms, lease: 3s}");
    let findings = bench.check(&bench.config());
    findings.are(&[("address-in-use", "warning"), ("peer-settings", "warning")]);
    findings.tell(
        "peer-settings",
        "has a lease of 3s, longer than 2s here",
        "compare the two configurations",
    );
}

#[test]
fn a_tie_break_that_does_not_answer() {
    let Some(bench) = Bench::new("tie-break") else { return };
    let config = bench.config().replace("- {id: c, address: 10.0.0.3, port: 10000}\n", "");
    bench.check(&format!("{config}tieBreak: 10.0.0.3\n")).are(&[]);
    let findings = bench.check(&format!("{config}tieBreak: 10.0.0.4\n"));
    findings.are(&[("tie-break", "warning")]);
    findings.tell("tie-break", "10.0.0.4 does not answer", "same subnet");
    let findings = bench.check(&format!("{config}tieBreak: gateway\n"));
    findings.are(&[("tie-break", "error")]);
}
