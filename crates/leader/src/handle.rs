//! The two ends of an election's driver: the rest of the program's, and its own.
//!
//! ```text
//!   Handle ── wishes (watch), commands (mpsc) ──▶ ┌──────┐
//!   Handle ◀─ leadership (watch) ──────────────── │ Desk │ of the driver
//!                                                 └──────┘
//! ```

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    Leadership, NodeId,
    quorum::{Segment, Sight, StepDownError},
};

/// Commands are rare, and each asker waits for its answer: a few may ask at the same time.
const COMMANDS_MAX: usize = 8;

/// What the rest of the program wishes, as levels: the driver sees the latest, and none is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wishes {
    pub(crate) eligible: bool,
    /// Another node that is fit to lead, as far as the program knows; an election that hears of it itself needs no hint.
    pub(crate) successor: Option<NodeId>,
    pub(crate) segment: Segment,
    /// How often the segment was probed: an answer that is the same again is news all the same.
    pub(crate) probes: u64,
    /// What is to stand on the Lease while this node holds it.
    pub(crate) remark: Option<Arc<str>>,
    /// The turn in which nothing was held; see [`Handle::confirm_standby`].
    standby_in: u64,
}

/// What somebody waits for.
pub(crate) enum Command {
    StepDown { to: Option<NodeId>, answer: oneshot::Sender<Result<Option<NodeId>, StepDownError>> },
    Shutdown(oneshot::Sender<()>),
    Saw(Sight),
}

/// The rest of the program's end of an election. Clones speak to the same driver; it stops when the last is gone.
#[derive(Clone, Debug)]
pub struct Handle {
    leadership: watch::Receiver<Leadership>,
    /// Counts how often `leadership` turned from follower to leader or back; changed under its lock only.
    turns: Arc<AtomicU64>,
    wishes: Arc<watch::Sender<Wishes>>,
    commands: mpsc::Sender<Command>,
}

impl Handle {
    /// Who leads, as it changes. The end of a lease is in the value: silence is loss.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// Says whether this node is fit to lead. It is until told otherwise.
    pub fn set_eligible(&self, eligible: bool) {
        self.wish(|wishes| std::mem::replace(&mut wishes.eligible, eligible) != eligible);
    }

    /// Says which other node is fit to lead, where the election has no way to know.
    pub fn set_successor(&self, successor: Option<NodeId>) {
        self.wish(|wishes| {
            let changed = wishes.successor != successor;
            wishes.successor = successor;
            changed
        });
    }

    /// Says what is to stand on the Lease, for people, while this node holds it. It is written with the next renewal, and costs no
    /// request. Without effect on an election without a Lease.
    pub fn set_remark(&self, remark: Option<&str>) {
        self.wish(|wishes| {
            let changed = wishes.remark.as_deref() != remark;
            if changed {
                wishes.remark = remark.map(Arc::from);
            }
            changed
        });
    }

    /// Says what a probe for the virtual address has found just now.
    pub fn set_segment(&self, segment: Segment) {
        self.wish(|wishes| {
            wishes.segment = segment;
            wishes.probes += 1;
            true
        });
    }

    /// Says what a look at the segment has shown, in the order in which they were begun. Waits while the driver is busy, as none
    /// may be passed over. Without effect on an election without a tie-break.
    pub async fn saw(&self, sight: Sight) {
        // A driver that is gone needs no sight.
        let _gone = self.commands.send(Command::Saw(sight)).await;
    }

    /// Says that nothing of the address is left on this machine. Without effect while this node leads.
    ///
    /// To be called whenever this node is a follower and holds nothing, at the latest after a withdrawal; once more does
    /// no harm. A leader that steps down releases its lease only then.
    pub fn confirm_standby(&self) {
        // Read together, so that a confirmation isn't taken for one of a later lease.
        let leadership = self.leadership.borrow();
        let turn = self.turns.load(Ordering::Relaxed);
        let follower = matches!(*leadership, Leadership::Follower { .. });
        drop(leadership);
        if follower {
            self.wish(|wishes| std::mem::replace(&mut wishes.standby_in, turn) != turn);
        }
    }

