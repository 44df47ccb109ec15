//! `vipd convert`: from the files of what vipd replaces to a config.yaml, and a report of what became of each line.
//!
//! ```text
//!  keepalived.conf ─┐
//!  haproxy.cfg ─────┼──▶ Setup ──write──▶ config.yaml ──▶ vipd's own loader ──▶ standard output
//!  nginx.conf ──────┘      └──────────────▶ Report ─────────────────────────▶ standard error
//!  a kube-vip manifest or file ──▶ its settings ──▶ config.yaml
//! ```
//!
//! A manifest of static Pods stands for the files that these mount of their host.
//!
//! Everything but [`read`] and [`convert`] is a function of texts. What is printed has been loaded before.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod haproxy;
mod hosts;
mod keepalived;
mod kind;
mod kube_vip;
mod mounts;
mod nginx;
mod read;
mod report;
mod setup;
mod time;
mod write;

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::rc::Rc;

use leader::NodeId;

use self::kind::Kind as File;
use self::mounts::Mounted;
use self::report::{Fault, Kind, Report};
use self::setup::Setup;
use crate::config::{self, Overrides};
use crate::{cli, exit, print, tell};

/// A file's name and text.
type Text = (Rc<str>, String);

/// Finds the texts that a file includes: by the file's name, and the pattern that stands in it.
type Include<'a> = dyn FnMut(&str, &str) -> Result<Vec<Text>, String> + 'a;

/// What the command line says beyond the files.
#[derive(Clone, Debug, Default)]
struct Options {
    node: Option<String>,
    peers: Vec<Named>,
}

/// A host that an option names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    name: String,
    ip: IpAddr,
    port: Option<u16>,
}

impl std::str::FromStr for Named {
    type Err = String;

    /// Takes `NAME=ADDRESS`, `NAME=ADDRESS:PORT` or `NAME=[IPV6]:PORT`.
    fn from_str(text: &str) -> Result<Self, String> {
        let right = || "write NAME=ADDRESS or NAME=ADDRESS:PORT, such as master-2=10.0.0.164".to_owned();
        let (name, address) = text.split_once('=').ok_or_else(right)?;
        let name = NodeId::new(name).map_err(|error| error.to_string())?.to_string();
        let (ip, port) = match (address.parse::<IpAddr>(), address.parse::<SocketAddr>()) {
            (Ok(ip), _) => (ip, None),
            (Err(_), Ok(at)) if at.port() != 0 => (at.ip(), Some(at.port())),
            (Err(_), Ok(_) | Err(_)) => return Err(right()),
        };
        Ok(Self { name, ip, port })
    }
}

/// What came of it.
struct Outcome {
    /// The configuration, where there is one.
    document: Option<String>,
    report: Report,
}

/// Converts files and tells about it.
pub(crate) fn convert(options: &cli::Convert) -> ExitCode {
    let mut reader = read::Reader::default();
    let mut texts = Vec::new();
    for file in &options.files {
        match reader.read(file) {
            Ok(text) => texts.push(text),
            Err(why) => {
                return refuse(&Fault::about(
                    &file.display().to_string(),
                    why,
                    "name files that this user may read",
                ));
            }
        }
    }
    let given =
        Options { node: options.node.as_ref().map(ToString::to_string), peers: options.peers.clone() };
    let mounted = mounts::of(&texts, &mut |path| reader.mounted(&options.root.join(path)));
    let outcome = outcome(&texts, &mounted, &given, &mut |from, pattern| reader.include(from, pattern));
    let Outcome { document, report } = match outcome {
        Ok(outcome) => outcome,
        Err(fault) => return refuse(&fault),
    };
    tell(&report.to_string());
    let whole = !report.has(Kind::Refused) && !report.has(Kind::Missing);
    let printed = document.map_or(ExitCode::SUCCESS, |document| print(&document));
    if whole { printed } else { ExitCode::from(exit::DATAERR) }
}

fn refuse(fault: &Fault) -> ExitCode {
    tell(&format!("error: {fault}"));
    ExitCode::from(exit::CONFIG)
}

