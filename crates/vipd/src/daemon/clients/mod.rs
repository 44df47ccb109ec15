//! Idle clients and a move: the owner tells its peers who is connected, and its successor tells these clients.
//!
//! ```text
//!   owner      kernel's sockets ──▶ Roll ──▶ leader::peers::Clients ──▶ peers
//!   successor  leader::peers::Clients ──▶ tickles, three times ──▶ clients ──▶ "no such connection", says the kernel
//! ```
//!
//! All of it runs on a thread of its own, of ordinary priority: to list sockets takes milliseconds where there are thousands,
//! and the election waits for none of it.

pub(crate) mod ended;
mod roll;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use leader::peers::{CLIENTS_MAX, Change, Client};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};
use vip::State;
use vip::linux::{Forwarded, Sockets, Tickler};
use vip::tickle::Connection;

use roll::Roll;

/// After a change, the sockets are listed again this soon: who connects a moment before the owner dies is unknown to its
/// successor, so a moment is made short.
const LIST_INTERVAL_MIN: Duration = Duration::from_millis(50);

/// While nothing changes, less and less often, down to this.
const LIST_INTERVAL_MAX: Duration = Duration::from_millis(200);

/// Between two listings pass so many times what one takes: it never costs more than a twentieth of a processor.
const REST: u32 = 19;

/// More connections of one host to its virtual addresses are not looked at: they take some megabytes.
const LISTED_MAX: usize = 32_768;

/// When each client is told, from the moment the address is here. Once more for packets that were lost. And once more
/// after that, as a client whose answer went to the old owner doesn't answer twice within half a second (Linux:
/// `tcp_invalid_ratelimit`).
const ROUNDS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(150), Duration::from_millis(700)];

/// So many packets leave at a time, and a millisecond passes: no queue of an interface is that short.
const BATCH: usize = 64;
const BATCH_INTERVAL: Duration = Duration::from_millis(1);

/// What the thread has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Done {
    /// Connections that no peer was told of, as they are too many.
    pub(crate) beyond: usize,
    /// Packets sent to clients of the owner before this node.
    pub(crate) tickles: u64,
}

/// Ports of the balancer, as the kernel has them.
#[derive(Clone, Debug)]
pub(super) struct Ports {
    /// From those that the balancer listens on to those that clients connect to and the kernel redirects.
    pub(super) redirected: watch::Receiver<BTreeMap<u16, u16>>,
    /// Those whose connections the kernel leads to backends by itself.
    pub(super) forwarded: Vec<u16>,
}

/// The thread. It ends when this is dropped.
pub(super) struct Clients {
    stop: Option<watch::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    done: watch::Receiver<Done>,
}

impl Clients {
    /// Starts it.
    ///
    /// # Errors
    /// There is no thread to be had, or the kernel has no raw sockets for this process.
    pub(super) fn start(
        addresses: &[vip::Address],
        ports: Ports,
        state: watch::Receiver<State>,
        exchange: leader::peers::Clients,
    ) -> anyhow::Result<Self> {
        let tickler = Tickler::open().context("failed to open the sockets that tell clients of a move")?;
        let (does, done) = watch::channel(Done::default());
        let (stop, mut stopped) = watch::channel(());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let view =
            View { vips: addresses.iter().map(|address| address.ip).collect(), ports: ports.redirected };
        let work = async move {
            // sock_diag(7) is asked here, as its connection belongs to this thread's event loop.
            let sockets = Sockets::open().inspect_err(|error| warn!(%error, "{UNLISTED}")).ok();
            let forwarded = (!ports.forwarded.is_empty())
                .then(|| {
                    Forwarded::open(ports.forwarded).inspect_err(|error| warn!(%error, "{UNLISTED}")).ok()
                })
                .flatten();
            let keeper = Keeper { view, sockets, forwarded, tickler, state, exchange, done: does };
            tokio::select! {
                () = keeper.run() => {}
                _ = stopped.changed() => {}
            }
        };
        let thread = std::thread::Builder::new()
            .name("vip-clients".to_owned())
            .spawn(move || runtime.block_on(work))
            .context("failed to start the thread for clients")?;
        Ok(Self { stop: Some(stop), thread: Some(thread), done })
    }

