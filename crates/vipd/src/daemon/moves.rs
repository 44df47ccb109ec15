//! What this node knows of the moves of an address: from whom to whom, why, and how long nobody had it.
//!
//! ```text
//!   last sign of the one that led           the address is here, and told
//!   ─────────┼───────────────────────────────────────┼─────────▶
//!            └──────────────── took ─────────────────┘
//! ```
//!
//! Whoever gets the address knows most of a move: that node records how long it took. The others record that there was one.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use leader::{Leadership, NodeId};

/// As many moves are remembered, the latest.
pub(crate) const MOVES_MAX: usize = 32;

/// Why an address moved, as the node saw it that tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// Nobody was known to have had it.
    First,
    /// An operator had the owner step down.
    SteppedDown,
    /// The owner was stopped.
    Stopped,
    /// The owner was no longer fit to lead: its link, its backends, or its apiserver.
    Unfit,
    /// The owner gave way to a node that is preferred.
    GaveWay,
    /// The owner let go of the Lease; why, a Lease doesn't tell.
    Released,
    /// The owner fell silent.
    Silent,
    /// The owner was started anew.
    Restarted,
    /// The owner's lease ended, and it got it back.
    Lapsed,
    /// Nothing is known of the owner before.
    Unknown,
}

impl Reason {
    /// All of them.
    pub(crate) const ALL: [Self; 10] = [
        Self::First,
        Self::SteppedDown,
        Self::Stopped,
        Self::Unfit,
        Self::GaveWay,
        Self::Released,
        Self::Silent,
        Self::Restarted,
        Self::Lapsed,
        Self::Unknown,
    ];

    /// Its name in metrics and in JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::SteppedDown => "stepped_down",
            Self::Stopped => "stopped",
            Self::Unfit => "unfit",
            Self::GaveWay => "gave_way",
            Self::Released => "released",
            Self::Silent => "silent",
            Self::Restarted => "restarted",
            Self::Lapsed => "lapsed",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the last sign was of a node that led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sign {
    /// What follows from it, if that node leads no more.
    pub(crate) reason: Reason,
    /// When it came, where it said that the node leads: nothing is known of it since.
    pub(crate) led: Option<Instant>,
}

/// One move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Move {
    /// Who had the address, if that is known.
    pub(crate) from: Option<NodeId>,
    /// Who has it.
    pub(crate) to: NodeId,
    /// Why.
    pub(crate) reason: Reason,
    /// When the new owner had it, or was heard of.
    pub(crate) at: Instant,
    /// From the last sign of the one before to that; only the new owner knows.
    pub(crate) took: Option<Duration>,
}

/// The moves of one address, or of all that move together.
#[derive(Clone, Debug)]
pub(crate) struct Moves {
    me: NodeId,
    /// Who led last, as far as is known.
    last: Option<NodeId>,
    /// This node leads by now, and who did before is in `last`.
    leading: bool,
    /// Since when nobody is known to lead, and what was known then of the one that did.
    vacant: Option<(Instant, Option<Sign>)>,
    /// This node leads, and doesn't have the address yet.
    pending: Option<Pending>,
    transitions: u64,
    recent: VecDeque<Move>,
    tally: Tally,
}

#[derive(Clone, Debug)]
struct Pending {
    from: Option<NodeId>,
    reason: Reason,
    /// `None`: nobody knows how long nobody led.
    began: Option<Instant>,
}

impl Moves {
    /// None yet, seen by this node.
    pub(crate) fn new(me: NodeId) -> Self {
        Self {
            me,
            last: None,
            leading: false,
            vacant: None,
            pending: None,
            transitions: 0,
            recent: VecDeque::new(),
            tally: Tally::default(),
        }
    }

    /// Takes what the election says; `sign` tells of a node that has led. Gives whether that is worth telling.
    pub(crate) fn lead(
        &mut self,
        leadership: &Leadership,
        sign: impl FnOnce(&NodeId) -> Option<Sign>,
        now: Instant,
    ) -> bool {
        match leadership {
            Leadership::Leader { .. } if self.leading => false,
            Leadership::Leader { .. } => {
                self.begin(sign, now);
                true
            }
            Leadership::Follower { leader } => {
                let had = std::mem::take(&mut self.leading);
                self.pending = None;
                match leader {
                    None => {
                        let last = self.last.as_ref().filter(|last| **last != self.me);
                        self.vacant.get_or_insert_with(|| (now, last.and_then(sign)));
                        had
                    }
                    Some(leader) => self.follow(leader, now) || had,
                }
            }
        }
    }

