//! An enclosure: private PID, mount and network namespaces around one command, gone when the command is gone.
//!
//! ```text
//! outer process ──(SIGKILL at its death)──▶ init, PID 1 ──▶ the command ──▶ everything it starts
//!   the host's namespaces                   own /proc, /run, network; when it ends, the kernel ends all the rest
//! ```
//!
//! A lab that is killed must not leave daemons behind in namespaces without names. So nothing here relies on
//! cleaning up: the kernel ends every process of a PID namespace with its init, and a network namespace lives only
//! as long as a process or a mount that holds it.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{Pid, Signal, WaitOptions, geteuid, kill_process, waitpid};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use tokio::signal::unix::{SignalKind, signal};
use tracing::debug;

use crate::sys;

/// Where a lab keeps its files: on the enclosure's own tmpfs.
pub const WORK_DIR: &str = "/run/vipd-lab";
const MARKER: &str = "/run/vipd-lab/enclosure";
const OWN_NETWORK: &str = "/proc/self/ns/net";

/// How long a command may take to end after SIGTERM before the whole enclosure is killed.
const GRACE: Duration = Duration::from_secs(10);

/// The proof that the process runs in an enclosure of its own and cannot touch the host.
#[derive(Debug, Clone)]
pub struct Enclosure {
    host_pid: u32,
}

impl Enclosure {
    /// Finds out whether this process is inside an enclosure, in the network namespace that its init made.
    pub fn here() -> Option<Self> {
        let marker = fs::read_to_string(MARKER).ok()?;
        let (network, host_pid) = marker.trim_end().split_once(' ')?;
        let own = fs::read_link(OWN_NETWORK).ok()?;
        (own.as_os_str() == network).then_some(())?;
        Some(Self { host_pid: host_pid.parse().ok()? })
    }

    /// The host's number for the enclosure's init: `nsenter -t` takes it.
    pub fn host_pid(&self) -> u32 {
        self.host_pid
    }
}

/// Runs a command in a new enclosure and returns its exit code (128 + signal if a signal ended it).
///
/// SIGINT, SIGTERM and SIGHUP are passed on. Must run on a single-threaded runtime: the calling thread is the
/// parent whose death ends the enclosure.
///
/// # Errors
/// If the process is not root, or the kernel refuses the namespaces.
pub async fn enclose(program: &Path, args: &[OsString]) -> Result<u8> {
    ensure!(geteuid().is_root(), "needs root: network namespaces and raw sockets");
    let mut signals = Signals::new()?;
    let mut command = tokio::process::Command::new(std::env::current_exe()?);
    command.args(["init", "--"]).arg(program).args(args);
    sys::die_with_parent(command.as_std_mut())?;

    let own = fs::File::open("/proc/self/ns/pid")?;
    sys::unshare(UnshareFlags::NEWPID).context("failed to make a PID namespace")?;
    let child = command.spawn();
    // This thread may start threads and further children again.
    move_into_link_name_space(std::os::fd::AsFd::as_fd(&own), Some(LinkNameSpaceType::ProcessID))?;
    let mut child = child.context("failed to start the init of the enclosure")?;
    let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())).context("init ended at once")?;

    let mut kill_at = None;
    loop {
        tokio::select! {
            status = child.wait() => return Ok(exit_code(status?)),
            forwarded = signals.next() => {
                // An init that is not ready yet ignores the signal: hence the deadline.
                kill_at.get_or_insert_with(|| tokio::time::Instant::now() + GRACE);
                kill_process(pid, forwarded).ok();
            }
            () = sleep_until(kill_at) => child.start_kill()?,
        }
    }
}

async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Is the init of an enclosure: prepares its mounts, runs the command, reaps orphans, and ends with the command.
///
/// # Errors
/// If it is not PID 1, a mount is refused, or the command cannot be started.
pub async fn init(program: &OsString, args: &[OsString]) -> Result<u8> {
    ensure!(std::process::id() == 1, "`init` is for the inside of an enclosure");
    let mut signals = Signals::new()?;
    let mut children = signal(SignalKind::child())?;
    prepare()?;
    let child = std::process::Command::new(program)
        .args(args)
        .spawn()
        .with_context(|| format!("failed to start {}", Path::new(program).display()))?;
    let pid = Pid::from_child(&child);
    loop {
        tokio::select! {
            received = children.recv() => {
                received.context("the signal driver ended")?;
                if let Some(code) = reap(pid)? {
                    return Ok(code);
                }
            }
            forwarded = signals.next() => {
                kill_process(pid, forwarded).ok();
            }
        }
    }
}

/// Collects every ended process; the command's exit code if it is among them.
fn reap(command: Pid) -> Result<Option<u8>> {
    let mut code = None;
    loop {
        match waitpid(None, WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == command => {
                code = Some(exit_code(ExitStatus::from_raw(status.as_raw())));
            }
            Ok(Some((pid, _))) => debug!(pid = pid.as_raw_nonzero(), "reaped an orphan"),
            Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(code),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Makes the mounts and the network private, with a fresh /proc and /run.
fn prepare() -> Result<()> {
    // Still the host's /proc: it names this process by the host's number.
    let host_pid = fs::read_link("/proc/self")?;
    sys::unshare(UnshareFlags::NEWNS | UnshareFlags::NEWNET)
        .context("failed to make mount and network namespaces")?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .context("failed to make the mounts private")?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("proc", "/proc", "proc", flags, None).context("failed to mount /proc")?;
    mount("tmpfs", "/run", "tmpfs", flags, None).context("failed to mount /run")?;
    fs::create_dir_all(WORK_DIR)?;
    fs::create_dir_all("/run/netns")?;
    let network = fs::read_link(OWN_NETWORK)?;
    fs::write(MARKER, format!("{} {}\n", network.display(), host_pid.display()))?;
    Ok(())
}

/// The code a shell would show: 128 + the signal if one ended it.
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code).unwrap_or(u8::MAX)
}

/// The signals that ask a lab to end.
#[derive(Debug)]
pub struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

impl Signals {
    /// Listens from now on; until then the default holds (for PID 1: ignored).
    ///
    /// # Errors
    /// If the handlers cannot be installed.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// The next one.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.terminate.recv() => Signal::TERM,
            _ = self.hang_up.recv() => Signal::HUP,
        }
    }
}
