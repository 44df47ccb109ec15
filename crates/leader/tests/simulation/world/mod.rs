//! A world of a few parties: their clocks, the network between them, and what goes wrong.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BinaryHeap, VecDeque},
    time::{Duration, Instant},
};

use fastrand::Rng;

use self::network::{Letter, Network};
pub(crate) use self::party::{Nothing, Party, Sent, Service, Sight};

mod network;
mod party;
mod segment;

/// Time as an outside observer sees it, in nanoseconds.
pub(crate) type Nanos = u64;

/// What was broken.
#[derive(Debug)]
pub(crate) struct Violation(pub(crate) String);

/// The durations by which things are slow or fast here.
#[derive(Clone, Copy)]
pub(crate) struct Scale {
    /// What an election's failures are measured by.
    pub(crate) lease: Nanos,
    /// How late timers fire, at most.
    pub(crate) timer_grain: Nanos,
    /// The slowest and the fastest clock, in parts per million.
    pub(crate) rates: (u64, u64),
    /// A message needs as long as this on a good day.
    pub(crate) delay: Nanos,
}

pub(crate) struct World<P: Party> {
    pub(crate) rng: Rng,
    pub(crate) now: Nanos,
    pub(crate) scale: Scale,
    pub(crate) nodes: Vec<Node<P>>,
    pub(crate) network: Network,
    pub(crate) service: P::Service,
    events: BinaryHeap<Reverse<Scheduled<P::Parcel>>>,
    scheduled: u64,
    origin: Instant,
    /// Messages that somebody recorded, to play them again.
    recorded: VecDeque<Letter<P::Parcel>>,
    /// Lines about what happened, if anyone wants to read them.
    pub(crate) transcript: Option<Vec<String>>,
}

pub(crate) struct Node<P: Party> {
    setup: P::Setup,
    process: Option<P>,
    /// Parts per million that this clock goes faster or slower, and where it started.
    rate: u64,
    offset: Nanos,
    paused_until: Nanos,
    inbox: Vec<Letter<P::Parcel>>,
    wake_at: Option<Nanos>,
    timer_grain: Nanos,
    owner: Owner,
    eligible: bool,
    stopping: bool,
    /// Counts its processes.
    runs: u64,
    looking: bool,
    asking: bool,
}

/// Who acts upon a node's leadership: it holds something while it may, and lets go late.
#[derive(Default)]
struct Owner {
    /// The lease end it was told last, by the node's clock, as long as it holds.
    holds_until: Option<Instant>,
    turn: u64,
}

struct Scheduled<T> {
    at: Nanos,
    number: u64,
    what: What<T>,
}

impl<T> PartialEq for Scheduled<T> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl<T> Eq for Scheduled<T> {}

impl<T> PartialOrd for Scheduled<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Scheduled<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

pub(crate) enum What<T> {
    Deliver {
        from: usize,
        to: usize,
        parcel: T,
    },
    /// The service goes on with something.
    Serve {
        at: usize,
        from: usize,
        parcel: T,
    },
    Fault,
    Start(usize),
    Resume(usize),
    Probe(usize),
    Confirm {
        node: usize,
        turn: u64,
    },
    /// A process looks at the segment.
    Look {
        node: usize,
        run: u64,
    },
    /// It has its answers.
    Saw {
        node: usize,
        run: u64,
        sight: Sight,
    },
}

