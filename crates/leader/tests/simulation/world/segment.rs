//! What the parties see of the segment they share: who answers for the address, and whether the place behind theirs does.

use super::{Party, Sight, What, World, nanos};

impl<P: Party> World<P> {
    /// Has a process that wants to look at the segment do so.
    pub(super) fn begin_to_look(&mut self, n: usize, now: std::time::Instant) {
        let node = &mut self.nodes[n];
        let wants = node.process.as_ref().is_some_and(|party| party.looks(now).is_some());
        if wants && !node.looking {
            node.looking = true;
            let run = node.runs;
            let late = self.rng.u64(0..self.scale.delay);
            self.schedule(late, What::Look { node: n, run });
        }
    }

    /// Asks: whoever has the address answers at once, if the question and the answer get through.
    pub(super) fn look(&mut self, n: usize, run: u64) {
        let asked = self.local_now(n);
        let node = &mut self.nodes[n];
        if node.runs != run {
            return;
        }
        let interval = node.process.as_ref().and_then(|party| party.looks(asked));
        let Some(interval) = interval.filter(|_| node.paused_until <= self.now) else {
            node.looking = false;
            return;
        };
        let (grain, rate) = (node.timer_grain, node.rate);
        let tie_break = self.nodes.len();
        let answered = self.meet(n, tie_break);
        // Who has no answer of the tie-break asks for nothing else.
        self.nodes[n].asking = answered;
        let sight = Sight { asked, answered, owned: self.sees_owner(n), contested: self.hears_rival(n) };
        let lasts = nanos(interval) * 1_000_000 / rate + self.rng.u64(0..grain);
        self.schedule(lasts, What::Saw { node: n, run, sight });
    }

    /// Has the answers, and looks again.
    pub(super) fn saw(&mut self, n: usize, run: u64, sight: Sight) {
        let node = &self.nodes[n];
        if node.runs != run || node.process.is_none() {
            return;
        }
        if self.now < node.paused_until {
            // They wait in the socket.
            return self.schedule(node.paused_until - self.now, What::Saw { node: n, run, sight });
        }
        // Who gets the address announces it.
        let owned = sight.owned || self.sees_owner(n);
        let sight = Sight { owned, contested: sight.contested || self.hears_rival(n), ..sight };
        self.note(|_| format!("n{n} saw: answered {}, owned {}", sight.answered, sight.owned));
        self.input(n, |party, now| party.see(sight, now));
        self.look(n, run);
    }

    fn sees_owner(&self, n: usize) -> bool {
        (0..self.nodes.len()).any(|other| other != n && self.owns(other, self.now) && self.meet(n, other))
    }

    fn hears_rival(&self, n: usize) -> bool {
        let asks = |other: usize| self.nodes[other].looking && self.nodes[other].asking;
        (0..n).any(|other| asks(other) && !self.network.blocked[other][n])
    }

    fn meet(&self, one: usize, other: usize) -> bool {
        !self.network.blocked[one][other] && !self.network.blocked[other][one]
    }
}
