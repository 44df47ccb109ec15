//! The Pod that runs `vipd manager`: static, or made on every control-plane node by a DaemonSet.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::anyhow;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetUpdateStrategy, RollingUpdateDaemonSet};
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, Container, EnvVar, EnvVarSource, HostPathVolumeSource, NodeAffinity,
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, ObjectFieldSelector, Pod, PodSpec,
    PodTemplateSpec, SecurityContext, Toleration, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Refusal, yaml};
use crate::cli;
use crate::config::SOCKET_DEFAULT;
use crate::config::kube_vip::Settings;
use crate::config::kube_vip::table::{self, Key, Meaning};
use crate::{sample, tell};

/// The name of all that is made.
pub(super) const NAME: &str = "vipd";
/// Where kube-vip puts itself, and its Lease.
const NAMESPACE_DEFAULT: &str = "kube-system";
/// Where kubeadm writes kubeconfigs.
const KUBECONFIG_DEFAULT: &str = "/etc/kubernetes/admin.conf";
/// Where the control-plane nodes are remembered.
const STATE: &str = "/var/lib/vipd";
/// The image's tag, for people and tools that look at labels; its value may be longer than a label's.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How long a replaced Pod is ready before the next node's is replaced, in seconds: longer than the slowest election takes to
/// have a leader whom everybody knows.
const READY_FOR: i32 = 10;

/// Labels of control-plane nodes, the old one first; their taints have the same names.
const CONTROL_PLANE_LABELS: [&str; 2] =
    ["node-role.kubernetes.io/master", "node-role.kubernetes.io/control-plane"];

/// A static Pod.
pub(super) fn pod(settings: &Settings, options: &cli::Pod) -> Result<String, Refusal> {
    if options.in_cluster {
        tell(
            "warning: --inCluster: the kubelet lets no static Pod have a ServiceAccount; create this one through the API, or use `vipd manifest daemonset`",
        );
    }
    let pod = Pod {
        metadata: metadata(settings),
        spec: Some(spec(settings, options, Kind::Static)?),
        status: None,
    };
    Ok(yaml(&pod)?)
}

/// A DaemonSet for the control-plane nodes.
pub(super) fn daemon_set(settings: &Settings, options: &cli::DaemonSet) -> Result<String, Refusal> {
    if settings.text(Key::NodeName).is_some() {
        let text = "`--nodeName` (`vip_nodename`) names one node, and a DaemonSet runs on all: remove it, Kubernetes tells each its name";
        return Err(anyhow!(text).into());
    }
    let mut spec = spec(settings, &options.pod, Kind::DaemonSet)?;
    spec.affinity = Some(on_the_control_plane());
    spec.tolerations = Some(tolerations(options.taint));
    let labels = labels();
    let set = DaemonSet {
        metadata: ObjectMeta { labels: Some(labels.clone()), ..metadata(settings) },
        spec: DaemonSetSpec {
            selector: LabelSelector {
                match_labels: Some(BTreeMap::from([("app.kubernetes.io/name".to_owned(), NAME.to_owned())])),
                ..LabelSelector::default()
            },
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(labels), ..ObjectMeta::default() }),
                spec: Some(spec),
            },
            // One node at a time, and the next only once this one has taken part for a while: the others have to agree on who leads.
            // Two on one node would want the same ports.
            update_strategy: Some(DaemonSetUpdateStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDaemonSet {
                    max_unavailable: Some(IntOrString::Int(1)),
                    max_surge: Some(IntOrString::Int(0)),
                }),
            }),
            min_ready_seconds: Some(READY_FOR),
            ..DaemonSetSpec::default()
        },
        status: None,
    };
    Ok(yaml(&set)?)
}

/// The namespace that everything is in.
pub(super) fn namespace(settings: &Settings) -> String {
    settings.text(Key::Namespace).unwrap_or(NAMESPACE_DEFAULT).to_owned()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Static,
    DaemonSet,
}

