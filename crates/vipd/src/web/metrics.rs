//! One look at vipd as an exposition in the OpenMetrics text format.
//!
//! Everything is computed from one [`Snapshot`] when it is asked for; nothing is counted here. Labels take their values from
//! the configuration (nodes, addresses, load balancers, backends) or from a closed set, so the number of series is fixed
//! when the process starts. docs/metrics.md lists every metric, and a test compares.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::process::{Process, as_f64};
use crate::status::{Backend, Frontend, Owner, Snapshot};

/// The states of a backend, as the status names them.
const STATES: [&str; 4] = ["unknown", "ready", "draining", "dead"];

/// What `frontend` is for the backend of `healthCheck`, which is there only where there are no load balancers.
const HEALTH_CHECK: &str = "healthCheck";

/// Writes the exposition.
///
/// # Errors
/// A value that can't be written, of which there is none.
pub(super) fn exposition(snapshot: Snapshot) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Exposition { snapshot, process: Process::read() }));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// All that is exposed, at one moment.
#[derive(Debug)]
struct Exposition {
    snapshot: Snapshot,
    process: Process,
}

impl Collector for Exposition {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut writer = Writer(encoder);
        write_build(&mut writer, &self.snapshot)?;
        write_election(&mut writer, &self.snapshot)?;
        write_address(&mut writer, self.snapshot.owner.as_ref())?;
        write_peers(&mut writer, self.snapshot.owner.as_ref())?;
        write_frontends(&mut writer, &self.snapshot.load_balancers)?;
        write_backends(&mut writer, &self.snapshot)?;
        write_process(&mut writer, &self.process)
    }
}

fn write_build(writer: &mut Writer<'_>, snapshot: &Snapshot) -> fmt::Result {
    let labels = vec![
        ("version", snapshot.version.clone()),
        ("build", option_env!("VIPD_BUILD").unwrap_or("unknown").to_owned()),
        ("node", snapshot.node.clone()),
    ];
    writer.gauge("kube_vip_build_info", None, "What runs here; always 1", [(labels, 1.0)])
}

fn write_election(writer: &mut Writer<'_>, snapshot: &Snapshot) -> fmt::Result {
    let owner = snapshot.owner.as_ref();
    let node = &snapshot.node;
    let leads = |owner: &Owner, node: &str| flag(owner.leader.as_deref() == Some(node));
    writer.gauge(
        "kube_vip_is_leader",
        None,
        "1 if this node leads",
        owner.map(|owner| {
            let labels = vec![("node", node.clone()), ("lease_name", lease_name(owner))];
            (labels, leads(owner, node))
        }),
    )?;
    writer.counter(
        "kube_vip_leader_election_transitions",
        None,
        "Times that the lead went from one node to another, as this node saw it",
        owner.map(|owner| (vec![("lease_name", lease_name(owner))], owner.transitions)),
    )?;
    let nodes = owner.into_iter().flat_map(|owner| {
        let nodes = std::iter::once(node).chain(owner.peers.iter().map(|peer| &peer.id));
        nodes.map(move |node| (vec![("node", node.clone())], leads(owner, node)))
    });
    writer.gauge("vipd_leader", None, "1 for the node that leads, as this node knows it", nodes)?;
    let term = owner.and_then(|owner| owner.term).map(|term| (Vec::new(), as_f64(term)));
    writer.gauge("vipd_term", None, "The term that this node leads in; absent while it does not", term)?;
    let left = owner.map(|owner| (Vec::new(), seconds(owner.lease_left_ms.unwrap_or(0))));
    writer.gauge("vipd_lease_left", Some(Unit::Seconds), "What is left of this node's own lease", left)
}

/// What the election is called: by its Lease, as kube-vip has it, or by its kind.
fn lease_name(owner: &Owner) -> String {
    let lease = owner.lease.as_ref().map(|lease| lease.name.as_str());
    lease.map_or(owner.election.as_str(), |name| name.rsplit('/').next().unwrap_or(name)).to_owned()
}