    /// Hands over to another node by command, to the one that is named if one is, and leaves the lead to others for a while;
    /// gives the likely successor, if one is known, once this node is a follower.
    ///
    /// # Errors
    ///
    /// If this node doesn't lead, or nobody could take over, or not the one that is named. Nothing has changed then.
    pub async fn step_down(&self, to: Option<NodeId>) -> Result<Option<NodeId>, StepDownError> {
        let (answer, answered) = oneshot::channel();
        let sent = self.commands.send(Command::StepDown { to, answer }).await;
        sent.map_err(|_| StepDownError::Stopped)?;
        answered.await.unwrap_or(Err(StepDownError::Stopped))
    }

    /// Hands over if this node leads, then stops for good. Comes back when the lease is released, and within a bound. The
    /// driver's `run` has ended then, or is about to.
    pub async fn shutdown(&self) {
        let (done, finished) = oneshot::channel();
        if self.commands.send(Command::Shutdown(done)).await.is_ok() {
            // An answer that was dropped says the same: the driver is gone.
            let _gone = finished.await;
        }
    }

    fn wish(&self, change: impl FnOnce(&mut Wishes) -> bool) {
        self.wishes.send_if_modified(change);
    }
}

/// What the rest of the program has to say.
pub(crate) enum Word {
    /// Its wishes have changed.
    Wishes,
    /// It waits for something.
    Command(Command),
    /// The last handle is gone, and with it whoever acted upon this election.
    Gone,
}

/// The driver's end.
#[derive(Debug)]
pub(crate) struct Desk {
    leadership: watch::Sender<Leadership>,
    turns: Arc<AtomicU64>,
    wishes: watch::Receiver<Wishes>,
    commands: mpsc::Receiver<Command>,
}

impl Desk {
    /// Both ends, before anybody leads.
    pub(crate) fn open() -> (Self, Handle) {
        let turns = Arc::new(AtomicU64::new(1));
        let (leadership, leadership_seen) = watch::channel(Leadership::Follower { leader: None });
        let wishes = Wishes {
            eligible: true,
            successor: None,
            segment: Segment::Unknown,
            probes: 0,
            remark: None,
            standby_in: 0,
        };
        let (wish, wishes) = watch::channel(wishes);
        let (command, commands) = mpsc::channel(COMMANDS_MAX);
        let handle = Handle {
            leadership: leadership_seen,
            turns: turns.clone(),
            wishes: Arc::new(wish),
            commands: command,
        };
        (Self { leadership, turns, wishes, commands }, handle)
    }

    /// Waits for the next word. May be cancelled: nothing is taken before it returns.
    pub(crate) async fn next(&mut self) -> Word {
        tokio::select! {
            biased;
            command = self.commands.recv() => command.map_or(Word::Gone, Word::Command),
            wishes = self.wishes.changed() => wishes.map_or(Word::Gone, |()| Word::Wishes),
        }
    }

    /// The latest wishes.
    pub(crate) fn wishes(&mut self) -> Wishes {
        self.wishes.borrow_and_update().clone()
    }

    /// Whether nothing is held since this node last ceased to lead.
    pub(crate) fn is_standby(&self, wishes: &Wishes) -> bool {
        wishes.standby_in >= self.turns.load(Ordering::Relaxed)
    }

    /// Tells who leads; says whether that is news.
    pub(crate) fn publish(&self, leadership: Leadership) -> bool {
        let turns = &self.turns;
        self.leadership.send_if_modified(|published| {
            if *published == leadership {
                return false;
            }
            if std::mem::discriminant(published) != std::mem::discriminant(&leadership) {
                turns.fetch_add(1, Ordering::Relaxed);
            }
            *published = leadership;
            true
        })
    }
}

/// Those who wait for a process to leave, and until when they do.
#[derive(Debug)]
pub(crate) struct Leaving {
    pub(crate) deadline: std::time::Instant,
    pub(crate) done: Vec<oneshot::Sender<()>>,
}

impl Leaving {
    /// Answers all of them.
    pub(crate) fn answer(self) {
        for done in self.done {
            // Whoever asked may have gone.
            let _gone = done.send(());
        }
    }
}

#[cfg(test)]
mod tests;
