//! A port that another program has too, and backends that see the client's own address: on a real kernel, in network namespaces of their
//! own. Needs root, `ip` and `nft`.

#![expect(clippy::disallowed_methods, reason = "real connections through a real kernel take real time")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]
#![expect(clippy::unwrap_used, reason = "a test's helpers fail the test")]

mod connections;
mod segment;
mod tables;
mod transparent;
