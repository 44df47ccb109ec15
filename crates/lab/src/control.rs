//! The control protocol: a test in any language breaks things through a unix socket.
//!
//! The path is in `LAB_SOCKET`. One JSON object per line; each request gets one line of answer, in order, with
//! `"ok": true` or with `"error"` and a message. Unknown requests, fields, nodes, processes and signals are refused.
//!
//! | request | answer |
//! |---|---|
//! | `{"do":"owner"}` | `{"owner":"master-2","holders":["master-2"]}`; owner `null` if nobody or several hold the VIP |
//! | `{"do":"nodes"}` | `{"nodes":[{"name","address","running":["apiserver","vipd"],"folder","vipd_socket"}]}` |
//! | `{"do":"link","node":"master-1","up":false}` | the switch port goes down, the node loses its carrier |
//! | `{"do":"plug","node":"master-1","plugged":false}` | the port leaves the bridge, the carrier stays |
//! | `{"do":"cut","from":"master-1","to":"master-2"}` | frames are dropped in this direction only |
//! | `{"do":"partition","node":"master-1"}` | the node is cut from the other nodes, both ways, not from the client |
//! | `{"do":"heal"}` | ends all cuts and partitions |
//! | `{"do":"signal","node":"master-1","process":"vipd","signal":"KILL"}` | KILL, TERM, STOP, CONT, HUP, INT, USR1 or USR2; KILL, STOP and CONT reach its whole process group |
//! | `{"do":"install","node":"master-1","system":"vipd-lease-2"}` | starts a system, as `compare` names it, on one node; what runs there is killed and its addresses are removed |
//! | `{"do":"remove","node":"master-1"}` | kills what keeps the virtual IP there, and removes the addresses |
//! | `{"do":"stop","node":"master-1","process":"vipd"}` | SIGTERM, and SIGKILL after 30 s; `"graceful"` tells which |
//! | `{"do":"start","node":"master-1","process":"vipd"}` | starts it again after its end, which it waits for |
//! | `{"do":"restart","node":"master-1","process":"vipd"}` | SIGTERM (after 30 s SIGKILL), then start; `"graceful"` tells which |
//! | `{"do":"toggle-ready","node":"master-1"}` | the stand-in apiserver's /readyz flips between 200 and 503 |
//! | `{"do":"await-ready","node":"master-1"}` | waits until its apiserver's /readyz is 200 |
//! | `{"do":"delete-vip","node":"master-1"}` | removes the virtual addresses by hand; `"deleted"` says if one was there |
//! | `{"do":"probe","on":true}` | a request to the VIP every 4 ms from now on |
//! | `{"do":"observe"}` | what was seen since the last `observe` (or the start): see below |
//! | `{"do":"history","since_ns":0}` | every change of the virtual addresses since then: `{"now_ns","changes":[{"ns","node","address","held"}]}`, in nanoseconds of CLOCK_MONOTONIC |
//! | `{"do":"await-owner","not":"master-1","within_ms":5000}` | waits for one owner (`not` is optional) |
//! | `{"do":"calm","for_ms":1000,"within_ms":20000}` | waits for one owner and only good answers for a while; probes must be on |
//!
//! `observe` answers `{"holders":[…],"moves":[{"from","to","ms_ago"}],"overlaps":[{"address","nodes":[…],"ms"}],"arp_at_once":1,`
//! `"arp_overlap_ms":0,"silence_ms":12.3,"good":812,"failed":{"refused":3}}`.
//!
//! Process names: `vipd` (or `keepalived`, `haproxy`, `kube-vip`, `participant`), `apiserver`, and with `--kubernetes` `etcd`.

use std::time::Duration;

use anyhow::{Context as _, Error, Result, bail};
use rustix::process::Signal;
use rustix::time::{ClockId, clock_gettime};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::debug;

use crate::fault::Observation;
use crate::lab::{Lab, control_socket};
use crate::network::{NODES, node_named};
use crate::process::STOP_PATIENCE;
use crate::system::System;

/// A request has less than two hundred bytes.
const MAX_LINE: u64 = 4096;
/// Requests of different connections that wait for the lab; each connection has one at a time.
const QUEUE: usize = 16;

/// A request.
#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
enum Request {
    Owner {},
    Nodes {},
    Link { node: String, up: bool },
    Plug { node: String, plugged: bool },
    Cut { from: String, to: String },
    Partition { node: String },
    Heal {},
    Signal { node: String, process: String, signal: String },
    Install { node: String, system: String },
    Remove { node: String },
    Start { node: String, process: String },
    Stop { node: String, process: String },
    Restart { node: String, process: String },
    ToggleReady { node: String },
    AwaitReady { node: String },
    DeleteVip { node: String },
    Probe { on: bool },
    Observe {},
    History { since_ns: u64 },
    AwaitOwner { not: Option<String>, within_ms: u64 },
    Calm { for_ms: u64, within_ms: u64 },
}

