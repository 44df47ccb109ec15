//! The control plane's apiservers, where an election by Lease knows them: as backends of the balancer, or, without one, as a
//! reason to leave the lead to a node whose apiserver is well.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use lb::{Backend, Health};
use leader::NodeId;
use leader::kubernetes::{Config, ControlPlane};
use tracing::warn;

/// The name of the frontend that listens nowhere, and only judges.
const CHECK: &str = "health check";

/// The frontends whose backends are discovered, with the port of these and what they had beforehand.
pub(super) type Discovered = BTreeMap<String, (u16, Vec<Backend>)>;

/// What an election by Lease is told of apiservers, and by what names.
pub(super) struct Apiservers {
    me: NodeId,
    own: SocketAddr,
    /// Others that the configuration names.
    known: Vec<SocketAddr>,
    /// The port of those that are discovered.
    port: u16,
    /// Of the event loop alone.
    discovered: RefCell<Discovered>,
    prefers_ipv4: bool,
    /// Addresses that are no apiserver's own: the virtual ones.
    never: BTreeSet<IpAddr>,
}

/// Who is well, as far as this matters to the election.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fitness {
    /// This node may lead: its own apiserver is well, or no other is.
    pub(super) eligible: bool,
    /// Another node whose apiserver is well.
    pub(super) successor: Option<NodeId>,
}

impl Apiservers {
    pub(super) fn new(
        config: &Config,
        balancer: Option<&crate::config::Balancer>,
        prefers_ipv4: bool,
    ) -> Self {
        Self {
            me: config.me.clone(),
            own: config.access.own,
            known: config.access.servers.clone(),
            port: config.access.port,
            discovered: RefCell::new(balancer.map(discovered).unwrap_or_default()),
            prefers_ipv4,
            never: config.access.never.clone(),
        }
    }

    /// Which addresses of a node are asked first, and which are no node's own.
    pub(super) fn addresses(&self) -> (bool, BTreeSet<IpAddr>) {
        (self.prefers_ipv4, self.never.clone())
    }

    /// The check of this node's own apiserver and of the others, for a node without a balancer.
    pub(super) fn check(&mut self, configured: Option<lb::Config>) -> lb::Config {
        let mut config = configured.unwrap_or_else(|| lb::Config { frontends: vec![judge()], workers: 1 });
        for frontend in &mut config.frontends {
            // Where the file says where to ask, it is asked there, whatever the control plane turns out to be.
            self.own = frontend.backends.first().map_or(self.own, |backend| backend.address);
            CHECK.clone_into(&mut frontend.name);
            frontend.backends = self.judged(&ControlPlane::default());
        }
        config
    }

    /// Gives a configuration of the balancer, which isn't in force yet, the backends that follow from the control plane.
    pub(super) fn fill(&self, balancer: &mut crate::config::Balancer, known: &ControlPlane) -> Discovered {
        let discovered = discovered(balancer);
        for frontend in &mut balancer.config.frontends {
            if let Some((port, before)) = discovered.get(&frontend.name) {
                frontend.backends = self.balanced(known, *port, before);
            }
        }
        discovered
    }

    /// Notes whose backends are discovered from now on.
    pub(super) fn discover(&self, discovered: Discovered) {
        self.discovered.replace(discovered);
    }

    /// Gives the balancer, or the check, the backends that follow from the control plane.
    pub(super) fn tell(
        &self,
        known: &ControlPlane,
        balancer: Option<&lb::Balancer>,
        check: Option<&lb::Balancer>,
    ) {
        if let Some(balancer) = balancer {
            self.tell_balancer(known, &balancer.backends());
        }
        if let Some(check) = check {
            set(&check.backends(), CHECK, self.judged(known));
        }
    }

    /// Gives the balancer its backends.
    pub(super) fn tell_balancer(&self, known: &ControlPlane, balancer: &lb::BackendsHandle) {
        for (name, (port, before)) in &*self.discovered.borrow() {
            set(balancer, name, self.balanced(known, *port, before));
        }
    }

