//! One look at vipd as an exposition in the OpenMetrics text format.
//!
//! Everything is computed from one [`Snapshot`] when it is asked for; nothing is counted here. Labels take their values from
//! the configuration (nodes, addresses, load balancers, backends) or from a closed set, so the number of series is fixed
//! when the process starts. What each means stands in `meaning`, of which docs/reference/metrics.md is made.

pub(crate) mod meaning;
mod writer;

use std::fmt;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::{Registry, Unit};

use super::process::{Process, as_f64};
use crate::status::{Arrivals, Backend, Frontend, MainLoop, Owner, Peer, Snapshot};
use writer::{Labels, Spread, Writer};

/// The states of a backend, as the status names them.
const STATES: [&str; 4] = ["unknown", "ready", "draining", "dead"];

/// How a connection ends that no backend had taken.
const NO_BACKEND: &str = "no-backend";

/// What `frontend` is for the backend of `healthCheck`, which is there only where there are no load balancers.
const HEALTH_CHECK: &str = "healthCheck";

/// Writes the exposition.
///
/// # Errors
/// A value that can't be written, of which there is none.
pub(crate) fn exposition(snapshot: Snapshot) -> Result<String, fmt::Error> {
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
    writer.gauge("kube_vip_build_info", None, [(labels, 1.0)])
}

fn write_main_loop(writer: &mut Writer<'_>, main_loop: &MainLoop) -> fmt::Result {
    let delays = [("p99", main_loop.delay_p99_us), ("max", main_loop.delay_max_us)];
    writer.gauge(
        "vipd_scheduling_delay",
        Some(Unit::Seconds),
        delays.map(|(which, delay)| (vec![("of", which.to_owned())], as_f64(delay) / 1e6)),
    )?;
    writer.gauge(
        "vipd_scheduling_delay_permitted",
        Some(Unit::Seconds),
        main_loop.delay_permitted_us.map(|delay| (Vec::new(), as_f64(delay) / 1e6)),
    )?;
    writer.gauge(
        "vipd_scheduling_late",
        None,
        main_loop.delay_permitted_us.map(|_| (Vec::new(), flag(main_loop.late))),
    )?;
    writer.gauge("vipd_scheduling_realtime", None, [(Vec::new(), flag(main_loop.realtime))])
}

fn write_election(writer: &mut Writer<'_>, node: &String, elections: &[Election<'_>]) -> fmt::Result {
    let leads = |owner: &Owner, node: &str| flag(owner.leader.as_deref() == Some(node));
    writer.gauge(
        "kube_vip_is_leader",
        None,
        elections.iter().map(|election| {
            let labels = [("node", node.clone()), ("lease_name", lease_name(election.owner))];
            (election.labels(labels), leads(election.owner, node))
        }),
    )?;
    writer.counter(
        "kube_vip_leader_election_transitions",
        None,
        elections.iter().map(|election| {
            (election.labels([("lease_name", lease_name(election.owner))]), election.owner.transitions)
        }),
    )?;
    write_arrivals(writer, elections)?;
    let nodes = elections.iter().flat_map(|election| {
        let nodes = std::iter::once(node).chain(election.owner.peers.iter().map(|peer| &peer.id));
        nodes.map(move |node| (election.labels([("node", node.clone())]), leads(election.owner, node)))
    });
    writer.gauge("vipd_leader", None, nodes)?;
    let terms =
        elections.iter().filter_map(|election| Some((election.labels([]), as_f64(election.owner.term?))));
    writer.gauge("vipd_term", None, terms)?;
    let left = elections
        .iter()
        .map(|election| (election.labels([]), seconds(election.owner.lease_left_ms.unwrap_or(0))));
    writer.gauge("vipd_lease_left", Some(Unit::Seconds), left)
}

fn write_arrivals(writer: &mut Writer<'_>, elections: &[Election<'_>]) -> fmt::Result {
    // On a witness there is nothing to come.
    let seats = || elections.iter().filter(|election| !election.owner.is_witness());
    let counts = seats().flat_map(|election| {
        let counts = election.owner.arrivals.count.iter();
        counts.map(|(reason, count)| (election.labels([("reason", reason.clone())]), *count))
    });
    writer.counter("vipd_failovers", None, counts)?;
    let took = seats().map(|election| (election.labels([]), took(&election.owner.arrivals)));
    writer.histogram("vipd_failover_duration", Some(Unit::Seconds), took)
}

