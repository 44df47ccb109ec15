//! What asks for something that vipd lacks.

use super::Kind::{Bool, List, Text};
use super::Setting;

/// Values that switch a boolean off; the empty text is never looked at.
const NO: &[&str] = &["false"];

pub(super) static SETTINGS: &[Setting] = &[
    // Other ways to announce an address.
    Setting::refused(&["bgp"], &["bgp_enable"], Bool, NO, "BGP"),
    Setting::refused(&["zebra"], &["zebra_enable"], Bool, NO, "BGP through Zebra"),
    Setting::refused(&["table"], &["vip_routingtable"], Bool, NO, "the routing-table mode"),
    Setting::refused(&["wireguard"], &["vip_wireguard"], Bool, NO, "the WireGuard mode"),
    Setting::refused(&["ddns"], &["vip_ddns"], Bool, NO, "an address by DHCP and its name by dynamic DNS"),
    // Services of type LoadBalancer.
    Setting::refused(&["services"], &["svc_enable"], Bool, NO, "Services of type LoadBalancer"),
    Setting::refused(
        &["onlyAllowTrafficServicePorts"],
        &["enable_service_security"],
        Bool,
        NO,
        "a packet filter for Services",
    ),
    Setting::refused(
        &["mirrorDestInterface"],
        &["mirror_dest_interface"],
        Text,
        &[],
        "a mirror of the traffic",
    ),
    Setting::refused(&[], &["egress_enableinternalsnat"], Bool, NO, "egress of Services"),
    Setting::refused(&[], &["enable_upnp"], Bool, NO, "UPnP"),
    // Another election.
    Setting::refused(&["leaderElectionType"], &[], Text, &["kubernetes"], "an election by etcd"),
    Setting::refused(&["etcdCACert"], &[], Text, &[], "an election by etcd"),
    Setting::refused(&["etcdCert"], &[], Text, &[], "an election by etcd"),
    Setting::refused(&["etcdKey"], &[], Text, &[], "an election by etcd"),
    Setting::refused(&["etcdEndpoints"], &[], List, &[], "an election by etcd"),
    // Another form of configuration.
    Setting::refused(
        &["config-file"],
        &["config_file"],
        Text,
        &[],
        "kube-vip's configuration file (vipd's own is read by `vipd start -c FILE`)",
    ),
];
