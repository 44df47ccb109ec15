//! The socket's end in the daemon: it reads one line, has it done, and tells what came of it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::future::join_all;
use leader::quorum::StepDownError;
use leader::{Leadership, NodeId};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;
use tracing::debug;

use super::{Answer, Maintained, Refusal, Request, Why};
use crate::daemon::owner::Owner;
use crate::{listed, logging};

/// How long an asker may take to say what it wants, and to take an answer.
const TALK_MAX: Duration = Duration::from_secs(1);

/// A request is a verb and a name of at most 63 bytes, or a level for a few parts.
const LINE_MAX: u64 = 512;

/// Those who are served at the same time. There is one operator at a time, or two that don't know of each other; each is
/// served on its own, so that none waits for what another's hand-over waits for.
const ASKERS_MAX: usize = 4;

/// How long a successor is awaited: a Lease that nobody takes over has lapsed by then, with the durations that are usual.
pub(super) const SUCCESSOR_MAX: Duration = Duration::from_secs(30);

/// Those who can carry out a command.
#[derive(Clone)]
pub(crate) struct Desk {
    node: String,
    /// One for all addresses, or one for each; none where this vipd has none.
    elections: Vec<Elector>,
    /// None where this vipd balances nothing.
    maintenance: Option<lb::BackendsHandle>,
}

#[derive(Clone)]
struct Elector {
    handle: leader::Handle,
    kind: &'static str,
    ips: Vec<IpAddr>,
}

/// A hand-over, or several.
struct Begun {
    elections: Vec<leader::Handle>,
    /// To whom, as far as that is known.
    to: BTreeSet<NodeId>,
    /// Why an address that this node has stays.
    refused: Option<Refusal>,
}

impl Desk {
    /// A desk for this node, its elections and its balancer.
    pub(crate) fn new(node: String, owners: &[Owner], balancer: Option<&lb::Balancer>) -> Self {
        let elector = |owner: &Owner| Elector {
            handle: owner.election.clone(),
            kind: owner.monitor.kind(),
            ips: owner.addresses.iter().map(|address| address.ip).collect(),
        };
        let maintenance = balancer.map(lb::Balancer::backends);
        Self { node, elections: owners.iter().map(elector).collect(), maintenance }
    }

    /// Takes a backend out of use, or back.
    fn set_drained(&self, backend: &str, drained: bool) -> Answer {
        let Some(maintenance) = &self.maintenance else {
            let text = "this vipd balances nothing: there are no `loadBalancers` in its configuration";
            return Answer::Refused(Refusal::new(Why::NoBalancer, text));
        };
        let maintained = maintenance.set_drained(backend, drained);
        if maintained.is_empty() {
            let known = listed(maintenance.names());
            let known = if known.is_empty() { "none at all".to_owned() } else { known };
            let text = format!("no backend is called {backend}; there is {known}");
            return Answer::Refused(Refusal::new(Why::NoSuchBackend, text));
        }
        let told = maintained.into_iter().map(|lb::Maintained { frontend, backend, replaced }| Maintained {
            balancer: frontend,
            backend: backend.name,
            open: backend.connections,
            drained: backend.drained,
            replaced,
        });
        Answer::Backends(told.collect())
    }

    /// Begins to hand over: the named address with all that moves along, or whatever this node has.
    async fn step_down(&self, to: Option<&str>, vip: Option<IpAddr>) -> Result<Begun, Refusal> {
        let Some(first) = self.elections.first() else {
            let text = "this vipd has no address: it only balances";
            return Err(Refusal::new(Why::NoElection, text));
        };
        if first.kind == "none" {
            let text = "there is no election, and so no other node to hand over to";
            return Err(Refusal::new(Why::NoElection, text));
        }
        let to = to.map(|name| match first.kind {
            // Where a Lease elects, nodes are known by the names that Kubernetes gives them.
            "kubernetes" => NodeId::new(&name.to_lowercase()),
            _ => NodeId::new(name),
        });
        let to = to.transpose().map_err(|error| Refusal::new(Why::NotUnderstood, error.to_string()))?;
        let is_meant = |elector: &&Elector| vip.is_none_or(|vip| elector.ips.contains(&vip));
        let meant: Vec<&Elector> = self.elections.iter().filter(is_meant).collect();
        if let (Some(vip), true) = (vip, meant.is_empty()) {
            return Err(self.no_such_address(vip));
        }
        let mut begun = Begun { elections: Vec::new(), to: BTreeSet::new(), refused: None };
        let mut elsewhere = None;
        for elector in meant {
            match elector.handle.step_down(to.clone()).await {
                Ok(to) => {
                    begun.elections.push(elector.handle.clone());
                    begun.to.extend(to);
                }
                Err(StepDownError::NotLeader) => {
                    elsewhere.get_or_insert_with(|| self.refusal(elector, &StepDownError::NotLeader));
                }
                Err(error) => begun.refused = Some(self.refusal(elector, &error)),
            }
        }
        match begun {
            // What others have is no failure, where this node had something to hand over.
            Begun { elections, refused, .. } if elections.is_empty() => {
                Err(refused.or(elsewhere).expect("each election that was asked has answered"))
            }
            begun => Ok(begun),
        }
    }

