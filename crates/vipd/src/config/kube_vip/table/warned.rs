//! What changes nothing, and why.

use super::Kind::{Bool, List, Number, Seconds, Text};
use super::Setting;

const NO: &[&str] = &["false"];
const YES: &[&str] = &["true"];

const SERVICES: &str = "it belongs to Services of type LoadBalancer, which vipd does not serve";
const BGP: &str = "it belongs to BGP, which vipd does not speak";
const TABLE: &str = "it belongs to the routing-table mode, which vipd does not have";
const EGRESS: &str = "it belongs to egress of Services, which vipd does not do";
const DHCP: &str = "it belongs to addresses by DHCP, which vipd does not ask for";
const OTHER_MODES: &str =
    "kube-vip reads it in the BGP and routing-table modes only; vipd asks this node's apiserver by itself";
const PACKET: &str = "kube-vip has removed Equinix Metal in 0.9, and vipd never had it";
const RAFT: &str = "it belongs to the election by Raft that kube-vip has removed in 0.4; `vipd start -c FILE` has an election among listed peers";
const OLD_BALANCER: &str = "it belongs to the balancer of kube-vip 0.1 to 0.3; vipd finds the apiservers by the API, and listens on the virtual address";

pub(super) static SETTINGS: &[Setting] = &[
    // What vipd does without being told, or in its own way.
    Setting::warned(
        &["allowInterfaceNotUp"],
        &["vip_allow_interface_not_up"],
        Bool,
        YES,
        "vipd always starts, and waits for the link",
    ),
    // The generator of kube-vip's manifests writes this name twice, once with the value of the next one.
    Setting::warned(
        &["loseLeadership"],
        &["vip_loseleadership"],
        Bool,
        &["true", "30"],
        "vipd always lets go of an address whose link is down",
    ),
    Setting::warned(
        &["loseLeadershiptTimeoutSeconds", "loseLeadershipTimeoutSeconds"],
        &["vip_loseleadership_timeout_seconds"],
        Seconds,
        &[],
        "vipd lets go of an address at once when its link is down",
    ),
    Setting::warned(
        &["autodetectcp"],
        &["cp_detect"],
        Bool,
        NO,
        "vipd reaches this node's own apiserver at 127.0.0.1, or where `kubernetes_addr` says",
    ),
    Setting::warned(&[], &["vip_skipdad"], Bool, YES, "vipd never waits for duplicate address detection"),
    Setting::warned(
        &[],
        &["vip_arpRate"],
        Number,
        &[],
        "vipd announces an address at once when it moves, seven times in 5 seconds, then every 30 seconds",
    ),
    Setting::warned(
        &[],
        &["vip_startleader"],
        Bool,
        NO,
        "an election by Lease needs nobody to begin; vipd's election among peers has `startAsLeader`",
    ),
    Setting::warned(
        &["lbForwardingMethod"],
        &["lb_fwdmethod"],
        Text,
        &["local"],
        "vipd's balancer is a proxy, not IPVS: it needs no forwarding",
    ),
    Setting::warned(&[], &["iptables_backend"], Text, &[], "vipd writes no iptables rules"),
    Setting::warned(
        &["loInterfaceGlobalScope"],
        &["vip_interfaceloglobal"],
        Bool,
        NO,
        "vipd puts no address on the loopback interface",
    ),
    Setting::warned(&["debounceTime"], &["debounce_time"], Text, &["0s"], SERVICES),
    // Services.
    Setting::warned(&["serviceInterface"], &["vip_servicesinterface"], Text, &[], SERVICES),
    Setting::warned(&["servicesElection"], &["svc_election"], Bool, NO, SERVICES),
    Setting::warned(&[], &["svc_namespace"], Text, &[], SERVICES),
    Setting::warned(&["servicesLeaseName"], &["svc_leasename"], Text, &["plndr-svcs-lock"], SERVICES),
    Setting::warned(&["lbClassOnly"], &["lb_class_only"], Bool, NO, SERVICES),
    Setting::warned(&["lbClassName"], &["lb_class_name"], Text, &["kube-vip.io/kube-vip-class"], SERVICES),
    Setting::warned(&["lbClassNameLegacyHandling"], &["lb_class_legacy_handling"], Bool, YES, SERVICES),
    Setting::warned(&["disableServiceUpdates"], &["disable_service_updates"], Bool, NO, SERVICES),
    Setting::warned(&["enableEndpoints"], &["enable_endpoints"], Bool, NO, SERVICES),
    Setting::warned(&[], &["enable_endpointslices"], Bool, NO, SERVICES),
    Setting::warned(&["perServiceElectionOnDemand"], &["per_service_election_on_demand"], Bool, NO, SERVICES),
    Setting::warned(&[], &["vip_configmap"], Text, &[], SERVICES),
    Setting::warned(&[], &["egress_podcidr"], Text, &[], EGRESS),
    Setting::warned(&[], &["egress_servicecidr"], Text, &[], EGRESS),
    Setting::warned(&["egressWithNftables"], &["egress_withnftables"], Bool, YES, EGRESS),
    Setting::warned(
        &[],
        &["egress_clean", "EGRESS_CLEAN"],
        Bool,
        NO,
        "vipd makes no rules for egress, and removes none that kube-vip has left",
    ),
    Setting::warned(&["dhcpMode"], &["dhcp_mode"], Text, &["ipv4"], DHCP),
    Setting::warned(&["dhcpBackoffAttempts"], &["dhcp_backoff_attempts"], Number, &["3"], DHCP),
    // BGP.
    Setting::warned(&["bgpAttachIPToInterface"], &["bgp_attach_ip_to_interface"], Bool, NO, BGP),
    Setting::warned(&["bgpRouterID"], &["bgp_routerid"], Text, &[], BGP),
    Setting::warned(&[], &["bgp_routerinterface"], Text, &[], BGP),
    Setting::warned(&["sourceIF"], &["bgp_sourceif", "bgp_source_if"], Text, &[], BGP),
    Setting::warned(&["sourceIP"], &["bgp_sourceip", "bgp_source_ip"], Text, &[], BGP),
    Setting::warned(&["localAS"], &["bgp_as"], Number, &["65000"], BGP),
    Setting::warned(&["bgpHoldTimer"], &["bgp_hold_time"], Seconds, &["30"], BGP),
    Setting::warned(&["bgpKeepAliveInterval"], &["bgp_keepalive_interval"], Seconds, &["10"], BGP),
    Setting::warned(&["peerAddress"], &["bgp_peeraddress"], Text, &[], BGP),
    Setting::warned(&["peerAS"], &["bgp_peeras"], Number, &["65000"], BGP),
    Setting::warned(&["peerPass"], &["bgp_peerpass"], Text, &[], BGP),
    Setting::warned(&["multihop"], &["bgp_multihop"], Bool, NO, BGP),
    Setting::warned(&["bgppeers"], &["bgp_peers"], List, &[], BGP),
    Setting::warned(&["annotations"], &["annotation"], Text, &[], BGP),
    Setting::warned(&["zebraUrl"], &["zebra_url"], Text, &["unix:/var/run/frr/zserv.api"], BGP),
    Setting::warned(&["zebraVersion"], &["zebra_version"], Number, &["6"], BGP),
    Setting::warned(&["zebraSoftwareName"], &["zebra_software_name"], Text, &["frr8.3"], BGP),
    Setting::warned(&[], &["mpbgp_nexthop"], Text, &[], BGP),
    Setting::warned(&[], &["mpbgp_ipv4"], Text, &[], BGP),
    Setting::warned(&[], &["mpbgp_ipv6"], Text, &[], BGP),
    Setting::warned(
        &["controlPlaneHealthCheckAddress"],
        &["control_plane_health_check_address"],
        Text,
        &[],
        OTHER_MODES,
    ),
    Setting::warned(
        &["controlPlaneHealthCheckPeriodSeconds"],
        &["control_plane_health_check_period_seconds"],
        Seconds,
        &["5"],
        OTHER_MODES,
    ),
    Setting::warned(
        &["controlPlaneHealthCheckTimeoutSeconds"],
        &["control_plane_health_check_timeout_seconds"],
        Seconds,
        &["3"],
        OTHER_MODES,
    ),
    Setting::warned(
        &["controlPlaneHealthCheckFailureThreshold"],
        &["control_plane_health_check_failure_threshold"],
        Number,
        &["3"],
        OTHER_MODES,
    ),
    Setting::warned(
        &["controlPlaneHealthCheckCAPath"],
        &["control_plane_health_check_ca_path"],
        Text,
        &[],
        OTHER_MODES,
    ),
    // The routing table.
    Setting::warned(&["tableID"], &["vip_routingtableid"], Number, &["198"], TABLE),
    Setting::warned(&["tableType"], &["vip_routingtabletype"], Number, &["1"], TABLE),
    Setting::warned(&["routingProtocol"], &["vip_routingprotocol"], Number, &["248"], TABLE),
    Setting::warned(&["cleanRoutingTable"], &["vip_cleanroutingtable"], Bool, NO, TABLE),
    // What kube-vip itself no longer reads.
    Setting::warned(&[], &["provider_config"], Text, &[], PACKET),
    Setting::warned(&[], &["vip_packet"], Bool, NO, PACKET),
    Setting::warned(&[], &["vip_packetproject"], Text, &[], PACKET),
    Setting::warned(&[], &["vip_packetprojectid"], Text, &[], PACKET),
    Setting::warned(&[], &["vip_addpeerstolb"], Bool, NO, RAFT),
    Setting::warned(&[], &["vip_localpeer"], Text, &[], RAFT),
    Setting::warned(&[], &["vip_peers"], List, &[], RAFT),
    Setting::warned(&[], &["vip_remotepeers"], List, &[], RAFT),
    Setting::warned(&[], &["lb_backendport"], Number, &[], OLD_BALANCER),
    Setting::warned(&[], &["lb_backends"], List, &[], OLD_BALANCER),
    Setting::warned(&[], &["lb_bindtovip"], Bool, YES, OLD_BALANCER),
    Setting::warned(&[], &["lb_name"], Text, &[], OLD_BALANCER),
    Setting::warned(&[], &["lb_type"], Text, &["tcp"], OLD_BALANCER),
];
