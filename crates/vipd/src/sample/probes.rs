//! How a kubelet asks a Pod's vipd whether it is well: `vipd health`, run in its container.
//!
//! It asks over the status socket and needs no port: the configuration is the user's and may name none, and on the host's
//! network a port that was named may have been another process's first. A kubelet waits for one probe before it runs the
//! next, so slow ones do not pile up; where the container runtime can't run the command at all, the kubelet counts neither
//! success nor failure.

use k8s_openapi::api::core::v1::{Container, ExecAction, Probe};

/// How long a probe may take: the five seconds that `vipd health` waits for an answer, and as much again for a busy host to
/// start the command.
const TIMEOUT: i32 = 10;
/// Between two probes: rarely, since each starts a process in the container.
const PERIOD: i32 = 10;
/// Until a vipd whose main loop does not run is ended: a minute. It holds no address by then, so there is no hurry, and a
/// host that is starved for a moment must not lose its vipd as well.
const FAILURES_UNTIL_RESTART: i32 = 6;
/// A node that does not take part for half a minute should be seen.
const FAILURES_UNTIL_UNREADY: i32 = 3;
/// While it starts, a vipd may wait for a name server: it has ten minutes, at this period. Only after the first
/// success do the other probes begin.
const START_PERIOD: i32 = 2;
const FAILURES_UNTIL_START_FAILED: i32 = 300;

/// The container with its probes, which ask at this socket.
pub(crate) fn probed(container: Container, socket: &str) -> Container {
    let ask = |more: Option<&str>, period, failures| {
        let words = ["/vipd", "health"].into_iter().chain(more).chain(["--socket", socket]);
        Some(Probe {
            exec: Some(ExecAction { command: Some(words.map(str::to_owned).collect()) }),
            timeout_seconds: Some(TIMEOUT),
            period_seconds: Some(period),
            failure_threshold: Some(failures),
            ..Probe::default()
        })
    };
    Container {
        startup_probe: ask(None, START_PERIOD, FAILURES_UNTIL_START_FAILED),
        liveness_probe: ask(None, PERIOD, FAILURES_UNTIL_RESTART),
        readiness_probe: ask(Some("--ready"), PERIOD, FAILURES_UNTIL_UNREADY),
        ..container
    }
}
