//! What a driver tells the rest of the process and the operator: states by watch, news by log, each once.

use super::Config;
use crate::address::{Mac, Station};
use crate::error::Error;
use crate::ownership::{Outcome, State};
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// The view from outside on a driver that runs. Clones are views on the same one.
#[derive(Clone, Debug)]
pub struct Handle {
    state: watch::Receiver<State>,
    link_up: watch::Receiver<bool>,
    parting: watch::Receiver<bool>,
    conflicts: watch::Receiver<u64>,
    repairs: watch::Receiver<u64>,
    status: watch::Receiver<Status>,
    stop: watch::Sender<bool>,
}

/// A driver's counts since its start, and its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The state now.
    pub state: State,
    /// Since when.
    pub since: Instant,
    /// Until when the addresses may be held, as last heard.
    pub lease: Option<Instant>,
    /// Whether the interface is there, up, and has a carrier.
    pub link_up: bool,
    /// Whether the kernel, where it may, stops answering for the addresses when the lease ends, whatever becomes of this process.
    pub fenced: bool,
    /// Times that the addresses were claimed.
    pub claims: u64,
    /// How long the last claim took, from the first request to the kernel's confirmation.
    pub last_claim: Option<Duration>,
    /// Times that the addresses were released after they had been claimed.
    pub releases: u64,
    /// Why they were released last, and how long they had been held.
    pub last_release: Option<(Reason, Duration)>,
    /// Times that an address was put back after somebody else had deleted it.
    pub repairs: u64,
    /// Frames sent to tell the neighbours.
    pub announcements: u64,
    /// Times that another station was heard to claim one of the addresses while they were held here.
    pub conflicts: u64,
    /// Requests that failed.
    pub failures: u64,
    /// The last failure, with its causes.
    pub last_failure: Option<String>,
}

impl Handle {
    /// Follows the state.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Follows whether the interface is there, up, and has a carrier.
    #[must_use]
    pub fn link_up(&self) -> watch::Receiver<bool> {
        self.link_up.clone()
    }

    /// Follows whether the addresses leave in good order just now: then connections that were made to them here are best left alone
    /// for a moment. It begins before the state changes, and ends in less than a second.
    #[must_use]
    pub fn parting(&self) -> watch::Receiver<bool> {
        self.parting.clone()
    }

    /// Follows the count of conflicting claims heard while the addresses were held here.
    #[must_use]
    pub fn conflict(&self) -> watch::Receiver<u64> {
        self.conflicts.clone()
    }

    /// Follows the count of times that an address was put back after somebody else had deleted it.
    #[must_use]
    pub fn repairs(&self) -> watch::Receiver<u64> {
        self.repairs.clone()
    }

    /// Returns all counts, as they are now.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Asks the driver to withdraw the addresses and to return.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }
}

/// Why the addresses are withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The lease ended, and was not renewed.
    LeaseEnded,
    /// The lease was given up in good order.
    LeaseGivenUp,
    /// The interface is down, gone, or without a carrier.
    LinkDown,
    /// The driver was stopped.
    Stopped,
    /// A request for the addresses failed.
    Failed,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LeaseEnded => "the lease ended",
            Self::LeaseGivenUp => "the lease was given up",
            Self::LinkDown => "the link is down",
            Self::Stopped => "stopped",
            Self::Failed => "the claim failed",
        })
    }
}

/// The sending ends of a [`Handle`], and what has to be remembered to say each thing once.
#[derive(Debug)]
pub(super) struct Telling {
    interface: String,
    vips: String,
    state: watch::Sender<State>,
    link_up: watch::Sender<bool>,
    parting: watch::Sender<bool>,
    conflicts: watch::Sender<u64>,
    repairs_made: watch::Sender<u64>,
    status: watch::Sender<Status>,
    /// Kept so that the receiver in the driver never finds it closed.
    _stop: watch::Sender<bool>,
    claim_began: Option<Instant>,
    /// Since when they are held.
    held_since: Option<Instant>,
    release: Option<(Reason, Instant)>,
    missing_since: Option<Instant>,
    repairs: Warnings,
    claims_heard: Warnings,
    failures: Warnings,
}

impl Telling {
    pub(super) fn new(config: &Config, link_up: bool, now: Instant) -> (Self, Handle, watch::Receiver<bool>) {
        let status = Status {
            state: State::Standby,
            since: now,
            lease: None,
            link_up,
            fenced: false,
            claims: 0,
            last_claim: None,
            releases: 0,
            last_release: None,
            repairs: 0,
            announcements: 0,
            conflicts: 0,
            failures: 0,
            last_failure: None,
        };
        let (state, state_seen) = watch::channel(State::Standby);
        let (link, link_seen) = watch::channel(link_up);
        let (parting, parting_seen) = watch::channel(false);
        let (conflicts, conflicts_seen) = watch::channel(0);
        let (repairs, repairs_seen) = watch::channel(0);
        let (status, status_seen) = watch::channel(status);
        let (stop, stop_seen) = watch::channel(false);
        let vips: Vec<_> = config.addresses.iter().map(ToString::to_string).collect();
        let handle = Handle {
            state: state_seen,
            link_up: link_seen,
            parting: parting_seen,
            conflicts: conflicts_seen,
            repairs: repairs_seen,
            status: status_seen,
            stop: stop.clone(),
        };
        let telling = Self {
            interface: config.interface.clone(),
            vips: vips.join(" "),
            state,
            link_up: link,
            parting,
            conflicts,
            repairs_made: repairs,
            status,
            _stop: stop,
            claim_began: None,
            held_since: None,
            release: None,
            missing_since: None,
            repairs: Warnings::default(),
            claims_heard: Warnings::default(),
            failures: Warnings::default(),
        };
        (telling, handle, stop_seen)
    }

