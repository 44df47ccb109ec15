//! What the Kubernetes API is told of the addresses: an Event for each move, a label on the owner's Node, a remark on the Lease.
//!
//! ```text
//!   main loop   moves, state, conflicts, repairs ──▶ Story ──▶ Ration ──▶ queue ─┐      remark ──▶ leader::Handle, with a renewal
//!   thread      state of the address ──────────────────────────▶ label ──▶ Recorder ◀─┘ ──▶ API
//! ```
//!
//! Nothing is decided by it and nobody waits for it: what is sent is sent by a thread of its own, of ordinary priority, since a TLS handshake
//! costs milliseconds that an election doesn't have. What can't be written is tried again a few times, then counted and left out.

mod label;
mod ration;
mod story;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use leader::kubernetes::Event;
use leader::lease::Stamp;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::sleep;
use tracing::{debug, warn};

use self::ration::Ration;
use self::story::{Story, Told};
use self::writer::Writer;
use super::moves::Moves;
use super::notes::changed;
use super::owner::{Monitor, Owner};
use crate::config;

/// Changes that come in flocks are looked at together, after so long: somebody who claims an address without end costs the main loop twenty
/// looks a second at most.
const GATHERING: Duration = Duration::from_millis(50);

/// Events that wait to be written. The ration lets no more come in a minute while the API is away.
const QUEUE_MAX: usize = 32;

/// How many Events were not written since the last that was.
#[derive(Clone, Debug, Default)]
struct Unwritten(Arc<AtomicU64>);

impl Unwritten {
    fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// So many were told of.
    fn settle(&self, count: u64) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }
}

/// What tells the API.
pub(super) struct Record {
    /// Dropped to have the observer look once more, and end.
    stop: watch::Sender<()>,
    observing: JoinHandle<()>,
    writer: Option<Writer>,
}

impl Record {
    /// Begins, where anything is to be told. vipd does its work without: what can't be had is warned about, and left out.
    pub(super) fn start(wanted: Option<config::Record>, owners: &[Owner]) -> Option<Self> {
        let by_lease = owners.iter().any(|owner| matches!(owner.monitor, Monitor::Lease(_)));
        if owners.is_empty() || (wanted.is_none() && !by_lease) {
            return None;
        }
        let unwritten = Unwritten::default();
        let (queue, events) = mpsc::channel(QUEUE_MAX);
        let of = wanted.as_ref().filter(|wanted| wanted.events).map(|wanted| Of {
            node: wanted.node.clone(),
            lease: wanted.lease.clone(),
            queue,
            unwritten: unwritten.clone(),
        });
        let writer = wanted.and_then(|wanted| {
            let started = Writer::start(wanted, owners, events, unwritten);
            started
                .inspect_err(
                    |error| warn!(%error, "the API is told nothing: failed to start the thread that does"),
                )
                .ok()
        });
        let (stop, stopped) = watch::channel(());
        let observer = Observer {
            seats: owners.iter().map(Seat::of).collect(),
            of,
            ration: Ration::new(leader::clock::now()),
            serial: 0,
        };
        Some(Self { stop, observing: spawn_local(observer.run(stopped)), writer })
    }

    /// Leaves the label as it is from now on: another process of this node looks after it.
    pub(super) fn leave_label(&self) {
        if let Some(writer) = &self.writer {
            writer.leave_label();
        }
    }

    /// Has the last of it told, and ends; waits for no longer than a moment.
    pub(super) async fn stop(self) {
        drop(self.stop);
        // It looks once more, and waits for nothing.
        let _ = self.observing.await;
        if let Some(writer) = self.writer {
            writer.stop().await;
        }
    }
}

/// Whom Events are about, and where they go.
struct Of {
    node: String,
    lease: Option<(String, String)>,
    queue: mpsc::Sender<Event>,
    unwritten: Unwritten,
}

/// The addresses of one election, as they are watched.
struct Seat {
    story: Story,
    moves: watch::Receiver<Moves>,
    state: watch::Receiver<vip::State>,
    conflicts: watch::Receiver<u64>,
    repairs: watch::Receiver<u64>,
    address: vip::driver::Handle,
    election: leader::Handle,
}

impl Seat {
    fn of(owner: &Owner) -> Self {
        Self {
            story: Story::new(crate::listed(&owner.addresses), owner.interface.clone()),
            moves: owner.moves.subscribe(),
            state: owner.address.state(),
            conflicts: owner.address.conflict(),
            repairs: owner.address.repairs(),
            address: owner.address.clone(),
            election: owner.election.clone(),
        }
    }

    /// Waits for a change. Cancel-safe: what changes is kept until it is waited for again.
    async fn changed(&mut self) {
        tokio::select! {
            () = changed(&mut self.moves) => {}
            () = changed(&mut self.state) => {}
            () = changed(&mut self.conflicts) => {}
            () = changed(&mut self.repairs) => {}
        }
    }
}

/// The part on the main loop: it looks, and never waits for anything but a change.
struct Observer {
    seats: Vec<Seat>,
    /// None where no Events are wanted.
    of: Option<Of>,
    ration: Ration,
    /// Counts Events.
    serial: u16,
}

impl Observer {
    /// Tells what happens until it is to stop. May be cancelled: what has been seen has been passed on.
    async fn run(mut self, mut stopped: watch::Receiver<()>) {
        loop {
            self.look();
            let any =
                futures_util::future::select_all(self.seats.iter_mut().map(|seat| Box::pin(seat.changed())));
            let more = async {
                any.await;
                sleep(GATHERING).await;
            };
            tokio::select! {
                // There are no values: an error is the order.
                _ = stopped.changed() => break,
                () = more => {}
            }
        }
        self.look();
    }

    fn look(&mut self) {
        let (wall, now) = (leader::clock::stamp(), leader::clock::now());
        for seat in &mut self.seats {
            let seen = seat.address.status();
            let moves = seat.moves.borrow_and_update();
            let told = seat.story.look(&moves, &seen, now);
            let remark = seat.story.remark(&moves, &seen, (wall, now));
            drop(moves);
            seat.election.set_remark(remark.as_deref());
            let Some(of) = &self.of else { continue };
            for told in told {
                self.serial = self.serial.wrapping_add(1);
                if !self.ration.take(told.what.is_move(), now) {
                    of.unwritten.add(1);
                } else if of.queue.try_send(of.event(told, self.serial, (wall, now))).is_err() {
                    debug!("an Event is not written: too many wait");
                    of.unwritten.add(1);
                }
            }
        }
    }
}

impl Of {
    fn event(&self, told: Told, serial: u16, (wall, now): (Stamp, std::time::Instant)) -> Event {
        let ago = i64::try_from(now.saturating_duration_since(told.at).as_micros()).unwrap_or(0);
        Event {
            node: self.node.clone(),
            at: Stamp(wall.0.saturating_sub(ago)),
            serial,
            weight: told.weight,
            reason: told.what.reason(),
            action: told.what.action(),
            note: told.note,
            lease: self.lease.clone(),
        }
    }
}
