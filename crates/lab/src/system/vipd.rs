//! vipd among static peers.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Result;

use super::Site;
use crate::network::{
    BACKEND_PORT, FRONTEND_PORT, INTERFACE, NODES, PREFIX, PREFIX6, VIP, VIP6, node_address,
};
use crate::process::Launch;

/// Where vipd's peers talk to each other.
const PEER_PORT: u16 = 10_000;

/// A timing profile of vipd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timing {
    /// `timing: default`
    Default,
    /// `timing: fast`
    Fast,
    /// `timing: relaxed`
    Relaxed,
}

impl FromStr for Timing {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "default" => Ok(Self::Default),
            "fast" => Ok(Self::Fast),
            "relaxed" => Ok(Self::Relaxed),
            _ => Err(format!("no timing {text}: it is default, fast or relaxed")),
        }
    }
}

/// What decides between two nodes of which one is silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Arbiter {
    /// `tieBreak: gateway`: the third node's host is the gateway, and nothing of vipd runs there.
    TieBreak,
    /// `witness: true`: the third node votes, and never has the address.
    Witness,
}

/// The socket on which vipd answers `vipd status`.
pub fn vipd_socket(folder: &Path) -> PathBuf {
    folder.join("vipd.sock")
}

/// Writes a node's file and key, and says how to start vipd with them.
pub(super) fn prepare(timing: Timing, balancer: &str, site: Site<'_>) -> Result<Launch> {
    let key = write_key(site)?;
    launch(&text(timing, site.node, &key, balancer), site)
}

/// The same for two nodes with something that decides between them; nothing where nothing runs.
pub(super) fn prepare_pair(arbiter: Arbiter, site: Site<'_>) -> Result<Vec<Launch>> {
    if arbiter == Arbiter::TieBreak && site.node == ARBITER {
        return Ok(Vec::new());
    }
    let key = write_key(site)?;
    Ok(vec![launch(&pair_text(arbiter, site.node, &key), site)?])
}

fn write_key(site: Site<'_>) -> Result<PathBuf> {
    let key = site.folder.join("peer.key");
    // A secret of the lab: 32 bytes in hexadecimal, the same on every node.
    fs::write(&key, format!("{}\n", "0123456789abcdef".repeat(4)))?;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
    Ok(key)
}

/// Writes a node's config.yaml, and says how to start vipd with it.
pub(super) fn launch(text: &str, site: Site<'_>) -> Result<Launch> {
    let (config, socket) = (site.folder.join("config.yaml"), vipd_socket(site.folder));
    fs::write(&config, text)?;
    let mut launch = Launch::new("vipd", &site.programs.vipd()?, ["start", "-c"]);
    launch.args.extend([config.into(), "--socket".into(), socket.clone().into()]);
    launch.leftovers.push(socket);
    Ok(launch)
}

/// The balancer of most files of vipd in the lab: all apiservers, on the lab's front port.
pub(super) fn balancer() -> String {
    balancer_with(&format!("port: {FRONTEND_PORT}\n  bindToVip: false"))
}

/// The same, and it moves connections to apiservers that have come back.
pub(super) fn rebalancing_balancer() -> String {
    balancer_with(&format!("port: {FRONTEND_PORT}\n  bindToVip: false\n  rebalance: 5"))
}

/// The balancer at the port that the apiservers have on every address.
pub(super) fn balancer_at_the_same_port() -> String {
    balancer_with(&format!("port: {BACKEND_PORT}\n  samePort: true"))
}

/// The same, and the kernel leads connections to the apiservers.
pub(super) fn balancer_in_the_kernel() -> String {
    balancer_with(&format!("port: {BACKEND_PORT}\n  samePort: true\n  mode: kernel"))
}

/// No balancer: a node whose own apiserver is not well leaves the address to another.
pub(super) fn own_apiserver() -> String {
    format!("healthCheck:\n  address: 127.0.0.1\n  port: {BACKEND_PORT}\n  interval: 500ms\n")
}

fn balancer_with(keys: &str) -> String {
    let mut text = frontend(keys) + "  backends:\n";
    for place in 0..NODES.len() {
        text += &format!("  - port: {BACKEND_PORT}\n    address: {}\n", node_address(place));
    }
    text
}

