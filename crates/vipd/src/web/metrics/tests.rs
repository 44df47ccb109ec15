use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::status::{Clients, Tally, TieBreak};
use openmetrics::Labels;

#[path = "../../../tests/daemon/openmetrics.rs"]
mod openmetrics;

/// One with two backends.
fn frontend(name: &str, port: u16) -> Frontend {
    let backend = |address: &str, health: &str| Backend {
        name: "a \"quoted\\name\"".to_owned(),
        address: address.to_owned(),
        health: health.to_owned(),
        since_ms: 1,
        connections: 2,
        total: 30,
        connect_failures: 4,
        retries: 5,
        share_percent: 55,
        drained: false,
        cordoned: false,
        last_error: Some("refused".to_owned()),
        bytes_to_backend: 600,
        bytes_to_client: u64::MAX,
        tally: Tally {
            checks: lb::ChecksStatus::default(),
            ends: ["finished", NO_BACKEND].map(|end| (end, 0)).to_vec(),
        },
    };
    Frontend {
        name: name.to_owned(),
        leaving: false,
        listen: vec![format!("[::]:{port}")],
        redirected: None,
        forwarded: false,
        connections: 2,
        max_connections: 100,
        accepted: 40,
        refused: 1,
        rebalanced: 2,
        aged: 4,
        rejected: 3,
        backends: vec![backend("10.0.0.163:6443", "ready"), backend("10.0.0.164:6443", "dead")],
    }
}

/// A member of three that leads, with two load balancers of one name.
fn leading() -> Snapshot {
    Snapshot {
        cut: false,
        others: BTreeMap::new(),
        node: "a".to_owned(),
        version: "1.2.3".to_owned(),
        pid: 7,
        up_ms: 1,
        stopping: false,
        main_loop: MainLoop {
            realtime: true,
            delay_p99_us: 1_250,
            delay_max_us: 7_000_000,
            delay_permitted_us: Some(15_000),
            late: false,
        },
        owners: vec![Owner {
            leader: Some("a".to_owned()),
            election: "peers".to_owned(),
            lease: None,
            tie_break: Some(TieBreak {
                rule: "gateway".to_owned(),
                address: Some("10.0.0.1".to_owned()),
                answers: Some(true),
                needed: true,
                votes_for_this_node: true,
            }),
            transitions: 3,
            moves: Vec::new(),
            arrivals: Arrivals {
                count: [("silent".to_owned(), 2), ("stopped".to_owned(), 0)].into(),
                took: [(5, 0), (200, 1)].into(),
                took_longer: 1,
                sum_ms: 1400,
            },
            term: Some(9),
            lease_left_ms: Some(125),
            interface: "ens3".to_owned(),
            link_up: true,
            addresses: vec!["10.0.0.162/24".to_owned(), "fd00::162/64".to_owned()],
            state: "active".to_owned(),
            fenced: true,
            memory_locked: true,
            repairs: 2,
            announcements: 40,
            conflicts: 1,
            clients: Some(Clients { own: 12, beyond_limit: 3, of_leader: 0, tickles: 24 }),
            peers: vec![peer("b", Some(50), true), peer("c", None, false)],
        }],
        load_balancers: vec![frontend("api \"\\\n", 8443), frontend("twin", 1), frontend("twin", 2)],
        health_check: Vec::new(),
    }
}

fn peer(id: &str, heard_ms: Option<u64>, authenticated: bool) -> Peer {
    Peer {
        id: id.to_owned(),
        address: "10.0.0.164:10000".to_owned(),
        heard_ms,
        eligible: Some(true),
        priority: Some(100),
        witness: Some(false),
        resting: Some(false),
        version: None,
        authenticated,
        trouble: None,
    }
}

