//! Accepting connections and carrying them: one task per listener, one per flow.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, watch};
use tracing::{debug, trace, warn};

use crate::account::{Account, Ending};
use crate::drain::{End, Orders, Phase};
use crate::lane::{Entry, Lane};
use crate::leg::Leg;
use crate::listen::{Accepted, Listener};
use crate::pool::Candidate;
use crate::relay::{Directions, Opening, Outcome, Relay};
use crate::socket;
use crate::target::Open;

/// Accepts on one listener until the balancer drains, and starts a flow for every connection.
///
/// Waits for a connection, then for room under the frontend's limit: so each listener may hold one accepted
/// connection more, and the kernel's accept queue holds the rest. Not cancelled; it ends by order. On
/// draining, connections that wait in the accept queue are taken over first, because closing a listener
/// resets them.
pub(crate) async fn accept(lane: Rc<Lane>, listener: Listener, mut orders: watch::Receiver<Orders>) {
    let phase = {
        let mut left = pin!(orders.wait_for(|orders| orders.phase != Phase::Running));
        let mut turn = 0;
        loop {
            turn += 1;
            if turn == ACCEPT_TURN {
                turn = 0;
                tokio::task::yield_now().await;
            }
            let accepted = tokio::select! {
                biased;
                orders = &mut left => break orders.map_or(Phase::Stopped, |orders| orders.phase),
                accepted = poll_fn(|context| listener.poll_accept(context)) => accepted,
            };
            let next = async {
                match accepted {
                    Ok(accepted) => admit(&lane, accepted).await,
                    Err(error) => recover(&lane, &error).await,
                }
            };
            // A connection that waits for room when draining begins is reset: there is nowhere to keep it.
            tokio::select! {
                biased;
                () = next => {}
                orders = &mut left => break orders.map_or(Phase::Stopped, |orders| orders.phase),
            }
        }
    };
    if phase == Phase::Draining {
        empty_queue(&lane, &listener);
    }
}

/// Starts the flow of a connection once there is room for it.
async fn admit(lane: &Rc<Lane>, accepted: Accepted) {
    let Some(client) = Client::take(lane, accepted) else { return };
    let room = &lane.shared.room;
    let permit = match room.clone().try_acquire_owned() {
        Ok(permit) => permit,
        Err(_) => {
            lane.shared.report_full();
            // The semaphore lives as long as the lane and is never closed.
            let Ok(permit) = room.clone().acquire_owned().await else { return };
            permit
        }
    };
    spawn(lane, client, permit);
}

/// A client that is let in when there is room for it.
struct Client {
    leg: Leg,
    account: Option<Box<Account>>,
    /// What backends are told of it.
    header: Vec<u8>,
}

impl Client {
    /// Takes over a connection that was accepted.
    fn take(lane: &Lane, accepted: Accepted) -> Option<Self> {
        lane.shared.accepted.add(1);
        let account = lane.shared.access_log.then(|| Box::new(Account::open(accepted.client)));
        let leg = Leg::new(accepted.socket, &lane.kit.reactor);
        let leg = leg.inspect_err(|error| {
            warn!(frontend = lane.shared.name, %error, "a connection can't be watched: client reset");
        });
        let leg = leg.ok()?;
        let header = lane.shared.proxy_protocol.map(|version| {
            let server = leg.local_address().ok();
            version.header(accepted.client, server)
        });
        Some(Self { leg, account, header: header.unwrap_or_default() })
    }
}

fn spawn(lane: &Rc<Lane>, Client { leg, account, header }: Client, permit: OwnedSemaphorePermit) {
    let virtual_ips = &lane.shared.virtual_ips;
    // Without any, the kernel need not be asked.
    let local = || leg.local_address().ok().map(|local| local.ip());
    let virtual_ip = if virtual_ips.is_empty() { None } else { local() };
    let virtual_ip = virtual_ip.filter(|ip| virtual_ips.contains(ip));
    let opening = Box::new(Opening::new(lane.candidates(), header));
    lane.tasks.spawn_local(flow(lane.enter(virtual_ip), permit, leg, opening, account));
}

/// Takes over what has been accepted by the kernel but not by us, then closes the listener.
fn empty_queue(lane: &Rc<Lane>, listener: &Listener) {
    // The kernel is asked, not the reactor: that learns of a connection only at its next turn.
    while let Ok(accepted) = listener.accept_now() {
        let Some(client) = Client::take(lane, accepted) else { continue };
        // Without room the connection is reset: nothing would take it up later.
        if let Ok(permit) = lane.shared.room.clone().try_acquire_owned() {
            spawn(lane, client, permit);
        }
    }
}

/// Waits out a failed accept as long as its reason needs.
async fn recover(lane: &Lane, error: &io::Error) {
    if socket::is_starvation(error) {
        lane.starvation.wait(&lane.shared.name, error).await;
    } else if error.kind() != io::ErrorKind::ConnectionAborted {
        // An aborted connection is the client's affair alone (accept(2)).
        warn!(frontend = lane.shared.name, %error, "failed to accept a connection");
        tokio::time::sleep(ACCEPT_RETRY).await;
    }
}

/// Connections accepted before the flows get their turn.
const ACCEPT_TURN: u8 = 32;

/// Pause after an accept that failed for an unknown reason: the log must stay readable, and nothing may spin.
const ACCEPT_RETRY: Duration = Duration::from_secs(1);

