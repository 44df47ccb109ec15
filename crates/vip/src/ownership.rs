//! The decision whether this node holds the virtual IPs, as a function of (state, input, now).
//!
//! A lease end, the link and what became of the last request go in; [`Action`]s and a deadline come out.
//! The addresses of one machine move together, so it doesn't know them: its driver applies each action to all.
//!
//! ```text
//!              lease and link                 Held
//!   ┌─ Standby ──────────────▶ Claiming ───────────────▶ Active ─┐ refresh, repair: Hold
//!   │     ▲                     │  ▲     kernel let go    │  ▲   │
//!   │     │ Withdrawn, or       │  └──────────────────────┘  └───┘
//!   │     │ the kernel's        │ HoldFailed,               │
//!   │     │ lifetime is over    │ lease or link lost        │ lease or link lost
//!   │     └──────────────── Releasing ◀─────────────────────┘
//!   └ waits a while after a failure
//! ```
//!
//! Its instants are of the driver's clock, which goes on while the machine is suspended: a lease that ends meanwhile is over at the
//! first look after the resume. The kernel's lifetime, and its fence, stand still as long.

use std::time::{Duration, Instant};

/// Whether this node owns the virtual IPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Not wanted here, and not here.
    Standby,
    /// Wanted here, and the kernel hasn't confirmed it yet.
    Claiming,
    /// Held: the kernel has it, and the lease lives.
    Active,
    /// Not wanted here any more, and the kernel hasn't confirmed the removal yet.
    Releasing,
}

/// What the driver is to do now, for every address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Adds the address, or renews its lifetime. Answered by [`Outcome::Held`] or [`Outcome::HoldFailed`].
    Hold {
        /// How long the address may live from now: what is left of the lease. See [`kernel_lifetime`].
        valid_for: Duration,
    },
    /// Removes the address. Answered by [`Outcome::Withdrawn`] or [`Outcome::WithdrawFailed`].
    Withdraw,
    /// Starts to tell the neighbours. Not answered.
    Announce,
}

/// What became of an [`Action`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The kernel has every address.
    Held,
    /// At least one address could not be added or renewed.
    HoldFailed,
    /// No address is there any more.
    Withdrawn,
    /// At least one address could not be removed.
    WithdrawFailed,
}

/// Returns the lifetime that the kernel is given for an address that may live `valid_for`.
///
/// The kernel counts whole seconds and takes no zero. So this rounds down, that the address of a dead owner is gone with its
/// lease and not after it, and a lease of less than a second is outlived by less than one. It is the coarsest of the
/// fences, and the only one that every kernel has.
#[must_use]
pub fn kernel_lifetime(valid_for: Duration) -> Duration {
    Duration::from_secs(valid_for.as_secs().clamp(1, LONGEST_LIFETIME.as_secs()))
}

/// The machine that decides. See the [module's documentation](self).
#[derive(Clone, Debug)]
pub struct Ownership {
    phase: Phase,
    lease: Option<Instant>,
    link_up: bool,
    failures: u32,
    claim_at: Instant,
    withdraw: bool,
    hold: Option<Duration>,
    announce: bool,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Standby,
    Claiming { asked: Grip },
    Active(Active),
    Releasing { gone_by: Instant, withdraw_at: Option<Instant> },
}

#[derive(Clone, Copy, Debug)]
struct Active {
    grip: Grip,
    asked: Option<Grip>,
    hold_at: Option<Instant>,
    repaired_at: Option<Instant>,
}

/// What the kernel was told about the lifetime, and when.
#[derive(Clone, Copy, Debug)]
struct Grip {
    /// Before the request left: the kernel's own count starts later, never earlier.
    asked: Instant,
    until: Instant,
    lifetime: Duration,
}

