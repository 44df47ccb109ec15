//! The lab as a whole: hosts, backends, a system under test, and the hands that break them.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::time::{Instant, MissedTickBehavior};

use crate::arp::ArpObserver;
use crate::inflict::Busy;
use crate::isolation::{Enclosure, WORK_DIR};
use crate::kubernetes::Kubernetes;
use crate::network::{
    BACKEND_PORT, CLIENT, FRONTEND, Host, NODES, ONLOOKER, Switch, VIP, find_program, node_address,
};
use crate::node::Node;
use crate::ownership::OwnershipObserver;
use crate::pki::Pki;
use crate::prober::{Prober, Target, Verdict};
use crate::process::Launch;
use crate::system::{Programs, Site, System};
use crate::wall_clock::environment;

/// How often something is asked that tells nothing by itself (is the server up?).
const ASK_INTERVAL: Duration = Duration::from_millis(50);
/// A peer that was heard by then is there: three heartbeats of the slowest timing.
const HEARD_MS: u64 = 1000;
/// A stand-in backend needs milliseconds, three real apiservers half a minute.
const READY_PATIENCE: Duration = Duration::from_secs(120);

/// How to build a lab.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Real etcd and kube-apiserver instead of the stand-in.
    pub kubernetes: Option<Kubernetes>,
    /// Where the programs are.
    pub programs: Programs,
    /// The program with the `backend` subcommand; this executable if none.
    pub backend: Option<PathBuf>,
}

/// Three nodes, a switch and a client.
#[derive(Debug)]
pub struct Lab {
    /// The switch.
    pub switch: Switch,
    /// The nodes, in the order of [`NODES`].
    pub nodes: Vec<Node>,
    /// The client.
    pub client: Host,
    /// The host that asks who answers for the address. Not the client: every answer would refresh the client's own
    /// neighbour entry, and so change what is measured there.
    pub onlooker: Host,
    /// The certificates.
    pub pki: Pki,
    /// Who holds the address.
    pub ownership: OwnershipObserver,
    /// Who answers for the address.
    pub arp: ArpObserver,
    target: Target,
    prober: Option<Prober>,
    pub(crate) system: Option<System>,
    /// What starves the machine, while something does.
    pub(crate) busy: Option<Busy>,
    /// What is preloaded into the system under test, where its wall clocks are to be stepped.
    pub(crate) wall_clocks: Option<PathBuf>,
    pub(crate) plan: Plan,
}

