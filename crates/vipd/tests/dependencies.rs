//! docs/dependencies.md, compared with the manifests: each direct dependency is argued for, by name, by who takes it, and by features.

#![expect(clippy::unwrap_used, reason = "a test that can't go on says where")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The crates of which the binary is made.
const BINARY: [&str; 5] = ["leader", "vip", "lb", "nft", "vipd"];

/// Who takes a dependency, and by which features; `defaults` stands for those that are on by themselves.
#[derive(Debug, Default, PartialEq, Eq)]
struct Taken {
    by: BTreeSet<String>,
    features: BTreeSet<String>,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn manifest(folder: &str) -> String {
    fs::read_to_string(repository().join(folder).join("Cargo.toml")).unwrap()
}

/// The entries of a section of a manifest, each of which is one line: name and what follows it.
fn entries<'a>(manifest: &'a str, section: &str) -> Vec<(&'a str, &'a str)> {
    let from = manifest.lines().skip_while(|line| *line != format!("[{section}]")).skip(1);
    let lines = from.take_while(|line| !line.starts_with('['));
    let entries = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    entries.map(|line| line.split_at(line.find([' ', '.', '=']).unwrap())).collect()
}

/// The words between quotes that follow `features = [`.
fn features(entry: &str) -> BTreeSet<String> {
    let Some((_, list)) = entry.split_once(" features = [") else { return BTreeSet::new() };
    list.split(']').next().unwrap().split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Adds what a crate takes in one of its sections.
fn add(
    taken: &mut BTreeMap<String, Taken>,
    workspace: &BTreeMap<&str, &str>,
    (name, manifest): (&str, &str),
    section: &str,
) {
    for (dependency, entry) in entries(manifest, section) {
        if BINARY.contains(&dependency) {
            continue;
        }
        let shared = if entry.contains("workspace = true") { workspace[dependency] } else { entry };
        let found = taken.entry(dependency.to_owned()).or_default();
        found.by.insert(name.to_owned());
        found.features.extend(features(shared).into_iter().chain(features(entry)));
        if !shared.contains("default-features = false") {
            found.features.insert("defaults".to_owned());
        }
    }
}

/// What gets into the binary, and what only tests and the lab take.
fn taken() -> (BTreeMap<String, Taken>, BTreeMap<String, Taken>) {
    let root = manifest("");
    let workspace = entries(&root, "workspace.dependencies").into_iter().collect();
    let (mut binary, mut others) = (BTreeMap::new(), BTreeMap::new());
    for folder in fs::read_dir(repository().join("crates")).unwrap() {
        let name = folder.unwrap().file_name().into_string().unwrap();
        let text = manifest(&format!("crates/{name}"));
        assert!(
            !text.contains("build-dependencies]"),
            "{name} has a build script: say so in docs/dependencies.md"
        );
        assert!(
            !text.contains("[target."),
            "{name}: dependencies of one target alone are not looked at here"
        );
        let of_binary = BINARY.contains(&name.as_str());
        let normal = if of_binary { &mut binary } else { &mut others };
        add(normal, &workspace, (&name, &text), "dependencies");
        add(&mut others, &workspace, (&name, &text), "dev-dependencies");
    }
    others.retain(|dependency, _| !binary.contains_key(dependency));
    (binary, others)
}

/// The words between backticks.
fn quoted(cell: &str) -> impl Iterator<Item = String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned)
}

/// The rows of the table below a heading: name, and the other cells.
fn rows(document: &str, heading: &str) -> Vec<(String, Vec<String>)> {
    let lines = document.lines().skip_while(|line| *line != format!("## {heading}")).skip(1);
    let table = lines.take_while(|line| !line.starts_with("## ")).filter(|line| line.starts_with("| `"));
    let rows = table.map(|line| line.trim_matches('|').split('|').map(str::to_owned).collect::<Vec<_>>());
    rows.map(|cells| (quoted(&cells[0]).next().unwrap(), cells[1..].to_vec())).collect()
}

