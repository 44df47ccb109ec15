//! The network between the parties: what it loses, delays, repeats, and brings.

use super::{Nanos, Party, Scale, Sent, Service as _, What, World};

/// What the network does to messages.
pub(crate) struct Network {
    pub(crate) loss: f32,
    pub(crate) duplication: f32,
    pub(crate) replay: f32,
    pub(crate) delay: Nanos,
    pub(crate) rare_delay: Nanos,
    /// `blocked[from][to]`: no frame passes.
    pub(crate) blocked: Vec<Vec<bool>>,
    /// `filtered[from][to]`: no message of the election passes, but what tells who has an address does.
    pub(crate) filtered: Vec<Vec<bool>>,
}

impl Network {
    pub(super) fn good(places: usize, scale: Scale) -> Self {
        Self {
            loss: 0.0,
            duplication: 0.0,
            replay: 0.0,
            delay: scale.delay,
            rare_delay: scale.delay * 4,
            blocked: vec![vec![false; places]; places],
            filtered: vec![vec![false; places]; places],
        }
    }
}

#[derive(Clone)]
pub(super) struct Letter<T> {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) parcel: T,
}

impl<P: Party> World<P> {
    pub(super) fn deliver(&mut self, Letter { from, to, parcel }: Letter<P::Parcel>) {
        if to >= self.nodes.len() {
            let sent = self.service.deliver(to, from, parcel, &mut self.rng);
            return self.pass_on(sent);
        }
        let node = &mut self.nodes[to];
        if node.paused_until > self.now {
            // A socket's buffer is finite.
            if node.inbox.len() < 256 {
                node.inbox.push(Letter { from, to, parcel });
            }
            return;
        }
        self.note(|_| format!("n{to} ◀ n{from} {}", P::describe(&parcel)));
        self.input(to, |party, now| party.take(from, parcel, now));
    }

    pub(crate) fn pass_on(&mut self, sent: Vec<Sent<P::Parcel>>) {
        for sent in sent {
            match sent {
                Sent::ToParty { from, to, after, parcel } => {
                    if !self.is_lost(from, to) {
                        let delay = self.delay();
                        self.schedule(after + delay, What::Deliver { from, to, parcel });
                    }
                }
                Sent::ToItself { at, from, after, parcel } => {
                    self.schedule(after, What::Serve { at, from, parcel });
                }
            }
        }
    }

    fn is_lost(&mut self, from: usize, to: usize) -> bool {
        self.network.blocked[from][to]
            || self.network.filtered[from][to]
            || self.rng.f32() < self.network.loss
    }

    pub(super) fn transmit(&mut self, letter: Letter<P::Parcel>) {
        self.note(|_| format!("n{} ▶ n{} {}", letter.from, letter.to, P::describe(&letter.parcel)));
        if self.is_lost(letter.from, letter.to) {
            return;
        }
        if self.network.duplication > 0.0 {
            if self.rng.f32() < self.network.duplication {
                self.send(letter.clone());
            }
            if self.recorded.len() == 64 {
                self.recorded.pop_front();
            }
            if self.rng.u8(0..4) == 0 {
                self.recorded.push_back(letter.clone());
            }
        }
        if self.rng.f32() < self.network.replay && !self.recorded.is_empty() {
            let old = self.recorded[self.rng.usize(0..self.recorded.len())].clone();
            self.send(old);
        }
        self.send(letter);
    }

    fn send(&mut self, Letter { from, to, parcel }: Letter<P::Parcel>) {
        let delay = self.delay();
        self.schedule(delay, What::Deliver { from, to, parcel });
    }

    fn delay(&mut self) -> Nanos {
        let longest = if self.rng.u8(0..8) == 0 { self.network.rare_delay } else { self.network.delay };
        self.rng.u64(longest / 8..=longest)
    }
}
