//! The part of the snapshot about one election and the addresses that it decides about.

use std::collections::BTreeMap;
use std::time::Instant;

use leader::Leadership;
use leader::peers::PeerStatus;
use leader::quorum::Arbitration;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::report::millis;
use crate::daemon::clients::Done;
use crate::daemon::moves;
use crate::daemon::owner::{self, Monitor};
use crate::daemon::parts::Parts;
use crate::daemon::tie_break::Known;
use crate::daemon::witness::Witness;

/// The addresses and who has them.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Owner {
    /// Who leads, as far as this node knows.
    pub(crate) leader: Option<String>,
    /// What elects: peers, or none.
    pub(crate) election: String,
    /// How often the lead went from one node to another, as this one saw it.
    pub(crate) transitions: u64,
    /// The latest moves of the addresses, as this node and those that tell it of themselves know them; the last first.
    #[serde(default)]
    pub(crate) moves: Vec<Move>,
    /// How often the addresses came to this node since it started, and how long that took.
    #[serde(default)]
    pub(crate) arrivals: Arrivals,
    /// The term that this node leads in.
    pub(crate) term: Option<u64>,
    /// What is left of this node's own lease.
    pub(crate) lease_left_ms: Option<u64>,
    /// The interface; empty on a witness.
    pub(crate) interface: String,
    /// Whether it is up, with a carrier.
    pub(crate) link_up: bool,
    /// The addresses, with their prefixes.
    pub(crate) addresses: Vec<String>,
    /// standby, claiming, active or releasing; witness, where this node votes and never has them.
    pub(crate) state: String,
    /// Whether the kernel, too, stops answering for the address when the lease ends.
    pub(crate) fenced: bool,
    /// Whether vipd's memory stays in RAM.
    #[serde(default)]
    pub(crate) memory_locked: bool,
    /// How often the address was put back after something else had removed it.
    pub(crate) repairs: u64,
    /// How often the segment was told where the address is: frames.
    #[serde(default)]
    pub(crate) announcements: u64,
    /// How often another host was heard using the address.
    pub(crate) conflicts: u64,
    /// The other members; empty where a Lease decides.
    pub(crate) peers: Vec<Peer>,
    /// Who is connected, for whoever takes over; absent without peers.
    #[serde(default)]
    pub(crate) clients: Option<Clients>,
    /// The Lease that decides, if one does.
    pub(crate) lease: Option<Lease>,
    /// What decides between two, where the configuration names it.
    #[serde(default)]
    pub(crate) tie_break: Option<TieBreak>,
}

/// A move of the addresses from one node to another.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Move {
    /// Who had them; absent where nobody is known to have.
    pub(crate) from: Option<String>,
    /// Who got them.
    pub(crate) to: String,
    /// Why: first, stepped_down, stopped, unfit, gave_way, released, silent, restarted, lapsed or unknown.
    pub(crate) reason: String,
    /// When.
    pub(crate) ago_ms: u64,
    /// From the last sign of the owner before until they were on the other and the network was told; only the new owner knows.
    pub(crate) took_ms: Option<u64>,
}

impl Move {
    fn of(this: &moves::Move, now: Instant) -> Self {
        let moves::Move { from, to, reason, at, took } = this;
        Self {
            from: from.as_ref().map(ToString::to_string),
            to: to.to_string(),
            reason: reason.to_string(),
            ago_ms: millis(now.saturating_duration_since(*at)),
            took_ms: took.map(millis),
        }
    }
}

/// How often the addresses came to a node.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Arrivals {
    /// By reason; those that never happened are there, too.
    pub(crate) count: BTreeMap<String, u64>,
    /// How many took no longer than so many milliseconds, and longer than the bound before.
    pub(crate) took: BTreeMap<u64, u64>,
    /// How many took longer than the last bound.
    pub(crate) took_longer: u64,
    /// What all together took.
    pub(crate) sum_ms: u64,
}

impl Arrivals {
    fn of(tally: &moves::Tally) -> Self {
        let (took, sum) = tally.took();
        let (within, beyond) = took.split_at(moves::BOUNDS_MS.len());
        Self {
            count: tally.counts().map(|(reason, count)| (reason.to_string(), count)).collect(),
            took: moves::BOUNDS_MS.into_iter().zip(within.iter().copied()).collect(),
            took_longer: beyond.iter().sum(),
            sum_ms: millis(sum),
        }
    }
}

