//! The driver on a real kernel, with real frames, in network namespaces of its own. Needs root.

#![expect(clippy::disallowed_methods, reason = "real frames on a real kernel take real time")]
#![expect(clippy::print_stderr, reason = "a skipped test says so, and what was measured is shown")]
#![expect(clippy::unwrap_used, reason = "a test's helpers fail the test")]

mod addresses;
mod fence;
mod frames;
mod interface;
mod looks;
mod owner;
mod relay;
mod segment;
mod tickles;
