//! What was set by flags and environment variables, judged by the table.

use std::collections::BTreeMap;

use super::flags::Flags;
use super::table::{self, Key, Kind, Meaning, Setting};
use crate::config::diagnostic::{Diagnostic, Severity};

/// Beginnings of kube-vip's environment names: an unknown one is most likely misspelt.
const PREFIXES: &[&str] =
    &["vip_", "cp_", "lb_", "svc_", "bgp_", "mpbgp_", "zebra_", "egress_", "control_plane_health_check_"];

/// The longest distance at which an unknown name is taken for a misspelt one.
const DISTANCE_MAX: usize = 3;

/// One value and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Value {
    /// The text, in the form that its kind asks for.
    pub(super) text: String,
    /// For messages: “environment vip_interface”, “flag --interface”.
    pub(super) origin: String,
}

/// What is honoured of the flags and the environment, and what was found about the rest.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    values: BTreeMap<Key, Value>,
    pub(super) findings: Vec<Diagnostic>,
}

impl Settings {
    /// Judges flags and environment. The environment wins over explicit flags, which is kube-vip's rule; an empty
    /// variable is one that isn't set.
    pub(crate) fn gather(flags: &Flags, environment: &BTreeMap<String, String>) -> Self {
        let mut settings = Self::default();
        for setting in table::all() {
            if let Some(value) = given(setting, flags, environment) {
                settings.judge(setting, value);
            }
        }
        settings.unknown(environment);
        settings
    }

    /// What was set, if it was.
    pub(super) fn value(&self, key: Key) -> Option<&Value> {
        self.values.get(&key)
    }

    /// The text of what was set.
    pub(crate) fn text(&self, key: Key) -> Option<&str> {
        self.values.get(&key).map(|value| value.text.as_str())
    }

    /// Whether a switch is on.
    pub(crate) fn is_on(&self, key: Key) -> bool {
        self.text(key) == Some("true")
    }

    /// The number that was set.
    pub(super) fn number(&self, key: Key) -> Option<i64> {
        self.text(key).and_then(|text| text.parse().ok())
    }

    /// The port that was set.
    pub(crate) fn port(&self, key: Key) -> Option<u16> {
        self.text(key).and_then(|text| text.parse().ok())
    }

    /// Sets what nothing has set.
    pub(super) fn assume(&mut self, key: Key, text: &str) {
        let value = Value { text: text.to_owned(), origin: "an assumption".to_owned() };
        self.values.entry(key).or_insert(value);
    }

    /// Whether an error was found.
    pub(super) fn has_errors(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Error)
    }

    fn judge(&mut self, setting: &Setting, value: Value) {
        let Value { text, origin } = value;
        let canonical = canonical(setting.kind, &text);
        match setting.meaning {
            Meaning::Honoured { key, .. } => match canonical {
                Ok(text) => {
                    self.values.insert(key, Value { text, origin });
                }
                Err(right) => {
                    self.error(origin, format!("`{text}` is not {right}"), &format!("write {right}"))
                }
            },
            Meaning::Warned { quiet, why } => {
                // Nothing depends on it, so a value that kube-vip would refuse is told of in the same way.
                if !quiet.contains(&canonical.as_deref().unwrap_or(&text)) {
                    self.warn(origin, format!("has no effect: {why}"), "remove it");
                }
            }
            Meaning::Refused { off, what } => match canonical {
                Ok(text) if off.contains(&text.as_str()) => {}
                Ok(_) => self.error(
                    origin,
                    format!("asks for {what}: vipd does not do that"),
                    "remove it, or stay with kube-vip for this",
                ),
                Err(right) => {
                    self.error(origin, format!("`{text}` is not {right}"), &format!("write {right}"))
                }
            },
        }
    }

    /// Names that look like kube-vip's and are none.
    fn unknown(&mut self, environment: &BTreeMap<String, String>) {
        let known: Vec<&str> = table::all().flat_map(|setting| setting.environment).copied().collect();
        for (name, value) in environment {
            let is_ours = PREFIXES.iter().any(|prefix| name.starts_with(prefix));
            if !is_ours || value.is_empty() || known.contains(&name.as_str()) {
                continue;
            }
            let distance = |other: &str| strsim::damerau_levenshtein(name, other);
            let near = known
                .iter()
                .min_by_key(|other| distance(other))
                .filter(|other| distance(other) <= DISTANCE_MAX);
            let help = near.map_or_else(
                || "remove it: no version of kube-vip has had it".to_owned(),
                |near| format!("did you mean `{near}`?"),
            );
            self.warn(
                format!("environment {name}"),
                "is not a setting that vipd or kube-vip knows".to_owned(),
                &help,
            );
        }
    }

    fn error(&mut self, origin: String, message: String, help: &str) {
        self.find(Severity::Error, origin, message, help);
    }

    fn warn(&mut self, origin: String, message: String, help: &str) {
        self.find(Severity::Warning, origin, message, help);
    }

    fn find(&mut self, severity: Severity, origin: String, message: String, help: &str) {
        let help = help.to_owned();
        self.findings.push(Diagnostic { severity, origin, place: None, line: None, message, help });
    }
}

/// The value of a setting, with its origin; `None` where nothing sets it.
fn given(setting: &Setting, flags: &Flags, environment: &BTreeMap<String, String>) -> Option<Value> {
    let variable = setting.environment.iter().find_map(|name| {
        let text = environment.get(*name).filter(|text| !text.is_empty())?;
        Some(Value { text: text.clone(), origin: format!("environment {name}") })
    });
    variable.or_else(|| {
        let (flag, text) = flags.of(setting)?;
        // An empty text is the default of most flags, and means something for one alone.
        let means =
            !text.is_empty() || !matches!(setting.kind, Kind::Text | Kind::List) || is_metrics(setting);
        means.then(|| Value { text: text.to_owned(), origin: format!("flag --{flag}") })
    })
}

fn is_metrics(setting: &Setting) -> bool {
    matches!(setting.meaning, Meaning::Honoured { key: Key::Metrics, .. })
}

/// A value in one form; otherwise what would be right.
fn canonical(kind: Kind, text: &str) -> Result<String, &'static str> {
    let trimmed = text.trim();
    match kind {
        // Go's strconv.ParseBool.
        Kind::Bool => match trimmed {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok("true".to_owned()),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok("false".to_owned()),
            _ => Err("true or false"),
        },
        Kind::Number => {
            trimmed.parse::<i64>().map(|number| number.to_string()).map_err(|_| "a whole number, such as 4")
        }
        Kind::Seconds => trimmed
            .parse::<u32>()
            .map(|number| number.to_string())
            .map_err(|_| "a whole number of seconds, such as 15"),
        Kind::Port => match trimmed.parse::<u16>() {
            Ok(port) if port != 0 => Ok(port.to_string()),
            Ok(_) | Err(_) => Err("a port from 1 to 65535"),
        },
        Kind::Text | Kind::List => Ok(trimmed.to_owned()),
    }
}
