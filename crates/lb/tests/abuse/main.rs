//! Abuse and bad luck, and what the other clients feel of it: while clients, backends or proxies misbehave, well-behaved clients go
//! through the same balancer, and are asked afterwards.

#![expect(clippy::disallowed_methods, reason = "real connections through a real kernel take real time")]
#![expect(clippy::print_stderr, reason = "what was felt is shown, and a skipped test says so")]
#![expect(clippy::unwrap_used, reason = "all of this is test code, helpers included")]

mod bystanders;
mod floods;
mod headers;
mod killed;
mod ledger;
mod moods;
mod phases;
mod processes;
mod resets;
mod silence;
mod slow;

#[expect(dead_code, reason = "the rig of tests/proxy, of which not all is needed here")]
#[path = "../proxy/rig.rs"]
mod rig;

#[expect(dead_code, reason = "the segment of tests/kernel, likewise")]
#[path = "../kernel/segment.rs"]
mod segment;

use std::net::SocketAddr;

use bystanders::{Elsewhere, Talk};

/// Tests that measure what is felt run one after the other.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Clients of a backend that repeats what it hears.
fn echoes(address: SocketAddr) -> Talk {
    Talk::plain(address, b"what is said is heard again, word for word", 42)
}

/// A backend that repeats what it hears, on a thread of its own.
async fn echo_server(elsewhere: &Elsewhere) -> rig::Server {
    elsewhere.run(rig::Server::start(rig::echo)).await
}