impl Lab {
    /// Builds the network and the observers; nothing runs on the nodes yet.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn build(_proof: &Enclosure, plan: Plan) -> Result<Self> {
        find_program("nft", "nftables")?;
        let folder = PathBuf::from(WORK_DIR);
        let pki = Pki::create(&folder.join("pki"))?;
        let switch = Switch::create().await?;
        let client = switch.add_host(CLIENT, [10, 0, 0, 10].into()).await?;
        let onlooker = switch.add_host(ONLOOKER, [10, 0, 0, 11].into()).await?;
        let mut nodes = Vec::new();
        for (place, name) in NODES.iter().enumerate() {
            let host = switch.add_host(name, node_address(place)).await?;
            let folder = folder.join(name);
            fs::create_dir_all(&folder)?;
            nodes.push(Node::new(host, folder));
        }
        let namespaces = nodes.iter().map(|node| Arc::clone(&node.host.namespace)).collect();
        let ownership = OwnershipObserver::start(namespaces).await?;
        let arp = ArpObserver::start(&onlooker)?;
        let target = Target { address: FRONTEND, tls: pki.client()? };
        Ok(Self {
            switch,
            nodes,
            client,
            onlooker,
            pki,
            ownership,
            arp,
            target,
            prober: None,
            system: None,
            busy: None,
            wall_clocks: None,
            plan,
        })
    }

    /// Starts a backend on every node and waits until each is ready.
    ///
    /// # Errors
    /// If one does not become ready.
    pub async fn start_backends(&mut self) -> Result<()> {
        let own = std::env::current_exe()?;
        for place in 0..NODES.len() {
            let node = &mut self.nodes[place];
            let launches = match &self.plan.kubernetes {
                Some(kubernetes) => vec![
                    kubernetes.etcd(place, node.folder()),
                    kubernetes.apiserver(place, node.folder(), &self.pki)?,
                ],
                None => vec![backend(place, self.plan.backend.as_deref().unwrap_or(&own), &self.pki)],
            };
            for launch in launches {
                node.run(launch)?;
            }
        }
        for place in 0..NODES.len() {
            self.backend_ready(place).await?;
        }
        Ok(())
    }

    /// Waits until the backend of a node answers that it is ready. A real apiserver that gave up because its etcd was
    /// not there yet is started again, as a kubelet would.
    ///
    /// # Errors
    /// If it ends, or takes too long; the message has its last words.
    pub async fn backend_ready(&mut self, place: usize) -> Result<()> {
        let deadline = Instant::now() + READY_PATIENCE;
        let mut ticks = tokio::time::interval(ASK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let address = SocketAddr::from((node_address(place), BACKEND_PORT));
        let target = Target { address, tls: Arc::clone(&self.target.tls) };
        while Instant::now() < deadline {
            ticks.tick().await;
            let asked = target.clone();
            let answer = self
                .client
                .namespace
                .run(async move || Ok(asked.attempt_within(Duration::from_secs(2)).await));
            if answer.await?.verdict == Verdict::Ok {
                return Ok(());
            }
            let restarts = self.plan.kubernetes.is_some();
            let node = &mut self.nodes[place];
            if !node.process("apiserver")?.is_running()? {
                ensure!(restarts, "the backend of {} ended:\n{}", NODES[place], node.last_words("apiserver"));
                node.start_again("apiserver")?;
            }
        }
        bail!("the backend of {} is not ready:\n{}", NODES[place], self.nodes[place].last_words("apiserver"))
    }

    /// Starts a system under test on all nodes, the first node first. Whatever ran before must have been stopped.
    ///
    /// # Errors
    /// If a program is missing.
    pub fn start_system(&mut self, system: System) -> Result<()> {
        self.aim(system)?;
        for place in 0..NODES.len() {
            self.start_system_on(place, system)?;
        }
        Ok(())
    }

    /// Has the kubeconfig and the prober lead to where a system's clients connect.
    ///
    /// # Errors
    /// If the system elects by Lease and the lab has no real control planes, a program of it is missing, or the kubeconfig cannot
    /// be written.
    pub fn aim(&mut self, system: System) -> Result<()> {
        ensure!(
            system.lease().is_none() || self.plan.kubernetes.is_some(),
            "{system} elects by a Kubernetes Lease: it needs real control planes (--kubernetes)"
        );
        system.find(&self.plan.programs)?;
        self.system = Some(system);
        self.target.address = system.frontend();
        self.pki.write_kubeconfig(system.frontend())
    }

    /// Starts a system on one node, beside what the other nodes run. Whatever ran there before must have been stopped.
    ///
    /// # Errors
    /// If a program is missing.
    pub fn start_system_on(&mut self, place: usize, system: System) -> Result<()> {
        let node = &mut self.nodes[place];
        if system == System::VipdKernel {
            // As on every host of Kubernetes; left alone for the others, which do without.
            node.host.namespace.within(|| Ok(fs::write("/proc/sys/net/ipv4/ip_forward", "1")?))?;
            node.host.namespace.within(|| Ok(fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")?))?;
        }
        let site = Site { node: place, folder: node.folder(), programs: &self.plan.programs, pki: &self.pki };
        for mut launch in system.prepare(site)? {
            let clock = self.wall_clocks.as_deref().map(|library| environment(library, node.folder()));
            launch.env.extend(clock.into_iter().flatten());
            node.run(launch)?;
        }
        Ok(())
    }

    /// Deletes the Lease, where there is one: the next system starts like the first.
    ///
    /// # Errors
    /// If no apiserver answers.
    pub async fn free_lease(&self) -> Result<()> {
        match &self.plan.kubernetes {
            Some(kubernetes) => kubernetes.free_lease(&self.client.namespace, &self.pki).await,
            None => Ok(()),
        }
    }

    /// Ends the system under test with SIGKILL and removes what it left on the interfaces.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn remove_system(&mut self) -> Result<()> {
        self.system = None;
        for node in &mut self.nodes {
            node.remove_system().await?;
        }
        Ok(())
    }

    /// Asks the system under test to end, on one node after the other, and waits for it. What it leaves behind stays.
    ///
    /// # Errors
    /// If it doesn't end in time.
    pub async fn end_system(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.end_system().await?;
        }
        self.system = None;
        Ok(())
    }

    /// Ends what starves the machine, plugs everything in again, heals all cuts and starts missing backends: whatever a trial that failed left undone.
    ///
    /// # Errors
    /// If a backend does not become ready.
    pub async fn restore(&mut self) -> Result<()> {
        self.busy = None;
        self.switch.heal().await?;
        for name in NODES {
            self.switch.set_plugged(name, true).await?;
            self.switch.set_link(name, true).await?;
        }
        for place in 0..NODES.len() {
            self.nodes[place].start_missing()?;
            self.backend_ready(place).await?;
        }
        Ok(())
    }

    /// The system under test.
    pub fn system(&self) -> Option<System> {
        self.system
    }

    /// Starts the prober, or ends it and forgets its attempts.
    ///
    /// # Errors
    /// If its thread cannot be started.
    pub async fn set_probing(&mut self, on: bool) -> Result<()> {
        self.prober = match (on, self.prober.take()) {
            (true, None) => {
                Some(Prober::start(Arc::clone(&self.client.namespace), self.target.clone()).await?)
            }
            (true, running) => running,
            (false, _) => None,
        };
        Ok(())
    }

    /// The prober, if it is on.
    pub fn prober(&self) -> Option<&Prober> {
        self.prober.as_ref()
    }

    /// The node that holds the virtual IP; none if no node or several do.
    pub fn owner(&self) -> Option<usize> {
        let holders = self.ownership.holders(VIP.into());
        if holders.len() == 1 { holders.first().copied() } else { None }
    }

    /// All nodes that hold the virtual IP.
    pub fn holders(&self) -> BTreeSet<usize> {
        self.ownership.holders(VIP.into())
    }

    /// Waits until exactly one node holds the virtual IP and the predicate agrees.
    ///
    /// # Errors
    /// If that does not happen in time.
    pub async fn await_owner(
        &self,
        patience: Duration,
        mut wanted: impl FnMut(usize) -> bool,
    ) -> Result<usize> {
        let vip: IpAddr = VIP.into();
        let found = self.ownership.changes().wait_for(Instant::now() + patience, |changes| {
            let holders = crate::ownership::holders(changes, vip);
            let owner = if holders.len() == 1 { holders.first().copied() } else { None };
            owner.filter(|owner| wanted(*owner))
        });
        found.await.with_context(|| {
            let words: Vec<String> = self.nodes.iter().map(|node| node.last_words_of_system()).collect();
            format!("no such owner within {patience:?}; the system's last words:\n{}", words.join("\n"))
        })
    }

    /// Waits until another node than this one holds the virtual IP, whether or not this one has let go.
    ///
    /// # Errors
    /// If that does not happen in time.
    pub async fn await_another(&self, than: usize, patience: Duration) -> Result<()> {
        let vip: IpAddr = VIP.into();
        let another = self.ownership.changes().wait_for(Instant::now() + patience, |changes| {
            crate::ownership::holders(changes, vip).iter().any(|holder| *holder != than).then_some(())
        });
        another
            .await
            .with_context(|| format!("no other node than {} took the address in {patience:?}", NODES[than]))
    }

    /// Waits until one node has held the address, and every request has been answered, for a while; returns the node.
    ///
    /// # Errors
    /// If the prober is off, or that does not happen in time.
    pub async fn calm(&self, lasting: Duration, patience: Duration) -> Result<usize> {
        let prober = self.prober.as_ref().context("the prober is off")?;
        let began = Instant::now();
        let question = |attempts: &std::collections::VecDeque<crate::prober::Attempt>| {
            let since = Instant::now() - lasting;
            let recent = attempts.iter().rev().take_while(|attempt| attempt.ended > since);
            let (mut count, mut good) = (0, 0);
            for attempt in recent {
                count += 1;
                good += usize::from(attempt.verdict == Verdict::Ok);
            }
            let changed = self.ownership.changes().read(|changes| changes.back().map(|change| change.at));
            let quiet = began <= since && changed.is_none_or(|at| at < since);
            (quiet && count > 0 && good == count).then(|| self.owner()).flatten()
        };
        let calm = prober.attempts().wait_for(began + patience, question).await;
        calm.with_context(|| format!("not calm for {lasting:?} within {patience:?}"))
    }

    /// Waits until the vipd that owns the first address says that both others are there, and could take over. It tells nobody when that
    /// becomes true, so it's asked.
    ///
    /// # Errors
    /// If it doesn't answer, or that does not happen in time.
    pub async fn others_are_fit(&self, owner: usize, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let status = self.vipd_status(owner)?;
            let peers = status["owners"][0]["peers"].as_array().context("a status names its peers")?;
            let fit = |peer: &&serde_json::Value| {
                peer["heard_ms"].as_u64().is_some_and(|ago| ago < HEARD_MS)
                    && peer["eligible"] == true
                    && peer["resting"] != true
            };
            if peers.iter().filter(fit).count() == NODES.len() - 1 {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "{} has no two fit peers in {patience:?}: {}",
                    NODES[owner],
                    status["owners"][0]["peers"]
                );
            }
            tokio::time::sleep(ASK_INTERVAL).await;
        }
    }

    /// Cuts a node from the other nodes, both ways; the client still reaches it.
    ///
    /// # Errors
    /// If `nft` refuses.
    pub async fn partition(&mut self, place: usize) -> Result<()> {
        let name = NODES[place];
        let others = NODES.into_iter().filter(|other| *other != name);
        let both_ways = others
            .flat_map(|other| [(name, other), (other, name)])
            .map(|(from, to)| (from.to_owned(), to.to_owned()));
        self.switch.cut(both_ways).await
    }

    /// What vipd on a node says of itself.
    ///
    /// # Errors
    /// If it doesn't answer.
    pub fn vipd_status(&self, place: usize) -> Result<serde_json::Value> {
        let mut ask = std::process::Command::new(self.plan.programs.vipd()?);
        let asked =
            ask.args(["status", "--json", "--socket"]).arg(self.nodes[place].vipd_socket()).output()?;
        ensure!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
        Ok(serde_json::from_slice(&asked.stdout)?)
    }

    /// Copies every process's output into a folder.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn save_logs(&self, to: &Path) -> Result<()> {
        fs::create_dir_all(to)?;
        for (node, name) in self.nodes.iter().zip(NODES) {
            for entry in fs::read_dir(node.folder())? {
                let path = entry?.path();
                let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if path.is_file() && !file.ends_with(".key") {
                    fs::copy(&path, to.join(format!("{name}.{file}")))?;
                }
            }
        }
        Ok(())
    }

    /// Runs a command on the client, with the lab's coordinates in its environment.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn command_on_client(&self, program: &OsString, args: &[OsString]) -> Result<tokio::process::Child> {
        let mut command = tokio::process::Command::new(program);
        command
            .args(args)
            .kill_on_drop(true)
            .env("KUBECONFIG", self.pki.kubeconfig())
            .env("LAB_VIP", VIP.to_string())
            .env("LAB_PORT", self.target.address.port().to_string())
            .env("LAB_CA", self.pki.authority())
            .env("LAB_SOCKET", control_socket());
        if let Some(kubernetes) = &self.plan.kubernetes {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let folders = std::iter::once(kubernetes.folder().to_owned()).chain(std::env::split_paths(&path));
            command.env("PATH", std::env::join_paths(folders)?);
        }
        let started = self.client.namespace.within(|| Ok(command.spawn()?));
        started.with_context(|| format!("failed to start {}", Path::new(program).display()))
    }
}

/// The control socket of the lab, inside its enclosure.
pub fn control_socket() -> PathBuf {
    Path::new(WORK_DIR).join("control.sock")
}

fn backend(place: usize, program: &Path, pki: &Pki) -> Launch {
    let mut launch = Launch::new("apiserver", program, ["backend", "--node", NODES[place], "--certificates"]);
    let listen = SocketAddr::from(([0_u16; 8], BACKEND_PORT)).to_string();
    launch.args.extend([pki.folder().into(), "--listen".into(), listen.into()]);
    launch
}
