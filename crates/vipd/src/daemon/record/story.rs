//! What of the addresses is worth an Event, and in which words.
//!
//! It looks at counts, which only rise, and tells what has been added: so nothing is told twice, and what comes and goes between two looks is
//! told all the same.

use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use leader::kubernetes::Weight;
use leader::lease::Stamp;
use vip::State;
use vip::driver::{Reason as Release, Status};

use super::super::moves::{Move, Moves, Reason};
use crate::status::ago;

/// One thing to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) what: What,
    pub(super) weight: Weight,
    /// When it was.
    pub(super) at: Instant,
    /// For people.
    pub(super) note: String,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// The addresses are here.
    Claimed,
    /// They are here no more.
    Released,
    /// Another station claims them too.
    Conflict,
    /// Something else had removed them.
    Restored,
    /// The kernel doesn't take them.
    Refused,
}

impl What {
    /// The word that programs select by.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Claimed => "VirtualIPClaimed",
            Self::Released => "VirtualIPReleased",
            Self::Conflict => "VirtualIPConflict",
            Self::Restored => "VirtualIPRestored",
            Self::Refused => "VirtualIPRefused",
        }
    }

    /// What was done.
    pub(super) fn action(self) -> &'static str {
        match self {
            Self::Claimed => "Claim",
            Self::Released => "Release",
            Self::Conflict => "Overrule",
            Self::Restored => "Restore",
            Self::Refused => "GiveWay",
        }
    }

    /// Whether it is a move, and nothing that goes on for as long as somebody lets it.
    pub(super) fn is_move(self) -> bool {
        match self {
            Self::Claimed | Self::Released => true,
            Self::Conflict | Self::Restored | Self::Refused => false,
        }
    }
}

/// The addresses of one election, and what has been told of them.
pub(super) struct Story {
    /// The addresses and their interface.
    addresses: String,
    interface: String,
    arrivals: u64,
    claims: u64,
    releases: u64,
    conflicts: u64,
    repairs: u64,
    failures: u64,
}

impl Story {
    /// Nothing has happened yet.
    pub(super) fn new(addresses: String, interface: String) -> Self {
        Self {
            addresses,
            interface,
            arrivals: 0,
            claims: 0,
            releases: 0,
            conflicts: 0,
            repairs: 0,
            failures: 0,
        }
    }

    /// What has happened since the last look, in the order in which it did.
    pub(super) fn look(&mut self, moves: &Moves, seen: &Status, now: Instant) -> Vec<Told> {
        let claimed = self.claimed(moves);
        let released = self.released(seen, now);
        let refused = self.refused(seen, now);
        // Who has them now has got them last.
        let mut told = if seen.state == State::Active {
            released.into_iter().chain(claimed).collect()
        } else {
            claimed.into_iter().chain(released).collect::<Vec<_>>()
        };
        told.extend(refused);
        told.extend(self.disturbed(seen, now));
        told
    }

    /// What people are told of the owner at the Lease; nothing while this node has none of it.
    pub(super) fn remark(
        &self,
        moves: &Moves,
        seen: &Status,
        (wall, now): (Stamp, Instant),
    ) -> Option<String> {
        let last = (seen.state == State::Active).then(|| moves.own().next()).flatten()?;
        let ago = i64::try_from(now.saturating_duration_since(last.at).as_micros()).unwrap_or(0);
        let since = Timestamp::from_second((wall.0 - ago) / 1_000_000).ok()?;
        Some(format!("{} on {} since {since}; {}", self.addresses, self.interface, why(last)))
    }

    fn claimed(&mut self, moves: &Moves) -> Vec<Told> {
        let arrivals = moves.arrivals();
        let new = arrivals.saturating_sub(std::mem::replace(&mut self.arrivals, arrivals));
        let new = usize::try_from(new).unwrap_or(usize::MAX);
        let claim = |this: &Move| Told {
            what: What::Claimed,
            weight: weight(this.reason),
            at: this.at,
            note: format!("{} on {}: {}", self.addresses, self.interface, why(this)),
        };
        let mut told: Vec<Told> = moves.own().take(new).map(claim).collect();
        told.reverse();
        told
    }

