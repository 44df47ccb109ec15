//! docs/failures.md says of each failure what proves it: a fault of the lab, or a test. Each of these has to exist.

#![expect(clippy::unwrap_used, reason = "a test that can't go on says where")]

use std::fs;
use std::path::{Path, PathBuf};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The text of a file, or of all files of a folder.
fn text(path: &Path) -> String {
    if path.is_dir() {
        return fs::read_dir(path).unwrap().map(|entry| text(&entry.unwrap().path())).collect();
    }
    fs::read_to_string(path).unwrap_or_default()
}

/// The words between backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// What is wrong with the proofs of a row: each part is faults or commands of the lab, or tests and where they are.
fn wrong(cell: &str, faults: &str) -> Option<String> {
    for part in cell.split(';') {
        let words: Vec<&str> = quoted(part).collect();
        let (tests, place) = match words.split_last() {
            None => return Some("nothing is named".to_owned()),
            Some((place, tests)) if place.contains('/') => (tests, text(&repository().join(place))),
            Some(_) => (&[][..], String::new()),
        };
        if words.last().is_some_and(|place| place.contains('/')) && tests.is_empty() {
            return Some("a place without a test".to_owned());
        }
        if let Some(missing) = tests
            .iter()
            .find(|test| !place.contains(&format!("fn {test}(")) && !place.contains(&format!("func {test}(")))
        {
            return Some(format!("there is no test {missing} there"));
        }
        let of_lab =
            |word: &&&str| faults.contains(&format!("=> \"{word}\"")) || word.starts_with("vipd-lab ");
        if tests.is_empty()
            && let Some(missing) = words.iter().find(|word| !of_lab(word))
        {
            return Some(format!("the lab has no fault {missing}"));
        }
    }
    None
}

#[test]
fn each_failure_names_what_proves_it() {
    let faults = text(&repository().join("crates/lab/src/fault.rs"));
    let document = text(&repository().join("docs/failures.md"));
    let mut rows = 0;
    for line in document.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| what breaks")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').collect();
        assert_eq!(cells.len(), 4, "{line}");
        assert_eq!(wrong(cells[3], &faults), None, "{line}");
        rows += 1;
    }
    assert!(rows > 30, "{rows} rows were found");
}

#[test]
fn a_proof_that_is_not_there_is_noticed() {
    let faults = "Self::Mute => \"mute\"";
    assert_eq!(wrong("`mute`", faults), None);
    assert_eq!(wrong("`each_failure_names_what_proves_it` in `crates/vipd/tests/failures.rs`", faults), None);
    for cell in [
        "by hand",
        "`deaf`",
        "`mute`; `crates/vipd/tests/failures.rs`",
        "`each_failure` in `crates/vipd/tests/failures.rs`",
        "`each_failure_names_what_proves_it` in `crates/vipd/tests/cli.rs`",
        "`each_failure_names_what_proves_it`",
    ] {
        assert!(wrong(cell, faults).is_some(), "{cell}");
    }
}