/// Converts texts, and those that were found where manifests among them say.
fn outcome(
    given: &[Text],
    mounted: &[Mounted],
    options: &Options,
    include: &mut Include<'_>,
) -> Result<Outcome, Fault> {
    let texts = &[given, &mounts::texts(mounted)].concat();
    let mut kinds = Vec::new();
    for text in texts {
        let kind = kind::of(&text.1).ok_or_else(|| {
            let help = "give a keepalived.conf, a haproxy.cfg, an nginx.conf with `stream`, manifests of their Pods or of kube-vip, or its config.yaml";
            Fault::about(&text.0, "is no file that can be converted", help)
        })?;
        kinds.push(kind);
    }
    let of = |wanted: File| -> Vec<Text> {
        texts.iter().zip(&kinds).filter(|(_, kind)| **kind == wanted).map(|(text, _)| text.clone()).collect()
    };
    let mut report = Report::default();
    if let [config, ..] = &of(File::Config)[..] {
        let (leading, others): (Vec<Text>, Vec<Text>) =
            texts.iter().cloned().partition(|text| mounts::lead(mounted, text, config));
        for manifest in leading {
            kube_vip::manifest(&manifest, (options, mounted), &mut report)?;
        }
        return alone(config, &others, of_config(config, report)?);
    }
    let mut whole = None;
    for manifest in of(File::Manifest) {
        if let Some(document) = kube_vip::manifest(&manifest, (options, mounted), &mut report)? {
            let text = serde_yaml::to_string(&document).unwrap_or_default();
            whole =
                Some(alone(&manifest, texts, Outcome { document: Some(text), report: Report::default() })?);
        }
    }
    let document = match whole {
        Some(outcome) => outcome.document,
        None if kinds.iter().all(|kind| *kind == File::Manifest) => {
            if !report.has(Kind::Missing) && !report.has(Kind::Refused) {
                report.tell(
                    Kind::Missing,
                    "the files that these Pods mount: run this on their host, or say by `--root` where its files are; or give those, in the place of the manifests",
                );
            }
            None
        }
        None => {
            let mut setup = Setup::default();
            let (haproxy, keepalived) = (of(File::Haproxy), of(File::Keepalived));
            if !keepalived.is_empty() {
                keepalived::read(&keepalived, (include, options.node.as_deref()), &mut setup, &mut report)?;
            }
            if !haproxy.is_empty() {
                haproxy::read(&haproxy, &mut setup, &mut report)?;
            }
            for text in of(File::Nginx) {
                nginx::read(&text, &mut setup, &mut report)?;
            }
            let document = write::write(&setup, options, &mut report);
            document.and_then(|document| serde_yaml::to_string(&document).ok())
        }
    };
    report.finish();
    let names: Vec<String> = texts.iter().map(|text| read::name(text).to_string()).collect();
    let document =
        document.map(|document| format!("# Made by `vipd convert` from {}.\n{document}", headline(&names)));
    Ok(Outcome { document: document.filter(|document| loads(document, &mut report)), report })
}

/// A line of a comment, whatever the files are called.
fn headline(names: &[String]) -> String {
    names.join(", ").chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A whole setup by itself stands beside no other file.
fn alone(text: &Text, all: &[Text], outcome: Outcome) -> Result<Outcome, Fault> {
    if all.len() > 1 {
        let help = "convert it by itself";
        return Err(Fault::about(&text.0, "is a whole setup, and other files are given, too", help));
    }
    Ok(outcome)
}

fn of_config(text: &Text, mut report: Report) -> Result<Outcome, Fault> {
    let loaded = config::load_text(config::Text::of(&text.0, &text.1), Overrides::default());
    if let Err(findings) = loaded {
        let finding = findings.iter().find(|finding| finding.severity == config::Severity::Error);
        let finding = finding.or_else(|| findings.first());
        let (message, help) =
            finding.map(|finding| (finding.message.clone(), finding.help.clone())).unwrap_or_default();
        let line = finding.and_then(|finding| finding.place).map(|place| format!(":{}", place.line));
        return Err(Fault { at: format!("{}{}", text.0, line.unwrap_or_default()), message, help });
    }
    let document = kube_vip::config(text, &mut report);
    Ok(Outcome { document: Some(document).filter(|document| loads(document, &mut report)), report })
}

/// Whether vipd's own loader takes a configuration; what it says of it is noted.
fn loads(document: &str, report: &mut Report) -> bool {
    let (taken, findings) =
        match config::load_text(config::Text::of("config.yaml", document), Overrides::default()) {
            Ok((_, warnings)) => (true, warnings),
            Err(findings) => (false, findings),
        };
    for finding in findings {
        let kind = match finding.severity {
            config::Severity::Error => Kind::Missing,
            config::Severity::Warning => Kind::Warned,
        };
        report.tell(kind, format!("{}; {}", finding.message, finding.help));
    }
    taken
}

#[cfg(test)]
mod tests;
