//! From what was set to the mirror of the configuration file, so that every check exists once.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use super::Lookups;
use super::addresses::{self, Wrong};
use super::settings::Settings;
use super::table::Key;
use crate::config::SOCKET_DEFAULT;
use crate::config::build::kubernetes::{MEMORY_DEFAULT, NAMESPACE_DEFAULT, PORT_DEFAULT};
use crate::config::diagnostic::{Diagnostic, Severity};
use crate::config::file::{Backend, Check, Election, File, HealthCheck, Kubernetes, LoadBalancer};
use crate::config::source::{Names, Step};

/// kube-vip's Lease.
const LEASE_DEFAULT: &str = "plndr-cp-lock";
/// Where kube-vip's manager serves metrics unless told otherwise.
const METRICS_DEFAULT: &str = ":2112";
/// Below this, kube-vip takes no port for health.
const HEALTH_PORT_MIN: i64 = 1024;
/// The longest name of an instance: with the folder, the status socket's path has to fit into 107 bytes.
const INSTANCE_LENGTH_MAX: usize = 80;

/// The mirror as it is filled, with the origins of its values and what was found on the way.
pub(super) struct Filled {
    pub(super) file: File,
    pub(super) names: Names,
    pub(super) findings: Vec<Diagnostic>,
}

/// Fills the mirror.
pub(super) fn fill(settings: &Settings, lookups: &Lookups) -> Filled {
    let mut filling = Filling {
        settings,
        filled: Filled {
            file: File::default(),
            names: Names::default(),
            findings: settings.findings.clone(),
        },
    };
    // What asks for another mode was told already.
    if !settings.has_errors() {
        filling.modes();
    }
    filling.node();
    filling.addresses(lookups);
    filling.election(lookups);
    filling.serving(lookups);
    filling.telling();
    filling.filled
}

struct Filling<'a> {
    settings: &'a Settings,
    filled: Filled,
}

