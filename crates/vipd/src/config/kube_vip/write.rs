//! The settings as a config.yaml: what [`fill`] fills, written down.

use serde_yaml::{Mapping, Value};

use super::{Lookups, Settings, fill};
use crate::config::file::{Election, File};

impl Settings {
    /// The document that means what these settings mean.
    pub(crate) fn document(&self) -> Mapping {
        let File {
            node,
            interface,
            vips,
            single_node,
            election,
            kubernetes,
            health_check,
            load_balancers,
            metrics,
            health_port,
            socket,
            ..
        } = fill::fill(self, &Lookups::default()).file;
        let mut document = Mapping::new();
        put(&mut document, "node", node);
        match vips.unwrap_or_default() {
            mut one if one.len() == 1 => put(&mut document, "vip", one.pop()),
            several => put(&mut document, "vips", Some(several)),
        }
        put(&mut document, "interface", interface);
        put(&mut document, "singleNode", single_node);
        put(
            &mut document,
            "election",
            election.filter(|election| *election == Election::Kubernetes).map(|_| "kubernetes"),
        );
        if let Some(kubernetes) = kubernetes {
            let mut map = Mapping::new();
            put(&mut map, "kubeconfig", kubernetes.kubeconfig);
            put(&mut map, "lease", kubernetes.lease);
            put(&mut map, "leaseDuration", kubernetes.lease_duration);
            put(&mut map, "renewDeadline", kubernetes.renew_deadline);
            put(&mut map, "retryPeriod", kubernetes.retry_period);
            put(&mut map, "server", kubernetes.server);
            put(&mut map, "port", kubernetes.port.map(u64::from));
            put(&mut map, "preserve", kubernetes.preserve);
            let annotations = kubernetes.annotations.map(|annotations| {
                annotations
                    .into_iter()
                    .map(|(key, value)| (Value::from(key), Value::from(value)))
                    .collect::<Mapping>()
            });
            put(&mut map, "annotations", annotations);
            put(&mut map, "nodeLabel", kubernetes.node_label);
            put(&mut map, "memory", kubernetes.memory);
            put(&mut document, "kubernetes", Some(map));
        }
        if let Some(check) = health_check {
            let mut map = Mapping::new();
            put(&mut map, "address", Some(check.address));
            put(&mut map, "port", Some(u64::from(check.port)));
            put(&mut map, "interval", check.interval);
            put(&mut document, "healthCheck", Some(map));
        }
        let balancers = load_balancers.map(|list| list.into_iter().map(balancer).collect::<Vec<_>>());
        put(&mut document, "loadBalancers", balancers);
        put(&mut document, "metrics", metrics);
        put(&mut document, "healthPort", health_port.map(u64::from));
        put(&mut document, "socket", socket);
        document
    }
}

fn balancer(balancer: crate::config::file::LoadBalancer) -> Value {
    let mut map = Mapping::new();
    put(&mut map, "name", balancer.name);
    put(&mut map, "port", Some(u64::from(balancer.port)));
    let same_port = balancer.same_port.filter(|same| *same);
    put(&mut map, "bindToVip", balancer.bind_to_vip.filter(|_| same_port.is_none()));
    put(&mut map, "samePort", same_port);
    put(&mut map, "discover", balancer.discover.filter(|discover| *discover));
    put(&mut map, "backendPort", balancer.backend_port.map(u64::from));
    if let Some(interval) = balancer.check.and_then(|check| check.interval) {
        let mut check = Mapping::new();
        put(&mut check, "interval", Some(interval));
        put(&mut map, "check", Some(check));
    }
    let backends = balancer.backends.map(|backends| {
        let backend = |backend: crate::config::file::Backend| {
            let mut map = Mapping::new();
            put(&mut map, "address", Some(backend.address));
            put(&mut map, "port", backend.port.map(u64::from));
            Value::from(map)
        };
        backends.into_iter().map(backend).collect::<Vec<_>>()
    });
    put(&mut map, "backends", backends);
    map.into()
}

fn put(map: &mut Mapping, key: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        map.insert(key.into(), value.into());
    }
}