type Ask = (Request, oneshot::Sender<Value>);

/// Answers requests until it is dropped; owns the socket and its connections.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
}

impl Control {
    /// Opens the socket.
    ///
    /// # Errors
    /// If it exists already.
    pub fn open() -> Result<Self> {
        let listener = UnixListener::bind(control_socket()).context("failed to open the control socket")?;
        Ok(Self { listener })
    }

    /// Serves the lab. May be cancelled: a request that is being carried out is then left half done.
    ///
    /// # Errors
    /// If the socket fails.
    pub async fn run(self, lab: &mut Lab) -> Result<()> {
        let (queue, mut asked) = mpsc::channel::<Ask>(QUEUE);
        let mut connections = JoinSet::new();
        let mut desk = Desk { lab, observed: Instant::now() };
        loop {
            tokio::select! {
                accepted = self.listener.accept() => {
                    connections.spawn(converse(accepted?.0, queue.clone()));
                }
                Some(_) = connections.join_next() => {}
                Some((request, answer)) = asked.recv() => {
                    let done = desk.carry_out(request).await;
                    let value = done.unwrap_or_else(|error| json!({ "error": format!("{error:#}") }));
                    answer.send(value).ok();
                }
            }
        }
    }
}

async fn converse(stream: UnixStream, queue: mpsc::Sender<Ask>) -> Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = String::new();
        if (&mut reader).take(MAX_LINE).read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let value = match serde_json::from_str(&line) {
            Ok(request) => {
                debug!(?request, "asked");
                let (answer, answered) = oneshot::channel();
                queue.send((request, answer)).await.ok().context("the lab has ended")?;
                answered.await?
            }
            Err(error) => json!({ "error": format!("not understood: {error}") }),
        };
        writer.write_all(format!("{value}\n").as_bytes()).await?;
    }
}

struct Desk<'a> {
    lab: &'a mut Lab,
    /// Up to where the last `observe` has told.
    observed: Instant,
}

