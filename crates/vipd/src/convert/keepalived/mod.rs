//! keepalived.conf: which addresses move together, where, and who is preferred.

mod instance;
mod lost;
mod tree;
mod virtual_server;
mod words;

use std::collections::BTreeMap;
use std::rc::Rc;

use self::tree::{Statement, Tree};
use super::report::{At, Fault, Kind, Report};
use super::setup::{Said, Setup};
use super::{Include, Text};

/// Reads files of keepalived as one.
///
/// # Errors
/// The first thing that is not of keepalived's grammar, or a value that can't be what its key asks for.
pub(super) fn read(
    texts: &[Text],
    (include, node): (&mut Include<'_>, Option<&str>),
    setup: &mut Setup,
    report: &mut Report,
) -> Result<(), Fault> {
    let mut tree = Tree::new(include, report, node);
    for (file, text) in texts {
        tree.read(&Rc::clone(file), text)?;
    }
    let statements = tree.finish();
    let scripts = scripts(&statements);
    for statement in &statements {
        match statement.key() {
            "vrrp_instance" => instance::read(statement, &scripts, setup, report)?,
            "vrrp_sync_group" => sync_group(statement, setup, report),
            "vrrp_script" => script(statement, report),
            "virtual_server" => virtual_server::read(statement, setup, report)?,
            "global_defs" => lost::each(statement, lost::GLOBAL, report),
            key => lost::tell(statement, lost::why(key, lost::TOP), report),
        }
    }
    if setup.instances.is_empty() {
        report.tell(
            Kind::Missing,
            "there is no `vrrp_instance` in keepalived's files: give the one that has it, too",
        );
    }
    Ok(())
}

/// What scripts run, by name.
type Scripts = BTreeMap<String, Said<String>>;

fn scripts(statements: &[Statement]) -> Scripts {
    let mut scripts = Scripts::new();
    for statement in statements.iter().filter(|statement| statement.key() == "vrrp_script") {
        let Some(name) = statement.value() else { continue };
        let run = statement.inner().iter().find(|inner| inner.key() == "script");
        let run = run.map_or_else(String::new, |run| run.words[1..].join(" "));
        scripts.insert(name.to_owned(), Said::new(run, &statement.at, &statement.words));
    }
    scripts
}

/// A script is told where it is used; what stands in it, here.
fn script(statement: &Statement, report: &mut Report) {
    let told =
        "is not run: vipd asks the apiservers itself, and a host that sees none alive gives the address away";
    report.note(Kind::Changed, &statement.at, &statement.words, told);
    for inner in statement.inner() {
        let told = match inner.key() {
            "interval" | "timeout" | "rise" | "fall" => {
                "vipd asks every second, and sees a killed apiserver at once, by its closed connection: `check` in config.yaml"
            }
            "weight" => {
                "there is no weight: a host without a live apiserver hands the address over, whatever its priority"
            }
            "script" => "its own checks are vipd's",
            "user" | "init_fail" => "belongs to the script",
            _ => lost::UNKNOWN,
        };
        report.note(Kind::Lost, &inner.at, &inner.words, told);
    }
}

fn sync_group(statement: &Statement, setup: &mut Setup, report: &mut Report) {
    for inner in statement.inner() {
        match inner.key() {
            "group" => {
                let names = inner.inner().iter().flat_map(|line| line.words.clone()).collect();
                setup.together.push(names);
                let told = "their addresses are in one list, `vips`, and move together";
                report.note(Kind::Carried, &statement.at, &statement.words, told);
                for line in inner.inner() {
                    report.note(Kind::Carried, &line.at, &line.words, "in that list");
                }
                report.note(Kind::Carried, &inner.at, &inner.words, "in that list");
            }
            key => lost::tell(inner, lost::why(key, lost::INSTANCE), report),
        }
    }
}

/// The value of a statement that must have one.
fn required<'a>(statement: &'a Statement, example: &str) -> Result<&'a str, Fault> {
    statement.value().ok_or_else(|| {
        let message = format!("`{}` has no value", statement.key());
        Fault::new(&statement.at, message, format!("write `{} {example}`", statement.key()))
    })
}

/// What a value must be, and is not.
fn wrong(at: &At, key: &str, value: &str, right: &str) -> Fault {
    Fault::new(at, format!("`{key} {value}` is not understood"), format!("write {right}"))
}
