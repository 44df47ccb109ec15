//! What `vipd sample` prints: a configuration with every key explained, and a static Pod.

mod probes;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, HostPathVolumeSource, Pod, PodSpec, ResourceRequirements, SecurityContext,
    Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::cli::SampleManifest;
use crate::config::SOCKET_DEFAULT;

pub(crate) use self::probes::probed;

/// The annotated configuration. A test loads it, so that it stays true.
pub(crate) const CONFIG: &str = include_str!("config.yaml");

/// The image that this binary was built for; the image build sets both.
const IMAGE_NAME: &str = match option_env!("VIPD_IMAGE") {
    Some(name) => name,
    None => "vipd",
};
pub(crate) const IMAGE_TAG: &str = match option_env!("VIPD_TAG") {
    Some(tag) => tag,
    None => env!("CARGO_PKG_VERSION"),
};

/// What the class system-node-critical is worth (the Kubernetes documentation of Pod priority).
pub(crate) const SYSTEM_NODE_CRITICAL: i32 = 2_000_001_000;

/// The static Pod as YAML.
///
/// # Errors
/// A configuration path that can't be mounted.
pub(crate) fn manifest(options: &SampleManifest) -> anyhow::Result<String> {
    let config = &options.config;
    let name = config.to_str().with_context(|| format!("{} is not UTF-8", config.display()))?;
    let folder =
        config.parent().and_then(Path::to_str).filter(|folder| folder.starts_with('/') && *folder != "/");
    let Some(folder) = folder else {
        bail!(
            "`--config {name}` must be the absolute path of a file in a folder of its own, such as /etc/vipd/config.yaml"
        );
    };
    let image = image(options.image.as_deref())?;
    serde_yaml::to_string(&pod(&image, name, folder)).context("failed to print the manifest")
}

/// The image to name: the one that was asked for, or this binary's own.
///
/// # Errors
/// What can't be the name of an image.
pub(crate) fn image(wanted: Option<&str>) -> anyhow::Result<String> {
    let image = wanted.map_or_else(|| format!("{IMAGE_NAME}:{IMAGE_TAG}"), str::to_owned);
    if image.trim().is_empty() || image.contains(char::is_whitespace) {
        bail!("`--image {image}` is not the name of an image; write one such as registry.example/vipd:1.0");
    }
    Ok(image)
}

/// How long a Pod may take to end, in seconds: the hand-over takes milliseconds, open connections have the 15 s of
/// `drainTimeout`, and withdrawing the address may take 2 s more.
pub(crate) const GRACE_PERIOD: i64 = 30;

/// What the scheduler and the kernel's memory killer should know.
pub(crate) fn resources() -> ResourceRequirements {
    ResourceRequirements {
        requests: Some(BTreeMap::from([
            ("cpu".to_owned(), Quantity("50m".to_owned())),
            ("memory".to_owned(), Quantity("32Mi".to_owned())),
        ])),
        ..ResourceRequirements::default()
    }
}

fn pod(image: &str, config: &str, folder: &str) -> Pod {
    let run = Path::new(SOCKET_DEFAULT).parent().and_then(Path::to_str).unwrap_or("/run/vipd");
    let mounts = [("config", folder, true), ("run", run, false)];
    // Wherever the configuration puts its socket, the probes find this one.
    let args = ["start", "-c", config, "--socket", SOCKET_DEFAULT];
    let container = Container {
        name: "vipd".to_owned(),
        image: Some(image.to_owned()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(vec!["/vipd".to_owned()]),
        args: Some(args.map(str::to_owned).to_vec()),
        resources: Some(resources()),
        security_context: Some(security()),
        volume_mounts: Some(
            mounts
                .iter()
                .map(|&(name, path, read_only)| VolumeMount {
                    name: name.to_owned(),
                    mount_path: path.to_owned(),
                    read_only: read_only.then_some(true),
                    ..VolumeMount::default()
                })
                .collect(),
        ),
        ..Container::default()
    };
    Pod {
        metadata: ObjectMeta {
            name: Some("vipd".to_owned()),
            namespace: Some("kube-system".to_owned()),
            labels: Some(BTreeMap::from([("app.kubernetes.io/name".to_owned(), "vipd".to_owned())])),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            containers: vec![probed(container, SOCKET_DEFAULT)],
            host_network: Some(true),
            termination_grace_period_seconds: Some(GRACE_PERIOD),
            priority_class_name: Some("system-node-critical".to_owned()),
            // For a static Pod nobody resolves the class: the kubelet wants its value too.
            priority: Some(SYSTEM_NODE_CRITICAL),
            volumes: Some(
                mounts
                    .iter()
                    .map(|&(name, path, _)| Volume {
                        name: name.to_owned(),
                        host_path: Some(HostPathVolumeSource {
                            path: path.to_owned(),
                            // A folder that is missing is made, so that vipd itself can say which file it misses.
                            type_: Some("DirectoryOrCreate".to_owned()),
                        }),
                        ..Volume::default()
                    })
                    .collect(),
            ),
            ..PodSpec::default()
        }),
        status: None,
    }
}

/// Addresses need NET_ADMIN, ARP and ND frames NET_RAW, ports below 1024 NET_BIND_SERVICE. With SYS_NICE the election keeps its
/// deadlines of some 100 ms on a host that is busy, as all are while they start, and with IPC_LOCK on one that is short of memory;
/// without them, it runs all the same.
fn security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities {
            add: Some(
                ["NET_ADMIN", "NET_RAW", "NET_BIND_SERVICE", "SYS_NICE", "IPC_LOCK"]
                    .map(str::to_owned)
                    .to_vec(),
            ),
            drop: Some(vec!["ALL".to_owned()]),
        }),
        ..SecurityContext::default()
    }
}

#[cfg(test)]
mod tests;