    fn refusal(&self, elector: &Elector, error: &StepDownError) -> Refusal {
        let leader = match &*elector.handle.leadership().borrow() {
            Leadership::Follower { leader } => leader.clone(),
            Leadership::Leader { .. } => None,
        };
        let refusal = Refusal::of(error, &self.node, leader.as_ref());
        match elector.ips.first() {
            Some(ip) if self.elections.len() > 1 => {
                Refusal { text: format!("{ip}: {}", refusal.text), ..refusal }
            }
            Some(_) | None => refusal,
        }
    }

    fn no_such_address(&self, vip: IpAddr) -> Refusal {
        let own = listed(self.elections.iter().flat_map(|elector| &elector.ips));
        Refusal::new(
            Why::NoSuchAddress,
            format!("{vip} is none of this vipd's virtual addresses; there is {own}: correct --vip"),
        )
    }
}

/// Serves until aborted, which may happen at any await: what was begun goes on, and its asker sees the connection end.
pub(crate) async fn serve(listener: UnixListener, desk: Desk) {
    let mut askers = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                // One too many is turned away: it sees the connection end.
                Ok(_) if askers.len() >= ASKERS_MAX => debug!("too many commands at the same time"),
                Ok((stream, _)) => drop(askers.spawn_local(converse(stream, desk.clone()))),
                Err(error) => {
                    // Out of descriptors, most likely: the next connection will tell.
                    debug!(%error, "failed to accept a connection for commands");
                    tokio::time::sleep(TALK_MAX).await;
                }
            },
            Some(_) = askers.join_next() => {}
        }
    }
}

async fn converse(stream: UnixStream, desk: Desk) {
    if let Err(error) = talk(stream, &desk).await {
        debug!(%error, "whoever gave a command went away");
    }
}

async fn talk(mut stream: UnixStream, desk: &Desk) -> std::io::Result<()> {
    let request = match timeout(TALK_MAX, read(&mut stream)).await {
        Ok(request) => request?,
        Err(_) => Err(Refusal::new(Why::NotUnderstood, "no command came within a second")),
    };
    let begun = match request {
        Ok(Request::StepDown { to, vip }) => desk.step_down(to.as_deref(), vip).await,
        Ok(Request::DrainBackend { backend }) => {
            return tell(&mut stream, &desk.set_drained(&backend, true)).await;
        }
        Ok(Request::EnableBackend { backend }) => {
            return tell(&mut stream, &desk.set_drained(&backend, false)).await;
        }
        Ok(Request::LogLevel { level }) => return tell(&mut stream, &set_level(level).await).await,
        Err(refusal) => Err(refusal),
    };
    let answer = match begun {
        Ok(Begun { elections, to, refused }) => {
            let to = Some(listed(&to)).filter(|to| !to.is_empty());
            debug!(to, "steps down by command");
            tell(&mut stream, &Answer::Begun { to }).await?;
            let followed = join_all(elections.iter().map(successor)).await;
            outcome(followed, refused)
        }
        Err(refusal) => Answer::Refused(refusal),
    };
    tell(&mut stream, &answer).await
}

/// Changes what is logged, if that is wanted, on a thread that may wait for those who log.
async fn set_level(level: Option<String>) -> Answer {
    let Some(level) = level else { return Answer::LogLevel { level: logging::level() } };
    let refused = |text: String| Answer::Refused(Refusal::new(Why::NoLevel, text));
    match spawn_blocking(move || logging::set_level(&level)).await {
        Ok(Ok(())) => Answer::LogLevel { level: logging::level() },
        Ok(Err(error)) => refused(format!("{error:#}")),
        Err(error) => refused(error.to_string()),
    }
}

/// Reads one line.
async fn read(stream: &mut UnixStream) -> std::io::Result<Result<Request, Refusal>> {
    let mut line = String::new();
    BufReader::new(stream.take(LINE_MAX)).read_line(&mut line).await?;
    let refused = |error| Refusal::new(Why::NotUnderstood, format!("the command is not understood: {error}"));
    Ok(serde_json::from_str(&line).map_err(refused))
}

/// What is told in the end: who leads now, unless something went wrong with any of the addresses.
fn outcome(followed: Vec<Result<NodeId, Refusal>>, refused: Option<Refusal>) -> Answer {
    let leaders: Result<BTreeSet<NodeId>, Refusal> = followed.into_iter().collect();
    match (leaders, refused) {
        (Ok(leaders), None) => Answer::Leads { node: listed(&leaders) },
        (Err(refusal), _) | (Ok(_), Some(refusal)) => Answer::Refused(refusal),
    }
}

/// Waits until a successor is seen.
async fn successor(election: &leader::Handle) -> Result<NodeId, Refusal> {
    let not_taken = |text: String| Err(Refusal::new(Why::NotTaken, text));
    let mut leadership = election.leadership();
    let decided = |leadership: &Leadership| *leadership != Leadership::Follower { leader: None };
    match timeout(SUCCESSOR_MAX, leadership.wait_for(decided)).await {
        Ok(Ok(leadership)) => match &*leadership {
            Leadership::Follower { leader: Some(leader) } => Ok(leader.clone()),
            Leadership::Follower { leader: None } | Leadership::Leader { .. } => {
                not_taken("nobody has taken over, and so this node leads again".to_owned())
            }
        },
        Ok(Err(_)) => not_taken("this vipd was stopped before a successor was seen".to_owned()),
        Err(_) => {
            let seconds = SUCCESSOR_MAX.as_secs();
            not_taken(format!("nobody has taken over for {seconds} s; `vipd status` on each node shows why"))
        }
    }
}

async fn tell(stream: &mut UnixStream, answer: &Answer) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    timeout(TALK_MAX, stream.write_all(&line)).await?
}
