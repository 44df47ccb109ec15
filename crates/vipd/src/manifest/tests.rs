use std::collections::BTreeMap;

use clap::Parser;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::*;
use crate::cli::{self, Cli, Command};
use crate::config::kube_vip::Lookups;

/// The least that makes a manifest.
const LEAST: &[&str] = &["--controlplane", "--arp", "--address", "10.0.0.40"];

fn pod_options(arguments: &[&str]) -> cli::Pod {
    let all = [&["vipd", "manifest", "pod"], LEAST, arguments].concat();
    let Command::Manifest(Manifest::Pod(options)) = Cli::try_parse_from(all).unwrap().command else {
        panic!("{arguments:?}")
    };
    options
}

fn gathered(flags: &Flags, environment: &[(&str, &str)]) -> Settings {
    let environment: BTreeMap<String, String> =
        environment.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    Settings::gather(flags, &environment)
}

fn made<T>(document: Result<String, Refusal>) -> T
where
    T: serde::de::DeserializeOwned,
{
    match document {
        Ok(text) => serde_yaml::from_str(&text).unwrap(),
        Err(Refusal::Usage(error)) => panic!("{error:#}"),
        Err(Refusal::Findings(findings)) => panic!("{findings:?}"),
    }
}

fn spec(arguments: &[&str]) -> PodSpec {
    let options = pod_options(arguments);
    made::<Pod>(pod::pod(&gathered(&options.flags, &[]), &options)).spec.unwrap()
}

/// What a pod's vipd is told: its arguments, and its environment with the fields of a pod on this node filled in.
fn told(spec: &PodSpec) -> Settings {
    let container = &spec.containers[0];
    let arguments: Vec<&str> = container.args.iter().flatten().map(String::as_str).collect();
    let Command::Manager(options) =
        Cli::try_parse_from([&["vipd"], &arguments[..]].concat()).unwrap().command
    else {
        panic!("{arguments:?}")
    };
    let variables = container.env.iter().flatten().map(|variable| {
        let value = match &variable.value_from {
            Some(source) => {
                assert_eq!(source.field_ref.as_ref().unwrap().field_path, "spec.nodeName");
                "node".to_owned()
            }
            None => variable.value.clone().unwrap(),
        };
        (variable.name.clone(), value)
    });
    Settings::gather(&options.flags, &variables.collect())
}