/// Carries one connection from its backend's choice to its end.
///
/// Dropping it, or ending early, resets both legs. The order of the parameters is the reverse of their
/// dropping: the table's entry goes last, when the file descriptors are free.
// An `async fn` would have room for its arguments twice, as long as the flow lasts (rust-lang/rust#62958).
#[expect(clippy::manual_async_fn)]
fn flow(
    entry: Entry,
    permit: OwnedSemaphorePermit,
    client: Leg,
    opening: Box<Opening>,
    mut account: Option<Box<Account>>,
) -> impl Future<Output = ()> {
    async move {
        let _permit = &permit;
        let ending = carry(&entry, &client, opening, &mut account).await;
        if matches!(ending, Ending::Finished | Ending::Ordered(End::Rebalanced)) {
            client.finish();
        } else {
            drop(client);
        }
        if let Some(account) = account {
            account.close(&entry.lane.shared.name, ending);
        }
    }
}

/// Chooses backends until one has carried the connection to its end; tells how that was. The backend's leg is closed then.
async fn carry(
    entry: &Entry,
    client: &Leg,
    opening: Box<Opening>,
    account: &mut Option<Box<Account>>,
) -> Ending {
    let Entry { lane, record, .. } = entry;
    let mut directions = Directions::new(&opening);
    let mut opening = Some(opening);
    while let Some(open_end) = opening.as_mut() {
        // Boxed, so that an idle flow does not carry the memory of connecting.
        let (backend, open) = match Box::pin(connect(entry, open_end)).await {
            Ok(connected) => connected,
            Err(None) => {
                lane.shared.refused.add(1);
                debug!(frontend = lane.shared.name, "no backend could be reached: client reset");
                return Ending::NoBackend;
            }
            Err(Some(end)) => {
                debug!(frontend = lane.shared.name, %end, "flow ended");
                return Ending::Ordered(end);
            }
        };
        if let Some(account) = account {
            account.connected(open.target().name());
        }
        if !client.may_read() && !directions.has_more() {
            backend.acknowledge();
        }
        let outcome = poll_fn(|context| {
            Relay {
                client,
                backend: &backend,
                directions: &mut directions,
                opening: &mut opening,
                account: account.as_deref_mut(),
                record,
                member: &open.target().member,
                buffer: &lane.kit.buffer,
            }
            .poll(context)
        })
        .await;
        let target = open.target();
        match (outcome, opening.as_mut()) {
            (Outcome::Finished, _) => {
                backend.finish();
                trace!(frontend = lane.shared.name, backend = &*target.name(), "flow finished");
                return Ending::Finished;
            }
            (Outcome::Ended(end @ End::Rebalanced), _) => {
                // In good order: there is nothing wrong with either side.
                backend.finish();
                lane.shared.rebalanced.add(1);
                debug!(frontend = lane.shared.name, backend = &*target.name(), %end, "flow ended");
                return Ending::Ordered(end);
            }
            (reason @ (Outcome::Backend(_) | Outcome::Ended(End::BackendDead)), Some(opening)) => {
                target.member.retries.add(1);
                target.doubt.notify_one();
                directions.restart(opening);
                debug!(
                    frontend = lane.shared.name,
                    backend = &*target.name(),
                    ?reason,
                    "flow goes to another backend"
                );
            }
            (reason, _) => {
                debug!(frontend = lane.shared.name, backend = &*target.name(), %reason, "flow reset");
                return reason.ending();
            }
        }
    }
    // The opening is gone only when a flow can't go on elsewhere, and has ended above.
    Ending::Backend
}

/// Connects to the first candidate that takes the connection. `Err(None)` when there is none left,
/// `Err(Some)` when the flow was ended from outside.
async fn connect(entry: &Entry, opening: &mut Opening) -> Result<(Leg, Open), Option<End>> {
    let shared = &entry.lane.shared;
    while let Some((candidate, patience)) = next(&entry.lane, opening) {
        if candidate.has_died() {
            // Flows have been told of that already.
            continue;
        }
        let Some(open) = Open::enter(&candidate.target) else { continue };
        let target = open.target();
        entry.record.set_backend(candidate.clone());
        let mut starved = false;
        let attempt = tokio::time::timeout(patience, async {
            loop {
                match Leg::connect(target.address, &shared.timeouts, &entry.lane.kit.reactor).await {
                    Err(error) if socket::is_starvation(&error) => {
                        starved = true;
                        entry.lane.starvation.wait(&shared.name, &error).await;
                    }
                    result => return result,
                }
            }
        });
        let result = tokio::select! {
            biased;
            end = poll_fn(|context| entry.record.poll_end(context)) => match end {
                End::BackendDead => Err(io::ErrorKind::ConnectionRefused.into()),
                // It has taken seconds to connect, and there are others.
                End::Rebalanced => Err(io::ErrorKind::TimedOut.into()),
                End::Idle | End::VirtualIpLost | End::Stopped => return Err(Some(end)),
            },
            result = attempt => result.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
        };
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
                if error.kind() == io::ErrorKind::TimedOut && patience < shared.timeouts.connect {
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
    let patience = lane.shared.timeouts.connect;
    loop {
        if let Some(next) = opening.candidates.next() {
            return Some((next, patience.min(FIRST_PATIENCE)));
        }
        let changed =
            if opening.changes_left > 0 { lane.candidates_since(&opening.candidates) } else { None };
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
