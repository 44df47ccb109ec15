//! The driver of an election among static peers: one UDP socket, one task, no opinion.
//!
//! ```text
//!   Handle ── wishes (watch), commands (mpsc) ──▶ ┌────────┐ ◀── datagrams ──▶ peers
//!   Handle ◀─ leadership, peers (watch) ───────── │ Driver │ ◀── one deadline
//!                                                 └────────┘
//! ```

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    net::UdpSocket,
    sync::{mpsc, oneshot, watch},
};

use crate::{Leadership, NodeId, member::Member, quorum::StepDownError};

pub use crate::{
    exchange::{Complaint, Dropped, Mismatch},
    member::{Config, ConfigError, PeerStatus, Said},
    quorum::Segment,
    wire::{Key, KeyError},
};
pub use driver::Driver;

mod driver;

/// Commands are rare, and each asker waits for its answer: a few may ask at the same time.
const COMMANDS_MAX: usize = 8;

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

/// What the rest of the program wishes, as levels: the driver sees the latest, and none is lost.
#[derive(Clone, Copy, Debug)]
struct Wishes {
    eligible: bool,
    segment: Segment,
    /// The turn in which nothing was held; see [`Handle::turns`].
    standby_in: u64,
}

/// What somebody waits for.
enum Command {
    StepDown(oneshot::Sender<Result<NodeId, StepDownError>>),
    Shutdown(oneshot::Sender<()>),
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

/// The rest of the program's end of an election. Clones speak to the same driver; it stops when the last is gone.
#[derive(Clone, Debug)]
pub struct Handle {
    leadership: watch::Receiver<Leadership>,
    peers: watch::Receiver<Vec<PeerStatus>>,
    traffic: watch::Receiver<Traffic>,
    /// Counts how often `leadership` turned from follower to leader or back; changed under its lock only.
    turns: Arc<AtomicU64>,
    wishes: Arc<watch::Sender<Wishes>>,
    commands: mpsc::Sender<Command>,
}

impl Handle {
    /// Who leads, as it changes. The end of a lease is in the value: silence is loss.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// The peers, renewed four times a second and whenever one is heard or lost.
    pub fn peers(&self) -> watch::Receiver<Vec<PeerStatus>> {
        self.peers.clone()
    }

    /// What was sent and received, renewed together with the peers.
    pub fn traffic(&self) -> watch::Receiver<Traffic> {
        self.traffic.clone()
    }

    /// Says whether this node is fit to lead. It is until told otherwise.
    pub fn set_eligible(&self, eligible: bool) {
        self.wish(|wishes| std::mem::replace(&mut wishes.eligible, eligible) != eligible);
    }

    /// Says what a probe for the virtual address found.
    pub fn set_segment(&self, segment: Segment) {
        self.wish(|wishes| std::mem::replace(&mut wishes.segment, segment) != segment);
    }

    /// Says that nothing of the address is left on this machine. Without effect while this node leads.
    ///
    /// To be called whenever this node is a follower and holds nothing, at the latest after a withdrawal; once more does
    /// no harm. A leader that steps down releases its lease only then.
    pub fn confirm_standby(&self) {
        // Read together, so that a confirmation isn't taken for one of a later lease.
        let leadership = self.leadership.borrow();
        let turn = self.turns.load(Ordering::Relaxed);
        let follower = matches!(*leadership, Leadership::Follower { .. });
        drop(leadership);
        if follower {
            self.wish(|wishes| std::mem::replace(&mut wishes.standby_in, turn) != turn);
        }
    }

    /// Hands over to another member by command, and leaves the lead to others for ten leases; gives the likely
    /// successor once this node is a follower.
    ///
    /// # Errors
    ///
    /// If this node doesn't lead, or nobody could take over. Nothing has changed then.
    pub async fn step_down(&self) -> Result<NodeId, StepDownError> {
        let (answer, answered) = oneshot::channel();
        let sent = self.commands.send(Command::StepDown(answer)).await;
        sent.map_err(|_| StepDownError::Stopped)?;
        answered.await.unwrap_or(Err(StepDownError::Stopped))
    }

    /// Hands over if this node leads, then stops for good. Comes back when the lease is released and a successor was
    /// seen, and after one lease at the latest. [`Driver::run`] has ended then, or is about to.
    pub async fn shutdown(&self) {
        let (done, finished) = oneshot::channel();
        if self.commands.send(Command::Shutdown(done)).await.is_ok() {
            // An answer that was dropped says the same: the driver is gone.
            let _gone = finished.await;
        }
    }

    fn wish(&self, change: impl FnOnce(&mut Wishes) -> bool) {
        self.wishes.send_if_modified(change);
    }
}
