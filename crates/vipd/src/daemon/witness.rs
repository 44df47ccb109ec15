//! A member of an election that votes and never has the addresses: no interface, no frames, no capabilities.

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::moves::Moves;
use super::owner;
use crate::config::{self, Election};

/// An election without an address on this node.
pub(crate) struct Witness {
    /// The addresses that it votes about.
    pub(crate) addresses: Vec<vip::Address>,
    pub(crate) election: leader::Handle,
    pub(crate) monitor: owner::Monitor,
    /// From whom to whom the addresses went.
    pub(crate) moves: watch::Sender<Moves>,
    pub(super) election_task: JoinHandle<Result<(), leader::peers::Error>>,
}

impl Witness {
    pub(super) async fn start(witness: config::Witness) -> anyhow::Result<Self> {
        let config::Witness { addresses, election } = witness;
        let moves = watch::Sender::new(Moves::new(election.quorum.me.clone()));
        let (election, monitor, election_task) = owner::elect(Election::Peers(election)).await?;
        Ok(Self { addresses, election, monitor, moves, election_task })
    }

    /// Ends the task: it holds nothing, and was told to leave before.
    pub(super) fn stop(self) {
        self.election_task.abort();
    }
}
