//! Backends that come and go: what is done next, drawn from a seed so that never all of them are gone.

use std::fmt;

use fastrand::Rng;

use super::site::BACKENDS;

/// These many are always there, ready and in use, whatever is done.
const LEAST_WELL: usize = 2;
/// The file names these always; the others come and go by SIGHUP as well, with whatever vipd counts of them.
pub(super) const ALWAYS_LISTED: usize = 3;

/// What is done to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    /// Its process is killed.
    Kill,
    /// It says that it is about to end, and ends when vipd knows.
    Stop,
    /// It is started again.
    Start,
    /// `vipd backend drain`
    Drain,
    /// `vipd backend enable`
    Enable,
    /// The file names it no more: SIGHUP.
    Remove,
    /// The file names it again: SIGHUP.
    Add,
}

impl Way {
    /// All of them.
    pub(super) const ALL: [Self; 7] =
        [Self::Kill, Self::Stop, Self::Start, Self::Drain, Self::Enable, Self::Remove, Self::Add];

    fn restores(self) -> bool {
        matches!(self, Self::Start | Self::Enable | Self::Add)
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::Start => "start",
            Self::Drain => "drain",
            Self::Enable => "enable",
            Self::Remove => "remove",
            Self::Add => "add",
        })
    }
}

/// How the backends are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) running: [bool; BACKENDS],
    pub(super) drained: [bool; BACKENDS],
    pub(super) listed: [bool; BACKENDS],
}

impl Standing {
    /// All are well.
    pub(super) fn well() -> Self {
        Self { running: [true; BACKENDS], drained: [false; BACKENDS], listed: [true; BACKENDS] }
    }

    /// Whether a backend is there, ready and in use.
    pub(super) fn is_well(&self, place: usize) -> bool {
        self.running[place] && !self.drained[place] && self.listed[place]
    }

    /// How it is when this has been done.
    pub(super) fn after(&self, way: Way, place: usize) -> Self {
        let mut after = self.clone();
        match way {
            Way::Kill | Way::Stop => after.running[place] = false,
            Way::Start => after.running[place] = true,
            Way::Drain => after.drained[place] = true,
            Way::Enable => after.drained[place] = false,
            Way::Remove => after.listed[place] = false,
            Way::Add => after.listed[place] = true,
        }
        after
    }

    /// Whether this can be done, and leaves enough of them.
    fn permits(&self, way: Way, place: usize) -> bool {
        let (running, drained, listed) = (self.running[place], self.drained[place], self.listed[place]);
        let makes_sense = match way {
            Way::Kill => running,
            // Only one that vipd asks can tell it that it is about to end.
            Way::Stop => running && listed,
            Way::Start => !running,
            Way::Drain => listed && !drained,
            Way::Enable => listed && drained,
            // What was drained would be so no longer when it comes back, or not, as its last connection has ended or not.
            Way::Remove => listed && !drained && place >= ALWAYS_LISTED,
            Way::Add => !listed,
        };
        let after = self.after(way, place);
        makes_sense && (0..BACKENDS).filter(|place| after.is_well(*place)).count() >= LEAST_WELL
    }

    /// Draws what is done next: the more is amiss, the more likely something is put right.
    pub(super) fn next(&self, dice: &mut Rng) -> Option<(Way, usize)> {
        let amiss = (0..BACKENDS).filter(|place| !self.is_well(*place)).count();
        let restores = dice.usize(..BACKENDS - LEAST_WELL + 1) < amiss;
        self.draw(restores, dice).or_else(|| self.draw(!restores, dice))
    }

    /// Draws the next that puts something right, as long as there is something.
    pub(super) fn restore(&self, dice: &mut Rng) -> Option<(Way, usize)> {
        self.draw(true, dice)
    }

    fn draw(&self, restores: bool, dice: &mut Rng) -> Option<(Way, usize)> {
        let ways = Way::ALL.into_iter().filter(|way| way.restores() == restores);
        let all = ways.flat_map(|way| (0..BACKENDS).map(move |place| (way, place)));
        let possible: Vec<_> = all.filter(|(way, place)| self.permits(*way, *place)).collect();
        dice.choice(possible)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enough_are_always_well_and_everything_is_done() {
        let mut standing = Standing::well();
        let mut dice = Rng::with_seed(1);
        let mut done = std::collections::BTreeSet::new();
        for _ in 0..2000 {
            let (way, place) = standing.next(&mut dice).unwrap();
            standing = standing.after(way, place);
            done.insert(way);
            assert!((0..BACKENDS).filter(|place| standing.is_well(*place)).count() >= LEAST_WELL);
            assert!((0..ALWAYS_LISTED).all(|place| standing.listed[place]));
        }
        assert_eq!(done.len(), Way::ALL.len());
        while let Some((way, place)) = standing.restore(&mut dice) {
            standing = standing.after(way, place);
        }
        assert_eq!(standing, Standing::well());
    }
}
