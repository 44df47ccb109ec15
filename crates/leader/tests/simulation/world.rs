//! A world of a few members: their clocks, the network between them, and what goes wrong.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use fastrand::Rng;
use leader::{
    NodeId, Timing,
    member::{Config, Member},
    peers::Key,
    quorum,
};

/// Time as an outside observer sees it, in nanoseconds.
pub(crate) type Nanos = u64;

/// What was broken.
#[derive(Debug)]
pub(crate) struct Violation(pub(crate) String);

pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) now: Nanos,
    pub(crate) timing: Timing,
    pub(crate) nodes: Vec<Node>,
    pub(crate) network: Network,
    events: BinaryHeap<Reverse<Scheduled>>,
    scheduled: u64,
    origin: Instant,
    /// Datagrams that somebody recorded, to play them again.
    recorded: VecDeque<Datagram>,
    /// Lines about what happened, if anyone wants to read them.
    pub(crate) transcript: Option<Vec<String>>,
}

pub(crate) struct Node {
    config: Config,
    process: Option<Member>,
    /// Parts per million that this clock goes faster or slower, and where it started.
    rate: u64,
    offset: Nanos,
    paused_until: Nanos,
    inbox: Vec<Datagram>,
    wake_at: Option<Nanos>,
    timer_grain: Nanos,
    owner: Owner,
    eligible: bool,
    stopping: bool,
}

/// Who acts upon a node's leadership: it holds something while it may, and lets go late.
#[derive(Default)]
struct Owner {
    /// The lease end it was told last, by the node's clock, as long as it holds.
    holds_until: Option<Instant>,
    turn: u64,
}

/// What the network does to datagrams.
pub(crate) struct Network {
    pub(crate) loss: f32,
    pub(crate) duplication: f32,
    pub(crate) replay: f32,
    pub(crate) delay: Nanos,
    pub(crate) rare_delay: Nanos,
    /// `blocked[from][to]`.
    pub(crate) blocked: Vec<Vec<bool>>,
}