impl<P: Party> World<P> {
    pub(crate) fn new(
        mut rng: Rng,
        setups: Vec<P::Setup>,
        service: P::Service,
        scale: Scale,
        transcript: bool,
    ) -> Self {
        #[expect(clippy::disallowed_methods, reason = "any instant will do as an origin")]
        let origin = Instant::now();
        let nodes = setups.into_iter().map(|setup| Node {
            setup,
            process: None,
            rate: rng.u64(scale.rates.0..=scale.rates.1),
            offset: rng.u64(0..10 * scale.lease),
            paused_until: 0,
            inbox: Vec::new(),
            wake_at: None,
            timer_grain: rng.u64(1..=scale.timer_grain),
            owner: Owner::default(),
            eligible: true,
            stopping: false,
            runs: 0,
            looking: false,
            asking: false,
        });
        let nodes: Vec<_> = nodes.collect();
        let network = Network::good(nodes.len() + service.places(), scale);
        Self {
            rng,
            now: 0,
            scale,
            nodes,
            network,
            service,
            events: BinaryHeap::new(),
            scheduled: 0,
            origin,
            recorded: VecDeque::new(),
            transcript: transcript.then(Vec::new),
        }
    }

    pub(crate) fn note(&mut self, line: impl FnOnce(&Self) -> String) {
        if let Some(mut lines) = self.transcript.take() {
            lines.push(format!("{:>10.3} ms  {}", self.now as f64 / 1e6, line(self)));
            self.transcript = Some(lines);
        }
    }

    pub(crate) fn schedule(&mut self, after: Nanos, what: What<P::Parcel>) {
        self.scheduled += 1;
        self.events.push(Reverse(Scheduled { at: self.now + after, number: self.scheduled, what }));
    }

    /// Lets time run until then, giving faults to the caller as they are due.
    pub(crate) fn run(&mut self, end: Nanos, mut fault: impl FnMut(&mut Self)) -> Result<(), Violation> {
        loop {
            let event_at = self.events.peek().map(|Reverse(event)| event.at);
            let wake = (0..self.nodes.len()).filter_map(|n| Some((self.nodes[n].wake_at?, n))).min();
            let next = event_at.unwrap_or(Nanos::MAX).min(wake.map_or(Nanos::MAX, |(at, _)| at));
            if next > end {
                self.check_until(end)?;
                self.now = self.now.max(end);
                return Ok(());
            }
            self.check_until(next)?;
            self.now = self.now.max(next);
            if event_at == Some(next) {
                let Reverse(event) = self.events.pop().expect("peeked");
                match event.what {
                    What::Fault => fault(self),
                    What::Deliver { from, to, parcel } => self.deliver(Letter { from, to, parcel }),
                    What::Serve { at, from, parcel } => {
                        let sent = self.service.wake(at, from, parcel, &mut self.rng);
                        self.pass_on(sent);
                    }
                    What::Start(n) => self.start(n),
                    What::Resume(n) => self.resume(n),
                    What::Probe(n) => self.probe(n),
                    What::Confirm { node, turn } => self.confirm(node, turn),
                    What::Look { node, run } => self.look(node, run),
                    What::Saw { node, run, sight } => self.saw(node, run, sight),
                }
            } else if let Some((_, n)) = wake {
                self.input(n, Party::handle_timeout);
                self.finish_stop(n);
            }
            self.check(self.now)?;
        }
    }

    /// Checks just around the ends of leases on the way to a point in time.
    fn check_until(&self, next: Nanos) -> Result<(), Violation> {
        for node in &self.nodes {
            let ends = [self.lease_end(node, self.now), node.owner.holds_until];
            for end in ends.into_iter().flatten() {
                let end = self.global(node, end);
                if self.now < end && end <= next {
                    self.check(end - 1)?;
                    self.check(end)?;
                }
            }
        }
        Ok(())
    }

    /// At most one node is inside its lease, and nobody else still holds what it was given.
    fn check(&self, at: Nanos) -> Result<(), Violation> {
        let mut holder: Option<usize> = None;
        for n in 0..self.nodes.len() {
            if !self.owns(n, at) {
                continue;
            }
            if let Some(other) = holder {
                let describe = |n: usize| {
                    let node = &self.nodes[n];
                    format!(
                        "n{n} (leads until {:?}, holds until {:?})",
                        self.lease_end(node, at).map(|end| self.global(node, end)),
                        node.owner.holds_until.map(|end| self.global(node, end))
                    )
                };
                return Err(Violation(format!("two owners at {at}: {}, {}", describe(other), describe(n))));
            }
            holder = Some(n);
        }
        Ok(())
    }

