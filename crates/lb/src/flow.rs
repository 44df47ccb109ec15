//! One connection, from its backend's choice to its end.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tracing::{debug, trace};

use crate::account::{Account, Ending};
use crate::drain::End;
use crate::lane::{Entry, Lane, Record};
use crate::leg::Leg;
use crate::pool::Candidate;
use crate::relay::{Directions, Opening, Outcome, Relay};
use crate::room::Permit;
use crate::socket;
use crate::target::Open;
use crate::transparent::Transparent;

/// One connection.
///
/// A future by hand: what the compiler makes of an `async fn` keeps arguments twice, and an idle flow costs little but this. Dropping
/// it, or an early end, resets both legs. The fields are in the order of their dropping: the table's entry goes last, when the file
/// descriptors are free.
#[derive(Debug)]
pub(crate) struct Flow {
    stage: Stage,
    client: Leg,
    directions: Directions,
    /// None once it can't go to another backend any more, and while it connects.
    opening: Option<Box<Opening>>,
    account: Option<Box<Account>>,
    _permit: Permit,
    entry: Entry,
}

enum Stage {
    Connecting(Pin<Box<dyn Future<Output = Connected>>>),
    Relaying { backend: Leg, open: Open },
}

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Connecting(_) => "Connecting",
            Self::Relaying { .. } => "Relaying",
        })
    }
}

/// The opening, and the backend that has taken the connection. `None`: no other is left.
type Connected = (Box<Opening>, Result<(Leg, Open), Option<End>>);

impl Flow {
    /// A flow that is about to choose a backend.
    pub(crate) fn new(
        entry: Entry,
        permit: Permit,
        client: Leg,
        opening: Box<Opening>,
        account: Option<Box<Account>>,
    ) -> Self {
        let directions = Directions::new(&opening);
        let stage = Stage::connecting(&entry, opening);
        Self { stage, client, directions, opening: None, account, _permit: permit, entry }
    }

    fn poll_ending(&mut self, context: &mut Context<'_>) -> Poll<Ending> {
        loop {
            match &mut self.stage {
                Stage::Connecting(connecting) => {
                    let (opening, connected) = ready!(connecting.as_mut().poll(context));
                    match connected {
                        Ok((backend, open)) => self.connected(opening, backend, open),
                        Err(why) => return Poll::Ready(self.unconnected(why)),
                    }
                }
                Stage::Relaying { backend, open } => {
                    let mut relay = Relay {
                        client: &self.client,
                        backend,
                        directions: &mut self.directions,
                        opening: &mut self.opening,
                        account: self.account.as_deref_mut(),
                        record: &self.entry.record,
                        member: &open.target().member,
                        kit: &self.entry.lane.kit,
                    };
                    let outcome = ready!(relay.poll(context));
                    if let Some(ending) = self.relayed(outcome) {
                        return Poll::Ready(ending);
                    }
                }
            }
        }
    }

    fn connected(&mut self, opening: Box<Opening>, backend: Leg, open: Open) {
        self.opening = Some(opening);
        if let Some(account) = &mut self.account {
            account.connected(open.target().name());
        }
        if !self.client.may_read() && !self.directions.has_more() {
            backend.acknowledge();
        }
        self.stage = Stage::Relaying { backend, open };
    }

    fn unconnected(&self, why: Option<End>) -> Ending {
        let shared = &self.entry.lane.shared;
        if let Some(end) = why {
            shared.count(end);
            debug!(frontend = shared.name, %end, "flow ended");
            return Ending::Ordered(end);
        }
        shared.refused.add(1);
        debug!(frontend = shared.name, "no backend could be reached: client reset");
        Ending::NoBackend
    }

    /// Goes to another backend, or tells how it has ended.
    fn relayed(&mut self, outcome: Outcome) -> Option<Ending> {
        // Both are as they were a moment ago.
        let Stage::Relaying { backend, open } = &mut self.stage else { return None };
        let (shared, target) = (&self.entry.lane.shared, open.target());
        if let Outcome::Ended(end) = outcome {
            shared.count(end);
        }
        match (outcome, self.opening.take()) {
            (Outcome::Finished, _) => {
                backend.finish();
                trace!(frontend = shared.name, backend = &*target.name(), "flow finished");
                Some(Ending::Finished)
            }
            (Outcome::Ended(end @ (End::Rebalanced | End::Aged)), _) => {
                // In good order: there is nothing wrong with either side.
                backend.finish();
                debug!(frontend = shared.name, backend = &*target.name(), %end, "flow ended");
                Some(Ending::Ordered(end))
            }
            (
                reason @ (Outcome::Backend(_) | Outcome::Ended(End::BackendDead | End::BackendClosed)),
                Some(mut opening),
            ) => {
                target.member.retries.add(1);
                target.doubt.notify_one();
                self.directions.restart(&mut opening);
                debug!(
                    frontend = shared.name,
                    backend = &*target.name(),
                    ?reason,
                    "flow goes to another backend"
                );
                self.stage = Stage::connecting(&self.entry, opening);
                None
            }
            (reason, _) => {
                debug!(frontend = shared.name, backend = &*target.name(), %reason, "flow reset");
                Some(reason.ending())
            }
        }
    }
}

