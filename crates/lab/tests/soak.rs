//! A short soak of the balancer, from another seed each time. The long ones are run by hand: `vipd-lab soak`.
//!
//! It needs a built vipd, beside this test's target folder or named by VIPD_BIN, and fails without one.

#[expect(dead_code, reason = "the soak runs in an enclosure of its own")]
mod enclosed;

use std::process::Command;

use enclosed::{PROGRAM, skipped_without_root};

#[test]
fn a_short_soak_loses_no_byte_and_leaves_nothing_behind() {
    if skipped_without_root() {
        return;
    }
    let output = Command::new(PROGRAM).args(["soak", "--minutes", "0.6"]).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    eprint!("{out}{err}");
    assert!(output.status.success(), "{}", output.status);
    assert!(out.contains("\npassed: 36.0 s with the seed "), "it says what it did");
}

#[test]
fn a_soak_of_no_length_is_refused() {
    for wrong in [["--minutes", "0"], ["--minutes", "NaN"], ["--minutes", "1e9"], ["--rate", "0"]] {
        let output = Command::new(PROGRAM).arg("soak").args(wrong).output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {err}");
        assert!(err.contains("it is a number from "), "{wrong:?}: {err}");
    }
}
