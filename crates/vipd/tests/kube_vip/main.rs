//! kube-vip's front door as a user types it: exit codes and streams.

#![expect(clippy::unwrap_used, reason = "a test that can't go on says where")]

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Output, Stdio};

/// Every name of kube-vip, with what becomes of it.
const NAMES: &str = include_str!("names.txt");

/// The least that makes a manifest.
const LEAST: &[&str] = &["--controlplane", "--arp", "--address", "10.0.0.40"];

fn vipd(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vipd"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// A manifest is made after the manager's own checks, so this shows both without a network.
#[test]
fn names_that_are_refused_exit_with_78_and_those_that_change_nothing_warn() {
    for line in NAMES.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        let [form, name, meaning, value] = words[..] else { panic!("{line}") };
        let flag = format!("--{name}={value}");
        let (output, origin) = if form == "flag" {
            (vipd(&[&["manifest", "pod"], LEAST, &[&flag]].concat(), &[]), format!("flag --{name}: "))
        } else {
            (vipd(&[&["manifest", "pod"], LEAST].concat(), &[(name, value)]), format!("environment {name}: "))
        };
        let said = stderr(&output);
        match meaning {
            "honoured" => assert_eq!(output.status.code(), Some(0), "{line}: {said}"),
            "warned" => {
                assert_eq!(output.status.code(), Some(0), "{line}: {said}");
                assert!(said.contains(&format!("warning: {origin}")), "{line}: {said}");
                assert!(stdout(&output).starts_with("apiVersion: v1\nkind: Pod\n"), "{line}");
            }
            "refused" => {
                assert_eq!(output.status.code(), Some(78), "{line}: {said}");
                assert!(said.starts_with(&format!("error: {origin}")), "{line}: {said}");
                assert_eq!(stdout(&output), "", "{line}");
            }
            _ => panic!("{line}"),
        }
    }
}

#[test]
fn the_manager_refuses_before_anything_is_touched() {
    let output = vipd(&["manager"], &[]);
    assert_eq!(output.status.code(), Some(78));
    assert!(
        stderr(&output).contains("cp_enable") && stderr(&output).contains("vip_arp"),
        "{}",
        stderr(&output)
    );
    let output =
        vipd(&[&["manager"], LEAST].concat(), &[("bgp_enable", "true"), ("vip_leaseduration", "soon")]);
    assert_eq!(output.status.code(), Some(78));
    let said = stderr(&output);
    assert!(said.contains("error: environment bgp_enable: asks for BGP"), "{said}");
    assert!(said.contains("error: environment vip_leaseduration: `soon` is not a whole number"), "{said}");
    assert_eq!(stdout(&output), "");
}

#[test]
fn unknown_flags_exit_with_64_and_a_suggestion() {
    for command in [&["manager"][..], &["manifest", "pod"], &["manifest", "daemonset"], &["manifest", "rbac"]]
    {
        let output = vipd(&[command, &["--leaseDurration", "15"]].concat(), &[]);
        assert_eq!(output.status.code(), Some(64), "{command:?}");
        assert!(stderr(&output).contains("--leaseDuration"), "{command:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{command:?}");
    }
}

#[test]
fn a_manifest_is_all_that_stdout_carries_and_the_environment_counts() {
    let output =
        vipd(&[&["/kube-vip", "manifest", "daemonset"], LEAST].concat(), &[("vip_interface", "ens7")]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).starts_with("apiVersion: apps/v1\nkind: DaemonSet\n"), "{}", stdout(&output));
    assert!(stdout(&output).contains("value: ens7"), "{}", stdout(&output));
    assert_eq!(stderr(&output), "");
    let output = vipd(&["manifest", "rbac"], &[]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).starts_with("apiVersion: v1\nkind: ServiceAccount\n"), "{}", stdout(&output));
    let output = vipd(&["manifest", "rbac", "--namespace", "No"], &[]);
    assert_eq!(output.status.code(), Some(64));
}

#[test]
fn a_name_that_does_not_resolve_is_asked_for_again_with_one_line_until_a_stop() {
    // RFC 6761: no name server has an address for it.
    let environment =
        [("address", "vip.invalid"), ("vip_arp", "true"), ("cp_enable", "true"), ("vip_nodename", "n1")];
    let mut child = Command::new(env!("CARGO_BIN_EXE_vipd"))
        .arg("manager")
        .env_clear()
        .envs(environment)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    assert_ne!(log.read_line(&mut line).unwrap(), 0);
    assert!(line.contains("asking again until it does") && line.contains("vip.invalid"), "{line}");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let mut rest = String::new();
    log.read_to_string(&mut rest).unwrap();
    assert!(child.wait().unwrap().success(), "{rest}");
    assert!(!rest.contains("asking again") && rest.contains("vipd stopped"), "{rest}");
}
