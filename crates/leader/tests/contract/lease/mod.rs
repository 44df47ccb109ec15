//! The rules of the election by Lease.

use std::time::{Duration, Instant};

use leader::{
    Leadership, NodeId, Term,
    lease::{Ask, Config, Election, Event, Observed, Record, Reply, Request, Stamp, Timing, Version},
};

mod candidates;
mod claims;
mod holders;
mod release;
mod requests;

const S: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
const NS: Duration = Duration::from_nanos(1);

/// 15 s, 10 s, 2 s.
const TIMING: Timing = Timing::DEFAULT;
const DURATION: Duration = Duration::from_secs(15);
const DEADLINE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(2);
/// The small random waits are shorter than this.
const JITTER: Duration = Duration::from_millis(200);

fn name(text: &str) -> NodeId {
    NodeId::new(text).unwrap()
}

fn config() -> Config {
    Config { me: name("me"), timing: TIMING, preserve: false }
}

/// One participant, and a hand that answers for the API.
struct One {
    election: Election,
    now: Instant,
    stamp: i64,
    version: u64,
    asked: Option<Request>,
}

impl One {
    fn new() -> Self {
        Self::with(false)
    }

    fn with(preserve: bool) -> Self {
        Self::configured(&Config { preserve, ..config() }, 1)
    }

    fn seeded(seed: u64) -> Self {
        Self::configured(&config(), seed)
    }

    #[expect(clippy::disallowed_methods, reason = "any instant will do as an origin")]
    fn configured(config: &Config, seed: u64) -> Self {
        let now = Instant::now();
        Self { election: Election::new(config, seed, now), now, stamp: 1_000, version: 10, asked: None }
    }

    /// It has looked, and this is what the Lease says.
    fn seeing(record: Record) -> Self {
        let mut one = Self::new();
        assert_eq!(one.asks(), Some(Ask::Get));
        one.done(record);
        one
    }

    /// It holds the Lease as its first holder.
    fn leader() -> Self {
        let mut one = Self::seeing(released(3));
        one.wait(JITTER);
        one.grant();
        assert!(one.leads());
        one
    }

    /// What it asks now, if anything.
    fn asks(&mut self) -> Option<Ask> {
        self.election.handle_timeout(self.now);
        self.stamp += 1;
        let request = self.election.poll_request(Stamp(self.stamp), self.now)?;
        let ask = request.ask.clone();
        self.asked = Some(request);
        Some(ask)
    }

    /// What it writes now.
    fn writes(&mut self) -> Record {
        match self.asks() {
            Some(Ask::Update(_, record) | Ask::Create(record)) => record,
            other => panic!("no write, but {other:?}"),
        }
    }

    fn reply(&mut self, reply: Reply) {
        let request = self.asked.take().expect("something was asked");
        self.election.handle_reply(request.id, reply, self.now);
    }

    /// What was asked has brought this to light.
    fn done(&mut self, record: Record) {
        let observed = self.next(record);
        self.reply(Reply::Done(observed));
    }

    /// It writes, and the write is applied.
    fn grant(&mut self) -> Record {
        let record = self.writes();
        self.done(record.clone());
        record
    }

    fn next(&mut self, record: Record) -> Observed {
        self.version += 1;
        Observed { version: Version::new(&self.version.to_string()), record }
    }

    /// A watch tells this.
    fn told(&mut self, record: Record) {
        let observed = self.next(record);
        self.election.handle_seen(observed, self.now);
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.election.handle_timeout(self.now);
    }

    fn leads(&self) -> bool {
        matches!(self.election.leadership(self.now), Leadership::Leader { .. })
    }

    fn follows(&self) -> Option<NodeId> {
        match self.election.leadership(self.now) {
            Leadership::Follower { leader } => leader,
            Leadership::Leader { .. } => panic!("it leads"),
        }
    }

    fn term(&self) -> Option<Term> {
        match self.election.leadership(self.now) {
            Leadership::Leader { term, .. } => Some(term),
            Leadership::Follower { .. } => None,
        }
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.election.poll_event()).collect()
    }

    /// When it would write at the earliest, if nothing else happened but looks that show nothing new.
    fn writes_after(&mut self) -> Duration {
        let began = self.now;
        let last = began + 10 * DURATION;
        while self.now < last {
            match self.asks() {
                Some(Ask::Update(..) | Ask::Create(_)) => return self.now - began,
                Some(Ask::Get) => {
                    let reply = self.unchanged();
                    self.reply(reply);
                }
                None => {
                    let next = self.election.poll_timeout().expect("a participant never sleeps for ever");
                    self.wait(next.saturating_duration_since(self.now).max(NS));
                }
            }
        }
        panic!("it never writes");
    }

    fn unchanged(&mut self) -> Reply {
        match self.election.record().cloned() {
            Some(record) => {
                let version = Version::new(&self.version.to_string());
                Reply::Done(Observed { version, record })
            }
            None => Reply::Absent,
        }
    }
}

fn held(holder: &str, stamp: i64) -> Record {
    Record {
        holder: Some(holder.into()),
        duration: Some(DURATION),
        acquired: Some(Stamp(1)),
        renewed: Some(Stamp(stamp)),
        transitions: 3,
        successor: None,
    }
}

fn released(transitions: i32) -> Record {
    Record {
        holder: None,
        duration: Some(S),
        acquired: Some(Stamp(7)),
        renewed: Some(Stamp(7)),
        transitions,
        successor: None,
    }
}

/// At this time, give or take the small random wait.
fn at(expected: Duration, found: Duration) {
    assert!(
        expected <= found && found < expected + JITTER + MS,
        "expected after {expected:?}, found {found:?}"
    );
}
