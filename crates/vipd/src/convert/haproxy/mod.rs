//! haproxy.cfg: where clients connect, and who answers.

mod balance;
mod bind;
mod lost;
mod server;
mod settings;
mod words;

use std::collections::{BTreeMap, BTreeSet};

use self::settings::{Settings, wrong};
use self::words::{Line, Section};
use super::report::{Fault, Kind, Report};
use super::setup::{Said, Setup};
use super::{Text, time};

/// The most threads that vipd takes.
const WORKERS_MAX: u64 = 256;

/// Reads files of haproxy as one.
///
/// # Errors
/// The first thing that is not of haproxy's grammar, or a value that can't be what its word asks for.
pub(super) fn read(texts: &[Text], setup: &mut Setup, report: &mut Report) -> Result<(), Fault> {
    let sections = words::sections(texts, report)?;
    let mut global = Global::default();
    let mut read = Sections::default();
    for section in &sections {
        match section.head.word(0) {
            "global" => global.take(section, setup, report)?,
            "defaults" => read.defaults(section, report)?,
            "frontend" | "listen" | "backend" => read.proxy(section, report)?,
            kind => {
                let told = match kind {
                    "resolvers" => "names of backends are looked up by the host's own resolver",
                    "peers" => "vipd's hosts share nothing but the election: `remotePeers`",
                    _ => "vipd has no such section",
                };
                for line in section.lines.iter().chain([&section.head]) {
                    report.note(Kind::Lost, &line.at, &line.words, told);
                }
            }
        }
    }
    read.balance(&global, setup, report);
    Ok(())
}

/// What `global` says that a load balancer needs.
#[derive(Debug, Default)]
struct Global {
    maxconn: Option<Said<u64>>,
}

impl Global {
    fn take(&mut self, section: &Section, setup: &mut Setup, report: &mut Report) -> Result<(), Fault> {
        report.note(Kind::Carried, &section.head.at, &section.head.words, "each line of it is told below");
        for line in &section.lines {
            let (at, words) = (&line.at, &line.words);
            let number = || line.word(1).parse::<u64>().map_err(|_| wrong(line, 1, "a whole number"));
            match (line.word(0), line.word(1)) {
                ("maxconn", _) => self.maxconn = Some(Said::new(number()?, at, words)),
                ("nbthread", _) => {
                    let threads = number()?;
                    if (1..=WORKERS_MAX).contains(&threads) {
                        setup.workers = Some(threads);
                        report.note(Kind::Carried, at, words, format!("workers: {threads}"));
                    } else {
                        report.note(
                            Kind::Changed,
                            at,
                            words,
                            "as many threads as the host has cores, four at most",
                        );
                    }
                }
                ("hard-stop-after", text) => {
                    let millis =
                        time::millis(text, 1_000).ok_or_else(|| wrong(line, 1, "a time such as 15s"))?;
                    setup.drain = Some(millis).filter(|millis| *millis > 0);
                    report.note(Kind::Carried, at, words, "drainTimeout");
                }
                ("log", _) => {
                    let told = "vipd logs to standard error, which systemd or the kubelet keeps";
                    report.note(Kind::Changed, at, words, told);
                }
                ("stats", "socket") => {
                    let told = "`vipd status` asks at vipd's own socket (`socket`), and `vipd backend drain` commands there";
                    report.note(Kind::Changed, at, words, told);
                }
                _ => report.note(Kind::Lost, at, words, lost::why(words)),
            }
        }
        Ok(())
    }
}

/// The sections that connections go through.
#[derive(Default)]
struct Sections<'a> {
    /// What the last `defaults` said, which counts for those that follow.
    last: Settings,
    named: BTreeMap<String, Settings>,
    frontends: Vec<(&'a Line, Settings)>,
    backends: BTreeMap<String, (&'a Line, Settings)>,
}

impl<'a> Sections<'a> {
    fn defaults(&mut self, section: &'a Section, report: &mut Report) -> Result<(), Fault> {
        let head = &section.head;
        let mut settings = self.inherited(head, true)?;
        report.note(Kind::Carried, &head.at, &head.words, "in each section that follows");
        for line in &section.lines {
            settings.take(line, report)?;
        }
        if !matches!(head.word(1), "" | "from") {
            self.named.insert(head.word(1).to_owned(), settings.clone());
        }
        self.last = settings;
        Ok(())
    }

    fn proxy(&mut self, section: &'a Section, report: &mut Report) -> Result<(), Fault> {
        let head = &section.head;
        let name = head.word(1);
        if name.is_empty() {
            return Err(wrong(head, 1, "the name of the section"));
        }
        let mut settings = self.inherited(head, false)?;
        for line in &section.lines {
            settings.take(line, report)?;
        }
        if head.word(0) == "backend" {
            self.backends.insert(name.to_owned(), (head, settings));
        } else {
            self.frontends.push((head, settings));
        }
        Ok(())
    }

    /// What a section begins with: what its `from` says, or the last `defaults`.
    fn inherited(&self, head: &Line, fresh: bool) -> Result<Settings, Fault> {
        let from = head.words.iter().position(|word| word == "from");
        match from {
            Some(place) => {
                let name = head.word(place + 1);
                let found = self.named.get(name).cloned();
                found.ok_or_else(|| {
                    wrong(head, place + 1, "the name of a `defaults` section before this line")
                })
            }
            None if fresh => Ok(Settings::default()),
            None => Ok(self.last.clone()),
        }
    }

    fn balance(&self, global: &Global, setup: &mut Setup, report: &mut Report) {
        let mut used = BTreeSet::new();
        for (head, frontend) in &self.frontends {
            if head.word(0) == "listen" && !frontend.servers.is_empty() {
                balance::convert(head, frontend, frontend, global, (setup, report));
                continue;
            }
            let name = frontend.default_backend.as_ref().map(|said| said.value.as_str());
            let backend = name.and_then(|name| self.backends.get(name));
            match (name, backend) {
                (Some(name), Some((its, backend))) => {
                    used.insert(name);
                    report.note(Kind::Carried, &its.at, &its.words, "its servers are the backends");
                    balance::convert(head, frontend, backend, global, (setup, report));
                }
                (_, _) if frontend.page => {
                    setup.metrics = true;
                    for line in frontend
                        .binds
                        .iter()
                        .map(|bind| (&bind.at, &bind.words))
                        .chain([(&head.at, &head.words)])
                    {
                        report.note(Kind::Changed, line.0, line.1, "a page of figures: metrics: \":2112\"");
                    }
                }
                (Some(name), None) => {
                    let told = format!("no backend is called `{name}` in these files");
                    report.note(Kind::Missing, &head.at, &head.words, told);
                }
                (None, _) => {
                    let told = "it leads to no backend by default, so no load balancer was made of it";
                    report.note(Kind::Refused, &head.at, &head.words, told);
                }
            }
        }
        for (name, (head, _)) in &self.backends {
            if !used.contains(name.as_str()) {
                report.note(Kind::Lost, &head.at, &head.words, "no frontend leads to it by default");
            }
        }
    }
}