/// The features that a cell names: each with what it is for behind a colon, which may quote other things.
fn named_features(cell: &str) -> BTreeSet<String> {
    let parts = cell.split(';').map(|part| part.split(':').next().unwrap());
    parts
        .flat_map(|part| quoted(part).chain(part.contains("defaults").then(|| "defaults".to_owned())))
        .collect()
}

fn document() -> String {
    fs::read_to_string(repository().join("docs/dependencies.md")).unwrap()
}

#[test]
fn each_dependency_of_the_binary_is_argued_for_with_its_features() {
    let (binary, _) = taken();
    assert!(binary.len() > 20, "{binary:#?}");
    let rows = rows(&document(), "In the binary");
    for (name, cells) in &rows {
        assert_eq!(cells.len(), 5, "{name}: in, for what, what would replace it, licence, features");
        assert!(cells.iter().all(|cell| !cell.trim().is_empty()), "{name} has an empty cell");
    }
    let of = |(name, cells): (String, Vec<String>)| {
        (name, Taken { by: quoted(&cells[0]).collect(), features: named_features(&cells[4]) })
    };
    compare(&binary, &rows.into_iter().map(of).collect());
}

#[test]
fn so_is_each_of_tests_and_the_lab() {
    let (_, others) = taken();
    let without_features = others
        .into_iter()
        .map(|(name, taken)| (name, Taken { features: BTreeSet::new(), ..taken }))
        .collect();
    let of = |(name, cells): (String, Vec<String>)| {
        (name, Taken { by: quoted(&cells[0]).collect(), features: BTreeSet::new() })
    };
    let rows = rows(&document(), "In tests and the lab alone");
    compare(&without_features, &rows.into_iter().map(of).collect());
}

fn compare(manifests: &BTreeMap<String, Taken>, document: &BTreeMap<String, Taken>) {
    let mut wrong = Vec::new();
    for name in manifests.keys().chain(document.keys()).collect::<BTreeSet<_>>() {
        match (manifests.get(name), document.get(name)) {
            (Some(_), None) => wrong.push(format!("{name} is missing in docs/dependencies.md")),
            (None, Some(_)) => {
                wrong.push(format!("{name} is in docs/dependencies.md, and no dependency (any more)"))
            }
            (Some(is), Some(said)) if is != said => wrong.push(format!("{name} is {is:?}, not {said:?}")),
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn manifest_and_page_are_read_as_they_are_written() {
    let text = "[dependencies]\n# Why.\nhyper-util = { workspace = true, features = [\"client-legacy\"] }\nserde.workspace = true\n\n[lints]\nx = 1\n";
    assert_eq!(
        entries(text, "dependencies"),
        [
            ("hyper-util", " = { workspace = true, features = [\"client-legacy\"] }"),
            ("serde", ".workspace = true")
        ]
    );
    assert_eq!(features(entries(text, "dependencies")[0].1), BTreeSet::from(["client-legacy".to_owned()]));
    assert!(features(r#" = { version = "1", default-features = false }"#).is_empty());
    let cell = "defaults (help); `derive`: as `this`; `rustls-tls` and `ring`: the same";
    assert_eq!(
        named_features(cell).into_iter().collect::<Vec<_>>(),
        ["defaults", "derive", "ring", "rustls-tls"]
    );
    let page = "## A\n| `no` | x |\n## B\n\n| crate | in |\n|---|---|\n| `a` | `vip`, `lb` |\n";
    assert_eq!(rows(page, "B"), [("a".to_owned(), vec![" `vip`, `lb` ".to_owned()])]);
}

#[test]
#[should_panic(
    expected = "tokio is missing in docs/dependencies.md\nzlib is in docs/dependencies.md, and no dependency"
)]
fn one_that_is_missing_or_gone_is_noticed() {
    let with = |name: &str| BTreeMap::from([(name.to_owned(), Taken::default())]);
    compare(&with("tokio"), &with("zlib"));
}
