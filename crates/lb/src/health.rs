//! What a backend's check results add up to.
//!
//! Two questions, each with its own hysteresis: *is it alive?* and *is it ready?* An answer that says “not
//! ready” counts for the first and against the second.
//!
//! ```text
//!              ready    not ready
//!   alive      Ready    Draining
//!   not alive  ────── Dead ──────
//! ```

use std::borrow::Cow;
use std::fmt;
use std::time::Instant;

/// What is known about a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Health {
    /// Not asked yet.
    Unknown,
    /// Takes new connections.
    Ready,
    /// Answers, but says it is not ready: keeps its flows and gets no new ones while another is ready.
    Draining,
    /// Does not answer, or takes no connections: its flows are reset, in the latter case after a while.
    Dead,
}

impl fmt::Display for Health {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Unknown => "unknown",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Dead => "dead",
        })
    }
}

/// How a backend answered one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It is there and ready.
    Ready,
    /// It is there and says it is not ready, or answers nonsense.
    NotReady,
    /// It did not answer.
    Nothing,
    /// Its host said that nobody listens. Whoever did may still be answering what it has begun: a process that was told to end closes
    /// its port first.
    Refused,
    /// It could not be asked, for a reason of our own, such as too many open files. That says nothing about
    /// it.
    NotAsked,
}

impl Answer {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 5] = [Self::Ready, Self::NotReady, Self::Nothing, Self::Refused, Self::NotAsked];

    /// A word for each, as metrics have it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::NotReady => "not_ready",
            Self::Nothing => "nothing",
            Self::Refused => "refused",
            Self::NotAsked => "not_asked",
        }
    }
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// How the backend answered.
    pub answer: Answer,
    /// Proof rather than a sign: a word of a kernel, or a connection that was lost. Needs no repetition.
    pub certain: bool,
    /// Why, for the operator.
    pub reason: Cow<'static, str>,
}

impl Observation {
    /// The backend is there and ready.
    pub fn ready(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { answer: Answer::Ready, certain: false, reason: reason.into() }
    }

    /// The backend is there but not ready.
    pub fn not_ready(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { answer: Answer::NotReady, certain: false, reason: reason.into() }
    }

    /// The backend did not answer; that may be a lost packet.
    pub fn nothing(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { answer: Answer::Nothing, certain: false, reason: reason.into() }
    }

    /// The backend could not be asked.
    pub fn not_asked(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { answer: Answer::NotAsked, certain: false, reason: reason.into() }
    }

    /// Nobody listens where the backend was, and that is certain.
    pub fn refused(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { answer: Answer::Refused, certain: true, reason: reason.into() }
    }
}

/// A change of judgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flip {
    /// What the backend was held for.
    pub from: Health,
    /// What it is held for now.
    pub to: Health,
    /// The check result that decided.
    pub reason: Cow<'static, str>,
}

/// One yes/no question that needs several answers in a row to change its mind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hysteresis {
    yes: bool,
    /// Answers in a row that contradict `yes`.
    against: u32,
}

impl Hysteresis {
    fn adopt(&mut self, yes: bool) {
        *self = Self { yes, against: 0 };
    }

    fn count(&mut self, yes: bool, rise: u32, fall: u32) {
        if yes == self.yes {
            self.against = 0;
            return;
        }
        self.against = self.against.saturating_add(1);
        if self.against >= if yes { rise } else { fall } {
            self.adopt(yes);
        }
    }
}

/// The judgement about one backend.
///
/// The first result counts at once, and so does a certain one; otherwise `rise` better or `fall` worse
/// results in a row are needed.
#[derive(Debug, Clone)]
pub struct Machine {
    rise: u32,
    fall: u32,
    health: Health,
    since: Instant,
    /// No result has come in yet.
    first: bool,
    alive: Hysteresis,
    ready: Hysteresis,
}

impl Machine {
    /// A judgement about a backend that has not been asked yet.
    #[must_use]
    pub fn new(rise: u32, fall: u32, now: Instant) -> Self {
        Self::anew(rise, fall, Health::Unknown, now)
    }

    /// A judgement that begins anew, by another check: the backend is held for what it was until the first result, which decides.
    #[must_use]
    pub fn anew(rise: u32, fall: u32, health: Health, since: Instant) -> Self {
        let undecided = Hysteresis { yes: false, against: 0 };
        Self { rise, fall, health, since, first: true, alive: undecided, ready: undecided }
    }

    /// What the backend is held for.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health
    }

    /// Since when.
    #[must_use]
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Takes in one check result and returns the change, if there is one.
    pub fn observe(&mut self, observation: &Observation, now: Instant) -> Option<Flip> {
        let (alive, ready) = match observation.answer {
            Answer::Ready => (true, true),
            Answer::NotReady => (true, false),
            Answer::Nothing | Answer::Refused => (false, false),
            Answer::NotAsked => return None,
        };
        if std::mem::take(&mut self.first) || observation.certain {
            self.alive.adopt(alive);
            self.ready.adopt(ready);
        } else {
            self.alive.count(alive, self.rise, self.fall);
            self.ready.count(ready, self.rise, self.fall);
        }
        let to = match (self.alive.yes, self.ready.yes) {
            (true, true) => Health::Ready,
            (true, false) => Health::Draining,
            (false, _) => Health::Dead,
        };
        if to == self.health {
            return None;
        }
        let from = std::mem::replace(&mut self.health, to);
        self.since = now;
        Some(Flip { from, to, reason: observation.reason.clone() })
    }
}

#[cfg(test)]
mod tests;
