//! What an election asks of the API, and what comes back.

use std::time::{Duration, Instant};

use super::record::{Observed, Record, Version};

/// Names a request, so that an answer to one that was given up is known as such.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub(super) u64);

/// A request to the API. At most one is under way: a new one takes the place of the last, whose answer is not awaited.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// Its name.
    pub id: RequestId,
    /// What is asked.
    pub ask: Ask,
    /// How long to wait for the answer; [`Reply::Failed`] after that.
    pub patience: Duration,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Ask {
    /// Reads the Lease, from the store and not from a server's cache.
    Get,
    /// Creates the Lease, if there is none.
    Create(Record),
    /// Replaces exactly this version.
    Update(Version, Record),
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reply {
    /// The Lease as it is: as read, or as written.
    Done(Observed),
    /// There is no such Lease.
    Absent,
    /// It has another version, or exists already: nothing was written.
    Conflict,
    /// Nobody answered, or with an error. Whether something was written isn't known.
    Failed,
}

/// The reason behind a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Purpose {
    Look,
    /// Takes the Lease, or renews it.
    Hold,
    Release,
}

/// The request under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Outstanding {
    pub(super) id: RequestId,
    pub(super) purpose: Purpose,
    /// Before it left: whatever it wins is counted from here.
    pub(super) started: Instant,
    /// A driver that never answers is not waited for longer than this.
    pub(super) expires: Instant,
}