/// What decides between two hosts of which one is silent.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct TieBreak {
    /// What the configuration calls it.
    pub(crate) rule: String,
    /// Its address, if it has one.
    pub(crate) address: Option<String>,
    /// Whether it answered when it was asked last.
    pub(crate) answers: Option<bool>,
    /// Whether its vote is asked for: the other host is silent.
    pub(crate) needed: bool,
    /// Whether this node leads by the segment's vote.
    pub(crate) votes_for_this_node: bool,
}

/// Connections to the virtual addresses, as far as peers tell each other of them.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Clients {
    /// Those of this node, which the peers are told of.
    pub(crate) own: usize,
    /// Those of this node that no peer is told of, as they are too many.
    pub(crate) beyond_limit: usize,
    /// Those of the leader, as it told this node.
    pub(crate) of_leader: usize,
    /// Packets sent to clients of the owner before this node, so that idle ones notice the move.
    pub(crate) tickles: u64,
}

/// A Kubernetes Lease and how this node gets on with it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Lease {
    /// Its namespace and name.
    pub(crate) name: String,
    /// What this node calls itself in it.
    pub(crate) identity: String,
    /// Who holds it, by its own word.
    pub(crate) holder: Option<String>,
    /// How often it has changed hands.
    pub(crate) transitions: i32,
    /// The apiserver that answered last.
    pub(crate) server: Option<String>,
    /// Whether a watch of it is open.
    pub(crate) watching: bool,
    /// Where the credentials are from.
    pub(crate) credentials: Option<String>,
    /// Why the last request failed, until one succeeds.
    pub(crate) trouble: Option<String>,
    /// Requests so far.
    pub(crate) requests: u64,
    /// Those that no apiserver carried out.
    pub(crate) failures: u64,
}

/// The state of the addresses on a node that never has them.
const WITNESS: &str = "witness";

impl Owner {
    /// Whether this node votes and never has the addresses.
    pub(crate) fn is_witness(&self) -> bool {
        self.state == WITNESS
    }
}

/// Another member of the election.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Peer {
    /// Its name.
    pub(crate) id: String,
    /// Its address.
    pub(crate) address: String,
    /// When it was last heard.
    pub(crate) heard_ms: Option<u64>,
    /// Whether it says that it can serve.
    pub(crate) eligible: Option<bool>,
    /// Its priority.
    pub(crate) priority: Option<u8>,
    /// Whether it says that it votes and never leads.
    #[serde(default)]
    pub(crate) witness: Option<bool>,
    /// Whether it stepped down by command a moment ago, and leaves the lead to others.
    #[serde(default)]
    pub(crate) resting: Option<bool>,
    /// Its version.
    pub(crate) version: Option<String>,
    /// Whether its messages are signed with a peer key.
    pub(crate) authenticated: bool,
    /// Why its messages don't count.
    pub(crate) trouble: Option<String>,
}

/// Where what is told of an election comes from.
#[derive(Clone)]
pub(super) struct OwnerWatch {
    election: &'static str,
    memory_locked: bool,
    moves: watch::Receiver<moves::Moves>,
    interface: String,
    addresses: Vec<String>,
    leadership: watch::Receiver<Leadership>,
    monitor: Monitor,
    /// None on a witness.
    address: Option<vip::driver::Handle>,
    clients: Option<ClientsWatch>,
    tie_break: Option<watch::Receiver<Known>>,
}

#[derive(Clone)]
struct ClientsWatch {
    known: watch::Receiver<leader::peers::Known>,
    done: watch::Receiver<Done>,
}

impl OwnerWatch {
    /// Begins to watch the elections that this node takes part in, and the addresses if it can have them.
    pub(super) fn all(parts: &Parts) -> Vec<Self> {
        let of_owner = |owner| Self::of_owner(owner, parts.memory_locked);
        let of_witness = |witness| Self::of_witness(witness, parts.memory_locked);
        parts.owners.iter().map(of_owner).chain(parts.witnesses.iter().map(of_witness)).collect()
    }

    fn of_owner(owner: &owner::Owner, memory_locked: bool) -> Self {
        let clients = owner.monitor.clients().zip(owner.clients());
        Self {
            election: owner.monitor.kind(),
            memory_locked,
            moves: owner.moves.subscribe(),
            interface: owner.interface.clone(),
            addresses: owner.addresses.iter().map(ToString::to_string).collect(),
            leadership: owner.election.leadership(),
            monitor: owner.monitor.clone(),
            address: Some(owner.address.clone()),
            clients: clients.map(|(exchange, done)| ClientsWatch { known: exchange.known(), done }),
            tie_break: owner.tie_break.clone(),
        }
    }

