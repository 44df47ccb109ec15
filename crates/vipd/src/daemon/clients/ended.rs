//! Clients of a backend that has died, where the kernel carries their connections: the proxy resets such a connection, the kernel
//! only forgets it. So its client is made to say something, and is answered by this host, which knows of no such connection.

use std::thread::JoinHandle;

use anyhow::Context;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, warn};
use vip::linux::Tickler;
use vip::tickle::Connection;

use super::{BATCH, BATCH_INTERVAL, ROUNDS};

/// A thread that tells clients. It ends when this is dropped.
pub(crate) struct Ended {
    stop: Option<watch::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ended {
    /// Starts it.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(crate) fn start(ended: mpsc::Receiver<Vec<lb::Ended>>) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let tickler = match Tickler::open() {
            Ok(tickler) => tickler,
            Err(error) => {
                warn!(%error, "idle clients of a backend that dies notice only by their own keepalive: no raw sockets");
                return Ok(Self { stop: None, thread: None });
            }
        };
        let (stop, mut stopped) = watch::channel(());
        let work = async move {
            tokio::select! {
                () = tell(ended, &tickler) => {}
                _ = stopped.changed() => {}
            }
        };
        let thread = std::thread::Builder::new()
            .name("vip-ended".to_owned())
            .spawn(move || runtime.block_on(work))
            .context("failed to start the thread for clients of dead backends")?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.stop = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            warn!("the thread for clients of dead backends panicked");
        }
    }
}

/// May be cancelled; it ends when nobody speaks any more.
async fn tell(mut ended: mpsc::Receiver<Vec<lb::Ended>>, tickler: &Tickler) {
    while let Some(some) = ended.recv().await {
        let began = Instant::now();
        let connections: Vec<_> =
            some.iter().filter_map(|flow| Connection::new(flow.client, flow.server)).collect();
        // Who has noticed since has nothing to lose by being told once more.
        for round in ROUNDS {
            sleep_until(began + round).await;
            for some in connections.chunks(BATCH) {
                for connection in some {
                    if let Err(error) = tickler.send(connection) {
                        debug!(client = %connection.client(), %error, "failed to tell a client of its backend's death");
                    }
                }
                sleep(BATCH_INTERVAL).await;
            }
        }
        debug!(clients = connections.len(), "clients of a dead backend were told");
    }
}