    pub(super) fn is_link_up(&self) -> bool {
        *self.link_up.borrow()
    }

    pub(super) fn lease(&self, lease: Option<Instant>) {
        self.status.send_modify(|status| status.lease = lease);
    }

    pub(super) fn fenced(&self, fenced: bool) {
        self.status.send_modify(|status| status.fenced = fenced);
    }

    pub(super) fn link(&self, up: bool) {
        if self.link_up.send_if_modified(|before| std::mem::replace(before, up) != up) {
            tracing::info!(interface = self.interface, up, "the link changed");
        }
        self.status.send_modify(|status| status.link_up = up);
    }

    pub(super) fn parting(&self, parting: bool) {
        self.parting.send_if_modified(|before| std::mem::replace(before, parting) != parting);
    }

    /// A request to hold is about to leave.
    pub(super) fn holding(&mut self, now: Instant) {
        if *self.state.borrow() != State::Active {
            self.claim_began.get_or_insert(now);
        }
    }

    /// It was answered; while Active with an address missing, that was a repair.
    pub(super) fn held(&mut self, outcome: Outcome, now: Instant) {
        if outcome != Outcome::Held {
            return;
        }
        if let Some(since) = self.missing_since.take() {
            self.status.send_modify(|status| status.repairs += 1);
            self.repairs_made.send_modify(|count| *count += 1);
            if let Some(suppressed) = self.repairs.next(now) {
                tracing::warn!(
                    vip = self.vips,
                    interface = self.interface,
                    took = ?now.duration_since(since),
                    suppressed,
                    "somebody deleted the virtual IP: put back"
                );
            }
        }
    }

    /// A request to withdraw is about to leave.
    pub(super) fn withdrawing(&mut self, reason: Reason, now: Instant) {
        self.release.get_or_insert((reason, now));
        self.missing_since = None;
    }

    /// The machine is in this state now.
    pub(super) fn state(&mut self, state: State, now: Instant) {
        // Watchers are woken by changes alone, not by each renewal of a lease.
        if !self.state.send_if_modified(|before| std::mem::replace(before, state) != state) {
            return;
        }
        let (vip, interface) = (&self.vips, &self.interface);
        match state {
            State::Claiming | State::Releasing => {}
            State::Active => {
                let took = self.claim_began.take().map(|began| now.duration_since(began));
                tracing::info!(vip, interface, took = ?took.unwrap_or_default(), "claimed the virtual IP");
                self.held_since.get_or_insert(now);
                self.status.send_modify(|status| {
                    status.claims += 1;
                    status.last_claim = took;
                });
            }
            State::Standby => {
                let claimed = self.claim_began.take().is_none();
                let (reason, began) = self.release.take().unwrap_or((Reason::LeaseEnded, now));
                if claimed {
                    let took = now.duration_since(began);
                    tracing::info!(vip, interface, %reason, ?took, "released the virtual IP");
                }
                // Back from a claim that never succeeded, there is nothing to tell.
                if let Some(since) = self.held_since.take() {
                    self.status.send_modify(|status| {
                        status.releases += 1;
                        status.last_release = Some((reason, began.saturating_duration_since(since)));
                    });
                }
            }
        }
        self.status.send_modify(|status| {
            status.state = state;
            status.since = now;
        });
    }

    pub(super) fn missing(&mut self, now: Instant) {
        self.missing_since.get_or_insert(now);
    }

    pub(super) fn announced(&self) {
        self.status.send_modify(|status| status.announcements += 1);
    }

    pub(super) fn conflict(&mut self, ip: IpAddr, mac: Mac, now: Instant) {
        self.conflicts.send_modify(|count| *count += 1);
        self.status.send_modify(|status| status.conflicts += 1);
        if let Some(suppressed) = self.claims_heard.next(now) {
            tracing::warn!(
                vip = %ip,
                interface = self.interface,
                station = %Station(mac),
                suppressed,
                "another station claims the virtual IP: announcing again"
            );
        }
    }

    pub(super) fn failed(&mut self, error: &Error, now: Instant) {
        let error = Causes(error).to_string();
        if let Some(suppressed) = self.failures.next(now) {
            tracing::warn!(
                vip = self.vips,
                interface = self.interface,
                error,
                suppressed,
                "a request failed"
            );
        }
        self.status.send_modify(|status| {
            status.failures += 1;
            status.last_failure = Some(error);
        });
    }
}

/// One line for each burst of one kind, with the count of those that were not told before it.
#[derive(Debug, Default)]
pub(super) struct Warnings {
    last: Option<Instant>,
    suppressed: u64,
}

impl Warnings {
    pub(super) fn next(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now < last + WARNING_INTERVAL) {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

/// An error and its causes in one line.
struct Causes<'a>(&'a Error);

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = std::error::Error::source(self.0);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// Time between two warnings of one kind: what goes on for hours stays readable.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);
