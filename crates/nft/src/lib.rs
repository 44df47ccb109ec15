//! How is the kernel's netfilter told? Messages to nf_tables, over a netlink(7) socket and without the program `nft`, and to its
//! memory of connections ([`conntrack`]).
//!
//! [`message`] is what a batch of them is as bytes, [`rule`] what a rule consists of; both are pure. [`Socket`] has the
//! kernel carry a batch out. [`ruleset`] reads what others have told it, for a check before the start. Which tables there are, and why, is for those to know who make them.

pub mod attribute;
pub mod conntrack;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod message;
mod reading;
pub mod rule;
pub mod ruleset;
pub mod set;
mod socket;
mod timeout;

pub use message::{Attributes, Batch, Family, Step, Verb};
pub use rule::{Connection, Header, Meta, octets, protocol_family};
pub use set::{Kind, Unnamed};
pub use socket::{Refusal, Socket};
