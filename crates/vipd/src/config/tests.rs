use std::fs;
use std::path::PathBuf;

use super::*;

fn write(name: &str, text: &str) -> PathBuf {
    let file = std::env::temp_dir().join(format!("vipd-config-{}-{name}.yaml", std::process::id()));
    fs::write(&file, text).unwrap();
    file
}

fn loaded(name: &str, text: &str, overrides: Overrides) -> Config {
    let file = write(name, text);
    let config = load(&file, overrides);
    fs::remove_file(file).unwrap();
    match config {
        Ok((config, _)) => config,
        Err(findings) => panic!("{findings:?}"),
    }
}

fn peers(vip: &Vip) -> &leader::peers::Config {
    match &vip.election {
        Election::Peers(election) => election,
        Election::Kubernetes(election) => panic!("{election:?}"),
    }
}

fn kubernetes(vip: &Vip) -> &leader::kubernetes::Config {
    match &vip.election {
        Election::Kubernetes(election) => election,
        Election::Peers(election) => panic!("{election:?}"),
    }
}

const KUBE_VIP: &str = include_str!("../../tests/config/valid/kube-vip-0.1.yaml");

#[test]
fn a_kube_vip_file_means_what_it_meant_there() {
    let mut config = loaded("kube-vip", KUBE_VIP, Overrides::default());
    assert_eq!(config.node, "master-1");
    let vip = config.vips.remove(0);
    assert_eq!(vip.interface, Interface::Named("ens3".to_owned()));
    assert_eq!(vip.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.162/32"]);
    assert!(vip.announce);
    assert!(peers(&vip).quorum.start_as_leader);
    assert_eq!(peers(&vip).listen.to_string(), "10.0.0.163:10000");
    assert_eq!(peers(&vip).peers.len(), 2);
    assert_eq!(peers(&vip).quorum.members.len(), 3);
    let balancer = config.balancer.unwrap();
    let frontend = &balancer.config.frontends[0];
    assert!(matches!(frontend.listen, lb::Listen::Any { port: 8443 }));
    assert_eq!(frontend.backends.len(), 3);
    assert_eq!(frontend.virtual_ips, ["10.0.0.162".parse::<IpAddr>().unwrap()]);
}

#[test]
fn bind_to_vip_listens_on_the_address_alone() {
    let text = KUBE_VIP.replace("bindToVip: false", "bindToVip: true");
    let config = loaded("bind-to-vip", &text, Overrides::default());
    let listen = config.balancer.unwrap().config.frontends.remove(0).listen;
    assert!(matches!(listen, lb::Listen::Addresses { ips, port: 8443 } if ips.len() == 1));
}

#[test]
fn same_port_listens_on_the_address_at_a_port_of_its_own() {
    for (port, more, expected) in [
        (6443, "", 16443),
        (6443, "  listenPort: 7443\n", 7443),
        (443, "  bindToVip: true\n", 10443),
        (60000, "", 50000),
    ] {
        let keys = format!("port: {port}\n  samePort: true\n{more}");
        let text = KUBE_VIP.replace("port: 8443\n  bindToVip: false\n", &keys);
        let config = loaded("same-port", &text, Overrides::default());
        let frontend = config.balancer.unwrap().config.frontends.remove(0);
        let expected = lb::Listen::Redirected { ips: frontend.virtual_ips.clone(), port, own: expected };
        assert_eq!(frontend.listen, expected, "{more}");
    }
}

#[test]
fn single_node_has_no_peers() {
    let overrides = Overrides { single_node: true, ..Overrides::default() };
    let vip = loaded("single", KUBE_VIP, overrides).vips.remove(0);
    assert!(peers(&vip).peers.is_empty());
    assert_eq!(peers(&vip).quorum.members.len(), 1);
}

#[test]
fn disable_vip_leaves_the_balancer() {
    let overrides = Overrides { disable_vip: true, ..Overrides::default() };
    let config = loaded("disabled", KUBE_VIP, overrides);
    assert!(config.vips.is_empty());
    assert!(config.balancer.unwrap().config.frontends[0].virtual_ips.is_empty());
}

#[test]
fn an_obsolete_prefix_still_counts() {
    let text = format!("{KUBE_VIP}vipCidr: 24\n");
    let vip = loaded("cidr", &text, Overrides::default()).vips.remove(0);
    assert_eq!(vip.addresses[0].prefix, 24);
}

#[test]
fn a_key_file_may_end_with_a_newline() {
    let key = write("key", "0123456789abcdef0123456789abcdef\n");
    let text = format!("{KUBE_VIP}peerKeys: [{{id: 1, file: {}}}]\n", key.display());
    let vip = loaded("keys", &text, Overrides::default()).vips.remove(0);
    fs::remove_file(key).unwrap();
    assert_eq!(peers(&vip).keys.len(), 1);
}

#[test]
fn an_election_by_lease_has_kube_vips_defaults() {
    let text = "node: Master-1\nelection: kubernetes\nvips: [10.0.0.162/24, 'fd00::162']\ninterface: ens3\n";
    let mut config = loaded("lease", text, Overrides::default());
    assert_eq!(config.node, "Master-1");
    let vip = config.vips.remove(0);
    let expected = leader::kubernetes::Config {
        me: leader::NodeId::new("master-1").unwrap(),
        namespace: "kube-system".to_owned(),
        name: "plndr-cp-lock".to_owned(),
        timing: leader::lease::Timing::DEFAULT,
        preserve: false,
        annotations: BTreeMap::new(),
        access: leader::kubernetes::Access {
            kubeconfigs: vec!["/etc/kubernetes/admin.conf".into(), "/etc/kubernetes/super-admin.conf".into()],
            own: "127.0.0.1:6443".parse().unwrap(),
            servers: Vec::new(),
            port: 6443,
            never: ["10.0.0.162".parse().unwrap(), "fd00::162".parse().unwrap()].into(),
            memory: Some("/var/lib/vipd/control-plane.json".into()),
        },
    };
    assert_eq!(kubernetes(&vip), &expected);
}

#[test]
fn every_key_of_an_election_by_lease_counts() {
    let text = "node: n1\nelection: kubernetes\nvip: 10.0.0.162\nkubernetes:\n  kubeconfig: /root/config\n  lease: other\n  \
        leaseDuration: 5s\n  renewDeadline: 3s\n  retryPeriod: 1s\n  server: '[fd00::1]'\n  servers: [10.0.0.164, '10.0.0.165:443']\n  \
        port: 7443\n  preserve: true\n  annotations: {example.org/a: b}\n  memory: /m.json\n";
    let vip = loaded("lease-keys", text, Overrides::default()).vips.remove(0);
    assert_eq!(vip.interface, Interface::DefaultRoute);
    let election = kubernetes(&vip);
    assert_eq!((election.namespace.as_str(), election.name.as_str()), ("kube-system", "other"));
    assert_eq!(election.timing.lease_duration(), Duration::from_secs(5));
    assert_eq!(election.timing.renew_deadline(), Duration::from_secs(3));
    assert_eq!(election.timing.retry_period(), Duration::from_secs(1));
    assert!(election.preserve);
    assert_eq!(election.annotations["example.org/a"], "b");
    let access = &election.access;
    assert_eq!(access.kubeconfigs, [PathBuf::from("/root/config")]);
    assert_eq!(access.own.to_string(), "[fd00::1]:7443");
    assert_eq!(access.servers, ["10.0.0.164:7443".parse().unwrap(), "10.0.0.165:443".parse().unwrap()]);
    assert_eq!(access.port, 7443);
    assert_eq!(access.memory, Some("/m.json".into()));
}

#[test]
fn frontends_that_are_discovered_are_remembered_with_their_port() {
    let text = "node: n1\nelection: kubernetes\nvip: 10.0.0.162\nloadBalancers:\n- {name: api, port: 8443, discover: true}\n\
        - {port: 9443, discover: true, backendPort: 7443, backends: [{address: 10.0.0.163}]}\n\
        - {port: 10443, backends: [{address: 10.0.0.163, port: 6443}]}\n";
    let balancer = loaded("discover", text, Overrides::default()).balancer.unwrap();
    assert_eq!(
        balancer.discovered,
        BTreeMap::from([("api".to_owned(), 6443), ("port-9443".to_owned(), 7443)])
    );
    let known = &balancer.config.frontends[1].backends;
    assert_eq!(known[0].address.to_string(), "10.0.0.163:7443");
}

#[test]
fn the_key_of_kube_vip_0_1_6_asks_for_an_election_by_lease() {
    let text = "localPeer: {id: n1, address: 10.0.0.163, port: 10000}\nenableLeaderElection: true\nvip: 10.0.0.162\n";
    let vip = loaded("old-election", text, Overrides::default()).vips.remove(0);
    assert_eq!(kubernetes(&vip).me.as_str(), "n1");
}

#[test]
fn metrics_are_served_where_the_file_says_and_nowhere_else() {
    let load = |name: &str, more: &str| loaded(name, &format!("{KUBE_VIP}{more}"), Overrides::default());
    let metrics = |name, more| load(name, more).metrics.map(|address| address.to_string());
    assert_eq!(metrics("metrics-absent", ""), None);
    assert_eq!(metrics("metrics-port", "metrics: :2112\n").unwrap(), "[::]:2112");
    assert_eq!(metrics("metrics-v4", "metrics: 10.0.0.163:2112\n").unwrap(), "10.0.0.163:2112");
    assert_eq!(metrics("metrics-v6", "metrics: '[fd00::163]:2112'\n").unwrap(), "[fd00::163]:2112");
    assert_eq!(load("health-absent", "").health, None);
    assert_eq!(load("health", "healthPort: 8080\n").health.unwrap().to_string(), "[::]:8080");
}

/// Each address has a host of its own that it is meant for, and each host the same idea of which.
#[test]
fn addresses_that_are_spread_have_an_election_each_with_another_first() {
    let hosts = [("n1", "10.0.0.1"), ("n2", "10.0.0.2"), ("n3", "10.0.0.3"), ("w", "10.0.0.4")];
    let file = |me: &str| {
        let host = |(id, address): &(&str, &str)| {
            let witness = *id == "w";
            format!("{{id: {id}, address: {address}, port: 10000, witness: {witness}}}")
        };
        let (own, others): (Vec<_>, Vec<_>) = hosts.iter().partition(|(id, _)| *id == me);
        let others: Vec<String> = others.into_iter().map(host).collect();
        format!(
            "localPeer: {}\nremotePeers: [{}]\nvips: [10.0.0.8, 10.0.0.9, fd00::8, 10.0.0.7]\nspread: true\n",
            host(own[0]),
            others.join(", ")
        )
    };
    let priorities = ["n1", "n2", "n3"].map(|me| {
        let config = loaded(&format!("spread-{me}"), &file(me), Overrides::default());
        let elections: Vec<_> = config.vips.iter().map(peers).collect();
        let ports: Vec<u16> = elections.iter().map(|election| election.listen.port()).collect();
        assert_eq!(ports, [10000, 10001, 10002, 10003]);
        for (place, election) in (0..).zip(&elections) {
            assert!(election.peers.values().all(|at| at.port() == 10000 + place));
            assert!(election.quorum.preempt);
        }
        let subjects: Vec<_> = elections.iter().map(|election| election.subject.unwrap().0).collect();
        assert_eq!(subjects[0], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 0, 0, 8]);
        assert_eq!(subjects[2], [253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8]);
        elections.iter().map(|election| election.quorum.priority).collect::<Vec<_>>()
    });
    assert_eq!(priorities, [[255, 253, 254, 255], [254, 255, 253, 254], [253, 254, 255, 253]]);

    let witness = loaded("spread-w", &file("w"), Overrides::default());
    assert_eq!((witness.vips.len(), witness.witnesses.len()), (0, 4));
    let stays = format!("{}preempt: false\n", file("n1"));
    let stays = loaded("spread-stays", &stays, Overrides::default());
    assert!(stays.vips.iter().all(|vip| !peers(vip).quorum.preempt));
}

