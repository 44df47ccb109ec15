//! Pages that repeat what stands elsewhere, and are compared with it: docs/troubleshooting.md quotes vipd, and names findings and
//! metrics; docs/comparison.md has figures of the README.

#![expect(clippy::unwrap_used, reason = "a test that can't go on says where")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn document(name: &str) -> String {
    fs::read_to_string(repository().join("docs").join(name)).unwrap()
}

/// The sources of what runs on a host, each string in one line.
fn sources() -> String {
    let mut text = String::new();
    for part in ["leader", "vip", "lb", "nft", "vipd"] {
        read(&repository().join("crates").join(part).join("src"), &mut text);
    }
    // Rust leaves out the white space that a continued line begins with.
    let mut parts = text.split("\\\n");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |joined, part| joined + part.trim_start())
}

fn read(path: &Path, text: &mut String) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            read(&entry.unwrap().path(), text);
        }
    } else if path.file_name().is_some_and(|name| name != "tests.rs") {
        text.push_str(&fs::read_to_string(path).unwrap());
    }
}

/// The words between backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// The cells of the rows of all tables.
fn rows(document: &str) -> Vec<Vec<String>> {
    let rows = document.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| what you see"));
    rows.map(|line| {
        // A bar in a cell is written with a backslash.
        let line = line.replace("\\|", "\u{0}");
        line.trim_matches('|').split('|').map(|cell| cell.replace('\u{0}', "|")).collect()
    })
    .collect()
}

/// What is quoted in a cell and not in the sources, between its ellipses.
fn unsaid<'a>(cell: &'a str, sources: &str) -> Option<&'a str> {
    quoted(cell).flat_map(|text| text.split('…')).map(str::trim).find(|piece| !sources.contains(piece))
}

/// What a cell names that looks like a finding of `vipd check` or a metric and is none.
fn unknown<'a>(cell: &'a str, known: &BTreeSet<String>) -> Option<&'a str> {
    let is_name = |text: &str| {
        text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-') || text.starts_with("vipd_")
    };
    quoted(cell).find(|text| is_name(text) && !known.contains(*text))
}

/// The findings and the metrics that are documented, which other tests compare with those that there are.
fn known() -> BTreeSet<String> {
    let names = |name| {
        let text = document(name);
        let first = |line: &str| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned());
        text.lines().filter_map(first).collect::<Vec<_>>()
    };
    names("check.md").into_iter().chain(names("reference/metrics.md")).collect()
}

#[test]
fn each_quotation_is_vipds_and_each_name_exists() {
    let (sources, known) = (sources(), known());
    let rows = rows(&document("troubleshooting.md"));
    for row in &rows {
        assert!(matches!(row.len(), 3 | 4), "{row:?}");
        assert_eq!(unsaid(&row[0], &sources), None, "{row:?}");
        if row.len() == 4 {
            assert_eq!(unknown(&row[2], &known), None, "{row:?}");
        }
    }
    assert!(rows.len() > 50, "{} rows were found", rows.len());
}

/// What is tested somewhere in the workspace, by the functions' names.
fn functions() -> BTreeSet<String> {
    fn walk(path: &Path, found: &mut BTreeSet<String>) {
        if path.is_dir() {
            fs::read_dir(path).unwrap().for_each(|entry| walk(&entry.unwrap().path(), found));
        } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "go") {
            let text = fs::read_to_string(path).unwrap();
            let names = text.lines().filter_map(|line| {
                let line = line.trim_start().trim_start_matches("async ");
                line.strip_prefix("fn ").or_else(|| line.strip_prefix("func "))?.split(['(', '<']).next()
            });
            found.extend(names.map(str::to_owned));
        }
    }
    let mut found = BTreeSet::new();
    for part in ["crates", "tests", "fuzz/kept.rs"] {
        walk(&repository().join(part), &mut found);
    }
    found
}

#[test]
fn each_defence_of_the_threat_model_names_tests_that_exist() {
    let functions = functions();
    let rows = rows(&document("threat-model.md"));
    let named: Vec<&str> = rows.iter().filter_map(|row| row.get(2)).flat_map(|cell| quoted(cell)).collect();
    for name in &named {
        assert!(functions.contains(*name), "{name} is no test (any more)");
    }
    assert!(named.len() > 40, "{named:?}");
    let is_defence = |row: &&Vec<String>| row.len() == 3 && row[0].trim() != "what it may do";
    let without: Vec<_> =
        rows.iter().filter(is_defence).filter(|row| quoted(&row[2]).next().is_none()).collect();
    // Those that say that nothing stops it.
    assert!(without.len() <= 4, "defences without a test: {without:#?}");
}

/// The figures of a text that are a median and a worst one: `8 / 10 ms`.
fn figures(text: &str) -> Vec<String> {
    let words: Vec<&str> =
        text.split_whitespace().map(|word| word.trim_end_matches([',', ';', '.', ':', ')'])).collect();
    let figures = words.windows(4).filter(|four| four[1] == "/" && matches!(four[3], "ms" | "µs"));
    figures.map(|four| four.join(" ")).collect()
}

#[test]
fn each_figure_of_the_comparison_is_in_the_readme() {
    let readme = figures(&document("../README.md").replace('|', " "));
    let repeated = figures(&document("comparison.md"));
    for figure in &repeated {
        assert!(readme.contains(figure), "{figure} is not in README.md (any more)");
    }
    assert!(repeated.len() > 10, "{repeated:?}");
}

#[test]
fn a_figure_is_found_in_a_sentence() {
    let text = "It had 20.5 / 25 ms, the other\n136 / 679 µs; 7 / 8 of them 0.1 ms";
    assert_eq!(figures(text), ["20.5 / 25 ms", "136 / 679 µs"]);
}

#[test]
fn a_wrong_quotation_or_name_is_noticed() {
    let sources = "\"failed to listen on {address} for frontend {frontend}: the port is taken\"";
    assert_eq!(unsaid(" `failed to listen on … for frontend …: the port is taken` ", sources), None);
    assert_eq!(unsaid(" `the port is taken`, `the port is gone` ", sources), Some("the port is gone"));
    let known = BTreeSet::from(["port".to_owned(), "vipd_leader".to_owned()]);
    assert_eq!(unknown(" `port`, `vipd_leader`, `ss -ltnp` ", &known), None);
    assert_eq!(unknown(" `ports` ", &known), Some("ports"));
    assert_eq!(unknown(" `vipd_led` ", &known), Some("vipd_led"));
    assert_eq!(rows("| what you see | b |\n|---|---|\n| a `b \\| c` | d |"), [[" a `b | c` ", " d "]]);
}
