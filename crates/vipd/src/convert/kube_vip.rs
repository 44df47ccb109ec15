//! kube-vip's manifests, and the file of its version 0.1.

use std::collections::BTreeMap;
use std::rc::Rc;

use clap::FromArgMatches;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use serde::Deserialize;
use serde_yaml::{Mapping, Value};

use super::mounts::{Mounted, paths};
use super::report::{At, Fault, Kind, Report};
use super::{Options, Text};
use crate::config::kube_vip::table::{self, Meaning};
use crate::config::kube_vip::{Flags, Settings};
use crate::config::{Diagnostic, Severity};

/// The most documents of a file.
pub(super) const DOCUMENTS_MAX: usize = 100;

/// Reads manifests; the document that a kube-vip among them leads to.
///
/// # Errors
/// They are not YAML, or not objects of Kubernetes.
pub(super) fn manifest(
    (file, text): &Text,
    (options, mounted): (&Options, &[Mounted]),
    report: &mut Report,
) -> Result<Option<Mapping>, Fault> {
    let mut found = None;
    for (place, document) in serde_yaml::Deserializer::from_str(text).enumerate() {
        let fault = |error: serde_yaml::Error| {
            let line = error.location().map(|location| format!(":{}", location.line())).unwrap_or_default();
            Fault {
                at: format!("{file}{line}"),
                message: error.to_string(),
                help: "it must be a manifest that kubectl would take".to_owned(),
            }
        };
        if place >= DOCUMENTS_MAX {
            return Err(Fault::about(
                file,
                format!("there are more than {DOCUMENTS_MAX} documents"),
                "is this the right file?",
            ));
        }
        let value = Value::deserialize(document).map_err(fault)?;
        let kind = value.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
        let spec = match kind.as_str() {
            "Pod" => serde_yaml::from_value::<Pod>(value).map_err(fault)?.spec,
            "DaemonSet" => serde_yaml::from_value::<DaemonSet>(value).map_err(fault)?.spec.template.spec,
            "" => continue,
            kind => {
                let told = "`vipd manifest rbac` prints what vipd needs of this kind, if anything";
                report.note(
                    Kind::Lost,
                    &line(file, text, &format!("kind: {kind}")),
                    &[format!("kind: {kind}")],
                    told,
                );
                continue;
            }
        };
        let Some(spec) = spec else { continue };
        match spec.containers.iter().find(|container| is_kube_vip(container)) {
            Some(_) if found.is_some() => {
                return Err(Fault::about(file, "it has two Pods of kube-vip", "convert them one by one"));
            }
            Some(container) => match starts(container) {
                Some(start) => start_of((file, text), start, (&spec, mounted), report),
                None => found = pod((file, text), container, options, report)?,
            },
            None => other((file, text), &kind, (&spec, mounted), report),
        }
    }
    Ok(found)
}

/// Whether a container runs kube-vip.
pub(super) fn is_kube_vip(container: &Container) -> bool {
    let image = container.image.as_deref().unwrap_or_default();
    let words = || container.command.iter().flatten().chain(container.args.iter().flatten());
    image.contains("kube-vip") || words().any(|word| matches!(word.as_str(), "manager" | "/kube-vip"))
}

/// The word by which a kube-vip 0.1 runs by a file.
pub(super) fn starts(container: &Container) -> Option<&String> {
    container.command.iter().flatten().chain(container.args.iter().flatten()).find(|word| *word == "start")
}

/// A Pod of kube-vip 0.1: what counts is in the file that it mounts.
fn start_of(
    (file, text): (&Rc<str>, &str),
    start: &String,
    (spec, mounted): (&PodSpec, &[Mounted]),
    report: &mut Report,
) {
    let found = mounted.iter().any(|mount| mount.is_of(file) && mount.texts().next().is_some());
    let told = format!(
        "kube-vip 0.1: vipd takes this manifest with its image changed, and its file unchanged, which is among {}",
        listed(file, spec, mounted)
    );
    let kind = if found { Kind::Carried } else { Kind::Missing };
    report.note(kind, &line(file, text, "start"), std::slice::from_ref(start), told);
}

/// A Pod of something else: it goes when vipd comes, and what it mounts is what is converted.
fn other(
    (file, text): (&Rc<str>, &str),
    kind: &str,
    (spec, mounted): (&PodSpec, &[Mounted]),
    report: &mut Report,
) {
    let told = format!(
        "goes when vipd's comes (`vipd sample manifest`); what it runs by is in the files that it mounts: {}",
        listed(file, spec, mounted)
    );
    report.note(Kind::Changed, &line(file, text, &format!("kind: {kind}")), &[format!("kind: {kind}")], told);
}