    /// The control-plane nodes; while none is known, what was there beforehand, or else this node's own apiserver. That
    /// is how a cluster begins: its first kubelet registers its node through the virtual address.
    fn balanced(&self, known: &ControlPlane, port: u16, before: &[Backend]) -> Vec<Backend> {
        let found = known.backends(self.prefers_ipv4, port, &self.never);
        if !found.is_empty() {
            let backend = |(name, address)| {
                let cordoned = known.cordoned.contains(&name);
                Backend { name, address, cordoned }
            };
            return found.into_iter().map(backend).collect();
        }
        if !before.is_empty() {
            return before.to_vec();
        }
        vec![Backend { name: self.me.to_string(), address: self.own, cordoned: false }]
    }

    /// This node's own apiserver first, then the others.
    fn judged(&self, known: &ControlPlane) -> Vec<Backend> {
        let mut backends = vec![Backend { name: self.me.to_string(), address: self.own, cordoned: false }];
        let found = known.backends(self.prefers_ipv4, self.port, &self.never).into_iter();
        let others = found.filter(|(name, _)| *name != *self.me.as_str());
        let named = self.known.iter().map(|address| (address.to_string(), *address));
        for (name, address) in others.chain(named) {
            if !backends.iter().any(|backend| backend.address == address) {
                backends.push(Backend { name, address, cordoned: false });
            }
        }
        backends
    }

    /// Who is well. Unknown counts as well, for this node; a backend that was not judged yet is no reason to hand over.
    pub(super) fn fitness(&self, status: &lb::Status) -> Fitness {
        let mut backends = status.frontends.iter().flat_map(|frontend| &frontend.backends);
        let own = backends.next();
        let own_is_well = own.is_none_or(|own| matches!(own.health, Health::Ready | Health::Unknown));
        let others: Vec<_> = backends.filter(|other| other.health == Health::Ready).collect();
        let named = others.iter().find(|other| other.name.parse::<SocketAddr>().is_err());
        Fitness {
            eligible: own_is_well || others.is_empty(),
            successor: named.and_then(|other| NodeId::new(&other.name).ok()),
        }
    }
}

fn judge() -> lb::Frontend {
    lb::Frontend {
        name: CHECK.to_owned(),
        listen: lb::Listen::Nowhere,
        backends: Vec::new(),
        policy: lb::Policy::RoundRobin,
        slow_start: None,
        check: lb::Check::default(),
        timeouts: lb::Timeouts::default(),
        limits: lb::Limits::default(),
        virtual_ips: Vec::new(),
        rebalance: None,
        proxies: Vec::new(),
        transparent_source: Vec::new(),
        proxy_protocol: None,
        access_log: false,
    }
}

/// What a file says of the frontends whose backends are discovered.
fn discovered(balancer: &crate::config::Balancer) -> Discovered {
    let before = |name: &String| -> Vec<Backend> {
        let named = balancer.config.frontends.iter().filter(|frontend| frontend.name == *name);
        named.flat_map(|frontend| frontend.backends.clone()).collect()
    };
    balancer.discovered.iter().map(|(name, port)| (name.clone(), (*port, before(name)))).collect()
}

