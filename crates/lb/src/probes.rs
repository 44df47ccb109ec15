//! Which backends are asked for their health: all that a frontend has, and those that have left it until
//! their last connection has ended.

use std::rc::Rc;
use std::sync::Arc;

use fastrand::Rng;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};

use crate::board::Board;
use crate::frontend::Shared;
use crate::probe::{Plan, Prober};
use crate::roster::{Roster, Standing};
use crate::target::Target;

/// The probes of all frontends.
pub(crate) struct Probes {
    board: Rc<Board>,
    review: Arc<Notify>,
    rng: Rng,
    followed: Vec<Followed>,
    /// The probes, and those that are just ending. The rosters bound how many.
    tasks: JoinSet<()>,
}

/// One frontend's probes, and the roster that they follow.
struct Followed {
    shared: Arc<Shared>,
    plan: Plan,
    roster: Arc<Roster>,
    probes: Vec<Probe>,
}

struct Probe {
    target: Arc<Target>,
    standing: Standing,
    task: AbortHandle,
}

impl Probes {
    /// Probes nobody yet.
    pub(crate) fn new(board: Rc<Board>, review: Arc<Notify>, rng: Rng) -> Self {
        Self { board, review, rng, followed: Vec::new(), tasks: JoinSet::new() }
    }

    /// Has the backends of a frontend checked as planned, where they aren't already.
    ///
    /// One that was checked otherwise is held for what it was until the first check of the new kind, which decides and comes at once.
    pub(crate) fn plan(&mut self, shared: &Arc<Shared>, plan: Plan) {
        let index = match self.followed.iter().position(|it| Arc::ptr_eq(&it.shared, shared)) {
            Some(index) if self.followed[index].plan.is_like(&plan) => return,
            Some(index) => {
                let followed = &mut self.followed[index];
                followed.abort();
                followed.plan = plan;
                index
            }
            None => {
                let (shared, roster) = (Arc::clone(shared), shared.roster());
                self.followed.push(Followed { shared, plan, roster, probes: Vec::new() });
                self.followed.len() - 1
            }
        };
        self.begin(index);
    }

    /// Stops checking the backends of frontends that are gone.
    pub(crate) fn keep(&mut self, frontends: &[Arc<Shared>]) {
        self.followed.retain_mut(|followed| {
            let stays = frontends.iter().any(|shared| Arc::ptr_eq(shared, &followed.shared));
            if !stays {
                followed.abort();
            }
            stays
        });
    }

    /// Waits until the rosters have to be looked at, and joins the probes that end meanwhile. Cancel-safe.
    pub(crate) async fn review(&mut self) {
        loop {
            // In this order, so that ended ones do not pile up however fast the rosters change.
            let ended = tokio::select! {
                biased;
                Some(ended) = self.tasks.join_next() => ended,
                () = self.review.notified() => return,
            };
            if let Err(error) = ended
                && error.is_panic()
            {
                tracing::error!(%error, "a health check panicked");
            }
        }
    }

    /// Lets the probes follow the rosters, and says what has changed.
    pub(crate) fn follow(&mut self) {
        let mut changed = false;
        for index in 0..self.followed.len() {
            let followed = &mut self.followed[index];
            followed.shared.forget_vacant();
            let roster = followed.shared.roster();
            if !Arc::ptr_eq(&roster, &followed.roster) {
                followed.roster = roster;
                followed.end();
                for target in self.begin(index) {
                    let (name, address) = (target.name(), target.address);
                    let frontend = &self.followed[index].shared.name;
                    tracing::info!(frontend, backend = &*name, %address, "backend added");
                }
                changed = true;
            }
        }
        if changed {
            self.board.announce();
        }
    }

    /// Starts the probes that are missing, and returns their backends.
    fn begin(&mut self, index: usize) -> Vec<Arc<Target>> {
        let Followed { shared, plan, roster, probes } = &mut self.followed[index];
        let mut new = Vec::new();
        for (target, standing) in roster.all() {
            if probes.iter().any(|probe| Arc::ptr_eq(&probe.target, target)) {
                continue;
            }
            let (board, shared, target) = (Rc::clone(&self.board), Arc::clone(shared), Arc::clone(target));
            let prober = Prober::new(plan, board, shared, Arc::clone(&target), self.rng.fork());
            let task = self.tasks.spawn_local(prober.run());
            probes.push(Probe { target: Arc::clone(&target), standing, task });
            new.push(target);
        }
        new
    }

    /// Ends and joins all probes.
    pub(crate) async fn shutdown(mut self) {
        self.tasks.shutdown().await;
    }
}

impl Followed {
    /// Ends all probes.
    fn abort(&mut self) {
        self.probes.drain(..).for_each(|probe| probe.task.abort());
    }

    /// Ends the probes of backends that are gone, and notes who leaves or has come back.
    fn end(&mut self) {
        let (frontend, roster) = (&self.shared.name, &self.roster);
        self.probes.retain_mut(|probe| {
            let standing = roster.standing(&probe.target);
            let (name, address) = (probe.target.name(), probe.target.address);
            let (backend, connections) = (&*name, probe.target.member.open());
            match (probe.standing, standing) {
                (Standing::Present, Some(Standing::Present)) | (Standing::Leaving, Some(Standing::Leaving)) => {}
                (Standing::Leaving, Some(Standing::Present)) => {
                    tracing::info!(frontend, backend, %address, connections, "backend is back");
                }
                (Standing::Present, Some(Standing::Leaving)) => {
                    tracing::info!(frontend, backend, %address, connections, "backend removed: its connections go on");
                }
                (_, None) if connections > 0 => tracing::warn!(
                    frontend, backend, %address, connections,
                    "too many removed backends have connections: the one removed first is not checked any more"
                ),
                (Standing::Present, None) => {
                    tracing::info!(frontend, backend, %address, "backend removed");
                }
                (Standing::Leaving, None) => {
                    tracing::debug!(frontend, backend, %address, "last connection to a removed backend has ended");
                }
            }
            match standing {
                Some(standing) => probe.standing = standing,
                None => probe.task.abort(),
            }
            standing.is_some()
        });
    }
}

#[cfg(test)]
mod tests;
