//! Every order of events among three members, up to a horizon: at most one of them holds a lease.
//!
//! The members are the real machines. Whatever was sent may arrive at any time while it is fresh enough, any number of
//! times, or never. In each test one more thing may go wrong: members are late, messages are slow, one is restarted, a
//! leader steps down.
//!
//! To keep the states few enough to see them all, two members stand and the third only votes; a canvass is always
//! answered in the best way at once, which lets members stand more often than they could; heartbeats of followers and
//! refusals are left out, which changes no vote; and gossip says always the same. The simulation has all of that.

use std::{
    collections::{BTreeSet, hash_map::DefaultHasher},
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
    time::{Duration, Instant},
};

use leader::{
    NodeId, Term, Timing,
    message::{Body, Gossip, Message},
    node::{Incarnation, Process},
    quorum::{Config, Election},
};
use stateright::{Checker, HasDiscoveries, Model, Property};

const NAMES: [&str; 3] = ["a", "b", "c"];

/// The grain of the model's time. A lease ends between the first and the second tick after its request, and a voter
/// that granted at once is free exactly at the second.
const TICK: Duration = Duration::from_millis(9);
const LEASE: Duration = Duration::from_millis(15);
const HEARTBEAT: Duration = Duration::from_millis(5);
/// The abstention after the common start is over, and so is the small wait that follows.
const BEGIN: u32 = 3;

/// The others only vote: their timers never come.
const CANDIDATES: usize = 2;

struct Cluster {
    origin: Instant,
    /// How long it goes on: in three ticks, one member can lead after another.
    ticks: u32,
    /// How many ticks a message may be under way.
    delay: u32,
    /// Whether members may be late for their own deadlines by any time, rather than by less than a tick.
    late: bool,
    restarts: u8,
    step_downs: u8,
    /// Whether a leader that steps down is told in whose favour, one that may be any.
    named: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    now: u32,
    nodes: Vec<Node>,
    mail: BTreeSet<Letter>,
    restarts: u8,
    step_downs: u8,
    /// Members that led, as bits.
    led: u8,
}

/// A member, shared between the states in which it is the same, with a digest that stands for it.
#[derive(Clone)]
struct Node {
    election: Arc<Election>,
    process: Process,
    digest: u64,
}

#[derive(Clone)]
struct Letter {
    from: Process,
    to: usize,
    message: Arc<Message>,
    sent: u32,
    digest: u64,
}

#[derive(Clone, Debug, PartialEq)]
enum Action {
    Deliver(Letter),
    Wake(usize),
    Tick,
    Restart(usize),
    StepDown(usize, Option<usize>),
    Confirm(usize),
}

fn name(n: usize) -> NodeId {
    NodeId::new(NAMES[n]).expect("a good name")
}

