//! Each folder of `convert/` has files of what vipd replaces, the `arguments` of `vipd convert`, and what it must say: `expected.yaml` is
//! the configuration, `expected.report` the exit code and the report. `VIPD_BLESS=1 cargo test --workspace --test convert` writes both anew, for
//! review.

#![expect(clippy::unwrap_used, reason = "a test that can't go on says where")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// All there is to convert, in the order of names.
fn setups() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/convert");
    let mut setups: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    setups.sort();
    setups
}

fn name(setup: &Path) -> String {
    setup.file_name().unwrap().to_string_lossy().into_owned()
}

fn convert(setup: &Path) -> Output {
    let arguments = fs::read_to_string(setup.join("arguments")).unwrap();
    Command::new(env!("CARGO_BIN_EXE_vipd"))
        .arg("convert")
        .args(arguments.split_whitespace())
        .current_dir(setup)
        .output()
        .unwrap()
}

#[test]
fn each_setup_becomes_what_is_expected() {
    let setups = setups();
    assert!(setups.len() > 40, "only {} setups", setups.len());
    let mut differing = Vec::new();
    for setup in setups {
        let output = convert(&setup);
        let report =
            format!("exit {}\n{}", output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap());
        for (file, text) in
            [("expected.yaml", String::from_utf8(output.stdout).unwrap()), ("expected.report", report)]
        {
            let file = setup.join(file);
            if std::env::var_os("VIPD_BLESS").is_some() {
                fs::write(&file, &text).unwrap();
            }
            if fs::read_to_string(&file).unwrap_or_default() != text {
                differing.push(format!("{}:\n{text}", file.display()));
            }
        }
    }
    assert!(differing.is_empty(), "not as expected:\n{}", differing.join("\n"));
}

#[test]
fn what_is_printed_is_a_configuration_that_vipd_takes() {
    let mut printed = 0;
    for setup in setups() {
        let output = convert(&setup);
        if output.stdout.is_empty() {
            assert_ne!(output.status.code(), Some(0), "{} came to nothing", name(&setup));
            continue;
        }
        printed += 1;
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("convert-{}.yaml", name(&setup)));
        fs::write(&file, &output.stdout).unwrap();
        let check = Command::new(env!("CARGO_BIN_EXE_vipd"))
            .args(["check", "--config-only", "-c"])
            .arg(&file)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&check.stderr);
        assert_eq!(check.status.code(), Some(0), "{}: {said}", name(&setup));
    }
    assert!(printed >= 15, "only {printed} setups came to a configuration");
}

/// The setups of the documentation are complete; a file that can't be read is one line that says what would be right.
#[test]
fn exit_codes_say_whether_something_is_missing() {
    for setup in setups() {
        let output = convert(&setup);
        let said = String::from_utf8_lossy(&output.stderr);
        let name = name(&setup);
        let code = match name.split('-').next().unwrap() {
            "setup" | "nginx" | "ipv6" | "unicast" => 0,
            "missing" => 65,
            "bad" => {
                assert_eq!(said.lines().count(), 1, "{name}: {said}");
                assert!(said.starts_with("error: ") && said.contains("; "), "{name}: {said}");
                78
            }
            _ => continue,
        };
        assert_eq!(output.status.code(), Some(code), "{name}: {said}");
        assert!(code == 0 || output.stdout.is_empty(), "{name} printed something");
    }
}

/// Every line with words on it is told of, in one way or another.
#[test]
fn no_line_is_dropped_in_silence() {
    for setup in setups()
        .into_iter()
        .filter(|setup| !name(setup).starts_with("bad") && !name(setup).starts_with("kube-vip"))
    {
        let output = convert(&setup);
        let said = String::from_utf8_lossy(&output.stderr);
        for file in ["keepalived.conf", "haproxy.cfg", "nginx.conf"] {
            let Ok(text) = fs::read_to_string(setup.join(file)) else { continue };
            for (place, line) in text.lines().enumerate() {
                let line = line.trim();
                let silent =
                    line.is_empty() || line.starts_with(['#', '!', '$']) || matches!(line, "{" | "}" | "{}");
                let told = said.contains(&format!("  {file}:{}: ", place + 1));
                assert!(silent || told, "{}/{file}:{}: {line}\n{said}", setup.display(), place + 1);
            }
        }
    }
}

#[test]
fn a_missing_file_a_folder_and_a_wrong_option_are_told_apart() {
    let convert = |arguments: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_vipd")).arg("convert").args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = convert(&["/nonexistent/keepalived.conf"]);
    assert!(code == Some(78) && said.contains("No such file"), "{said}");
    let (code, said) = convert(&["/"]);
    assert!(code == Some(78) && said.contains("is a directory"), "{said}");
    let (code, said) = convert(&["x", "--peer", "a"]);
    assert!(code == Some(64) && said.contains("NAME=ADDRESS"), "{said}");
    let (code, _) = convert(&[]);
    assert_eq!(code, Some(64));
}

/// What has no end, or is no file, is not opened.
#[test]
fn a_device_that_a_pod_mounts_is_named_and_not_read() {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("convert-device.yaml");
    let manifest = "apiVersion: v1\nkind: Pod\nmetadata: {name: haproxy}\nspec:\n  containers: [{name: haproxy, image: haproxy}]\n  \
                    volumes: [{name: a, hostPath: {path: /dev/zero}}, {name: b, hostPath: {path: /}}]\n";
    fs::write(&file, manifest).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_vipd")).arg("convert").arg(&file).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(65), "{said}");
    assert!(said.contains("/dev/zero (is neither a file nor a folder), / (no configuration)"), "{said}");
}