    /// The last release stands for those that nobody has seen.
    fn released(&mut self, seen: &Status, now: Instant) -> Option<Told> {
        let before = std::mem::replace(&mut self.releases, seen.releases);
        let (release, held) = seen.last_release.filter(|_| before < seen.releases)?;
        let at = if seen.state == State::Standby { seen.since } else { now };
        let weight = match release {
            Release::LeaseGivenUp | Release::Stopped => Weight::Normal,
            Release::LeaseEnded | Release::LinkDown | Release::Failed => Weight::Warning,
        };
        let (addresses, interface, held) = (&self.addresses, &self.interface, told(held));
        let note = format!("{addresses} left {interface}: {release}; it was here for {held}");
        Some(Told { what: What::Released, weight, at, note })
    }

    /// A claim that came to nothing.
    fn refused(&mut self, seen: &Status, now: Instant) -> Option<Told> {
        let failed = std::mem::replace(&mut self.failures, seen.failures) < seen.failures;
        let claimed = std::mem::replace(&mut self.claims, seen.claims) < seen.claims;
        if !failed || claimed || seen.state != State::Standby {
            return None;
        }
        let why = seen.last_failure.as_deref().unwrap_or("it says nothing");
        let (addresses, interface) = (&self.addresses, &self.interface);
        let note = format!("the kernel refuses {addresses} on {interface}: {why}; another node may lead");
        Some(Told { what: What::Refused, weight: Weight::Warning, at: now, note })
    }

    /// What others do to the addresses while they are here.
    fn disturbed(&mut self, seen: &Status, now: Instant) -> Vec<Told> {
        let conflict = std::mem::replace(&mut self.conflicts, seen.conflicts) < seen.conflicts;
        let repair = std::mem::replace(&mut self.repairs, seen.repairs) < seen.repairs;
        let (addresses, interface) = (&self.addresses, &self.interface);
        let conflict = conflict.then(|| {
            let note = format!(
                "another station claims {addresses}, which is here on {interface}; {} times since vipd started, whose log names it",
                seen.conflicts
            );
            (What::Conflict, note)
        });
        let repair = repair.then(|| {
            let note = format!(
                "something else removed {addresses} from {interface}: put back; {} times since vipd started",
                seen.repairs
            );
            (What::Restored, note)
        });
        let told = |(what, note)| Told { what, weight: Weight::Warning, at: now, note };
        conflict.into_iter().chain(repair).map(told).collect()
    }
}

/// Why the addresses came here, and how long nobody had them.
fn why(this: &Move) -> String {
    let from = this.from.as_ref().map_or("", |from| from.as_str());
    let why = match this.reason {
        Reason::First => "nobody is known to have had it before".to_owned(),
        Reason::SteppedDown => format!("{from} was told to step down"),
        Reason::Stopped => format!("{from} was stopped"),
        Reason::Unfit => format!("{from} was no longer fit to lead"),
        Reason::GaveWay => format!("{from} gave way"),
        Reason::Released => format!("{from} let go of the Lease"),
        Reason::Silent => format!("{from} fell silent"),
        Reason::Restarted => format!("{from} was started anew"),
        Reason::Lapsed => "the lease had ended, and was got back".to_owned(),
        Reason::Unknown => format!("it was on {from} before"),
    };
    this.took.map(|took| format!("{why}; {} without", told(took))).unwrap_or(why)
}

/// Whether somebody should look: nobody had asked for it.
fn weight(reason: Reason) -> Weight {
    match reason {
        Reason::First
        | Reason::SteppedDown
        | Reason::Stopped
        | Reason::GaveWay
        | Reason::Released
        | Reason::Unknown => Weight::Normal,
        Reason::Unfit | Reason::Silent | Reason::Restarted | Reason::Lapsed => Weight::Warning,
    }
}

fn told(duration: Duration) -> String {
    ago(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
