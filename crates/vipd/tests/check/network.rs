//! What is wrong with the interface, its addresses, the kernel's settings and rules.

use super::bench::Bench;

/// What isn't looked at where there is no interface to look over.
const UNSEEN: (&str, &str) = ("interface", "warning");

#[test]
fn an_interface_that_is_not_there() {
    let Some(bench) = Bench::new("interface") else { return };
    let findings = bench.check(&bench.config().replace("interface: eth0", "interface: ens3"));
    findings.are(&[("interface", "error"), UNSEEN]);
    findings.tell("interface", "ens3", "this machine has");
    findings.tell("interface", "not looked at: the segment, the peers", "check again");
}

#[test]
fn an_interface_that_is_down_and_one_without_a_carrier() {
    let Some(bench) = Bench::new("down") else { return };
    bench.there.ip("link set eth0 down");
    let findings = bench.check(&bench.config());
    findings.are(&[("carrier", "error"), UNSEEN]);
    findings.tell("carrier", "eth0 has no carrier", "cable");

    bench.here.ip("link set eth0 down");
    let findings = bench.check(&bench.config());
    findings.are(&[("interface-up", "error"), UNSEEN]);
    findings.tell("interface-up", "eth0 is down", "`ip link set eth0 up`");
}

#[test]
fn an_address_of_another_subnet() {
    let Some(bench) = Bench::new("subnet") else { return };
    let findings = bench.check(&bench.config().replace("10.0.0.9", "10.0.7.9"));
    findings.are(&[("subnet", "warning")]);
    findings.tell("subnet", "10.0.7.9 lies outside the subnets of eth0 (10.0.0.1/24", "hosts' subnet");
}

#[test]
fn an_address_that_somebody_else_has_put_here() {
    let Some(bench) = Bench::new("foreign") else { return };
    bench.here.ip("address add 10.0.0.9/24 dev lo");
    let findings = bench.check(&bench.config());
    findings.are_but_for(&[("address-foreign", "error")], &[]);
    findings.tell("address-foreign", "10.0.0.9 is on lo already", "`ip address delete 10.0.0.9/24 dev lo`");
}

#[test]
fn an_address_that_another_host_has() {
    let Some(bench) = Bench::new("in-use") else { return };
    bench.there.ip("address add 10.0.0.9/32 dev eth0");
    let findings = bench.check(&bench.config());
    findings.are(&[("address-in-use", "warning")]);
    findings.tell("address-in-use", "10.0.0.9 is in use: ", "choose a free address");
}

#[test]
fn secondary_addresses_that_would_go_with_the_first() {
    let Some(bench) = Bench::new("secondaries") else { return };
    let config = bench.config().replace("10.0.0.9", "10.0.0.9/24");
    bench.set("net/ipv4/conf/all/promote_secondaries", "0");
    bench.set("net/ipv4/conf/eth0/promote_secondaries", "1");
    bench.check(&config).are(&[]);
    bench.set("net/ipv4/conf/eth0/promote_secondaries", "0");
    let findings = bench.check(&config);
    findings.are(&[("promote-secondaries", "warning")]);
    findings.tell("promote-secondaries", "does not promote", "net.ipv4.conf.eth0.promote_secondaries=1");
}

#[test]
fn a_kernel_that_answers_arp_for_nothing() {
    let Some(bench) = Bench::new("arp-ignore") else { return };
    for (scope, value) in [("eth0", "1"), ("all", "8")] {
        bench.set(&format!("net/ipv4/conf/{scope}/arp_ignore"), value);
        let findings = bench.check(&bench.config());
        if value == "1" {
            findings.are(&[]);
            continue;
        }
        findings.are(&[("arp-ignore", "error")]);
        findings.tell("arp-ignore", "arp_ignore is 8", "net.ipv4.conf.all.arp_ignore=0");
    }
}

#[test]
fn arp_that_is_filtered_beside_another_interface_of_the_subnet() {
    let Some(bench) = Bench::new("arp-filter") else { return };
    bench.set("net/ipv4/conf/eth0/arp_filter", "1");
    bench.check(&bench.config()).are(&[]);
    bench.second_interface("10.0.0.77/24");
    let findings = bench.check(&bench.config());
    findings.are(&[("arp-filter", "warning")]);
    findings.tell("arp-filter", "eth1 has the same subnet", "arp_filter=0");
}

