//! Every file of `config/invalid` is refused with exactly its expected text; every file of `config/valid` is taken, with
//! exactly its expected warnings. `VIPD_BLESS=1 cargo test -p vipd --test config` writes the texts anew, for review.

#![expect(clippy::unwrap_used, reason = "a test that can't go on says where")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config").join(name)
}

/// Checks one file alone; gives the exit code and what was said.
fn check_file(file: &Path) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_vipd"))
        .args(["check", "--config-only", "-c"])
        .arg(file)
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// Checks each file of a folder; a file's name stands in its messages without the folder.
fn each(name: &str, code: i32) {
    let folder = folder(name);
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    assert!(files.len() > 5, "{} has hardly any files", folder.display());
    let mut differing = Vec::new();
    for file in files {
        let output = Command::new(env!("CARGO_BIN_EXE_vipd"))
            .args(["check", "--config-only", "-c"])
            .arg(file.file_name().unwrap())
            .current_dir(&folder)
            .output()
            .unwrap();
        assert_eq!(output.stdout, b"", "{} printed to stdout", file.display());
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{}: {text}", file.display());
        let expected = file.with_extension("expected");
        if std::env::var_os("VIPD_BLESS").is_some() {
            fs::write(&expected, &text).unwrap();
        }
        if fs::read_to_string(&expected).unwrap_or_default() != text {
            differing.push(format!("{}:\n{text}", file.display()));
        }
    }
    assert!(differing.is_empty(), "not as expected:\n{}", differing.join("\n"));
}

#[test]
fn invalid_files_are_refused_with_the_place_and_the_way_out() {
    each("invalid", 78);
    for entry in fs::read_dir(folder("invalid")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "expected") {
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.starts_with("error: ") || text.contains("\nerror: "), "{}", path.display());
            assert!(text.contains("\n  help: "), "{} shows no way out", path.display());
        }
    }
}

#[test]
fn valid_files_are_taken_and_warn_where_they_should() {
    each("valid", 0);
}

#[test]
fn the_sample_is_a_valid_file_without_warnings() {
    let sample = Command::new(env!("CARGO_BIN_EXE_vipd")).args(["sample", "config"]).output().unwrap();
    assert!(sample.status.success() && sample.stderr.is_empty());
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sample.yaml");
    fs::write(&file, &sample.stdout).unwrap();
    let (code, text) = check_file(&file);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
}

/// The keys that stand commented out in the sample are real ones: with its comment sign taken away, none is unknown.
#[test]
fn the_sample_explains_only_keys_that_exist() {
    let sample =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/sample/config.yaml")).unwrap();
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sample-key.yaml");
    let mut keys = 0;
    for (number, line) in sample.lines().enumerate() {
        let Some((indent, rest)) = line.split_once("# ") else { continue };
        let key = rest.split(':').next().unwrap_or_default();
        let is_key = indent.trim().is_empty()
            && indent.len() <= 2
            && rest.contains(':')
            && !key.is_empty()
            && key.chars().all(char::is_alphabetic)
            && key != "vipd";
        if !is_key {
            continue;
        }
        keys += 1;
        let mut lines: Vec<String> = sample.lines().map(str::to_owned).collect();
        lines[number] = format!("{indent}{rest}");
        fs::write(&file, lines.join("\n")).unwrap();
        let (_, text) = check_file(&file);
        assert!(!text.contains("unknown") && !text.contains("not YAML"), "`{key}`: {text}");
    }
    assert!(keys >= 12, "the sample explains only {keys} more keys");
}

#[test]
fn a_missing_file_and_a_folder_are_told_apart() {
    let check = |path: &Path| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_vipd")).args(["check", "-c"]).arg(path).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, text) = check(Path::new("/nonexistent/config.yaml"));
    assert_eq!(code, Some(78));
    assert!(text.contains("No such file") && text.contains("vipd sample config"), "{text}");
    let (code, text) = check(&folder("valid"));
    assert_eq!(code, Some(78));
    assert!(text.contains("is a directory"), "{text}");
}

/// What a released version took, each later one takes. A release adds a folder of its own, and none is ever changed.
#[test]
fn files_of_released_versions_are_taken() {
    let mut files = 0;
    for version in fs::read_dir(folder("released")).unwrap() {
        for file in fs::read_dir(version.unwrap().path()).unwrap() {
            let file = file.unwrap().path();
            let (code, text) = check_file(&file);
            assert_eq!(code, Some(0), "{}: {text}", file.display());
            files += 1;
        }
    }
    assert!(files > 40, "there are hardly any");
}
