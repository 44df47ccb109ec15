//! The client of the API on real control planes: what it asks, what it makes of the answers, and what it says of those that help nobody.
//!
//! It runs inside a lab on which nothing runs but three etcds and three kube-apiservers: `tests/kube/run api`. Each test has a Lease of
//! its own, and its participants in this process; the election as a whole, with addresses and clocks, is proved by `tests/kube/lease`.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

mod beside;
#[path = "../consumer/mod.rs"]
mod consumer;
mod control_plane;
mod credentials;
mod election;
mod scene;
mod servers;
mod survey;
