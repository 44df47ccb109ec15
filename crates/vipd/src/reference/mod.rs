//! The reference: what is generated from the definitions, and kept in `docs/` to be read and packed.
//!
//! These are tests: a text that differs from what is generated fails one, and with `VIPD_BLESS=1` in the environment is written anew. So the
//! released binary carries none of it.

mod commands;
mod keys;
mod roff;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory as _};

use crate::cli::Cli;

/// Where the documentation is kept.
pub(crate) fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

/// Compares a text with the one that is kept, or keeps it.
pub(crate) fn keep(file: &Path, text: &str) {
    if std::env::var_os("VIPD_BLESS").is_some() {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }
    let kept = fs::read_to_string(file).unwrap_or_default();
    let at = kept.lines().zip(text.lines()).position(|(kept, made)| kept != made);
    assert!(
        kept == text,
        "{} is not what is generated (line {}): VIPD_BLESS=1 cargo test --workspace --lib reference",
        file.display(),
        at.map_or(0, |at| at + 1)
    );
}

/// Each command that is no secret, with its whole name: `vipd manifest pod`.
fn all() -> Vec<(String, Command)> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let mut found = Vec::new();
    walk("vipd", &command, &mut found);
    found
}

fn walk(name: &str, command: &Command, found: &mut Vec<(String, Command)>) {
    found.push((name.to_owned(), command.clone()));
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set() && inner.get_name() != "help")
    {
        walk(&format!("{name} {}", inner.get_name()), inner, found);
    }
}

#[test]
fn the_commands_are_those_of_the_reference() {
    keep(&docs().join("reference/commands.md"), &commands::markdown(&all()));
}

#[test]
fn each_command_and_the_configuration_have_a_page_of_the_manual() {
    let folder = docs().join("man");
    let mut made = BTreeSet::new();
    for (name, command) in all() {
        let file = format!("{}.1", name.replace(' ', "-"));
        keep(&folder.join(&file), &roff::command(&name, command));
        made.insert(file);
    }
    keep(
        &folder.join("vipd.yaml.5"),
        &roff::configuration(include_str!("../../../../docs/configuration.md")),
    );
    made.insert("vipd.yaml.5".to_owned());
    let there = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(there.collect::<BTreeSet<_>>(), made, "docs/man has pages of commands that are no more");
}

#[test]
fn the_keys_of_the_file_are_those_of_the_reference() {
    let shapes = keys::Shapes::of(include_str!("../config/file.rs"));
    let made = format!(
        "# Every key of the file

Generated from the structures that vipd reads the file into; `[]` stands for each entry of a list. What a key means, and what it is where it isn't
written, says [configuration](../configuration.md), to which each row leads.

| key | takes | explained in |
|---|---|---|
{}",
        shapes.table(include_str!("../../../../docs/configuration.md"))
    );
    keep(&docs().join("reference/configuration.md"), &made);
}

#[test]
fn each_key_of_the_file_is_in_the_documentation() {
    let keys = keys::Shapes::of(include_str!("../config/file.rs")).keys();
    assert!(
        keys.len() > 60 && keys.contains("gratuitousARP") && keys.contains("maxConnectionsPerSource"),
        "{keys:?}"
    );
    let text = include_str!("../../../../docs/configuration.md");
    let words: BTreeSet<&str> = text
        .split('`')
        .skip(1)
        .step_by(2)
        .flat_map(|code| code.split(|c: char| !c.is_alphanumeric()))
        .collect();
    let missing: Vec<_> = keys.iter().filter(|key| !words.contains(key.as_str())).collect();
    assert!(missing.is_empty(), "docs/configuration.md lacks {missing:?}");
}
