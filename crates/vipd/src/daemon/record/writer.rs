//! The thread that writes to the API: it waits for answers, which nobody else does.

use std::io;
use std::net::IpAddr;
use std::thread::JoinHandle;
use std::time::Duration;

use leader::kubernetes::{Event, RecordError, Recorder};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};
use vip::State;

use super::super::owner::Owner;
use super::{Unwritten, label};
use crate::config;
use crate::confinement::capabilities;

/// The pauses between the tries of an Event: within a minute, an apiserver that was restarted is back, and an election of etcd over.
const PAUSES: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(8),
    Duration::from_secs(16),
    Duration::from_secs(32),
];

/// The label is written no more often, however often the address moves.
const LABEL_PACE: Duration = Duration::from_secs(2);

/// The pause after nobody has answered.
const LABEL_RETRY: Duration = Duration::from_secs(5);

/// Rights are given by a person.
const LABEL_FORBIDDEN_RETRY: Duration = Duration::from_secs(60);

/// The owner looks again for nodes that have the label: soon after a move, as what the owner before had sent may have come late; then
/// for one that has come back, or on which somebody has put it.
const LABEL_LOOK_SOON: Duration = Duration::from_secs(10);
const LABEL_LOOK_AGAIN: Duration = Duration::from_secs(600);

/// How long the end of the process may wait for what is still to be written.
const FAREWELL: Duration = Duration::from_secs(1);

/// The thread.
pub(super) struct Writer {
    /// Whether the label is another's to look after.
    left: watch::Sender<bool>,
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
    thread: JoinHandle<()>,
}

impl Writer {
    /// Starts it.
    ///
    /// # Errors
    /// There is no thread or event loop to be had.
    pub(super) fn start(
        wanted: config::Record,
        owners: &[Owner],
        events: mpsc::Receiver<Event>,
        unwritten: Unwritten,
    ) -> io::Result<Self> {
        let agent = format!("vipd/{} ({})", env!("CARGO_PKG_VERSION"), wanted.node);
        let config::Record { node, access, events: wants_events, label: wanted_label, .. } = wanted;
        let control_plane = owners.iter().find_map(|owner| owner.monitor.control_plane());
        let recorder = || Recorder::new(access.clone(), &agent, control_plane.clone());
        let telling = wants_events.then(|| Telling {
            recorder: recorder(),
            events,
            current: None,
            unwritten,
            refused: false,
        });
        let state = owners.first().map(|owner| owner.address.state());
        let labelling =
            wanted_label.zip(state).map(|(ip, state)| Labelling::new(recorder(), node, ip, state));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (left, leaving) = watch::channel(false);
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let thread = std::thread::Builder::new().name("vip-record".to_owned()).spawn(move || {
            // It reads what an apiserver, or what has its place, answers.
            capabilities::renounce();
            runtime.block_on(work(telling, labelling, leaving, stopped));
            // Whoever waited may have gone.
            let _ = end.send(());
        })?;
        Ok(Self { left, stop, ended, thread })
    }

    /// Has it leave the label as it is from now on.
    pub(super) fn leave_label(&self) {
        self.left.send_replace(true);
    }

    /// Has what is left written, and ends; waits for no longer than a moment.
    pub(super) async fn stop(self) {
        let Self { left, stop, ended, thread } = self;
        drop(stop);
        // The sender's end is the end.
        let _ = ended.await;
        drop(left);
        if thread.join().is_err() {
            warn!("the thread that tells the API panicked");
        }
    }
}

/// Writes until it is told to stop, and then what is left.
async fn work(
    mut telling: Option<Telling>,
    mut labelling: Option<Labelling>,
    mut left: watch::Receiver<bool>,
    stop: oneshot::Receiver<()>,
) {
    let running = async {
        let events = async {
            if let Some(telling) = &mut telling {
                telling.run().await;
            }
        };
        let label = async {
            if let Some(labelling) = &mut labelling {
                tokio::select! {
                    () = labelling.run() => {}
                    _ = left.wait_for(|left| *left) => {}
                }
            }
        };
        tokio::join!(events, label);
        // Neither ends before the other parts do.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        // The sender's end is the order.
        _ = stop => {}
        () = running => {}
    }
    labelling = labelling.filter(|_| !*left.borrow());
    let farewell = async {
        let label = async {
            if let Some(labelling) = &mut labelling {
                labelling.part().await;
            }
        };
        let events = async {
            if let Some(telling) = &mut telling {
                telling.part().await;
            }
        };
        tokio::join!(label, events);
    };
    if timeout(FAREWELL, farewell).await.is_err() {
        debug!("the API was not told all");
    }
}

/// Writes Events.
struct Telling {
    recorder: Recorder,
    events: mpsc::Receiver<Event>,
    /// The one that is being written, and how often that was tried.
    current: Option<(Event, usize)>,
    unwritten: Unwritten,
    /// It was said that the API doesn't let this node.
    refused: bool,
}

impl Telling {
    /// Writes one after the other. May be cancelled: the one that is being written is kept.
    async fn run(&mut self) {
        loop {
            if self.current.is_none() {
                let Some(event) = self.events.recv().await else { return };
                self.current = Some((event, 0));
            }
            let pause = self.attempt().await;
            if let Some(pause) = pause {
                sleep(pause).await;
            }
        }
    }

