//! What the kernel does for the balancer, on a real one, in network namespaces of their own: it leads a port that another
//! program has too here, connections to backends without us, and backends' answers here that see the client's own address. Needs root, `ip` and `nft`.

#![expect(clippy::disallowed_methods, reason = "real connections through a real kernel take real time")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]
#![expect(clippy::unwrap_used, reason = "a test's helpers fail the test")]

mod changes;
mod datagrams;
mod ended;
mod forwarded;
mod redirected;
mod segment;
mod tables;
mod transparent;
