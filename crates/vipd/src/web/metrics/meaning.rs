//! What each metric means: the words of the exposition and of docs/reference/metrics.md, which is made of them.

/// Each metric by the name of its samples, which end in its unit, and in `_total` where they count; a histogram's without what its samples add.
pub(crate) const MEANINGS: &[(&str, &str)] = &[
    (
        "kube_vip_build_info",
        "What runs here; always 1. build is what the build was told by VIPD_BUILD, else unknown",
    ),
    (
        "vipd_scheduling_delay_seconds",
        "How late the thread of the election and the address was woken within the last minute: max is the \
         latest, p99 all but one in a hundred. Timers have a grain of 1 ms",
    ),
    (
        "vipd_scheduling_delay_permitted_seconds",
        "How late it may be woken, by the timing of an election among peers: see docs/configuration.md. No \
         sample where there is none",
    ),
    ("vipd_scheduling_late", "1 while more than one wake-up in a hundred is later than permitted"),
    ("vipd_scheduling_realtime", "1 if that thread has real-time priority"),
    ("kube_vip_is_leader", "1 if this node leads"),
    (
        "kube_vip_leader_election_transitions_total",
        "Times that the lead went from one node to another, as this node saw it. The first leader known is \
         none",
    ),
    ("vipd_leader", "For this node and each peer: 1 if it leads, as this node knows it"),
    ("vipd_term", "The term that this node leads in; no sample while it does not"),
    ("vipd_lease_left_seconds", "What is left of this node's own lease; 0 while it does not lead"),
    (
        "vipd_failovers_total",
        "Times that the virtual addresses came to this node since vipd started. reason says what became of \
         the owner before: stepped_down by command, stopped, unfit to lead (its link, backends or apiserver), \
         gave_way to a preferred node, released the Lease (why, a Lease doesn't tell), fell silent, was \
         restarted; lapsed: this node's own lease ended, and it got it back; first: nobody is known to have \
         had them; unknown",
    ),
    (
        "vipd_failover_duration_seconds",
        "How long it took until the virtual addresses were here and the network was told, from the last sign \
         of the owner before. An upper bound of what clients felt: a silent owner may have served for up to a \
         heartbeat after its last sign. The first owner has none",
    ),
    (
        "vipd_vip_held",
        "1 while this node has the virtual address: it is on the interface, and the kernel has confirmed it",
    ),
    ("vipd_link_up", "1 while the interface of the virtual addresses is up, with a carrier"),
    (
        "vipd_address_fenced",
        "1 while the kernel, too, stops answering for the virtual addresses when the lease ends: see \
         docs/fence.md",
    ),
    (
        "vipd_memory_locked",
        "1 if the memory of vipd stays in RAM, so that a host that is short of it does not stall the \
         election. It takes the capability IPC_LOCK, or no limit of locked memory",
    ),
    (
        "vipd_address_repairs_total",
        "Times that a virtual address was put back after something else had removed it",
    ),
    (
        "vipd_announcements_total",
        "Frames sent to tell the segment where the virtual addresses are: gratuitous ARP and unsolicited \
         neighbour advertisements",
    ),
    (
        "vipd_address_conflicts_total",
        "Times that another host was heard using a virtual address that this node has",
    ),
    (
        "vipd_tie_break_answers",
        "1 if what decides between two hosts (tieBreak) answered when it was asked last, every 5 s at least; \
         no sample without one",
    ),
    (
        "vipd_tie_break_votes",
        "1 while this node leads by the vote of the segment, the other host being silent: see \
         docs/two-nodes.md",
    ),
    ("vipd_peer_heard_age_seconds", "How long ago the peer was last heard; no sample while it never was"),
    ("vipd_peer_authenticated", "1 if the peer's messages are signed with a peer key"),
    (
        "vipd_clients",
        "Connections to the virtual addresses; this_node: those here, which the peers are told of; leader: \
         those of the leader, as it told this node. No sample without peers: see docs/clients.md",
    ),
    (
        "vipd_clients_beyond_limit",
        "Connections to the virtual addresses here that no peer is told of, as they are more than 4096",
    ),
    (
        "vipd_tickles_total",
        "Packets sent to clients of the owner before this node, so that idle ones notice the move",
    ),
    ("vipd_frontend_open_connections", "Open connections of the load balancer"),
    ("vipd_frontend_connections_limit", "The most it holds; further clients wait"),
    ("vipd_frontend_accepted_total", "Connections accepted"),
    ("vipd_frontend_refused_total", "Connections that no backend could take"),
    (
        "vipd_frontend_rebalanced_total",
        "Silent connections that rebalance ended so that another backend gets its share",
    ),
    ("vipd_frontend_aged_total", "Connections that maxConnectionAge ended"),
    (
        "vipd_frontend_rejected_total",
        "Connections reset because their client's host had as many as maxConnectionsPerSource permits, or \
         because one of acceptProxyProtocol sent no header",
    ),
    ("vipd_backend_state", "1 for the state that the backend is in, 0 for the others"),
    (
        "vipd_backend_drained",
        "1 while vipd backend drain, or a cordon of its node, keeps new connections from the backend",
    ),
    (
        "vipd_backend_share",
        "What the backend gets of what the policy would give it: less than 1 in its slow start \
         (docs/configuration.md)",
    ),
    ("vipd_backend_open_connections", "Open connections to the backend"),
    (
        "vipd_backend_checks_total",
        "Health checks by what the backend answered: ready, not_ready, nothing in time, refused: nobody \
         listens, not_asked: vipd could not ask, for a reason of its own. A connection that is held for its \
         own sake is no check while it stands",
    ),
    (
        "vipd_backend_check_duration_seconds",
        "How long the checks took that the backend answered: over a connection that is held, or a new one \
         with its TLS handshake",
    ),
    ("vipd_backend_connections_total", "Connections made to the backend"),
    ("vipd_backend_connect_failures_total", "Connects that failed or took too long"),
    ("vipd_backend_retries_total", "Connections that went on to another backend before the client noticed"),
    (
        "vipd_backend_connections_ended_total",
        "Connections that the backend had taken, by how they ended, in the words of the access log \
         (docs/configuration.md): finished in good order, client and backend: that side broke, and so the \
         other was reset; the rest by vipd",
    ),
    ("vipd_backend_bytes_total", "Bytes carried; direction is to_backend or to_client"),
    ("process_start_time_seconds", "When vipd started, in seconds since 1970"),
    ("process_cpu_seconds_total", "Time that vipd had a processor"),
    ("process_resident_memory_bytes", "Memory of vipd that is in RAM"),
    ("process_open_fds", "Open file descriptors"),
    ("process_max_fds", "The most file descriptors that vipd may open"),
];

/// What it means.
///
/// # Panics
/// In tests, if nobody has said so.
pub(super) fn of(name: &str) -> &'static str {
    let meaning = MEANINGS.iter().find(|(known, _)| *known == name).map(|(_, meaning)| *meaning);
    debug_assert!(meaning.is_some(), "{name} has no meaning");
    meaning.unwrap_or("A metric of vipd")
}
