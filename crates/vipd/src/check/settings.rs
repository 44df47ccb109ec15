//! Which of the kernel's settings are in the way? (sysctl)
//!
//! Only those that are. vipd announces and asks by frames of its own, so `arp_announce`, `arp_notify` and `arp_accept` of this host change
//! nothing; it binds addresses that aren't here yet by a flag, so it needs no `ip_nonlocal_bind`; and it puts IPv6 addresses up
//! without duplicate address detection, so it waits for no `accept_dad`.

use std::fs;
use std::io;
use std::net::IpAddr;

use super::examination::Situation;
use super::{Finding, about};
use crate::exit;

/// `arp_ignore` by which the kernel answers for no address.
const IGNORE_ALL: u32 = 8;

/// `rp_filter` by which a packet is dropped that comes in by another interface than its answer would leave by.
const STRICT: u32 = 1;

/// Another interface, and what makes it one that answers may leave by.
type Other = Option<(String, &'static str)>;

/// Looks at what the addresses' interface is subject to.
pub(super) async fn look(situation: &Situation<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Some(name) = &situation.link else { return findings };
    let ips = situation.virtual_ips();
    if let Some(ip) = ips.iter().find(|ip| ip.is_ipv4()) {
        findings.push(arp_ignore(name));
        let other = other_way(name, *ip).await;
        findings.push(arp_filter(name, other.as_ref()));
        findings.push(rp_filter(name, other.as_ref()));
    }
    if ips.iter().any(IpAddr::is_ipv6) {
        findings.push(ipv6(name));
    }
    findings
}

/// The larger of what is said for all interfaces and for this one, which is what counts for these settings.
fn effective(name: &str, key: &str) -> io::Result<u32> {
    let read = |scope: &str| -> io::Result<u32> {
        let text = fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{scope}/{key}"))?;
        text.trim().parse().map_err(|_| io::Error::other(format!("it is {}", text.trim())))
    };
    Ok(read("all")?.max(read(name)?))
}

/// One that can't be read.
fn unread(subject: &'static super::subjects::Subject, name: &str, key: &str, error: &io::Error) -> Finding {
    let setting = format!("net.ipv4.conf.{name}.{key}");
    Finding::unseen(subject, format!("{setting}: {error}"), format!("look at `sysctl {setting}`"))
}

fn arp_ignore(name: &str) -> Finding {
    match effective(name, "arp_ignore") {
        Ok(IGNORE_ALL) => Finding::bad(
            &about::ARP_IGNORE,
            exit::CONFIG,
            format!("{name} answers ARP for no address: arp_ignore is {IGNORE_ALL}"),
            format!(
                "`sysctl -w net.ipv4.conf.all.arp_ignore=0 net.ipv4.conf.{name}.arp_ignore=0`, and a file in /etc/sysctl.d that says so"
            ),
        ),
        Ok(value) => Finding::good(&about::ARP_IGNORE, format!("{name} answers ARP (arp_ignore is {value})")),
        Err(error) => unread(&about::ARP_IGNORE, name, "arp_ignore", &error),
    }
}

/// By which other interface the kernel might answer somebody who asks for the address: one of the same subnet, or that of the default route.
async fn other_way(name: &str, ip: IpAddr) -> io::Result<Other> {
    let towards = vip::linux::interfaces_towards(ip).await.map_err(io::Error::other)?;
    if let Some((other, _)) = towards.into_iter().find(|(other, _)| other != name) {
        return Ok(Some((other, "has the same subnet")));
    }
    let default = vip::linux::default_interface().await.map_err(io::Error::other)?;
    Ok(default.filter(|link| link.name != name).map(|link| (link.name, "has the default route")))
}

fn arp_filter(name: &str, other: Result<&Other, &io::Error>) -> Finding {
    match (effective(name, "arp_filter"), other) {
        (Err(error), _) => unread(&about::ARP_FILTER, name, "arp_filter", &error),
        (Ok(0), _) => {
            Finding::good(&about::ARP_FILTER, format!("{name} answers ARP whoever asks (arp_filter is 0)"))
        }
        (Ok(_), Err(error)) => Finding::unseen(&about::ARP_FILTER, error, "look at `ip route`"),
        (Ok(_), Ok(None)) => Finding::good(
            &about::ARP_FILTER,
            format!("arp_filter is set, and no other interface than {name} leads to who asks"),
        ),
        (Ok(_), Ok(Some((other, what)))) => Finding::doubtful(
            &about::ARP_FILTER,
            format!(
                "arp_filter is set for {name}, and {other} {what}: who is routed over that gets no answer"
            ),
            format!(
                "`sysctl -w net.ipv4.conf.all.arp_filter=0 net.ipv4.conf.{name}.arp_filter=0`, and a file in /etc/sysctl.d that says so"
            ),
        ),
    }
}

fn rp_filter(name: &str, other: Result<&Other, &io::Error>) -> Finding {
    match (effective(name, "rp_filter"), other) {
        (Err(error), _) => unread(&about::RP_FILTER, name, "rp_filter", &error),
        (Ok(STRICT), Err(error)) => Finding::unseen(&about::RP_FILTER, error, "look at `ip route`"),
        (Ok(STRICT), Ok(Some((other, what)))) => Finding::doubtful(
            &about::RP_FILTER,
            format!(
                "{name} filters strictly (rp_filter is 1), and {other} {what}: clients that are routed over that can't reach the address"
            ),
            format!(
                "`sysctl -w net.ipv4.conf.{name}.rp_filter=2`, and a file in /etc/sysctl.d that says so; or put the address on {other}"
            ),
        ),
        (Ok(STRICT), Ok(None)) => Finding::good(
            &about::RP_FILTER,
            format!("rp_filter is 1, and no other interface than {name} leads to clients"),
        ),
        (Ok(value), _) => Finding::good(
            &about::RP_FILTER,
            format!("{name} does not filter strictly (rp_filter is {value})"),
        ),
    }
}

fn ipv6(name: &str) -> Finding {
    let setting = format!("net.ipv6.conf.{name}.disable_ipv6");
    match fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6")) {
        Ok(text) if text.trim() == "0" => Finding::good(&about::IPV6, format!("{name} has IPv6")),
        Ok(_) => Finding::bad(
            &about::IPV6,
            exit::CONFIG,
            format!("IPv6 is disabled on {name} ({setting} is 1)"),
            format!("`sysctl -w {setting}=0`, and a file in /etc/sysctl.d that says so"),
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Finding::bad(
            &about::IPV6,
            exit::CONFIG,
            format!("the kernel has no IPv6 on {name}"),
            "boot without `ipv6.disable=1`; or give the virtual address by IPv4 alone",
        ),
        Err(error) => Finding::unseen(
            &about::IPV6,
            format!("{setting}: {error}"),
            format!("look at `sysctl {setting}`"),
        ),
    }
}
