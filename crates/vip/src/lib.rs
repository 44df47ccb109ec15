//! Do I hold the address? Ownership of virtual IP addresses.
//!
//! A lease, whoever grants it, comes in as "you may hold them until T"; virtual IPs on an interface and the frames that
//! tell the neighbours come out. What is decided when stands in [`ownership`] and [`announce`], which know no socket and
//! no clock; [`driver`] runs them, over [`linux`] or, in tests, over [`memory`].

pub mod address;
pub mod announce;
pub mod arp;
mod clock;
pub mod driver;
pub mod error;
mod failure;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod linux;
pub mod lookout;
pub mod memory;
pub mod ndp;
pub mod network;
pub mod ownership;
pub mod probe;
mod rawsock;
pub mod relay;
pub mod tickle;

pub use address::{Address, Mac, Station};
pub use error::Error;
pub use ownership::{Ownership, State};
