//! A member among two peers that say what the bytes have them say, in sessions or out of them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{KEY_ID, key, node, signed};
use crate::Leadership;
use crate::Timing;
use crate::clients::{CLIENTS_MAX, Change, Client};
use crate::member::{Config, Member};
use crate::node::Incarnation;
use crate::notes::NOTE_BYTES_MAX;
use crate::quorum::{self, Segment};
use crate::wire::{DATAGRAM_BYTES_MAX, ELECTION_BYTES_MAX, Envelope, Key, Payload};

const NAMES: [&str; 3] = ["master-1", "master-2", "master-3"];
/// The member's own process.
const OWN: u64 = 7;
/// Steps of one conversation.
const STEPS_MAX: usize = 256;
/// What one datagram can lead to: an answer to each peer, a request or a release to each, chapters and notes.
const SENT_MAX: usize = 4096;
/// Bytes that a peer's name, the members and a signature may add to a datagram.
const ADDED: usize = 80;
/// Timeouts that are due at one time.
const DUE_MAX: usize = 64;

/// A peer as the bytes play it.
struct Peer {
    name: &'static str,
    incarnation: u64,
    sequence: u64,
}

/// What the bytes say next.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    /// A piece with its length before it, or what is left.
    fn piece(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte().unwrap_or(0)) << 2 | usize::from(self.byte().unwrap_or(0)) & 3;
        let (piece, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        piece
    }
}

struct Scene {
    member: Member,
    keys: Vec<Key>,
    peers: [Peer; 2],
    lease: Duration,
    now: Instant,
}

fn at(place: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1 + u8::try_from(place).unwrap_or(u8::MAX)], 10_000))
}

/// A conversation: its first byte says with which keys and timing, each step who says what, and how much later.
///
/// A lease never reaches beyond its length; what is sent can be read; time is always told when to come back, and later than now; and what
/// is remembered has its bounds.
pub fn conversation(bytes: &[u8]) {
    let mut script = Script(bytes);
    let Some(choice) = script.byte() else { return };
    let mut scene = Scene::new(choice);
    for _ in 0..STEPS_MAX {
        let (Some(what), Some(later)) = (script.byte(), script.byte()) else { return };
        // Some steps are far apart: beyond leases, and beyond what is remembered.
        let unit = if what & 0x80 == 0 { Duration::from_millis(1) } else { Duration::from_secs(1) };
        scene.pass(unit * u32::from(later));
        scene.step(what, &mut script);
        scene.drain();
        scene.look();
    }
}

impl Scene {
    fn new(choice: u8) -> Self {
        let now = crate::clock::now();
        let keys = if choice & 1 == 1 { vec![key()] } else { Vec::new() };
        let timing = [Timing::FAST, Timing::DEFAULT, Timing::RELAXED][usize::from(choice >> 1 & 3).min(2)];
        let config = Config {
            quorum: quorum::Config {
                me: node(NAMES[0]),
                members: NAMES.iter().map(|name| node(name)).collect(),
                witnesses: BTreeSet::new(),
                timing,
                priority: 100,
                preempt: choice & 8 == 8,
                preempt_delay: Duration::from_millis(200),
                start_as_leader: choice & 16 == 16,
                tie_break: None,
            },
            subject: None,
            listen: at(0),
            peers: [1, 2].map(|place| (node(NAMES[place]), at(place))).into(),
            keys: keys.clone(),
            version: "0.1.0".to_owned(),
        };
        let member = Member::new(&config, OWN, u64::from(choice), now).expect("a member can be made of it");
        let peers = [1, 2].map(|place| Peer { name: NAMES[place], incarnation: 100, sequence: 0 });
        Self { member, keys, peers, lease: timing.lease(), now }
    }

