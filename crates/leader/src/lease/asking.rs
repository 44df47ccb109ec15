//! When to ask the API for what, and what its answers mean.

use std::time::{Duration, Instant};

use crate::Term;

use super::{
    Ask, Departure, Election, Event, Observed, Record, Reply, Request, RequestId, Stamp, Standing,
    WRITTEN_MAX,
    record::Sight,
    request::{Outstanding, Purpose},
    sight::Claim,
};

/// A request is given a third of the renew deadline, so that two more can be made of other servers before it.
const REQUESTS_PER_DEADLINE: u32 = 3;
/// A server that needs longer than this for one object is no help, whatever the deadline.
const PATIENCE_MAX: Duration = Duration::from_secs(5);
/// After a failure the next request leaves after a quarter of a retry period: often enough to find a server that is back,
/// seldom enough to let it come back.
const RETRIES_PER_PERIOD: u32 = 4;
/// So many writes in a row may meet another version before the next waits: a candidate loses a race or two.
const SETBACKS_MAX: u32 = 3;
/// How long others leave a released Lease to the one that was named: some round trips.
const GRACE_MAX: Duration = Duration::from_millis(500);

impl Election {
    /// The request to send now, if any. The stamp is what the wall clock shows.
    pub fn poll_request(&mut self, stamp: Stamp, now: Instant) -> Option<Request> {
        let (at, purpose) = self.next_ask()?;
        if now < at {
            return None;
        }
        let purpose = if self.is_stale(now) { Purpose::Look } else { purpose };
        let ask = match purpose {
            Purpose::Look => Ask::Get,
            Purpose::Hold => {
                let record = self.holding(stamp);
                self.remember(stamp);
                self.write(record)
            }
            Purpose::Release => {
                let record = self.released(stamp);
                self.write(record)
            }
        };
        let patience = (self.timing.renew_deadline() / REQUESTS_PER_DEADLINE).min(PATIENCE_MAX);
        self.requests += 1;
        let id = RequestId(self.requests);
        self.outstanding = Some(Outstanding { id, purpose, started: now, expires: now + patience });
        // Should no answer ever come, the next attempt has its pause all the same.
        self.quiet_until = now + self.pause();
        Some(Request { id, ask, patience })
    }

    /// The next request and when it is due. While one is under way there is none, but for a release that has waited long
    /// enough for the renewal before it.
    pub(super) fn next_ask(&self) -> Option<(Instant, Purpose)> {
        if let Some(outstanding) = &self.outstanding {
            return match &self.standing {
                Standing::Releasing { not_before, .. } if outstanding.purpose == Purpose::Hold => {
                    Some((*not_before, Purpose::Release))
                }
                Standing::Following
                | Standing::Leading { .. }
                | Standing::HandingOver { .. }
                | Standing::Releasing { .. } => None,
            };
        }
        let (at, purpose) = self.wanted()?;
        Some((at.max(self.quiet_until), purpose))
    }

    fn wanted(&self) -> Option<(Instant, Purpose)> {
        let is_seen = self.sight.observed().is_some();
        match &self.standing {
            Standing::HandingOver { .. } => None,
            Standing::Releasing { .. } if is_seen && !self.must_look => {
                Some((self.quiet_until, Purpose::Release))
            }
            Standing::Following if self.departure == Departure::Stopped => None,
            Standing::Leading { .. } | Standing::Releasing { .. } | Standing::Following if self.must_look => {
                Some((self.quiet_until, Purpose::Look))
            }
            Standing::Releasing { .. } => Some((self.quiet_until, Purpose::Look)),
            Standing::Leading { renew_at, .. } => Some((*renew_at, Purpose::Hold)),
            Standing::Following => {
                let look = (self.look_at, Purpose::Look);
                Some(
                    self.stand_at()
                        .map(|at| (at, Purpose::Hold))
                        .filter(|stand| stand.0 < look.0)
                        .unwrap_or(look),
                )
            }
        }
    }

    /// When this node would take the Lease, if nothing changes.
    fn stand_at(&self) -> Option<Instant> {
        let retry = self.timing.retry_period();
        let resting = match self.departure {
            Departure::Stopped => return None,
            Departure::Resting { until } => Some(until),
            Departure::Staying => None,
        };
        let claim = self.record().map(|record| self.claim(record));
        // What carries its own name nobody else can have taken meanwhile.
        let free = self.claim_in_sight().unwrap_or(self.seen_at).max(self.stray_claims_end);
        let named = self.record().and_then(|record| record.successor.as_ref());
        let wait = match (claim, named) {
            (Some(Claim::Released), Some(named)) if *named == self.me => Duration::ZERO,
            (Some(Claim::Released), Some(_)) => (retry / 2).min(GRACE_MAX) + self.jitter,
            // All who are fit write at once; the version decides, and costs the others one refused write each.
            (Some(Claim::Released), None) => Duration::ZERO,
            (Some(Claim::Own | Claim::Inherited), _) => Duration::ZERO,
            (Some(Claim::Cleared | Claim::Foreign | Claim::Twin) | None, _) => self.jitter,
        };
        let unfit = if self.eligible { Duration::ZERO } else { retry };
        Some((free + wait + unfit).max(resting.unwrap_or(free)))
    }