    /// Tries each once that is left.
    async fn part(&mut self) {
        self.events.close();
        while self.current.is_some() || !self.events.is_empty() {
            if self.current.is_some() && self.attempt().await.is_some() {
                self.unwritten.add(1);
            }
            self.current = self.events.try_recv().ok().map(|event| (event, 0));
        }
        let count = self.unwritten.count();
        if count > 0 && !self.refused {
            info!(count, "Events were not written");
        }
    }

    /// Tries the current one. It is done with, or to be tried again after this time.
    async fn attempt(&mut self) -> Option<Duration> {
        let (event, tries) = self.current.as_ref()?;
        let (mut event, tries) = (event.clone(), *tries);
        let before = self.unwritten.count();
        if before > 0 {
            event.note += &format!(" ({before} Events before this one were not written)");
        }
        let error = match self.recorder.tell(&event).await {
            Ok(()) => {
                self.unwritten.settle(before);
                if std::mem::take(&mut self.refused) {
                    info!("the API takes Events");
                }
                self.current = None;
                return None;
            }
            Err(error) => error,
        };
        let pause = match &error {
            RecordError::Unreached(_) | RecordError::Changed => PAUSES.get(tries).copied(),
            RecordError::Forbidden(_) | RecordError::Refused(_) => None,
        };
        self.complain(&error, pause);
        match pause {
            Some(_) => self.current = self.current.take().map(|(event, tries)| (event, tries + 1)),
            None => {
                self.current = None;
                self.unwritten.add(1);
            }
        }
        pause
    }

    /// Says what only a person can mend, once; an API that is away is the election's to tell of.
    fn complain(&mut self, error: &RecordError, pause: Option<Duration>) {
        match error {
            RecordError::Forbidden(_) | RecordError::Refused(_) => {
                if !std::mem::replace(&mut self.refused, true) {
                    info!(%error, "moves are not written as Events; `kubernetes: {{events: false}}` asks for none");
                }
            }
            RecordError::Unreached(_) | RecordError::Changed => {
                debug!(%error, ?pause, "failed to write an Event");
            }
        }
    }
}

/// Keeps the label where the address is.
struct Labelling {
    recorder: Recorder,
    me: String,
    value: String,
    state: watch::Receiver<State>,
    /// It was said that the API doesn't let this node.
    refused: bool,
    /// The label may be on this node.
    may_be_here: bool,
}

impl Labelling {
    fn new(recorder: Recorder, me: String, ip: IpAddr, state: watch::Receiver<State>) -> Self {
        // An earlier life may have left it there.
        Self { recorder, me, value: label::value(ip), state, refused: false, may_be_here: true }
    }

    /// Follows the address. May be cancelled: the next look finds what is there.
    async fn run(&mut self) {
        let mut settled = None;
        loop {
            let has_it = *self.state.borrow_and_update() == State::Active;
            let pause = match self.settle(has_it).await {
                Ok(()) => {
                    if std::mem::take(&mut self.refused) {
                        info!(label = label::KEY, "the API takes the label");
                    }
                    let is_new = settled.replace(has_it) != Some(has_it);
                    has_it.then_some(if is_new { LABEL_LOOK_SOON } else { LABEL_LOOK_AGAIN })
                }
                Err(error) => Some(self.complain(&error)),
            };
            sleep(LABEL_PACE).await;
            let again = async {
                match pause {
                    Some(pause) => sleep(pause.saturating_sub(LABEL_PACE)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.state.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = again => {}
            }
        }
    }

    /// This node is about to go: whatever comes, it has the address no more.
    async fn part(&mut self) {
        if self.may_be_here
            && let Err(error) = self.settle(false).await
        {
            debug!(%error, label = label::KEY, "the label may still be on this node; the next owner takes it off");
        }
    }

    /// Puts the label where it should be, and takes it off where it shouldn't.
    async fn settle(&mut self, has_it: bool) -> Result<(), RecordError> {
        let nodes = self.recorder.labelled(label::KEY, &self.value).await?;
        let is_here = nodes.iter().any(|node| node.name == self.me);
        self.may_be_here = is_here || has_it;
        if has_it && !is_here {
            self.recorder.put_label(&self.me, label::KEY, &self.value).await?;
            debug!(label = label::KEY, "this node has the label");
        }
        for node in nodes.iter().filter(|node| label::should_go(&node.name, &self.me, has_it)) {
            match self.recorder.take_label(node, label::KEY).await {
                Ok(()) => debug!(node = node.name, label = label::KEY, "took the label off"),
                // Gone, and the label with it.
                Err(RecordError::Refused(error)) => debug!(error, node = node.name, "the label stays on it"),
                Err(error) => return Err(error),
            }
        }
        self.may_be_here = has_it;
        Ok(())
    }

    /// Says what only a person can mend, once. Gives how long to wait.
    fn complain(&mut self, error: &RecordError) -> Duration {
        match error {
            RecordError::Forbidden(_) | RecordError::Refused(_) => {
                if !std::mem::replace(&mut self.refused, true) {
                    info!(%error, label = label::KEY, "the owner's Node has no label");
                }
                LABEL_FORBIDDEN_RETRY
            }
            RecordError::Changed => LABEL_PACE,
            RecordError::Unreached(_) => {
                debug!(%error, "failed to look after the label");
                LABEL_RETRY
            }
        }
    }
}
