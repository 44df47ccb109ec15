//! What the machine itself lacks: capabilities, memory, descriptors.

use std::process::Command;

use super::bench::Bench;

/// Runs its arguments without these capabilities.
fn without(capabilities: &str) -> [&str; 5] {
    ["setpriv", "--bounding-set", capabilities, "--inh-caps", capabilities]
}

#[test]
fn a_capability_that_is_missing_and_what_is_not_seen_without_it() {
    let Some(bench) = Bench::new("capability") else { return };
    let findings = bench.check_by(&without("-net_admin"), &bench.config(), &[]);
    // The kernel shows its rules to nobody without it, and takes none.
    findings.are(&[("capability", "error"), ("fence", "warning"), ("peer-firewall", "warning")]);
    findings.tell("capability", "NET_ADMIN is missing", "run as root, or add NET_ADMIN");
    findings.tell("fence", "can't fence", "nf_tables");
    findings.tell("peer-firewall", "not looked at: ", "nft list ruleset");
    assert_eq!(findings.code, Some(77), "{findings}");

    let findings = bench.check_by(&without("-net_raw"), &bench.config(), &[]);
    findings.are(&[("capability", "error"), ("address-in-use", "warning"), ("peer", "warning")]);
    findings.tell("address-in-use", "not looked at: ", "NET_RAW");
}

#[test]
fn a_low_port_without_the_capability_for_it() {
    let Some(bench) = Bench::new("low-port") else { return };
    let config = bench.config().replace("8443", "443");
    let findings = bench.check_by(&without("-net_bind_service"), &config, &[]);
    findings.are(&[("capability", "error"), ("port", "error")]);
    findings.tell("capability", "NET_BIND_SERVICE is missing", "NET_BIND_SERVICE");
    findings.tell("port", "port 443 of `api` may not be opened", "NET_BIND_SERVICE");
}

#[test]
fn memory_that_may_not_be_locked() {
    let Some(bench) = Bench::new("memory") else { return };
    let prefix = [&["prlimit", "--memlock=65536:65536"][..], &without("-ipc_lock")].concat();
    let findings = bench.check_by(&prefix, &bench.config(), &[]);
    findings.are(&[("memory-lock", "warning")]);
    findings.tell("memory-lock", "can't be locked", "IPC_LOCK");
}

#[test]
fn more_connections_than_descriptors() {
    let Some(bench) = Bench::new("files") else { return };
    let config = bench.config().replace("port: 8443,", "port: 8443, maxConnections: 1000,");
    let prefix = ["prlimit", "--nofile=1024:2048"];
    let findings = bench.check_by(&prefix, &config, &[]);
    findings.are(&[("open-files", "warning")]);
    findings.tell("open-files", "take 2256 descriptors, and 2048 can be had", "LimitNOFILE=2256");
    bench.check_by(&["prlimit", "--nofile=1024:2256"], &config, &[]).are(&[]);
}

#[test]
fn no_watch_left_for_a_changed_file() {
    let Some(bench) = Bench::new("inotify") else { return };
    // In a user namespace, where the number is its own, this is not a host that could have an address.
    let config = format!("reloadOnChange: true\n{}", bench.balancer("port: 8443, check: {type: none}"));
    let limit = "echo $0 > /proc/sys/user/max_inotify_instances && exec \"$@\"";
    let permitted = Command::new("unshare").args(["--user", "--map-root-user", "true"]).status().unwrap();
    if !permitted.success() {
        eprintln!("SKIPPED: this machine permits no user namespace here, as within a chroot");
        return;
    }
    let inside = ["unshare", "--user", "--map-root-user", "sh", "-c", limit];
    bench.check_by(&[&inside[..], &["8"]].concat(), &config, &[]).are(&[]);
    let findings = bench.check_by(&[&inside[..], &["0"]].concat(), &config, &[]);
    findings.are(&[("inotify", "warning")]);
    findings.tell("inotify", "changes of the file can't be heard of", "fs.inotify.max_user_instances");
}

#[test]
fn a_balancer_that_may_not_show_its_clients_addresses() {
    let Some(bench) = Bench::new("transparent") else { return };
    let config = bench.balancer("port: 8443, check: {type: none}, transparentSource: true");
    bench.check(&config).are(&[]);
    let findings = bench.check_by(&without("-net_admin,-net_raw"), &config, &[]);
    findings.are(&[("transparent-source", "error")]);
    findings.tell("transparent-source", "can't be shown the clients' own addresses", "NET_ADMIN or NET_RAW");
}