#[test]
fn a_strict_filter_beside_the_default_route() {
    let Some(bench) = Bench::new("rp-filter") else { return };
    bench.set("net/ipv4/conf/eth0/rp_filter", "1");
    bench.check(&bench.config()).are(&[]);
    bench.second_interface("172.16.0.1/24");
    bench.here.ip("route add default via 172.16.0.2");
    let findings = bench.check(&bench.config());
    findings.are(&[("rp-filter", "warning")]);
    findings.tell("rp-filter", "eth1 has the default route", "net.ipv4.conf.eth0.rp_filter=2");
    // Loosely filtered, such packets come in.
    bench.set("net/ipv4/conf/eth0/rp_filter", "2");
    bench.check(&bench.config()).are(&[]);
}

#[test]
fn ipv6_that_is_disabled() {
    let Some(bench) = Bench::new("ipv6") else { return };
    let config = bench.config().replace("vip: 10.0.0.9", "vips: [10.0.0.9, \"fd00::9\"]");
    bench.here.ip("address add fd00::1/64 dev eth0 nodad");
    bench.check(&config).are(&[]);
    bench.set("net/ipv6/conf/eth0/disable_ipv6", "1");
    let findings = bench.check(&config);
    // With IPv6 went the host's own address.
    findings.are(&[("ipv6", "error"), ("subnet", "warning")]);
    findings.tell("ipv6", "net.ipv6.conf.eth0.disable_ipv6 is 1", "disable_ipv6=0");
}

#[test]
fn a_kernel_that_forwards_nothing() {
    let Some(bench) = Bench::new("forwarding") else { return };
    let config = bench.config().replace("check: {type: none}", "check: {type: none}, mode: kernel");
    let findings = bench.check(&config);
    findings.are(&[("forwarding", "error")]);
    findings.tell("forwarding", "net.ipv4.ip_forward is 0", "`sysctl -w net.ipv4.ip_forward=1`");
    bench.set("net/ipv4/ip_forward", "1");
    bench.check(&config).are(&[]);

    bench.rules("table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; oifname \"docker0\" accept; }\n}");
    // Where it leaves isn't looked at, so the rule may be the one.
    bench.check(&config).are(&[]);
    bench.rules("flush ruleset\ntable ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }\n}");
    let findings = bench.check(&config);
    findings.are(&[("forward-firewall", "warning")]);
    findings.tell("forward-firewall", "`ip filter FORWARD` drops", "ip daddr 10.0.0.2 tcp dport 6443 accept");
}

#[test]
fn rules_that_the_kernel_refuses() {
    let Some(bench) = Bench::new("kernel-rules") else { return };
    bench.set("net/ipv4/ip_forward", "1");
    let config = bench.balancer("port: 8443, check: {type: none}, mode: kernel");
    bench.check(&config).are(&[]);
    let powerless = ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"];
    let findings = bench.check_by(&powerless, &config, &[]);
    findings.are(&[("kernel-rules", "error"), ("forward-firewall", "warning")]);
    findings.tell("kernel-rules", "the kernel can't lead port 8443", "NET_ADMIN");
    findings.tell("forward-firewall", "not looked at: ", "nft list ruleset");
}

#[test]
fn a_firewall_that_keeps_clients_or_peers_out() {
    let Some(bench) = Bench::new("firewall") else { return };
    let rules = |policy: &str, rules: &str| {
        format!(
            "flush ruleset\ntable inet filter {{ chain input {{ type filter hook input priority 0; policy {policy}; {rules}\n }}\n}}"
        )
    };
    let usual = "ct state established,related accept; iifname lo accept; meta l4proto icmp accept;";
    bench.rules(&rules("drop", &format!("{usual} tcp dport 8443 accept; udp dport 10000 accept")));
    bench.check(&bench.config()).are(&[]);

    bench.rules(&rules("drop", &format!("{usual} tcp dport 8443 accept")));
    let findings = bench.check(&bench.config());
    findings.are(&[("peer-firewall", "warning")]);
    findings.tell(
        "peer-firewall",
        "`inet filter input` drops what the peer b sends first",
        "ip saddr 10.0.0.2 udp dport 10000 accept",
    );
    findings.tell("peer-firewall", "what the peer c sends first", "ip saddr 10.0.0.3 udp dport 10000 accept");

    bench.rules(&rules("accept", "tcp dport 8443 reject"));
    let findings = bench.check(&bench.config());
    findings.are(&[("input-firewall", "warning")]);
    findings.tell(
        "input-firewall",
        "to TCP port 8443 of 10.0.0.9",
        "nft insert rule inet filter input tcp dport 8443 accept",
    );
}