    fn of_witness(witness: &Witness, memory_locked: bool) -> Self {
        Self {
            election: witness.monitor.kind(),
            memory_locked,
            moves: witness.moves.subscribe(),
            interface: String::new(),
            addresses: witness.addresses.iter().map(ToString::to_string).collect(),
            leadership: witness.election.leadership(),
            monitor: witness.monitor.clone(),
            address: None,
            clients: None,
            tie_break: None,
        }
    }

    pub(super) fn snapshot(&self, node: &str, now: Instant) -> Owner {
        let leadership = self.leadership.borrow().clone();
        let left = leadership.lease_end(now).map(|until| millis(until - now));
        let (leader, term) = match leadership {
            Leadership::Leader { term, .. } if left.is_some() => (Some(node.to_owned()), Some(term.0)),
            Leadership::Leader { .. } => (None, None),
            Leadership::Follower { leader } => (leader.map(|leader| leader.to_string()), None),
        };
        let moves = self.moves.borrow();
        let status = self.address.as_ref().map(vip::driver::Handle::status);
        let status = status.as_ref();
        let (peers, lease) = match &self.monitor {
            Monitor::Peers(monitor) => {
                (monitor.peers().borrow().iter().map(|peer| self::peer(peer, now)).collect(), None)
            }
            Monitor::Lease(monitor) => (Vec::new(), Some(lease(&monitor.status().borrow()))),
        };
        Owner {
            leader,
            election: self.election.to_owned(),
            transitions: moves.transitions(),
            moves: moves.recent().rev().map(|this| Move::of(this, now)).collect(),
            arrivals: Arrivals::of(moves.tally()),
            term,
            lease_left_ms: left,
            interface: self.interface.clone(),
            link_up: self.address.as_ref().is_none_or(|address| *address.link_up().borrow()),
            addresses: self.addresses.clone(),
            state: self.address.as_ref().map_or_else(
                || WITNESS.to_owned(),
                |address| format!("{:?}", *address.state().borrow()).to_lowercase(),
            ),
            // On a witness there is nothing to be fenced off.
            fenced: status.is_none_or(|status| status.fenced),
            memory_locked: self.memory_locked,
            repairs: status.map_or(0, |status| status.repairs),
            announcements: status.map_or(0, |status| status.announcements),
            conflicts: status.map_or(0, |status| status.conflicts),
            peers,
            clients: self.clients.as_ref().map(ClientsWatch::snapshot),
            lease,
            tie_break: self.tie_break(now),
        }
    }

    fn tie_break(&self, now: Instant) -> Option<TieBreak> {
        let known = self.tie_break.as_ref()?.borrow().clone();
        let arbitration = match &self.monitor {
            Monitor::Peers(monitor) => *monitor.arbitration().borrow(),
            Monitor::Lease(_) => Arbitration::default(),
        };
        Some(TieBreak {
            rule: known.rule.to_string(),
            address: known.address.map(|ip| ip.to_string()),
            answers: known.answers,
            needed: arbitration.looks.is_some(),
            votes_for_this_node: arbitration.leads_until.is_some_and(|until| now < until),
        })
    }
}

impl ClientsWatch {
    fn snapshot(&self) -> Clients {
        let (known, done) = (*self.known.borrow(), self.done.borrow().clone());
        Clients { own: known.own, beyond_limit: done.beyond, of_leader: known.heard, tickles: done.tickles }
    }
}

fn lease(status: &leader::kubernetes::Status) -> Lease {
    Lease {
        name: status.lease.clone(),
        identity: status.identity.to_string(),
        holder: status.holder.clone(),
        transitions: status.transitions,
        server: status.server.map(|server| server.to_string()),
        watching: status.watching,
        credentials: status.credentials.clone(),
        trouble: status.trouble.clone(),
        requests: status.requests,
        failures: status.failures,
    }
}

fn peer(status: &PeerStatus, now: Instant) -> Peer {
    let said = status.said.as_ref();
    Peer {
        id: status.id.to_string(),
        address: status.address.to_string(),
        heard_ms: status.heard.map(|heard| millis(now.saturating_duration_since(heard))),
        eligible: said.map(|said| said.eligible),
        priority: said.map(|said| said.priority),
        witness: said.map(|said| said.witness),
        resting: said.map(|said| said.resting),
        version: said.map(|said| said.version.to_string()),
        authenticated: status.authenticated,
        trouble: status.mismatch.as_ref().map(ToString::to_string),
    }
}
