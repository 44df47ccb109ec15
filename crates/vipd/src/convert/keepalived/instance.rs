//! A `vrrp_instance`.

use std::net::IpAddr;

use super::tree::Statement;
use super::{Scripts, lost, required, wrong};
use crate::convert::report::{Fault, Kind, Report};
use crate::convert::setup::{Instance, Said, Setup, Virtual};
use crate::convert::time;

/// What an apiserver listens on, where the script doesn't say it.
const APISERVER_PORT: u16 = 6443;

/// Reads one into the setup.
pub(super) fn read(
    statement: &Statement,
    scripts: &Scripts,
    setup: &mut Setup,
    report: &mut Report,
) -> Result<(), Fault> {
    let mut instance = Instance {
        name: required(statement, "VI_1")?.to_owned(),
        at: statement.at.clone(),
        words: statement.words.clone(),
        interface: None,
        addresses: Vec::new(),
        master: false,
        priority: None,
        stays: None,
        delay: None,
    };
    for line in statement.inner() {
        election(line, &mut instance, report)?;
        match line.key() {
            "interface" => {
                let name = required(line, "ens3")?.to_owned();
                instance.interface = Some(Said::new(name, &line.at, &line.words));
            }
            "virtual_ipaddress" | "virtual_ipaddress_excluded" => {
                addresses(line, &mut instance, report)?;
            }
            "unicast_src_ip" | "mcast_src_ip" => local(line, setup, report)?,
            "unicast_peer" => peers(line, setup, report)?,
            "track_script" => tracked(line, scripts, setup, report),
            "track_interface" => {
                report.note(
                    Kind::Changed,
                    &line.at,
                    &line.words,
                    "the interface of the address is looked at anyway, others are not",
                );
                for inner in line.inner() {
                    let own = instance.interface.as_ref().is_some_and(|own| own.value == inner.key());
                    let told = if own {
                        "the interface of the address is looked at anyway"
                    } else {
                        "another interface is not looked at"
                    };
                    report.note(if own { Kind::Carried } else { Kind::Lost }, &inner.at, &inner.words, told);
                }
            }
            "authentication" => {
                let told = "VRRP's password crosses the network for all to read; make a key for `peerKeys` on every host: head -c 32 /dev/urandom | base64";
                report.note(Kind::Changed, &line.at, &line.words, told);
                for inner in line.inner() {
                    report.note(Kind::Lost, &inner.at, &inner.words, "see `authentication`");
                }
            }
            "state" | "priority" | "nopreempt" | "preempt" | "preempt_delay" | "advert_int" => {}
            key => lost::tell(line, lost::why(key, lost::INSTANCE), report),
        }
    }
    setup.instances.push(instance);
    Ok(())
}

/// Who is preferred, and how soon a host that is gone is replaced.
fn election(line: &Statement, instance: &mut Instance, report: &mut Report) -> Result<(), Fault> {
    match line.key() {
        "state" => {
            instance.master = line.value() == Some("MASTER");
            report.note(Kind::Lost, &line.at, &line.words, lost::why("state", lost::INSTANCE));
        }
        "priority" => {
            let text = required(line, "100")?;
            let priority = text.parse::<u8>().ok().filter(|priority| *priority > 0);
            let priority =
                priority.ok_or_else(|| wrong(&line.at, "priority", text, "a whole number from 1 to 255"))?;
            instance.priority = Some(Said::new(priority, &line.at, &line.words));
        }
        "nopreempt" => instance.stays = Some(Said::new((), &line.at, &line.words)),
        "preempt" => instance.stays = None,
        "preempt_delay" => {
            let text = required(line, "30")?;
            let delay = time::of_seconds(text)
                .ok_or_else(|| wrong(&line.at, "preempt_delay", text, "a number of seconds, such as 30"))?;
            instance.delay = Some(Said::new(delay, &line.at, &line.words));
        }
        "advert_int" => {
            let text = required(line, "1")?;
            let interval = time::of_seconds(text)
                .ok_or_else(|| wrong(&line.at, "advert_int", text, "a number of seconds, such as 1"))?;
            let told = format!(
                "three of these, {}, went by until a dead owner was replaced; with `timing: default`, 0.2 s do, by a majority's vote",
                time::text(interval.saturating_mul(3))
            );
            report.note(Kind::Changed, &line.at, &line.words, told);
        }
        _ => {}
    }
    Ok(())
}

