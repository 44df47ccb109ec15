//! `vipd health`: for probes that run a command, where no port is to be had or none should be trusted.
//!
//! Who asks here asks the main loop itself: it is what answers on the status socket, so that an answer is its sign of life. A
//! port would do as well as long as it is vipd's own; on the host's network it may be another's, and who probes that one would
//! hold the wrong process for alive, or end the right one.

use std::process::ExitCode;

use anyhow::anyhow;
use tokio::time::Instant;

use crate::web::health::{Check, live, ready};
use crate::{cli, exit, fail, print};

/// Asks once; the exit code is the answer, and one line says why not.
pub(crate) fn health(options: &cli::Health) -> ExitCode {
    let asked = Instant::now();
    let snapshot = match super::ask(&options.socket) {
        Ok(snapshot) => snapshot,
        Err(error) => return fail(exit::UNAVAILABLE, &error),
    };
    // The loop has run since it was asked.
    let silence = asked.elapsed();
    let (checks, name) =
        if options.ready { (ready(&snapshot.vitals(silence)), "ready") } else { (live(silence), "live") };
    let troubles: Vec<String> = checks.iter().filter_map(Check::trouble).collect();
    if troubles.is_empty() {
        return print("ok\n");
    }
    fail(exit::UNAVAILABLE, &anyhow!("this vipd is not {name}: {}", troubles.join("; ")))
}
