//! The files that Pods run by: their manifests name paths of the host, and what is found there is converted with what was given.

use std::fmt;
use std::path::Path;
use std::rc::Rc;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use serde::Deserialize as _;
use serde_yaml::Value;

use super::kind::{self, Kind};
use super::{Text, kube_vip};

/// How many paths of a file are looked at.
const PATHS_MAX: usize = 64;

/// Reads what is at a path of the host, which is relative to its root.
type Look<'a> = dyn FnMut(&str) -> Result<Vec<Text>, String> + 'a;

/// A path of the host that a manifest's Pod mounts, and what was found there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mounted {
    manifest: Rc<str>,
    path: String,
    /// The configurations there; or why there is none.
    found: Result<Vec<Text>, String>,
}

impl Mounted {
    /// Whether it is one of this manifest's.
    pub(super) fn is_of(&self, manifest: &str) -> bool {
        &*self.manifest == manifest
    }

    /// The path.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// The configurations that are there.
    pub(super) fn texts(&self) -> impl Iterator<Item = &Text> {
        self.found.iter().flatten()
    }
}

impl fmt::Display for Mounted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, found, .. } = self;
        match found {
            Ok(texts) if texts.iter().any(|(name, _)| !name.ends_with(path.as_str())) => {
                let names: Vec<&str> = texts.iter().filter_map(|(name, _)| file_name(name)).collect();
                write!(f, "{path} ({})", names.join(", "))
            }
            Ok(_) => f.write_str(path),
            Err(why) => write!(f, "{path} ({why})"),
        }
    }
}

/// Looks at what the Pods of manifests mount, but for those of which a file was given. What can't be read is remembered.
pub(super) fn of(given: &[Text], look: &mut Look<'_>) -> Vec<Mounted> {
    let is_manifest = |text: &&Text| kind::of(&text.1) == Some(Kind::Manifest);
    let names: Vec<&str> =
        given.iter().filter(|text| !is_manifest(text)).filter_map(|(name, _)| file_name(name)).collect();
    let mut all: Vec<Mounted> = Vec::new();
    for (manifest, text) in given.iter().filter(is_manifest) {
        for (spec, wanted) in pods(text) {
            let is_given = |path: &str| file_name(path).is_some_and(|name| names.contains(&name));
            if paths(&spec).any(is_given) {
                continue;
            }
            for path in paths(&spec) {
                if all.len() >= PATHS_MAX || all.iter().any(|known| known.path == path) {
                    continue;
                }
                let is_wanted = |(name, text): &Text| {
                    kind::of(text).is_some_and(|kind| wanted.contains(&kind))
                        && !file_name(name).is_some_and(|name| names.contains(&name))
                };
                let found = look(path.trim_start_matches('/')).and_then(|mut texts| {
                    texts.retain(is_wanted);
                    if texts.is_empty() { Err("no configuration".to_owned()) } else { Ok(texts) }
                });
                all.push(Mounted { manifest: Rc::clone(manifest), path: path.to_owned(), found });
            }
        }
    }
    all
}

/// All configurations that were found.
pub(super) fn texts(mounted: &[Mounted]) -> Vec<Text> {
    mounted.iter().flat_map(Mounted::texts).cloned().collect()
}

/// Whether a manifest is what led to this file.
pub(super) fn lead(mounted: &[Mounted], manifest: &Text, to: &Text) -> bool {
    mounted.iter().any(|mount| mount.is_of(&manifest.0) && mount.texts().any(|text| text.0 == to.0))
}

/// The paths of the host that a Pod mounts.
pub(super) fn paths(spec: &PodSpec) -> impl Iterator<Item = &str> {
    spec.volumes
        .iter()
        .flatten()
        .filter_map(|volume| volume.host_path.as_ref())
        .map(|path| path.path.as_str())
}

/// The Pods of a manifest that run by files, each with what these may be. What can't be read is told by whoever converts it.
fn pods(text: &str) -> Vec<(PodSpec, &'static [Kind])> {
    let mut pods = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text).take(kube_vip::DOCUMENTS_MAX) {
        let Ok(value) = Value::deserialize(document) else { break };
        let spec = match value.get("kind").and_then(Value::as_str) {
            Some("Pod") => serde_yaml::from_value::<Pod>(value).ok().and_then(|pod| pod.spec),
            Some("DaemonSet") => {
                serde_yaml::from_value::<DaemonSet>(value).ok().and_then(|set| set.spec.template.spec)
            }
            Some(_) | None => None,
        };
        let Some(spec) = spec else { continue };
        let wanted: &[Kind] = match spec.containers.iter().find(|one| kube_vip::is_kube_vip(one)) {
            Some(container) if kube_vip::starts(container).is_some() => &[Kind::Config],
            Some(_) => continue,
            None => &[Kind::Keepalived, Kind::Haproxy, Kind::Nginx],
        };
        pods.push((spec, wanted));
    }
    pods
}

fn file_name(path: &str) -> Option<&str> {
    Path::new(path).file_name().and_then(|name| name.to_str())
}