/// The balancer that is told by the API which nodes are behind it.
pub(super) fn discovering_balancer() -> String {
    let keys =
        format!("port: {FRONTEND_PORT}\n  bindToVip: false\n  discover: true\n  backendPort: {BACKEND_PORT}");
    frontend(&keys)
}

fn frontend(keys: &str) -> String {
    format!("loadBalancers:\n- name: API Server Load Balancer\n  type: tcp\n  {keys}\n")
}

/// A node's config.yaml: the form of kube-vip 0.1 and our own keys.
fn text(timing: Timing, node: usize, key: &Path, balancer: &str) -> String {
    let peer = |place: usize| {
        format!("id: {}\n  address: {}\n  port: {PEER_PORT}\n", NODES[place], node_address(place))
    };
    let timing = match timing {
        Timing::Default => "default",
        // The durations of `fast`: the profile itself would refuse a host that is too busy for it, and what becomes of the address on
        // such a host is what a trial is to show.
        Timing::Fast => "{heartbeat: 2ms, lease: 10ms}",
        Timing::Relaxed => "relaxed",
    };
    let mut text = format!("localPeer:\n  {}remotePeers:\n", peer(node));
    for other in (0..NODES.len()).filter(|other| *other != node) {
        text += &format!("- {}", peer(other));
    }
    text += &format!(
        "vips: [{VIP}/{PREFIX}, {VIP6}/{PREFIX6}]\ngratuitousARP: true\nsingleNode: false\nstartAsLeader: {}\n\
         interface: {INTERFACE}\ntiming: {timing}\npeerKeys: [{{id: 1, file: {}}}]\n{}",
        node == 0,
        key.display(),
        balancer
    );
    text
}

/// A node's config.yaml where two may have the address. Nobody starts as leader: what decides between them decides about the first, too.
/// Of two votes none may come late, so the lease is one that a busy machine keeps.
fn pair_text(arbiter: Arbiter, node: usize, key: &Path) -> String {
    let hosts = if arbiter == Arbiter::Witness { NODES.len() } else { ARBITER };
    let peer = |place: usize| {
        let witness = if place == ARBITER { ", witness: true" } else { "" };
        format!("{{id: {}, address: {}, port: {PEER_PORT}{witness}}}", NODES[place], node_address(place))
    };
    let others: Vec<String> = (0..hosts).filter(|other| *other != node).map(peer).collect();
    let tie_break = if arbiter == Arbiter::TieBreak { "tieBreak: gateway\n" } else { "" };
    format!(
        "localPeer: {}\nremotePeers: [{}]\nvips: [{VIP}/{PREFIX}, {VIP6}/{PREFIX6}]\ninterface: {INTERFACE}\n{tie_break}\
         timing: {{heartbeat: 100ms, lease: 500ms}}\npeerKeys: [{{id: 1, file: {}}}]\n",
        peer(node),
        others.join(", "),
        key.display()
    )
}

/// The node whose host decides between the other two.
pub(crate) const ARBITER: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vipds_file_has_the_form_of_kube_vip_and_one_node_that_starts_as_leader() {
        let file = text(Timing::Fast, 1, Path::new("/run/key"), &balancer());
        let begin = "localPeer:\n  id: master-2\n  address: 10.0.0.164\n  port: 10000\nremotePeers:\n- id: master-1\n  \
                     address: 10.0.0.163\n  port: 10000\n- id: master-3\n";
        assert!(file.starts_with(begin), "{file}");
        assert!(file.contains("\nvips: [10.0.0.162/24, fd00::162/64]\n"), "{file}");
        assert!(
            file.contains("\nstartAsLeader: false\ninterface: ens3\ntiming: {heartbeat: 2ms, lease: 10ms}\n"),
            "{file}"
        );
        let leaders = (0..NODES.len())
            .filter(|node| text(Timing::Default, *node, Path::new("/k"), "").contains("startAsLeader: true"));
        assert_eq!(leaders.count(), 1);
        assert!(file.contains("  port: 8443\n  bindToVip: false\n  backends:\n  - port: 6443\n"), "{file}");
        let same = balancer_at_the_same_port();
        assert!(same.contains("  port: 6443\n  samePort: true\n  backends:\n  - port: 6443\n"), "{same}");
    }
}
