//! A process of the lab: started in a namespace, with its output in a file, signalled by its handle.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::{Child, ChildStderr, Command};

use crate::namespace::Namespace;

/// How long a process may take to end after SIGTERM: what a kubelet gives a container.
pub const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// What to start.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Its name in the lab: `vipd`, `keepalived`, `haproxy`, `kube-vip`, `participant`, `apiserver`, `etcd`.
    pub name: &'static str,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// What its environment has beside the lab's own.
    pub env: Vec<(&'static str, String)>,
    /// Files to remove before each start: a killed daemon leaves its pid files and sockets.
    pub leftovers: Vec<PathBuf>,
}

impl Launch {
    /// A program and its arguments.
    pub fn new<A: Into<OsString>>(
        name: &'static str,
        program: &Path,
        args: impl IntoIterator<Item = A>,
    ) -> Self {
        let args = args.into_iter().map(Into::into).collect();
        Self { name, program: program.to_owned(), args, env: Vec::new(), leftovers: Vec::new() }
    }

    /// Starts it, in a process group of its own; its output is added to `NAME.log` in the folder.
    ///
    /// # Errors
    /// If the program cannot be run.
    pub fn start(&self, namespace: &Namespace, folder: &Path) -> Result<Process> {
        let (mut command, log, output) = self.prepare(folder)?;
        command.stdout(output.try_clone()?).stderr(output);
        self.spawn(command, namespace, log)
    }

    /// The same, but what it says on standard error is for whoever reads it from what is returned.
    ///
    /// # Errors
    /// If the program cannot be run.
    pub fn start_heard(&self, namespace: &Namespace, folder: &Path) -> Result<(Process, ChildStderr)> {
        let (mut command, log, output) = self.prepare(folder)?;
        command.stdout(output).stderr(Stdio::piped());
        let mut process = self.spawn(command, namespace, log)?;
        let said = process.child.stderr.take().context("standard error is piped")?;
        Ok((process, said))
    }

    fn prepare(&self, folder: &Path) -> Result<(Command, PathBuf, File)> {
        for file in &self.leftovers {
            std::fs::remove_file(file).ok();
        }
        let log = folder.join(format!("{}.log", self.name));
        let output = OpenOptions::new().create(true).append(true).open(&log)?;
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(folder)
            .stdin(Stdio::null())
            .process_group(0)
            .kill_on_drop(true);
        Ok((command, log, output))
    }

    fn spawn(&self, mut command: Command, namespace: &Namespace, log: PathBuf) -> Result<Process> {
        let child = namespace
            .within(|| Ok(command.spawn()?))
            .with_context(|| format!("failed to start {}", self.program.display()))?;
        Ok(Process { name: self.name, child, log })
    }
}

/// A running (or just ended) process.
#[derive(Debug)]
pub struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Its name in the lab.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its number inside the enclosure; none once its end has been seen.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Whether it has not ended yet.
    ///
    /// # Errors
    /// The kernel's.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Sends a signal: to the process if it is one to react to, to its whole group if it is KILL, STOP or CONT.
    ///
    /// # Errors
    /// If it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.pid().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let pid = pid.with_context(|| format!("{} is not running", self.name))?;
        let whole_group = [Signal::KILL, Signal::STOP, Signal::CONT].contains(&signal);
        let sent = if whole_group { kill_process_group(pid, signal) } else { kill_process(pid, signal) };
        sent.with_context(|| format!("failed to signal {}", self.name))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn ended(&mut self) -> Result<std::process::ExitStatus> {
        Ok(self.child.wait().await?)
    }

    /// Has it end: SIGTERM, and SIGKILL if that takes too long. True if SIGTERM was enough.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn stop(&mut self) -> Result<bool> {
        if !self.is_running()? {
            return Ok(true);
        }
        self.signal(Signal::TERM)?;
        if tokio::time::timeout(STOP_PATIENCE, self.ended()).await.is_ok() {
            return Ok(true);
        }
        self.kill().await?;
        Ok(false)
    }

    /// Ends it and its group with SIGKILL.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn kill(&mut self) -> Result<()> {
        if self.is_running()? {
            self.signal(Signal::KILL)?;
            self.ended().await?;
        }
        Ok(())
    }

    /// The last lines of its output, for a message.
    pub fn last_words(&self, lines: usize) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}
