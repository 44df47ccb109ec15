//! The election by Kubernetes Lease: the Lease, the identity, and how the API is reached.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use leader::NodeId;
use leader::kubernetes::{Access, Config};
use leader::lease::{Timing, TimingError};

use crate::config::file::{File, Kubernetes};
use crate::config::reader::Reader;
use crate::config::source::Step;
use crate::config::value::{LABEL_LENGTH_MAX, is_label, is_subdomain};

/// Where kubeadm writes an administrator's kubeconfig.
const KUBECONFIG_DEFAULT: &str = "/etc/kubernetes/admin.conf";

/// The file that kubeadm 1.29 and later writes beside it; during `kubeadm init`, only this one is let in.
const SUPER_ADMIN: &str = "super-admin.conf";

/// kube-vip's Lease, so that a node of either takes part in the same election while one replaces the other.
pub(in crate::config) const NAMESPACE_DEFAULT: &str = "kube-system";
/// Its name.
const LEASE_DEFAULT: &str = "plndr-cp-lock";

/// Where an apiserver listens, unless told otherwise.
pub(in crate::config) const PORT_DEFAULT: u16 = 6443;

/// The file that remembers the control-plane nodes.
pub(in crate::config) const MEMORY_DEFAULT: &str = "/var/lib/vipd/control-plane.json";

/// The same where no election runs: it is the apiservers by their own word then.
const MEMORY_ALONE_DEFAULT: &str = "/var/lib/vipd/apiservers.json";

/// More apiservers than any cluster has control-plane nodes; each is tried in turn.
const SERVERS_MAX: usize = 64;

/// Builds the configuration of an election by Lease; `None` after an error was noted.
pub(super) fn election(reader: &mut Reader<'_>, file: &File, node: &str, vips: &[IpAddr]) -> Option<Config> {
    other_election(reader, file);
    let nothing = Kubernetes::default();
    let wanted = file.kubernetes.as_ref().unwrap_or(&nothing);
    let me = identity(reader, file, node);
    let timing = timing(reader, wanted);
    let lease = lease(reader, wanted.lease.as_deref().unwrap_or(LEASE_DEFAULT));
    let annotations = annotations(reader, wanted.annotations.as_ref());
    let access = access(reader, wanted, vips, MEMORY_DEFAULT);
    let (namespace, name) = lease?;
    Some(Config {
        me: me?,
        namespace,
        name,
        timing: timing?,
        preserve: wanted.preserve.unwrap_or(false),
        annotations: annotations?,
        access: access?,
    })
}

/// `kubernetes:` where another election runs, and nothing is to be told.
pub(super) fn without_effect(reader: &mut Reader<'_>, file: &File) {
    let tells = |wanted: &Kubernetes| wanted.events == Some(true) || wanted.node_label == Some(true);
    if file.kubernetes.as_ref().is_some_and(|wanted| !tells(wanted)) {
        reader.warn(
            &["kubernetes".into()],
            "`kubernetes` has no effect without `election: kubernetes`",
            "add `election: kubernetes`, or remove the key; with `events: true` or `nodeLabel: true` in it, the API is told of moves",
        );
    }
}

/// Keys of the election among peers.
fn other_election(reader: &mut Reader<'_>, file: &File) {
    if file.single_node == Some(true) {
        reader.error(
            &["singleNode".into()],
            "`singleNode: true` contradicts `election: kubernetes`",
            "remove one of the two",
        );
    }
    if let Some(witness) = file.witness() {
        reader.error(
            &witness,
            "`witness: true` contradicts `election: kubernetes`: nobody votes there, a Lease decides",
            "remove one of the two",
        );
    }
    let keys = [
        ("remotePeers", file.remote_peers.as_ref().is_some_and(|peers| !peers.is_empty())),
        ("startAsLeader", file.start_as_leader == Some(true)),
        ("timing", file.timing.is_some()),
        ("tieBreak", file.tie_break.is_some()),
        ("priority", file.priority.is_some()),
        ("preempt", file.preempt.is_some()),
        ("preemptDelay", file.preempt_delay.is_some()),
        ("peerKeys", file.peer_keys.is_some()),
    ];
    for (key, present) in keys {
        if present {
            reader.warn(
                &[key.into()],
                format!("`{key}` has no effect with `election: kubernetes`"),
                "remove the key: it belongs to an election among peers",
            );
        }
    }
}

/// The holder identity: the node's name in lower case, as Kubernetes has it.
fn identity(reader: &mut Reader<'_>, file: &File, node: &str) -> Option<NodeId> {
    let path: &[Step] = if file.node.is_some() {
        &[Step::Key("node")]
    } else if file.local_peer.is_some() {
        &[Step::Key("localPeer"), Step::Key("id")]
    } else {
        &[]
    };
    let name = node.to_lowercase();
    if !is_subdomain(&name) {
        reader.error(
            path,
            format!("`{node}` can't be the name of a Kubernetes node"),
            "write this node's name as `kubectl get nodes` shows it: `node: NAME`",
        );
        return None;
    }
    if name != node {
        reader.warn(
            path,
            format!("the node name `{node}` becomes `{name}`: Kubernetes writes node names in lower case"),
            "write it in lower case",
        );
    }
    NodeId::new(&name)
        .map_err(|error| reader.error(path, error.to_string(), "give the node a shorter name"))
        .ok()
}

