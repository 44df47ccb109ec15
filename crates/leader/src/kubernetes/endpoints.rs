//! Where the apiservers are, by their own word: the EndpointSlices of the Service `kubernetes` in the namespace `default`.
//!
//! Each apiserver enters itself there and is taken out when it is silent or ends, with the address and port that it says it has
//! (`--advertise-address`). To read them takes the right to one kind of object in one namespace, and says nothing of nodes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::{Deserialize, Serialize};

use super::servers::SERVERS_MAX;

/// The port's name in the slices, as the apiserver writes it.
const PORT: &str = "https";

/// The apiservers of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoints {
    /// Where they listen.
    pub apiservers: BTreeSet<SocketAddr>,
}

/// The slices of the Service, by name; usually one for each IP version.
#[derive(Clone, Debug, Default)]
pub(super) struct Slices(BTreeMap<String, BTreeSet<SocketAddr>>);

impl Slices {
    /// The namespace that they are in.
    pub(super) const NAMESPACE: &str = "default";
    /// The label that they have.
    pub(super) const LABEL: &str = "kubernetes.io/service-name=kubernetes";

    /// Takes a whole list.
    pub(super) fn of(slices: &[EndpointSlice]) -> Self {
        let mut known = Self::default();
        slices.iter().for_each(|slice| known.put(slice));
        known
    }

    pub(super) fn put(&mut self, slice: &EndpointSlice) {
        let Some(name) = &slice.metadata.name else { return };
        // The Service has one for each IP version, and a cluster no more apiservers than fit into each.
        if self.0.len() < SERVERS_MAX || self.0.contains_key(name) {
            self.0.insert(name.clone(), addresses(slice));
        }
    }

    pub(super) fn remove(&mut self, slice: &EndpointSlice) {
        if let Some(name) = &slice.metadata.name {
            self.0.remove(name);
        }
    }

    /// What they say together; nothing, where that is nothing: a cluster that answers has an apiserver.
    pub(super) fn endpoints(&self) -> Option<Endpoints> {
        let apiservers: BTreeSet<SocketAddr> = self.0.values().flatten().copied().take(SERVERS_MAX).collect();
        (!apiservers.is_empty()).then_some(Endpoints { apiservers })
    }
}

fn addresses(slice: &EndpointSlice) -> BTreeSet<SocketAddr> {
    let ports = slice.ports.as_deref().unwrap_or_default();
    let port = ports.iter().find(|port| port.name.as_deref() == Some(PORT)).or_else(|| ports.first());
    let port =
        port.and_then(|port| port.port).and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
    let Some(port) = port else { return BTreeSet::new() };
    let endpoints = slice.endpoints.iter().flatten();
    let ready = endpoints.filter(|endpoint| {
        endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false)
    });
    let ips = ready.flat_map(|endpoint| &endpoint.addresses).filter_map(|text| text.parse::<IpAddr>().ok());
    let of_a_host = |ip: &IpAddr| !(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast());
    ips.filter(of_a_host).map(|ip| SocketAddr::new(ip, port)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::memory::{recall, remember};
    use super::*;

    fn slice(name: &str, port: i32, endpoints: &[(&str, bool)]) -> EndpointSlice {
        let endpoint = |(ip, ready): &(&str, bool)| serde_json::json!({"addresses": [ip], "conditions": {"ready": ready}});
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": name},
            "addressType": "IPv4",
            "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
            "ports": [{"name": "other", "port": 1}, {"name": "https", "port": port, "protocol": "TCP"}],
        }))
        .unwrap()
    }

    fn shown(slices: &Slices) -> Vec<String> {
        let endpoints = slices.endpoints().unwrap_or_default();
        endpoints.apiservers.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn slices_come_change_and_go_and_together_say_where_the_apiservers_are() {
        let four = slice("kubernetes", 6443, &[("10.0.0.1", true), ("10.0.0.2", true), ("10.0.0.3", false)]);
        let mut slices = Slices::of(&[four, slice("kubernetes-six", 6443, &[("fd00::1", true)])]);
        assert_eq!(shown(&slices), ["10.0.0.1:6443", "10.0.0.2:6443", "[fd00::1]:6443"]);
        slices.put(&slice("kubernetes", 443, &[("10.0.0.2", true)]));
        assert_eq!(shown(&slices), ["10.0.0.2:443", "[fd00::1]:6443"]);
        slices.remove(&slice("kubernetes-six", 0, &[]));
        assert_eq!(shown(&slices), ["10.0.0.2:443"]);
    }

    #[test]
    fn what_is_no_address_of_an_apiserver_is_passed_over_and_nothing_at_all_says_nothing() {
        let odd = slice("kubernetes", 6443, &[("nonsense", true), ("127.0.0.1", true), ("0.0.0.0", true)]);
        assert_eq!(Slices::of(&[odd]).endpoints(), None);
        assert_eq!(Slices::of(&[slice("kubernetes", 70_000, &[("10.0.0.1", true)])]).endpoints(), None);
        assert_eq!(Slices::default().endpoints(), None);
    }

    #[test]
    fn it_is_remembered() {
        let folder = std::env::temp_dir().join(format!("vipd-endpoints-{}", std::process::id()));
        let file = folder.join("apiservers.json");
        let known =
            Slices::of(&[slice("kubernetes", 6443, &[("10.0.0.1", true), ("fd00::1", true)])]).endpoints();
        remember(&known.clone().unwrap(), &file).unwrap();
        assert_eq!(recall::<Endpoints>(&file).unwrap(), known.unwrap());
        // What the election by Lease remembers is something else.
        std::fs::write(&file, "{\"nodes\":{\"a\":[\"10.0.0.1\"]}}").unwrap();
        assert!(recall::<Endpoints>(&file).is_err());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