/// The paths of the host that a Pod mounts, each with what was found there if it was looked at.
fn listed(file: &Rc<str>, spec: &PodSpec, mounted: &[Mounted]) -> String {
    let told = |path: &str| {
        let mount = mounted.iter().find(|mount| mount.is_of(file) && mount.path() == path);
        mount.map_or_else(|| path.to_owned(), ToString::to_string)
    };
    let paths: Vec<String> = paths(spec).map(told).collect();
    if paths.is_empty() { "none".to_owned() } else { paths.join(", ") }
}

fn pod(
    (file, text): (&Rc<str>, &str),
    container: &Container,
    options: &Options,
    report: &mut Report,
) -> Result<Option<Mapping>, Fault> {
    let args: Vec<&String> =
        container.command.iter().flatten().chain(container.args.iter().flatten()).collect();
    let environment = environment((file, text), container, options, report);
    let flags = flags((file, text), &args)?;
    let settings = Settings::gather(&flags, &environment);
    for name in settings.names() {
        let told = "is a name, which a file can't have for a virtual address: write the address that it has";
        report.note(Kind::Missing, &line(file, text, &name), std::slice::from_ref(&name), told);
    }
    if settings.wants_subnets() {
        report.note(
            Kind::Missing,
            &line(file, text, "auto"),
            &["auto".to_owned()],
            "the prefix length of the subnet: write it, such as 24",
        );
    }
    let findings = settings.check();
    let refused = findings.is_err();
    let findings = findings.unwrap_or_else(|findings| findings);
    told((file, text), &environment, &args, &findings, report);
    Ok((!refused && !report.has(Kind::Missing)).then(|| settings.document()))
}

/// The environment that the container sees.
fn environment(
    (file, text): (&Rc<str>, &str),
    container: &Container,
    options: &Options,
    report: &mut Report,
) -> BTreeMap<String, String> {
    let mut environment = BTreeMap::new();
    for variable in container.env.iter().flatten() {
        let at = line(file, text, &format!("name: {}", variable.name));
        let words = [variable.name.clone()];
        let field = variable.value_from.as_ref().and_then(|from| from.field_ref.as_ref());
        match (&variable.value, &variable.value_from, &options.node) {
            (Some(value), _, _) => {
                environment.insert(variable.name.clone(), value.clone());
            }
            (None, Some(_), Some(node)) if field.is_some_and(|field| field.field_path == "spec.nodeName") => {
                report.note(Kind::Carried, &at, &words, format!("node: {node}"));
                environment.insert(variable.name.clone(), node.clone());
            }
            (None, Some(_), None) if field.is_some_and(|field| field.field_path == "spec.nodeName") => {
                report.note(
                    Kind::Changed,
                    &at,
                    &words,
                    "a file isn't told a node's name: the host name counts, or `node: NAME` (`--node NAME`)",
                );
            }
            (None, Some(_), _) => {
                report.note(Kind::Missing, &at, &words, "its value is not in the manifest: write it there")
            }
            (None, None, _) => {}
        }
    }
    if container.env_from.as_ref().is_some_and(|from| !from.is_empty()) {
        report.note(
            Kind::Missing,
            &line(file, text, "envFrom"),
            &["envFrom".to_owned()],
            "the values are not in the manifest: write them there",
        );
    }
    environment
}

/// What the arguments set.
fn flags((file, text): (&Rc<str>, &str), args: &[&String]) -> Result<Flags, Fault> {
    let given = args.iter().filter(|word| !matches!(word.as_str(), "/kube-vip" | "kube-vip" | "manager"));
    let command = <Flags as clap::Args>::augment_args(clap::Command::new("kube-vip").no_binary_name(true));
    command.try_get_matches_from(given).and_then(|matches| Flags::from_arg_matches(&matches)).map_err(
        |error| {
            let whole = error.to_string();
            let message = whole.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
            Fault::new(&line(file, text, "args:"), message, "`vipd manager --help` lists the flags")
        },
    )
}

