//! docs/unsafe.md, compared with the sources: each use of `unsafe` is argued for, by a test that exists.

#![expect(clippy::unwrap_used, reason = "a test that can't go on says where")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Each Rust file of the workspace by its path in the repository, with its text.
fn sources() -> BTreeMap<String, String> {
    fn walk(folder: &Path, found: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(repository().join(folder)).unwrap() {
            let path = folder.join(entry.unwrap().file_name());
            let whole = repository().join(&path);
            if whole.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.insert(path.to_string_lossy().into_owned(), fs::read_to_string(whole).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(Path::new("crates"), &mut found);
    // Its strings are longer than a line.
    found.remove(file!());
    found
}

/// What makes code unsafe.
const FORMS: [&str; 5] = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe trait", "unsafe extern"];

/// How often a text has one of these, outside of comments and of strings, which end with their line.
fn uses(text: &str) -> usize {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let in_code = |line: &str, at: usize| line[..at].matches('"').count().is_multiple_of(2);
    code.flat_map(|line| FORMS.iter().map(move |form| (line, form)))
        .map(|(line, form)| line.match_indices(form).filter(|(at, _)| in_code(line, *at)).count())
        .sum()
}

/// The rows of the page: file, what in it, how many, and the tests that run it.
fn rows(page: &str) -> Vec<(String, String, usize, Vec<String>)> {
    let rows = page.lines().filter(|line| line.starts_with("| `crates/"));
    rows.map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').collect();
        let [place, count, does, needs, _, tests] = cells[..] else { panic!("not six cells: {line}") };
        assert!(!does.trim().is_empty() && !needs.trim().is_empty(), "an empty cell: {line}");
        let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
        let [file, what] = &quoted(place)[..] else { panic!("no file and name: {line}") };
        (file.clone(), what.clone(), count.trim().parse().unwrap(), quoted(tests))
    })
    .collect()
}

#[test]
fn each_use_of_unsafe_is_argued_for() {
    let sources = sources();
    let page = fs::read_to_string(repository().join("docs/unsafe.md")).unwrap();
    let mut told = BTreeMap::<String, usize>::new();
    for (file, what, count, _) in rows(&page) {
        let text = sources.get(&file).unwrap_or_else(|| panic!("{file} is not there (any more)"));
        assert!(text.contains(&what), "{file} has no {what} (any more)");
        *told.entry(file).or_default() += count;
    }
    let there: BTreeMap<_, _> =
        sources.into_iter().map(|(file, text)| (file, uses(&text))).filter(|(_, count)| *count > 0).collect();
    assert_eq!(there, told, "what is there, and what docs/unsafe.md has");
}

#[test]
fn each_test_that_runs_it_exists() {
    let sources: String = sources().into_values().collect();
    let functions: BTreeSet<&str> = sources
        .lines()
        .filter_map(|line| line.trim_start().strip_suffix("() {")?.rsplit(' ').next())
        .collect();
    let page = fs::read_to_string(repository().join("docs/unsafe.md")).unwrap();
    let rows = rows(&page);
    for test in rows.iter().flat_map(|(.., tests)| tests).filter(|test| !test.starts_with("--test ")) {
        assert!(functions.contains(test.as_str()), "{test} is no test (any more)");
    }
    assert!(rows.iter().all(|(.., tests)| !tests.is_empty()), "something that no test runs");
}

#[test]
fn blocks_functions_and_implementations_count_and_words_do_not() {
    let text = "// SAFETY: no unsafe { here\nunsafe impl A for B {\n    unsafe fn c() {}\n}\nlet d = unsafe { e };\nf(unsafe { g });\n\
                #[expect(unsafe_code, reason = \"an unsafe call\")]\nlet h = \"unsafe { i }\";\nArgs::from(\"--unsafe-no\");\n";
    assert_eq!(uses(text), 4);
    let row = "| where | how many |\n| `crates/a.rs`: `b` | 2 | c | d | e | `f_g`, `h` |\n";
    let expected = ("crates/a.rs".to_owned(), "b".to_owned(), 2, vec!["f_g".to_owned(), "h".to_owned()]);
    assert_eq!(rows(row), [expected]);
}
