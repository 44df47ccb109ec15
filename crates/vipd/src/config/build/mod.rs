//! From [`File`] to [`Config`]: what the keys mean, and whether they fit together.
//!
//! Everything wrong is collected before anything is refused, so that a file is mended in one round.

mod backends;
mod balancer;
mod bind;
mod check;
mod choice;
mod clients;
mod kernel_path;
pub(super) mod kubernetes;
mod peers;
mod record;
mod spread;
mod vips;
mod web;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::diagnostic::Diagnostic;
use super::file::{self, File};
use super::reader::Reader;
use super::source::Source;
use super::{Balancer, Config, Election, Overrides, SOCKET_DEFAULT, Vip, Witness};

/// How long open connections may go on after a stop, unless the file says otherwise: half of a pod's grace period.
const DRAIN_TIMEOUT_DEFAULT: Duration = Duration::from_secs(15);

/// Builds a configuration from a parsed file.
///
/// # Errors
/// All findings, where one of them is an error.
pub(super) fn build(
    source: &Source,
    mut file: File,
    overrides: Overrides,
) -> Result<(Config, Vec<Diagnostic>), Vec<Diagnostic>> {
    apply(&mut file, overrides);
    let mut reader = Reader::new(source);
    obsolete(&mut reader, &mut file);
    let node = node(&mut reader, &file);

    let addresses = vips::addresses(&mut reader, &file);
    let wants_vip = file.vip.is_some() || file.vips.is_some();
    let ips: Vec<IpAddr> = addresses.iter().map(|address| address.ip).collect();
    let local = file.local_peer.as_ref().and_then(|peer| peer.address.parse::<IpAddr>().ok());
    let balancer = balancer::balancer(&mut reader, &file, &ips, local);
    let built = wants_vip.then(|| vips::vips(&mut reader, &file, &node, addresses)).flatten();
    let record = built.as_ref().and_then(|vips| record::record(&mut reader, &file, &node, vips));
    let (vips, witnesses) = seats(built.unwrap_or_default(), file.is_of_witness());
    if !wants_vip {
        without_vip(&mut reader, &file);
    }
    let discovery = (!wants_vip).then(|| discovery(&mut reader, &file, balancer.as_ref())).flatten();
    let health_check = check::health_check(&mut reader, &file).filter(|_| !file.is_of_witness());

    if !wants_vip && file.load_balancers.as_ref().is_none_or(Vec::is_empty) {
        reader.error(
            &[],
            "there is nothing to do: neither a `vip` nor `loadBalancers`",
            "add `vip: ADDRESS` with an `interface`, or `loadBalancers`, or both; `vipd sample config` shows how",
        );
    }
    let drain_timeout =
        reader.duration(&["drainTimeout".into()], file.drain_timeout.as_deref(), DRAIN_TIMEOUT_DEFAULT);
    let socket = PathBuf::from(file.socket.as_deref().unwrap_or(SOCKET_DEFAULT));
    if !socket.is_absolute() {
        reader.error(
            &["socket".into()],
            format!("`{}` is not an absolute path", socket.display()),
            "begin it with /",
        );
    }
    let web = web::Web::new(&mut reader, &file, &ips, balancer.as_ref().map(|balancer| &balancer.config));

    let refused = reader.has_errors();
    let findings = reader.finish();
    if refused {
        return Err(findings);
    }
    let web::Web { metrics, health } = web;
    let config = Config {
        node,
        vips,
        witnesses,
        balancer,
        discovery,
        record,
        health_check,
        socket,
        metrics,
        health,
        drain_timeout,
        reload_on_change: file.reload_on_change == Some(true),
    };
    Ok((config, findings))
}

/// What this host is in each election: one that may have the addresses, or a witness.
fn seats(vips: Vec<Vip>, is_of_witness: bool) -> (Vec<Vip>, Vec<Witness>) {
    if !is_of_witness {
        return (vips, Vec::new());
    }
    let witnesses = vips.into_iter().filter_map(|vip| match vip.election {
        Election::Peers(election) => Some(Witness { addresses: vip.addresses, election }),
        // Refused before: nobody votes there.
        Election::Kubernetes(_) => None,
    });
    (Vec::new(), witnesses.collect())
}

fn apply(file: &mut File, overrides: Overrides) {
    let Overrides { disable_vip, single_node, start_as_leader } = overrides;
    if disable_vip {
        file.vip = None;
        file.vips = None;
    }
    if single_node {
        file.single_node = Some(true);
        file.election = None;
    }
    if start_as_leader {
        file.start_as_leader = Some(true);
    }
}

