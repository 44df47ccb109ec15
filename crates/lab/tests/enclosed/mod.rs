//! Runs the body of a test inside an enclosure of its own.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "part of tests, outside the functions that clippy knows as such"
)]

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use lab::isolation::Enclosure;
use lab::lab::{Lab, Plan};
use lab::system::Programs;
use rustix::process::geteuid;

/// The lab's program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_vipd-lab");

/// Labs measure time: one after the other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Runs the test of this name again inside an enclosure, where the body is carried out with a new lab.
///
/// Outside it fails if the test inside fails, or if there was no test of this name to run.
pub(crate) fn in_a_lab(test: &str, body: impl AsyncFnOnce(Lab) -> Result<()>) {
    if let Some(enclosure) = Enclosure::here() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let outcome = runtime.block_on(async {
            let plan =
                Plan { kubernetes: None, programs: Programs::default(), backend: Some(PROGRAM.into()) };
            body(Lab::build(&enclosure, plan).await?).await
        });
        if let Err(error) = outcome {
            panic!("{error:#}");
        }
        return;
    }
    if skipped_without_root() {
        return;
    }
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let own = std::env::current_exe().unwrap();
    let output = Command::new(PROGRAM)
        .args(["isolated", "--"])
        .arg(Path::new(&own))
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    assert!(out.contains("1 passed"), "there is no test named {test}:\n{out}");
    eprint!("{err}");
}

/// Says so and returns true if the process is not root.
pub(crate) fn skipped_without_root() -> bool {
    let skipped = !geteuid().is_root();
    if skipped {
        eprintln!("SKIPPED: needs root");
    }
    skipped
}