impl Future for Flow {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let flow = self.get_mut();
        let ending = ready!(flow.poll_ending(context));
        if matches!(ending, Ending::Finished | Ending::Ordered(End::Rebalanced | End::Aged)) {
            flow.client.finish();
        }
        if let Stage::Relaying { open, .. } = &flow.stage {
            open.target().member.ends.count(ending);
        }
        if let Some(account) = flow.account.take() {
            account.close(&flow.entry.lane.shared.name, ending);
        }
        Poll::Ready(())
    }
}

impl Stage {
    /// Boxed, so that an idle flow does not carry the memory of connecting.
    fn connecting(entry: &Entry, mut opening: Box<Opening>) -> Self {
        let (lane, record) = (Rc::clone(&entry.lane), Rc::clone(&entry.record));
        Self::Connecting(Box::pin(async move {
            let connected = connect(&lane, &record, &mut opening).await;
            (opening, connected)
        }))
    }
}

/// Connects to the first candidate that takes the connection. `Err(None)` when there is none left,
/// `Err(Some)` when the flow was ended from outside.
async fn connect(lane: &Lane, record: &Record, opening: &mut Opening) -> Result<(Leg, Open), Option<End>> {
    let shared = &lane.shared;
    let timeouts = lane.settings().timeouts;
    while let Some((candidate, patience)) = next(lane, opening) {
        if candidate.has_died() {
            // Flows have been told of that already.
            continue;
        }
        let Some(open) = Open::enter(&candidate.target) else { continue };
        let target = open.target();
        record.set_backend(candidate.clone());
        let shown = |clients: &Transparent| clients.source(opening.client, target.address.ip());
        let source = lane.settings().transparent.as_ref().and_then(shown);
        let mut starved = false;
        let attempt = tokio::time::timeout(patience, async {
            loop {
                match Leg::connect(target.address, source, &timeouts, &lane.kit.reactor).await {
                    Err(error) if socket::is_starvation(&error) => {
                        starved = true;
                        lane.starvation.wait(&shared.name, &error).await;
                    }
                    result => return result,
                }
            }
        });
        let result = tokio::select! {
            biased;
            end = poll_fn(|context| record.poll_end(context)) => match end {
                End::BackendDead | End::BackendClosed => Err(io::ErrorKind::ConnectionRefused.into()),
                // It has taken seconds to connect, and there are others.
                End::Rebalanced => Err(io::ErrorKind::TimedOut.into()),
                End::Aged | End::Idle | End::Overdue | End::VirtualIpLost | End::Stopped => {
                    return Err(Some(end));
                }
            },
            result = attempt => result.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
        };
        if source.is_some()
            && let Some(transparent) = &lane.settings().transparent
        {
            transparent.note(&shared.name, result.as_ref().err());
        }
        match result {
            Ok(leg) => {
                target.member.total.add(1);
                return Ok((leg, open));
            }
            Err(error) => {
                if !starved && !socket::is_ours(&error) {
                    target.member.connect_failures.add(1);
                    target.doubt.notify_one();
                }
                debug!(frontend = shared.name, backend = &*target.name(), %error, "failed to connect to backend");
                if error.kind() == io::ErrorKind::TimedOut && patience < timeouts.connect {
                    opening.slow.push_back(candidate);
                }
            }
        }
    }
    Err(None)
}

/// The next backend to try, and for how long: from among those that have come meanwhile when the others are used up, and at
/// last those that were slow.
fn next(lane: &Lane, opening: &mut Opening) -> Option<(Candidate, Duration)> {
    let patience = lane.settings().timeouts.connect;
    loop {
        if let Some(next) = opening.candidates.next() {
            return Some((next, patience.min(FIRST_PATIENCE)));
        }
        let may_follow = opening.changes_left > 0;
        let changed =
            may_follow.then(|| lane.candidates_since(&opening.candidates, opening.client)).flatten();
        let Some(changed) = changed else {
            return opening.slow.pop_front().map(|slow| (slow, patience));
        };
        opening.candidates = changed;
        opening.changes_left -= 1;
    }
}

/// How long a backend may take to be connected to before others are tried: a host that has lost its power answers nothing, and
/// is known to be dead only when some checks have failed. A network on which a connect takes longer is the exception.
const FIRST_PATIENCE: Duration = Duration::from_millis(300);

#[cfg(test)]
mod tests {
    use super::*;

    /// What an idle connection costs beside its sockets is mostly this, rounded up to a multiple of 128 bytes with the hundred that the
    /// runtime adds for a task.
    #[test]
    fn a_flow_is_small() {
        assert!(size_of::<Flow>() <= 144, "{}", size_of::<Flow>());
    }
}
