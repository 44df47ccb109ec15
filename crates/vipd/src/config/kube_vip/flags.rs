//! kube-vip's flags, as clap sees them: made from the table.

use std::collections::BTreeMap;

use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};

use super::table::{self, Kind, Meaning, Setting};

/// The flags that were given, by name, with their text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags(BTreeMap<&'static str, String>);

impl Flags {
    /// The flag of a setting that was given, with its text.
    pub(super) fn of(&self, setting: &Setting) -> Option<(&'static str, &str)> {
        setting.flags.iter().find_map(|flag| self.0.get(flag).map(|text| (*flag, text.as_str())))
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for setting in table::all() {
            for flag in setting.flags {
                let Some(mut given) = matches.get_many::<String>(flag) else { continue };
                let text = match setting.kind {
                    Kind::List => given.map(String::as_str).collect::<Vec<_>>().join(","),
                    // Of several, the last counts, as it does for kube-vip.
                    Kind::Bool | Kind::Number | Kind::Seconds | Kind::Port | Kind::Text => {
                        given.next_back().cloned().unwrap_or_default()
                    }
                };
                self.0.insert(flag, text);
            }
        }
        Ok(())
    }
}

impl clap::Args for Flags {
    fn augment_args(command: Command) -> Command {
        table::all()
            .flat_map(|setting| setting.flags.iter().map(move |flag| (setting, *flag)))
            .fold(command.next_help_heading("kube-vip's flags"), |command, (setting, flag)| {
                command.arg(argument(setting, flag))
            })
            .after_help(
                "Environment variables of kube-vip are read too, and win over flags. Flags of kube-vip that ask for what vipd lacks are \
                 refused with the reason; those that change nothing warn.",
            )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn argument(setting: &Setting, flag: &'static str) -> Arg {
    let argument = Arg::new(flag).long(flag).action(ArgAction::Append).allow_hyphen_values(true);
    let argument = match setting.kind {
        // As in Go: `--arp`, or `--arp=false`; never `--arp false`.
        Kind::Bool => {
            argument.value_name("BOOL").num_args(0..=1).require_equals(true).default_missing_value("true")
        }
        Kind::Number => argument.value_name("NUMBER"),
        Kind::Seconds => argument.value_name("SECONDS"),
        Kind::Port => argument.value_name("PORT"),
        Kind::Text => argument.value_name("TEXT"),
        Kind::List => argument.value_name("LIST"),
    };
    let argument = match (setting.short, setting.flags.first()) {
        (Some(letter), Some(first)) if *first == flag => argument.short(letter),
        (Some(_) | None, _) => argument,
    };
    match setting.meaning {
        Meaning::Honoured { about, .. } if setting.flags.first() == Some(&flag) => argument.help(about),
        Meaning::Honoured { .. } | Meaning::Warned { .. } | Meaning::Refused { .. } => argument.hide(true),
    }
}