fn timing(reader: &mut Reader<'_>, wanted: &Kubernetes) -> Option<Timing> {
    let at = |key: &'static str| [Step::Key("kubernetes"), Step::Key(key)];
    let mut all = true;
    let mut duration = |key: &'static str, text: Option<&str>, default: Duration| match text {
        None => default,
        Some(text) => reader.try_duration(&at(key), text).unwrap_or_else(|| {
            all = false;
            default
        }),
    };
    let default = Timing::DEFAULT;
    let lease_duration =
        duration("leaseDuration", wanted.lease_duration.as_deref(), default.lease_duration());
    let renew_deadline =
        duration("renewDeadline", wanted.renew_deadline.as_deref(), default.renew_deadline());
    let retry_period = duration("retryPeriod", wanted.retry_period.as_deref(), default.retry_period());
    if !all {
        return None;
    }
    Timing::new(lease_duration, renew_deadline, retry_period)
        .map_err(|error| {
            let key = match error {
                TimingError::NotWholeSeconds { .. } | TimingError::LeaseTooLong { .. } => "leaseDuration",
                TimingError::DeadlineTooLong { .. } | TimingError::DeadlineTooShort { .. } => {
                    // Where only the other one was written, that is the one to mend.
                    match (&wanted.renew_deadline, &wanted.lease_duration) {
                        (None, Some(_)) => "leaseDuration",
                        (Some(_) | None, _) => "renewDeadline",
                    }
                }
                TimingError::RetryTooShort { .. } => "retryPeriod",
            };
            let help = "lease duration, renew deadline and retry period fit together as 15, 10 and 2 seconds do, or 5, 3 and 1";
            reader.error(&at(key), error.to_string(), help);
        })
        .ok()
}

/// Namespace and name of the Lease.
fn lease(reader: &mut Reader<'_>, text: &str) -> Option<(String, String)> {
    let (namespace, name) = text.split_once('/').unwrap_or((NAMESPACE_DEFAULT, text));
    if is_label(namespace) && is_subdomain(name) {
        return Some((namespace.to_owned(), name.to_owned()));
    }
    reader.error(
        &["kubernetes".into(), "lease".into()],
        format!("`{text}` can't be the name of a Lease"),
        "write NAME or NAMESPACE/NAME in lower-case letters, digits and hyphens, such as kube-system/plndr-cp-lock",
    );
    None
}

/// The annotations, each under a key that the API takes: a refused one would fail every write of the Lease.
fn annotations(
    reader: &mut Reader<'_>,
    wanted: Option<&BTreeMap<String, String>>,
) -> Option<BTreeMap<String, String>> {
    let annotations = wanted.cloned().unwrap_or_default();
    let mut valid = true;
    for key in annotations.keys() {
        let (prefix, name) =
            key.split_once('/').map_or((None, key.as_str()), |(prefix, name)| (Some(prefix), name));
        if !prefix.is_none_or(is_subdomain) || !is_qualified(name) {
            valid = false;
            reader.error(
                &["kubernetes".into(), "annotations".into()],
                format!("`{key}` can't be the key of an annotation"),
                "write a name such as owner or example.org/owner",
            );
        }
    }
    valid.then_some(annotations)
}

/// How the API is reached where no Lease decides. Complains of keys that say how one does.
pub(super) fn access_alone(reader: &mut Reader<'_>, file: &File) -> Option<Access> {
    let nothing = Kubernetes::default();
    let wanted = file.kubernetes.as_ref().unwrap_or(&nothing);
    of_a_lease(reader, wanted, "without a `vip`: no Lease is held");
    let keys = [("events", wanted.events.is_some()), ("nodeLabel", wanted.node_label.is_some())];
    for (key, _) in keys.into_iter().filter(|(_, there)| *there) {
        reader.warn(
            &["kubernetes".into(), key.into()],
            format!("`{key}` has no effect without a `vip`: nothing moves"),
            "remove the key",
        );
    }
    access(reader, wanted, &[], MEMORY_ALONE_DEFAULT)
}

/// How the API is reached where peers decide, and it is told of moves. Complains of keys that say how a Lease decides.
pub(super) fn access_beside_peers(
    reader: &mut Reader<'_>,
    wanted: &Kubernetes,
    vips: &[IpAddr],
) -> Option<Access> {
    of_a_lease(reader, wanted, "without `election: kubernetes`: no Lease is held");
    if wanted.memory.is_some() {
        let message = "`memory` has no effect without `election: kubernetes`: nothing is discovered";
        reader.warn(&["kubernetes".into(), "memory".into()], message, "remove the key");
    }
    Some(Access { memory: None, ..access(reader, wanted, vips, MEMORY_DEFAULT)? })
}

