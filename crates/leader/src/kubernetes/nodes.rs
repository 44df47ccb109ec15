//! The control-plane nodes: where the other apiservers are, also after a start without an API.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use k8s_openapi::api::core::v1::Node;
use serde::{Deserialize, Serialize};

use super::servers::SERVERS_MAX;
use crate::NodeId;

/// The control-plane nodes by name, each with its addresses in the order in which the node has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ControlPlane {
    /// The nodes.
    pub nodes: BTreeMap<String, Vec<IpAddr>>,
    /// Those that are cordoned (`spec.unschedulable`). Not remembered: it may be long over when there is an API again.
    #[serde(skip)]
    pub cordoned: BTreeSet<String>,
}

impl ControlPlane {
    /// The label that kubeadm, k3s, RKE2 and others put on control-plane nodes.
    pub(super) const LABEL: &str = "node-role.kubernetes.io/control-plane";

    /// The nodes' names; none while no node is known, as without the right to list them.
    pub(super) fn names(&self) -> Option<BTreeSet<NodeId>> {
        let names: BTreeSet<NodeId> = self.nodes.keys().filter_map(|name| NodeId::new(name).ok()).collect();
        (!names.is_empty()).then_some(names)
    }

    /// Every node's first address, on this port.
    pub fn servers(&self, port: u16) -> Vec<SocketAddr> {
        let first = self.nodes.values().filter_map(|addresses| addresses.first());
        first.map(|ip| SocketAddr::new(*ip, port)).collect()
    }

    /// Every node's first address of this IP version, or else its first, with its name, on this port. The virtual
    /// addresses are passed over: a kubelet that was not told its node's address may take one for it.
    pub fn backends(&self, ipv4: bool, port: u16, never: &BTreeSet<IpAddr>) -> Vec<(String, SocketAddr)> {
        let pick = |addresses: &Vec<IpAddr>| {
            let mut own = addresses.iter().filter(|ip| !never.contains(ip)).copied();
            own.clone().find(|ip| ip.is_ipv4() == ipv4).or_else(|| own.next())
        };
        let found = self.nodes.iter().filter_map(|(name, addresses)| Some((name, pick(addresses)?)));
        found.map(|(name, ip)| (name.clone(), SocketAddr::new(ip, port))).collect()
    }

    pub(super) fn put(&mut self, node: &Node) -> bool {
        let Some(name) = node.metadata.name.clone() else { return false };
        let addresses = internal_addresses(node);
        // A node that has no address yet, or for a moment, is not gone.
        if addresses.is_empty() || (self.nodes.len() >= SERVERS_MAX && !self.nodes.contains_key(&name)) {
            return false;
        }
        let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
        let turned = match cordoned {
            true => self.cordoned.insert(name.clone()),
            false => self.cordoned.remove(&name),
        };
        let old = self.nodes.insert(name, addresses.clone());
        old.as_ref() != Some(&addresses) || turned
    }

    pub(super) fn remove(&mut self, node: &Node) -> bool {
        node.metadata.name.as_ref().is_some_and(|name| {
            self.cordoned.remove(name);
            self.nodes.remove(name).is_some()
        })
    }

    /// Takes a whole list. An empty one changes nothing: a cluster that answers has a control plane, labelled or not.
    pub(super) fn replace(&mut self, nodes: &[Node]) -> bool {
        let mut new = Self::default();
        for node in nodes {
            new.put(node);
        }
        let changed = !new.nodes.is_empty() && *self != new;
        if changed {
            *self = new;
        }
        changed
    }
}