fn set(balancer: &lb::BackendsHandle, frontend: &str, backends: Vec<Backend>) {
    if let Err(error) = balancer.set(frontend, backends) {
        warn!(%error, frontend, "the control-plane nodes can't be its backends; those it has stay");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use leader::kubernetes::Access;
    use leader::lease::Timing;

    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn apiservers() -> Apiservers {
        let access = Access {
            kubeconfigs: Vec::new(),
            own: address("127.0.0.1:6443"),
            servers: vec![address("10.0.0.3:6443")],
            port: 6443,
            never: BTreeSet::from(["10.0.0.40".parse().unwrap()]),
            memory: None,
        };
        let config = Config {
            me: NodeId::new("me").unwrap(),
            namespace: "kube-system".to_owned(),
            name: "plndr-cp-lock".to_owned(),
            timing: Timing::DEFAULT,
            preserve: false,
            annotations: BTreeMap::new(),
            access,
        };
        Apiservers::new(&config, None, true)
    }

    fn control_plane(nodes: &[(&str, &str)]) -> ControlPlane {
        let nodes = nodes.iter().map(|(name, ip)| ((*name).to_owned(), vec![ip.parse().unwrap()]));
        ControlPlane { nodes: nodes.collect(), ..ControlPlane::default() }
    }

    fn judged(apiservers: &Apiservers, known: &ControlPlane) -> Vec<(String, String)> {
        let backends = apiservers.judged(known).into_iter();
        backends.map(|backend| (backend.name, backend.address.to_string())).collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(name, address)| ((*name).to_owned(), (*address).to_owned())).collect()
    }

    #[test]
    fn the_own_apiserver_comes_first_then_the_control_planes_nodes_then_the_addresses_that_were_named() {
        let known = control_plane(&[("me", "10.0.0.1"), ("other", "10.0.0.2")]);
        let expected =
            [("me", "127.0.0.1:6443"), ("other", "10.0.0.2:6443"), ("10.0.0.3:6443", "10.0.0.3:6443")];
        assert_eq!(judged(&apiservers(), &known), pairs(&expected));
    }

    #[test]
    fn a_node_that_was_named_and_is_discovered_counts_once_by_its_name() {
        let known = control_plane(&[("other", "10.0.0.3")]);
        let expected = [("me", "127.0.0.1:6443"), ("other", "10.0.0.3:6443")];
        assert_eq!(judged(&apiservers(), &known), pairs(&expected));
    }

    #[test]
    fn where_the_configuration_says_where_to_ask_the_own_apiserver_it_is_asked_there_whatever_is_discovered()
    {
        let mut apiservers = apiservers();
        let backends =
            vec![Backend { name: "own".to_owned(), address: address("192.0.2.9:16443"), cordoned: false }];
        let configured = lb::Config { frontends: vec![lb::Frontend { backends, ..judge() }], workers: 1 };
        let check = apiservers.check(Some(configured));
        assert_eq!(check.frontends[0].backends[0].address, address("192.0.2.9:16443"));
        let known = control_plane(&[("me", "10.0.0.1")]);
        assert_eq!(judged(&apiservers, &known)[0], pairs(&[("me", "192.0.2.9:16443")])[0]);
    }

    #[test]
    fn the_backend_of_a_cordoned_node_is_taken_out_of_use() {
        let mut known = control_plane(&[("a", "10.0.0.1"), ("b", "10.0.0.2")]);
        known.cordoned.insert("b".to_owned());
        let backends = apiservers().balanced(&known, 6443, &[]);
        let cordoned: Vec<_> =
            backends.iter().map(|backend| (backend.name.as_str(), backend.cordoned)).collect();
        assert_eq!(cordoned, [("a", false), ("b", true)]);
    }

    #[test]
    fn a_cluster_begins_with_this_nodes_own_apiserver_and_goes_on_with_those_that_are_known() {
        let apiservers = apiservers();
        let addresses = |known: &ControlPlane, before: &[Backend]| -> Vec<String> {
            let backends = apiservers.balanced(known, 6443, before);
            backends.into_iter().map(|backend| backend.address.to_string()).collect()
        };
        let mut known = ControlPlane::default();
        let before =
            [Backend { name: "b".to_owned(), address: "10.0.0.2:6443".parse().unwrap(), cordoned: false }];

        assert_eq!(addresses(&known, &[]), ["127.0.0.1:6443"]);
        assert_eq!(addresses(&known, &before), ["10.0.0.2:6443"]);
        let ips = ["10.0.0.40", "10.0.0.1"].map(|ip| ip.parse().unwrap());
        known.nodes.insert("me".to_owned(), ips.to_vec());
        assert_eq!(addresses(&known, &before), ["10.0.0.1:6443"]);
    }
}