    /// Lets time pass, with what is due on the way.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..DUE_MAX {
            let due = [self.member.election.poll_timeout(), self.member.poll_timeout(self.now)];
            let Some(due) = due.into_iter().flatten().min().filter(|due| *due <= end) else { break };
            self.now = self.now.max(due);
            self.member.election.handle_timeout(self.now);
            self.drain();
            let next = self.member.election.poll_timeout();
            assert!(next.is_none_or(|next| next > self.now), "it is due again at once");
        }
        self.now = end;
        self.member.election.handle_timeout(self.now);
        self.drain();
    }

    fn step(&mut self, what: u8, script: &mut Script<'_>) {
        let who = usize::from(what >> 2 & 1);
        match what & 3 {
            // Bytes as they are, from a peer or a stranger.
            0 => {
                let from = if what & 8 == 8 { at(7) } else { at(1 + who) };
                self.member.handle_datagram(from, script.piece(), self.now);
            }
            // What they mean, from a peer that lives, and in its session.
            1 | 2 => self.say(who, script.piece(), what),
            _ => self.change(what, who),
        }
    }

    /// What happens on this side, or to a peer's process.
    fn change(&mut self, what: u8, who: usize) {
        match what >> 3 & 7 {
            0 => self.member.election.set_eligible(false, self.now),
            1 => self.member.election.set_eligible(true, self.now),
            2 => self.member.election.set_segment(Segment::Free, self.now),
            3 => {
                let peer = &mut self.peers[who];
                (peer.incarnation, peer.sequence) = (peer.incarnation + 1, 0);
            }
            4 => self.member.tell_note(&[what; 2000]),
            5 => drop(self.member.inherit_clients(self.now)),
            6 => self.member.clear_clients(),
            _ => {
                let client = Client::new(&[what, 1]).expect("short enough");
                self.member.note_clients([Change::Came(client)]);
            }
        }
    }

    /// Has a peer say what is in these bytes, with its own name and numbers on it; or these bytes, where they say nothing.
    fn say(&mut self, who: usize, content: &[u8], what: u8) {
        let from = at(1 + who);
        let name = node(self.peers[who].name);
        let mut datagram = Vec::new();
        match Envelope::open(content, &[], &name) {
            Ok(mut envelope) => {
                let peer = &mut self.peers[who];
                peer.sequence += u64::from(what & 8 == 0);
                envelope.from.node = name;
                envelope.from.incarnation = Incarnation(peer.incarnation);
                envelope.to = Some(Incarnation(OWN));
                envelope.sequence = peer.sequence;
                // Others would be members of another election.
                envelope.subject = None;
                if what & 16 == 0 {
                    envelope.gossip.members = self.member.election.gossip(self.now).members;
                }
                let is_long = matches!(envelope.payload, Payload::Clients(_) | Payload::Note(_));
                // Its name and a signature are more than there may have been.
                if content.len() + ADDED <= if is_long { DATAGRAM_BYTES_MAX } else { ELECTION_BYTES_MAX } {
                    envelope.emit(&self.keys, &mut datagram);
                }
            }
            Err(_) if self.keys.is_empty() => datagram.extend_from_slice(content),
            Err(_) => datagram = signed(content),
        }
        self.member.handle_datagram(from, &datagram, self.now);
    }

    /// Takes what the member sends. A peer that is asked whether it lives says so.
    fn drain(&mut self) {
        while self.member.election.poll_event().is_some() {}
        while self.member.poll_complaint().is_some() {}
        let mut out = Vec::new();
        for _ in 0..SENT_MAX {
            out.clear();
            let Some(to) = self.member.poll_datagram(self.now, &mut out) else { return };
            assert!(out.len() <= DATAGRAM_BYTES_MAX, "{} bytes", out.len());
            let who = [at(1), at(2)].iter().position(|peer| *peer == to).expect("it is sent to a peer");
            let envelope = Envelope::open(&out, &self.keys, &node(NAMES[0])).expect("a peer can read it");
            assert_eq!(envelope.from.incarnation, Incarnation(OWN));
            if let Payload::Hello { challenge } = envelope.payload {
                self.welcome(who, envelope, challenge);
            }
        }
        panic!("there is no end of what is sent");
    }

    fn welcome(&mut self, who: usize, heard: Envelope, echo: u64) {
        let peer = &mut self.peers[who];
        peer.sequence += 1;
        let mut envelope = heard;
        envelope.from.node = node(peer.name);
        envelope.from.incarnation = Incarnation(peer.incarnation);
        envelope.to = Some(Incarnation(OWN));
        envelope.sequence = peer.sequence;
        envelope.gossip.leading = false;
        envelope.payload = Payload::Welcome { echo };
        let mut datagram = Vec::new();
        envelope.emit(&self.keys, &mut datagram);
        assert_eq!(datagram.get(1), Some(&if self.keys.is_empty() { 0 } else { KEY_ID }));
        self.member.handle_datagram(at(1 + who), &datagram, self.now);
    }

    /// What must hold at any time.
    fn look(&mut self) {
        match self.member.election.leadership(self.now) {
            Leadership::Leader { until, .. } => {
                assert!(until <= self.now + self.lease, "a lease that is longer than it is");
            }
            Leadership::Follower { leader } => {
                assert!(leader.is_none_or(|leader| leader.as_str() != NAMES[0]), "it follows itself");
            }
        }
        let known = self.member.clients();
        // Those of the book, and those of whom it says later that they went.
        assert!(known.own <= CLIENTS_MAX && known.heard <= 2 * CLIENTS_MAX, "{known:?}");
        for note in self.member.poll_notes().into_iter().flat_map(std::collections::BTreeMap::into_values) {
            assert!(note.bytes.len() <= NOTE_BYTES_MAX);
        }
        assert_eq!(self.member.peers().len(), 2);
    }
}
