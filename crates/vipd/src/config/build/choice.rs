//! Which backend a connection comes to.

use std::time::Duration;

use crate::config::file::{LoadBalancer, Policy};
use crate::config::reader::Reader;
use crate::config::source::Step;

/// Long enough for an apiserver to answer the first lists from a cold cache before the next come, and over before anybody wonders
/// where its connections are.
const SLOW_START_DEFAULT: Duration = Duration::from_secs(10);

/// The rule by which one is chosen.
pub(super) fn policy(reader: &mut Reader<'_>, base: &[Step], balancer: &LoadBalancer) -> lb::Policy {
    match balancer.policy {
        Some(Policy::LeastConnections) | None => lb::Policy::LeastConnections,
        Some(Policy::RoundRobin) => lb::Policy::RoundRobin,
        Some(Policy::SourceHash) => {
            if balancer.rebalance.is_some() {
                reader.error(
                    &[base, &[Step::Key("rebalance")]].concat(),
                    "`rebalance` moves nothing with `policy: sourceHash`: the client comes back to the same backend",
                    "remove the key, or write another policy",
                );
            }
            lb::Policy::SourceHash
        }
    }
}

/// For how long the share of one that has come back grows.
pub(super) fn slow_start(
    reader: &mut Reader<'_>,
    base: &[Step],
    balancer: &LoadBalancer,
) -> Option<Duration> {
    let at = [base, &[Step::Key("slowStart")]].concat();
    let help = "write 10s or so, or `none`";
    reader.duration_or_none(&at, balancer.slow_start.as_deref(), Some(SLOW_START_DEFAULT), help)
}
