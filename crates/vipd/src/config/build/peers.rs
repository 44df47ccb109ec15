//! Who takes part in the election, and how fast it is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use leader::{NodeId, Timing};
use zeroize::Zeroizing;

use crate::config::file::{self, Election, File};
use crate::config::reader::Reader;
use crate::config::source::Step;
use crate::config::{TieBreak, value};

/// What a node without a priority of its own has; the middle of the range leaves room on both sides.
const PRIORITY_DEFAULT: u8 = 100;

/// How long a preferred node must be back and healthy before it takes the address again.
const PREEMPT_DELAY_DEFAULT: Duration = Duration::from_secs(30);

/// Builds the configuration of an election among peers; `None` after an error was noted.
pub(super) fn election(
    reader: &mut Reader<'_>,
    file: &File,
    node: &str,
    tie_break: Option<TieBreak>,
) -> Option<leader::peers::Config> {
    let single = is_single(reader, file);
    let timing = timing(reader, file.timing.as_ref());
    let preempt_delay =
        reader.duration(&["preemptDelay".into()], file.preempt_delay.as_deref(), PREEMPT_DELAY_DEFAULT);
    let keys = keys(reader, file);
    let start_as_leader = file.start_as_leader.unwrap_or(false);
    let (me, listen, peers) = if single { alone(reader, file, node)? } else { members(reader, file)? };
    let members: BTreeSet<NodeId> = peers.keys().cloned().chain([me.clone()]).collect();
    let witnesses = witnesses(reader, file, single);
    let election = leader::peers::Config {
        quorum: leader::quorum::Config {
            me,
            members,
            witnesses,
            timing: timing?,
            priority: file.priority.unwrap_or(PRIORITY_DEFAULT),
            // What is spread over the hosts comes back to the one that it is meant for, or it wouldn't stay spread.
            preempt: file.preempt.or(file.spread).unwrap_or(false),
            preempt_delay,
            start_as_leader,
            tie_break: tie_break.map(|rule| leader::quorum::TieBreak::named(&rule.to_string())),
        },
        subject: None,
        listen,
        peers,
        keys: keys?,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    // What was found above is told with its place; this is what is left.
    if !reader.has_errors()
        && let Err(error) = election.check()
    {
        let too_fast = matches!(
            error,
            leader::peers::ConfigError::Quorum(leader::quorum::ConfigError::TieTooFast { .. })
        );
        let (key, help) = if too_fast {
            ("tieBreak", "use `timing: default` or `relaxed` with it, or three hosts with this timing")
        } else {
            ("remotePeers", "list 2 to 14 other hosts, each with a name of its own")
        };
        reader.error(&[key.into()], error.to_string(), help);
        return None;
    }
    Some(election)
}

/// What decides between two hosts, where the file says so and they are two; an error is noted where they aren't.
pub(super) fn tie_break(
    reader: &mut Reader<'_>,
    file: &File,
    addresses: &[vip::Address],
) -> Option<TieBreak> {
    let path = [Step::Key("tieBreak")];
    let text = file.tie_break.as_deref()?.trim();
    let hosts = file.remote_peers.as_ref().map_or(0, Vec::len) + 1;
    let alone = file.single_node == Some(true) || file.election == Some(Election::None);
    if alone || hosts != 2 || file.witness().is_some() {
        let what = match (alone || hosts == 1, file.witness()) {
            (true, _) => "there is no election here".to_owned(),
            (false, Some(_)) => "a witness votes here".to_owned(),
            (false, None) => format!("a majority of {hosts} decides here"),
        };
        reader.error(
            &path,
            format!("`tieBreak` is for two hosts that can't have a majority without each other; {what}"),
            "remove the key, or list exactly one other host, which is no witness, under `remotePeers`",
        );
        return None;
    }
    if text == "gateway" {
        return Some(TieBreak::Gateway);
    }
    let Ok(ip) = text.parse::<IpAddr>() else {
        reader.error(
            &path,
            format!("`{text}` is neither `gateway` nor an IP address"),
            "write `gateway`, for the router of the default route, or the address of a host of the same subnet that is always up",
        );
        return None;
    };
    let ip = reader.ip(&path, &ip.to_string())?;
    let peers = file.local_peer.iter().chain(file.remote_peers.iter().flatten());
    let of_host =
        peers.filter(|peer| peer.address.trim().parse() == Ok(ip)).map(|peer| peer.id.as_str()).next();
    let whose = match of_host {
        Some(host) => format!("the address of `{host}` itself"),
        None if addresses.iter().any(|address| address.ip == ip) => "the virtual address".to_owned(),
        None => return Some(TieBreak::Address(ip)),
    };
    reader.error(
        &path,
        format!("{ip} is {whose}: it can't decide between the two"),
        "write `gateway`, or the address of a third host of the same subnet that is always up",
    );
    None
}

fn is_single(reader: &mut Reader<'_>, file: &File) -> bool {
    let single_node = file.single_node.unwrap_or(false);
    let has_peers = file.remote_peers.as_ref().is_some_and(|peers| !peers.is_empty());
    match file.election {
        // Another module's.
        Some(Election::Kubernetes) => false,
        Some(Election::None) => true,
        Some(Election::Peers) if single_node => {
            reader.error(
                &["singleNode".into()],
                "`singleNode: true` contradicts `election: peers`",
                "remove one of the two",
            );
            false
        }
        Some(Election::Peers) if !has_peers => {
            reader.error(
                &["election".into()],
                "`election: peers` needs peers",
                "list every other host under `remotePeers`, or say `singleNode: true`",
            );
            false
        }
        Some(Election::Peers) => false,
        None if single_node => {
            if has_peers {
                reader.warn(
                    &["singleNode".into()],
                    "`singleNode: true`: the hosts under `remotePeers` are ignored, each would own the VIP",
                    "remove `singleNode` so that one of them is elected, or remove `remotePeers`",
                );
            }
            true
        }
        None if has_peers => false,
        None => {
            reader.warn(
                &[],
                "no `remotePeers`: this host owns the VIP without an election",
                "list every other host under `remotePeers`, or say `singleNode: true`",
            );
            true
        }
    }
}

/// Those who vote and never have the address.
fn witnesses(reader: &mut Reader<'_>, file: &File, single: bool) -> BTreeSet<NodeId> {
    let Some(first) = file.witness() else { return BTreeSet::new() };
    if single {
        reader.error(
            &first,
            "a witness votes for other hosts, and there is no election here",
            "remove `witness: true`, or list every other host under `remotePeers` and remove `singleNode: true`",
        );
        return BTreeSet::new();
    }
    let hosts = || file.local_peer.iter().chain(file.remote_peers.iter().flatten());
    if hosts().all(file::Peer::is_witness) {
        reader.error(
            &first,
            "all hosts are witnesses: none may have the address",
            "remove `witness: true` from every host that may have it; of three hosts, one is a witness at most",
        );
    }
    if file.is_of_witness() {
        of_witness(reader, file);
    }
    hosts().filter(|host| host.is_witness()).filter_map(|host| NodeId::new(&host.id).ok()).collect()
}

/// Keys that contradict a witness's own file, or change nothing in it.
fn of_witness(reader: &mut Reader<'_>, file: &File) {
    if file.start_as_leader == Some(true) {
        reader.error(
            &["startAsLeader".into()],
            "this host is a witness (`localPeer`), and never has the address: `startAsLeader: true` contradicts that",
            "write `startAsLeader: true` on one of the other hosts",
        );
    }
    let keys = [
        ("priority", file.priority.is_some()),
        ("preempt", file.preempt == Some(true)),
        ("preemptDelay", file.preempt_delay.is_some()),
        ("healthCheck", file.health_check.is_some()),
    ];
    for (key, present) in keys {
        if present {
            reader.warn(
                &[key.into()],
                format!("`{key}` has no effect on a witness, which never has the address"),
                "remove the key",
            );
        }
    }
}

type Members = (NodeId, SocketAddr, BTreeMap<NodeId, SocketAddr>);

fn alone(reader: &mut Reader<'_>, file: &File, node: &str) -> Option<Members> {
    let named = [Step::Key("node")];
    let id = [Step::Key("localPeer"), Step::Key("id")];
    let me = node_id(reader, if file.node.is_some() { &named } else { &id }, node)?;
    // Nobody to talk to: the driver binds to loopback, on a port of the kernel's choice.
    Some((me, SocketAddr::from(([127, 0, 0, 1], 0)), BTreeMap::new()))
}

fn members(reader: &mut Reader<'_>, file: &File) -> Option<Members> {
    let Some(local) = &file.local_peer else {
        reader.error(
            &[],
            "`localPeer` is missing",
            "add this host: `localPeer: {id: NAME, address: ADDRESS, port: 10000}`",
        );
        return None;
    };
    let me = node_id(reader, &["localPeer".into(), "id".into()], &local.id);
    let listen = endpoint(reader, &["localPeer".into()], local);
    let mut peers = BTreeMap::new();
    let mut complete = true;
    let mut addresses: BTreeMap<IpAddr, &str> = BTreeMap::new();
    if let Some(listen) = listen {
        addresses.insert(listen.ip(), &local.id);
    }
    let remote = file.remote_peers.as_deref().unwrap_or_default();
    for (index, peer) in remote.iter().enumerate() {
        let at = |key: &'static str| [Step::Key("remotePeers"), Step::Index(index), Step::Key(key)];
        let id = node_id(reader, &at("id"), &peer.id);
        let address = endpoint(reader, &at("id")[..2], peer);
        let (Some(id), Some(address)) = (id, address) else {
            complete = false;
            continue;
        };
        if me.as_ref() == Some(&id) {
            reader.error(
                &at("id"),
                format!("`{id}` is this host's own id (`localPeer`)"),
                "`remotePeers` lists the other hosts only: remove this entry, or correct `localPeer.id`",
            );
        } else if peers.contains_key(&id) {
            reader.error(
                &at("id"),
                format!("two peers have the id `{id}`"),
                "give every host an id of its own",
            );
        }
        if let Some(other) = addresses.insert(address.ip(), &peer.id) {
            reader.error(
                &at("address"),
                format!("`{}` and `{other}` have the same address {}", peer.id, address.ip()),
                "give every host its own address",
            );
        }
        if listen.is_some_and(|listen| listen.is_ipv4() != address.is_ipv4()) {
            reader.error(
                &at("address"),
                format!("{} is not of the same IP version as `localPeer`", address.ip()),
                "give all peers IPv4 addresses, or all IPv6 addresses",
            );
        }
        peers.insert(id, address);
    }
    if complete && file.tie_break.is_none() {
        warn_of_even(reader, remote.len() + 1);
    }
    let (me, listen) = (me?, listen?);
    complete.then_some((me, listen, peers))
}

/// An even number of hosts survives no more than one less.
fn warn_of_even(reader: &mut Reader<'_>, count: usize) {
    let help = match count {
        2 => {
            "use three hosts, or a third that only votes (`witness: true`), or `tieBreak: gateway`; docs/two-nodes.md compares them"
        }
        _ => "use three or five hosts",
    };
    if count.is_multiple_of(2) {
        let majority = count / 2 + 1;
        reader.warn(
            &["remotePeers".into()],
            format!(
                "{count} hosts: a majority is {majority}, so one more host would let one more of them fail"
            ),
            help,
        );
    }
}

fn node_id(reader: &mut Reader<'_>, path: &[Step], name: &str) -> Option<NodeId> {
    NodeId::new(name)
        .map_err(|error| {
            reader.error(path, error.to_string(), "write a name such as master-1, as the node is called")
        })
        .ok()
}

fn endpoint(reader: &mut Reader<'_>, path: &[Step], peer: &file::Peer) -> Option<SocketAddr> {
    let address = reader.ip(&[path, &["address".into()]].concat(), &peer.address);
    let port = reader.port(&[path, &["port".into()]].concat(), peer.port);
    Some(SocketAddr::new(address?, port?))
}

fn timing(reader: &mut Reader<'_>, timing: Option<&file::Timing>) -> Option<Timing> {
    let path = [Step::Key("timing")];
    match timing {
        None => Some(Timing::DEFAULT),
        Some(file::Timing::Profile(name)) => match name.as_str() {
            "default" => Some(Timing::DEFAULT),
            "fast" => Some(Timing::FAST),
            "relaxed" => Some(Timing::RELAXED),
            other => {
                reader.error(
                    &path,
                    format!("`{other}` is not a timing profile"),
                    "write fast, default or relaxed, or {heartbeat: 50ms, lease: 200ms}",
                );
                None
            }
        },
        Some(file::Timing::Custom { heartbeat, lease }) => {
            let mut parse = |key: &'static str, text: &str| {
                value::duration(text)
                    .map_err(|message| reader.error(&[path[0], key.into()], message, value::DURATION_HELP))
                    .ok()
            };
            let heartbeat = parse("heartbeat", heartbeat);
            let lease = parse("lease", lease);
            Timing::new(heartbeat?, lease?)
                .map_err(|error| {
                    reader.error(&path, error.to_string(), "for example {heartbeat: 50ms, lease: 200ms}");
                })
                .ok()
        }
    }
}

fn keys(reader: &mut Reader<'_>, file: &File) -> Option<Vec<leader::peers::Key>> {
    let mut keys = Vec::new();
    let mut ids = BTreeSet::new();
    let mut complete = true;
    for (index, key) in file.peer_keys.as_deref().unwrap_or_default().iter().enumerate() {
        let at = |name: &'static str| [Step::Key("peerKeys"), Step::Index(index), Step::Key(name)];
        if !ids.insert(key.id) {
            reader.error(
                &at("id"),
                format!("two keys have the id {}", key.id),
                "give every key an id of its own",
            );
            complete = false;
        }
        let Some(secret) = reader.file(&at("file"), &key.file, "key file") else {
            complete = false;
            continue;
        };
        // A key keeps what it takes to sign, not the secret.
        let secret = Zeroizing::new(secret);
        match leader::peers::Key::new(key.id, secret.trim_ascii()) {
            Ok(key) => keys.push(key),
            Err(error) => {
                reader.error(
                    &at("file"),
                    format!("{}: {error}", key.file),
                    "make one with `head -c 32 /dev/urandom | base64 > FILE`, and copy it to every host",
                );
                complete = false;
            }
        }
    }
    complete.then_some(keys)
}
