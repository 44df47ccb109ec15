//! One look at vipd as an exposition in the OpenMetrics text format.
//!
//! Everything is computed from one [`Snapshot`] when it is asked for; nothing is counted here. Labels take their values from
//! the configuration (nodes, addresses, load balancers, backends) or from a closed set, so the number of series is fixed
//! when the process starts. docs/metrics.md lists every metric, and a test compares.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::{Registry, Unit};

use super::process::{Process, as_f64};
use crate::status::{Arrivals, Backend, Frontend, MainLoop, Owner, Peer, Snapshot};

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
        let elections = elections(&self.snapshot.owners);
        write_build(&mut writer, &self.snapshot)?;
        write_main_loop(&mut writer, &self.snapshot.main_loop)?;
        write_election(&mut writer, &self.snapshot.node, &elections)?;
        write_address(&mut writer, &elections)?;
        write_peers(&mut writer, &elections)?;
        write_clients(&mut writer, &elections)?;
        write_tie_break(&mut writer, &elections)?;
        write_frontends(&mut writer, &self.snapshot.load_balancers)?;
        write_backends(&mut writer, &self.snapshot)?;
        write_process(&mut writer, &self.process)
    }
}

/// An election with what it decides about.
struct Election<'a> {
    owner: &'a Owner,
    /// What tells its samples from those of others: nothing where there is but one.
    mark: Option<String>,
}

impl Election<'_> {
    /// A sample's labels.
    fn labels<const N: usize>(&self, labels: [(&'static str, String); N]) -> Labels {
        labels.into_iter().chain(self.mark.iter().map(|mark| ("vip", mark.clone()))).collect()
    }
}

fn elections(owners: &[Owner]) -> Vec<Election<'_>> {
    let several = owners.len() > 1;
    let mark = |owner: &Owner| owner.addresses.first().filter(|_| several).map(|address| bare(address));
    owners.iter().map(|owner| Election { owner, mark: mark(owner) }).collect()
}

/// An address without its prefix.
fn bare(address: &str) -> String {
    address.split('/').next().unwrap_or(address).to_owned()
}

fn write_build(writer: &mut Writer<'_>, snapshot: &Snapshot) -> fmt::Result {
    let labels = vec![
        ("version", snapshot.version.clone()),
        ("build", option_env!("VIPD_BUILD").unwrap_or("unknown").to_owned()),
        ("node", snapshot.node.clone()),
    ];
    writer.gauge("kube_vip_build_info", None, "What runs here; always 1", [(labels, 1.0)])
}

fn write_main_loop(writer: &mut Writer<'_>, main_loop: &MainLoop) -> fmt::Result {
    let delays = [("p99", main_loop.delay_p99_us), ("max", main_loop.delay_max_us)];
    writer.gauge(
        "vipd_scheduling_delay",
        Some(Unit::Seconds),
        "How late the thread of the election and the address was woken within the last minute",
        delays.map(|(which, delay)| (vec![("of", which.to_owned())], as_f64(delay) / 1e6)),
    )?;
    writer.gauge(
        "vipd_scheduling_delay_permitted",
        Some(Unit::Seconds),
        "How late it may be woken, by the timing of the election among peers",
        main_loop.delay_permitted_us.map(|delay| (Vec::new(), as_f64(delay) / 1e6)),
    )?;
    writer.gauge(
        "vipd_scheduling_late",
        None,
        "1 while more than one wake-up in a hundred is later than permitted",
        main_loop.delay_permitted_us.map(|_| (Vec::new(), flag(main_loop.late))),
    )?;
    writer.gauge(
        "vipd_scheduling_realtime",
        None,
        "1 if that thread has real-time priority",
        [(Vec::new(), flag(main_loop.realtime))],
    )
}

fn write_election(writer: &mut Writer<'_>, node: &String, elections: &[Election<'_>]) -> fmt::Result {
    let leads = |owner: &Owner, node: &str| flag(owner.leader.as_deref() == Some(node));
    writer.gauge(
        "kube_vip_is_leader",
        None,
        "1 if this node leads",
        elections.iter().map(|election| {
            let labels = [("node", node.clone()), ("lease_name", lease_name(election.owner))];
            (election.labels(labels), leads(election.owner, node))
        }),
    )?;
    writer.counter(
        "kube_vip_leader_election_transitions",
        None,
        "Times that the lead went from one node to another, as this node saw it",
        elections.iter().map(|election| {
            (election.labels([("lease_name", lease_name(election.owner))]), election.owner.transitions)
        }),
    )?;
    write_arrivals(writer, elections)?;
    let nodes = elections.iter().flat_map(|election| {
        let nodes = std::iter::once(node).chain(election.owner.peers.iter().map(|peer| &peer.id));
        nodes.map(move |node| (election.labels([("node", node.clone())]), leads(election.owner, node)))
    });
    writer.gauge("vipd_leader", None, "1 for the node that leads, as this node knows it", nodes)?;
    let terms =
        elections.iter().filter_map(|election| Some((election.labels([]), as_f64(election.owner.term?))));
    writer.gauge("vipd_term", None, "The term that this node leads in; absent while it does not", terms)?;
    let left = elections
        .iter()
        .map(|election| (election.labels([]), seconds(election.owner.lease_left_ms.unwrap_or(0))));
    writer.gauge("vipd_lease_left", Some(Unit::Seconds), "What is left of this node's own lease", left)
}