fn took(arrivals: &Arrivals) -> Spread {
    let within = arrivals.took.iter().map(|(bound, count)| (*bound, *count));
    Spread::of(Duration::from_millis(arrivals.sum_ms), within, arrivals.took_longer)
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
    writer.gauge("vipd_vip_held", None, held)?;
    // On a witness there is no interface and nothing to be fenced, put back or in conflict.
    let seats = || elections.iter().filter(|election| !election.owner.is_witness());
    // What the whole host has is told once.
    let host = || seats().take(1).map(|election| election.owner);
    writer.gauge(
        "vipd_link_up",
        None,
        host().map(|owner| (vec![("interface", owner.interface.clone())], flag(owner.link_up))),
    )?;
    writer.gauge(
        "vipd_address_fenced",
        None,
        seats().map(|election| (election.labels([]), flag(election.owner.fenced))),
    )?;
    writer.gauge("vipd_memory_locked", None, host().map(|owner| (Vec::new(), flag(owner.memory_locked))))?;
    writer.counter(
        "vipd_address_repairs",
        None,
        seats().map(|election| (election.labels([]), election.owner.repairs)),
    )?;
    writer.counter(
        "vipd_announcements",
        None,
        seats().map(|election| (election.labels([]), election.owner.announcements)),
    )?;
    writer.counter(
        "vipd_address_conflicts",
        None,
        seats().map(|election| (election.labels([]), election.owner.conflicts)),
    )
}

fn write_tie_break(writer: &mut Writer<'_>, elections: &[Election<'_>]) -> fmt::Result {
    let with_one =
        || elections.iter().filter_map(|election| Some((election, election.owner.tie_break.as_ref()?)));
    writer.gauge(
        "vipd_tie_break_answers",
        None,
        with_one().filter_map(|(election, tie_break)| Some((election.labels([]), flag(tie_break.answers?)))),
    )?;
    writer.gauge(
        "vipd_tie_break_votes",
        None,
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
        peers().filter_map(|(election, peer)| Some((labels(election, peer), seconds(peer.heard_ms?)))),
    )?;
    writer.gauge(
        "vipd_peer_authenticated",
        None,
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
    writer.gauge("vipd_clients", None, known)?;
    writer.gauge(
        "vipd_clients_beyond_limit",
        None,
        clients().map(|(election, clients)| (election.labels([]), size(clients.beyond_limit))),
    )?;
    writer.counter(
        "vipd_tickles",
        None,
        clients().map(|(election, clients)| (election.labels([]), clients.tickles)),
    )
}

fn write_frontends(writer: &mut Writer<'_>, frontends: &[Frontend]) -> fmt::Result {
    let frontends = || named(frontends).map(|(name, frontend)| (vec![("frontend", name)], frontend));
    let open = frontends().map(|(labels, frontend)| (labels, size(frontend.connections)));
    writer.gauge("vipd_frontend_open_connections", None, open)?;
    // What the kernel carries by itself isn't counted, and so not told: 0 would be a lie.
    let frontends = || frontends().filter(|(_, frontend)| !frontend.forwarded);
    let limit = frontends().map(|(labels, frontend)| (labels, size(frontend.max_connections)));
    writer.gauge("vipd_frontend_connections_limit", None, limit)?;
    let accepted = frontends().map(|(labels, frontend)| (labels, frontend.accepted));
    writer.counter("vipd_frontend_accepted", None, accepted)?;
    let refused = frontends().map(|(labels, frontend)| (labels, frontend.refused));
    writer.counter("vipd_frontend_refused", None, refused)?;
    let rebalanced = frontends().map(|(labels, frontend)| (labels, frontend.rebalanced));
    writer.counter("vipd_frontend_rebalanced", None, rebalanced)?;
    let aged = frontends().map(|(labels, frontend)| (labels, frontend.aged));
    writer.counter("vipd_frontend_aged", None, aged)?;
    let rejected = frontends().map(|(labels, frontend)| (labels, frontend.rejected));
    writer.counter("vipd_frontend_rejected", None, rejected)
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
        STATES.map(|state| (with(&labels, "state", state), flag(backend.health == state)))
    });
    writer.gauge("vipd_backend_state", None, states)?;
    let drained = each().map(|(labels, backend)| (labels, flag(backend.drained || backend.cordoned)));
    writer.gauge("vipd_backend_drained", None, drained)?;
    let share = each().map(|(labels, backend)| (labels, f64::from(backend.share_percent) / 100.0));
    writer.gauge("vipd_backend_share", None, share)?;
    let open = each().map(|(labels, backend)| (labels, size(backend.connections)));
    writer.gauge("vipd_backend_open_connections", None, open)?;
    write_checks(writer, each)?;
    // See above, of what the kernel carries.
    let carried = backends.iter().filter(|(_, _, forwarded)| !forwarded);
    let each = || carried.clone().map(|(labels, backend, _)| (labels.clone(), *backend));
    let total = each().map(|(labels, backend)| (labels, backend.total));
    writer.counter("vipd_backend_connections", None, total)?;
    let failures = each().map(|(labels, backend)| (labels, backend.connect_failures));
    writer.counter("vipd_backend_connect_failures", None, failures)?;
    writer.counter(
        "vipd_backend_retries",
        None,
        each().map(|(labels, backend)| (labels, backend.retries)),
    )?;
    let ended = each().flat_map(|(labels, backend)| {
        let of_backend = backend.tally.ends.iter().filter(|(word, _)| *word != NO_BACKEND);
        of_backend.map(move |(word, count)| (with(&labels, "end", word), *count))
    });
    writer.counter("vipd_backend_connections_ended", None, ended)?;
    let bytes = each().flat_map(|(labels, backend)| {
        let both = [("to_backend", backend.bytes_to_backend), ("to_client", backend.bytes_to_client)];
        both.map(|(direction, bytes)| (with(&labels, "direction", direction), bytes))
    });
    writer.counter("vipd_backend", Some(Unit::Bytes), bytes)
}