impl Ownership {
    /// A machine without a lease, on a link that is taken for down until [`set_link`](Self::set_link).
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            phase: Phase::Standby,
            lease: None,
            link_up: false,
            failures: 0,
            claim_at: now,
            withdraw: false,
            hold: None,
            announce: false,
        }
    }

    /// Sets until when the addresses may be held; `None` lets go at once.
    pub fn set_lease(&mut self, until: Option<Instant>, now: Instant) {
        let lapsed = self.lease.is_some_and(|old| old <= now);
        self.lease = until;
        if lapsed && self.wanted_until(now).is_some() {
            // The renewal was in time, only we were late to look. Whether another node led in between can't be
            // known here, so what may have been taken away is put back and announced; nothing is torn down.
            if let Phase::Active(active) = &mut self.phase {
                active.hold_at = Some(now);
                self.announce = true;
            }
        }
        self.settle(now);
    }

    /// Sets whether the interface is there, administratively up and has a carrier.
    pub fn set_link(&mut self, up: bool, now: Instant) {
        self.link_up = up;
        self.settle(now);
    }

    /// Takes the result of the last [`Action`].
    pub fn handle_applied(&mut self, outcome: Outcome, now: Instant) {
        match (self.phase, outcome) {
            (Phase::Claiming { asked }, Outcome::Held) => self.confirm(asked, now),
            (Phase::Active(active), Outcome::Held) => {
                let grip = active.asked.unwrap_or(active.grip);
                self.phase = Phase::Active(Active { grip, asked: None, ..active });
            }
            (Phase::Claiming { asked }, Outcome::HoldFailed) => {
                self.failures = self.failures.saturating_add(1);
                self.claim_at = now + claim_pause(self.failures);
                self.release(asked.gone_by(), now);
            }
            (Phase::Active(active), Outcome::HoldFailed) => {
                let hold_at = Some(now + HOLD_RETRY);
                self.phase = Phase::Active(Active { asked: None, hold_at, ..active });
            }
            (Phase::Releasing { .. }, Outcome::Withdrawn) => self.phase = Phase::Standby,
            (Phase::Releasing { gone_by, .. }, Outcome::WithdrawFailed) => {
                self.phase = Phase::Releasing { gone_by, withdraw_at: Some(now + WITHDRAW_RETRY) };
            }
            // A request that was under way when the phase changed has put the address back.
            (Phase::Releasing { gone_by, .. }, Outcome::Held) => self.release(gone_by, now),
            (Phase::Standby, Outcome::Held) => {
                self.release(now + LONGEST_LIFETIME + KERNEL_SLACK, now);
            }
            // The same the other way round.
            (Phase::Claiming { .. } | Phase::Active(_), Outcome::Withdrawn) => self.handle_missing(now),
            (Phase::Standby | Phase::Releasing { .. }, Outcome::HoldFailed)
            | (Phase::Standby, Outcome::Withdrawn | Outcome::WithdrawFailed)
            | (Phase::Claiming { .. } | Phase::Active(_), Outcome::WithdrawFailed) => {}
        }
        self.settle(now);
    }

    /// Takes the news that an address is not there; while it is held, it is put back.
    ///
    /// At once the first time; against an agent that deletes it again and again, every [`REPAIR_SPACING`].
    pub fn handle_missing(&mut self, now: Instant) {
        match &mut self.phase {
            Phase::Active(active) => {
                let next = active.repaired_at.map_or(now, |last| now.max(last + REPAIR_SPACING));
                active.hold_at = Some(active.hold_at.map_or(next, |at| at.min(next)));
                if next <= now {
                    active.repaired_at = Some(now);
                    // What is under way may have been applied before the deletion.
                    active.asked = None;
                }
            }
            Phase::Claiming { .. } => self.claim(now),
            Phase::Standby | Phase::Releasing { .. } => {}
        }
        self.settle(now);
    }

    /// Takes the time; to be called at [`poll_timeout`](Self::poll_timeout), harmless at any other.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.settle(now);
    }

    /// Returns what to do next, until there is nothing left.
    pub fn poll_action(&mut self) -> Option<Action> {
        if std::mem::take(&mut self.withdraw) {
            return Some(Action::Withdraw);
        }
        if let Some(valid_for) = self.hold.take() {
            return Some(Action::Hold { valid_for });
        }
        std::mem::take(&mut self.announce).then_some(Action::Announce)
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers().into_iter().flatten().map(|(_, at)| at).min()
    }

    /// Returns the state at this instant: after the lease's end it is neither Claiming nor Active, whether or not
    /// the machine has been told the time.
    #[must_use]
    pub fn state(&self, now: Instant) -> State {
        match &self.phase {
            Phase::Standby => State::Standby,
            Phase::Releasing { .. } => State::Releasing,
            Phase::Claiming { .. } | Phase::Active(_) if self.wanted_until(now).is_none() => State::Releasing,
            Phase::Claiming { .. } => State::Claiming,
            Phase::Active(active) if active.grip.expires() <= now => State::Claiming,
            Phase::Active(_) => State::Active,
        }
    }

    /// Returns until when the kernel may answer for the addresses: while they are claimed or held, to the lease's end. With
    /// every renewal it is another, and the kernel is to be told.
    #[must_use]
    pub fn armed_until(&self, now: Instant) -> Option<Instant> {
        match &self.phase {
            Phase::Claiming { .. } | Phase::Active(_) => self.wanted_until(now),
            Phase::Standby | Phase::Releasing { .. } => None,
        }
    }

    fn wanted_until(&self, now: Instant) -> Option<Instant> {
        self.lease.filter(|until| self.link_up && now < *until)
    }

    fn settle(&mut self, now: Instant) {
        let wanted = self.wanted_until(now);
        if self.lease.is_some_and(|until| until <= now) {
            self.lease = None;
        }
        if let Phase::Releasing { gone_by, withdraw_at } = self.phase {
            if gone_by <= now {
                self.phase = Phase::Standby;
            } else if withdraw_at.is_some_and(|at| at <= now) {
                self.release(gone_by, now);
            }
        }
        match (self.phase, wanted) {
            (Phase::Standby, Some(_)) if self.claim_at <= now => self.claim(now),
            (Phase::Claiming { asked }, None) => self.release(asked.gone_by(), now),
            (Phase::Active(active), None) => {
                let asked = active.asked.unwrap_or(active.grip);
                self.release(active.grip.gone_by().max(asked.gone_by()), now);
            }
            (Phase::Active(active), Some(until)) => self.keep(active, until, now),
            (Phase::Standby | Phase::Claiming { .. }, _) | (Phase::Releasing { .. }, _) => {}
        }
    }

    fn claim(&mut self, now: Instant) {
        if let Some(until) = self.wanted_until(now) {
            self.phase = Phase::Claiming { asked: self.ask(until, now) };
        }
    }

    fn confirm(&mut self, grip: Grip, now: Instant) {
        self.failures = 0;
        self.phase = Phase::Active(Active { grip, asked: None, hold_at: None, repaired_at: None });
        // A confirmation that comes after the lease is no ground for an announcement.
        self.announce = self.wanted_until(now).is_some();
    }

    fn keep(&mut self, mut active: Active, until: Instant, now: Instant) {
        if active.grip.expires() <= now {
            // Nobody renewed it in time: the kernel may have let go.
            self.announce = false;
            match active.asked {
                Some(asked) => self.phase = Phase::Claiming { asked },
                None => self.claim(now),
            }
            return;
        }
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if active.asked.is_none() && due(active.next_hold(until)) {
            if due(active.hold_at) {
                active.repaired_at = Some(now);
                active.hold_at = None;
            }
            active.asked = Some(self.ask(until, now));
        }
        self.phase = Phase::Active(active);
    }

    fn ask(&mut self, until: Instant, now: Instant) -> Grip {
        assert!(self.link_up && now < until, "an address is wanted past its lease");
        let valid_for = until - now;
        self.hold = Some(valid_for);
        Grip { asked: now, until, lifetime: kernel_lifetime(valid_for) }
    }

    fn release(&mut self, gone_by: Instant, now: Instant) {
        self.hold = None;
        self.announce = false;
        self.withdraw = true;
        self.phase = Phase::Releasing { gone_by: gone_by.max(now), withdraw_at: None };
    }

    fn timers(&self) -> [Option<(Timer, Instant)>; 3] {
        let timer = |timer: Timer, at: Option<Instant>| at.map(|at| (timer, at));
        let lease = timer(Timer::LeaseEnds, self.lease);
        match &self.phase {
            Phase::Standby => {
                let wanted = self.lease.is_some() && self.link_up;
                [lease, timer(Timer::Claim, wanted.then_some(self.claim_at)), None]
            }
            Phase::Claiming { .. } => [lease, None, None],
            Phase::Active(active) => {
                let idle = active.asked.is_none();
                let hold = self.lease.and_then(|until| active.next_hold(until));
                [
                    lease,
                    timer(Timer::KernelLetsGo, Some(active.grip.expires())),
                    timer(Timer::Hold, hold.filter(|_| idle)),
                ]
            }
            Phase::Releasing { gone_by, withdraw_at } => {
                [lease, timer(Timer::Gone, Some(*gone_by)), timer(Timer::Withdraw, *withdraw_at)]
            }
        }
    }
}