fn write_address(writer: &mut Writer<'_>, owner: Option<&Owner>) -> fmt::Result {
    let held = owner.into_iter().flat_map(|owner| {
        owner.addresses.iter().map(|address| {
            let ip = address.split('/').next().unwrap_or(address).to_owned();
            (vec![("address", ip)], flag(owner.state == "active"))
        })
    });
    writer.gauge("vipd_vip_held", None, "1 while this node has the virtual address", held)?;
    writer.gauge(
        "vipd_link_up",
        None,
        "1 while the interface of the virtual addresses is up, with a carrier",
        owner.map(|owner| (vec![("interface", owner.interface.clone())], flag(owner.link_up))),
    )?;
    writer.counter(
        "vipd_address_repairs",
        None,
        "Times that a virtual address was put back after something else had removed it",
        owner.map(|owner| (Vec::new(), owner.repairs)),
    )?;
    writer.counter(
        "vipd_address_conflicts",
        None,
        "Times that another host was heard using a virtual address that this node has",
        owner.map(|owner| (Vec::new(), owner.conflicts)),
    )
}

fn write_peers(writer: &mut Writer<'_>, owner: Option<&Owner>) -> fmt::Result {
    let peers = owner.map(|owner| owner.peers.as_slice()).unwrap_or_default();
    writer.gauge(
        "vipd_peer_heard_age",
        Some(Unit::Seconds),
        "How long ago the peer was last heard; absent while it never was",
        peers.iter().filter_map(|peer| Some((vec![("peer", peer.id.clone())], seconds(peer.heard_ms?)))),
    )?;
    writer.gauge(
        "vipd_peer_authenticated",
        None,
        "1 if the peer's messages are signed with a peer key",
        peers.iter().map(|peer| (vec![("peer", peer.id.clone())], flag(peer.authenticated))),
    )
}

fn write_frontends(writer: &mut Writer<'_>, frontends: &[Frontend]) -> fmt::Result {
    let frontends = || named(frontends).map(|(name, frontend)| (vec![("frontend", name)], frontend));
    let open = frontends().map(|(labels, frontend)| (labels, size(frontend.connections)));
    writer.gauge("vipd_frontend_open_connections", None, "Open connections of the load balancer", open)?;
    let limit = frontends().map(|(labels, frontend)| (labels, size(frontend.max_connections)));
    writer.gauge(
        "vipd_frontend_connections_limit",
        None,
        "The most it holds; further clients wait",
        limit,
    )?;
    let accepted = frontends().map(|(labels, frontend)| (labels, frontend.accepted));
    writer.counter("vipd_frontend_accepted", None, "Connections accepted", accepted)?;
    let refused = frontends().map(|(labels, frontend)| (labels, frontend.refused));
    writer.counter("vipd_frontend_refused", None, "Connections that no backend could take", refused)
}

fn write_backends(writer: &mut Writer<'_>, snapshot: &Snapshot) -> fmt::Result {
    let balanced = named(&snapshot.load_balancers)
        .flat_map(|(name, frontend)| frontend.backends.iter().map(move |backend| (name.clone(), backend)));
    let checked = snapshot.health_check.iter().map(|backend| (HEALTH_CHECK.to_owned(), backend));
    let backends: Vec<(Labels, &Backend)> = balanced
        .chain(checked)
        .map(|(frontend, backend)| {
            (vec![("frontend", frontend), ("backend", backend.address.clone())], backend)
        })
        .collect();
    let each = || backends.iter().map(|(labels, backend)| (labels.clone(), *backend));

    let states = each().flat_map(|(labels, backend)| {
        STATES.map(|state| {
            let labels = labels.iter().cloned().chain([("state", state.to_owned())]).collect();
            (labels, flag(backend.health == state))
        })
    });
    writer.gauge("vipd_backend_state", None, "1 for the state that the backend is in", states)?;
    let open = each().map(|(labels, backend)| (labels, size(backend.connections)));
    writer.gauge("vipd_backend_open_connections", None, "Open connections to the backend", open)?;
    let total = each().map(|(labels, backend)| (labels, backend.total));
    writer.counter("vipd_backend_connections", None, "Connections made to the backend", total)?;
    let failures = each().map(|(labels, backend)| (labels, backend.connect_failures));
    writer.counter(
        "vipd_backend_connect_failures",
        None,
        "Connects that failed or took too long",
        failures,
    )?;
    writer.counter(
        "vipd_backend_retries",
        None,
        "Connections that went on to another backend before the client noticed",
        each().map(|(labels, backend)| (labels, backend.retries)),
    )?;
    let bytes = each().flat_map(|(labels, backend)| {
        let both = [("to_backend", backend.bytes_to_backend), ("to_client", backend.bytes_to_client)];
        both.map(|(direction, bytes)| {
            (labels.iter().cloned().chain([("direction", direction.to_owned())]).collect(), bytes)
        })
    });
    writer.counter("vipd_backend", Some(Unit::Bytes), "Bytes carried, for each direction", bytes)
}

