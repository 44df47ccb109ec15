//! Is there a place for the addresses: an interface, with a link, in the right subnet, and without them?

use super::examination::Situation;
use super::{Finding, about};
use crate::config::Vip;
use crate::daemon::interface;
use crate::exit;

/// Which interface it is, and whether it is there and up. It is named only if it can be used.
pub(super) async fn link(vip: &Vip) -> (Option<String>, Vec<Finding>) {
    let name = match interface::find(&vip.interface).await {
        Ok(name) => name,
        Err(error) => {
            let text = format!("{error:#}");
            let finding = Finding::bad(&about::INTERFACE, exit::CONFIG, text, "write `interface: NAME`");
            return (None, vec![finding]);
        }
    };
    let there = Finding::good(&about::INTERFACE, format!("the interface {name} is there"));
    match vip::linux::interface(&name).await {
        Ok(link) if link.up => (
            Some(name.clone()),
            vec![Finding::good(&about::INTERFACE_UP, format!("the interface {name} is up"))],
        ),
        Ok(_) => {
            let finding = without_link(&name).await;
            (None, vec![there, finding])
        }
        Err(error) => {
            let all = vip::linux::interfaces().await.unwrap_or_default();
            let names = crate::listed(all.into_iter().map(|link| link.name));
            let help = format!("correct `interface`; this machine has {names}");
            (None, vec![Finding::bad(&about::INTERFACE, exit::CONFIG, error.to_string(), help)])
        }
    }
}

/// Whose turn it is: that of who may set it up, or of who plugs in a cable.
async fn without_link(name: &str) -> Finding {
    if vip::linux::is_enabled(name).await.unwrap_or(false) {
        let help = format!(
            "look at the cable, the switch port, or the bond's or bridge's own members: `ip link show {name}`"
        );
        return Finding::bad(
            &about::CARRIER,
            exit::CONFIG,
            format!("the interface {name} has no carrier"),
            help,
        );
    }
    let (text, help) = (format!("the interface {name} is down"), format!("`ip link set {name} up`"));
    Finding::bad(&about::INTERFACE_UP, exit::CONFIG, text, help)
}

/// Looks at the addresses of this host.
pub(super) async fn look(situation: &Situation<'_>) -> Vec<Finding> {
    let mut findings = foreign(situation).await;
    if situation.link.is_none() && !situation.addresses.is_empty() {
        let what = "the segment, the peers on it, and the kernel's settings and rules for the addresses: there is no interface that could be used";
        findings.push(Finding::unseen(&about::INTERFACE, what, "mend that, and check again"));
    }
    if let Some(name) = &situation.link {
        findings.extend(subnets(&situation.addresses, name).await);
        findings.extend(secondaries(&situation.addresses, name));
    }
    findings
}

/// An address that somebody else has put here isn't taken away from him: vipd does not start.
async fn foreign(situation: &Situation<'_>) -> Vec<Finding> {
    if situation.addresses.is_empty() {
        return Vec::new();
    }
    let found = match vip::linux::foreign(&situation.addresses).await {
        Ok(found) => found,
        Err(error) => return vec![Finding::unseen(&about::FOREIGN, error, "look at `ip address`")],
    };
    if found.is_empty() {
        let ips = crate::listed(situation.virtual_ips());
        return vec![Finding::good(&about::FOREIGN, format!("nobody else has put {ips} on this host"))];
    }
    let finding = |vip::linux::Foreign { address, interface }: &vip::linux::Foreign| {
        let help = if interface == "kube-ipvs0" {
            "a Service has it as its external address, and kube-proxy puts it on every host: give the Service another".to_owned()
        } else {
            format!(
                "`ip address delete {address} dev {interface}`, and take it out of the network's configuration; or choose a free address"
            )
        };
        let text = format!("{} is on {interface} already, and not by vipd ({address})", address.ip);
        Finding::bad(&about::FOREIGN, exit::CONFIG, text, help)
    };
    found.iter().map(finding).collect()
}

/// A virtual address outside the interface's subnets is reachable only through routes that nobody announces.
async fn subnets(addresses: &[vip::Address], name: &str) -> Vec<Finding> {
    let own = match vip::linux::interface_addresses(name).await {
        Ok(own) => own,
        Err(error) => {
            let what = format!("failed to list the addresses of {name}: {error}");
            return vec![Finding::unseen(&about::SUBNET, what, "look at `ip address`")];
        }
    };
    addresses
        .iter()
        .map(|address| {
            let inside = own.iter().any(|other| other.ip != address.ip && other.contains(address.ip));
            if inside {
                let text = format!("{} lies in a subnet of {name}", address.ip);
                return Finding::good(&about::SUBNET, text);
            }
            let subnets = crate::listed(&own);
            Finding::doubtful(
                &about::SUBNET,
                format!("{} lies outside the subnets of {name} ({subnets})", address.ip),
                "choose a free address of the hosts' subnet: others can't be reached without a route of your own",
            )
        })
        .collect()
}

/// An address with the subnet's own prefix can become the primary one of its subnet, and take the others along when it goes.
fn secondaries(addresses: &[vip::Address], name: &str) -> Option<Finding> {
    let shares = addresses.iter().any(|address| address.ip.is_ipv4() && address.prefix < 32);
    if !shares {
        return None;
    }
    match vip::linux::promotes_secondaries(name) {
        Ok(true) => Some(Finding::good(&about::SECONDARIES, format!("{name} promotes secondary addresses"))),
        Ok(false) => Some(Finding::doubtful(
            &about::SECONDARIES,
            format!(
                "{name} does not promote secondary addresses: releasing the virtual address may take the host's own along"
            ),
            format!(
                "`sysctl -w net.ipv4.conf.{name}.promote_secondaries=1`, or give the virtual address no prefix"
            ),
        )),
        Err(error) => Some(Finding::unseen(
            &about::SECONDARIES,
            format!("net.ipv4.conf.{name}.promote_secondaries: {error}"),
            format!("look at `sysctl net.ipv4.conf.{name}.promote_secondaries`"),
        )),
    }
}
