//! Which frontends there are and who listens where, and how the workers are told.
//!
//! ```text
//!  control ──Prepare(listeners)──▶ every worker: has them watched     ─┬─ one can't ──Prepare(none)──▶ as if nothing had been
//!                                                                      └─ all can ───Follow(layout)──▶ each accepts by it
//! ```
//!
//! Each turn is answered before the next one begins, so that whoever asked for a change knows when it is in force everywhere.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::Frontends;

/// Turns on their way to a worker: the control thread waits for the answer to each.
pub(crate) const TURNS: usize = 1;

/// Frontends and listeners at one moment. It never changes: another takes its place.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    /// All that have connections or may get some.
    pub(crate) frontends: Frontends,
    /// Every address that is listened on, and the number of the frontend whose connections come there.
    pub(crate) posts: BTreeMap<SocketAddr, u64>,
}

/// What a worker is to do; it answers when that is done.
#[derive(Debug)]
pub(crate) enum Turn {
    /// Has listeners watched until a layout names them, in place of those that were prepared before.
    Prepare { listeners: Vec<TcpListener>, done: oneshot::Sender<io::Result<()>> },
    /// Gives duplicates of its listeners.
    Share { done: oneshot::Sender<io::Result<Vec<TcpListener>>> },
    /// Accepts by this layout.
    Follow { layout: Arc<Layout>, done: oneshot::Sender<()> },
}

/// The workers, as the control thread talks to them.
#[derive(Debug)]
pub(crate) struct Crew(pub(crate) Vec<mpsc::Sender<Turn>>);

impl Crew {
    /// Gives each worker its listeners. On an error, all are to be given others, or none.
    ///
    /// # Errors
    /// A worker's: it can't watch one, or has ended.
    pub(crate) async fn prepare(&self, listeners: Vec<Vec<TcpListener>>) -> io::Result<()> {
        let mut answers = Vec::new();
        for (worker, listeners) in self.0.iter().zip(listeners) {
            let (done, answer) = oneshot::channel();
            worker.send(Turn::Prepare { listeners, done }).await.map_err(|_| ended())?;
            answers.push(answer);
        }
        for answer in answers {
            answer.await.map_err(|_| ended())??;
        }
        Ok(())
    }

    /// Has all workers drop what was prepared.
    pub(crate) async fn forget(&self) {
        // Nothing to watch can't fail, and a worker that has ended has nothing.
        let _ = self.prepare(self.0.iter().map(|_| Vec::new()).collect()).await;
    }

    /// Duplicates of the listeners of all workers.
    ///
    /// # Errors
    /// A worker's: no file descriptor is left, or it has ended.
    pub(crate) async fn share(&self) -> io::Result<Vec<TcpListener>> {
        let mut listeners = Vec::new();
        for worker in &self.0 {
            let (done, answer) = oneshot::channel();
            worker.send(Turn::Share { done }).await.map_err(|_| ended())?;
            listeners.extend(answer.await.map_err(|_| ended())??);
        }
        Ok(listeners)
    }

    /// Has all workers accept by a layout.
    pub(crate) async fn follow(&self, layout: &Arc<Layout>) {
        let mut answers = Vec::new();
        for worker in &self.0 {
            let (done, answer) = oneshot::channel();
            // One that has ended accepts nothing any more.
            if worker.send(Turn::Follow { layout: Arc::clone(layout), done }).await.is_ok() {
                answers.push(answer);
            }
        }
        for answer in answers {
            let _ = answer.await;
        }
    }
}

fn ended() -> io::Error {
    io::Error::other("a worker has ended")
}