#[test]
fn a_load_balancer_chooses_as_its_keys_say() {
    let frontend = |name: &str, more: &str| {
        let text = format!(
            "loadBalancers:\n- {{port: 8443, {more}backends: [{{address: 10.0.0.163, port: 6443}}]}}\n"
        );
        loaded(name, &text, Overrides::default()).balancer.unwrap().config.frontends.remove(0)
    };
    let default = frontend("choice-default", "");
    assert_eq!(
        (default.policy, default.slow_start),
        (lb::Policy::LeastConnections, Some(Duration::from_secs(10)))
    );
    let other = frontend("choice-other", "policy: roundRobin, slowStart: 1m, ");
    assert_eq!((other.policy, other.slow_start), (lb::Policy::RoundRobin, Some(Duration::from_secs(60))));
    let hash = frontend("choice-hash", "policy: sourceHash, ");
    assert_eq!(hash.policy, lb::Policy::SourceHash);
    assert_eq!(default.timeouts.max_age, None);
    let aged = frontend("choice-age", "maxConnectionAge: 4h, ");
    assert_eq!(aged.timeouts.max_age, Some(Duration::from_secs(4 * 3600)));
    assert_eq!(default.transparent_source, []);
    assert_eq!(frontend("source-no", "transparentSource: false, ").transparent_source, []);
    let everybody = frontend("source-yes", "transparentSource: true, ").transparent_source;
    assert!(
        ["10.0.0.1", "fd00::1"].iter().all(|ip| everybody.iter().any(|it| it.contains(ip.parse().unwrap())))
    );
    let some = frontend("source-some", "transparentSource: [10.1.0.0/16], ").transparent_source;
    assert_eq!(some, [lb::Network::new("10.1.0.0".parse().unwrap(), 16).unwrap()]);
    assert_eq!(frontend("choice-none", "slowStart: none, ").slow_start, None);
}

