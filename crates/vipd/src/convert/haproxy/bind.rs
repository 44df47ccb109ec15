//! `bind`: where clients connect.

use std::net::IpAddr;

use super::lost;
use super::settings::wrong;
use super::words::Line;
use crate::convert::report::{At, Fault, Kind, Report};
use crate::convert::setup::host_and_port;

/// One address and port.
#[derive(Clone, Debug)]
pub(super) struct Bind {
    /// The address; `None` is every one.
    pub(super) ip: Option<IpAddr>,
    /// The port.
    pub(super) port: u16,
    /// Whether clients must begin with the PROXY protocol.
    pub(super) accepts_proxy: bool,
    /// Where it is said.
    pub(super) at: At,
    /// In which words.
    pub(super) words: Vec<String>,
}

/// Reads a line; none where vipd can't listen like that, which is noted.
///
/// # Errors
/// It has no address, or not a port.
pub(super) fn read(line: &Line, report: &mut Report) -> Result<Vec<Bind>, Fault> {
    let right = "an address and a port, such as *:8443, 10.0.0.162:8443 or [fd00::162]:8443";
    if line.words.len() < 2 {
        return Err(wrong(line, 1, right));
    }
    let Some(accepts_proxy) = parameters(line, report) else { return Ok(Vec::new()) };
    let mut binds = Vec::new();
    for text in line.words[1].split(',') {
        if text.starts_with('/')
            || ["unix@", "abns@", "fd@", "quic", "rhttp@", "sockpair@", "uxst@"]
                .iter()
                .any(|form| text.starts_with(form))
        {
            report.note(
                Kind::Refused,
                &line.at,
                &line.words,
                "vipd's load balancers listen on TCP ports alone",
            );
            continue;
        }
        let bare =
            ["ipv4@", "ipv6@", "tcp@", "tcp4@", "tcp6@"].iter().find_map(|form| text.strip_prefix(form));
        let (host, port) = host_and_port(bare.unwrap_or(text)).ok_or_else(|| wrong(line, 1, right))?;
        if port.contains('-') {
            report.note(
                Kind::Refused,
                &line.at,
                &line.words,
                "a load balancer has one port: write one for each",
            );
            continue;
        }
        let port = port.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(|| wrong(line, 1, right))?;
        let ip = match host {
            "" | "*" => None,
            "localhost" => Some(IpAddr::from([127, 0, 0, 1])),
            // haproxy looks names up when it starts.
            _ => Some(host.parse::<IpAddr>().map_err(|_| wrong(line, 1, right))?),
        };
        let ip = ip.filter(|ip| !ip.is_unspecified());
        binds.push(Bind { ip, port, accepts_proxy, at: line.at.clone(), words: line.words.clone() });
    }
    Ok(binds)
}

/// What follows the address: whether clients must begin with the PROXY protocol; `None` where TLS ends there, which is noted.
fn parameters(line: &Line, report: &mut Report) -> Option<bool> {
    let mut accepts_proxy = false;
    let mut place = 2;
    while let Some(word) = line.words.get(place) {
        place += 1;
        match word.as_str() {
            "ssl" | "crt" | "crt-list" => {
                let told = "TLS ends here in haproxy, and in the apiservers with vipd: their certificates must cover the address that clients use";
                report.note(Kind::Refused, &line.at, &line.words, told);
                return None;
            }
            "accept-proxy" => {
                accepts_proxy = true;
                let told =
                    "acceptProxyProtocol, from everybody: write the addresses of the proxies in its place";
                report.note(Kind::Changed, &line.at, std::slice::from_ref(word), told);
            }
            other => {
                let known = lost::BIND.iter().find(|(name, _)| *name == other);
                let values = known.map_or(0, |(_, values)| *values);
                let end = (place + values).min(line.words.len());
                let told = if known.is_some() {
                    "vipd has no such screw"
                } else {
                    "is not known to this command, so nothing was made of it"
                };
                report.note(Kind::Lost, &line.at, &line.words[place - 1..end], told);
                place = end;
            }
        }
    }
    Some(accepts_proxy)
}
