//! The invariants of ARCHITECTURE.md that a text search can check, over the sources of every crate.

#![expect(clippy::unwrap_used, reason = "a test that can't go on says where")]

use std::fs;
use std::path::{Path, PathBuf};

/// A file's lines are about as many as a reader holds in mind; a little over is a judgement, twice is not.
const LINES_MAX: usize = 560;

/// Modules that decide and do nothing else. A new pure module belongs in this list.
const PURE: &[&str] = &[
    "leader/src/clients",
    "leader/src/dice.rs",
    "leader/src/kubernetes/endpoints.rs",
    "leader/src/kubernetes/event.rs",
    "leader/src/kubernetes/object.rs",
    "leader/src/kubernetes/servers.rs",
    "leader/src/leadership.rs",
    "leader/src/lease",
    "leader/src/message.rs",
    "leader/src/node.rs",
    "leader/src/notes.rs",
    "leader/src/quorum",
    "leader/src/session.rs",
    "leader/src/timing.rs",
    "lb/src/forward.rs",
    "lb/src/forward/slots.rs",
    "lb/src/age.rs",
    "lb/src/health.rs",
    "lb/src/policy.rs",
    "lb/src/pool.rs",
    "lb/src/readiness.rs",
    "lb/src/silence.rs",
    "lb/src/redirect.rs",
    "lb/src/roster.rs",
    "lb/src/tables.rs",
    "lb/src/slow_start.rs",
    "lb/src/source_hash.rs",
    "nft/src/attribute.rs",
    "nft/src/message.rs",
    "nft/src/reading.rs",
    "nft/src/rule.rs",
    "nft/src/ruleset",
    "nft/src/set.rs",
    "vip/src/address.rs",
    "vip/src/announce.rs",
    "vip/src/arp.rs",
    "vip/src/failure.rs",
    "vip/src/linux/fence/tables.rs",
    "vip/src/lookout.rs",
    "vip/src/ndp.rs",
    "vip/src/ownership.rs",
    "vip/src/relay.rs",
    "vip/src/tickle.rs",
    "vipd/src/convert/haproxy",
    "vipd/src/convert/hosts.rs",
    "vipd/src/convert/keepalived",
    "vipd/src/convert/kind.rs",
    "vipd/src/convert/kube_vip.rs",
    "vipd/src/convert/mounts.rs",
    "vipd/src/convert/nginx.rs",
    "vipd/src/convert/report.rs",
    "vipd/src/convert/setup.rs",
    "vipd/src/convert/time.rs",
    "vipd/src/convert/write.rs",
    "vipd/src/daemon/clients/roll.rs",
    "vipd/src/daemon/moves.rs",
    "vipd/src/daemon/record/label.rs",
    "vipd/src/daemon/record/ration.rs",
    "vipd/src/daemon/record/story.rs",
    "vipd/src/punctuality/delays.rs",
    "vipd/src/status/timeline.rs",
    "vipd/src/status/watch/view.rs",
    "vipd/src/punctuality/trial.rs",
    "vipd/src/web/health.rs",
];

/// What a pure module must not name.
const IMPURE: &[&str] = &[
    "tokio",
    "Socket",
    "Instant::now",
    "SystemTime",
    "Rng::new",
    "Rng::with_seed(fastrand",
    "SystemRandom",
    "std::thread",
];

/// The crates of this project.
const CRATES: &[&str] = &["leader", "vip", "lb", "nft", "vipd", "lab"];

fn crates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// All Rust files below a file or folder, with their text.
fn sources(path: &Path) -> Vec<(PathBuf, String)> {
    if path.is_file() {
        return vec![(path.to_owned(), fs::read_to_string(path).unwrap())];
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())) {
        let path = entry.unwrap().path();
        if path.is_dir() || path.extension().is_some_and(|extension| extension == "rs") {
            found.extend(sources(&path));
        }
    }
    found.sort();
    found
}

/// The lines that are code: without comments, and without the tests at the end.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .take_while(|(_, line)| !line.starts_with("#[cfg(test)]"))
        .map(|(number, line)| (number + 1, line.split("//").next().unwrap_or_default()))
}

fn is_test(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "tests.rs")
        || path.components().any(|part| part.as_os_str() == "tests")
}

#[test]
fn pure_modules_name_nothing_impure() {
    let mut found = Vec::new();
    for module in PURE {
        for (path, text) in sources(&crates().join(module)) {
            if is_test(&path) {
                continue;
            }
            for (number, line) in code(&text) {
                // An address of a socket is a value like any other.
                let line = line.replace("SocketAddr", "");
                for word in IMPURE.iter().filter(|word| line.contains(**word)) {
                    found.push(format!("{}:{number} names {word}", path.display()));
                }
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_crates_that_decide_depend_on_none_of_each_other() {
    let rooms = ["leader", "vip", "lb"];
    // What two of them share knows neither.
    for room in rooms.into_iter().chain(["nft"]) {
        let manifest = fs::read_to_string(crates().join(room).join("Cargo.toml")).unwrap();
        for other in rooms.iter().filter(|other| **other != room) {
            let depends = manifest
                .lines()
                .any(|line| line.split(['.', ' ', '=']).next() == Some(other) && !line.starts_with("name"));
            assert!(!depends, "{room} depends on {other}");
        }
    }
}

#[test]
fn unsafe_code_and_libc_stay_in_one_module_per_crate() {
    for name in CRATES {
        let mut modules = Vec::new();
        for (path, text) in sources(&crates().join(name).join("src")) {
            let has = code(&text).any(|(_, line)| {
                // Names of numbers, such as `libc::SYS_read`, are only that.
                line.split("libc::").skip(1).any(|rest| !rest.starts_with(|c: char| c.is_ascii_uppercase()))
                    || line.contains("unsafe {")
                    || line.contains("unsafe fn")
                    || line.contains("unsafe impl")
            });
            if has {
                modules.push(path);
            }
        }
        assert!(modules.len() <= 1, "{name} has unsafe code or libc in {modules:?}");
    }
}

#[test]
fn no_wall_clock_takes_part_in_a_decision() {
    for name in ["leader", "vip", "lb", "nft", "vipd"] {
        for (path, text) in sources(&crates().join(name).join("src")) {
            for (number, line) in code(&text) {
                assert!(!line.contains("SystemTime"), "{}:{number} names SystemTime", path.display());
            }
        }
    }
}

#[test]
fn channels_have_bounds() {
    for name in CRATES {
        for (path, text) in sources(&crates().join(name).join("src")) {
            for (number, line) in code(&text) {
                assert!(!line.contains("unbounded"), "{}:{number} makes something unbounded", path.display());
            }
        }
    }
}

#[test]
fn files_stay_readable_and_rooms_are_named_for_their_question() {
    let refused = ["utils", "util", "common", "helpers", "helper", "types", "manager", "misc"];
    for name in CRATES {
        for (path, text) in sources(&crates().join(name)) {
            if path.components().any(|part| part.as_os_str() == "target") {
                continue;
            }
            let lines = text.lines().count();
            assert!(lines <= LINES_MAX, "{} has {lines} lines", path.display());
            let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
            assert!(!refused.contains(&stem.as_str()), "{} is named after furniture", path.display());
        }
    }
}