fn metadata(settings: &Settings) -> ObjectMeta {
    ObjectMeta {
        name: Some(NAME.to_owned()),
        namespace: Some(namespace(settings)),
        labels: Some(labels()),
        ..ObjectMeta::default()
    }
}

fn labels() -> BTreeMap<String, String> {
    BTreeMap::from([
        ("app.kubernetes.io/name".to_owned(), NAME.to_owned()),
        ("app.kubernetes.io/version".to_owned(), VERSION.to_owned()),
    ])
}

fn spec(settings: &Settings, options: &cli::Pod, kind: Kind) -> anyhow::Result<PodSpec> {
    let folders = folders(settings, options.in_cluster)?;
    // An empty environment variable counts as one that isn't set, so this can only be said by a flag.
    let no_metrics = settings.text(Key::Metrics) == Some("");
    let args = ["manager"].into_iter().chain(no_metrics.then_some("--prometheusHTTPServer="));
    let container = Container {
        name: NAME.to_owned(),
        image: Some(sample::image(options.image.as_deref())?),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        args: Some(args.map(str::to_owned).collect()),
        env: Some(environment(settings)),
        resources: Some(sample::resources()),
        security_context: Some(security(settings)),
        volume_mounts: Some(folders.iter().map(Folder::mount).collect()),
        ..Container::default()
    };
    Ok(PodSpec {
        containers: vec![sample::probed(container, SOCKET_DEFAULT)],
        // No entry for the name `kubernetes` in /etc/hosts: vipd reaches apiservers by address.
        host_network: Some(true),
        termination_grace_period_seconds: Some(sample::GRACE_PERIOD),
        // Credentials that nothing uses need not be there.
        automount_service_account_token: (kind == Kind::DaemonSet && !options.in_cluster).then_some(false),
        priority_class_name: Some("system-node-critical".to_owned()),
        // For a static Pod nobody resolves the class; for any other, admission refuses a value that it didn't set.
        priority: (kind == Kind::Static).then_some(sample::SYSTEM_NODE_CRITICAL),
        service_account_name: options.in_cluster.then(|| NAME.to_owned()),
        volumes: Some(folders.iter().map(Folder::volume).collect()),
        ..PodSpec::default()
    })
}

/// The environment in the order of kube-vip's manifests.
fn environment(settings: &Settings) -> Vec<EnvVar> {
    let mut variables = Vec::new();
    for setting in table::all() {
        let Meaning::Honoured { key, manifest, .. } = setting.meaning else { continue };
        let Some(name) = setting.environment.first() else { continue };
        let given = settings.text(key).filter(|text| !text.is_empty());
        let (value, value_from) = match (given, manifest) {
            (Some(text), _) => (Some(text.to_owned()), None),
            // Switched off by a flag.
            (None, table::Manifest::Always(_)) if settings.text(key).is_some() => continue,
            // Without an election there is nothing to say of one.
            (None, table::Manifest::Always(_))
                if key == Key::LeaderElection && settings.is_on(Key::SingleNode) =>
            {
                continue;
            }
            (None, table::Manifest::Always(default)) => (Some(default.to_owned()), None),
            (None, table::Manifest::FromNode) => (None, Some(node_name())),
            (None, table::Manifest::WhenSet) => continue,
        };
        variables.push(EnvVar { name: (*name).to_owned(), value, value_from });
    }
    variables
}

fn node_name() -> EnvVarSource {
    EnvVarSource {
        field_ref: Some(ObjectFieldSelector { field_path: "spec.nodeName".to_owned(), api_version: None }),
        ..EnvVarSource::default()
    }
}

/// A folder of the host.
struct Folder {
    name: &'static str,
    path: String,
    read_only: bool,
}

impl Folder {
    fn mount(&self) -> VolumeMount {
        VolumeMount {
            name: self.name.to_owned(),
            mount_path: self.path.clone(),
            read_only: self.read_only.then_some(true),
            ..VolumeMount::default()
        }
    }

