//! What vipd tells over HTTP: metrics for Prometheus, and health for a kubelet.
//!
//! ```text
//!   :2112  /metrics  /livez /healthz  /readyz ┐            ┌ Reporter: the watches of all parts
//!   :8080            /livez /healthz  /readyz ┴─▶ Server ──┴ Pulse: the main loop's sign of life
//! ```
//!
//! [`Server`] has a thread of its own, of ordinary priority, that only looks at what the others publish: nothing that a
//! client does reaches the main loop. It answers requests and takes no orders. What is asked is [`answer`]'s question, what
//! is well is [`health`]'s, what is counted is [`metrics`]'s. Where a Lease elects, [`neighbours`] asks the other nodes' servers for the
//! status that peers tell each other.

mod answer;
mod connection;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub(crate) mod health;
mod listen;
mod metrics;
mod neighbours;
mod process;
mod server;

pub(crate) use self::answer::Sources;
pub(crate) use self::listen::bind;
pub(crate) use self::neighbours::{Neighbours, Told};
pub(crate) use self::server::Server;