    /// This node leads.
    fn begin(&mut self, sign: impl FnOnce(&NodeId) -> Option<Sign>, now: Instant) {
        self.leading = true;
        let (vacant, earlier) = self.vacant.take().unwrap_or((now, None));
        let from = self.last.replace(self.me.clone());
        let (reason, began) = match &from {
            None => (Reason::First, None),
            Some(node) if *node == self.me => (Reason::Lapsed, Some(vacant)),
            Some(node) => {
                let sign = sign(node).or(earlier).unwrap_or(Sign { reason: Reason::Unknown, led: None });
                (sign.reason, Some(sign.led.map_or(vacant, |led| led.min(vacant))))
            }
        };
        if from.as_ref().is_some_and(|from| *from != self.me) {
            self.transitions += 1;
        }
        self.pending = Some(Pending { from, reason, began });
    }

    /// Another node leads. Gives whether it didn't before. Why, that node knows better.
    fn follow(&mut self, leader: &NodeId, now: Instant) -> bool {
        self.vacant = None;
        if self.last.as_ref() == Some(leader) {
            return false;
        }
        if let Some(from) = self.last.replace(leader.clone()) {
            self.transitions += 1;
            let (from, to) = (Some(from), leader.clone());
            self.remember(Move { from, to, reason: Reason::Unknown, at: now, took: None });
        }
        true
    }

    /// The address is on this node, and the network was told. Gives whether that ends a move.
    pub(crate) fn hold(&mut self, now: Instant) -> bool {
        let Some(Pending { from, reason, began }) = self.pending.take() else { return false };
        let took = began.map(|began| now.saturating_duration_since(began));
        self.tally.count(reason, took);
        let to = self.me.clone();
        self.remember(Move { from, to, reason, at: now, took });
        true
    }

    fn remember(&mut self, this: Move) {
        if self.recent.len() == MOVES_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(this);
    }

    /// How often the lead went from one node to another.
    pub(crate) fn transitions(&self) -> u64 {
        self.transitions
    }

    /// The latest, the oldest first.
    pub(crate) fn recent(&self) -> impl DoubleEndedIterator<Item = &Move> {
        self.recent.iter()
    }

    /// How often the address came to this node since it started.
    pub(crate) fn arrivals(&self) -> u64 {
        self.tally.counts.iter().sum()
    }

    /// The latest of these, the last first.
    pub(crate) fn own(&self) -> impl Iterator<Item = &Move> {
        self.recent.iter().rev().filter(|this| this.to == self.me)
    }

    /// All that came to this node since it started.
    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }
}

/// Upper bounds of what moves are sorted by, in milliseconds.
pub(crate) const BOUNDS_MS: [u64; 12] = [5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000];

/// How many moves came to a node, why, and how long they took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// By reason, in the order of [`Reason::ALL`].
    counts: [u64; Reason::ALL.len()],
    /// Those that took no longer than each of [`BOUNDS_MS`], and longer than the one before; at last those beyond.
    took: [u64; BOUNDS_MS.len() + 1],
    /// What all took together.
    sum: Duration,
}

impl Tally {
    fn count(&mut self, reason: Reason, took: Option<Duration>) {
        let index = Reason::ALL.iter().position(|other| *other == reason);
        if let Some(count) = index.and_then(|index| self.counts.get_mut(index)) {
            *count += 1;
        }
        let Some(took) = took else { return };
        let index = BOUNDS_MS.iter().position(|bound| took <= Duration::from_millis(*bound));
        self.took[index.unwrap_or(BOUNDS_MS.len())] += 1;
        self.sum += took;
    }

    /// How many there were of each reason.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (Reason, u64)> {
        Reason::ALL.into_iter().zip(self.counts)
    }

    /// How many took so long, see the field; and what all took together.
    pub(crate) fn took(&self) -> (&[u64; BOUNDS_MS.len() + 1], Duration) {
        (&self.took, self.sum)
    }
}

#[cfg(test)]
mod tests {
    use leader::Term;

    use super::*;

    struct Story {
        moves: Moves,
        start: Instant,
    }

    impl Story {
        fn new() -> Self {
            let start = tokio::time::Instant::now().into_std();
            Self { moves: Moves::new(node("a")), start }
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        fn leads(&mut self, ms: u64, sign: Option<Sign>) -> bool {
            let leadership = Leadership::Leader { term: Term(1), until: self.at(ms + 500) };
            self.moves.lead(&leadership, |_| sign, self.at(ms))
        }

        fn follows(&mut self, ms: u64, leader: Option<&str>) -> bool {
            let leadership = Leadership::Follower { leader: leader.map(node) };
            self.moves.lead(&leadership, |_| None, self.at(ms))
        }

        fn has_it(&mut self, ms: u64) -> bool {
            self.moves.hold(self.at(ms))
        }

        fn last(&self) -> (Option<&str>, &str, Reason, Option<u64>) {
            let last = self.moves.recent().next_back().expect("there was a move");
            let took = last.took.map(|took| u64::try_from(took.as_millis()).unwrap());
            (last.from.as_ref().map(NodeId::as_str), last.to.as_str(), last.reason, took)
        }
    }