/// Names of kube-vip 0.1.5 to 0.1.8 that no longer mean anything warn; those that ask for what vipd lacks are refused.
fn obsolete(reader: &mut Reader<'_>, file: &mut File) {
    if file.vip_cidr.is_some() {
        reader.warn(
            &["vipCidr".into()],
            "`vipCidr` is obsolete",
            "write the prefix with the address: `vip: 10.0.0.162/24`",
        );
    }
    if file.add_peers_as_backends.is_some() {
        reader.warn(
            &["addPeersAsBackends".into()],
            "`addPeersAsBackends` never had an effect",
            "list every apiserver under `backends`, and remove the key",
        );
    }
    if file.enable_load_balancer.is_some() {
        reader.warn(
            &["enableLoadBalancer".into()],
            "`enableLoadBalancer` is obsolete: load balancers that are listed run",
            "remove the key; to run without balancing, remove `loadBalancers`",
        );
    }
    for (key, value) in [("enableBGP", file.enable_bgp), ("enablePacket", file.enable_packet)] {
        match value {
            Some(true) => reader.error(
                &[key.into()],
                format!("`{key}`: vipd announces addresses by ARP and ND only"),
                "remove the key, or stay with a tool that speaks BGP",
            ),
            Some(false) => {
                reader.warn(&[key.into()], format!("`{key}` is obsolete"), "remove the key");
            }
            None => {}
        }
    }
    if let Some(wanted) = file.enable_leader_election {
        reader.warn(
            &["enableLeaderElection".into()],
            "`enableLeaderElection` is obsolete",
            if wanted { "write `election: kubernetes` in its place" } else { "remove the key" },
        );
        if wanted && file.election.is_none() {
            file.election = Some(file::Election::Kubernetes);
        }
    }
}

/// The name of this node.
fn node(reader: &mut Reader<'_>, file: &File) -> String {
    let peer = file.local_peer.as_ref().map(|peer| peer.id.as_str());
    match (file.node.as_deref(), peer) {
        (Some(""), _) => {
            reader.error(&["node".into()], "`node` is empty", "write this node's name, or remove the key");
            String::new()
        }
        (Some(node), Some(peer)) if node != peer && file.election != Some(file::Election::Kubernetes) => {
            reader.error(
                &["node".into()],
                format!("this node is called `{node}` here, and `{peer}` in `localPeer.id`"),
                "peers know a node by its `localPeer.id`: remove `node`",
            );
            node.to_owned()
        }
        (Some(name), _) | (None, Some(name)) => name.to_owned(),
        (None, None) => hostname(),
    }
}

/// Keys that only matter with an address.
fn without_vip(reader: &mut Reader<'_>, file: &File) {
    let keys = [
        ("interface", file.interface.is_some()),
        ("remotePeers", file.remote_peers.is_some()),
        ("startAsLeader", file.start_as_leader == Some(true)),
        ("election", matches!(file.election, Some(file::Election::Peers | file::Election::Kubernetes))),
        ("kubernetes", file.kubernetes.is_some() && !discovers(file)),
        ("timing", file.timing.is_some()),
        ("tieBreak", file.tie_break.is_some()),
        ("spread", file.spread == Some(true)),
        ("peerKeys", file.peer_keys.is_some()),
        ("healthCheck", file.health_check.is_some()),
    ];
    for (key, present) in keys {
        if present {
            reader.warn(
                &[key.into()],
                format!("`{key}` has no effect without a `vip`"),
                "add `vip: ADDRESS`, or remove the key",
            );
        }
    }
}

/// Whether any load balancer's backends are discovered.
fn discovers(file: &File) -> bool {
    file.load_balancers.iter().flatten().any(|balancer| balancer.discover == Some(true))
}

/// How the API is reached that tells the backends, where no election does; those that are known beforehand are asked too.
fn discovery(
    reader: &mut Reader<'_>,
    file: &File,
    balancer: Option<&Balancer>,
) -> Option<leader::kubernetes::Access> {
    if !discovers(file) {
        return None;
    }
    let mut access = kubernetes::access_alone(reader, file)?;
    let balancer = balancer?;
    let frontends = balancer.config.frontends.iter();
    let discovered = frontends.filter(|frontend| balancer.discovered.contains_key(&frontend.name));
    for backend in discovered.flat_map(|frontend| &frontend.backends) {
        if !access.servers.contains(&backend.address) {
            access.servers.push(backend.address);
        }
    }
    Some(access)
}

fn hostname() -> String {
    let name = rustix::system::uname();
    name.nodename().to_string_lossy().into_owned()
}
