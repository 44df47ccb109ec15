//! The driver of an election among static peers: one UDP socket, one task, no opinion.
//!
//! ```text
//!   Handle ── wishes, commands ──▶ ┌────────┐ ◀── datagrams ──▶ peers
//!   Handle ◀────── leadership ──── │ Driver │ ◀── one deadline
//!   Monitor ◀── peers, traffic ─── │        │
//!   Clients ◀─── who is served ──▶ └────────┘
//! ```

use std::{collections::BTreeMap, io, net::SocketAddr};

use tokio::{
    net::UdpSocket,
    sync::{mpsc, oneshot, watch},
};

use crate::{NodeId, member::Member, quorum::Arbitration};

pub use crate::{
    clients::{CLIENT_BYTES_MAX, CLIENTS_MAX, Change, Client, Known},
    exchange::{Complaint, Dropped, Mismatch},
    member::{Config, ConfigError, PeerStatus, Said},
    message::Subject,
    notes::{NOTE_BYTES_MAX, Note},
    quorum::Segment,
    wire::{Key, KeyError},
};
pub use driver::Driver;

mod driver;
mod flood;

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
    clients: Clients,
    arbitration: watch::Receiver<Arbitration>,
    notes: Notes,
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

    /// Whether the segment is to be looked at, and what its vote is worth at present.
    pub fn arbitration(&self) -> watch::Receiver<Arbitration> {
        self.arbitration.clone()
    }

    /// The exchange about clients.
    pub fn clients(&self) -> Clients {
        self.clients.clone()
    }

    /// The exchange of notes.
    pub fn notes(&self) -> Notes {
        self.notes.clone()
    }
}

/// What the rest of the program says of this node's clients, and asks of others'. See [`clients`](crate::clients).
#[derive(Clone, Debug)]
pub struct Clients {
    errands: mpsc::Sender<Errand>,
    known: watch::Receiver<Known>,
}

impl Clients {
    /// Says what happened to this node's clients. The other members are told while it leads.
    ///
    /// Waits while the driver has more urgent things to do. Without effect once it has ended.
    pub async fn tell(&self, changes: &[Change]) {
        for some in changes.chunks(CHANGES_MAX) {
            // Gone with whoever led: nobody is left to be told.
            let _gone = self.errands.send(Errand::Tell(some.to_vec())).await;
        }
    }

    /// Says that this node has no clients, whatever was told before.
    pub async fn clear(&self) {
        let _gone = self.errands.send(Errand::Clear).await;
    }

    /// Gives the clients of the leader before this one, once. There are none while this node doesn't lead.
    pub async fn inherit(&self) -> Vec<Client> {
        let (answer, answered) = oneshot::channel();
        let _gone = self.errands.send(Errand::Inherit(answer)).await;
        answered.await.unwrap_or_default()
    }

    /// How many clients are known, renewed together with the peers' status.
    pub fn known(&self) -> watch::Receiver<Known> {
        self.known.clone()
    }
}

/// What the rest of the program tells the other members beside the election, and hears of them.
#[derive(Clone, Debug)]
pub struct Notes {
    errands: mpsc::Sender<Errand>,
    heard: watch::Receiver<BTreeMap<NodeId, Note>>,
}

impl Notes {
    /// Tells the others this, once, in place of whatever was told before. A note has [`NOTE_BYTES_MAX`] bytes at most; a longer one isn't
    /// told. Who isn't heard now, or loses a datagram, doesn't get it: tell another one soon.
    ///
    /// Waits while the driver has more urgent things to do. Without effect once it has ended.
    pub async fn tell(&self, note: Vec<u8>) {
        // Gone with whoever led: nobody is left to be told.
        let _gone = self.errands.send(Errand::Note(note)).await;
    }

    /// The latest note of each member that has told one.
    pub fn heard(&self) -> watch::Receiver<BTreeMap<NodeId, Note>> {
        self.heard.clone()
    }
}

/// Changes in one errand: they take the driver less than a fifth of a millisecond.
const CHANGES_MAX: usize = 256;

/// One to be done while another is prepared.
const ERRANDS_MAX: usize = 2;

/// What the driver is asked to do beside the election.
#[derive(Debug)]
enum Errand {
    Note(Vec<u8>),
    Tell(Vec<Change>),
    Clear,
    Inherit(oneshot::Sender<Vec<Client>>),
}
