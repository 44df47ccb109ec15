//! The driver of an election by Kubernetes Lease: a client of the API, one task, no opinion.
//!
//! ```text
//!   Handle ── wishes, commands ──▶ ┌────────┐ ── one request at a time ──▶ ┐ own apiserver,
//!   Handle ◀────── leadership ──── │ Driver │ ◀────────── answer ───────── ┤ else the next
//!   Monitor ◀─ status, nodes ───── │        │ ◀── watches: Lease, Nodes ── ┘
//!                                  └────────┘ ◀── one deadline
//! ```
//!
//! | module | its question |
//! |---|---|
//! | `servers` | Which server next? (pure) |
//! | `credentials` | Who is this node to the API, and has that changed? |
//! | `access` | How is one request carried out by several servers? |
//! | `failure` | What does an error mean, and what is the way out? |
//! | `object` | What does a Lease object say? (pure) |
//! | `watcher` | What changes meanwhile? |
//! | `telling` | What does an operator read of it? |
//! | `nodes` | Where are the control-plane nodes? |
//! | `endpoints`, `discovery` | Where are the apiservers, for who takes no part in an election? |
//! | `recorder`, `event` | What is written there besides? (`event` is pure) |
//! | `memory` | What was known before the start? |
//! | `survey` | What may this node do there? Asked by who checks a configuration |

use std::net::SocketAddr;
use std::time::Instant;

use tokio::sync::watch;

use crate::{NodeId, lease::Timing};

pub use self::{
    config::{Access, Config},
    discovery::Discovery,
    driver::Driver,
    endpoints::Endpoints,
    event::{EVENT_NAMESPACE, Event, Weight},
    nodes::ControlPlane,
    recorder::{Labelled, RecordError, Recorder},
    survey::{Right, Survey, SurveyError},
};

mod access;
mod config;
mod connect;
mod credentials;
mod discovery;
mod driver;
mod endpoints;
mod event;
mod failure;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod memory;
mod nodes;
mod object;
mod recorder;
mod servers;
mod survey;
mod telling;
mod watcher;

/// What there is to see of an election by Lease, besides who leads.
#[derive(Clone, Debug)]
pub struct Monitor {
    status: watch::Receiver<Status>,
    control_plane: watch::Receiver<ControlPlane>,
}

impl Monitor {
    /// How it goes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// The control-plane nodes, as they change; at first those that were remembered.
    pub fn control_plane(&self) -> watch::Receiver<ControlPlane> {
        self.control_plane.clone()
    }
}

/// How an election by Lease goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The Lease, as `namespace/name`.
    pub lease: String,
    /// The holder identity of this node.
    pub identity: NodeId,
    /// The durations.
    pub timing: Timing,
    /// Who holds the Lease, by its own word.
    pub holder: Option<String>,
    /// When the Lease was last seen to have changed: its holder's last sign of life.
    pub renewed: Option<Instant>,
    /// How often the Lease has changed hands.
    pub transitions: i32,
    /// The server that answered last.
    pub server: Option<SocketAddr>,
    /// Whether a watch of the Lease is open.
    pub watching: bool,
    /// Where the credentials are from.
    pub credentials: Option<String>,
    /// Why the last request failed, until one succeeds.
    pub trouble: Option<String>,
    /// Requests sent, and how many of them failed.
    pub requests: u64,
    /// Requests that no server carried out.
    pub failures: u64,
}