    fn volume(&self) -> Volume {
        Volume {
            name: self.name.to_owned(),
            host_path: Some(HostPathVolumeSource {
                path: self.path.clone(),
                type_: Some("DirectoryOrCreate".to_owned()),
            }),
            ..Volume::default()
        }
    }
}

/// The folder of the kubeconfig and not the file: a hostPath of a file that does not exist yet (before `kubeadm init`
/// there is none) would become an empty directory in its place; super-admin.conf is seen where there is one, which alone
/// is let in while a cluster is made; and a file that is replaced, as `kubeadm certs renew` does, is seen as it is then.
fn folders(settings: &Settings, in_cluster: bool) -> anyhow::Result<Vec<Folder>> {
    let kubeconfig = settings.text(Key::Kubeconfig).unwrap_or(KUBECONFIG_DEFAULT);
    let mut folders = Vec::new();
    if !in_cluster {
        let folder = Path::new(kubeconfig).parent().and_then(Path::to_str);
        let Some(folder) = folder.filter(|folder| folder.starts_with('/') && *folder != "/") else {
            return Err(anyhow!(
                "`--k8sConfigPath {kubeconfig}` must be the absolute path of a file in a folder of its own, such as {KUBECONFIG_DEFAULT}"
            ));
        };
        folders.push(Folder { name: "kubeconfig", path: folder.to_owned(), read_only: true });
    }
    let run = Path::new(SOCKET_DEFAULT).parent().and_then(Path::to_str).unwrap_or("/run/vipd");
    folders.push(Folder { name: "state", path: STATE.to_owned(), read_only: false });
    folders.push(Folder { name: "run", path: run.to_owned(), read_only: false });
    Ok(folders)
}

/// Addresses need NET_ADMIN, ARP and ND frames NET_RAW, ports below 1024 NET_BIND_SERVICE.
fn security(settings: &Settings) -> SecurityContext {
    let low = settings.is_on(Key::LoadBalancer)
        && settings.port(Key::LoadBalancerPort).is_some_and(|port| port < 1024);
    let add = ["NET_ADMIN", "NET_RAW"].into_iter().chain(low.then_some("NET_BIND_SERVICE"));
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities {
            add: Some(add.map(str::to_owned).collect()),
            drop: Some(vec!["ALL".to_owned()]),
        }),
        ..SecurityContext::default()
    }
}

/// What kubeadm taints control-plane nodes with is no reason not to run there: without this, the DaemonSet would have no Pod.
/// `--taint`, as kube-vip has it, stays on whatever else a node is tainted with, too.
fn tolerations(any: bool) -> Vec<Toleration> {
    let tolerate = |key: Option<&str>, effect: &str| Toleration {
        key: key.map(str::to_owned),
        effect: Some(effect.to_owned()),
        operator: Some("Exists".to_owned()),
        ..Toleration::default()
    };
    if any {
        return vec![tolerate(None, "NoSchedule"), tolerate(None, "NoExecute")];
    }
    CONTROL_PLANE_LABELS.iter().map(|key| tolerate(Some(key), "NoSchedule")).collect()
}

fn on_the_control_plane() -> Affinity {
    let term = |label: &str| NodeSelectorTerm {
        match_expressions: Some(vec![NodeSelectorRequirement {
            key: label.to_owned(),
            operator: "Exists".to_owned(),
            values: None,
        }]),
        ..NodeSelectorTerm::default()
    };
    Affinity {
        node_affinity: Some(NodeAffinity {
            // Of several terms one is enough.
            required_during_scheduling_ignored_during_execution: Some(NodeSelector {
                node_selector_terms: CONTROL_PLANE_LABELS.map(term).to_vec(),
            }),
            ..NodeAffinity::default()
        }),
        ..Affinity::default()
    }
}
