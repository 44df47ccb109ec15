//! A member of an election that votes and never has the addresses: no interface, no frames, no capabilities.

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::owner;
use crate::config::{self, Election};

/// An election without an address on this node.
pub(crate) struct Witness {
    /// The addresses that it votes about.
    pub(crate) addresses: Vec<vip::Address>,
    pub(crate) election: leader::Handle,
    pub(crate) monitor: owner::Monitor,
    /// Counts the leaders.
    pub(crate) transitions: watch::Sender<u64>,
    pub(super) election_task: JoinHandle<Result<(), leader::peers::Error>>,
}

impl Witness {
    pub(super) async fn start(witness: config::Witness) -> anyhow::Result<Self> {
        let config::Witness { addresses, election } = witness;
        let (election, monitor, election_task) = owner::elect(Election::Peers(election)).await?;
        Ok(Self { addresses, election, monitor, transitions: watch::Sender::new(0), election_task })
    }

    /// Ends the task: it holds nothing, and was told to leave before.
    pub(super) fn stop(self) {
        self.election_task.abort();
    }
}
