//! The API as participants of an election by Lease see it: servers before one store, some slow, some cut off from it.

use std::time::Duration;

use fastrand::Rng;
use leader::{
    NodeId,
    lease::{Ask, Observed, Record, Reply, Request, RequestId, Stamp, Version},
};

use crate::world::{Nanos, Sent, Service};

/// What travels between a participant and a server.
#[derive(Clone, Debug)]
pub(crate) enum Parcel {
    Request(Request),
    Reply(RequestId, Reply),
    /// Opens a watch in place of any other.
    Watch,
    /// A state of the Lease, or its absence, as a watch tells it.
    Event(Option<Observed>),
    /// The watch has ended, or could not be opened.
    Unwatched,
}

/// The servers and what is behind them.
pub(crate) struct Api {
    /// The place of the first server on the network.
    first: usize,
    pub(crate) servers: Vec<Server>,
    version: u64,
    pub(crate) lease: Option<Observed>,
    /// Nothing can be read or written: the store has lost its quorum.
    pub(crate) down: bool,
    /// How many writes were granted since the Lease was made.
    pub(crate) writes: u64,
}

/// One apiserver.
#[derive(Clone, Default)]
pub(crate) struct Server {
    /// Its process is gone: connections are refused.
    pub(crate) dead: bool,
    /// It can't reach the store.
    pub(crate) cut_off: bool,
    /// How long it takes for a request, and how far its watches lag.
    pub(crate) slowness: Nanos,
    watchers: Vec<usize>,
}

impl Api {
    pub(crate) fn new(first: usize, servers: usize) -> Self {
        Self {
            first,
            servers: vec![Server::default(); servers],
            version: 0,
            lease: None,
            down: false,
            writes: 0,
        }
    }

    /// Rewrites the Lease past all participants, or deletes it; the news goes to the watchers.
    pub(crate) fn rewrite(&mut self, record: Option<Record>, rng: &mut Rng) -> Vec<Sent<Parcel>> {
        self.lease = record.map(|record| self.put(record));
        self.tell_watchers(rng)
    }

    /// A server's process ends; those who watched it are told.
    pub(crate) fn kill(&mut self, server: usize) -> Vec<Sent<Parcel>> {
        self.servers[server].dead = true;
        let from = self.first + server;
        let watchers = std::mem::take(&mut self.servers[server].watchers);
        let told = watchers.into_iter();
        told.map(|to| Sent::ToParty { from, to, after: 0, parcel: Parcel::Unwatched }).collect()
    }

    fn put(&mut self, record: Record) -> Observed {
        self.version += 1;
        Observed { version: Version::new(&self.version.to_string()), record }
    }

    fn apply(&mut self, ask: Ask) -> (Reply, bool) {
        match (ask, &self.lease) {
            (Ask::Get, Some(observed)) => (Reply::Done(observed.clone()), false),
            (Ask::Get | Ask::Update(..), None) => (Reply::Absent, false),
            (Ask::Create(_), Some(_)) => (Reply::Conflict, false),
            (Ask::Update(version, _), Some(observed)) if version != observed.version => {
                (Reply::Conflict, false)
            }
            (Ask::Create(record), None) | (Ask::Update(_, record), Some(_)) => {
                self.writes = if self.lease.is_none() { 1 } else { self.writes + 1 };
                let observed = self.put(record);
                self.lease = Some(observed.clone());
                (Reply::Done(observed), true)
            }
        }
    }

    /// Each watcher hears of it after its server's lag; a later event never overtakes an earlier one by more than that.
    fn tell_watchers(&self, rng: &mut Rng) -> Vec<Sent<Parcel>> {
        let mut sent = Vec::new();
        for (place, server) in self.servers.iter().enumerate() {
            for to in &server.watchers {
                let after = rng.u64(0..=server.slowness);
                let parcel = Parcel::Event(self.lease.clone());
                sent.push(Sent::ToParty { from: self.first + place, to: *to, after, parcel });
            }
        }
        sent
    }
}

impl Service<Parcel> for Api {
    fn places(&self) -> usize {
        self.servers.len()
    }

    fn deliver(&mut self, at: usize, from: usize, parcel: Parcel, rng: &mut Rng) -> Vec<Sent<Parcel>> {
        let server = &self.servers[at - self.first];
        if server.dead {
            let refused = match parcel {
                Parcel::Request(request) => Parcel::Reply(request.id, Reply::Failed),
                Parcel::Watch | Parcel::Reply(..) | Parcel::Event(_) | Parcel::Unwatched => Parcel::Unwatched,
            };
            return vec![Sent::ToParty { from: at, to: from, after: 0, parcel: refused }];
        }
        // Applied later than it came: maybe when whoever sent it has given it up.
        vec![Sent::ToItself { at, from, after: rng.u64(0..=server.slowness), parcel }]
    }

    fn wake(&mut self, at: usize, from: usize, parcel: Parcel, rng: &mut Rng) -> Vec<Sent<Parcel>> {
        let server = &mut self.servers[at - self.first];
        let answer = |parcel| Sent::ToParty { from: at, to: from, after: 0, parcel };
        match parcel {
            Parcel::Watch => {
                if server.dead || server.cut_off || self.down {
                    return vec![answer(Parcel::Unwatched)];
                }
                if !server.watchers.contains(&from) {
                    server.watchers.push(from);
                }
                vec![answer(Parcel::Event(self.lease.clone()))]
            }
            Parcel::Request(request) => {
                if server.dead || server.cut_off || self.down {
                    return vec![answer(Parcel::Reply(request.id, Reply::Failed))];
                }
                let (reply, changed) = self.apply(request.ask);
                let mut sent = if changed { self.tell_watchers(rng) } else { Vec::new() };
                sent.push(answer(Parcel::Reply(request.id, reply)));
                sent
            }
            Parcel::Reply(..) | Parcel::Event(_) | Parcel::Unwatched => Vec::new(),
        }
    }
}

/// A record as a hand might write it.
pub(crate) fn by_hand(known: Option<&Record>, nodes: usize, longest: Duration, rng: &mut Rng) -> Record {
    let name = |n: usize| NodeId::new(&format!("n{n}")).expect("a good name").as_str().into();
    let blank = Record {
        holder: None,
        duration: Some(longest),
        acquired: None,
        renewed: Some(Stamp(1)),
        transitions: 0,
        successor: None,
    };
    let mut record = known.cloned().unwrap_or(blank);
    match rng.u8(0..4) {
        // kubectl patch: the holder is struck out, and nothing else.
        0 => record.holder = None,
        1 => record.holder = Some("nobody".into()),
        2 => record.holder = Some(name(rng.usize(0..nodes))),
        _ => record.duration = None,
    }
    record
}
