//! Members without datagrams: one to be talked to by hand, or several that hear each other at once.

use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use leader::{
    Leadership, NodeId, Term, Timing,
    message::{Body, Gossip, Message, Round},
    node::{Incarnation, Process},
    quorum::{Config, Election, Event},
};

pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const NS: Duration = Duration::from_nanos(1);
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(25);
pub(crate) const LEASE: Duration = Duration::from_millis(100);
pub(crate) const EXCLUSION: Duration = Duration::from_millis(120);

pub(crate) fn node(name: char) -> NodeId {
    NodeId::new(&name.to_string()).unwrap()
}

/// The process of a node in its first run.
pub(crate) fn process(name: char) -> Process {
    Process { node: node(name), incarnation: Incarnation(u64::from(name)) }
}

pub(crate) fn config(me: char, members: &str) -> Config {
    Config {
        me: node(me),
        members: members.chars().map(node).collect::<BTreeSet<_>>(),
        witnesses: BTreeSet::new(),
        timing: Timing::new(HEARTBEAT, LEASE).unwrap(),
        priority: 100,
        preempt: false,
        preempt_delay: Duration::ZERO,
        start_as_leader: false,
        tie_break: None,
    }
}

#[expect(clippy::disallowed_methods, reason = "any instant will do as an origin")]
pub(crate) fn origin() -> Instant {
    Instant::now()
}

pub(crate) fn election(config: &Config, now: Instant) -> Election {
    let name = config.me.as_str().chars().next().unwrap();
    Election::new(config, "1.2.3", process(name).incarnation, 7, now).unwrap()
}

/// What a member says of itself that is up, fit, and no leader.
pub(crate) fn gossip(name: char, members: &str, now: Instant) -> Gossip {
    Gossip { abstaining: false, ..election(&config(name, members), now).gossip(now) }
}

/// One member, `a`, and a hand that writes all messages it gets.
pub(crate) struct One {
    pub(crate) election: Election,
    pub(crate) now: Instant,
    members: &'static str,
}

impl One {
    pub(crate) fn new(members: &'static str) -> Self {
        Self::with(members, |_| {})
    }

    pub(crate) fn with(members: &'static str, change: impl FnOnce(&mut Config)) -> Self {
        let now = origin();
        let mut config = config('a', members);
        change(&mut config);
        Self { election: election(&config, now), now, members }
    }

    /// A member that votes.
    pub(crate) fn awake(members: &'static str) -> Self {
        let mut one = Self::new(members);
        one.now += EXCLUSION;
        one
    }

    /// A member that asks for votes; gives the term and the round.
    pub(crate) fn candidate(members: &'static str) -> (Self, Term, Round) {
        let mut one = Self::awake(members);
        let (term, round) = one.stand();
        (one, term, round)
    }

    /// A member that leads, elected with the votes of all.
    pub(crate) fn leader(members: &'static str) -> (Self, Term, Round) {
        let (mut one, term, round) = Self::candidate(members);
        for voter in members.chars().skip(1) {
            one.hears(voter, Body::Grant { term, round });
        }
        assert_eq!(one.term(), Some(term));
        one.drain();
        (one, term, round)
    }

    /// Lets it canvass with success.
    pub(crate) fn stand(&mut self) -> (Term, Round) {
        let sent = self.runs_until(|body| matches!(body, Body::Canvass { .. }));
        let Body::Canvass { round } = sent else { unreachable!() };
        for voter in self.members.chars().skip(1) {
            if let Some(asked) = self.requests_after(voter, Body::Support { round }) {
                return asked;
            }
        }
        panic!("all support it, and it doesn't stand");
    }

    fn requests_after(&mut self, voter: char, body: Body) -> Option<(Term, Round)> {
        self.hears(voter, body).into_iter().find_map(|(_, body)| match body {
            Body::Request { term, round, .. } => Some((term, round)),
            _ => None,
        })
    }

    /// Takes a message of a member; gives all that it sends then.
    pub(crate) fn hears(&mut self, from: char, body: Body) -> Vec<(char, Body)> {
        self.hears_from(&process(from), body, |_| {})
    }

    pub(crate) fn hears_from(
        &mut self,
        from: &Process,
        body: Body,
        change: impl FnOnce(&mut Gossip),
    ) -> Vec<(char, Body)> {
        let name = from.node.as_str().chars().next().unwrap();
        let mut gossip = gossip(name, self.members, self.now);
        change(&mut gossip);
        self.election.handle_message(from, Message { gossip, body }, self.now);
        self.drain()
    }

    /// Asks it for its vote; gives its answer.
    pub(crate) fn asked_by(&mut self, from: &Process, term: u64) -> Body {
        self.answer(from, Body::Request { term: Term(term), round: Round(1), released: None }, |_| {})
    }

