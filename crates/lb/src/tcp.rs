//! Accepting connections and carrying them: one task per listener, one per flow.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::TcpListener;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tracing::warn;

use crate::client::Client;
use crate::drain::{Orders, Phase};
use crate::lane::Lane;
use crate::listen::Listener;
use crate::socket;

/// A listening socket at work, and whose connections it takes.
#[derive(Debug)]
pub(crate) struct Post {
    listener: Listener,
    lane: RefCell<Rc<Lane>>,
    retired: Notify,
}

/// Why a listener is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// No frontend listens there any more.
    Retired,
    /// The balancer ends.
    Ordered(Phase),
}

impl Post {
    pub(crate) fn new(listener: Listener, lane: &Rc<Lane>) -> Self {
        let post = Self { listener, lane: RefCell::new(Rc::clone(lane)), retired: Notify::new() };
        post.assign(lane);
        post
    }

    /// Gives this lane the connections that come from now on, with the socket options that it has now.
    pub(crate) fn assign(&self, lane: &Rc<Lane>) {
        self.lane.replace(Rc::clone(lane));
        if let Err(error) = self.listener.tune(&lane.settings().timeouts) {
            warn!(frontend = lane.shared.name, %error, "connections keep the timeouts of before: the kernel refuses others");
        }
    }

    /// A duplicate of its socket.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub(crate) fn duplicate(&self) -> io::Result<TcpListener> {
        self.listener.duplicate()
    }

    /// Has it left, once what waits in its queue has been taken over.
    pub(crate) fn retire(&self) {
        self.retired.notify_one();
    }

    fn lane(&self) -> Rc<Lane> {
        Rc::clone(&self.lane.borrow())
    }
}

/// Accepts on one listener until the balancer drains or nobody listens there any more, and starts a flow for every connection.
///
/// Waits for a connection, then for room under the frontend's limit: so each listener may hold one accepted
/// connection more, and the kernel's accept queue holds the rest. Not cancelled; it ends by order. At its end,
/// connections that wait in the accept queue are taken over first, because closing a listener resets them.
pub(crate) async fn accept(post: Rc<Post>, orders: watch::Receiver<Orders>) {
    let mut phases = orders.clone();
    let mut left = pin!(async {
        tokio::select! {
            biased;
            orders = phases.wait_for(|orders| orders.phase != Phase::Running) => {
                Left::Ordered(orders.map_or(Phase::Stopped, |orders| orders.phase))
            }
            () = post.retired.notified() => Left::Retired,
        }
    });
    let mut turn = 0;
    let left = loop {
        turn += 1;
        if turn == ACCEPT_TURN {
            turn = 0;
            tokio::task::yield_now().await;
        }
        let accepted = tokio::select! {
            biased;
            left = &mut left => break left,
            accepted = poll_fn(|context| post.listener.poll_accept(context)) => accepted,
        };
        let lane = post.lane();
        let accepted = match accepted {
            Ok(accepted) => accepted,
            Err(error) => tokio::select! {
                biased;
                () = recover(&lane, &error) => continue,
                left = &mut left => break left,
            },
        };
        let Some(client) = Client::take(&lane, accepted) else { continue };
        let Some(client) = start(&lane, client) else { continue };
        lane.shared.report_full();
        let mut waiting = Box::pin(wait_for_room(Rc::clone(&lane), client, orders.clone()));
        tokio::select! {
            biased;
            () = &mut waiting => {}
            left = &mut left => {
                if left == Left::Retired {
                    lane.tasks.spawn_local(waiting);
                }
                break left;
            }
        }
    };
    match left {
        Left::Ordered(Phase::Running | Phase::Stopped) => {}
        Left::Ordered(Phase::Draining) => empty_queue(&post, None),
        Left::Retired => empty_queue(&post, Some(&orders)),
    }
}

/// Starts the flow of a connection, or gives it back if there is no room.
fn start(lane: &Rc<Lane>, client: Client) -> Option<Client> {
    match lane.shared.room.try_enter() {
        Some(permit) => {
            client.start(lane, permit);
            None
        }
        None => Some(client),
    }
}

/// Starts the flow of a connection once there is room for it. If the balancer drains before, the connection is reset: there is
/// nowhere to keep it.
async fn wait_for_room(lane: Rc<Lane>, client: Client, mut orders: watch::Receiver<Orders>) {
    tokio::select! {
        // In this order: all flows are told once that the balancer stops, and none may begin afterwards.
        biased;
        // A sender that is gone says the same.
        _ = orders.wait_for(|orders| orders.phase != Phase::Running) => {}
        permit = lane.shared.room.enter() => client.start(&lane, permit),
    }
}

/// Takes over what has been accepted by the kernel but not by us, before the listener is closed.
///
/// What there is no room for waits on, where the balancer does (`orders`): no more than the accept queue held. It is reset otherwise:
/// nothing would take it up later.
fn empty_queue(post: &Post, orders: Option<&watch::Receiver<Orders>>) {
    let lane = post.lane();
    // The kernel is asked, not the reactor: that learns of a connection only at its next turn.
    while let Ok(accepted) = post.listener.accept_now() {
        let Some(client) = Client::take(&lane, accepted) else { continue };
        if let (Some(client), Some(orders)) = (start(&lane, client), orders) {
            lane.tasks.spawn_local(wait_for_room(Rc::clone(&lane), client, orders.clone()));
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
