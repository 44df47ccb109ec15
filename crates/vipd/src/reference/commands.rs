//! Every command and option, as one page of Markdown.

use std::fmt::Write as _;

use clap::{Arg, Command};

const HEAD: &str = "# Every command and option

Generated from the definitions that vipd itself reads the command line by: `vipd COMMAND --help` says the same, and so do the pages of the
manual in [man/](../man/).

Exit codes are those of sysexits.h: 0 done; 64 wrong usage; 69 nobody answers, or what is asked for can't be had here; 71 a system call failed;
75 not now, try again; 77 not permitted; 78 the configuration can't be used.
";

/// The page.
pub(super) fn markdown(commands: &[(String, Command)]) -> String {
    let mut text = HEAD.to_owned();
    // What several commands take alike is told once.
    let of_kube_vip = &commands.iter().find(|(name, _)| name == "vipd manager").unwrap().1;
    for (name, command) in commands {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        write!(text, "\n## `{name}`\n\n{about}.\n\n```\n{}\n```\n", usage(name, command)).unwrap();
        let flags: Vec<&Arg> =
            command.get_arguments().filter(|arg| !arg.is_hide_set() && !is_help(arg)).collect();
        let (shared, own): (Vec<&Arg>, Vec<&Arg>) = flags.into_iter().partition(|arg| {
            name.starts_with("vipd manifest")
                && of_kube_vip.get_arguments().any(|other| other.get_id() == arg.get_id())
        });
        table(&mut text, &own);
        if !shared.is_empty() {
            text.push_str("\nAnd kube-vip's flags, as [`vipd manager`](#vipd-manager) takes them.\n");
        }
    }
    text
}

fn is_help(arg: &Arg) -> bool {
    matches!(arg.get_id().as_str(), "help" | "version")
}

fn usage(name: &str, command: &Command) -> String {
    let mut words = vec![name.to_owned()];
    if command.has_subcommands() {
        words.push("COMMAND".to_owned());
    }
    let arguments = command.get_arguments().filter(|arg| !arg.is_hide_set() && !is_help(arg));
    let (named, placed): (Vec<&Arg>, Vec<&Arg>) = arguments.partition(|arg| !arg.is_positional());
    words.extend(named.iter().filter(|arg| arg.is_required_set()).map(|arg| spelled(arg)));
    if named.iter().any(|arg| !arg.is_required_set()) {
        words.push("[OPTIONS]".to_owned());
    }
    words.extend(
        placed.iter().map(|arg| if arg.is_required_set() { value(arg) } else { format!("[{}]", value(arg)) }),
    );
    words.join(" ")
}

fn table(text: &mut String, flags: &[&Arg]) {
    if flags.is_empty() {
        return;
    }
    text.push_str("\n| option | default | meaning |\n|---|---|---|\n");
    for arg in flags {
        let names = match (arg.get_short(), arg.get_long()) {
            (Some(short), Some(_)) => format!("`-{short}`, `{}`", spelled(arg)),
            (None, Some(_)) => format!("`{}`", spelled(arg)),
            (Some(_) | None, None) => format!("`{}`", value(arg)),
        };
        let defaults = arg.get_default_values().iter().filter(|_| arg.get_action().takes_values());
        let default =
            defaults.map(|value| format!("`{}`", value.to_string_lossy())).collect::<Vec<_>>().join(", ");
        let mut meaning = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let possible = arg.get_possible_values();
        if !possible.is_empty() && arg.get_action().takes_values() {
            let names: Vec<_> = possible.iter().map(|value| format!("`{}`", value.get_name())).collect();
            write!(meaning, ": {}", names.join(", ")).unwrap();
        }
        if let Some(variable) = arg.get_env() {
            write!(meaning, "; also `{}` in the environment", variable.to_string_lossy()).unwrap();
        }
        let default = if default.is_empty() { default } else { format!("{default} ") };
        writeln!(text, "| {names} | {default}| {} |", meaning.replace('|', "\\|")).unwrap();
    }
}

/// An option with its value.
fn spelled(arg: &Arg) -> String {
    let name = format!("--{}", arg.get_long().unwrap());
    if !arg.get_action().takes_values() {
        return name;
    }
    let optional = arg.get_num_args().is_some_and(|count| count.min_values() == 0);
    if optional { format!("{name}[={}]", value(arg)) } else { format!("{name} {}", value(arg)) }
}

fn value(arg: &Arg) -> String {
    match arg.get_value_names() {
        Some(names) => names.join(" "),
        None => arg.get_id().as_str().to_uppercase(),
    }
}
