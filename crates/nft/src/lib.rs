//! How is the kernel told? Messages to nf_tables, over a netlink(7) socket and without the program `nft`.
//!
//! [`message`] is what a batch of them is as bytes, [`rule`] what a rule consists of; both are pure. [`Socket`] has the
//! kernel carry a batch out. Which tables there are, and why, is for those to know who make them.

pub mod attribute;
pub mod message;
pub mod rule;
mod socket;

pub use message::{Attributes, Batch, Family, Step, Verb};
pub use rule::{Header, Meta, octets, protocol_family};
pub use socket::{Refusal, Socket};
