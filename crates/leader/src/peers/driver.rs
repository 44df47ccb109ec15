//! The loop around a [`Member`].

use std::{
    collections::BTreeMap,
    pin::pin,
    time::{Duration, Instant},
};

use tokio::time::sleep_until;
use tracing::{debug, info, trace, warn};

use super::flood::Floods;
use super::*;
use crate::{
    Leadership, NodeId,
    clock::{due, now},
    exchange::{Complaint, Dropped},
    handle::{Command, Desk, Handle, Leaving, Word},
    quorum::{Arbitration, Event},
    wire::DATAGRAM_BYTES_MAX,
};

/// Datagrams taken per wake-up, before timers and the other tasks have their turn: more than 14 peers send in a
/// heartbeat, few enough that a flood can't hold up a renewal.
const BATCH_MAX: usize = 64;

/// How stale the peers' status may be.
const STATUS_INTERVAL: Duration = Duration::from_millis(250);

/// The task that runs one member: it waits, feeds the machine, and does what comes out.
///
/// It waits on the socket, on one deadline, on wishes, commands and errands. It sends datagrams, publishes [`Leadership`]
/// and the peers' status, and writes one log line per change. Nothing in it blocks: a datagram that can't be sent at once
/// is lost; and nothing in it takes memory once the peers are there. It may be cancelled at any point; then its lease lapses by itself.
#[derive(Debug)]
pub struct Driver {
    socket: UdpSocket,
    member: Member,
    desk: Desk,
    peers: watch::Sender<Vec<PeerStatus>>,
    traffic: watch::Sender<Traffic>,
    errands: mpsc::Receiver<Errand>,
    clients: watch::Sender<Known>,
    arbitration: watch::Sender<Arbitration>,
    notes: watch::Sender<BTreeMap<NodeId, Note>>,
    leaving: Option<Leaving>,
    status_due: Instant,
    counted: Traffic,
    floods: Floods,
    /// Where a datagram is written before it is sent; empty in between.
    datagram: Vec<u8>,
}

/// What the loop waits for.
enum Woken {
    Readable(io::Result<()>),
    Deadline,
    Word(Word),
    Errand(Errand),
}

impl Driver {
    /// Listens for peers. The incarnation is a random number, another one at each start of the process; the seed is
    /// for the small random waits.
    ///
    /// # Errors
    ///
    /// If the configuration makes no member, or the socket can't be had.
    pub async fn bind(config: Config, incarnation: u64, seed: u64) -> Result<(Self, Handle, Monitor), Error> {
        let now = now();
        let member = Member::new(&config, incarnation, seed, now)?;
        let socket = UdpSocket::bind(config.listen)
            .await
            .map_err(|source| Error::Bind { address: config.listen, source })?;
        let (desk, handle) = Desk::open();
        let (peers, peers_seen) = watch::channel(member.peers());
        let (traffic, traffic_seen) = watch::channel(Traffic::default());
        let (errand, errands) = mpsc::channel(ERRANDS_MAX);
        let (clients, known) = watch::channel(Known::default());
        let (notes, heard) = watch::channel(BTreeMap::new());
        let notes_seen = Notes { errands: errand.clone(), heard };
        let clients_seen = Clients { errands: errand, known };
        let (arbitration, arbitration_seen) = watch::channel(Arbitration::default());
        let monitor = Monitor {
            peers: peers_seen,
            traffic: traffic_seen,
            clients: clients_seen,
            arbitration: arbitration_seen,
            notes: notes_seen,
        };
        let driver = Self {
            socket,
            member,
            desk,
            peers,
            traffic,
            errands,
            clients,
            arbitration,
            notes,
            leaving: None,
            status_due: now,
            counted: Traffic::default(),
            floods: Floods::default(),
            datagram: Vec::with_capacity(DATAGRAM_BYTES_MAX),
        };
        Ok((driver, handle, monitor))
    }

    /// Takes part in the election until it is shut down, or nobody is left to tell.
    ///
    /// # Errors
    ///
    /// If the socket breaks. The lease lapses by itself then.
    pub async fn run(mut self) -> Result<(), Error> {
        loop {
            self.drain(now());
            if self.has_left(now()) {
                return Ok(());
            }
            let deadline = self.deadline();
            let woken = {
                let timeout = pin!(sleep_until(due(deadline)));
                tokio::select! {
                    // What comes from outside first: a grant that has arrived counts before the lease it extends ends.
                    biased;
                    word = self.desk.next() => Woken::Word(word),
                    // Few and short, so that they wait for no flood of datagrams.
                    Some(errand) = self.errands.recv() => Woken::Errand(errand),
                    readable = self.socket.readable() => Woken::Readable(readable),
                    () = timeout => Woken::Deadline,
                }
            };
            match woken {
                Woken::Readable(readable) => {
                    readable.map_err(Error::Socket)?;
                    self.receive();
                }
                Woken::Deadline => {}
                Woken::Word(Word::Wishes) => self.heed_wishes(),
                Woken::Word(Word::Command(command)) => self.obey(command),
                Woken::Word(Word::Gone) => return Ok(()),
                Woken::Errand(errand) => self.run_errand(errand),
            }
            // Under a flood the socket is always readable; what is due is done all the same.
            let now = now();
            if self.member.election.poll_timeout().is_some_and(|at| at <= now) {
                self.member.election.handle_timeout(now);
            }
        }
    }

    fn deadline(&self) -> Instant {
        let deadlines = [
            self.member.election.poll_timeout(),
            self.member.poll_timeout(now()),
            self.leaving.as_ref().map(|leaving| leaving.deadline),
        ];
        deadlines.into_iter().flatten().fold(self.status_due, Instant::min)
    }

