//! One node: a host, its folder, and the processes that run on it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use tokio::time::{Instant, timeout_at};

use crate::network::{Host, nft, virtual_addresses};
use crate::process::{Launch, Process, STOP_PATIENCE};
use crate::system::{OWNERS, vipd_socket};

/// A node: a host, what runs on it, and its folder.
#[derive(Debug)]
pub struct Node {
    /// Its place on the network.
    pub host: Host,
    folder: PathBuf,
    /// What can be started here.
    launches: Vec<Launch>,
    /// What has been started here, running or not.
    processes: Vec<Process>,
}

impl Node {
    /// A node on which nothing runs yet.
    pub fn new(host: Host, folder: PathBuf) -> Self {
        Self { host, folder, launches: Vec::new(), processes: Vec::new() }
    }

    /// Its folder: configuration, logs, sockets.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where vipd answers on this node.
    pub fn vipd_socket(&self) -> PathBuf {
        vipd_socket(&self.folder)
    }

    /// A process by its name.
    ///
    /// # Errors
    /// If none of this name was started.
    pub fn process(&mut self, name: &str) -> Result<&mut Process> {
        let found = self.processes.iter_mut().find(|process| process.name() == name);
        found.with_context(|| format!("no {name} was started on this node"))
    }

    /// The names of its processes that are running.
    pub fn running(&mut self) -> Vec<&'static str> {
        let running = self
            .processes
            .iter_mut()
            .filter_map(|process| process.is_running().unwrap_or(false).then_some(process.name()));
        running.collect()
    }

    /// Starts something that was not part of this node before.
    ///
    /// # Errors
    /// If the program cannot be run.
    pub fn run(&mut self, launch: Launch) -> Result<()> {
        self.start(&launch)?;
        self.launches.push(launch);
        Ok(())
    }

    fn start(&mut self, launch: &Launch) -> Result<()> {
        let process = launch.start(&self.host.namespace, &self.folder)?;
        self.processes.retain(|old| old.name() != launch.name);
        self.processes.push(process);
        Ok(())
    }

    /// Starts a process that ended.
    ///
    /// # Errors
    /// If it still runs, or was never part of this node.
    pub fn start_again(&mut self, name: &str) -> Result<()> {
        ensure!(!self.process(name)?.is_running()?, "{name} is running");
        let launch = self.launches.iter().find(|launch| launch.name == name).cloned();
        self.start(&launch.context("it was started once")?)
    }

    /// Starts whatever of its processes has ended.
    ///
    /// # Errors
    /// If a program cannot be run.
    pub fn start_missing(&mut self) -> Result<()> {
        let running = self.running();
        let missing = self.launches.iter().filter(|launch| !running.contains(&launch.name));
        for launch in missing.cloned().collect::<Vec<_>>() {
            self.start(&launch)?;
        }
        Ok(())
    }

    /// Sends a signal to every running process of the system under test.
    ///
    /// # Errors
    /// The kernel's.
    pub fn signal_system(&mut self, signal: Signal) -> Result<()> {
        for process in self.processes.iter_mut().filter(|process| is_of_system(process.name())) {
            if process.is_running()? {
                process.signal(signal)?;
            }
        }
        Ok(())
    }

    /// Sends SIGTERM to what holds the virtual IP (see [`OWNERS`]); a haproxy goes on.
    ///
    /// # Errors
    /// If none is running.
    pub fn terminate_owner(&mut self) -> Result<()> {
        let holds = |process: &&mut Process| OWNERS.contains(&process.name());
        let process = self.processes.iter_mut().find(holds).context("no system runs here")?;
        process.signal(Signal::TERM)
    }

    /// Waits until a process has ended.
    ///
    /// # Errors
    /// If it takes too long.
    pub async fn await_end(&mut self, name: &str, patience: Duration) -> Result<std::process::ExitStatus> {
        let deadline = Instant::now() + patience;
        let ended = timeout_at(deadline, self.process(name)?.ended()).await;
        ended.with_context(|| format!("{name} did not end within {patience:?}"))?
    }

    /// Asks the system under test to end, waits for it, and forgets it. What it leaves behind stays.
    ///
    /// # Errors
    /// If it doesn't end in time.
    pub async fn end_system(&mut self) -> Result<()> {
        self.terminate_owner()?;
        self.await_end_of_owner(STOP_PATIENCE).await?;
        for process in self.processes.iter_mut().filter(|process| is_of_system(process.name())) {
            process.stop().await?;
        }
        self.forget_system();
        Ok(())
    }

    fn forget_system(&mut self) {
        self.processes.retain(|process| !is_of_system(process.name()));
        self.launches.retain(|launch| !is_of_system(launch.name));
    }

    /// Ends the system under test with SIGKILL and removes what it left on the interface and in nftables.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn remove_system(&mut self) -> Result<()> {
        for process in self.processes.iter_mut().filter(|process| is_of_system(process.name())) {
            process.kill().await?;
        }
        self.forget_system();
        self.remove_addresses().await?;
        // A killed vipd's fence outlives it, and would silence the next system.
        nft(Some(&self.host.namespace), "flush ruleset").await
    }

    /// Waits until what holds the virtual IP on this node (see [`OWNERS`]) has ended.
    ///
    /// # Errors
    /// If it takes too long.
    pub async fn await_end_of_owner(&mut self, patience: Duration) -> Result<std::process::ExitStatus> {
        let started = |name: &&str| self.processes.iter().any(|process| process.name() == *name);
        let name = OWNERS.into_iter().find(started).context("no system runs here")?;
        self.await_end(name, patience).await
    }

    /// Removes the virtual addresses by hand; says whether there was one.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn remove_addresses(&self) -> Result<bool> {
        let mut removed = false;
        for address in virtual_addresses() {
            removed |= self.host.netlink.remove_address(address).await?;
        }
        Ok(removed)
    }

    /// The last lines that a process wrote.
    pub fn last_words(&mut self, name: &str) -> String {
        self.process(name).map(|process| process.last_words(15)).unwrap_or_default()
    }

    /// The last lines that the processes of the system under test wrote.
    pub fn last_words_of_system(&self) -> String {
        let of_system = self.processes.iter().filter(|process| is_of_system(process.name()));
        let words = of_system.map(|process| {
            format!("{} {}:\n{}", self.host.namespace.name(), process.name(), process.last_words(8))
        });
        words.collect::<Vec<_>>().join("\n")
    }
}

/// Whether a process belongs to the system under test (else it is a backend).
fn is_of_system(process: &str) -> bool {
    !matches!(process, "apiserver" | "etcd")
}
