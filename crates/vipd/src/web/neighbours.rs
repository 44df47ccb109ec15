//! What the other nodes of an election by Lease say of themselves, which they tell nobody unasked: each is asked over HTTP, where metrics are
//! served too.
//!
//! Nothing is decided by it; it is there to be shown. A node that doesn't answer stays with what it said last, which grows old.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use leader::kubernetes::ControlPlane;
use leader::{NodeId, peers::Note};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::debug;

use super::answer::OWN_STATUS;

/// How old what is known of another node may be, as among peers.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long an answer may take. It ends before the next is due.
const PATIENCE: Duration = Duration::from_millis(900);

/// An answer has no more bytes: a status with hundreds of backends has less.
const ANSWER_MAX: usize = 512 * 1024;

/// What each said last, by name.
pub(crate) type Told = watch::Receiver<BTreeMap<NodeId, Note>>;

/// Where they are, and where to write what they say.
pub(crate) struct Neighbours {
    /// This node, which isn't asked.
    pub(crate) me: NodeId,
    /// As the election knows them.
    pub(crate) nodes: watch::Receiver<ControlPlane>,
    /// Where this node serves its own, and so the others theirs.
    pub(crate) port: u16,
    /// Which addresses of a node are asked first.
    pub(crate) prefers_ipv4: bool,
    /// The virtual addresses, which are no node's own.
    pub(crate) never: BTreeSet<IpAddr>,
    /// What each said last.
    pub(crate) told: watch::Sender<BTreeMap<NodeId, Note>>,
}

impl Neighbours {
    /// Asks for ever. May be cancelled at any await.
    pub(super) async fn ask(self) {
        let mut due = interval(INTERVAL);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            due.tick().await;
            let others = self.others();
            let asked = others.iter().map(async |(name, address)| {
                let answer = timeout(PATIENCE, status(*address)).await;
                let answer = answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                (
                    name,
                    answer.map_err(
                        |error| debug!(node = %name, %address, %error, "a node did not say how it is"),
                    ),
                )
            });
            let answers = join_all(asked).await;
            self.told.send_modify(|told| {
                told.retain(|name, _| others.contains_key(name));
                for (name, answer) in answers {
                    if let Ok(bytes) = answer {
                        told.insert(name.clone(), Note { heard: leader::clock::now(), bytes });
                    }
                }
            });
        }
    }

    /// The others, and where they are asked.
    fn others(&self) -> BTreeMap<NodeId, SocketAddr> {
        let found = self.nodes.borrow().backends(self.prefers_ipv4, self.port, &self.never);
        let named = found.into_iter().filter_map(|(name, address)| Some((NodeId::new(&name).ok()?, address)));
        named.filter(|(name, _)| *name != self.me).collect()
    }
}

/// A node's own status, as it is.
async fn status(address: SocketAddr) -> io::Result<Arc<[u8]>> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let request = Request::get(OWN_STATUS).header(HOST, address.to_string()).body(String::new());
    let exchange = async {
        let answer =
            sender.send_request(request.map_err(io::Error::other)?).await.map_err(io::Error::other)?;
        if answer.status() != StatusCode::OK {
            return Err(io::Error::other(format!("it answered {}", answer.status())));
        }
        whole(answer.into_body()).await
    };
    let mut exchange = pin!(exchange);
    // The connection is driven until the answer is there, and closed then. If it ends by itself, the answer may have come with that.
    tokio::select! {
        answer = &mut exchange => return answer,
        ended = connection => ended.map_err(io::Error::other)?,
    }
    exchange.await
}

/// All of an answer.
async fn whole(mut body: Incoming) -> io::Result<Arc<[u8]>> {
    let mut bytes = Vec::new();
    while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let Ok(data) = frame.map_err(io::Error::other)?.into_data() else { continue };
        if bytes.len() + data.len() > ANSWER_MAX {
            return Err(io::Error::other(format!("its answer has more than {ANSWER_MAX} bytes")));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.into())
}