    /// Takes the datagrams that have arrived.
    fn receive(&mut self) {
        // One more than allowed, so that a longer datagram is seen as such.
        let mut buffer = [0; DATAGRAM_BYTES_MAX + 1];
        for _ in 0..BATCH_MAX {
            match self.socket.try_recv_from(&mut buffer) {
                Ok((len, from)) => {
                    let now = now();
                    self.counted.received += 1;
                    trace!(%from, len, "datagram");
                    self.member.handle_datagram(from, &buffer[..len], now);
                    self.drain(now);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // An ICMP answer to something sent before, such as "port unreachable": the peer isn't up.
                Err(error) => trace!(%error, "datagram failed"),
            }
        }
    }

    fn heed_wishes(&mut self) {
        let now = now();
        let wishes = self.desk.wishes();
        self.member.election.set_eligible(wishes.eligible, now);
        self.drain(now);
        self.member.election.set_segment(wishes.segment, now);
        self.drain(now);
        if self.desk.is_standby(&wishes) {
            self.member.election.confirm_standby(now);
            self.drain(now);
        }
    }

    /// What it leads to is sent with the next drain.
    fn run_errand(&mut self, errand: Errand) {
        match errand {
            Errand::Tell(changes) => self.member.note_clients(changes),
            Errand::Note(note) => self.member.tell_note(&note),
            Errand::Clear => self.member.clear_clients(),
            Errand::Inherit(answer) => {
                // Whoever asked may have gone; it has no clients to tell any more.
                let _gone = answer.send(self.member.inherit_clients(now()).unwrap_or_default());
            }
        }
    }

    fn obey(&mut self, command: Command) {
        let now = now();
        match command {
            Command::StepDown { to, answer } => {
                let outcome = self.member.election.step_down(to.as_ref(), now).map(Some);
                self.drain(now);
                // Whoever asked may have gone; what was asked is done.
                let _gone = answer.send(outcome);
            }
            Command::Shutdown(done) => {
                let deadline = now + self.member.election.lease();
                let leaving = self.leaving.get_or_insert(Leaving { deadline, done: Vec::new() });
                leaving.done.push(done);
                self.member.election.stop(now);
                self.drain(now);
            }
            Command::Saw(sight) => {
                self.member.election.handle_sight(sight, now);
                self.drain(now);
            }
        }
    }

    fn has_left(&mut self, now: Instant) -> bool {
        let left = self
            .leaving
            .as_ref()
            .is_some_and(|leaving| leaving.deadline <= now || self.member.election.has_left(now));
        if left && let Some(leaving) = self.leaving.take() {
            leaving.answer();
        }
        left
    }

    /// Does all that the last input led to. Leadership first: it is what others wait for.
    fn drain(&mut self, now: Instant) {
        self.publish(now);
        while let Some(to) = self.member.poll_datagram(now, &mut self.datagram) {
            match self.socket.try_send_to(&self.datagram, to) {
                Ok(_) => self.counted.sent += 1,
                Err(error) => {
                    self.counted.unsent += 1;
                    trace!(%to, %error, "failed to send a datagram");
                }
            }
            self.datagram.clear();
        }
        let arbitration = self.member.election.arbitration(now);
        self.arbitration.send_if_modified(|known| std::mem::replace(known, arbitration) != arbitration);
        if let Some(notes) = self.member.poll_notes() {
            self.notes.send_replace(notes);
        }
        let mut changed = false;
        while let Some(event) = self.member.election.poll_event() {
            changed = true;
            log(&event);
        }
        while let Some(Complaint { peer, mismatch }) = self.member.poll_complaint() {
            changed = true;
            warn!(%peer, "peer {mismatch}");
        }
        if changed || self.status_due <= now {
            self.status_due = now + STATUS_INTERVAL;
            self.peers.send_modify(|peers| self.member.tell_peers(peers));
            let dropped = self.member.dropped();
            self.traffic.send_replace(Traffic { dropped, ..self.counted });
            if let Some(flood) = self.floods.look(dropped, now) {
                tell_flood(flood);
            }
            self.clients.send_if_modified(|known| {
                let now = self.member.clients();
                std::mem::replace(known, now) != now
            });
        }
    }

    fn publish(&mut self, now: Instant) {
        let leadership = self.member.election.leadership(now);
        if self.desk.publish(leadership.clone())
            && let Leadership::Follower { leader: Some(leader) } = &leadership
        {
            info!(%leader, "follows");
        }
    }
}

fn tell_flood(flood: Dropped) {
    let Dropped { strangers, unreadable, stale, latest } = flood;
    let latest = latest.map(tracing::field::display);
    warn!(
        strangers,
        unreadable,
        stale,
        latest,
        "datagrams that are no peer's, or old ones, flood the peers' port: they are dropped. A firewall may let the peers alone use it"
    );
}

/// Writes a change down, once.
fn log(event: &Event) {
    match event {
        Event::Elected { term, alone } => info!(%term, alone, "became leader"),
        Event::SegmentVoted { term } => {
            info!(%term, "the other node is silent: leads by the vote of the segment");
        }
        Event::Lost { term, loss } => info!(%term, ?loss, "lost leadership"),
        Event::HandingOver { term, cause, to } => {
            info!(%term, ?cause, to = to.as_ref().map(NodeId::as_str), "handing over");
        }
        Event::Released { term, to } => debug!(%term, to = to.as_ref().map(NodeId::as_str), "released"),
        Event::PeerHeard(peer) => info!(%peer, "peer heard"),
        Event::PeerLost(peer) => info!(%peer, "peer lost"),
    }
}
