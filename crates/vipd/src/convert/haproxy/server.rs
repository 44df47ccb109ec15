//! `server`: who answers, and how it is judged.

use super::lost;
use super::settings::wrong;
use super::words::Line;
use crate::convert::report::{At, Fault, Kind, Report};
use crate::convert::setup::host_and_port;
use crate::convert::time;

/// A number without a unit counts milliseconds.
const BARE: u64 = 1_000;

/// One server.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) name: String,
    pub(super) host: String,
    /// Its port; `None` is the one that the client came to.
    pub(super) port: Option<u16>,
    pub(super) options: Options,
    pub(super) at: At,
    pub(super) words: Vec<String>,
}

/// What is said of a server, by its own line or for all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) check: bool,
    pub(super) check_tls: bool,
    /// The connection itself is made by TLS.
    pub(super) tls: bool,
    pub(super) unused: bool,
    pub(super) interval: Option<u64>,
    pub(super) rise: Option<u32>,
    pub(super) fall: Option<u32>,
    pub(super) slow_start: Option<u64>,
    pub(super) proxy: Option<&'static str>,
}

/// Reads a `server` line.
///
/// # Errors
/// It has no name, address or value where it needs one.
pub(super) fn read(line: &Line, common: &Options, report: &mut Report) -> Result<Option<Server>, Fault> {
    let right = "an address or a DNS name with a port, such as 10.0.0.163:6443";
    if line.words.len() < 3 {
        return Err(wrong(line, line.words.len(), right));
    }
    server(line, 2, common, report)
}

/// Reads a `server-template PREFIX COUNT NAME:PORT` line: one backend whose addresses are followed.
///
/// # Errors
/// As for [`read`].
pub(super) fn template(line: &Line, common: &Options, report: &mut Report) -> Result<Option<Server>, Fault> {
    if line.words.len() < 4 {
        return Err(wrong(
            line,
            line.words.len(),
            "a prefix, a number and a name with a port, such as `srv 3 masters.example:6443`",
        ));
    }
    report.note(
        Kind::Changed,
        &line.at,
        &line.words,
        "one backend by name: all addresses of the name are followed, however many there are",
    );
    server(line, 3, common, report)
}

fn server(line: &Line, place: usize, common: &Options, report: &mut Report) -> Result<Option<Server>, Fault> {
    let right = "an address or a DNS name with a port, such as 10.0.0.163:6443";
    let text = line.word(place);
    let mut own = common.clone();
    options(line, place + 1, &mut own, report)?;
    let bare = ["ipv4@", "ipv6@", "tcp@", "tcp4@", "tcp6@"].iter().find_map(|form| text.strip_prefix(form));
    let text = bare.unwrap_or(text);
    let without_port = text.parse::<std::net::Ipv6Addr>().is_ok() && !text.starts_with('[');
    let (host, port) = match host_and_port(text) {
        // An IPv6 address without brackets: the last group is the port, as haproxy has it.
        Some((host, port)) if !without_port || host.parse::<std::net::IpAddr>().is_ok() => (host, Some(port)),
        Some(_) | None => (text.trim_matches(['[', ']']), None),
    };
    if text.starts_with('/') || text.contains('@') || port.is_some_and(|port| port.starts_with(['+', '-'])) {
        report.note(
            Kind::Refused,
            &line.at,
            &line.words,
            "a backend has an address or a DNS name, and a port of its own",
        );
        return Ok(None);
    }
    let port = match port.filter(|port| !port.is_empty()) {
        Some(port) => Some(
            port.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(|| wrong(line, place, right))?,
        ),
        None => None,
    };
    if host.is_empty() {
        return Err(wrong(line, place, right));
    }
    let name = line.word(1).to_owned();
    let server = Server {
        name,
        host: host.to_owned(),
        port,
        options: own,
        at: line.at.clone(),
        words: line.words.clone(),
    };
    Ok(Some(server))
}

/// Reads the options of a line from a place on.
///
/// # Errors
/// A value that can't be what its word asks for.
pub(super) fn options(line: &Line, from: usize, own: &mut Options, report: &mut Report) -> Result<(), Fault> {
    let mut place = from;
    while let Some(word) = line.words.get(place) {
        let word = word.as_str();
        place += 1;
        let note = |report: &mut Report, kind: Kind, values: usize, told: &str| {
            let end = (place + values).min(line.words.len());
            report.note(kind, &line.at, &line.words[place - 1..end], told);
        };
        match word {
            "check" => own.check = true,
            "no-check" => own.check = false,
            "check-ssl" => own.check_tls = true,
            "ssl" => own.tls = true,
            "disabled" => own.unused = true,
            "inter" | "rise" | "fall" | "slowstart" | "weight" => {
                figure(line, place, own)?;
                if word == "weight" {
                    let kind = if line.word(place) == "0" { Kind::Changed } else { Kind::Lost };
                    note(
                        report,
                        kind,
                        1,
                        "there are no weights: each backend gets its share; one of weight 0 is left out",
                    );
                }
                place += 1;
            }
            "send-proxy" => own.proxy = Some("v1"),
            "send-proxy-v2" | "send-proxy-v2-ssl" | "send-proxy-v2-ssl-cn" => own.proxy = Some("v2"),
            "backup" => {
                note(
                    report,
                    Kind::Changed,
                    0,
                    "there are no backends in reserve: it is used like the others. Remove it, or leave it so",
                );
            }
            _ => place += other(line, place, report),
        }
    }
    Ok(())
}

fn figure(line: &Line, place: usize, own: &mut Options) -> Result<(), Fault> {
    let text = line.word(place);
    let millis = || time::millis(text, BARE).ok_or_else(|| wrong(line, place, "a time such as 2s or 500ms"));
    let number = || text.parse::<u32>().ok().ok_or_else(|| wrong(line, place, "a whole number"));
    match line.word(place - 1) {
        "inter" => own.interval = Some(millis()?).filter(|millis| *millis > 0),
        "slowstart" => own.slow_start = Some(millis()?).filter(|millis| *millis > 0),
        "rise" => own.rise = Some(number()?).filter(|number| *number > 0),
        "fall" => own.fall = Some(number()?).filter(|number| *number > 0),
        _ => own.unused |= number()? == 0,
    }
    Ok(())
}

/// Notes a word that changes nothing in the configuration; how many values follow it.
fn other(line: &Line, place: usize, report: &mut Report) -> usize {
    let word = line.word(place - 1);
    let known = lost::SERVER.iter().find(|(name, _)| *name == word);
    let values = known.map_or(0, |(_, values)| *values);
    let (kind, told) = match (word, line.word(place)) {
        ("verify", "none") => (Kind::Carried, "checks accept any certificate without `caFile`"),
        ("verify" | "ca-file", _) => (
            Kind::Changed,
            "checks accept any certificate, which decides only where connections go; `caFile` under `check` names whose count",
        ),
        ("resolvers" | "resolve-prefer" | "init-addr" | "resolve-opts", _) => (
            Kind::Changed,
            "a DNS name is followed by the host's own resolver, and is no obstacle to a start",
        ),
        _ if known.is_some() => (Kind::Lost, "vipd has no such option of a backend"),
        _ => (Kind::Lost, "is not known to this command, so nothing was made of it"),
    };
    let end = (place + values).min(line.words.len());
    report.note(kind, &line.at, &line.words[place - 1..end], told);
    values
}
