//! What asks vipd to stop: signals, and a successor.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::daemon::Successor;

/// SIGTERM, SIGINT and a successor, awaited together.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// SIGUSR2, until somebody heeds it.
    succession: Option<Signal>,
    taking: Option<oneshot::Receiver<Successor>>,
    successor: Option<Successor>,
}

impl Signals {
    /// Begins to listen; from now on these signals no longer end the process by themselves.
    ///
    /// # Errors
    /// The kernel refused a handler.
    pub(crate) fn listen() -> std::io::Result<Self> {
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let succession = Some(signal(SignalKind::user_defined2())?);
        Ok(Self { terminate, interrupt, succession, taking: None, successor: None })
    }

    /// The signal that asks for a successor, once; nothing happens at it before.
    pub(crate) fn succession(&mut self) -> Option<Signal> {
        self.succession.take()
    }

    /// Takes one more thing for a signal: that somebody has taken over.
    pub(crate) fn expect_successor(&mut self, taking: oneshot::Receiver<Successor>) {
        self.taking = Some(taking);
    }

    /// Who has taken over, once.
    pub(crate) fn successor(&mut self) -> Option<Successor> {
        self.successor.take()
    }

    /// Waits for the next one and names it. May be cancelled: a signal that was not returned is returned next time.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            successor = taken(&mut self.taking) => {
                self.successor = Some(successor);
                "SIGUSR2"
            }
        }
    }
}

/// The successor; for ever pending where there is none. Cancel-safe.
async fn taken(taking: &mut Option<oneshot::Receiver<Successor>>) -> Successor {
    let Some(receiver) = taking else { return std::future::pending().await };
    let taken = receiver.await;
    *taking = None;
    match taken {
        Ok(successor) => successor,
        Err(_) => std::future::pending().await,
    }
}