/// Everything of a snapshot, by name.
fn read(snapshot: Snapshot) -> BTreeMap<String, BTreeMap<Labels, f64>> {
    let text = exposition(snapshot).unwrap();
    let families = openmetrics::read(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    families.into_iter().map(|family| (family.name, family.samples)).collect()
}

fn labels(labels: &[(&str, &str)]) -> Labels {
    labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// The owner of a snapshot, to be changed.
fn owner(snapshot: &mut Snapshot) -> &mut Owner {
    &mut snapshot.owners[0]
}

#[test]
fn what_the_kernel_carries_has_no_counts_that_nobody_makes() {
    let mut snapshot = leading();
    snapshot.load_balancers.truncate(2);
    snapshot.load_balancers[1].forwarded = true;
    let metrics = read(snapshot);
    let of_twin = |family: &str| metrics[family].keys().filter(|labels| labels["frontend"] == "twin").count();
    assert_eq!(of_twin("vipd_frontend_open_connections"), 1);
    assert_eq!(of_twin("vipd_backend_open_connections"), 2);
    for uncounted in
        ["vipd_frontend_accepted_total", "vipd_backend_connections_total", "vipd_backend_bytes_total"]
    {
        assert_eq!(of_twin(uncounted), 0, "{uncounted}");
        assert!(!metrics[uncounted].is_empty(), "{uncounted}");
    }
}

#[test]
fn a_tie_break_has_samples_where_there_is_one() {
    let mut snapshot = leading();
    let metrics = read(snapshot.clone());
    assert_eq!(metrics["vipd_tie_break_answers"][&Labels::new()], 1.0);
    assert_eq!(metrics["vipd_tie_break_votes"][&Labels::new()], 1.0);
    owner(&mut snapshot).tie_break = None;
    let metrics = read(snapshot);
    assert!(metrics["vipd_tie_break_answers"].is_empty() && metrics["vipd_tie_break_votes"].is_empty());
}

#[test]
fn a_witness_has_an_election_and_nothing_of_an_interface() {
    let mut witness = leading();
    owner(&mut witness).state = "witness".to_owned();
    owner(&mut witness).leader = Some("b".to_owned());
    let metrics = read(witness);
    assert_eq!(metrics["vipd_leader"][&labels(&[("node", "b")])], 1.0);
    assert_eq!(metrics["vipd_vip_held"][&labels(&[("address", "10.0.0.162")])], 0.0);
    assert!(metrics["vipd_link_up"].is_empty() && metrics["vipd_address_fenced"].is_empty());
}

#[test]
fn a_leader_tells_that_it_leads_and_for_how_long() {
    let seen = read(leading());
    assert_eq!(seen["kube_vip_is_leader"], [(labels(&[("node", "a"), ("lease_name", "peers")]), 1.0)].into());
    assert_eq!(
        seen["kube_vip_leader_election_transitions_total"],
        [(labels(&[("lease_name", "peers")]), 3.0)].into()
    );
    let failovers =
        ["silent", "stopped"].map(|reason| seen["vipd_failovers_total"][&labels(&[("reason", reason)])]);
    assert_eq!(failovers, [2.0, 0.0]);
    let took = &seen["vipd_failover_duration_seconds"];
    let within = ["0.005", "0.2", "+Inf"].map(|bound| took[&labels(&[("le", bound)])]);
    assert_eq!(within, [0.0, 1.0, 2.0]);
    let leaders = ["a", "b", "c"].map(|node| seen["vipd_leader"][&labels(&[("node", node)])]);
    assert_eq!(leaders, [1.0, 0.0, 0.0]);
    assert_eq!(seen["vipd_term"][&labels(&[])], 9.0);
    assert_eq!(seen["vipd_lease_left_seconds"][&labels(&[])], 0.125);
    let held = ["10.0.0.162", "fd00::162"].map(|ip| seen["vipd_vip_held"][&labels(&[("address", ip)])]);
    assert_eq!(held, [1.0, 1.0]);
    assert_eq!(seen["vipd_address_fenced"][&labels(&[])], 1.0);
    assert_eq!(seen["vipd_memory_locked"][&labels(&[])], 1.0);
    assert_eq!(seen["vipd_address_repairs_total"][&labels(&[])], 2.0);
    assert_eq!(seen["vipd_address_conflicts_total"][&labels(&[])], 1.0);
    assert_eq!(seen["vipd_link_up"][&labels(&[("interface", "ens3")])], 1.0);
    // A peer that was never heard has no age.
    assert_eq!(seen["vipd_peer_heard_age_seconds"], [(labels(&[("peer", "b")]), 0.05)].into());
    let clients = ["this_node", "leader"].map(|of| seen["vipd_clients"][&labels(&[("of", of)])]);
    assert_eq!(clients, [12.0, 0.0]);
    assert_eq!(seen["vipd_clients_beyond_limit"][&labels(&[])], 3.0);
    assert_eq!(seen["vipd_tickles_total"][&labels(&[])], 24.0);
    let authenticated = ["b", "c"].map(|peer| seen["vipd_peer_authenticated"][&labels(&[("peer", peer)])]);
    assert_eq!(authenticated, [1.0, 0.0]);
}

/// Where addresses are spread, each has its election, and the host is still one.
#[test]
fn of_several_elections_each_has_samples_of_its_own() {
    let mut snapshot = leading();
    let mut other = snapshot.owners[0].clone();
    other.addresses = vec!["10.0.0.163/24".to_owned()];
    (other.leader, other.term, other.state) = (Some("b".to_owned()), None, "standby".to_owned());
    snapshot.owners.push(other);
    let seen = read(snapshot);
    let (here, there) = ([("vip", "10.0.0.162")], [("vip", "10.0.0.163")]);
    assert_eq!(seen["vipd_term"], [(labels(&here), 9.0)].into());
    let leads = |node: &str, vip: &str| seen["vipd_leader"][&labels(&[("node", node), ("vip", vip)])];
    assert_eq!([leads("a", "10.0.0.162"), leads("b", "10.0.0.162")], [1.0, 0.0]);
    assert_eq!([leads("a", "10.0.0.163"), leads("b", "10.0.0.163")], [0.0, 1.0]);
    assert_eq!(seen["vipd_address_fenced"], [(labels(&here), 1.0), (labels(&there), 1.0)].into());
    assert_eq!(seen["vipd_memory_locked"], [(labels(&[]), 1.0)].into());
    assert_eq!(seen["vipd_link_up"], [(labels(&[("interface", "ens3")]), 1.0)].into());
}

#[test]
fn a_loop_that_is_woken_late_is_told_of_in_seconds() {
    let mut snapshot = leading();
    let seen = read(snapshot.clone());
    let delay = |of| seen["vipd_scheduling_delay_seconds"][&labels(&[("of", of)])];
    assert_eq!([delay("p99"), delay("max")], [0.001_25, 7.0]);
    assert_eq!(seen["vipd_scheduling_delay_permitted_seconds"][&labels(&[])], 0.015);
    assert_eq!(seen["vipd_scheduling_late"][&labels(&[])], 0.0);
    assert_eq!(seen["vipd_scheduling_realtime"][&labels(&[])], 1.0);
    snapshot.main_loop.late = true;
    assert_eq!(read(snapshot.clone())["vipd_scheduling_late"][&labels(&[])], 1.0);
    snapshot.main_loop.delay_permitted_us = None;
    assert!(read(snapshot)["vipd_scheduling_late"].is_empty());
}

#[test]
fn a_follower_has_no_term_no_lease_and_no_address() {
    let mut snapshot = leading();
    let owner = owner(&mut snapshot);
    (owner.leader, owner.term, owner.lease_left_ms) = (Some("b".to_owned()), None, None);
    for state in ["standby", "claiming", "releasing"] {
        state.clone_into(&mut self::owner(&mut snapshot).state);
        let seen = read(snapshot.clone());
        assert_eq!(seen["kube_vip_is_leader"].values().copied().collect::<Vec<_>>(), [0.0]);
        let leaders = ["a", "b", "c"].map(|node| seen["vipd_leader"][&labels(&[("node", node)])]);
        assert_eq!(leaders, [0.0, 1.0, 0.0]);
        assert!(seen["vipd_term"].is_empty());
        assert_eq!(seen["vipd_lease_left_seconds"][&labels(&[])], 0.0);
        assert!(seen["vipd_vip_held"].values().all(|held| *held == 0.0), "{state}");
    }
}

#[test]
fn each_backend_is_in_one_state() {
    let seen = read(leading());
    let state = |address: &str, state: &str| {
        let wanted = [("frontend", "api \"\\\n"), ("backend", address), ("state", state)];
        seen["vipd_backend_state"][&labels(&wanted)]
    };
    assert_eq!(STATES.map(|name| state("10.0.0.163:6443", name)), [0.0, 1.0, 0.0, 0.0]);
    assert_eq!(STATES.map(|name| state("10.0.0.164:6443", name)), [0.0, 0.0, 0.0, 1.0]);
}

#[test]
fn a_backend_in_its_slow_start_tells_its_share() {
    let seen = read(leading());
    let wanted = [("frontend", "api \"\\\n"), ("backend", "10.0.0.163:6443")];
    assert_eq!(seen["vipd_backend_share"][&labels(&wanted)], 0.55);
}

#[test]
fn load_balancers_of_one_name_are_told_apart() {
    let seen = read(leading());
    let names: BTreeSet<&str> =
        seen["vipd_frontend_accepted_total"].keys().map(|labels| labels["frontend"].as_str()).collect();
    assert_eq!(names, ["api \"\\\n", "twin ([::]:1)", "twin ([::]:2)"].into());
}

#[test]
fn a_checked_apiserver_without_a_load_balancer_is_told_too() {
    let mut snapshot = leading();
    snapshot.health_check = snapshot.load_balancers.remove(0).backends;
    snapshot.load_balancers.clear();
    let seen = read(snapshot);
    let wanted = [("frontend", "healthCheck"), ("backend", "10.0.0.164:6443"), ("state", "dead")];
    assert_eq!(seen["vipd_backend_state"][&labels(&wanted)], 1.0);
    assert!(seen["vipd_frontend_accepted_total"].is_empty());
}

#[test]
fn checks_and_ends_are_told_of_each_backend() {
    let mut snapshot = leading();
    let tally = &mut snapshot.load_balancers[0].backends[0].tally;
    tally.checks.answers[0] = ("ready", 7);
    (tally.checks.took[1], tally.checks.took[10]) = (5, 2);
    tally.checks.sum = Duration::from_millis(2_500);
    tally.ends = vec![("finished", 3), (NO_BACKEND, 0)];
    let seen = read(snapshot);
    let of = |name: &str, value: &str| {
        labels(&[("frontend", "api \"\\\n"), ("backend", "10.0.0.163:6443"), (name, value)])
    };
    assert_eq!(seen["vipd_backend_checks_total"][&of("answer", "ready")], 7.0);
    let took = &seen["vipd_backend_check_duration_seconds"];
    assert_eq!(["0.001", "0.002", "1.0", "+Inf"].map(|bound| took[&of("le", bound)]), [0.0, 5.0, 5.0, 7.0]);
    let ended = &seen["vipd_backend_connections_ended_total"];
    assert_eq!(ended[&of("end", "finished")], 3.0);
    assert!(!ended.contains_key(&of("end", NO_BACKEND)), "no backend had it");
}

/// Each has a sample on a node that has everything, and so shows its labels.
#[test]
fn the_metrics_are_those_of_the_reference() {
    let text = exposition(leading()).unwrap();
    let families = openmetrics::read(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let mut made = "# Metrics

What vipd serves at `/metrics`. This page is generated from the program; [metrics](../metrics.md) says how to have them served, what
Prometheus and Grafana make of them, and what labels such as `frontend` stand for. The name is that of the samples; those of a histogram add `_bucket`, `_sum` and `_count`.

| metric | type | labels | meaning |
|---|---|---|---|
"
    .to_owned();
    for family in &families {
        let meaning = meaning::MEANINGS.iter().find(|(name, _)| *name == family.name).unwrap().1;
        let names: BTreeSet<Vec<&str>> =
            family.samples.keys().map(|labels| labels.keys().map(String::as_str).collect()).collect();
        assert_eq!(names.len(), 1, "{}: {names:?}", family.name);
        let names: Vec<_> = names.into_iter().flatten().map(|name| format!("`{name}`")).collect();
        let labels = if names.is_empty() { "none".to_owned() } else { names.join(" ") };
        let line = format!("| `{}` | {} | {labels} | {meaning} |\n", family.name, family.kind);
        made.push_str(&line);
    }
    crate::reference::keep(&crate::reference::docs().join("reference/metrics.md"), &made);
    assert_eq!(families.len(), meaning::MEANINGS.len(), "a meaning of no metric");
}
