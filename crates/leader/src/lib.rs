//! Who leads? Election of one node among several.

pub mod member;
pub mod message;
pub mod node;
pub mod peers;
pub mod quorum;

pub use leadership::Leadership;
pub use node::{NodeId, NodeIdError, Term};
pub use timing::{Timing, TimingError};

mod dice;
mod exchange;
mod leadership;
mod session;
mod timing;
mod wire;