/// Warns of keys that say how a Lease decides, and why they don't.
fn of_a_lease(reader: &mut Reader<'_>, wanted: &Kubernetes, why: &str) {
    let keys = [
        ("lease", wanted.lease.is_some()),
        ("leaseDuration", wanted.lease_duration.is_some()),
        ("renewDeadline", wanted.renew_deadline.is_some()),
        ("retryPeriod", wanted.retry_period.is_some()),
        ("preserve", wanted.preserve.is_some()),
        ("annotations", wanted.annotations.is_some()),
    ];
    for (key, _) in keys.into_iter().filter(|(_, there)| *there) {
        let message = format!("`{key}` has no effect {why}");
        reader.warn(&["kubernetes".into(), key.into()], message, "remove the key");
    }
}

fn access(
    reader: &mut Reader<'_>,
    wanted: &Kubernetes,
    vips: &[IpAddr],
    memory_default: &str,
) -> Option<Access> {
    let at = |key: &'static str| [Step::Key("kubernetes"), Step::Key(key)];
    let port = reader.port(&at("port"), wanted.port.unwrap_or(PORT_DEFAULT));
    let kubeconfig = absolute(reader, &at("kubeconfig"), wanted.kubeconfig.as_deref(), KUBECONFIG_DEFAULT);
    let memory = absolute(reader, &at("memory"), wanted.memory.as_deref(), memory_default);
    let port = port?;
    let own = match wanted.server.as_deref() {
        None => Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        Some(text) => server(reader, &at("server"), text, port, vips),
    };
    let listed = wanted.servers.as_deref().unwrap_or_default();
    if listed.len() > SERVERS_MAX {
        reader.error(
            &at("servers"),
            format!("{} servers are more than {SERVERS_MAX}", listed.len()),
            "list one apiserver per control-plane node",
        );
        return None;
    }
    let mut servers = Vec::new();
    let mut complete = true;
    for (index, text) in listed.iter().enumerate() {
        let path = [&at("servers")[..], &[index.into()]].concat();
        match server(reader, &path, text, port, vips) {
            Some(server) if servers.contains(&server) => {
                reader.error(&path, format!("{server} is listed twice"), "list every apiserver once");
            }
            Some(server) => servers.push(server),
            None => complete = false,
        }
    }
    let (kubeconfig, memory) = (kubeconfig?, memory?);
    let mut kubeconfigs = vec![kubeconfig];
    if kubeconfigs[0].file_name() == Path::new(KUBECONFIG_DEFAULT).file_name() {
        kubeconfigs.push(kubeconfigs[0].with_file_name(SUPER_ADMIN));
    }
    complete.then_some(Access {
        kubeconfigs,
        own: own?,
        servers,
        port,
        never: BTreeSet::from_iter(vips.iter().copied()),
        memory: Some(memory),
    })
}

/// The address of an apiserver, with or without a port. Never a name, never a virtual address: both may lead to where
/// no API is before this node has done its work.
fn server(
    reader: &mut Reader<'_>,
    path: &[Step],
    text: &str,
    port: u16,
    vips: &[IpAddr],
) -> Option<SocketAddr> {
    const HELP: &str =
        "write the address of an apiserver and its port, such as 10.0.0.164:6443 or [fd00::164]:6443";
    let trimmed = text.trim();
    let bare = trimmed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(trimmed);
    let parsed =
        trimmed.parse::<SocketAddr>().or_else(|_| bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, port)));
    let Ok(server) = parsed else {
        let host = trimmed.rsplit_once(':').map_or(trimmed, |(host, _)| host);
        let is_name = !text.contains('/')
            && is_subdomain(&host.to_lowercase())
            && host.contains(|c: char| c.is_ascii_alphabetic());
        let message = if is_name {
            format!("`{host}` is a name: looking it up would need a DNS server, which may be behind the VIP")
        } else {
            format!("`{text}` is not the address of an apiserver")
        };
        reader.error(path, message, HELP);
        return None;
    };
    if vips.contains(&server.ip()) {
        reader.error(
            path,
            format!("{} is a virtual address: while nobody leads, no API is behind it", server.ip()),
            "write the own address of a control-plane node",
        );
        return None;
    }
    if server.ip().is_unspecified() || server.ip().is_multicast() || server.port() == 0 {
        reader.error(path, format!("`{text}` is not the address of an apiserver"), HELP);
        return None;
    }
    Some(server)
}

fn absolute(reader: &mut Reader<'_>, path: &[Step], text: Option<&str>, default: &str) -> Option<PathBuf> {
    let file = PathBuf::from(text.unwrap_or(default));
    if !file.is_absolute() || file.file_name().is_none() {
        let message = format!("`{}` is not the absolute path of a file", file.display());
        reader.error(path, message, &format!("write a path such as {default}"));
        return None;
    }
    Some(file)
}

/// The name of an annotation, without its prefix.
fn is_qualified(name: &str) -> bool {
    let outer = |c: char| c.is_ascii_alphanumeric();
    (1..=LABEL_LENGTH_MAX).contains(&name.len())
        && name.chars().all(|c| outer(c) || matches!(c, '-' | '_' | '.'))
        && name.starts_with(outer)
        && name.ends_with(outer)
}