    /// A silence after which the Lease is looked at.
    pub(super) fn look_interval(&self) -> Duration {
        // A watch tells each renewal; only if two of them are missing it may be dead.
        let periods = if self.watching { 2 } else { 1 };
        self.timing.retry_period() * periods + self.jitter
    }

    fn pause(&self) -> Duration {
        self.timing.retry_period() / RETRIES_PER_PERIOD
    }

    pub(super) fn take_reply(&mut self, outstanding: &Outstanding, reply: Reply, now: Instant) {
        match (outstanding.purpose, reply) {
            (_, Reply::Failed) => self.quiet_until = now + self.pause(),
            (Purpose::Look, Reply::Done(observed)) => {
                self.quiet_until = now;
                // A watch may have told something newer meanwhile.
                let overtaken = self.seen_at > outstanding.started
                    && self
                        .sight
                        .observed()
                        .is_some_and(|known| observed.version.is_older_than(&known.version).unwrap_or(false));
                if !overtaken {
                    self.see(observed, now);
                }
            }
            (Purpose::Look, Reply::Absent | Reply::Conflict) => {
                self.quiet_until = now;
                self.see_none(now);
            }
            (Purpose::Hold, Reply::Done(observed)) => {
                self.quiet_until = now;
                self.setbacks = 0;
                self.hold(observed, outstanding.started, now);
            }
            (Purpose::Release, Reply::Done(observed)) => {
                self.quiet_until = now;
                self.see(observed, now);
            }
            (Purpose::Hold | Purpose::Release, Reply::Conflict | Reply::Absent) => {
                // Somebody was faster, or an own write was applied whose answer got lost. Where looking doesn't help, as in a
                // namespace that doesn't exist, there is no use in haste.
                self.setbacks += 1;
                let pause =
                    if self.setbacks < SETBACKS_MAX { Duration::ZERO } else { self.timing.retry_period() };
                self.quiet_until = now + pause;
                self.must_look = true;
            }
        }
    }

    /// A write of this node's name was granted.
    fn hold(&mut self, observed: Observed, started: Instant, now: Instant) {
        let transitions = observed.record.transitions;
        self.forget_older(observed.record.renewed);
        self.see(observed, now);
        let until = started + self.timing.renew_deadline();
        let term = Term(u64::try_from(transitions).unwrap_or(0));
        if self.standing == Standing::Following {
            self.named = None;
        }
        match &mut self.standing {
            Standing::Following if self.departure == Departure::Stopped => {
                // It was asked to stop while it asked: it never led by this.
                self.standing = Standing::Releasing { term, give_up: until, not_before: now };
            }
            Standing::Following => {
                assert!(now < until, "an answer is waited for a third of the deadline");
                let renew_at = started + self.timing.retry_period();
                self.standing = Standing::Leading { term, until, renew_at, preserved: false };
                self.tell(Event::Elected { term });
            }
            Standing::Leading { until: old, renew_at, preserved, .. } => {
                *old = if *preserved { until.max(now) } else { until.max(*old) };
                *preserved = false;
                *renew_at = started + self.timing.retry_period();
            }
            Standing::HandingOver { .. } | Standing::Releasing { .. } => {}
        }
    }

    fn write(&self, record: Record) -> Ask {
        match &self.sight {
            Sight::Seen(observed) => Ask::Update(observed.version.clone(), record),
            Sight::Unseen | Sight::Absent => Ask::Create(record),
        }
    }

    /// The record by which this node holds the Lease, as client-go writes it.
    fn holding(&self, stamp: Stamp) -> Record {
        let me = Some(self.me.as_str().into());
        let (acquired, transitions) = match self.record() {
            None => (Some(stamp), 0),
            Some(record) if record.holder == me => (record.acquired.or(Some(stamp)), record.transitions),
            Some(record) => (Some(stamp), record.transitions.max(0).saturating_add(1)),
        };
        Record {
            holder: me,
            duration: Some(self.timing.lease_duration()),
            acquired,
            renewed: Some(stamp),
            transitions,
            successor: None,
        }
    }

    /// Remembers an own write until a later one is known to be in the Lease.
    fn remember(&mut self, stamp: Stamp) {
        if self.written.len() == WRITTEN_MAX {
            self.written.pop_front();
        }
        self.written.push_back(stamp);
    }

    fn forget_older(&mut self, renewed: Option<Stamp>) {
        if let Some(place) = self.written.iter().position(|stamp| Some(*stamp) == renewed) {
            self.written.drain(..place);
        }
    }
}
