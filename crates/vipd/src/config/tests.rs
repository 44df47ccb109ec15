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

const KUBE_VIP: &str = include_str!("../../tests/config/valid/kube-vip-0.1.yaml");

#[test]
fn a_kube_vip_file_means_what_it_meant_there() {
    let config = loaded("kube-vip", KUBE_VIP, Overrides::default());
    assert_eq!(config.node, "master-1");
    let vip = config.vip.unwrap();
    assert_eq!(vip.interface, "ens3");
    assert_eq!(vip.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.162/32"]);
    assert!(vip.announce);
    assert!(vip.election.quorum.start_as_leader);
    assert_eq!(vip.election.listen.to_string(), "10.0.0.163:10000");
    assert_eq!(vip.election.peers.len(), 2);
    assert_eq!(vip.election.quorum.members.len(), 3);
    let balancer = config.balancer.unwrap();
    let frontend = &balancer.frontends[0];
    assert!(matches!(frontend.listen, lb::Listen::Any { port: 8443 }));
    assert_eq!(frontend.backends.len(), 3);
    assert_eq!(frontend.virtual_ips, ["10.0.0.162".parse::<std::net::IpAddr>().unwrap()]);
}

#[test]
fn bind_to_vip_listens_on_the_address_alone() {
    let text = KUBE_VIP.replace("bindToVip: false", "bindToVip: true");
    let config = loaded("bind-to-vip", &text, Overrides::default());
    let listen = config.balancer.unwrap().frontends.remove(0).listen;
    assert!(matches!(listen, lb::Listen::Addresses { ips, port: 8443 } if ips.len() == 1));
}

#[test]
fn single_node_has_no_peers() {
    let overrides = Overrides { single_node: true, ..Overrides::default() };
    let vip = loaded("single", KUBE_VIP, overrides).vip.unwrap();
    assert!(vip.election.peers.is_empty());
    assert_eq!(vip.election.quorum.members.len(), 1);
}

#[test]
fn disable_vip_leaves_the_balancer() {
    let overrides = Overrides { disable_vip: true, ..Overrides::default() };
    let config = loaded("disabled", KUBE_VIP, overrides);
    assert!(config.vip.is_none());
    assert!(config.balancer.unwrap().frontends[0].virtual_ips.is_empty());
}

#[test]
fn an_obsolete_prefix_still_counts() {
    let text = format!("{KUBE_VIP}vipCidr: 24\n");
    let vip = loaded("cidr", &text, Overrides::default()).vip.unwrap();
    assert_eq!(vip.addresses[0].prefix, 24);
}

#[test]
fn a_key_file_may_end_with_a_newline() {
    let key = write("key", "0123456789abcdef0123456789abcdef\n");
    let text = format!("{KUBE_VIP}peerKeys: [{{id: 1, file: {}}}]\n", key.display());
    let vip = loaded("keys", &text, Overrides::default()).vip.unwrap();
    fs::remove_file(key).unwrap();
    assert_eq!(vip.election.keys.len(), 1);
}