fn addresses(block: &Statement, instance: &mut Instance, report: &mut Report) -> Result<(), Fault> {
    for line in block.inner() {
        let mut words = line.words.iter();
        // `add ADDRESS` is not keepalived's, but lists in one line are: each address begins anew.
        while let Some(text) = words.next() {
            let (ip, prefix) =
                text.split_once('/').map_or((text.as_str(), None), |(ip, prefix)| (ip, Some(prefix)));
            let right = "an address with or without a prefix length, such as 10.0.0.162/24";
            let ip: IpAddr = ip.parse().map_err(|_| wrong(&line.at, block.key(), text, right))?;
            let longest = if ip.is_ipv4() { 32 } else { 128 };
            let prefix =
                prefix.map_or(Ok(longest), str::parse::<u8>).ok().filter(|prefix| *prefix <= longest);
            let prefix = prefix.ok_or_else(|| wrong(&line.at, block.key(), text, right))?;
            let mut device = None;
            while let Some(next) = words.as_slice().first() {
                if next.starts_with(|c: char| c.is_ascii_digit()) || next.contains(':') {
                    break;
                }
                words.next();
                let value = takes_value(next).then(|| words.next()).flatten();
                match (next.as_str(), value) {
                    ("dev", Some(name)) => device = Some(name.clone()),
                    (option, value) => {
                        let told = match option {
                            "label" => "vipd's addresses have no label: look for them by `ip -br address`",
                            "brd" | "scope" => {
                                "the address has none of its own: the host's own address has the subnet's"
                            }
                            _ => "is no option of vipd's addresses",
                        };
                        let shown = [Some(option.to_owned()), value.cloned()];
                        report.note(
                            Kind::Lost,
                            &line.at,
                            &shown.into_iter().flatten().collect::<Vec<_>>(),
                            told,
                        );
                    }
                }
            }
            let address = Virtual { ip, prefix, device };
            instance.addresses.push(Said::new(address, &line.at, &line.words));
        }
    }
    if instance.addresses.len() > ADDRESSES_MAX {
        let message = format!("`{}` has more than {ADDRESSES_MAX} addresses", instance.name);
        return Err(Fault::new(&block.at, message, "is this the right file?"));
    }
    report.note(Kind::Carried, &block.at, &block.words, "each address is told below");
    Ok(())
}

/// More than vipd takes, and few enough to be told one by one.
const ADDRESSES_MAX: usize = 256;

fn takes_value(option: &str) -> bool {
    matches!(
        option,
        "dev" | "label" | "brd" | "scope" | "peer" | "preferred_lft" | "track_group" | "metric" | "proto"
    )
}

fn local(line: &Statement, setup: &mut Setup, report: &mut Report) -> Result<(), Fault> {
    let text = required(line, "10.0.0.163")?;
    let ip: IpAddr =
        text.parse().map_err(|_| wrong(&line.at, line.key(), text, "this host's own address"))?;
    match &setup.local {
        Some(other) if other.value != ip => {
            let told =
                format!("this host is at {} already ({}): peers meet at one address", other.value, other.at);
            report.note(Kind::Changed, &line.at, &line.words, told);
        }
        Some(_) | None => {
            report.note(Kind::Carried, &line.at, &line.words, "localPeer.address");
            setup.local = Some(Said::new(ip, &line.at, &line.words));
        }
    }
    Ok(())
}

fn peers(block: &Statement, setup: &mut Setup, report: &mut Report) -> Result<(), Fault> {
    report.note(Kind::Carried, &block.at, &block.words, "remotePeers");
    for line in block.inner() {
        let text = line.key();
        let ip: IpAddr = text.parse().map_err(|_| {
            Fault::new(
                &line.at,
                format!("`{text}` is not the address of a host"),
                "write an address such as 10.0.0.164",
            )
        })?;
        if line.words.len() > 1 {
            report.note(Kind::Lost, &line.at, &line.words[1..], "belongs to VRRP, which vipd doesn't speak");
        }
        report.note(Kind::Carried, &line.at, &line.words[..1], "remotePeers");
        if !setup.peers.iter().any(|other| other.value == ip) {
            setup.peers.push(Said::new(ip, &line.at, &line.words));
        }
    }
    Ok(())
}

/// Scripts that decide whether the host may have the address: vipd asks the apiservers itself.
fn tracked(block: &Statement, scripts: &Scripts, setup: &mut Setup, report: &mut Report) {
    let told = "a host that sees no live apiserver hands the address over: by the checks of `loadBalancers`, or by `healthCheck`";
    report.note(Kind::Changed, &block.at, &block.words, told);
    for line in block.inner() {
        match scripts.get(line.key()) {
            Some(script) => {
                let port = asked(&script.value).unwrap_or(APISERVER_PORT);
                report.note(
                    Kind::Changed,
                    &line.at,
                    &line.words,
                    format!("see `vrrp_script` at {}", script.at),
                );
                if setup.watched.is_none() {
                    setup.watched = Some(Said::new(port, &line.at, &line.words));
                }
            }
            None => {
                let told = "no `vrrp_script` of that name is in these files";
                report.note(Kind::Lost, &line.at, &line.words, told);
            }
        }
    }
}

/// The port of this host that a script asks, where its text says it.
fn asked(script: &str) -> Option<u16> {
    let hosts = ["https://localhost:", "https://127.0.0.1:", "https://[::1]:"];
    let rest = hosts.iter().find_map(|host| script.split_once(host))?.1;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    rest[..digits].parse().ok().filter(|port| *port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_that_of_this_hosts_own_apiserver() {
        assert_eq!(asked("/usr/bin/curl -k https://localhost:7443/healthz"), Some(7443));
        assert_eq!(asked("curl https://127.0.0.1:6443/"), Some(6443));
        assert_eq!(asked("/etc/keepalived/check_apiserver.sh"), None);
        assert_eq!(asked("curl https://localhost:99999/"), None);
    }
}
