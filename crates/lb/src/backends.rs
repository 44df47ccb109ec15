//! Changing the backends of a running balancer.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::Frontends;
use crate::config::Backend;
use crate::error::SetBackendsError;
use crate::frontend::Shared;
use crate::health::Health;
use crate::roster::Roster;
use crate::status::BackendStatus;
use crate::target::Target;

/// Changes the backends of a balancer; cheap to clone, and of no effect after the balancer is gone.
#[derive(Debug, Clone)]
pub struct BackendsHandle {
    frontends: watch::Receiver<Frontends>,
}

/// A backend that was taken out of use or back, in one of the frontends that have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maintained {
    /// The frontend's name.
    pub frontend: String,
    /// The backend as of now.
    pub backend: BackendStatus,
    /// New connections can go to another backend that is not taken out.
    pub replaced: bool,
}

impl BackendsHandle {
    pub(crate) fn new(frontends: watch::Receiver<Frontends>) -> Self {
        Self { frontends }
    }

    fn frontends(&self) -> Frontends {
        Arc::clone(&self.frontends.borrow())
    }

    /// Gives a frontend, the first of that name, exactly these backends; their order is that of the status
    /// and of round robin. It does not block, and may be called at any time and any number of times.
    ///
    /// * A backend is known by its address. One that stays keeps its health, its counts, the connection of
    ///   its check and its flows, also under a new name.
    /// * One that is new is checked at once; its first check decides, and until then its health is unknown.
    /// * One that is missing gets no connection that begins after this call. Its flows go on until they end
    ///   by themselves; until then it stays in the status as `leaving`, is checked as before, and comes back
    ///   as what it is if it is named again. If it is found dead, its flows are reset like those of any other
    ///   dead backend. Only when more than 64 are leaving with flows, the one that left first is dropped from
    ///   status and checks, and TCP alone tells its flows of its end.
    /// * Without backends the frontend refuses its clients until it is given some.
    ///
    /// # Errors
    ///
    /// No such frontend, too many backends, or an address twice. The backends are then what they were.
    pub fn set(&self, frontend: &str, backends: Vec<Backend>) -> Result<(), SetBackendsError> {
        let frontends = self.frontends();
        let is_meant = |known: &&Arc<Shared>| known.name == frontend && !known.is_leaving();
        let Some(shared) = frontends.iter().find(is_meant) else {
            return Err(SetBackendsError::NoSuchFrontend { frontend: frontend.to_owned() });
        };
        let count = backends.len();
        Roster::check(&backends).map_err(|flaw| SetBackendsError::new(frontend, count, flaw))?;
        shared.set_backends(backends, Instant::now().into_std());
        Ok(())
    }

    /// Takes the backends that are called so out of use by command, or back, in every frontend that has them. A backend is called by
    /// its name, its address, or its address without the port. Gives all of them, changed or not; none if there is none.
    ///
    /// A backend that is taken out is treated like one that answers that it is about to go: its flows go on, and it gets no new ones
    /// as long as any other backend of the frontend is neither dead nor taken out itself. It is checked as before. It stays so until it
    /// is taken back, or until it is gone from the frontend with its last flow.
    #[must_use]
    pub fn set_drained(&self, called: &str, drained: bool) -> Vec<Maintained> {
        let now = Instant::now().into_std();
        let mut maintained = Vec::new();
        for shared in self.frontends().iter() {
            let roster = shared.roster();
            let meant: Vec<_> = roster.all().filter(|(target, _)| is_called(target, called)).collect();
            for (target, _) in &meant {
                if target.member.set_drained(drained) {
                    shared.tell_preferences();
                    let (frontend, backend) = (&shared.name, target.name());
                    tracing::info!(frontend, backend = &*backend, drained, "backend maintenance");
                    if !target.member.is_out() {
                        shared.start_slowly(target, now);
                    }
                }
            }
            let takes =
                |target: &&Arc<Target>| !target.member.is_out() && target.member.health() != Health::Dead;
            let replaced = roster.present().iter().any(|target| takes(&target));
            maintained.extend(meant.into_iter().map(|(target, standing)| Maintained {
                frontend: shared.name.clone(),
                backend: shared.status_of(target, standing, now),
                replaced,
            }));
        }
        maintained
    }

    /// What the backends are called, each once.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let frontends = self.frontends();
        let rosters = frontends.iter().map(|frontend| frontend.roster());
        let mut names: Vec<String> = rosters
            .flat_map(|roster| roster.all().map(|(target, _)| target.name().to_string()).collect::<Vec<_>>())
            .collect();
        names.sort();
        names.dedup();
        names
    }
}

fn is_called(target: &Target, called: &str) -> bool {
    let address = || called.parse::<SocketAddr>().is_ok_and(|address| address == target.address);
    let ip = || called.parse::<IpAddr>().is_ok_and(|ip| ip == target.address.ip());
    *target.name() == *called || address() || ip()
}