    fn owns(&self, n: usize, at: Nanos) -> bool {
        let node = &self.nodes[n];
        let holds = node.owner.holds_until.is_some_and(|until| at < self.global(node, until));
        holds || self.lease_end(node, at).is_some()
    }

    pub(crate) fn leader(&self) -> Option<usize> {
        self.nodes.iter().position(|node| self.lease_end(node, self.now).is_some())
    }

    pub(crate) fn party(&self, n: usize) -> Option<&P> {
        self.nodes[n].process.as_ref()
    }

    pub(crate) fn local_now(&self, n: usize) -> Instant {
        self.local(&self.nodes[n], self.now)
    }

    /// Starts a new incarnation.
    pub(crate) fn start(&mut self, n: usize) {
        if self.nodes[n].process.is_some() {
            return;
        }
        let (incarnation, seed) = (self.rng.u64(1..), self.rng.u64(..));
        let now = self.local_now(n);
        let node = &mut self.nodes[n];
        node.process = Some(P::start(&node.setup, incarnation, seed, now));
        node.stopping = false;
        node.runs += 1;
        node.looking = false;
        let eligible = node.eligible;
        self.note(|_| format!("n{n} starts"));
        self.input(n, |party, now| party.set_eligible(eligible, now));
    }

    /// Ends the process without a word. What it held is gone with it.
    pub(crate) fn crash(&mut self, n: usize) {
        self.note(|_| format!("n{n} crashes"));
        let node = &mut self.nodes[n];
        node.process = None;
        node.wake_at = None;
        node.inbox.clear();
        node.owner.holds_until = None;
        node.owner.turn += 1;
        node.paused_until = 0;
    }

    /// Stops the process from running for a while; its clock goes on, and so does its socket's queue.
    pub(crate) fn pause(&mut self, n: usize, time: Nanos) {
        let node = &mut self.nodes[n];
        if node.process.is_some() && node.paused_until <= self.now {
            node.paused_until = self.now + time;
            node.wake_at = None;
            self.schedule(time, What::Resume(n));
            self.note(|_| format!("n{n} is paused for {:.3} ms", time as f64 / 1e6));
        }
    }

    fn resume(&mut self, n: usize) {
        if self.nodes[n].paused_until != self.now {
            return;
        }
        self.note(|_| format!("n{n} goes on"));
        // Some runtimes look at the socket first, some at the clock.
        if self.rng.bool() {
            self.input(n, Party::handle_timeout);
        }
        for letter in std::mem::take(&mut self.nodes[n].inbox) {
            self.deliver(letter);
        }
        self.input(n, Party::handle_timeout);
    }

    /// Looks at the segment: nobody has the address.
    pub(crate) fn find_segment_free(&mut self, n: usize) {
        self.note(|_| format!("n{n} finds the segment free"));
        self.input(n, Party::find_segment_free);
    }

    fn probe(&mut self, n: usize) {
        if !(0..self.nodes.len()).any(|n| self.owns(n, self.now)) {
            self.find_segment_free(n);
        }
    }

    pub(crate) fn step_down(&mut self, n: usize, to: Option<usize>) {
        self.note(|_| match to {
            Some(to) => format!("n{n} is told to step down in favour of n{to}"),
            None => format!("n{n} is told to step down"),
        });
        self.input(n, |party, now| party.step_down(to, now));
    }

    pub(crate) fn stop(&mut self, n: usize) {
        self.note(|_| format!("n{n} is told to stop"));
        self.nodes[n].stopping = true;
        self.input(n, Party::stop);
        self.finish_stop(n);
    }

    pub(crate) fn set_eligible(&mut self, n: usize, eligible: bool) {
        self.note(|_| format!("n{n} eligible: {eligible}"));
        self.nodes[n].eligible = eligible;
        self.input(n, |party, now| party.set_eligible(eligible, now));
    }

