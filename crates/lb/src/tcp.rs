//! Accepting connections and carrying them: one task per listener, one per flow.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::warn;

use crate::client::Client;
use crate::drain::{Orders, Phase};
use crate::lane::Lane;
use crate::listen::{Accepted, Listener};
use crate::socket;

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
    client.start(lane, permit);
}

/// Takes over what has been accepted by the kernel but not by us, then closes the listener.
fn empty_queue(lane: &Rc<Lane>, listener: &Listener) {
    // The kernel is asked, not the reactor: that learns of a connection only at its next turn.
    while let Ok(accepted) = listener.accept_now() {
        let Some(client) = Client::take(lane, accepted) else { continue };
        // Without room the connection is reset: nothing would take it up later.
        if let Ok(permit) = lane.shared.room.clone().try_acquire_owned() {
            client.start(lane, permit);
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
