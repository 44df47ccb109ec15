//! What the lines of a section say, one after the other, over what `defaults` have said.

use std::collections::BTreeMap;

use super::bind::{self, Bind};
use super::lost;
use super::server::{self, Options, Server};
use super::words::Line;
use crate::convert::report::{Fault, Kind, Report};
use crate::convert::setup::Said;
use crate::convert::time;

/// A number without a unit counts milliseconds.
const BARE: u64 = 1_000;

/// Timeouts that mean something to vipd.
const TIMEOUTS: &[&str] = &["client", "server", "connect", "check", "tunnel"];

/// A section as it stands.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    pub(super) http: Option<Said<()>>,
    /// Where connections are logged to.
    pub(super) log: Option<Said<()>>,
    /// That they are.
    pub(super) logs: Option<Said<()>>,
    /// The path that a check asks for.
    pub(super) asks: Option<Said<Option<String>>>,
    /// A check speaks TLS.
    pub(super) tls: Option<Said<()>>,
    /// A check has lines of its own.
    pub(super) talks: bool,
    pub(super) balance: Option<Said<String>>,
    pub(super) timeouts: BTreeMap<&'static str, Said<u64>>,
    pub(super) maxconn: Option<Said<u64>>,
    pub(super) default_backend: Option<Said<String>>,
    pub(super) binds: Vec<Bind>,
    pub(super) servers: Vec<Server>,
    pub(super) options: Options,
    /// A page of figures is served.
    pub(super) page: bool,
}

impl Settings {
    /// Takes one line.
    ///
    /// # Errors
    /// A value that can't be what its word asks for.
    pub(super) fn take(&mut self, line: &Line, report: &mut Report) -> Result<(), Fault> {
        let (at, words) = (&line.at, &line.words);
        let said = || Said::new((), at, words);
        match (line.word(0), line.word(1)) {
            ("mode", "tcp") => {
                self.http = None;
                report.note(Kind::Carried, at, words, "type: tcp");
            }
            ("mode", "http") => self.http = Some(said()),
            ("mode", "health") => self.page = true,
            ("bind", _) => self.binds.extend(bind::read(line, report)?),
            ("server", _) => self.servers.extend(server::read(line, &self.options, report)?),
            ("server-template", _) => self.servers.extend(server::template(line, &self.options, report)?),
            ("default-server", _) => {
                server::options(line, 1, &mut self.options, report)?;
                report.note(Kind::Carried, at, words, "said of each server that follows");
            }
            ("balance", algorithm) => self.balance = Some(Said::new(algorithm.to_owned(), at, words)),
            ("maxconn", _) => {
                let right = "a whole number";
                let number = line.word(1).parse::<u64>().map_err(|_| wrong(line, 1, right))?;
                self.maxconn = Some(Said::new(number, at, words));
            }
            ("timeout", name) if TIMEOUTS.contains(&name) => self.timeout(line)?,
            ("default_backend", _) => self.leads(line, 1)?,
            ("use_backend", _) if words.len() == 2 => self.leads(line, 1)?,
            ("use_backend", _) => {
                let told = "vipd looks at no content: connections that this would lead elsewhere come to the default backend. A port of its own can lead there";
                report.note(Kind::Refused, at, words, told);
            }
            ("tcp-request" | "http-request", _)
                if words
                    .iter()
                    .any(|word| matches!(word.as_str(), "reject" | "deny" | "silent-drop" | "tarpit")) =>
            {
                let told = "vipd turns nobody away by address or content: who may connect is the host's firewall's to say";
                report.note(Kind::Refused, at, words, told);
            }
            ("http-request", "use-service") | ("stats", "enable" | "uri") => {
                self.page = true;
                let told = "metrics: \":2112\", in Prometheus' form; `vipd status` on a terminal";
                report.note(Kind::Changed, at, words, told);
            }
            ("monitor-uri", _) => {
                self.page = true;
                let told = "/livez and /readyz at `metrics: \":2112\"` tell whether vipd is well";
                report.note(Kind::Changed, at, words, told);
            }
            ("log", _) => {
                self.log = Some(said());
                report.note(
                    Kind::Changed,
                    at,
                    words,
                    "vipd logs to standard error, which systemd or the kubelet keeps",
                );
            }
            ("option", name) => self.option(name, line, report),
            ("http-check" | "tcp-check", _) => self.check(line, report),
            ("retries", _) => report.note(Kind::Changed, at, words, lost::why(words)),
            ("disabled", _) => {
                let told = "the whole section is out of use; it is converted all the same";
                report.note(Kind::Changed, at, words, told);
            }
            _ => report.note(Kind::Lost, at, words, lost::why(words)),
        }
        Ok(())
    }

