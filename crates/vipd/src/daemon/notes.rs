//! What the nodes of an election among static peers tell each other of themselves: each its status, so that whoever is asked can tell of all.
//!
//! A note is the [`Snapshot`] as JSON. It goes beside the election's own datagrams, and nothing is decided by it. Where a Lease elects,
//! there are none: `web::neighbours` asks then.

use std::time::Duration;

use leader::peers::NOTE_BYTES_MAX;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::owner::Monitor;
use super::parts::Parts;
use crate::status::{Reporter, Snapshot};

/// How old what others know of this node may be: one datagram that was lost may double it.
const INTERVAL: Duration = Duration::from_secs(1);

/// Changes that come in flocks are told together, after so long.
const GATHERING: Duration = Duration::from_millis(50);

/// Begins to tell the peers, if there are any.
pub(super) fn start(parts: &Parts, reporter: Reporter) -> Option<JoinHandle<()>> {
    let notes = exchange(parts)?;
    let mut changes = Changes {
        moves: parts.owners.iter().map(|owner| owner.moves.subscribe()).collect(),
        states: parts.owners.iter().map(|owner| owner.address.state()).collect(),
        backends: parts.balancer.as_ref().map(|balancer| balancer.monitor().changes()),
        stopping: parts.stopping.subscribe(),
    };
    Some(spawn_local(async move {
        loop {
            if let Some(note) = note(reporter.own()) {
                notes.tell(note).await;
            }
            let due = Instant::now() + INTERVAL;
            tokio::select! {
                () = changes.next() => sleep_until((Instant::now() + GATHERING).min(due)).await,
                () = sleep_until(due) => {}
            }
        }
    }))
}

/// The exchange of notes, where there are peers.
pub(crate) fn exchange(parts: &Parts) -> Option<leader::peers::Notes> {
    let owners = parts.owners.iter().map(|owner| &owner.monitor);
    // All elections of a host are among the same peers.
    match owners.chain(parts.witnesses.iter().map(|witness| &witness.monitor)).next()? {
        Monitor::Peers(monitor) if !monitor.peers().borrow().is_empty() => Some(monitor.notes()),
        Monitor::Peers(_) | Monitor::Lease(_) => None,
    }
}

/// What others should hear of at once.
struct Changes {
    moves: Vec<watch::Receiver<super::moves::Moves>>,
    states: Vec<watch::Receiver<vip::State>>,
    backends: Option<watch::Receiver<u64>>,
    stopping: watch::Receiver<bool>,
}

impl Changes {
    /// Waits for one. Cancel-safe: what changes is kept until it is waited for again.
    async fn next(&mut self) {
        let moves = any(&mut self.moves);
        let states = any(&mut self.states);
        let backends = async {
            match &mut self.backends {
                Some(backends) => changed(backends).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = moves => {}
            () = states => {}
            () = backends => {}
            () = changed(&mut self.stopping) => {}
        }
    }
}

/// Waits until one of these changes.
async fn any<T>(watches: &mut [watch::Receiver<T>]) {
    if watches.is_empty() {
        return std::future::pending().await;
    }
    let all = watches.iter_mut().map(|watch| Box::pin(changed(watch)));
    futures_util::future::select_all(all).await;
}

/// Waits for a change. One whose teller is gone never changes again.
pub(super) async fn changed<T>(watch: &mut watch::Receiver<T>) {
    if watch.changed().await.is_err() {
        std::future::pending().await
    }
}

/// A status that fits into a note: without the backends, where there are too many of them.
fn note(mut snapshot: Snapshot) -> Option<Vec<u8>> {
    let told = |snapshot: &Snapshot| serde_json::to_vec(snapshot).ok();
    let mut text = told(&snapshot)?;
    if text.len() > NOTE_BYTES_MAX {
        snapshot.cut = true;
        snapshot.load_balancers.iter_mut().for_each(|frontend| frontend.backends.clear());
        snapshot.health_check.clear();
        text = told(&snapshot)?;
    }
    if text.len() > NOTE_BYTES_MAX {
        snapshot.load_balancers.clear();
        text = told(&snapshot)?;
    }
    if text.len() > NOTE_BYTES_MAX {
        debug!(bytes = text.len(), "this node's status is too long to be told to the peers");
        return None;
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        serde_json::from_str(include_str!("../status/sample.json")).unwrap()
    }

    #[test]
    fn a_status_that_is_too_long_is_told_without_its_backends() {
        let whole: Snapshot = serde_json::from_slice(&note(snapshot()).unwrap()).unwrap();
        assert!(!whole.cut && whole.load_balancers[0].backends.len() == 3);

        let mut many = snapshot();
        let backend = many.load_balancers[0].backends[0].clone();
        many.load_balancers[0].backends = vec![backend; 200];
        let told = note(many).unwrap();
        assert!(told.len() <= NOTE_BYTES_MAX);
        let told: Snapshot = serde_json::from_slice(&told).unwrap();
        assert!(told.cut && told.load_balancers[0].backends.is_empty());

        let mut many = snapshot();
        many.load_balancers = vec![many.load_balancers[0].clone(); 200];
        let told: Snapshot = serde_json::from_slice(&note(many).unwrap()).unwrap();
        assert!(told.cut && told.load_balancers.is_empty() && !told.owners.is_empty());
    }
}
