//! The rules of the election, each as one or more named tests, in the order of the crate's documentation.
//!
//! `tests/mutations.rs` breaks the rules one by one, and demands that a test here fails.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]
#![expect(clippy::wildcard_enum_match_arm, reason = "a test looks for one kind of message among all")]

mod beats;
mod bootstrap;
mod candidates;
mod canvasses;
mod clients;
mod configuration;
mod handover;
mod lease;
mod mismatches;
mod order;
mod recordings;
mod releases;
mod rig;
mod subject;
mod telling;
mod tie_break;
mod voters;
mod witness;
