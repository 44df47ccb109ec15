//! The virtual addresses of kube-vip's settings: literal ones and names, and their prefixes.

use std::net::IpAddr;

use super::Lookups;
use super::settings::{Settings, Value};
use super::table::Key;
use crate::config::value::is_subdomain;

/// Which addresses of a name count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    First,
    Ipv4,
    Ipv6,
    Dual,
}

/// What is wrong, and what would be right.
pub(super) struct Wrong {
    /// Which setting it is about.
    pub(super) key: Key,
    pub(super) message: String,
    pub(super) help: &'static str,
}

impl Wrong {
    fn new(key: Key, message: String, help: &'static str) -> Self {
        Self { key, message, help }
    }
}

/// The setting that the addresses are taken from: `address`, or its deprecated twin.
pub(super) fn source(settings: &Settings) -> Option<(Key, &Value)> {
    [Key::Address, Key::VipAddress]
        .into_iter()
        .find_map(|key| settings.value(key).map(|value| (key, value)))
        .filter(|(_, value)| items(&value.text).next().is_some())
}

/// The names among the addresses.
pub(super) fn names(settings: &Settings) -> Vec<String> {
    let text = source(settings).map_or("", |(_, value)| value.text.as_str());
    items(text).filter(|item| is_name(item)).map(str::to_owned).collect()
}

/// Whether a prefix has to be looked up at the interface.
pub(super) fn wants_subnets(settings: &Settings) -> bool {
    settings.text(Key::Subnet).is_some_and(|text| items(text).any(|item| item == "auto"))
}

/// Those of a name's addresses that count, in the order in which the name server gave them.
pub(super) fn chosen(settings: &Settings, found: &[IpAddr]) -> Vec<IpAddr> {
    let first = |wanted: fn(&IpAddr) -> bool| found.iter().copied().find(wanted);
    match mode(settings).unwrap_or(Mode::First) {
        Mode::First => first(|_| true).into_iter().collect(),
        Mode::Ipv4 => first(IpAddr::is_ipv4).into_iter().collect(),
        Mode::Ipv6 => first(IpAddr::is_ipv6).into_iter().collect(),
        Mode::Dual => first(IpAddr::is_ipv4).into_iter().chain(first(IpAddr::is_ipv6)).collect(),
    }
}

/// The addresses in the form of the file's `vips`, and what is wrong with the settings about them.
pub(super) fn vips(settings: &Settings, lookups: &Lookups) -> (Vec<String>, Vec<Wrong>) {
    let mut wrong = Vec::new();
    if let Err(error) = mode(settings) {
        wrong.push(error);
    }
    let Some((key, value)) = source(settings) else { return (Vec::new(), wrong) };
    let mut vips = Vec::new();
    let mut ips = Vec::new();
    for item in items(&value.text) {
        if is_name(item) {
            let found = chosen(settings, lookups.names.get(item).map_or(&[][..], Vec::as_slice));
            if found.is_empty() {
                let message = format!("`{item}` has no address of the kind that `dns_mode` asks for");
                wrong.push(Wrong::new(key, message, "mend the name's records, or write an address"));
            }
            ips.extend(found);
        } else if let Ok(ip) = item.parse::<IpAddr>() {
            ips.push(ip);
        } else {
            // With a prefix of its own, or wrong: whichever it is, the keys of the file say it.
            vips.push(item.to_owned());
        }
    }
    let prefixes = Prefixes::parse(settings.text(Key::Subnet).unwrap_or_default(), &ips);
    match prefixes {
        Err(message) => {
            let help = "write 24, or 32,128 where there are addresses of both families, or auto";
            wrong.push(Wrong::new(Key::Subnet, message, help));
        }
        Ok(prefixes) => {
            for ip in ips {
                match prefixes.of(ip, lookups) {
                    Some(prefix) => vips.push(format!("{ip}/{prefix}")),
                    None => wrong.push(Wrong::new(
                        Key::Subnet,
                        format!("`auto`: {ip} is in no subnet of the interface"),
                        "choose a free address of the hosts' subnet, name the interface, or write the prefix length",
                    )),
                }
            }
        }
    }
    (vips, wrong)
}

/// A prefix length, or the one of the subnet that the address is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Prefix {
    Length(u8),
    Subnet,
}

/// The prefixes of both families.
struct Prefixes {
    ipv4: Prefix,
    ipv6: Prefix,
}

impl Prefixes {
    /// One value is for the family that it can be meant for: the only one there is, else IPv4 up to 32. Two are for
    /// IPv4 and IPv6.
    fn parse(text: &str, ips: &[IpAddr]) -> Result<Self, String> {
        let mut values = Vec::new();
        for item in items(text) {
            values.push(match (item, item.trim_start_matches('/').parse::<u8>()) {
                ("auto", _) => Prefix::Subnet,
                (_, Ok(length @ 0..=128)) => Prefix::Length(length),
                (_, Ok(_) | Err(_)) => return Err(format!("`{item}` is not a prefix length")),
            });
        }
        let (ipv4, ipv6) = (Prefix::Length(32), Prefix::Length(128));
        let only_ipv6 = !ips.is_empty() && ips.iter().all(IpAddr::is_ipv6);
        let prefixes = match values[..] {
            [] => Self { ipv4, ipv6 },
            [Prefix::Subnet] => Self { ipv4: Prefix::Subnet, ipv6: Prefix::Subnet },
            [Prefix::Length(length)] if only_ipv6 || (length > 32 && ips.iter().any(IpAddr::is_ipv6)) => {
                Self { ipv4, ipv6: Prefix::Length(length) }
            }
            [length] => Self { ipv4: length, ipv6 },
            [first, second] => Self { ipv4: first, ipv6: second },
            [_, _, ..] => return Err(format!("`{text}` has more than two prefix lengths")),
        };
        match prefixes.ipv4 {
            Prefix::Length(length) if length > 32 => Err(format!("{length} is no prefix length of IPv4")),
            Prefix::Length(_) | Prefix::Subnet => Ok(prefixes),
        }
    }

    fn of(&self, ip: IpAddr, lookups: &Lookups) -> Option<u8> {
        match if ip.is_ipv4() { self.ipv4 } else { self.ipv6 } {
            Prefix::Length(length) => Some(length),
            Prefix::Subnet => {
                lookups.subnets.iter().find(|own| own.ip != ip && own.contains(ip)).map(|own| own.prefix)
            }
        }
    }
}

fn mode(settings: &Settings) -> Result<Mode, Wrong> {
    match settings.text(Key::DnsMode).unwrap_or("first") {
        "first" => Ok(Mode::First),
        "ipv4" => Ok(Mode::Ipv4),
        "ipv6" => Ok(Mode::Ipv6),
        "dual" => Ok(Mode::Dual),
        other => Err(Wrong::new(
            Key::DnsMode,
            format!("`{other}` is not a way to choose among the addresses of a name"),
            "write first, ipv4, ipv6 or dual",
        )),
    }
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// Whether a text can only be meant as a DNS name. One of digits and dots is a mistyped address.
fn is_name(text: &str) -> bool {
    let lower = text.to_lowercase();
    let name = lower.strip_suffix('.').unwrap_or(&lower);
    let last = name.rsplit('.').next().unwrap_or_default();
    is_subdomain(name) && last.contains(|c: char| c.is_ascii_alphabetic()) && !text.contains(':')
}
