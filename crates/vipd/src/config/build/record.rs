//! What the Kubernetes API is told of this node beside the election.

use std::net::IpAddr;

use super::kubernetes;
use crate::config::file::{File, Kubernetes};
use crate::config::reader::Reader;
use crate::config::source::Step;
use crate::config::value::is_subdomain;
use crate::config::{Election, Record, Vip};

/// What is to be told of moves, and how. Where a Lease elects, Events are written unless the file says otherwise: the API is asked anyway.
/// Where peers do, a file that doesn't ask for it has nothing to do with Kubernetes.
pub(super) fn record(reader: &mut Reader<'_>, file: &File, node: &str, vips: &[Vip]) -> Option<Record> {
    let nothing = Kubernetes::default();
    let wanted = file.kubernetes.as_ref().unwrap_or(&nothing);
    let wants_label = wanted.node_label.unwrap_or(false);
    let vip = vips.first()?;
    let by_lease = match &vip.election {
        Election::Kubernetes(election) => Some(election),
        Election::Peers(_) => None,
    };
    let events = wanted.events.unwrap_or_else(|| by_lease.is_some());
    if !events && !wants_label {
        return None;
    }
    if wants_label && vips.len() > 1 {
        reader.error(
            &["kubernetes".into(), "nodeLabel".into()],
            "`nodeLabel: true` says of one node that it has the address; with `spread`, several have one each",
            "remove one of the two: Events (`events: true`) tell of each address",
        );
    }
    // With a Lease it is refused.
    if file.is_of_witness() && by_lease.is_none() {
        reader.warn(
            &["kubernetes".into()],
            "`kubernetes` has no effect on a witness, which never has the address",
            "remove the key",
        );
        return None;
    }
    let label = vip.addresses.first().filter(|_| wants_label).map(|address| address.ip);
    if let Some(election) = by_lease {
        let lease = Some((election.namespace.clone(), election.name.clone()));
        let node = election.me.to_string();
        return Some(Record { node, access: election.access.clone(), lease, events, label });
    }
    let node = name(reader, file, node);
    let ips: Vec<IpAddr> = vips.iter().flat_map(|vip| &vip.addresses).map(|address| address.ip).collect();
    let access = kubernetes::access_beside_peers(reader, wanted, &ips);
    Some(Record { node: node?, access: access?, lease: None, events, label })
}

/// The Node's name: what the peers call it, in lower case as Kubernetes has it.
fn name(reader: &mut Reader<'_>, file: &File, node: &str) -> Option<String> {
    let path: &[Step] = match (&file.node, &file.local_peer) {
        (Some(_), _) => &[Step::Key("node")],
        (None, Some(_)) => &[Step::Key("localPeer"), Step::Key("id")],
        (None, None) => &[],
    };
    let name = node.to_lowercase();
    if !is_subdomain(&name) {
        reader.error(
            path,
            format!("`{node}` can't be the name of a Kubernetes node, which the API is to be told of"),
            "call it as `kubectl get nodes` does, on every host, or remove `kubernetes`",
        );
        return None;
    }
    Some(name)
}