fn write_checks<'a, B: Iterator<Item = (Labels, &'a Backend)>>(
    writer: &mut Writer<'_>,
    each: impl Fn() -> B,
) -> fmt::Result {
    let answers = each().flat_map(|(labels, backend)| {
        let answers = backend.tally.checks.answers.iter();
        answers.map(move |(answer, count)| (with(&labels, "answer", answer), *count))
    });
    writer.counter("vipd_backend_checks", None, answers)?;
    let took = each().map(|(labels, backend)| {
        let lb::ChecksStatus { took, sum, .. } = &backend.tally.checks;
        let (within, beyond) = took.split_at(lb::CHECK_BOUNDS_MS.len());
        let within = lb::CHECK_BOUNDS_MS.into_iter().zip(within.iter().copied());
        (labels, Spread::of(*sum, within, beyond.iter().sum()))
    });
    writer.histogram("vipd_backend_check_duration", Some(Unit::Seconds), took)
}

/// The labels and one more.
fn with(labels: &Labels, name: &'static str, value: &str) -> Labels {
    labels.iter().cloned().chain([(name, value.to_owned())]).collect()
}

fn write_process(writer: &mut Writer<'_>, process: &Process) -> fmt::Result {
    let alone = |value: Option<f64>| value.map(|value| (Vec::new(), value));
    let start = alone(process.start_seconds);
    writer.gauge("process_start_time", Some(Unit::Seconds), start)?;
    let cpu = process.cpu_seconds.map(|seconds| (Vec::new(), seconds));
    writer.counter("process_cpu", Some(Unit::Seconds), cpu)?;
    let resident = alone(process.resident_bytes.map(as_f64));
    writer.gauge("process_resident_memory", Some(Unit::Bytes), resident)?;
    let open = alone(process.open_files.map(as_f64));
    writer.gauge("process_open_fds", None, open)?;
    let most = alone(process.max_files.map(as_f64));
    writer.gauge("process_max_fds", None, most)
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

#[cfg(test)]
mod tests;
