//! Freshness without clocks or disks: what was recorded yesterday is worthless today.
//!
//! A session joins one incarnation of this node with one incarnation of a peer. A message counts only if it names
//! both and its sequence number is new. Another incarnation of the peer gets a challenge first; its echo proves
//! that it lives now, for only it could sign a number that was never used before.
//!
//! ```text
//!   a (knows nobody)                        b (knew an older a)
//!      │── Hello{challenge 1} ────────────────▶│
//!      │◀───────────── Welcome{echo 1} ────────│
//!      │◀───────────── Hello{challenge 9} ─────│   "and you: are you alive too?"
//!      │── Welcome{echo 9} ───────────────────▶│
//! ```

use std::time::{Duration, Instant};

use crate::{
    node::Incarnation,
    wire::{Envelope, Payload},
};

/// One peer as the receiver of messages, and as a sender that has to prove itself.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    mine: Incarnation,
    theirs: Option<Incarnation>,
    seen: Window,
    sent: u64,
    challenge: Option<u64>,
    challenges: u64,
    next_hello: Option<Instant>,
    hello_interval: Duration,
}

/// What to do with an envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is fresh: hand it on.
    Fresh,
    /// The peer asks for proof of life, and has to give its own if it is a stranger.
    Answer {
        echo: u64,
        to: Incarnation,
        /// Ask back, with this number.
        challenge: Option<u64>,
    },
    /// It comes from another incarnation than the session's: ask for proof of life with this number.
    Challenge(u64),
    /// It is a copy, a recording, or meant for a predecessor of this process.
    Stale,
}

impl Session {
    /// A session with nobody yet. A challenge is sent at most once per interval.
    pub(crate) fn new(mine: Incarnation, hello_interval: Duration) -> Self {
        Self {
            mine,
            theirs: None,
            seen: Window::default(),
            sent: 0,
            challenge: None,
            challenges: 0,
            next_hello: None,
            hello_interval,
        }
    }

    /// The peer's incarnation, once it has proved to be alive.
    pub(crate) fn theirs(&self) -> Option<Incarnation> {
        self.theirs
    }

    /// The number for the next datagram to the peer.
    pub(crate) fn next_sequence(&mut self) -> u64 {
        self.sent += 1;
        self.sent
    }

    /// A number to challenge the peer with, or `None` if it was asked a moment ago.
    ///
    /// Numbers only have to be new within this incarnation, as an echo names the incarnation too. One that is not
    /// answered yet is asked again, so that a slow answer is still good.
    pub(crate) fn challenge(&mut self, now: Instant) -> Option<u64> {
        if self.next_hello.is_some_and(|next| now < next) {
            return None;
        }
        self.next_hello = Some(now + self.hello_interval);
        if self.challenge.is_none() {
            self.challenges += 1;
            self.challenge = Some(self.challenges);
        }
        self.challenge
    }

    /// Judges an envelope from the peer whose signature was found good.
    pub(crate) fn judge(&mut self, envelope: &Envelope, now: Instant) -> Verdict {
        let from = envelope.from.incarnation;
        let stranger = self.theirs != Some(from);
        match envelope.payload {
            // Anyone may ask, as the answer is worth something only to the process that chose the number.
            Payload::Hello { challenge: echo } => {
                let challenge = if stranger { self.challenge(now) } else { None };
                Verdict::Answer { echo, to: from, challenge }
            }
            Payload::Welcome { echo } => {
                if self.challenge != Some(echo) || envelope.to != Some(self.mine) {
                    return Verdict::Stale;
                }
                self.challenge = None;
                if stranger {
                    self.theirs = Some(from);
                    self.seen = Window::starting_after(envelope.sequence);
                    return Verdict::Fresh;
                }
                self.fresh(envelope)
            }
            Payload::Election(_) | Payload::Clients(_) | Payload::Read(_) | Payload::Note(_) if stranger => {
                self.challenge(now).map_or(Verdict::Stale, Verdict::Challenge)
            }
            Payload::Election(_) | Payload::Clients(_) | Payload::Read(_) | Payload::Note(_) => {
                self.fresh(envelope)
            }
        }
    }

    fn fresh(&mut self, envelope: &Envelope) -> Verdict {
        if envelope.to == Some(self.mine) && self.seen.insert(envelope.sequence) {
            Verdict::Fresh
        } else {
            Verdict::Stale
        }
    }
}

/// The sequence numbers seen lately: the highest, and a bit for each of the 63 before it (as in RFC 4303
/// section 3.4.3). Reordering beyond 64 datagrams is a loss.
#[derive(Clone, Debug, Default)]
struct Window {
    highest: u64,
    /// Bit `n` stands for `highest - n`.
    seen: u64,
}

impl Window {
    /// A window that takes only what is higher.
    fn starting_after(sequence: u64) -> Self {
        Self { highest: sequence, seen: u64::MAX }
    }

    /// Marks a number; false if it was seen before, or is too old to tell.
    fn insert(&mut self, sequence: u64) -> bool {
        if sequence > self.highest {
            let ahead = u32::try_from(sequence - self.highest).unwrap_or(u32::MAX);
            self.seen = self.seen.checked_shl(ahead).unwrap_or(0) | 1;
            self.highest = sequence;
            return true;
        }
        let behind = self.highest - sequence;
        let bit = u32::try_from(behind).ok().and_then(|behind| 1_u64.checked_shl(behind));
        let fresh = bit.is_some_and(|bit| self.seen & bit == 0);
        self.seen |= bit.unwrap_or(0);
        fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_takes_each_number_once_in_any_order() {
        let mut window = Window::default();
        let taken: Vec<bool> =
            [1, 3, 2, 3, 2, 1, 70, 6, 7, 70, 7].into_iter().map(|sequence| window.insert(sequence)).collect();
        assert_eq!(taken, [true, true, true, false, false, false, true, false, true, false, false]);
        assert!(window.insert(u64::MAX));
        assert!(!window.insert(71));
    }

    #[test]
    fn a_fresh_window_refuses_what_came_before_it() {
        let mut window = Window::starting_after(100);
        assert!(!window.insert(100));
        assert!(!window.insert(50));
        assert!(window.insert(101));
    }

    #[test]
    fn a_number_is_asked_until_answered_and_never_again() {
        #[expect(clippy::disallowed_methods, reason = "any instant will do as an origin")]
        let now = Instant::now();
        let interval = Duration::from_millis(10);
        let mut session = Session::new(Incarnation(1), interval);
        assert_eq!(session.challenge(now), Some(1));
        assert_eq!(session.challenge(now), None);
        assert_eq!(session.challenge(now + interval), Some(1));
        session.challenge = None;
        assert_eq!(session.challenge(now + 2 * interval), Some(2));
    }
}
