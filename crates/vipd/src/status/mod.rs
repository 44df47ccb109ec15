//! What vipd is doing, as one snapshot: served on a local socket, printed by `vipd status`, judged by `vipd health`.
//!
//! The socket writes one JSON document to whoever connects, and closes. It reads nothing, so it can change nothing; what is to
//! change something has a socket of its own ([`crate::command`]).

mod colour;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod health;
mod owner;
mod report;
mod show;
mod socket;
mod timeline;
mod watch;

pub(crate) use self::health::health;
pub(crate) use self::owner::{Arrivals, Owner, Peer};
#[cfg(test)]
pub(crate) use self::owner::{Clients, TieBreak};
#[cfg(test)]
pub(crate) use self::report::Tally;
pub(crate) use self::report::{Backend, Frontend, MainLoop, Reporter, Snapshot};
pub(crate) use self::show::{ago, show};
pub(crate) use self::socket::{READ_MAX, ask, connect, listen, serve, unanswered};
