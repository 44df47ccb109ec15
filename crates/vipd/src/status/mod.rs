//! What vipd is doing, as one snapshot: served on a local socket, printed by `vipd status`, judged by `vipd health`.
//!
//! The socket writes one JSON document to whoever connects, and closes. It reads nothing, so it can change nothing.

mod health;
mod report;
mod show;
mod socket;

pub(crate) use self::health::health;
#[cfg(test)]
pub(crate) use self::report::Peer;
pub(crate) use self::report::{Backend, Frontend, Owner, Reporter, Snapshot};
pub(crate) use self::show::show;
pub(crate) use self::socket::{ask, listen, serve};
