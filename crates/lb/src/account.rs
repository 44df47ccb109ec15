//! What is told of a connection when it has ended: one line in the log, for a frontend that keeps an access log.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::drain::End;

/// The target of the lines, by which a log can be filtered.
const TARGET: &str = "access";

/// What one connection has come to so far.
#[derive(Debug)]
pub(crate) struct Account {
    /// None if it was gone before it was asked.
    client: Option<SocketAddr>,
    accepted: Instant,
    backend: Option<Arc<str>>,
    /// From being accepted until a backend took it; the last one that did.
    connected: Option<Duration>,
    /// Bytes that the client has said.
    pub(crate) to_backend: u64,
    /// Bytes that the backend has said.
    pub(crate) to_client: u64,
}

/// Why a connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Both sides have said all; or the backend has, and hears nothing any more.
    Finished,
    /// The client's side broke.
    Client,
    /// The backend's side broke, when there was no other backend to go to, or it was too late.
    Backend,
    /// No backend could be reached.
    NoBackend,
    /// It was ended from outside.
    Ordered(End),
}

impl Ending {
    /// The words for them: they are documented, and scripts look for them.
    pub(crate) const WORDS: [&str; 10] = [
        "finished",
        "client",
        "backend",
        "no-backend",
        "rebalanced",
        "max-age",
        "idle",
        "backend-dead",
        "vip-lost",
        "stopped",
    ];

    /// Which of [`WORDS`](Self::WORDS) is its.
    pub(crate) fn place(self) -> usize {
        match self {
            Self::Finished => 0,
            Self::Client => 1,
            Self::Backend => 2,
            Self::NoBackend => 3,
            Self::Ordered(End::Rebalanced) => 4,
            Self::Ordered(End::Aged | End::Overdue) => 5,
            Self::Ordered(End::Idle) => 6,
            Self::Ordered(End::BackendDead | End::BackendClosed) => 7,
            Self::Ordered(End::VirtualIpLost) => 8,
            Self::Ordered(End::Stopped) => 9,
        }
    }
}

impl Account {
    /// Opens an account for a client.
    pub(crate) fn open(client: Option<SocketAddr>) -> Self {
        Self { client, accepted: Instant::now(), backend: None, connected: None, to_backend: 0, to_client: 0 }
    }

    /// Notes who the client is, where a proxy has told.
    pub(crate) fn is_of(&mut self, client: SocketAddr) {
        self.client = Some(client);
    }

    /// Notes that a backend has taken the connection.
    pub(crate) fn connected(&mut self, backend: Arc<str>) {
        self.connected = Some(self.accepted.elapsed());
        self.backend = Some(backend);
    }

    /// Closes it, and writes the line.
    pub(crate) fn close(self, frontend: &str, ending: Ending) {
        tracing::info!(
            target: TARGET,
            frontend,
            client = self.client.map(tracing::field::display),
            backend = self.backend.as_deref(),
            connect_us = self.connected.map(|connected| u64::try_from(connected.as_micros()).unwrap_or(u64::MAX)),
            total_ms = u64::try_from(self.accepted.elapsed().as_millis()).unwrap_or(u64::MAX),
            to_backend = self.to_backend,
            to_client = self.to_client,
            end = Ending::WORDS[ending.place()],
            "connection"
        );
    }
}
