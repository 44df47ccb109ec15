//! The thread that serves, and who is let in.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};
use tracing::{debug, info, warn};

use super::answer::{Site, Sources, answer};
use super::{Neighbours, bind, connection};
use crate::confinement::capabilities;

/// Connections at one time to one listener. A Prometheus, its spare, a kubelet and some people need a dozen; each costs a
/// descriptor and some kilobytes. One more makes the oldest go, so that connections that say nothing keep nobody out.
const CONNECTIONS_MAX: usize = 64;

/// The pause after a connection that could not be accepted, most likely for want of a descriptor.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// How much this thread yields to others (nice(1)): under load, the balancer and an election that could not have its
/// real-time priority go first. Small enough that health is still told on a host with no idle time.
const NICENESS: i32 = 5;

/// A running server. Dropping it closes every connection and joins the thread.
pub(crate) struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves metrics with health on the first address, and health alone on the second, and asks the neighbours meanwhile. vipd does its
    /// work without either: what can't be had is warned about, once, and left out.
    pub(crate) fn start(
        (metrics, health): (Option<SocketAddr>, Option<SocketAddr>),
        sources: Sources,
        neighbours: Option<Neighbours>,
    ) -> Option<Self> {
        let wanted =
            [("metrics", Site::MetricsAndHealth, metrics), ("healthPort", Site::HealthAlone, health)];
        let mut listeners = Vec::new();
        for (key, site, address) in wanted {
            let Some(address) = address else { continue };
            match bind(address) {
                Ok(listener) => listeners.push((site, listener)),
                Err(error) => {
                    warn!(key, %address, %error, "not served: failed to listen; `vipd check` says more");
                }
            }
        }
        if listeners.is_empty() {
            return None;
        }
        let addresses: Vec<String> = listeners
            .iter()
            .filter_map(|(_, listener)| listener.local_addr().ok())
            .map(|address| address.to_string())
            .collect();
        match Self::spawn(listeners, sources, neighbours) {
            Ok(server) => {
                info!(addresses = addresses.join(", "), "serves metrics and health over HTTP");
                Some(server)
            }
            Err(error) => {
                warn!(%error, "metrics and health are not served: failed to start their thread");
                None
            }
        }
    }

    fn spawn(
        listeners: Vec<(Site, TcpListener)>,
        sources: Sources,
        neighbours: Option<Neighbours>,
    ) -> io::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        // One answer, once.
        let (started, answer) = std::sync::mpsc::sync_channel(1);
        let body = move || match prepare(listeners, sources) {
            Ok((runtime, doors)) => {
                let _ = started.send(Ok(()));
                runtime.block_on(serve(doors, neighbours, stopped));
            }
            Err(error) => drop(started.send(Err(error))),
        };
        let thread = thread::Builder::new().name("web".to_owned()).spawn(body)?;
        let server = Self { stop: Some(stop), thread: Some(thread) };
        answer.recv().unwrap_or_else(|_| Err(io::Error::other("the thread ended at once")))?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop = None;
        // It has nothing to wait for: its tasks are dropped where they are.
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            warn!("the thread that serves metrics and health panicked");
        }
    }
}

/// One listener, and what is served there.
type Door = (tokio::net::TcpListener, Rc<(Site, Sources)>);

/// Makes ready on the thread that will serve.
fn prepare(listeners: Vec<(Site, TcpListener)>, sources: Sources) -> io::Result<(LocalRuntime, Vec<Door>)> {
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        debug!(%error, "metrics and health are served with the priority of the balancer");
    }
    // Anybody may ask; nothing that is asked takes a capability.
    capabilities::renounce();
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let entered = runtime.enter();
    let mut doors = Vec::new();
    for (site, listener) in listeners {
        doors.push((tokio::net::TcpListener::from_std(listener)?, Rc::new((site, sources.clone()))));
    }
    drop(entered);
    Ok((runtime, doors))
}

/// Serves at every door until told to stop, or until nobody is left to tell it.
async fn serve(doors: Vec<Door>, neighbours: Option<Neighbours>, stopped: oneshot::Receiver<()>) {
    let mut accepting = JoinSet::new();
    if let Some(neighbours) = neighbours {
        accepting.spawn_local(neighbours.ask());
    }
    for (listener, served) in doors {
        accepting.spawn_local(accept(listener, served));
    }
    // The sender's end is the order.
    let _ = stopped.await;
}

/// Lets clients in for ever. Waits for a connection only; may be cancelled at any await, and ends its connections then.
async fn accept(listener: tokio::net::TcpListener, served: Rc<(Site, Sources)>) {
    let mut crowd = Crowd::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let served = Rc::clone(&served);
                crowd.admit(connection::serve(stream, move |request| {
                    let (site, sources) = &*served;
                    answer(*site, sources, request.method(), request.uri())
                }));
            }
            Err(error) => {
                debug!(%error, "failed to accept a connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// The open connections of one listener, oldest first.
#[derive(Default)]
struct Crowd {
    tasks: JoinSet<()>,
    order: VecDeque<AbortHandle>,
}

impl Crowd {
    fn admit(&mut self, connection: impl Future<Output = ()> + 'static) {
        while self.tasks.try_join_next().is_some() {}
        self.order.retain(|task| !task.is_finished());
        if self.order.len() >= CONNECTIONS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            oldest.abort();
        }
        self.order.push_back(self.tasks.spawn_local(connection));
    }
}
