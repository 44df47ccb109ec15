//! The balancer between real sockets on the loopback: real clients, real TLS backends, real deaths.

#![expect(clippy::unwrap_used, reason = "all of this is test code, helpers included")]

mod ages;
mod apply;
mod backends;
mod checks;
mod choice;
mod churn;
mod failover;
mod flows;
mod introductions;
mod lifecycle;
mod rebalance;
mod rig;
mod succession;
