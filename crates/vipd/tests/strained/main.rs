//! A running daemon under strain: its descriptors used up, and clients that never read what they asked for. What others feel of it.

#![expect(clippy::disallowed_methods, reason = "real connections through a real kernel take real time")]
#![expect(clippy::print_stderr, reason = "what was felt is shown, and a skipped test says so")]
#![expect(clippy::unwrap_used, reason = "all of this is test code, helpers included")]

mod backends;
mod descriptors;
mod readers;

#[expect(dead_code, reason = "the clients of the balancer's own tests, of which not all is needed here")]
#[path = "../../../lb/tests/abuse/bystanders.rs"]
mod bystanders;
#[expect(dead_code, reason = "the rig of tests/daemon, likewise")]
#[path = "../daemon/rig.rs"]
mod rig;

use std::net::{Ipv4Addr, SocketAddr};

use bystanders::Talk;

/// Clients of a backend that repeats what it hears.
fn echoes(port: u16) -> Talk {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    Talk::plain(address, b"what is said is heard again, word for word", 42)
}

/// One value of the metrics, of the samples that begin so.
fn metric(port: u16, sample: &str) -> f64 {
    let answer = rig::ask(port, "GET", "/metrics");
    let found = answer.body.lines().find_map(|line| line.strip_prefix(sample));
    let value = found.unwrap_or_else(|| panic!("no {sample} in {}", answer.body));
    value.rsplit(' ').next().unwrap().parse().unwrap()
}