#[test]
fn a_finding_has_its_lines_and_moves_nothing_on_a_terminal_whatever_is_in_the_file() {
    let text = "vip: \"10.0.0.9\\n\\e[2J\\x9b2Jok: all is well\"\ninterface: eth0\n";
    let findings = load_text(Text::of("config.yaml", text), Overrides::default()).unwrap_err();
    let finding = findings.iter().find(|finding| finding.message.contains("all is well")).unwrap();
    assert!(finding.message.contains("\n\u{1b}"), "it is in what is told: {finding:?}");
    let shown = finding.to_string();
    assert_eq!(shown.lines().count(), 4, "{shown:?}");
    assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "{shown:?}");
}

/// Found by fuzzing: the place was right, and the line below it was another, or none.
#[test]
fn a_finding_shows_its_line_where_lines_end_with_carriage_returns_alone() {
    let text = "localPeer: {id: a, address: 10.0.0.1, port: 1}\r\rinterface: eth0\r\nvip: 10.0.0.9.9\rsingleNode: true\r";
    let findings = load_text(Text::of("config.yaml", text), Overrides::default()).unwrap_err();
    let finding = findings.iter().find(|finding| finding.message.contains("10.0.0.9.9")).unwrap();
    assert_eq!(finding.place.unwrap().line, 4);
    assert_eq!(finding.line.as_deref(), Some("vip: 10.0.0.9.9"));
}
