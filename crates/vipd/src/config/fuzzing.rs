//! What fuzzing calls of the configuration. See [`crate::fuzzing`].

use std::collections::BTreeMap;

use super::diagnostic::{Diagnostic, Severity};
use super::kube_vip::{Flags, Settings};
use super::{Config, Overrides, Text, load_text};
use crate::fuzzing::is_a_line;

/// A config.yaml.
///
/// It is taken or refused, the same each time; each finding has a cause and a way out of one line each, and a place that is in the file.
pub fn configuration(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let load = || load_text(Text::of("config.yaml", text), Overrides::default());
    // As many as any version of YAML counts.
    let lines = 1 + text.matches(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']).count();
    let loaded = load();
    look_at(&loaded, lines);
    assert_eq!(findings(&load()), findings(&loaded));
}

/// The environment of a kube-vip: NAME=value, with a zero or the end of a line between.
///
/// The same as of a file; and what is found whatever the lookups give is found with those that were assumed.
pub fn kube_vip(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let pairs = text.split(['\0', '\n']).filter_map(|pair| pair.split_once('='));
    let environment: BTreeMap<String, String> =
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let settings = Settings::gather(&Flags::default(), &environment);
    let _ = settings.log_level();
    match settings.check() {
        Ok(findings) => findings.iter().for_each(|finding| look_at_one(finding, 0)),
        Err(findings) => {
            assert!(findings.iter().any(|finding| finding.severity == Severity::Error));
            findings.iter().for_each(|finding| look_at_one(finding, 0));
        }
    }
    let _ = settings.on_some_node().check();
}

type Loaded = Result<(Config, Vec<Diagnostic>), Vec<Diagnostic>>;

fn findings(loaded: &Loaded) -> &[Diagnostic] {
    match loaded {
        Ok((_, findings)) | Err(findings) => findings,
    }
}

fn look_at(loaded: &Loaded, lines: usize) {
    let has_error = findings(loaded).iter().any(|finding| finding.severity == Severity::Error);
    assert_eq!(has_error, loaded.is_err(), "it is refused without an error, or taken with one");
    findings(loaded).iter().for_each(|finding| look_at_one(finding, lines));
    if let Ok((config, _)) = loaded {
        assert!(!config.node.is_empty() || config.vips.is_empty());
        let _ = config.folders();
    }
}

fn look_at_one(finding: &Diagnostic, lines: usize) {
    assert!(!finding.message.is_empty() && !finding.help.is_empty());
    let shown = finding.to_string();
    // Cause; with a place the line itself, and a mark below it; and the way out.
    let most = if finding.line.is_some() { 4 } else { 2 };
    assert!(shown.lines().count() <= most && shown.lines().all(is_a_line), "{shown:?}");
    if let Some(place) = finding.place {
        assert!((1..=lines + 1).contains(&place.line) && place.column >= 1, "{place:?} of {lines} lines");
    }
}
