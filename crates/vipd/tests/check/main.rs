//! Broken machines: each of what `vipd check` finds, provoked for real in network namespaces, where a machine that is well has nothing
//! to find.

#![expect(clippy::unwrap_used, reason = "all of this is test code, helpers included")]

mod apiserver;
mod bench;
mod cluster;
mod machine;
mod network;
mod peers;
mod ports;

#[expect(dead_code, reason = "the rig of tests/daemon, of which not all is needed here")]
#[path = "../daemon/rig.rs"]
mod rig;

use bench::{Bench, SAID_WELL};

#[test]
fn a_machine_that_is_well_has_nothing_to_find() {
    let Some(bench) = Bench::new("well") else { return };
    let findings = bench.check(&bench.config());
    findings.are(&[]);
    // What is well is said, too.
    for id in SAID_WELL {
        assert!(findings.all().any(|finding| finding["id"] == *id), "nothing is said of {id}: {findings}");
    }
    assert_eq!(findings.code, Some(0), "{findings}");
}

/// The form that docs/check.md promises.
#[test]
fn json_and_the_lines_for_people_say_the_same() {
    let Some(bench) = Bench::new("form") else { return };
    bench.here.ip("address add 10.0.0.9/32 dev eth0");
    let config = bench.config();
    let findings = bench.check(&config);
    assert_eq!(findings.document["form"], 1, "{findings}");
    assert_eq!(findings.document["exit"], 78, "{findings}");
    let people = bench.run(&[], &config, &[]);
    assert_eq!(people.stdout, b"");
    assert_eq!(people.status.code(), Some(78));
    let said = String::from_utf8(people.stderr).unwrap();
    for finding in findings.all() {
        let text = |key: &str| finding[key].as_str().unwrap();
        // What was measured differs from time to time.
        if text("id") == "round-trip" {
            continue;
        }
        let mut lines = format!("{}: {}\n", text("verdict"), text("found"));
        if text("verdict") != "ok" {
            lines += &format!("  why: {}\n  help: {}\n", text("why"), text("mend"));
        } else {
            assert!(finding["why"].is_null() && finding["mend"].is_null(), "{finding}");
        }
        assert!(said.contains(&lines), "no `{lines}` in\n{said}");
    }
}

#[test]
fn a_file_that_cannot_be_used_is_a_finding_like_any_other() {
    let Some(bench) = Bench::new("configuration") else { return };
    let findings = bench.check("vip: 10.0.0.9\nintreface: eth0\nsingleNode: true\n");
    findings.are(&[("configuration", "error")]);
    findings.tell("configuration", "intreface", "interface");
    assert_eq!(findings.code, Some(78), "{findings}");
}
