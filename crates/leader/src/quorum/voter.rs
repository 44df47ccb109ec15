//! The half of a member that gives its vote away.

use std::time::{Duration, Instant};

use crate::{
    message::Objection,
    node::{Instance, Process},
    timing::exclusion,
};

/// One vote, and to whom it is promised.
///
/// A promise ends by time or by a release that names it exactly; nothing else takes it away.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Voter {
    /// A process that was started lately can't know what its predecessor promised, and keeps its vote until then.
    abstains_until: Option<Instant>,
    promise: Option<Promise>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Promise {
    instance: Instance,
    until: Instant,
}

impl Voter {
    /// A voter that grants nothing before the instant given.
    pub(super) fn abstaining_until(abstains_until: Option<Instant>) -> Self {
        Self { abstains_until, promise: None }
    }

    /// Puts the end of an abstention off that isn't over, for a lease longer than this process was told of.
    pub(super) fn abstain_longer(&mut self, until: Instant, now: Instant) {
        if self.abstention(now).is_some() {
            self.abstains_until = self.abstains_until.max(Some(until));
        }
    }

    /// How long it still abstains.
    pub(super) fn abstention(&self, now: Instant) -> Option<Duration> {
        self.abstains_until.and_then(|until| left(until, now))
    }

    /// Why it wouldn't grant now; `None` if it would.
    pub(super) fn objection(&self, holder: &Process, now: Instant) -> Option<Objection> {
        if let Some(promise) = self.promise.as_ref().filter(|promise| promise.instance.holder != *holder)
            && let Some(remaining) = left(promise.until, now)
        {
            return Some(Objection::Promised { remaining });
        }
        self.abstention(now).map(|remaining| Objection::Abstaining { remaining })
    }

    /// Grants a lease of this length from now on, or says why not.
    ///
    /// While it abstains its grant would be worth nothing, but it can still keep its vote from others in favour of
    /// the one that asks: so a leader that is there already isn't overthrown by those who join.
    pub(super) fn grant(
        &mut self,
        instance: &Instance,
        lease: Duration,
        now: Instant,
    ) -> Result<(), Objection> {
        let objection = self.objection(&instance.holder, now);
        if let Some(promised @ Objection::Promised { .. }) = objection {
            return Err(promised);
        }
        let until = now + exclusion(lease);
        self.promise = Some(match self.promise.take() {
            Some(promise) if promise.instance.holder == instance.holder => {
                if promise.instance.term > instance.term {
                    // Overtaken by a later candidacy of the same process, which stands.
                    self.promise = Some(promise);
                    return Err(Objection::Released);
                }
                Promise { instance: instance.clone(), until: promise.until.max(until) }
            }
            Some(_) | None => Promise { instance: instance.clone(), until },
        });
        objection.map_or(Ok(()), Err)
    }

    /// Takes back the promise if it is for exactly this instance; says whether it was.
    pub(super) fn release(&mut self, instance: &Instance) -> bool {
        self.promise.take_if(|promise| promise.instance == *instance).is_some()
    }

    /// When it could vote for this process at the earliest; `None` for any time.
    pub(super) fn free_for(&self, holder: &Process) -> Option<Instant> {
        let promised = self.promise.as_ref().filter(|promise| promise.instance.holder != *holder);
        self.abstains_until.max(promised.map(|promise| promise.until))
    }

    /// Whether the vote is promised to exactly this instance until then or longer.
    pub(super) fn keeps(&self, instance: &Instance, until: Instant) -> bool {
        self.promise.as_ref().is_some_and(|promise| promise.instance == *instance && until <= promise.until)
    }
}

fn left(until: Instant, now: Instant) -> Option<Duration> {
    until.checked_duration_since(now).filter(|left| !left.is_zero())
}