fn write_arrivals(writer: &mut Writer<'_>, elections: &[Election<'_>]) -> fmt::Result {
    // On a witness there is nothing to come.
    let seats = || elections.iter().filter(|election| !election.owner.is_witness());
    let counts = seats().flat_map(|election| {
        let counts = election.owner.arrivals.count.iter();
        counts.map(|(reason, count)| (election.labels([("reason", reason.clone())]), *count))
    });
    writer.counter("vipd_failovers", None, "Times that the virtual addresses came to this node", counts)?;
    let took = seats().map(|election| (election.labels([]), Spread::of(&election.owner.arrivals)));
    writer.histogram(
        "vipd_failover_duration",
        Some(Unit::Seconds),
        "From the last sign of the owner before until they were here and the network was told",
        took,
    )
}

/// What the election is called: by its Lease, as kube-vip has it, or by its kind.
fn lease_name(owner: &Owner) -> String {
    let lease = owner.lease.as_ref().map(|lease| lease.name.as_str());
    lease.map_or(owner.election.as_str(), |name| name.rsplit('/').next().unwrap_or(name)).to_owned()
}

fn write_address(writer: &mut Writer<'_>, elections: &[Election<'_>]) -> fmt::Result {
    let held = elections.iter().flat_map(|election| {
        let held = flag(election.owner.state == "active");
        election
            .owner
            .addresses
            .iter()
            .map(move |address| (election.labels([("address", bare(address))]), held))
    });
    writer.gauge("vipd_vip_held", None, "1 while this node has the virtual address", held)?;
    // On a witness there is no interface and nothing to be fenced, put back or in conflict.
    let seats = || elections.iter().filter(|election| !election.owner.is_witness());
    // What the whole host has is told once.
    let host = || seats().take(1).map(|election| election.owner);
    writer.gauge(
        "vipd_link_up",
        None,
        "1 while the interface of the virtual addresses is up, with a carrier",
        host().map(|owner| (vec![("interface", owner.interface.clone())], flag(owner.link_up))),
    )?;
    writer.gauge(
        "vipd_address_fenced",
        None,
        "1 while the kernel, too, stops answering for the virtual addresses when the lease ends",
        seats().map(|election| (election.labels([]), flag(election.owner.fenced))),
    )?;
    writer.gauge(
        "vipd_memory_locked",
        None,
        "1 if the memory of vipd stays in RAM",
        host().map(|owner| (Vec::new(), flag(owner.memory_locked))),
    )?;
    writer.counter(
        "vipd_address_repairs",
        None,
        "Times that a virtual address was put back after something else had removed it",
        seats().map(|election| (election.labels([]), election.owner.repairs)),
    )?;
    writer.counter(
        "vipd_address_conflicts",
        None,
        "Times that another host was heard using a virtual address that this node has",
        seats().map(|election| (election.labels([]), election.owner.conflicts)),
    )
}

fn write_tie_break(writer: &mut Writer<'_>, elections: &[Election<'_>]) -> fmt::Result {
    let with_one =
        || elections.iter().filter_map(|election| Some((election, election.owner.tie_break.as_ref()?)));
    writer.gauge(
        "vipd_tie_break_answers",
        None,
        "1 if what decides between two hosts answered when it was asked last",
        with_one().filter_map(|(election, tie_break)| Some((election.labels([]), flag(tie_break.answers?)))),
    )?;
    writer.gauge(
        "vipd_tie_break_votes",
        None,
        "1 while this node leads by the vote of the segment, the other host being silent",
        with_one().map(|(election, tie_break)| (election.labels([]), flag(tie_break.votes_for_this_node))),
    )
}

fn write_peers(writer: &mut Writer<'_>, elections: &[Election<'_>]) -> fmt::Result {
    let peers = || {
        elections.iter().flat_map(|election| election.owner.peers.iter().map(move |peer| (election, peer)))
    };
    let labels = |election: &Election<'_>, peer: &Peer| election.labels([("peer", peer.id.clone())]);
    writer.gauge(
        "vipd_peer_heard_age",
        Some(Unit::Seconds),
        "How long ago the peer was last heard; absent while it never was",
        peers().filter_map(|(election, peer)| Some((labels(election, peer), seconds(peer.heard_ms?)))),
    )?;
    writer.gauge(
        "vipd_peer_authenticated",
        None,
        "1 if the peer's messages are signed with a peer key",
        peers().map(|(election, peer)| (labels(election, peer), flag(peer.authenticated))),
    )
}