impl Active {
    /// When to ask the kernel next. A repair or a retry that is planned goes before the refresh: it does the same, and
    /// after a failure the refresh would be due all the time.
    fn next_hold(&self, until: Instant) -> Option<Instant> {
        self.hold_at.or_else(|| self.grip.refresh_at(until))
    }
}

impl Grip {
    /// From when on the kernel may have removed the address.
    fn expires(&self) -> Instant {
        self.asked + self.lifetime - KERNEL_TIMER_FUZZ
    }

    /// From when on the kernel has removed the address for certain.
    fn gone_by(&self) -> Instant {
        self.asked + self.lifetime + KERNEL_SLACK
    }

    /// When to renew, if the lease gives something to renew it with.
    fn refresh_at(&self, until: Instant) -> Option<Instant> {
        if until + KERNEL_GRAIN < self.asked + self.lifetime {
            // The lease was cut short by more than the kernel's grain: so must the fence be.
            return Some(self.asked);
        }
        let newer = until > self.until || until > self.expires();
        newer.then(|| self.asked + self.lifetime * 2 / 5)
    }
}

/// The reasons for which a machine wants to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timer {
    /// The lease is over: withdraw.
    LeaseEnds,
    /// The pause after a failed claim is over: try again.
    Claim,
    /// A good part of the kernel's lifetime is used, a repair was put off for its spacing, or a renewal failed.
    Hold,
    /// The kernel may have removed the address: it counts as claimed anew.
    KernelLetsGo,
    /// A withdrawal failed: ask again.
    Withdraw,
    /// The kernel has removed what could not be withdrawn.
    Gone,
}