    /// A line about what is asked of servers.
    fn check(&mut self, line: &Line, report: &mut Report) {
        let (at, words) = (&line.at, &line.words);
        match (line.word(0), line.word(1)) {
            ("http-check", "expect") => {
                let usual = words[2..].join(" ") == "status 200";
                let told = if usual { "200 is what counts" } else { lost::why(words) };
                report.note(if usual { Kind::Carried } else { Kind::Changed }, at, words, told);
            }
            ("http-check", "send") => {
                let path = words.iter().position(|word| word == "uri").and_then(|place| words.get(place + 1));
                self.asks = Some(Said::new(path.cloned(), at, words));
            }
            ("http-check", "connect") if words.iter().any(|word| word == "ssl") => {
                self.tls = Some(Said::new((), at, words));
                report.note(Kind::Carried, at, words, "checks speak TLS");
            }
            ("tcp-check", _) => {
                self.talks = true;
                report.note(Kind::Changed, at, words, "check.type: tcp, whether a connection can be made");
            }
            _ => report.note(Kind::Lost, at, words, lost::why(words)),
        }
    }

    fn option(&mut self, name: &str, line: &Line, report: &mut Report) {
        let (at, words) = (&line.at, &line.words);
        match name {
            "httpchk" => {
                // `httpchk URI` or `httpchk METHOD URI [VERSION]`.
                let path = words[2..].iter().find(|word| word.starts_with('/')).cloned();
                self.asks = Some(Said::new(path, at, words));
            }
            "ssl-hello-chk" => self.tls = Some(Said::new((), at, words)),
            "tcp-check" => {
                self.talks = true;
                report.note(Kind::Carried, at, words, "check.type: tcp");
            }
            "tcplog" | "httplog" | "httpslog" => self.logs = Some(Said::new((), at, words)),
            "redispatch" => report.note(Kind::Changed, at, words, lost::why(words)),
            "log-health-checks" => {
                report.note(Kind::Carried, at, words, "the log has a line for each change")
            }
            _ => report.note(Kind::Lost, at, words, lost::why(words)),
        }
    }

    fn timeout(&mut self, line: &Line) -> Result<(), Fault> {
        let Some(name) = TIMEOUTS.iter().find(|name| **name == line.word(1)) else { return Ok(()) };
        let millis = time::millis(line.word(2), BARE)
            .ok_or_else(|| wrong(line, 2, "a time of at most a year, such as 20s, 500ms or 1h"))?;
        self.timeouts.insert(name, Said::new(millis, &line.at, &line.words));
        Ok(())
    }

    fn leads(&mut self, line: &Line, place: usize) -> Result<(), Fault> {
        let name = line.word(place);
        if name.is_empty() {
            return Err(wrong(line, place, "the name of a backend"));
        }
        self.default_backend = Some(Said::new(name.to_owned(), &line.at, &line.words));
        Ok(())
    }
}

/// A word that can't be what its place asks for.
pub(super) fn wrong(line: &Line, place: usize, right: &str) -> Fault {
    let before = line.words.get(..place.min(line.words.len())).unwrap_or_default().join(" ");
    let message = match line.words.get(place) {
        Some(word) => format!("`{before} {word}` is not understood"),
        None => format!("`{before}` has no value"),
    };
    Fault::new(&line.at, message, format!("write {right}"))
}