fn write_clients(writer: &mut Writer<'_>, elections: &[Election<'_>]) -> fmt::Result {
    let clients =
        || elections.iter().filter_map(|election| Some((election, election.owner.clients.as_ref()?)));
    let known = clients().flat_map(|(election, clients)| {
        [("this_node", clients.own), ("leader", clients.of_leader)]
            .map(|(whose, count)| (election.labels([("of", whose.to_owned())]), size(count)))
    });
    writer.gauge(
        "vipd_clients",
        None,
        "Connections to the virtual addresses that peers are told of, or were told of by the leader",
        known,
    )?;
    writer.gauge(
        "vipd_clients_beyond_limit",
        None,
        "Connections to the virtual addresses that no peer is told of, as they are too many",
        clients().map(|(election, clients)| (election.labels([]), size(clients.beyond_limit))),
    )?;
    writer.counter(
        "vipd_tickles",
        None,
        "Packets sent to clients of the owner before this node, so that idle ones notice the move",
        clients().map(|(election, clients)| (election.labels([]), clients.tickles)),
    )
}

fn write_frontends(writer: &mut Writer<'_>, frontends: &[Frontend]) -> fmt::Result {
    let frontends = || named(frontends).map(|(name, frontend)| (vec![("frontend", name)], frontend));
    let open = frontends().map(|(labels, frontend)| (labels, size(frontend.connections)));
    writer.gauge("vipd_frontend_open_connections", None, "Open connections of the load balancer", open)?;
    // What the kernel carries by itself isn't counted, and so not told: 0 would be a lie.
    let frontends = || frontends().filter(|(_, frontend)| !frontend.forwarded);
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
    writer.counter("vipd_frontend_refused", None, "Connections that no backend could take", refused)?;
    let rebalanced = frontends().map(|(labels, frontend)| (labels, frontend.rebalanced));
    let help = "Connections ended so that another backend gets its share";
    writer.counter("vipd_frontend_rebalanced", None, help, rebalanced)?;
    let aged = frontends().map(|(labels, frontend)| (labels, frontend.aged));
    let help = "Connections that were ended since they had lasted for long enough";
    writer.counter("vipd_frontend_aged", None, help, aged)?;
    let rejected = frontends().map(|(labels, frontend)| (labels, frontend.rejected));
    let help = "Connections reset because their client's host had as many as it may have";
    writer.counter("vipd_frontend_rejected", None, help, rejected)
}

fn write_backends(writer: &mut Writer<'_>, snapshot: &Snapshot) -> fmt::Result {
    let balanced = named(&snapshot.load_balancers).flat_map(|(name, frontend)| {
        frontend.backends.iter().map(move |backend| (name.clone(), backend, frontend.forwarded))
    });
    let checked = snapshot.health_check.iter().map(|backend| (HEALTH_CHECK.to_owned(), backend, false));
    let backends: Vec<(Labels, &Backend, bool)> = balanced
        .chain(checked)
        .map(|(frontend, backend, forwarded)| {
            (vec![("frontend", frontend), ("backend", backend.address.clone())], backend, forwarded)
        })
        .collect();
    let each = || backends.iter().map(|(labels, backend, _)| (labels.clone(), *backend));

    let states = each().flat_map(|(labels, backend)| {
        STATES.map(|state| {
            let labels = labels.iter().cloned().chain([("state", state.to_owned())]).collect();
            (labels, flag(backend.health == state))
        })
    });
    writer.gauge("vipd_backend_state", None, "1 for the state that the backend is in", states)?;
    let drained = each().map(|(labels, backend)| (labels, flag(backend.drained || backend.cordoned)));
    let help = "1 while the backend is taken out of use, by command or because its node is cordoned";
    writer.gauge("vipd_backend_drained", None, help, drained)?;
    let share = each().map(|(labels, backend)| (labels, f64::from(backend.share_percent) / 100.0));
    let help = "What the backend gets of what the policy would give it: less than 1 in its slow start";
    writer.gauge("vipd_backend_share", None, help, share)?;
    let open = each().map(|(labels, backend)| (labels, size(backend.connections)));
    writer.gauge("vipd_backend_open_connections", None, "Open connections to the backend", open)?;
    // See above, of what the kernel carries.
    let carried = backends.iter().filter(|(_, _, forwarded)| !forwarded);
    let each = || carried.clone().map(|(labels, backend, _)| (labels.clone(), *backend));
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

    fn histogram(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, Spread)>,
    ) -> fmt::Result {
        self.write(name, unit, help, samples.into_iter())
    }

    fn write<M: EncodeMetric + TypedMetric>(
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

/// A histogram that was counted elsewhere, in seconds.
#[derive(Debug)]
struct Spread {
    sum: f64,
    count: u64,
    /// Upper bounds, and how many lie within each and beyond the one before.
    buckets: Vec<(f64, u64)>,
}

impl Spread {
    fn of(arrivals: &Arrivals) -> Self {
        let within = arrivals.took.iter().map(|(bound, count)| (seconds(*bound), *count));
        let buckets: Vec<_> = within.chain([(f64::INFINITY, arrivals.took_longer)]).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        Self { sum: seconds(arrivals.sum_ms), count, buckets }
    }
}

impl EncodeMetric for Spread {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_histogram::<NoLabelSet>(self.sum, self.count, &self.buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for Spread {
    const TYPE: MetricType = MetricType::Histogram;
}

#[cfg(test)]
mod tests;
