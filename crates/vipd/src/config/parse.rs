//! From text to [`File`], with serde's messages turned into findings that say what would be right.

use super::diagnostic::{Diagnostic, Place, Severity};
use super::file::File;
use super::source::Text;

/// Parses the text of a configuration file.
///
/// # Errors
/// The first thing that is not YAML, not a known key, or of the wrong type.
pub(super) fn parse(source: &Text) -> Result<File, Box<Diagnostic>> {
    if source.text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Err(Box::new(Diagnostic::about_file(
            &source.file,
            "is empty".to_owned(),
            "`vipd sample config` prints a file to start from",
        )));
    }
    // What is not YAML at all is told first: the typed reading stops at the first wrong type, and may never see it.
    serde_yaml::from_str::<serde_yaml::Value>(&source.text)
        .and_then(|_| serde_yaml::from_str(&source.text))
        .map_err(|error| Box::new(finding(source, &error)))
}

fn finding(source: &Text, error: &serde_yaml::Error) -> Diagnostic {
    let place = error.location().map(|location| Place { line: location.line(), column: location.column() });
    let text = error.to_string();
    // The place is shown in front; serde_yaml repeats it at the end.
    let message = text.split(" at line ").next().unwrap_or(&text);
    if let Some(key) = message.strip_prefix("duplicate entry with key ") {
        let key = key.trim_matches('"');
        // serde_yaml gives the place of the map. At the top of the file, the key can be found by its line.
        let second =
            source.lines().enumerate().filter(|(_, line)| line.starts_with(&format!("{key}:"))).nth(1);
        let place = second.map_or(place, |(index, _)| Some(Place { line: index + 1, column: 1 }));
        let message = format!("the key `{key}` stands here twice");
        return source.diagnose_at(Severity::Error, place, message, "keep one of the two");
    }
    let (message, help) = explain(message);
    source.diagnose_at(Severity::Error, place, message, &help)
}

/// Rewrites a serde message into one for operators, and finds the way out.
fn explain(message: &str) -> (String, String) {
    if let Some((before, rest)) = message.split_once("unknown field `") {
        let (key, rest) = rest.split_once('`').unwrap_or((rest, ""));
        let known: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
        return (format!("{before}unknown key `{key}`"), suggest(key, &known, "key"));
    }
    if let Some((before, rest)) = message.split_once("unknown variant `") {
        let (value, rest) = rest.split_once('`').unwrap_or((rest, ""));
        let known: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
        return (
            format!("{before}`{value}` is not one of the values this key takes"),
            suggest(value, &known, "value"),
        );
    }
    if let Some((before, rest)) = message.split_once("missing field `") {
        let key = rest.split('`').next().unwrap_or(rest);
        return (format!("{before}the key `{key}` is missing"), format!("add `{key}: …` here"));
    }
    if let Some((what, expected)) = message.split_once(", expected ") {
        let expected = match expected {
            "u8" => "a whole number from 0 to 255",
            "u16" => "a whole number from 0 to 65535",
            "u32" | "usize" => "a whole number",
            "a boolean" => "true or false",
            "a string" => "a text",
            "a sequence" => "a list: each entry on a line of its own that begins with `-`",
            other => other,
        };
        return (what.to_owned(), format!("write {expected}"));
    }
    (message.to_owned(), "`vipd sample config` shows the form of the file".to_owned())
}

fn suggest(written: &str, known: &[&str], what: &str) -> String {
    // Two slips of the finger, or one case that differs, is still the same word.
    const DISTANCE_MAX: usize = 2;
    let lower = written.to_lowercase();
    let near = known.iter().min_by_key(|name| strsim::damerau_levenshtein(&lower, &name.to_lowercase()));
    match near {
        Some(name) if strsim::damerau_levenshtein(&lower, &name.to_lowercase()) <= DISTANCE_MAX => {
            format!("did you mean `{name}`?")
        }
        Some(_) | None => format!("the {what}s known here are {}", known.join(", ")),
    }
}