    pub(crate) fn answer(&mut self, from: &Process, body: Body, change: impl FnOnce(&mut Gossip)) -> Body {
        let name = from.node.as_str().chars().next().unwrap();
        let sent = self.hears_from(from, body, change);
        let answer = sent.into_iter().find(|(to, body)| {
            *to == name && matches!(body, Body::Grant { .. } | Body::Support { .. } | Body::Refuse { .. })
        });
        answer.expect("every question is answered").1
    }

    /// Lets time pass without a word from anybody; gives all that it sends meanwhile.
    pub(crate) fn waits(&mut self, time: Duration) -> Vec<(char, Body)> {
        let end = self.now + time;
        let mut sent = Vec::new();
        while let Some(due) = self.election.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.election.handle_timeout(self.now);
            sent.extend(self.drain());
        }
        self.now = end;
        sent
    }

    /// Lets time pass until it sends such a message.
    pub(crate) fn runs_until(&mut self, wanted: impl Fn(&Body) -> bool) -> Body {
        for _ in 0..1000 {
            if let Some(due) = self.election.poll_timeout() {
                self.now = self.now.max(due);
            }
            self.election.handle_timeout(self.now);
            if let Some((_, body)) = self.drain().into_iter().find(|(_, body)| wanted(body)) {
                return body;
            }
        }
        panic!("it never sends such a message");
    }

    pub(crate) fn drain(&mut self) -> Vec<(char, Body)> {
        while self.election.poll_event().is_some() {}
        std::iter::from_fn(|| self.election.poll_transmit())
            .map(|transmit| (transmit.to.as_str().chars().next().unwrap(), transmit.message.body))
            .collect()
    }

    /// The term it leads in.
    pub(crate) fn term(&self) -> Option<Term> {
        match self.election.leadership(self.now) {
            Leadership::Leader { term, .. } => Some(term),
            Leadership::Follower { .. } => None,
        }
    }
}

/// Several members, among which messages take no time.
pub(crate) struct Several {
    pub(crate) now: Instant,
    pub(crate) nodes: Vec<(char, Option<Election>)>,
    /// Pairs whose messages are lost, from the first to the second.
    pub(crate) cut: BTreeSet<(char, char)>,
    pub(crate) events: Vec<(char, Event)>,
}

impl Several {
    pub(crate) fn new(names: &str) -> Self {
        Self::with(names, |_| {})
    }

    pub(crate) fn with(names: &str, change: impl Fn(&mut Config)) -> Self {
        let now = origin();
        let start = |name| {
            let mut config = config(name, names);
            change(&mut config);
            (name, Some(election(&config, now)))
        };
        let nodes = names.chars().map(start).collect();
        Self { now, nodes, cut: BTreeSet::new(), events: Vec::new() }
    }

    /// Lets time pass; whatever is sent arrives at once.
    pub(crate) fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.settle();
            let due = self.nodes.iter().filter_map(|(_, node)| node.as_ref()?.poll_timeout()).min();
            let Some(due) = due.filter(|due| *due <= end) else { break };
            self.now = self.now.max(due);
            let now = self.now;
            for (_, node) in &mut self.nodes {
                if let Some(node) =
                    node.as_mut().filter(|node| node.poll_timeout().is_some_and(|due| due <= now))
                {
                    node.handle_timeout(now);
                }
            }
        }
        self.now = end;
    }

    /// Delivers until nobody has anything more to say at this moment.
    pub(crate) fn settle(&mut self) {
        let now = self.now;
        let mut mail = VecDeque::new();
        loop {
            for (name, node) in &mut self.nodes {
                let Some(node) = node else { continue };
                mail.extend(std::iter::from_fn(|| node.poll_transmit()).map(|transmit| (*name, transmit)));
                self.events.extend(std::iter::from_fn(|| node.poll_event()).map(|event| (*name, event)));
            }
            let Some((from, transmit)) = mail.pop_front() else { return };
            let to = transmit.to.as_str().chars().next().unwrap();
            let sender = process(from);
            if !self.cut.contains(&(from, to))
                && let Some(node) =
                    self.nodes.iter_mut().find(|(name, _)| *name == to).and_then(|(_, n)| n.as_mut())
            {
                node.handle_message(&sender, transmit.message, now);
            }
        }
    }

    pub(crate) fn node(&mut self, name: char) -> &mut Election {
        let found = self.nodes.iter_mut().find(|(n, _)| *n == name).unwrap();
        found.1.as_mut().expect("it runs")
    }

    pub(crate) fn crash(&mut self, name: char) {
        self.nodes.iter_mut().find(|(n, _)| *n == name).unwrap().1 = None;
    }

    /// Those inside their leases.
    pub(crate) fn leaders(&self) -> String {
        let leads =
            |node: &Option<Election>| node.as_ref().is_some_and(|node| node.lease_end(self.now).is_some());
        self.nodes.iter().filter(|(_, node)| leads(node)).map(|(name, _)| *name).collect()
    }
}