impl Filling<'_> {
    /// vipd does one thing of kube-vip's: the control plane's address, by ARP.
    fn modes(&mut self) {
        let wanted = [
            (
                Key::ControlPlane,
                "the control plane is not to be served, and vipd serves nothing else",
                "set `cp_enable` (`--controlplane`) to true",
            ),
            (Key::Arp, "ARP mode is off, and vipd has no other", "set `vip_arp` (`--arp`) to true"),
        ];
        for (key, message, help) in wanted {
            if !self.settings.is_on(key) {
                self.find(Severity::Error, key, message.to_owned(), help);
            }
        }
        if addresses::source(self.settings).is_none() {
            let message = "there is no virtual address".to_owned();
            self.find(
                Severity::Error,
                Key::Address,
                message,
                "set `address` (`--address`) to a free address of the hosts' subnet",
            );
        }
    }

    fn node(&mut self) {
        self.filled.file.node = self.take(Key::NodeName, &["node".into()]);
        self.filled.file.interface = self.take(Key::Interface, &["interface".into()]);
    }

    fn addresses(&mut self, lookups: &Lookups) {
        let (vips, wrong) = addresses::vips(self.settings, lookups);
        for Wrong { key, message, help } in wrong {
            self.find(Severity::Error, key, message, help);
        }
        let Some((key, _)) = addresses::source(self.settings) else { return };
        self.name(key, &["vips".into()]);
        if !vips.is_empty() {
            self.filled.file.vips = Some(vips);
        }
        let deprecated = self.settings.text(Key::VipAddress);
        if key == Key::Address && deprecated.is_some_and(|text| Some(text) != self.settings.text(key)) {
            let message = "has no effect: another setting, `address`, says where the VIP is".to_owned();
            self.find(Severity::Warning, Key::VipAddress, message, "remove it");
        }
    }

    fn election(&mut self, lookups: &Lookups) {
        let elects = self.settings.text(Key::LeaderElection);
        // As the versions of kube-vip that had it: it counts where no election by Lease is asked for.
        if self.settings.is_on(Key::SingleNode) {
            if elects != Some("true") {
                self.filled.file.single_node = Some(true);
                self.name(Key::SingleNode, &["singleNode".into()]);
                // Nobody asks the API then, unless there is something to tell it.
                if self.settings.is_on(Key::NodeLabel) {
                    self.filled.file.kubernetes = Some(self.api());
                }
                return;
            }
            let message = "has no effect: an election by Lease is asked for too".to_owned();
            self.find(Severity::Warning, Key::SingleNode, message, "remove it, or `vip_leaderelection`");
        } else if elects == Some("false") {
            let message = "has no effect: who has the address is elected by a Lease, as kube-vip does for a control plane in ARP mode";
            let help = "remove it; on a single node without an election, set `vip_singlenode` to true";
            self.find(Severity::Warning, Key::LeaderElection, message.to_owned(), help);
        }
        self.filled.file.election = Some(Election::Kubernetes);
        let mut kubernetes = Kubernetes {
            lease: Some(self.lease(lookups)),
            lease_duration: self.seconds(Key::LeaseDuration, "leaseDuration"),
            renew_deadline: self.seconds(Key::RenewDeadline, "renewDeadline"),
            retry_period: self.seconds(Key::RetryPeriod, "retryPeriod"),
            preserve: self.settings.value(Key::Preserve).map(|_| self.settings.is_on(Key::Preserve)),
            ..self.api()
        };
        kubernetes.annotations = self.annotations();
        kubernetes.memory = self
            .settings
            .text(Key::Instance)
            .map(|instance| MEMORY_DEFAULT.replace("control-plane", &format!("control-plane-{instance}")));
        self.filled.file.kubernetes = Some(kubernetes);
    }

    /// How the API is reached, and what it is told of nodes.
    fn api(&mut self) -> Kubernetes {
        self.name(Key::NodeLabel, &["kubernetes".into(), "nodeLabel".into()]);
        let server = self.take(Key::Server, &["kubernetes".into(), "server".into()]);
        Kubernetes {
            kubeconfig: self.take(Key::Kubeconfig, &["kubernetes".into(), "kubeconfig".into()]),
            server: server.map(|server| host(&server).to_owned()),
            port: self.settings.port(Key::Port),
            node_label: self.settings.value(Key::NodeLabel).map(|_| self.settings.is_on(Key::NodeLabel)),
            ..Kubernetes::default()
        }
    }

    /// `NAMESPACE/NAME`: the name's own namespace, else the ServiceAccount's, else the one that is set.
    fn lease(&mut self, lookups: &Lookups) -> String {
        let path = [Step::Key("kubernetes"), Step::Key("lease")];
        let name = self.take(Key::LeaseName, &path).unwrap_or_else(|| LEASE_DEFAULT.to_owned());
        if name.contains('/') {
            return name;
        }
        if let Some(namespace) = &lookups.namespace {
            return format!("{namespace}/{name}");
        }
        let namespace = self.settings.text(Key::Namespace).unwrap_or(NAMESPACE_DEFAULT);
        if self.settings.value(Key::LeaseName).is_none() {
            self.name(Key::Namespace, &path);
        }
        format!("{namespace}/{name}")
    }

    fn annotations(&mut self) -> Option<BTreeMap<String, String>> {
        let path = [Step::Key("kubernetes"), Step::Key("annotations")];
        let text = self.take(Key::LeaseAnnotations, &path)?;
        match serde_json::from_str(&text) {
            Ok(annotations) => Some(annotations),
            Err(error) => {
                let message = format!("`{text}` is not a JSON object of texts: {error}");
                let help = r#"write an object such as {"example.org/owner": "team"}"#;
                self.find(Severity::Error, Key::LeaseAnnotations, message, help);
                None
            }
        }
    }

    /// The balancer, or else the check of this node's own apiserver: with one of both, a node whose apiserver is dead
    /// does not keep the address.
    fn serving(&mut self, lookups: &Lookups) {
        let port = self.settings.port(Key::Port).unwrap_or(PORT_DEFAULT);
        let interval = self.seconds_of(Key::CheckInterval);
        let own = self.own(port);
        if !self.balances(port, lookups) {
            self.name(Key::CheckInterval, &["healthCheck".into(), "interval".into()]);
            self.filled.file.health_check = own.map(|own| HealthCheck {
                address: own.ip().to_string(),
                port: own.port(),
                path: None,
                ca_file: None,
                interval,
                timeout: None,
                rise: None,
                fall: None,
            });
            return;
        }
        let base = [Step::Key("loadBalancers"), Step::Index(0)];
        self.name(Key::LoadBalancer, &base);
        self.name(Key::LoadBalancerPort, &[&base[..], &["port".into()]].concat());
        self.name(Key::CheckInterval, &[&base[..], &["check".into(), "interval".into()]].concat());
        let elects = self.filled.file.election == Some(Election::Kubernetes);
        let backend = |own: SocketAddr| Backend {
            name: None,
            address: own.ip().to_string(),
            port: Some(own.port()),
            url: None,
        };
        self.filled.file.load_balancers = Some(vec![LoadBalancer {
            name: Some("apiserver".to_owned()),
            port: self.settings.load_balancer_port(),
            bind_to_vip: Some(true),
            same_port: Some(self.settings.shares_port()),
            discover: Some(elects),
            backend_port: Some(port),
            // Without an election there is no other node.
            backends: (!elects).then(|| own.map(backend).into_iter().collect()),
            check: interval.map(|interval| Check { interval: Some(interval), ..Check::default() }),
            ..LoadBalancer::default()
        }]);
    }

    /// Whether the balancer can run: an apiserver that listens on every address has its own port on the VIP too, and not
    /// every kernel can redirect that.
    fn balances(&mut self, port: u16, lookups: &Lookups) -> bool {
        if !self.settings.is_on(Key::LoadBalancer) {
            return false;
        }
        let reason = lookups.no_redirect.as_ref().filter(|_| self.settings.shares_port());
        if let Some(reason) = reason {
            let message = format!(
                "the balancer stays off: the apiserver has port {port} on every address of its node, and so on the VIP, and {reason}"
            );
            let help = "set `lb_port` to a port of its own, such as 8443, and let clients use it; on the apiserver's port they reach the one of the node that has the VIP";
            self.find(Severity::Warning, Key::LoadBalancer, message, help);
        }
        reason.is_none()
    }

    /// This node's own apiserver; `None` where it was set to something that isn't an address, which is told elsewhere.
    fn own(&self, port: u16) -> Option<SocketAddr> {
        let Some(text) = self.settings.text(Key::Server) else {
            return Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        };
        let text = host(text);
        text.parse().ok().or_else(|| {
            let bare = text.trim_start_matches('[').trim_end_matches(']');
            bare.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, port))
        })
    }

    fn telling(&mut self) {
        let metrics = self.take(Key::Metrics, &["metrics".into()]);
        let metrics = metrics.unwrap_or_else(|| METRICS_DEFAULT.to_owned());
        self.filled.file.metrics = (!metrics.is_empty()).then_some(metrics);
        self.name(Key::HealthPort, &["healthPort".into()]);
        match self.settings.number(Key::HealthPort) {
            None | Some(0) => {}
            Some(port) => match u16::try_from(port) {
                Ok(port) if i64::from(port) >= HEALTH_PORT_MIN => self.filled.file.health_port = Some(port),
                Ok(_) | Err(_) => {
                    let message = format!("`{port}` can't be the port for health checks");
                    let help = "write a port from 1024 to 65535, or 0 for none";
                    self.find(Severity::Error, Key::HealthPort, message, help);
                }
            },
        }
        let Some(instance) = self.settings.text(Key::Instance) else { return };
        let valid = instance.len() <= INSTANCE_LENGTH_MAX
            && instance.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
        if !valid {
            let message = format!("`{instance}` can't be the name of an instance");
            let help = "write at most 80 letters, digits, dots, hyphens and underscores";
            self.find(Severity::Error, Key::Instance, message, help);
            return;
        }
        let socket = Path::new(SOCKET_DEFAULT).with_file_name(format!("vipd-{instance}.sock"));
        self.filled.file.socket = Some(socket.display().to_string());
    }

    fn seconds(&mut self, key: Key, name: &'static str) -> Option<String> {
        self.name(key, &["kubernetes".into(), name.into()]);
        self.seconds_of(key)
    }

    fn seconds_of(&self, key: Key) -> Option<String> {
        self.settings.text(key).map(|text| format!("{text}s"))
    }

    /// The text of a setting, whose origin is remembered for the key that it fills.
    fn take(&mut self, key: Key, path: &[Step]) -> Option<String> {
        self.name(key, path);
        self.settings.text(key).map(str::to_owned)
    }

    fn name(&mut self, key: Key, path: &[Step]) {
        if let Some(value) = self.settings.value(key) {
            self.filled.names.insert(path, value.origin.clone());
        }
    }

    fn find(&mut self, severity: Severity, key: Key, message: String, help: &str) {
        let path = [Step::Key("")];
        let mut names = Names::default();
        if let Some(value) = self.settings.value(key) {
            names.insert(&path, value.origin.clone());
        }
        self.filled.findings.push(names.diagnose(severity, &path, message, help));
    }
}

/// An apiserver's address without the form of a URL, which kube-vip wants.
fn host(text: &str) -> &str {
    text.strip_prefix("https://").unwrap_or(text).trim_end_matches('/')
}
