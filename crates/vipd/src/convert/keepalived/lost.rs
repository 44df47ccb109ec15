//! What keepalived can say and vipd has nothing for: data, not code.

use super::tree::Statement;
use crate::convert::report::{Kind, Report};

/// What is said of a word that is in no list.
pub(super) const UNKNOWN: &str = "is not known to this command, so nothing was made of it";

/// Words, and what is said of them. A `*` at the end stands for any end.
type Table = &'static [(&'static [&'static str], &'static str)];

const TOLD: &str = "vipd runs no script and sends no mail: its log has a line for each move, and its metrics tell of them (docs/metrics.md)";
const ANNOUNCED: &str =
    "vipd announces each move by itself, again and again for a while (`gratuitousARP: true`)";
const PROTOCOL: &str = "belongs to VRRP, which vipd doesn't speak";
const PROCESS: &str = "how the process runs is said by its service or Pod (manifests/)";
const ROUTES: &str =
    "vipd moves addresses alone: leave routes and rules to the system's own network configuration";
const CHECKED: &str = "vipd looks at its own interface and at the apiservers, and at nothing else";
const VIRTUAL_SERVER: &str = "belongs to IPVS: write a load balancer, with `mode: kernel` if the kernel is to carry it (docs/configuration.md)";

/// In `global_defs`.
pub(super) const GLOBAL: Table = &[
    (&["router_id", "vrrp_router_id"], "a host's name is its `localPeer.id`"),
    (&["notification_email*", "smtp_*", "email_*", "alert_*", "default_alerts"], TOLD),
    (&["notify*", "lvs_notify_fifo*", "vrrp_notify_fifo*", "startup_script*", "shutdown_script*"], TOLD),
    (
        &["script_user", "enable_script_security", "max_auto_priority", "vrrp_priority", "process_names"],
        PROCESS,
    ),
    (
        &["*_process_name", "*_priority", "*_no_swap", "*_rt_priority", "*_cpu_affinity", "*_rlimit_*"],
        PROCESS,
    ),
    (&["vrrp_garp_*", "vrrp_gna_*", "garp_*", "gna_*"], ANNOUNCED),
    (
        &[
            "vrrp_version",
            "vrrp_mcast_group*",
            "vrrp_strict",
            "vrrp_skip_check_adv_addr",
            "vrrp_iptables",
            "vrrp_ipsets",
        ],
        PROTOCOL,
    ),
    (&["vrrp_*", "use_symlink_paths", "nftables*", "iptables*", "nft_*"], PROTOCOL),
    (&["lvs_*", "checker_*", "ipvs_*"], VIRTUAL_SERVER),
    (
        &["enable_snmp*", "snmp_*", "enable_traps", "enable_dbus", "dbus_*"],
        "vipd's figures are at `metrics: \":2112\"` and in `vipd status`",
    ),
    (
        &[
            "net_namespace",
            "namespace_with_ipsets",
            "instance",
            "use_pid_dir",
            "linkbeat_use_polling",
            "child_wait_time",
        ],
        PROCESS,
    ),
    (
        &["dynamic_interfaces", "disable_local_igmp", "reload_*", "config_save_dir", "data_use_instance"],
        PROCESS,
    ),
];

/// In a `vrrp_instance` or `vrrp_sync_group`.
pub(super) const INSTANCE: Table = &[
    (&["notify", "notify_*", "smtp_alert", "smtp_*"], TOLD),
    (&["garp_*", "gna_*", "lower_prio_*", "higher_prio_*"], ANNOUNCED),
    (&["virtual_router_id"], "hosts know one another by name and address: `localPeer`, `remotePeers`"),
    (
        &["state"],
        "the hosts elect one; `startAsLeader` is for the first host of a cluster that is being made, and not for a change like this",
    ),
    (
        &["version", "strict_mode", "native_ipv6", "skip_check_adv_addr", "unicast_ttl", "check_unicast_src"],
        PROTOCOL,
    ),
    (
        &[
            "mcast_dst_ip",
            "unicast_fault_no_peer",
            "min_ttl",
            "max_ttl",
            "old_unicast_checksum",
            "down_timer_adverts",
        ],
        PROTOCOL,
    ),
    (
        &["use_vmac*", "vmac_*", "xmit_base", "use_ipvlan", "promote_secondaries"],
        "the address has the hardware address of its host, and each move is announced",
    ),
    (&["accept", "no_accept", "no_virtual_ipaddress"], PROTOCOL),
    (&["virtual_routes", "virtual_rules"], ROUTES),
    (
        &["dont_track_primary", "track_primary", "linkbeat_use_polling"],
        "a host whose own interface is down never has the address",
    ),
    (&["track_process", "track_file", "track_bfd", "track_group", "track_src_ip", "init_fail"], CHECKED),
    (&["lvs_sync_daemon_interface", "lvs_sync_daemon*"], VIRTUAL_SERVER),
    (
        &[
            "debug",
            "kernel_rx_buf_size",
            "global_tracking",
            "sync_group_tracking_weight",
            "thread_timer_expired",
        ],
        PROCESS,
    ),
];

/// At the top of the file.
pub(super) const TOP: Table = &[
    (&["static_ipaddress", "static_routes", "static_rules", "virtual_routes"], ROUTES),
    (
        &[
            "vrrp_track_process",
            "track_process",
            "vrrp_track_file",
            "track_file",
            "track_group",
            "bfd_instance",
        ],
        CHECKED,
    ),
    (&["virtual_server_group", "SSL"], VIRTUAL_SERVER),
    (
        &[
            "linkbeat_interfaces",
            "garp_group",
            "interface_up_down_delays",
            "net_namespace",
            "net_namespace_ipvs",
        ],
        PROCESS,
    ),
    (&["use_pid_dir", "instance", "config_id", "namespace_with_ipsets", "random_seed"], PROCESS),
];

/// What is said of a word.
pub(super) fn why(key: &str, table: Table) -> &'static str {
    let is_meant = |pattern: &&&str| match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(end), None) => key.ends_with(end),
        (None, Some(beginning)) => key.starts_with(beginning),
        (Some(middle), Some(_)) => key.contains(middle.trim_end_matches('*')),
        (None, None) => key == **pattern,
    };
    let found = table.iter().find(|(patterns, _)| patterns.iter().any(|pattern| is_meant(&pattern)));
    found.map_or(UNKNOWN, |(_, why)| why)
}

/// Says it of a statement and of all that stands in it.
pub(super) fn tell(statement: &Statement, why: &str, report: &mut Report) {
    report.note(Kind::Lost, &statement.at, &statement.words, why);
    for inner in statement.inner() {
        tell(inner, why, report);
    }
}

/// Says of each statement of a block what the table says of it.
pub(super) fn each(block: &Statement, table: Table, report: &mut Report) {
    for inner in block.inner() {
        tell(inner, why(inner.key(), table), report);
    }
    report.note(Kind::Lost, &block.at, &block.words, "each line of it is told below");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_by_their_beginning_or_end() {
        assert_eq!(why("notify_master", INSTANCE), TOLD);
        assert_eq!(why("vrrp_garp_master_repeat", GLOBAL), ANNOUNCED);
        assert_eq!(why("vrrp_no_swap", GLOBAL), PROCESS);
        assert_eq!(why("notified", INSTANCE), UNKNOWN);
        assert_eq!(why("", INSTANCE), UNKNOWN);
    }
}
