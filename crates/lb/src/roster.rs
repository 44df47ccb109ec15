//! Which backends a frontend has, and what becomes of them when it is given others.
//!
//! ```text
//!            named in the set                  not named any more
//!   new ───▶ present ──────────────────────▶ leaving ───▶ gone
//!               ▲        an open connection     │   no open connection
//!               └────────────────────────────────┘
//!                        named again
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::{Backend, MAX_BACKENDS};
use crate::health::Health;
use crate::target::Target;

/// Backends of one frontend that have left and are still watched over for the sake of their connections; each
/// costs the connection of its probe. More nodes than that are not replaced while a watch lasts.
pub(crate) const MAX_LEAVING: usize = 64;

/// The backends of one frontend at one moment. It never changes: another one takes its place.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    present: Vec<Arc<Target>>,
    /// The one that left first comes first; at most [`MAX_LEAVING`].
    leaving: Vec<Arc<Target>>,
}

/// How a backend stands to its frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It takes connections.
    Present,
    /// It keeps those it has.
    Leaving,
}

/// Why a set of backends can't be one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// It has more than [`MAX_BACKENDS`].
    TooMany,
    /// It has a second backend of this one's address.
    Twice(Backend),
}

impl Roster {
    /// Finds what is wrong with a set of backends.
    pub(crate) fn check(backends: &[Backend]) -> Result<(), Flaw> {
        if backends.len() > MAX_BACKENDS {
            return Err(Flaw::TooMany);
        }
        let mut seen = BTreeMap::new();
        for backend in backends {
            if seen.insert(backend.address, ()).is_some() {
                return Err(Flaw::Twice(backend.clone()));
            }
        }
        Ok(())
    }

    /// Those that take connections, in the order of the set; at most [`MAX_BACKENDS`].
    pub(crate) fn present(&self) -> &[Arc<Target>] {
        &self.present
    }

    /// All of them, each with its standing; no address comes twice.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&Arc<Target>, Standing)> {
        let present = self.present.iter().map(|target| (target, Standing::Present));
        present.chain(self.leaving.iter().map(|target| (target, Standing::Leaving)))
    }

    /// How `target` stands; `None` when it is gone.
    pub(crate) fn standing(&self, target: &Arc<Target>) -> Option<Standing> {
        self.all().find(|(known, _)| Arc::ptr_eq(known, target)).map(|(_, standing)| standing)
    }

    /// Those that new connections go to before any other: of IPv4 and of IPv6, where clients of the one can't go to backends of the
    /// other.
    pub(crate) fn best_of_each_family(&self) -> Vec<&Arc<Target>> {
        let ranked: Vec<_> = self.present.iter().map(|target| (target.member.rank(), target)).collect();
        let best = |ipv4| {
            let family = ranked.iter().filter(|(_, target)| target.address.is_ipv4() == ipv4);
            family.map(|(rank, _)| *rank).min()
        };
        let best = [best(false), best(true)];
        let is_best =
            |(rank, target): &(u8, &Arc<Target>)| Some(*rank) == best[usize::from(target.address.is_ipv4())];
        ranked.into_iter().filter(is_best).map(|(_, target)| target).collect()
    }

    /// Those that take connections again once the roster has exactly `backends`, and don't before.
    pub(crate) fn returning(&self, backends: &[Backend]) -> Vec<Arc<Target>> {
        let stays = |target: &Target| backends.iter().find(|backend| backend.address == target.address);
        let returns = |(target, standing): &(&Arc<Target>, Standing)| {
            let was_out = *standing == Standing::Leaving || target.member.is_cordoned();
            was_out && stays(target).is_some_and(|backend| !backend.cordoned)
        };
        self.all().filter(returns).map(|(target, _)| Arc::clone(target)).collect()
    }

    /// False when no backend takes connections that is not dead.
    pub(crate) fn usable(&self) -> bool {
        self.present.iter().any(|target| target.member.health() != Health::Dead)
    }

    /// The successor that has exactly `backends`, or `None` when nothing changes.
    ///
    /// A backend of a known address stays what it is; one that is new comes from `create`. Those that are not
    /// named any more are told so, and leave as soon as no connection to them is open. There must be one
    /// caller at a time, and it must put the successor in this one's place.
    pub(crate) fn successor(
        &self,
        backends: Vec<Backend>,
        create: impl FnMut(Backend) -> Arc<Target>,
    ) -> Option<Self> {
        debug_assert_eq!(Self::check(&backends), Ok(()), "a set that was not checked");
        if self.is(&backends) {
            return None;
        }
        let mut create = create;
        let mut known: BTreeMap<_, _> = self.all().map(|(target, _)| (target.address, target)).collect();
        let stay = |backend: Backend| match known.remove(&backend.address) {
            Some(target) => {
                target.rename(&backend.name);
                target.member.set_cordoned(backend.cordoned);
                target.member.stay();
                Arc::clone(target)
            }
            None => create(backend),
        };
        let present = backends.into_iter().map(stay).collect();
        let left = self.leaving.iter().chain(&self.present);
        let mut leaving: Vec<_> =
            left.filter(|target| known.contains_key(&target.address)).map(Arc::clone).collect();
        leaving.iter().for_each(|target| target.member.leave());
        leaving.retain(|target| !target.member.is_vacant());
        // Connections to those beyond the bound go on, watched over by TCP alone.
        leaving.drain(..leaving.len().saturating_sub(MAX_LEAVING));
        Some(Self { present, leaving })
    }

    /// The successor without those whose last connection has ended, or `None` when there are none. The
    /// caller is the same as that of [`Roster::successor`].
    pub(crate) fn without_vacant(&self) -> Option<Self> {
        let mut leaving = self.leaving.clone();
        leaving.retain(|target| !target.member.is_vacant());
        (leaving.len() < self.leaving.len()).then(|| Self { present: self.present.clone(), leaving })
    }

    fn is(&self, backends: &[Backend]) -> bool {
        self.present.len() == backends.len()
            && self.present.iter().zip(backends).all(|(target, backend)| {
                target.address == backend.address
                    && *target.name() == *backend.name
                    && target.member.is_cordoned() == backend.cordoned
            })
    }
}

#[cfg(test)]
mod tests;