#[test]
fn what_a_manifest_says_is_what_it_was_made_from() {
    let all: &[&[&str]] = &[
        &[],
        &["--interface", "eth7", "--leaderElection"],
        &["--vipSubnet", "24", "--port", "7443"],
        &["--cidr=24", "--leaseDuration=30", "--leaseRenewDuration=20", "--leaseRetry=4"],
        &["--leaseName", "other/lease", "--namespace", "other"],
        &["--enableLoadBalancer", "--lbPort", "443"],
        &["--prometheusHTTPServer=", "--healthCheckPort", "8080"],
        &["--prometheusHTTPServer", "127.0.0.1:9000"],
        &["--preserveVipOnLeadershipLoss", "--instanceName", "second", "--log", "-4"],
        &["--k8sConfigPath", "/root/.kube/config", "--nodeName", "this-one"],
        &["--vip", "10.0.0.41", "--address="],
        &["--loseLeadership", "--lbForwardingMethod", "masquerade"],
        &["--enableNodeLabeling"],
    ];
    let variables = [
        &[][..],
        &[("vip_leaseannotations", r#"{"a":"b"}"#), ("backend_health_check_interval", "7")],
        &[("kubernetes_addr", "https://10.0.0.1:6443"), ("vip_leasename", "by-environment")],
        &[("vip_singlenode", "1"), ("lb_enable", "true"), ("lb_port", "8443")],
    ];
    for arguments in all {
        for environment in variables {
            let options = pod_options(arguments);
            let settings = gathered(&options.flags, environment);
            let spec = made::<Pod>(pod::pod(&settings, &options)).spec.unwrap();
            let meant = settings.on_some_node();
            let read = told(&spec);
            let config = |settings: &Settings| {
                let (config, _) = settings.build(&Lookups::default()).unwrap();
                format!("{config:?} {}", settings.log_level())
            };
            assert_eq!(config(&read), config(&meant), "{arguments:?} {environment:?}");
        }
    }
}

#[test]
fn the_environment_stands_in_kube_vips_order() {
    let spec = spec(&["--interface", "eth0", "--leaderElection", "--enableLoadBalancer", "--lbPort", "8443"]);
    let names: Vec<_> =
        spec.containers[0].env.iter().flatten().map(|variable| variable.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "vip_arp",
            "port",
            "vip_nodename",
            "vip_interface",
            "dns_mode",
            "cp_enable",
            "cp_namespace",
            "vip_leaderelection",
            "vip_leasename",
            "vip_leaseduration",
            "vip_renewdeadline",
            "vip_retryperiod",
            "lb_enable",
            "lb_port",
            "address",
            "prometheus_server",
        ]
    );
}

#[test]
fn a_pod_has_what_it_needs_and_no_more() {
    let spec = spec(&[]);
    let container = &spec.containers[0];
    assert_eq!(container.args.as_deref().unwrap(), ["manager"]);
    assert_eq!(container.image.as_deref().unwrap(), concat!("vipd:", env!("CARGO_PKG_VERSION")));
    let security = container.security_context.as_ref().unwrap();
    let capabilities = security.capabilities.as_ref().unwrap();
    assert_eq!(capabilities.add.as_deref().unwrap(), ["NET_ADMIN", "NET_RAW"]);
    assert_eq!(capabilities.drop.as_deref().unwrap(), ["ALL"]);
    assert_eq!(security.read_only_root_filesystem, Some(true));
    assert_eq!((spec.host_network, spec.host_aliases), (Some(true), None));
    assert_eq!(spec.priority_class_name.as_deref(), Some("system-node-critical"));
    let mounts: Vec<_> = container.volume_mounts.iter().flatten().collect();
    let paths: Vec<_> = mounts.iter().map(|mount| (mount.mount_path.as_str(), mount.read_only)).collect();
    assert_eq!(paths, [("/etc/kubernetes", Some(true)), ("/var/lib/vipd", None), ("/run/vipd", None)]);
    assert_eq!(spec.volumes.unwrap().len(), 3);
}

#[test]
fn the_probes_ask_the_vipd_of_the_pod() {
    let spec = spec(&[]);
    let container = &spec.containers[0];
    let probes = [&container.startup_probe, &container.liveness_probe, &container.readiness_probe];
    for (probe, ready) in probes.into_iter().zip([false, false, true]) {
        let probe = probe.as_ref().unwrap();
        // The image has no shell: the first word is a file of it, and the rest is a command line of vipd's.
        let command = probe.exec.as_ref().unwrap().command.as_deref().unwrap();
        assert_eq!(command[0], "/vipd");
        let Command::Health(options) = Cli::try_parse_from(command).unwrap().command else {
            panic!("{command:?}")
        };
        assert_eq!(options.ready, ready, "{command:?}");
        let folder = options.socket.parent().unwrap().to_str();
        let mounted =
            container.volume_mounts.iter().flatten().any(|mount| Some(&*mount.mount_path) == folder);
        assert!(mounted, "{command:?} asks where no folder of the host is");
        // vipd's own limit comes first, so that its reason is told.
        assert!(probe.timeout_seconds.unwrap() > 5);
    }
    let live = container.liveness_probe.as_ref().unwrap();
    let patience = live.failure_threshold.unwrap() * live.period_seconds.unwrap();
    assert!(patience >= 60, "a vipd that stalls for {patience} s is ended");
}

#[test]
fn low_ports_and_service_accounts_change_the_pod() {
    let low = spec(&["--enableLoadBalancer", "--lbPort", "443"]);
    let security = low.containers[0].security_context.as_ref().unwrap();
    let added = security.capabilities.as_ref().unwrap().add.as_deref().unwrap();
    assert_eq!(added, ["NET_ADMIN", "NET_RAW", "NET_BIND_SERVICE"]);
    let inside = spec(&["--inCluster", "--image", "r.example/vipd:1"]);
    assert_eq!(inside.service_account_name.as_deref(), Some("vipd"));
    assert_eq!(inside.containers[0].image.as_deref(), Some("r.example/vipd:1"));
    assert_eq!(inside.volumes.unwrap().len(), 2);
    let elsewhere = spec(&["--k8sConfigPath", "/root/.kube/config"]);
    assert_eq!(elsewhere.volumes.unwrap()[0].host_path.as_ref().unwrap().path, "/root/.kube");
}

#[test]
fn a_daemon_set_runs_on_the_control_plane() {
    let options = |arguments: &[&str]| {
        let all = [&["vipd", "manifest", "daemonset"], LEAST, arguments].concat();
        let Command::Manifest(Manifest::DaemonSet(options)) = Cli::try_parse_from(all).unwrap().command
        else {
            panic!("{arguments:?}")
        };
        options
    };
    let make = |options: &cli::DaemonSet| pod::daemon_set(&gathered(&options.pod.flags, &[]), options);
    let set: DaemonSet = made(make(&options(&["--inCluster", "--taint"])));
    let spec = set.spec.template.spec.unwrap();
    assert_eq!(spec.tolerations.as_ref().unwrap().len(), 2);
    let affinity = spec.affinity.as_ref().unwrap().node_affinity.as_ref().unwrap();
    let terms =
        &affinity.required_during_scheduling_ignored_during_execution.as_ref().unwrap().node_selector_terms;
    let keys: Vec<_> =
        terms.iter().map(|term| term.match_expressions.as_ref().unwrap()[0].key.as_str()).collect();
    assert_eq!(keys, ["node-role.kubernetes.io/master", "node-role.kubernetes.io/control-plane"]);
    let selected = set.spec.selector.match_labels.unwrap();
    let labels = set.spec.template.metadata.unwrap().labels.unwrap();
    assert!(selected.iter().all(|(key, value)| labels.get(key) == Some(value)));
    assert!(spec.priority.is_none());
    let strategy = set.spec.update_strategy.unwrap();
    assert_eq!(strategy.type_.as_deref(), Some("RollingUpdate"));
    assert_eq!(strategy.rolling_update.unwrap().max_unavailable, Some(IntOrString::Int(1)));

    let plain: DaemonSet = made(make(&options(&[])));
    let taints: Vec<_> = plain.spec.template.spec.unwrap().tolerations.unwrap();
    assert!(taints.iter().all(|taint| taint.effect.as_deref() == Some("NoSchedule")), "{taints:?}");
    let keys: Vec<_> = taints.iter().map(|taint| taint.key.as_deref().unwrap()).collect();
    assert_eq!(keys, ["node-role.kubernetes.io/master", "node-role.kubernetes.io/control-plane"]);
    assert!(matches!(make(&options(&["--nodeName", "n1"])), Err(Refusal::Usage(_))));
}

/// kube-vip's rights, which no drop-in may exceed: group, resource, verbs.
const KUBE_VIP: &[(&str, &str, &[&str])] = &[
    ("coordination.k8s.io", "leases", &["list", "get", "watch", "update", "create"]),
    ("", "nodes", &["list", "get", "watch", "update", "patch"]),
];

/// The documents of `vipd manifest rbac`.
fn rbac_documents(arguments: &[&str]) -> Vec<serde_yaml::Value> {
    let all = [&["vipd", "manifest", "rbac"], arguments].concat();
    let Command::Manifest(Manifest::Rbac(options)) = Cli::try_parse_from(all).unwrap().command else {
        panic!("{arguments:?}")
    };
    let Ok(text) = rbac::rbac(&gathered(&options.flags, &[]), &options) else { panic!("{arguments:?}") };
    text.split("---\n").map(|text| serde_yaml::from_str(text).unwrap()).collect()
}

#[test]
fn rights_are_no_wider_than_kube_vips() {
    for arguments in [&[][..], &["--rolebinding"], &["--role"], &["--namespace", "other"]] {
        let documents = rbac_documents(arguments);
        let kinds: Vec<_> = documents.iter().map(|document| document["kind"].as_str().unwrap()).collect();
        let (role, binding) = match arguments {
            ["--role"] => ("Role", "RoleBinding"),
            ["--rolebinding"] => ("ClusterRole", "RoleBinding"),
            _ => ("ClusterRole", "ClusterRoleBinding"),
        };
        assert_eq!(kinds, ["ServiceAccount", role, binding, "Role", "RoleBinding"]);
        assert_eq!(documents[2]["roleRef"]["name"], documents[1]["metadata"]["name"]);
        assert_eq!(documents[2]["subjects"][0]["namespace"], documents[0]["metadata"]["namespace"]);
        for rule in documents[1]["rules"].as_sequence().unwrap() {
            let (_, _, allowed) = KUBE_VIP
                .iter()
                .find(|(group, resource, _)| {
                    rule["apiGroups"][0] == *group && rule["resources"][0] == *resource
                })
                .unwrap();
            for verb in rule["verbs"].as_sequence().unwrap() {
                assert!(allowed.contains(&verb.as_str().unwrap()), "{rule:?}");
            }
        }
    }
}

/// kube-vip writes none, so this is the one right that it lacks.
#[test]
fn events_may_be_made_in_one_namespace_and_neither_read_nor_changed() {
    for arguments in [&[][..], &["--role"], &["--namespace", "other"]] {
        let documents = rbac_documents(arguments);
        let (role, binding) = (&documents[3], &documents[4]);
        assert_eq!(role["metadata"], binding["metadata"]);
        assert_eq!(role["metadata"]["namespace"], "default");
        let expected = "[{apiGroups: [events.k8s.io], resources: [events], verbs: [create]}]";
        assert_eq!(role["rules"], serde_yaml::from_str::<serde_yaml::Value>(expected).unwrap());
        assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"]);
        assert_eq!(binding["subjects"], documents[2]["subjects"], "{arguments:?}");
    }
}

#[test]
fn nodes_may_be_patched_only_where_they_are_to_be_labelled() {
    let verbs = |arguments: &[&str]| -> Vec<String> {
        let rules = rbac_documents(arguments)[1]["rules"].clone();
        let nodes = rules.as_sequence().unwrap().iter().find(|rule| rule["resources"][0] == "nodes").unwrap();
        nodes["verbs"].as_sequence().unwrap().iter().map(|verb| verb.as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(verbs(&[]), ["list", "watch"]);
    assert_eq!(verbs(&["--enableNodeLabeling"]), ["list", "watch", "patch"]);
    assert_eq!(verbs(&["--enableNodeLabeling=false"]), ["list", "watch"]);
}