/// An address that is deleted again and again is put back at most once in this time: soon enough for a goal of
/// 10 ms, and at most 200 requests a second against an agent that never stops.
pub const REPAIR_SPACING: Duration = Duration::from_millis(5);

/// The kernel's count of lifetimes has this grain.
const KERNEL_GRAIN: Duration = Duration::from_secs(1);

/// The kernel's timer removes addresses up to this much early, to serve several in one go (a fiftieth of a second,
/// for IPv4 and IPv6 alike).
const KERNEL_TIMER_FUZZ: Duration = Duration::from_millis(20);

/// The kernel's timer is up to 0.26 s late where it was measured; a multiple of that.
const KERNEL_SLACK: Duration = Duration::from_secs(1);

/// The longest lifetime that is asked for, whatever the lease says: a dead daemon's address stays no longer. Also keeps
/// a lease "for ever" within the kernel's 32-bit count.
const LONGEST_LIFETIME: Duration = Duration::from_secs(60);

/// A failed renewal is tried again after this time: about ten times before the shortest lifetime ends.
const HOLD_RETRY: Duration = Duration::from_millis(50);

/// A failed withdrawal is tried again after this time, until the kernel's lifetime has done it.
const WITHDRAW_RETRY: Duration = Duration::from_millis(50);

/// The pause after the `failures`-th failed claim in a row: 50 ms, doubled up to 3.2 s. Between the tries a part of the
/// group may have been there for a moment, which should not happen often.
fn claim_pause(failures: u32) -> Duration {
    Duration::from_millis(50) * 2_u32.pow(failures.saturating_sub(1).min(6))
}

#[cfg(test)]
mod tests;