fn internal_addresses(node: &Node) -> Vec<IpAddr> {
    let addresses = node.status.as_ref().and_then(|status| status.addresses.as_ref());
    let internal = addresses.into_iter().flatten().filter(|address| address.type_ == "InternalIP");
    internal.filter_map(|address| address.address.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::memory::{recall, remember};
    use super::*;

    fn node(name: &str, addresses: &[&str]) -> Node {
        let addresses: Vec<_> = addresses
            .iter()
            .map(|address| serde_json::json!({"type": "InternalIP", "address": address}))
            .chain([serde_json::json!({"type": "Hostname", "address": name})])
            .collect();
        serde_json::from_value(
            serde_json::json!({"metadata": {"name": name}, "status": {"addresses": addresses}}),
        )
        .unwrap()
    }

    #[test]
    fn nodes_come_change_and_go() {
        let mut known = ControlPlane::default();
        assert!(known.replace(&[node("a", &["10.0.0.1", "fd00::1"]), node("b", &["10.0.0.2"])]));
        assert!(!known.replace(&[node("b", &["10.0.0.2"]), node("a", &["10.0.0.1", "fd00::1"])]));
        assert_eq!(known.servers(6443), ["10.0.0.1:6443", "10.0.0.2:6443"].map(|text| text.parse().unwrap()));
        let six = known.backends(false, 6443, &BTreeSet::new());
        assert_eq!(six[0], ("a".to_owned(), "[fd00::1]:6443".parse().unwrap()));
        assert_eq!(six[1].1, "10.0.0.2:6443".parse().unwrap(), "better another version than no backend");
        let never = BTreeSet::from(["fd00::1", "10.0.0.2"].map(|ip| ip.parse().unwrap()));
        let others = known.backends(false, 6443, &never);
        assert_eq!(
            others,
            [("a".to_owned(), "10.0.0.1:6443".parse().unwrap())],
            "a virtual address is nobody's own"
        );
        assert!(known.put(&node("b", &["10.0.0.3"])));
        assert!(!known.put(&node("b", &["10.0.0.3"])));
        assert!(known.remove(&node("b", &[])) && !known.remove(&node("b", &[])));
        assert_eq!(known.nodes.len(), 1);
    }

    #[test]
    fn a_cordon_is_a_change_and_is_not_remembered() {
        let cordoned = |on: bool| Node {
            spec: Some(serde_json::from_value(serde_json::json!({"unschedulable": on})).unwrap()),
            ..node("a", &["10.0.0.1"])
        };
        let mut known = ControlPlane::default();
        known.put(&node("a", &["10.0.0.1"]));

        assert!(known.put(&cordoned(true)) && !known.put(&cordoned(true)));
        assert_eq!(known.cordoned, BTreeSet::from(["a".to_owned()]));
        assert_eq!(serde_json::to_string(&known).unwrap(), r#"{"nodes":{"a":["10.0.0.1"]}}"#);
        assert!(known.put(&cordoned(false)) && known.cordoned.is_empty());
        assert!(known.put(&cordoned(true)) && known.remove(&cordoned(true)));
        assert_eq!(known, ControlPlane::default());
    }

    #[test]
    fn what_tells_nothing_changes_nothing() {
        let mut known = ControlPlane::default();
        known.put(&node("a", &["10.0.0.1"]));
        assert!(
            !known.put(&node("a", &[])) && !known.replace(&[]) && !known.replace(&[node("c", &["nonsense"])])
        );
        assert_eq!(known.nodes.len(), 1);
    }

    #[test]
    fn it_is_remembered_whole_or_not_at_all() {
        let folder = std::env::temp_dir().join(format!("vipd-nodes-{}", std::process::id()));
        let file = folder.join("deeper/control-plane.json");
        assert_eq!(recall::<ControlPlane>(&file).unwrap(), ControlPlane::default());
        let mut known = ControlPlane::default();
        known.put(&node("a", &["10.0.0.1", "fd00::1"]));
        remember(&known, &file).unwrap();
        assert_eq!(recall::<ControlPlane>(&file).unwrap(), known);
        std::fs::write(&file, "{\"nodes\": 3}").unwrap();
        assert!(recall::<ControlPlane>(&file).is_err());
        std::fs::write(&file, vec![b' '; 100_000]).unwrap();
        assert!(recall::<ControlPlane>(&file).unwrap_err().to_string().contains("bytes long"));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