    /// All that can be mended is mended.
    pub(crate) fn heal(&mut self) {
        self.note(|_| "all is healed".to_owned());
        self.network = Network::good(self.network.blocked.len(), self.scale);
        for n in 0..self.nodes.len() {
            if self.nodes[n].paused_until > self.now {
                self.nodes[n].paused_until = self.now;
                self.resume(n);
            }
            if self.nodes[n].stopping {
                self.crash(n);
            }
            self.start(n);
        }
    }

    fn confirm(&mut self, n: usize, turn: u64) {
        let node = &mut self.nodes[n];
        if node.owner.turn == turn && node.paused_until <= self.now {
            node.owner.holds_until = None;
            self.note(|_| format!("n{n} confirms that nothing is held"));
            self.input(n, Party::confirm_standby);
            self.finish_stop(n);
        }
    }

    fn finish_stop(&mut self, n: usize) {
        let now = self.local_now(n);
        let gone = self.nodes[n].process.as_ref().is_some_and(|party| party.has_left(now));
        if gone && self.nodes[n].stopping {
            self.crash(n);
            let downtime = self.rng.u64(0..self.scale.lease * 2);
            self.schedule(downtime, What::Start(n));
        }
    }

    /// Gives one input to a process, then does all that comes out of it.
    fn input(&mut self, n: usize, give: impl FnOnce(&mut P, Instant)) {
        let now = self.local_now(n);
        let node = &mut self.nodes[n];
        if node.paused_until > self.now {
            return;
        }
        let Some(party) = &mut node.process else { return };
        give(party, now);
        let outgoing: Vec<_> = std::iter::from_fn(|| party.poll_parcel(now)).collect();
        let events: Vec<_> = std::iter::from_fn(|| party.poll_event()).collect();
        let due = party.poll_timeout();
        self.tell_owner(n, now);
        let node = &self.nodes[n];
        let late = self.rng.u64(0..node.timer_grain);
        self.nodes[n].wake_at = due.map(|due| self.global(&self.nodes[n], due).max(self.now) + late);
        for event in events {
            self.note(|_| format!("n{n}: {event}"));
        }
        for (to, parcel) in outgoing {
            self.transmit(Letter { from: n, to, parcel });
        }
        self.begin_to_look(n, now);
    }

    /// Lets the owner see the leadership; it lets go some time after it should.
    fn tell_owner(&mut self, n: usize, now: Instant) {
        let node = &mut self.nodes[n];
        let lease_end = node.process.as_ref().and_then(|party| party.lease_end(now));
        match (lease_end, node.owner.holds_until) {
            (Some(until), held) => {
                if held.is_none() {
                    node.owner.turn += 1;
                }
                node.owner.holds_until = Some(until);
            }
            (None, Some(held)) if now < held => {
                let turn = node.owner.turn;
                let lease = self.scale.lease;
                let late = match self.rng.u8(0..8) {
                    0 => self.rng.u64(0..3 * lease),
                    _ => self.rng.u64(0..lease / 50),
                };
                self.schedule(late, What::Confirm { node: n, turn });
            }
            (None, Some(_)) => node.owner.holds_until = None,
            (None, None) => {}
        }
    }

    fn lease_end(&self, node: &Node<P>, at: Nanos) -> Option<Instant> {
        node.process.as_ref()?.lease_end(self.local(node, at))
    }

    fn local(&self, node: &Node<P>, at: Nanos) -> Instant {
        self.origin + Duration::from_nanos(node.offset + at * node.rate / 1_000_000)
    }

    /// The first moment at which a node's clock shows at least this.
    fn global(&self, node: &Node<P>, at: Instant) -> Nanos {
        let shown = u128::from(nanos(at - self.origin).saturating_sub(node.offset));
        let global = (shown * 1_000_000).div_ceil(u128::from(node.rate));
        Nanos::try_from(global).unwrap_or(Nanos::MAX)
    }
}

pub(crate) fn nanos(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).expect("simulations are short")
}