    fn node(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    #[test]
    fn a_silent_owner_is_missed_from_its_last_sign_on() {
        let mut story = Story::new();
        assert!(story.follows(0, Some("b")));
        assert_eq!(story.moves.recent().count(), 0, "that b leads is news, and no move");
        assert!(!story.follows(400, None));
        let sign = Sign { reason: Reason::Silent, led: Some(story.at(250)) };
        assert!(story.leads(420, Some(sign)));
        assert!(!story.leads(470, None), "a renewal is no news");
        assert!(story.has_it(423));
        assert!(!story.has_it(424));
        assert_eq!(story.last(), (Some("b"), "a", Reason::Silent, Some(173)));
        assert_eq!(story.moves.transitions(), 1);
    }

    #[test]
    fn an_owner_that_gave_the_address_up_is_missed_from_then_on() {
        let mut story = Story::new();
        story.follows(0, Some("b"));
        story.follows(1000, None);
        story.leads(1004, Some(Sign { reason: Reason::SteppedDown, led: None }));
        story.has_it(1006);
        assert_eq!(story.last(), (Some("b"), "a", Reason::SteppedDown, Some(6)));
    }

    /// As with a Lease, which has the new holder's name by the time that it leads.
    #[test]
    fn what_was_known_when_the_lead_fell_vacant_counts_where_nothing_is_known_later() {
        let mut story = Story::new();
        story.follows(0, Some("b"));
        let sign = Sign { reason: Reason::Silent, led: Some(story.at(3000)) };
        let vacancy = Leadership::Follower { leader: None };
        story.moves.lead(&vacancy, |_| Some(sign), story.at(5000));
        story.leads(5010, None);
        story.has_it(5012);
        assert_eq!(story.last(), (Some("b"), "a", Reason::Silent, Some(2012)));
    }

    #[test]
    fn the_first_owner_and_one_that_gets_its_lease_back_are_no_transitions() {
        let mut story = Story::new();
        story.follows(0, None);
        story.leads(10, None);
        story.has_it(12);
        assert_eq!(story.last(), (None, "a", Reason::First, None));
        assert!(story.follows(500, None));
        story.leads(600, None);
        story.has_it(601);
        assert_eq!(story.last(), (Some("a"), "a", Reason::Lapsed, Some(101)));
        assert_eq!(story.moves.transitions(), 0);
    }

    #[test]
    fn others_moves_are_remembered_without_their_length() {
        let mut story = Story::new();
        story.leads(0, None);
        story.has_it(1);
        story.follows(100, Some("b"));
        assert_eq!(story.last(), (Some("a"), "b", Reason::Unknown, None));
        story.follows(200, None);
        story.follows(300, Some("c"));
        assert_eq!(story.last(), (Some("b"), "c", Reason::Unknown, None));
        assert_eq!(story.moves.transitions(), 2);
        assert_eq!(story.moves.arrivals(), 1, "only own ones");
        assert_eq!(story.moves.own().map(|this| this.reason).collect::<Vec<_>>(), [Reason::First]);
    }

    #[test]
    fn a_lead_without_the_address_is_no_move() {
        let mut story = Story::new();
        story.follows(0, Some("b"));
        story.leads(10, None);
        story.follows(20, Some("b"));
        assert!(!story.has_it(21));
        // b leads again, and a was never seen to have it; the lead went twice all the same.
        assert_eq!(story.moves.transitions(), 2);
    }

    #[test]
    fn moves_are_counted_by_how_long_they_took_and_the_latest_are_kept() {
        let mut story = Story::new();
        let mut took = [0; BOUNDS_MS.len() + 1];
        for round in 0..u64::try_from(2 * MOVES_MAX).unwrap() {
            let at = round * 100_000;
            story.follows(at, Some("b"));
            story.follows(at + 1, None);
            story.leads(at + 2, None);
            // Each bound is met exactly once, and the last bucket by all after them.
            let bound = usize::try_from(round).ok().and_then(|round| BOUNDS_MS.get(round).copied());
            story.has_it(at + 1 + bound.unwrap_or(30_001));
            took[usize::try_from(round).unwrap().min(BOUNDS_MS.len())] += 1;
        }
        assert_eq!(*story.moves.tally().took().0, took);
        assert_eq!(story.moves.recent().count(), MOVES_MAX);
    }

    #[test]
    fn each_reason_is_in_the_manual_of_metrics_by_its_name() {
        let manual = include_str!("../../../../docs/reference/metrics.md");
        let row = manual.lines().find(|line| line.contains("`vipd_failovers_total`")).unwrap();
        for reason in Reason::ALL {
            let name = reason.to_string();
            let named = row.split(|c: char| c != '_' && !c.is_ascii_lowercase()).any(|word| word == name);
            assert!(named, "{name}");
        }
    }
}
