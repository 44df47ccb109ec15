//! What clients do: the kinds of streams, and how one is drawn.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;

use super::talk::Order;

/// A kind of stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A small question and its answer.
    Short,
    /// Many questions, one after the other, on one connection.
    KeepAlive,
    /// Much to the backend.
    Upload,
    /// Much to the client.
    Download,
    /// Much both ways at once.
    Duplex,
    /// Some bytes now and then, for long.
    Ticking,
    /// Silent for long, and then used once more.
    Quiet,
    /// Silent until vipd ends it, as `idleTimeout` says.
    Silent,
    /// The client ends its stream before it is answered.
    ClientEnds,
    /// The backend ends its stream, and the client goes on.
    BackendEnds,
    /// The client resets it in the middle.
    Reset,
}

impl Kind {
    /// All of them.
    pub(super) const ALL: [Self; 11] = [
        Self::Short,
        Self::KeepAlive,
        Self::Upload,
        Self::Download,
        Self::Duplex,
        Self::Ticking,
        Self::Quiet,
        Self::Silent,
        Self::ClientEnds,
        Self::BackendEnds,
        Self::Reset,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::KeepAlive => "keep-alive",
            Self::Upload => "upload",
            Self::Download => "download",
            Self::Duplex => "duplex",
            Self::Ticking => "ticking",
            Self::Quiet => "quiet",
            Self::Silent => "silent",
            Self::ClientEnds => "client-ends",
            Self::BackendEnds => "backend-ends",
            Self::Reset => "reset",
        }
    }

    /// How many of a kind there are at a time.
    pub(super) fn standing(self) -> u32 {
        match self {
            Self::Short => 16,
            Self::KeepAlive => 24,
            Self::Upload | Self::Download => 1,
            Self::Duplex | Self::BackendEnds => 2,
            Self::Ticking => 160,
            Self::Quiet => 120,
            Self::Silent => 20,
            Self::ClientEnds | Self::Reset => 3,
        }
    }

    /// The rest between one and the next: of those that are over soon it makes the rate.
    pub(super) fn rest(self, dice: &mut Rng) -> Duration {
        match self {
            Self::Short | Self::ClientEnds | Self::BackendEnds | Self::Reset => between(dice, 0.5, 1.5),
            Self::KeepAlive
            | Self::Upload
            | Self::Download
            | Self::Duplex
            | Self::Ticking
            | Self::Quiet
            | Self::Silent => between(dice, 0.1, 0.5),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How long things take, which follows from how long the whole is to last.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scale {
    /// vipd's `idleTimeout`.
    pub(super) idle: Duration,
    /// What a bulk stream takes at most.
    pub(super) bulk: Duration,
    /// How many questions a second are asked on a kept connection.
    pub(super) rate: f64,
}

impl Scale {
    /// That of a soak.
    pub(super) fn of(lasts: Duration, rate: f64) -> Self {
        let part = |parts: u32, least: u64, most: u64| {
            (lasts / parts).clamp(Duration::from_secs(least), Duration::from_secs(most))
        };
        Self { idle: part(2, 15, 300), bulk: part(10, 3, 30), rate }
    }
}

/// Bytes of content a second on a bulk stream.
const PACE: u64 = 192 * 1024;

/// One stream before it begins.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Errand {
    pub(super) kind: Kind,
    /// Its first bytes may be said again to another backend.
    pub(super) repeatable: bool,
    pub(super) order: Order,
    pub(super) rounds: u32,
    /// Bytes of content a round: at least and at most, to the backend and to the client.
    pub(super) up: (u64, u64),
    pub(super) down: (u64, u64),
    pub(super) pace: u64,
    /// How long it rests before each round but the first: at least and at most, in seconds.
    pub(super) pause: (f64, f64),
    /// How long the backend thinks before its first answer, at most.
    pub(super) think: Duration,
    /// When the client resets it, counted from the first answer.
    pub(super) reset_after: Option<Duration>,
    /// It reads nothing before that.
    pub(super) deaf: bool,
}

impl Errand {
    /// Draws one.
    pub(super) fn draw(kind: Kind, scale: &Scale, dice: &mut Rng) -> Self {
        let idle = scale.idle.as_secs_f64();
        let plain = Self {
            kind,
            repeatable: dice.bool(),
            order: Order::InTurn,
            rounds: 1,
            up: (1, 2000),
            down: (1, 4000),
            pace: 0,
            pause: (0.0, 0.0),
            think: Duration::ZERO,
            reset_after: None,
            deaf: false,
        };
        let most = PACE * scale.bulk.as_secs();
        let bulk = (most / 4, most);
        match kind {
            // A backend that is killed while it thinks hasn't answered: the stream goes to another, if it may be said again.
            Kind::Short => Self { think: Duration::from_millis(if dice.bool() { 500 } else { 0 }), ..plain },
            Kind::KeepAlive => {
                Self { rounds: dice.u32(20..=120), pause: (0.25 / scale.rate, 0.75 / scale.rate), ..plain }
            }
            Kind::Upload => Self { up: bulk, pace: PACE, ..plain },
            Kind::Download => Self { down: bulk, pace: PACE, ..plain },
            Kind::Duplex => Self { order: Order::Together, up: bulk, down: bulk, pace: PACE, ..plain },
            Kind::Ticking => Self {
                rounds: dice.u32(2..=10),
                up: (1, 32),
                down: (1, 32),
                pause: (idle / 20.0, idle / 3.0),
                ..plain
            },
            // A flow is ended when it has been silent for the timeout, or up to an eighth longer.
            Kind::Quiet => Self { rounds: 2, pause: (idle / 10.0, idle * 0.6), ..plain },
            Kind::Silent => plain,
            Kind::ClientEnds => {
                Self { order: Order::ClientEnds, up: (0, 65_536), down: (0, 65_536), ..plain }
            }
            Kind::BackendEnds => {
                Self { order: Order::BackendEnds, up: (0, 65_536), down: (0, 65_536), ..plain }
            }
            Kind::Reset => Self {
                order: if dice.bool() { Order::Together } else { Order::InTurn },
                rounds: 2,
                // Without a pace: buffers are full when it happens.
                up: (1, 500_000),
                down: (1, 500_000),
                pace: if dice.bool() { PACE } else { 0 },
                reset_after: Some(between(dice, 0.0, 0.3)),
                deaf: dice.u8(..4) == 0,
                ..plain
            },
        }
    }

    /// Draws how many bytes go each way in a round.
    pub(super) fn lengths(&self, round: u32, dice: &mut Rng) -> (u64, u64) {
        // What comes before a reset is small: it shows that the stream has been taken.
        if self.reset_after.is_some() && round == 0 {
            return (dice.u64(1..=200), dice.u64(1..=200));
        }
        (dice.u64(self.up.0..=self.up.1), dice.u64(self.down.0..=self.down.1))
    }
}

/// Draws a duration between so many seconds.
pub(super) fn between(dice: &mut Rng, least: f64, most: f64) -> Duration {
    Duration::from_secs_f64(least + (most - least) * dice.f64())
}