fn digest(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

impl Cluster {
    fn at(&self, tick: u32) -> Instant {
        self.origin + TICK * tick
    }

    fn election(&self, n: usize, incarnation: u64, now: Instant) -> Node {
        let config = Config {
            me: name(n),
            members: (0..NAMES.len()).map(name).collect(),
            witnesses: BTreeSet::new(),
            timing: Timing::new(HEARTBEAT, LEASE).expect("three heartbeats"),
            priority: 0,
            preempt: false,
            preempt_delay: Duration::ZERO,
            start_as_leader: false,
            tie_break: None,
        };
        let process = Process { node: name(n), incarnation: Incarnation(incarnation) };
        let election = Election::new(&config, "", process.incarnation, 1, now).expect("a good configuration");
        Node { digest: digest(&election), election: Arc::new(election), process }
    }

    /// What all say of themselves in this model; what they really say makes many states and no difference to votes.
    fn baseline(&self, state: &State) -> Gossip {
        Gossip { term: Term(0), ..state.nodes[0].election.gossip(self.origin + LEASE * 100) }
    }

    /// Gives one input to a member, and posts what it sends.
    fn input(&self, state: &mut State, n: usize, give: impl FnOnce(&mut Election, Instant)) {
        let now = self.at(state.now);
        let baseline = self.baseline(state);
        let node = &mut state.nodes[n];
        let election = Arc::make_mut(&mut node.election);
        give(election, now);
        while let Some(transmit) = election.poll_transmit() {
            let message = Message { gossip: baseline.clone(), body: transmit.message.body };
            match message.body {
                Body::Alive | Body::Refuse { .. } | Body::Support { .. } => {}
                Body::Canvass { round } => {
                    let message = Message { body: Body::Support { round }, ..message };
                    let voter = Process { node: transmit.to, incarnation: Incarnation(1) };
                    election.handle_message(&voter, message, now);
                }
                Body::Request { .. } | Body::Grant { .. } | Body::Release { .. } => {
                    let to = NAMES.iter().position(|name| *name == transmit.to.as_str()).expect("a member");
                    let digest = digest(&(&node.process, to, &message, state.now));
                    let message = Arc::new(message);
                    state.mail.insert(Letter {
                        from: node.process.clone(),
                        to,
                        message,
                        sent: state.now,
                        digest,
                    });
                }
            }
        }
        while election.poll_event().is_some() {}
        node.digest = digest(&*node.election);
        if node.election.lease_end(now).is_some() {
            state.led |= 1 << n;
        }
    }
}

impl Model for Cluster {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let nodes = (0..NAMES.len()).map(|n| self.election(n, 1, self.origin)).collect();
        let (restarts, step_downs) = (self.restarts, self.step_downs);
        vec![State { now: BEGIN, nodes, mail: BTreeSet::new(), restarts, step_downs, led: 0 }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let now = self.at(state.now);
        actions.extend(state.mail.iter().cloned().map(Action::Deliver));
        let mut due = false;
        for (n, node) in state.nodes.iter().enumerate() {
            if n < CANDIDATES && node.election.poll_timeout().is_some_and(|due| due <= now) {
                due = true;
                actions.push(Action::Wake(n));
            }
            if state.restarts > 0 {
                actions.push(Action::Restart(n));
            }
            if state.step_downs > 0 && node.election.lease_end(now).is_some() {
                if self.named {
                    let others = (0..NAMES.len()).filter(|other| *other != n);
                    actions.extend(others.map(|other| Action::StepDown(n, Some(other))));
                } else {
                    actions.push(Action::StepDown(n, None));
                }
            }
            let holds = node.election.lease_end(now).is_some();
            if state.step_downs < self.step_downs && state.led >> n & 1 == 1 && !holds {
                actions.push(Action::Confirm(n));
            }
        }
        if state.now < BEGIN + self.ticks && (self.late || !due) {
            actions.push(Action::Tick);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Deliver(letter) => {
                let Letter { from, to, message, .. } = letter;
                self.input(&mut state, to, |election, now| {
                    election.handle_message(&from, (*message).clone(), now);
                });
            }
            Action::Wake(n) => self.input(&mut state, n, Election::handle_timeout),
            Action::Tick => {
                state.now += 1;
                let oldest = state.now.saturating_sub(self.delay);
                state.mail.retain(|letter| letter.sent >= oldest);
            }
            Action::Restart(n) => {
                state.restarts -= 1;
                state.nodes[n] = self.election(n, 2, self.at(state.now));
            }
            Action::StepDown(n, to) => {
                state.step_downs -= 1;
                self.input(&mut state, n, |election, now| {
                    // Nobody may have been heard, or not the one; then it leads on.
                    let _outcome = election.step_down(to.map(name).as_ref(), now);
                });
            }
            Action::Confirm(n) => self.input(&mut state, n, Election::confirm_standby),
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("at most one member holds a lease", |cluster: &Self, state: &State| {
                let now = cluster.at(state.now);
                state.nodes.iter().filter(|node| node.election.lease_end(now).is_some()).count() <= 1
            }),
            Property::sometimes("a member leads", |_, state: &State| state.led != 0),
            Property::sometimes("another leads after it", |_, state: &State| state.led.count_ones() > 1),
        ]
    }
}

/// Goes through all states. There is no limit of time or depth: the horizon makes them finite.
#[expect(clippy::print_stdout, reason = "the number of states is a result")]
fn check(change: impl FnOnce(&mut Cluster)) {
    #[expect(clippy::disallowed_methods, reason = "any instant will do as an origin")]
    let origin = Instant::now();
    let mut cluster =
        Cluster { origin, ticks: 3, delay: 0, late: false, restarts: 0, step_downs: 0, named: false };
    change(&mut cluster);
    let checker = cluster.checker().finish_when(HasDiscoveries::AnyFailures).spawn_dfs().join();
    println!("{} states, {} of them different", checker.state_count(), checker.unique_state_count());
    checker.assert_properties();
    assert!(checker.is_done(), "the states are not exhausted");
}

#[test]
fn at_most_one_holds_however_late_members_are_for_their_deadlines() {
    check(|cluster| cluster.late = true);
}

#[test]
fn at_most_one_holds_however_slow_messages_are() {
    check(|cluster| cluster.delay = 1);
}

#[test]
fn at_most_one_holds_whenever_a_member_is_restarted() {
    check(|cluster| cluster.restarts = 1);
}

#[test]
fn at_most_one_holds_whenever_a_leader_steps_down() {
    check(|cluster| (cluster.ticks, cluster.step_downs) = (2, 1));
}

#[test]
fn at_most_one_holds_whomever_a_leader_steps_down_for() {
    check(|cluster| (cluster.ticks, cluster.step_downs, cluster.named) = (2, 1, true));
}

#[test]
fn at_most_one_holds_when_a_member_is_restarted_during_a_hand_over() {
    check(|cluster| (cluster.ticks, cluster.step_downs, cluster.restarts) = (1, 1, 1));
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for Node {}

impl Hash for Node {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.digest.hash(state);
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.election.fmt(f)
    }
}

impl PartialEq for Letter {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for Letter {}

impl PartialOrd for Letter {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Letter {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.digest.cmp(&other.digest)
    }
}

impl Hash for Letter {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.digest.hash(state);
    }
}

impl fmt::Debug for Letter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}→{} {:?}", self.from.node, NAMES[self.to], self.message.body)
    }
}