/// Tells what became of each setting.
fn told(
    (file, text): (&Rc<str>, &str),
    environment: &BTreeMap<String, String>,
    args: &[&String],
    findings: &[Diagnostic],
    report: &mut Report,
) {
    for finding in findings {
        let (kind, name) = (
            match finding.severity {
                Severity::Error => Kind::Refused,
                Severity::Warning => Kind::Lost,
            },
            finding.origin.rsplit(' ').next().unwrap_or_default().trim_start_matches('-'),
        );
        let told = format!("{}: {}", finding.message, finding.help);
        report.note(kind, &line(file, text, name), std::slice::from_ref(&finding.origin), told);
    }
    let is_found = |origin: &str| findings.iter().any(|finding| finding.origin == origin);
    let set = environment
        .iter()
        .map(|(name, value)| (format!("environment {name}"), name.as_str(), value.as_str()));
    let flags = args
        .iter()
        .filter_map(|word| word.strip_prefix("--"))
        .map(|word| word.split_once('=').unwrap_or((word, "")));
    let set = set.chain(flags.map(|(name, value)| (format!("flag --{name}"), name, value)));
    for (origin, name, value) in set.filter(|(origin, _, _)| !is_found(origin)).collect::<Vec<_>>() {
        let known = table::all().find(|setting| {
            if origin.starts_with("flag") {
                setting.flags.contains(&name)
            } else {
                setting.environment.contains(&name)
            }
        });
        let (kind, told) = match known.map(|setting| setting.meaning) {
            Some(Meaning::Honoured { key: table::Key::LogLevel, .. }) => {
                (Kind::Changed, "`vipd start --log-level` says it, not the file")
            }
            Some(Meaning::Honoured { about, .. }) => (Kind::Carried, about),
            Some(Meaning::Warned { why, .. }) => (Kind::Lost, why),
            Some(Meaning::Refused { .. }) => (Kind::Lost, "it is off, and vipd has no such thing"),
            None => (Kind::Lost, "is no setting of kube-vip"),
        };
        let word = if value.is_empty() { name.to_owned() } else { format!("{name}={value}") };
        report.note(kind, &line(file, text, name), &[word], told);
    }
}

/// Where something is said first.
fn line(file: &Rc<str>, text: &str, what: &str) -> At {
    let place = text.lines().position(|line| {
        let line = line.split(" #").next().unwrap_or_default();
        line.contains(what) && !line.trim_start().starts_with('#')
    });
    At { file: Rc::clone(file), line: place.map_or(1, |place| place + 1) }
}

/// Keys of kube-vip 0.1.5 to 0.1.8 that say nothing any more.
const OBSOLETE: &[&str] = &[
    "addPeersAsBackends",
    "enableLoadBalancer",
    "enableBGP",
    "enablePacket",
    "vipCidr",
    "enableLeaderElection",
];

/// A file of kube-vip 0.1, which has been found to load: as it is, or without its obsolete keys.
pub(super) fn config((file, text): &Text, report: &mut Report) -> String {
    let mut document: Mapping = serde_yaml::from_str(text).unwrap_or_default();
    let has = |key: &str| document.contains_key(key);
    if !OBSOLETE.iter().any(|key| has(key)) {
        report.tell(Kind::Carried, format!("{file} is what vipd reads: unchanged"));
        return text.clone();
    }
    for key in OBSOLETE {
        let Some(value) = document.remove(*key) else { continue };
        let at = line(file, text, &format!("{key}:"));
        let on = value.as_bool() == Some(true);
        let prefix = match &value {
            Value::Number(number) => number.to_string(),
            Value::String(text) => text.trim_start_matches('/').to_owned(),
            Value::Null | Value::Bool(_) | Value::Sequence(_) | Value::Mapping(_) | Value::Tagged(_) => {
                String::new()
            }
        };
        let vip =
            document.get("vip").and_then(Value::as_str).filter(|vip| !vip.contains('/')).map(str::to_owned);
        let (kind, told) = match (*key, vip) {
            ("vipCidr", Some(vip)) => {
                let whole = format!("{}/{prefix}", vip.trim());
                document.insert("vip".into(), whole.clone().into());
                (Kind::Carried, format!("vip: {whole}"))
            }
            ("enableLeaderElection", _) if on && !document.contains_key("election") => {
                document.insert("election".into(), "kubernetes".into());
                (Kind::Carried, "election: kubernetes".to_owned())
            }
            _ => (Kind::Lost, "is obsolete and has no effect".to_owned()),
        };
        report.note(kind, &at, &[(*key).to_owned()], told);
    }
    report.tell(
        Kind::Carried,
        format!("every other key of {file}, which is what vipd reads; its comments are gone"),
    );
    serde_yaml::to_string(&document).unwrap_or_else(|_| text.clone())
}