#[derive(Clone)]
struct Datagram {
    from: usize,
    to: usize,
    bytes: Vec<u8>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Scheduled {
    at: Nanos,
    number: u64,
    what: What,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum What {
    Deliver { from: usize, to: usize, bytes: Vec<u8> },
    Fault,
    Start(usize),
    Resume(usize),
    Confirm { node: usize, turn: u64 },
}

impl World {
    pub(crate) fn new(seed: u64, nodes: usize, timing: Timing, transcript: bool) -> Self {
        Self::with(seed, nodes, timing, transcript, |_| {})
    }

    pub(crate) fn with(
        seed: u64,
        nodes: usize,
        timing: Timing,
        transcript: bool,
        change: impl Fn(&mut quorum::Config),
    ) -> Self {
        let mut rng = Rng::with_seed(seed);
        #[expect(clippy::disallowed_methods, reason = "any instant will do as an origin")]
        let origin = Instant::now();
        let lease = nanos(timing.lease());
        let signed = rng.u8(0..8) == 0;
        let preempt = rng.bool();
        let mut configs: Vec<Config> =
            (0..nodes).map(|n| config(&mut rng, n, nodes, timing, (signed, preempt))).collect();
        configs.iter_mut().for_each(|config| change(&mut config.quorum));
        let nodes = configs
            .into_iter()
            .map(|config| Node {
                config,
                process: None,
                // The rates span what separates the lease from the voter's exclusion, guard and all.
                rate: rng.u64(920_000..=1_100_000),
                offset: rng.u64(0..10 * lease),
                paused_until: 0,
                inbox: Vec::new(),
                wake_at: None,
                timer_grain: rng.u64(1..=nanos(timing.heartbeat()) / 8),
                owner: Owner::default(),
                eligible: true,
                stopping: false,
            })
            .collect::<Vec<_>>();
        let blocked = vec![vec![false; nodes.len()]; nodes.len()];
        let network = Network {
            loss: 0.0,
            duplication: 0.0,
            replay: 0.0,
            delay: lease / 200,
            rare_delay: lease / 50,
            blocked,
        };
        Self {
            rng,
            now: 0,
            timing,
            nodes,
            network,
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

    pub(crate) fn schedule(&mut self, after: Nanos, what: What) {
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
                    What::Deliver { from, to, bytes } => self.deliver(Datagram { from, to, bytes }),
                    What::Start(n) => self.start(n),
                    What::Resume(n) => self.resume(n),
                    What::Confirm { node, turn } => self.confirm(node, turn),
                }
            } else if let Some((_, n)) = wake {
                self.input(n, |member, now| member.election.handle_timeout(now));
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
        for (n, node) in self.nodes.iter().enumerate() {
            let leads = self.lease_end(node, at).is_some();
            let holds = node.owner.holds_until.is_some_and(|until| at < self.global(node, until));
            if !leads && !holds {
                continue;
            }
            if let Some(other) = holder {
                let describe = |n: usize| {
                    let node = &self.nodes[n];
                    format!(
                        "{} (leads until {:?}, holds until {:?})",
                        node.config.quorum.me,
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

    pub(crate) fn leader(&self) -> Option<usize> {
        self.nodes.iter().position(|node| self.lease_end(node, self.now).is_some())
    }

    pub(crate) fn member(&self, n: usize) -> Option<&Member> {
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
        let member = Member::new(&node.config, incarnation, seed, now).expect("the configuration is good");
        node.process = Some(member);
        node.stopping = false;
        let eligible = node.eligible;
        self.note(|world| format!("{} starts", world.name(n)));
        self.input(n, |member, now| member.election.set_eligible(eligible, now));
    }

    /// Ends the process without a word. What it held is gone with it.
    pub(crate) fn crash(&mut self, n: usize) {
        self.note(|world| format!("{} crashes", world.name(n)));
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
            self.note(|world| format!("{} is paused for {:.3} ms", world.name(n), time as f64 / 1e6));
        }
    }

    fn resume(&mut self, n: usize) {
        if self.nodes[n].paused_until != self.now {
            return;
        }
        self.note(|world| format!("{} goes on", world.name(n)));
        // Some runtimes look at the socket first, some at the clock.
        if self.rng.bool() {
            self.input(n, |member, now| member.election.handle_timeout(now));
        }
        for datagram in std::mem::take(&mut self.nodes[n].inbox) {
            self.deliver(datagram);
        }
        self.input(n, |member, now| member.election.handle_timeout(now));
    }

    pub(crate) fn find_segment_free(&mut self, n: usize) {
        self.note(|world| format!("{} finds the segment free", world.name(n)));
        self.input(n, |member, now| member.election.set_segment(quorum::Segment::Free, now));
    }

    pub(crate) fn step_down(&mut self, n: usize) {
        self.note(|world| format!("{} is told to step down", world.name(n)));
        self.input(n, |member, now| {
            // It may be no leader, or alone; then it says so and nothing happens.
            let _outcome = member.election.step_down(now);
        });
    }

    pub(crate) fn stop(&mut self, n: usize) {
        self.note(|world| format!("{} is told to stop", world.name(n)));
        self.nodes[n].stopping = true;
        self.input(n, |member, now| member.election.stop(now));
        self.finish_stop(n);
    }

    pub(crate) fn set_eligible(&mut self, n: usize, eligible: bool) {
        self.note(|world| format!("{} eligible: {eligible}", world.name(n)));
        self.nodes[n].eligible = eligible;
        self.input(n, |member, now| member.election.set_eligible(eligible, now));
    }

    /// All that can be mended is mended.
    pub(crate) fn heal(&mut self) {
        self.note(|_| "all is healed".to_owned());
        let lease = nanos(self.timing.lease());
        let nodes = self.nodes.len();
        let blocked = vec![vec![false; nodes]; nodes];
        self.network = Network {
            loss: 0.0,
            duplication: 0.0,
            replay: 0.0,
            delay: lease / 200,
            rare_delay: lease / 50,
            blocked,
        };
        for n in 0..nodes {
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

    fn deliver(&mut self, datagram: Datagram) {
        let Datagram { from, to, bytes } = datagram;
        let node = &mut self.nodes[to];
        if node.paused_until > self.now {
            // A socket's buffer is finite.
            if node.inbox.len() < 256 {
                node.inbox.push(Datagram { from, to, bytes });
            }
            return;
        }
        let source = address(from);
        self.note(|world| {
            format!("{} ◀ {} ({} bytes, type {})", world.name(to), world.name(from), bytes.len(), bytes[2])
        });
        self.input(to, |member, now| member.handle_datagram(source, &bytes, now));
    }

    fn confirm(&mut self, n: usize, turn: u64) {
        let node = &mut self.nodes[n];
        if node.owner.turn == turn && node.paused_until <= self.now {
            node.owner.holds_until = None;
            self.note(|world| format!("{} confirms that nothing is held", world.name(n)));
            self.input(n, |member, now| member.election.confirm_standby(now));
            self.finish_stop(n);
        }
    }

    fn finish_stop(&mut self, n: usize) {
        let now = self.local_now(n);
        let gone = self.nodes[n].process.as_ref().is_some_and(|member| member.election.has_left(now));
        if gone && self.nodes[n].stopping {
            self.crash(n);
            let downtime = self.rng.u64(0..nanos(self.timing.lease()) * 2);
            self.schedule(downtime, What::Start(n));
        }
    }

    /// Gives one input to a process, then does all that comes out of it.
    fn input(&mut self, n: usize, give: impl FnOnce(&mut Member, Instant)) {
        let now = self.local_now(n);
        let node = &mut self.nodes[n];
        if node.paused_until > self.now {
            return;
        }
        let Some(member) = &mut node.process else { return };
        give(member, now);
        let mut outgoing = Vec::new();
        loop {
            let mut bytes = Vec::with_capacity(192);
            let Some(to) = member.poll_datagram(now, &mut bytes) else { break };
            outgoing.push((to, bytes));
        }
        let events: Vec<_> = std::iter::from_fn(|| member.election.poll_event()).collect();
        while member.poll_complaint().is_some() {}
        let due = member.election.poll_timeout();
        self.tell_owner(n, now);
        let node = &self.nodes[n];
        let late = self.rng.u64(0..node.timer_grain);
        self.nodes[n].wake_at = due.map(|due| self.global(&self.nodes[n], due).max(self.now) + late);
        for event in events {
            self.note(|world| format!("{}: {event:?}", world.name(n)));
        }
        for (to, bytes) in outgoing {
            let to = usize::from(to.port());
            self.transmit(Datagram { from: n, to, bytes });
        }
    }

    /// Lets the owner see the leadership; it lets go some time after it should.
    fn tell_owner(&mut self, n: usize, now: Instant) {
        let node = &mut self.nodes[n];
        let lease_end = node.process.as_ref().and_then(|member| member.election.lease_end(now));
        match (lease_end, node.owner.holds_until) {
            (Some(until), held) => {
                if held.is_none() {
                    node.owner.turn += 1;
                }
                node.owner.holds_until = Some(until);
            }
            (None, Some(held)) if now < held => {
                let turn = node.owner.turn;
                let lease = nanos(self.timing.lease());
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

    fn transmit(&mut self, datagram: Datagram) {
        let Datagram { from, to, .. } = datagram;
        if self.network.blocked[from][to] || self.rng.f32() < self.network.loss {
            return;
        }
        if self.network.duplication > 0.0 {
            if self.rng.f32() < self.network.duplication {
                self.send(datagram.clone());
            }
            if self.recorded.len() == 64 {
                self.recorded.pop_front();
            }
            if self.rng.u8(0..4) == 0 {
                self.recorded.push_back(datagram.clone());
            }
        }
        if self.rng.f32() < self.network.replay && !self.recorded.is_empty() {
            let old = self.recorded[self.rng.usize(0..self.recorded.len())].clone();
            self.send(old);
        }
        self.send(datagram);
    }

    fn send(&mut self, Datagram { from, to, bytes }: Datagram) {
        let longest = if self.rng.u8(0..8) == 0 { self.network.rare_delay } else { self.network.delay };
        let delay = self.rng.u64(longest / 8..=longest);
        self.schedule(delay, What::Deliver { from, to, bytes });
    }

    fn lease_end(&self, node: &Node, at: Nanos) -> Option<Instant> {
        node.process.as_ref()?.election.lease_end(self.local(node, at))
    }

    fn local(&self, node: &Node, at: Nanos) -> Instant {
        self.origin + Duration::from_nanos(node.offset + at * node.rate / 1_000_000)
    }

    /// The first moment at which a node's clock shows at least this.
    fn global(&self, node: &Node, at: Instant) -> Nanos {
        let shown = nanos(at - self.origin).saturating_sub(node.offset);
        (shown * 1_000_000).div_ceil(node.rate)
    }

    pub(crate) fn name(&self, n: usize) -> &NodeId {
        &self.nodes[n].config.quorum.me
    }
}

pub(crate) fn nanos(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).expect("simulations are short")
}

fn address(n: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], u16::try_from(n).expect("few nodes")))
}

fn config(rng: &mut Rng, n: usize, nodes: usize, timing: Timing, (signed, preempt): (bool, bool)) -> Config {
    let name = |n: usize| NodeId::new(&format!("n{n}")).expect("a good name");
    let peers: BTreeMap<_, _> = (0..nodes).filter(|m| *m != n).map(|m| (name(m), address(m))).collect();
    Config {
        quorum: quorum::Config {
            me: name(n),
            members: (0..nodes).map(name).collect(),
            timing,
            priority: rng.u8(99..=101),
            preempt,
            preempt_delay: timing.lease() * rng.u32(0..3),
            start_as_leader: false,
        },
        listen: address(n),
        peers,
        keys: if signed { vec![Key::new(1, &[7; 16]).expect("long enough")] } else { Vec::new() },
        version: String::new(),
    }
}