impl Desk<'_> {
    async fn carry_out(&mut self, request: Request) -> Result<Value> {
        match request {
            Request::Owner {} => return Ok(self.owner()),
            Request::Nodes {} => return Ok(self.nodes()),
            Request::Observe {} => return Ok(self.observe()),
            Request::History { since_ns } => return self.history(since_ns),
            Request::Link { node, up } => {
                node_named(&node)?;
                self.lab.switch.set_link(&node, up).await?;
            }
            Request::Plug { node, plugged } => {
                node_named(&node)?;
                self.lab.switch.set_plugged(&node, plugged).await?;
            }
            Request::Cut { from, to } => {
                node_named(&from)?;
                node_named(&to)?;
                self.lab.switch.cut([(from, to)]).await?;
            }
            Request::Partition { node } => self.lab.partition(node_named(&node)?).await?,
            Request::Heal {} => self.lab.switch.heal().await?,
            Request::Signal { node, process, signal } => {
                let signal = signal_named(&signal)?;
                self.lab.nodes[node_named(&node)?].process(&process)?.signal(signal)?;
            }
            Request::Install { node, system } => {
                let (place, system) = (node_named(&node)?, system.parse::<System>().map_err(Error::msg)?);
                self.lab.aim(system)?;
                self.lab.nodes[place].remove_system().await?;
                self.lab.start_system_on(place, system)?;
            }
            Request::Remove { node } => self.lab.nodes[node_named(&node)?].remove_system().await?,
            Request::Start { node, process } => {
                let node = &mut self.lab.nodes[node_named(&node)?];
                node.await_end(&process, STOP_PATIENCE).await?;
                node.start_again(&process)?;
            }
            Request::Stop { node, process } => {
                let graceful = self.lab.nodes[node_named(&node)?].process(&process)?.stop().await?;
                return Ok(json!({ "ok": true, "graceful": graceful }));
            }
            Request::Restart { node, process } => {
                let node = &mut self.lab.nodes[node_named(&node)?];
                let graceful = node.process(&process)?.stop().await?;
                node.start_again(&process)?;
                return Ok(json!({ "ok": true, "graceful": graceful }));
            }
            Request::ToggleReady { node } => {
                self.lab.nodes[node_named(&node)?].process("apiserver")?.signal(Signal::USR1)?;
            }
            Request::AwaitReady { node } => self.lab.backend_ready(node_named(&node)?).await?,
            Request::DeleteVip { node } => {
                let deleted = self.lab.nodes[node_named(&node)?].remove_addresses().await?;
                return Ok(json!({ "ok": true, "deleted": deleted }));
            }
            Request::Probe { on } => self.lab.set_probing(on).await?,
            Request::AwaitOwner { not, within_ms } => {
                let not = not.as_deref().map(node_named).transpose()?;
                let patience = Duration::from_millis(within_ms);
                self.lab.await_owner(patience, |owner| Some(owner) != not).await?;
                return Ok(self.owner());
            }
            Request::Calm { for_ms, within_ms } => {
                let (lasting, patience) = (Duration::from_millis(for_ms), Duration::from_millis(within_ms));
                self.lab.calm(lasting, patience).await?;
                return Ok(self.owner());
            }
        }
        Ok(json!({ "ok": true }))
    }

    fn owner(&self) -> Value {
        let holders: Vec<&str> = self.lab.holders().into_iter().map(|node| NODES[node]).collect();
        let owner = self.lab.owner().map(|node| NODES[node]);
        json!({ "ok": true, "owner": owner, "holders": holders })
    }

    fn nodes(&mut self) -> Value {
        let nodes = self.lab.nodes.iter_mut().zip(NODES).map(|(node, name)| {
            json!({
                "name": name,
                "address": node.host.address,
                "running": node.running(),
                "folder": node.folder(),
                "vipd_socket": node.vipd_socket(),
            })
        });
        json!({ "ok": true, "nodes": nodes.collect::<Vec<_>>() })
    }

    fn history(&self, since: u64) -> Result<Value> {
        let now = clock_gettime(ClockId::Monotonic);
        let now_ns = u64::try_from(Duration::try_from(now)?.as_nanos())?;
        let read_at = Instant::now();
        let stamp = |at: Instant| {
            let age = read_at.saturating_duration_since(at).as_nanos();
            u64::try_from(age).map(|age| now_ns.saturating_sub(age))
        };
        let mut changes = Vec::new();
        for change in self.lab.ownership.changes().entries() {
            let ns = stamp(change.at)?;
            if ns >= since {
                let (node, address, held) = (NODES[change.node], change.address, change.held);
                changes.push(json!({ "ns": ns, "node": node, "address": address, "held": held }));
            }
        }
        Ok(json!({ "ok": true, "now_ns": now_ns, "changes": changes }))
    }

    fn observe(&mut self) -> Value {
        let from = std::mem::replace(&mut self.observed, Instant::now());
        let seen = self.lab.observe(from);
        describe(&seen)
    }
}

fn describe(seen: &Observation) -> Value {
    let milliseconds = |duration: Duration| duration.as_secs_f64() * 1000.0;
    let node_names = |nodes: &std::collections::BTreeSet<usize>| -> Vec<&str> {
        nodes.iter().map(|node| NODES[*node]).collect()
    };
    let overlaps = seen.overlaps.iter().map(|overlap| {
        json!({
            "address": overlap.address,
            "nodes": node_names(&overlap.nodes),
            "ms": milliseconds(overlap.duration),
        })
    });
    let moves = seen.moves.iter().map(
        |it| json!({ "from": NODES[it.from], "to": NODES[it.to], "ms_ago": milliseconds(it.at.elapsed()) }),
    );
    let failed = seen.service.failed.iter().map(|(verdict, count)| (verdict.name(), *count));
    json!({
        "ok": true,
        "holders": node_names(&seen.holders),
        "moves": moves.collect::<Vec<_>>(),
        "overlaps": overlaps.collect::<Vec<_>>(),
        "arp_at_once": seen.answered_at_once,
        "arp_overlap_ms": milliseconds(seen.answered_overlap),
        "silence_ms": milliseconds(seen.service.silence),
        "good": seen.service.good,
        "failed": failed.collect::<std::collections::BTreeMap<_, _>>(),
    })
}

fn signal_named(name: &str) -> Result<Signal> {
    Ok(match name.strip_prefix("SIG").unwrap_or(name) {
        "KILL" => Signal::KILL,
        "TERM" => Signal::TERM,
        "STOP" => Signal::STOP,
        "CONT" => Signal::CONT,
        "HUP" => Signal::HUP,
        "INT" => Signal::INT,
        "USR1" => Signal::USR1,
        "USR2" => Signal::USR2,
        _ => bail!("no signal {name}: KILL, TERM, STOP, CONT, HUP, INT, USR1 or USR2"),
    })
}
