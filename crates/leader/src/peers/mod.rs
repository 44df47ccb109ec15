//! The driver of an election among static peers: one UDP socket, one task, no opinion.
//!
//! ```text
//!   Handle ── wishes, commands ──▶ ┌────────┐ ◀── datagrams ──▶ peers
//!   Handle ◀────── leadership ──── │ Driver │ ◀── one deadline
//!   Monitor ◀── peers, traffic ─── └────────┘
//! ```

use std::{io, net::SocketAddr};

use tokio::{net::UdpSocket, sync::watch};

use crate::member::Member;

pub use crate::{
    exchange::{Complaint, Dropped, Mismatch},
    member::{Config, ConfigError, PeerStatus, Said},
    quorum::Segment,
    wire::{Key, KeyError},
};
pub use driver::Driver;

mod driver;

/// Why an election among peers can't begin, or went on no longer. No address is held on its account.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration makes no member.
    #[error("failed to configure the election")]
    Config(#[from] ConfigError),
    /// The socket couldn't be had; the port is taken, or the address isn't this machine's.
    #[error("failed to listen for peers on udp {address}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The socket is broken; single datagrams that fail are no error.
    #[error("failed to wait for datagrams of peers")]
    Socket(#[source] io::Error),
}

/// How many datagrams this process has exchanged with its peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Sent.
    pub sent: u64,
    /// Not sent, as the network was down, forbidden, or too slow to take them.
    pub unsent: u64,
    /// Received, whatever they were.
    pub received: u64,
    /// Received and dropped.
    pub dropped: Dropped,
}

/// What there is to see of an election among peers, besides who leads.
#[derive(Clone, Debug)]
pub struct Monitor {
    peers: watch::Receiver<Vec<PeerStatus>>,
    traffic: watch::Receiver<Traffic>,
}

impl Monitor {
    /// The peers, renewed four times a second and whenever one is heard or lost.
    pub fn peers(&self) -> watch::Receiver<Vec<PeerStatus>> {
        self.peers.clone()
    }

    /// What was sent and received, renewed together with the peers.
    pub fn traffic(&self) -> watch::Receiver<Traffic> {
        self.traffic.clone()
    }
}