    /// What it has done, as that changes.
    pub(super) fn done(&self) -> watch::Receiver<Done> {
        self.done.clone()
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the thread for clients panicked");
        }
    }
}

/// What it means that the kernel doesn't list its sockets.
const UNLISTED: &str = "the kernel doesn't tell who is connected (CONFIG_INET_DIAG): if this node fails, idle clients \
     notice only by their own keepalive";

/// How sockets are seen by clients.
#[derive(Debug)]
struct View {
    vips: Vec<IpAddr>,
    /// From the port of the balancer's socket to the one that the kernel redirects there.
    ports: watch::Receiver<BTreeMap<u16, u16>>,
}

impl View {
    /// The connection as its client knows it; `None` if that is on this host, and so has the owner's fate.
    fn of_client(&self, found: Connection) -> Option<Connection> {
        if self.vips.contains(&found.client().ip()) {
            return None;
        }
        let port = self.ports.borrow().get(&found.server().port()).copied();
        let Some(port) = port else { return Some(found) };
        Connection::new(found.client(), SocketAddr::new(found.server().ip(), port))
    }

    /// What a predecessor told: only what concerns the virtual addresses is believed.
    fn inherited(&self, client: &Client) -> Option<Connection> {
        let connection = Connection::from_bytes(client.as_bytes())?;
        self.vips.contains(&connection.server().ip()).then_some(connection)
    }
}

/// The thread's part.
struct Keeper {
    view: View,
    /// `None` where the kernel can't.
    sockets: Option<Sockets>,
    /// `None` where the kernel carries none, or can't tell.
    forwarded: Option<Forwarded>,
    tickler: Tickler,
    state: watch::Receiver<State>,
    exchange: leader::peers::Clients,
    done: watch::Sender<Done>,
}

impl Keeper {
    /// Tells and lists while the address is here. May be cancelled: the kernel keeps nothing.
    async fn run(self) {
        let mut state = self.state.clone();
        while state.wait_for(|state| *state == State::Active).await.is_ok() {
            tokio::select! {
                _ = state.wait_for(|state| *state != State::Active) => {}
                _ = async { tokio::join!(self.take_over(), self.keep_listing()) } => {}
            }
            // Whoever holds the address next has clients of its own to tell of.
            self.exchange.clear().await;
            self.done.send_modify(|done| done.beyond = 0);
        }
    }

    /// Tells the predecessor's clients that their connections have ended with it.
    async fn take_over(&self) {
        let began = Instant::now();
        // The main loop answers when the address has been announced: the clients' answers come here, not to the old owner.
        let inherited = self.exchange.inherit().await;
        let inherited: Vec<_> = inherited.iter().filter_map(|client| self.view.inherited(client)).collect();
        if inherited.is_empty() {
            return;
        }
        for round in ROUNDS {
            sleep_until(began + round).await;
            // Who has connected here since, perhaps from the same port, has nothing to learn.
            let own = self.list().await.unwrap_or_default();
            let unaware: Vec<_> = inherited.iter().filter(|connection| !own.contains(connection)).collect();
            for some in unaware.chunks(BATCH) {
                let sent = some.iter().map(|connection| u64::from(self.tickle(connection))).sum::<u64>();
                self.done.send_modify(|done| done.tickles += sent);
                sleep(BATCH_INTERVAL).await;
            }
            debug!(clients = inherited.len(), unaware = unaware.len(), after = ?began.elapsed(), "tickles sent");
        }
        info!(clients = inherited.len(), "the previous owner's clients were told of the move");
    }

    fn tickle(&self, connection: &Connection) -> bool {
        let sent = self.tickler.send(connection);
        if let Err(error) = &sent {
            debug!(client = %connection.client(), %error, "failed to tell a client of the move");
        }
        sent.is_ok()
    }

