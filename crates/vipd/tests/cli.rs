//! The command line as a user types it.

#![expect(clippy::unwrap_used, reason = "a test that can't go on says where")]

use std::process::{Command, Output};

fn vipd(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vipd")).args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

#[test]
fn the_version_is_one_line() {
    let output = vipd(&["version"]);
    assert!(output.status.success());
    assert_eq!(stdout(&output), format!("vipd {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_manifest_is_all_that_stdout_carries() {
    let output = vipd(&["sample", "manifest"]);
    assert!(output.status.success());
    assert!(stdout(&output).starts_with("apiVersion: v1\nkind: Pod\n"), "{}", stdout(&output));
    assert_eq!(stderr(&output), "");
}

#[test]
fn a_leading_program_name_changes_nothing() {
    let plain = vipd(&["sample", "manifest"]).stdout;
    assert_eq!(vipd(&["/kube-vip", "sample", "manifest"]).stdout, plain);
    assert_eq!(vipd(&["/vipd", "sample", "manifest"]).stdout, plain);
}

#[test]
fn wrong_usage_exits_with_64_and_says_what_is_right() {
    for arguments in
        [&["fly"][..], &["start"], &["start", "-c"], &["check", "--quick"], &["sample", "manifesto"], &[]]
    {
        let output = vipd(arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{arguments:?}");
        assert!(
            stderr(&output).contains("Usage: vipd") || stderr(&output).contains("--help"),
            "{arguments:?}: {}",
            stderr(&output)
        );
    }
    let output = vipd(&["start", "-c", "/etc/hostname", "--log-level", "info,=,"]);
    assert_eq!(output.status.code(), Some(64), "{}", stderr(&output));
}

#[test]
fn help_goes_to_stdout() {
    let output = vipd(&["--help"]);
    assert!(output.status.success());
    assert!(stdout(&output).contains("sample"), "{}", stdout(&output));
}

#[test]
fn completions_name_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let output = vipd(&["completion", shell]);
        assert!(output.status.success());
        for command in ["start", "check", "sample", "status", "version"] {
            assert!(stdout(&output).contains(command), "{shell} lacks {command}");
        }
    }
}

#[test]
fn status_without_a_daemon_says_so_and_exits_with_69() {
    let output = vipd(&["status", "--socket", "/nonexistent/vipd.sock"]);
    assert_eq!(output.status.code(), Some(69));
    assert!(stderr(&output).contains("no vipd runs here"), "{}", stderr(&output));
}

#[test]
fn a_broken_configuration_is_refused_by_start_too() {
    let output = vipd(&["start", "-c", "/nonexistent/config.yaml"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(stderr(&output).contains("help: "), "{}", stderr(&output));
}

/// `manifests/` is what the generator prints: change the generator, then write its output there.
#[test]
fn the_files_in_manifests_are_the_generated_ones() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../manifests");
    for (arguments, file) in
        [(["sample", "manifest"], "static-pod.yaml"), (["sample", "config"], "config.yaml")]
    {
        let kept = std::fs::read_to_string(folder.join(file)).unwrap();
        assert_eq!(
            stdout(&vipd(&arguments)),
            kept,
            "manifests/{file}: write it anew with `vipd {}`",
            arguments.join(" ")
        );
    }
}