fn write_process(writer: &mut Writer<'_>, process: &Process) -> fmt::Result {
    let alone = |value: Option<f64>| value.map(|value| (Vec::new(), value));
    let start = alone(process.start_seconds);
    writer.gauge(
        "process_start_time",
        Some(Unit::Seconds),
        "When vipd started, in seconds since 1970",
        start,
    )?;
    let cpu = process.cpu_seconds.map(|seconds| (Vec::new(), seconds));
    writer.counter("process_cpu", Some(Unit::Seconds), "Time that vipd had a processor", cpu)?;
    let resident = alone(process.resident_bytes.map(as_f64));
    writer.gauge("process_resident_memory", Some(Unit::Bytes), "Memory of vipd that is in RAM", resident)?;
    let open = alone(process.open_files.map(as_f64));
    writer.gauge("process_open_fds", None, "Open file descriptors of vipd", open)?;
    let most = alone(process.max_files.map(as_f64));
    writer.gauge("process_max_fds", None, "The most file descriptors that vipd may open", most)
}

/// The load balancers under names that are each one's own, although a file may name two alike: those carry where they
/// listen too.
fn named(frontends: &[Frontend]) -> impl Iterator<Item = (String, &Frontend)> {
    frontends.iter().map(|frontend| {
        let alike = frontends.iter().filter(|other| other.name == frontend.name).count();
        let name = if alike == 1 {
            frontend.name.clone()
        } else {
            format!("{} ({})", frontend.name, frontend.listen.join(", "))
        };
        (name, frontend)
    })
}

fn flag(yes: bool) -> f64 {
    if yes { 1.0 } else { 0.0 }
}

fn seconds(millis: u64) -> f64 {
    as_f64(millis) / 1000.0
}

fn size(count: usize) -> f64 {
    as_f64(u64::try_from(count).unwrap_or(u64::MAX))
}

type Labels = Vec<(&'static str, String)>;

/// Writes one metric with its samples after another. A metric without samples is described all the same, so that what
/// may be there can be seen anywhere.
struct Writer<'a>(DescriptorEncoder<'a>);

impl Writer<'_> {
    fn gauge(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, f64)>,
    ) -> fmt::Result {
        self.write(
            name,
            unit,
            help,
            samples.into_iter().map(|(labels, value)| (labels, ConstGauge::new(value))),
        )
    }

    /// A counter; its samples' names end in `_total`, which the format adds.
    fn counter<N: prometheus_client::encoding::EncodeCounterValue>(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, N)>,
    ) -> fmt::Result {
        let samples = samples.into_iter();
        self.write(name, unit, help, samples.map(|(labels, value)| (labels, ConstCounter::new(value))))
    }

    fn write<M: EncodeMetric + prometheus_client::metrics::TypedMetric>(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        help: &str,
        samples: impl Iterator<Item = (Labels, M)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, unit.as_ref(), M::TYPE)?;
        for (labels, sample) in samples {
            sample.encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