    /// Keeps the peers informed of who is connected. Never ends.
    async fn keep_listing(&self) {
        let mut roll = Roll::new(CLIENTS_MAX);
        let mut interval = LIST_INTERVAL_MIN;
        let mut failed = self.sockets.is_none();
        loop {
            let began = Instant::now();
            match self.list().await {
                Ok(found) => {
                    failed = false;
                    let changes = roll.take(found);
                    interval = if changes.is_empty() {
                        (2 * interval).min(LIST_INTERVAL_MAX)
                    } else {
                        LIST_INTERVAL_MIN
                    };
                    self.tell(&changes).await;
                    let beyond = roll.beyond();
                    self.done.send_if_modified(|done| std::mem::replace(&mut done.beyond, beyond) != beyond);
                }
                Err(error) => {
                    if !std::mem::replace(&mut failed, true) {
                        warn!(%error, "{UNLISTED}");
                    }
                    interval = LIST_INTERVAL_MAX;
                }
            }
            sleep(interval.max(REST * began.elapsed())).await;
        }
    }

    async fn tell(&self, changes: &roll::Changes) {
        let client = |connection: &Connection| {
            Client::new(&connection.to_bytes()).expect("two ends have 12 or 36 bytes")
        };
        // Those that went first: so there is room.
        let gone = changes.gone.iter().map(|connection| Change::Gone(client(connection)));
        let came = changes.came.iter().map(|connection| Change::Came(client(connection)));
        self.exchange.tell(&gone.chain(came).collect::<Vec<_>>()).await;
    }

    /// Who is connected to the virtual addresses, as clients see it.
    async fn list(&self) -> io::Result<BTreeSet<Connection>> {
        let sockets = self.sockets.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        let mut found = sockets.connections(&self.view.vips, LISTED_MAX).await?;
        if let Some(forwarded) = &self.forwarded {
            found.extend(forwarded.connections(&self.view.vips, LISTED_MAX - found.len().min(LISTED_MAX))?);
        }
        Ok(found.into_iter().filter_map(|connection| self.view.of_client(connection)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(server: &str) -> Connection {
        let server: SocketAddr = server.parse().unwrap();
        let client = if server.is_ipv4() { "10.0.0.9:40000" } else { "[fd00::9]:40000" };
        Connection::new(client.parse().unwrap(), server).unwrap()
    }

    fn view() -> View {
        let vips = ["10.0.0.162", "fd00::162"].map(|vip| vip.parse().unwrap());
        View { vips: vips.to_vec(), ports: watch::Sender::new(BTreeMap::from([(16443, 6443)])).subscribe() }
    }

    #[test]
    fn a_client_knows_the_port_that_it_connected_to_whatever_the_kernel_made_of_it() {
        for (found, known) in [
            ("10.0.0.162:16443", "10.0.0.162:6443"),
            ("[fd00::162]:16443", "[fd00::162]:6443"),
            ("10.0.0.162:8443", "10.0.0.162:8443"),
        ] {
            assert_eq!(view().of_client(connection(found)), Some(connection(known)));
        }
        // To an address of its own a host connects from that address.
        let (client, server) = ("10.0.0.162:40000".parse().unwrap(), "10.0.0.162:8443".parse().unwrap());
        assert_eq!(view().of_client(Connection::new(client, server).unwrap()), None);
    }

    #[test]
    fn a_predecessor_is_believed_only_what_concerns_the_virtual_addresses() {
        let told = |server| Client::new(&connection(server).to_bytes()).unwrap();
        let vip = "10.0.0.162:6443";
        assert_eq!(view().inherited(&told(vip)), Some(connection(vip)));
        assert_eq!(view().inherited(&told("10.0.0.163:6443")), None);
        assert_eq!(view().inherited(&Client::new(b"nonsense").unwrap()), None);
    }
}
