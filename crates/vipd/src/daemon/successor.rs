//! SIGUSR2: the next vipd, perhaps of another version, is started and gets the listening sockets; then this one stops, and its connections go
//! on until they end, or for as long as `drainTimeout`.
//!
//! The next one has the same arguments and environment, and reads the configuration anew. Until it says that it accepts, nothing has changed; if
//! it doesn't, it is ended, and this one goes on. Addresses and elections go as at any stop, and the next one takes part when they are gone: two
//! that own an address, there never are.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as Pair;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::signal::unix::Signal;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::handing::{self, RELEASED, TAKEN};
use super::predecessor::VARIABLE;
use crate::service::{Service, WATCHDOG_PROCESS};

/// How long the next vipd may take until it accepts: it waits for names, files and its interface, as any start does.
const TAKE_MAX: Duration = Duration::from_secs(60);

/// The signal, and what is started at it.
pub(super) struct Succession {
    signal: Signal,
    program: PathBuf,
    arguments: Vec<OsString>,
}

/// The next vipd, which accepts already.
#[derive(Debug)]
pub(crate) struct Successor {
    socket: UnixStream,
    process: u32,
}

impl Succession {
    /// The program is the file that this one was started from, whatever will be there then.
    ///
    /// # Errors
    /// The kernel doesn't tell the file.
    pub(super) fn new(signal: Signal) -> io::Result<Self> {
        Ok(Self {
            signal,
            program: std::env::current_exe()?,
            arguments: std::env::args_os().skip(1).collect(),
        })
    }

    /// Waits for the signal, and has a successor take over; tells when one has. May be cancelled at any time: a successor that was
    /// begun and has not taken over ends with it.
    pub(super) async fn follow(
        mut self,
        listeners: Option<lb::ConfigHandle>,
        service: Rc<Service>,
        taken: oneshot::Sender<Successor>,
    ) {
        while self.signal.recv().await.is_some() {
            let Some(listeners) = &listeners else {
                error!(
                    "SIGUSR2: this vipd balances nothing, and so has no listeners to hand over: restart it"
                );
                continue;
            };
            match self.begin(listeners).await {
                Ok(successor) => {
                    info!(pid = successor.process, "the next vipd accepts: this one stops");
                    // Before it is let go: it speaks to the manager itself from then on.
                    service.hand_over(successor.process).await;
                    // Who doesn't wait for it is stopping anyway.
                    let _ = taken.send(successor);
                    return;
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    error!(error, "SIGUSR2: the next vipd has not taken over, and this one goes on");
                }
            }
        }
    }

    async fn begin(&self, listeners: &lb::ConfigHandle) -> anyhow::Result<Successor> {
        let listeners = listeners.listeners().await?;
        let (own, other) = Pair::pair()?;
        handing::send(&own, &listeners).context("failed to send the listeners")?;
        // They are on their way.
        drop(listeners);
        own.set_nonblocking(true)?;
        let socket = UnixStream::from_std(own)?;
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).env(VARIABLE, "1").env_remove(WATCHDOG_PROCESS);
        command.stdin(OwnedFd::from(other));
        // To start a program may take some milliseconds, which an election has not.
        let child = spawn_blocking(move || command.spawn()).await?;
        let child = child.with_context(|| format!("failed to start {}", self.program.display()))?;
        let mut begun = Begun(Some((child, socket)));
        let mut word = [0];
        match timeout(TAKE_MAX, begun.read(&mut word)).await {
            Ok(Ok(1)) if word[0] == TAKEN => begun.keep().ok_or_else(|| anyhow!("it is kept already")),
            Ok(Ok(0) | Err(_)) => Err(anyhow!("it has ended; above it says why")),
            Ok(Ok(_)) => Err(anyhow!("{} does not speak as a vipd does", self.program.display())),
            Err(_) => Err(anyhow!("it has not accepted within {} s", TAKE_MAX.as_secs())),
        }
    }
}

impl Successor {
    /// Tells it that this vipd has no address and no socket any more.
    pub(super) async fn release(&mut self) {
        if let Err(error) = self.socket.write_all(&[RELEASED]).await {
            warn!(%error, "the next vipd has ended");
        }
    }
}

/// A process that ends with this, unless it is kept.
struct Begun(Option<(Child, UnixStream)>);

impl Begun {
    async fn read(&mut self, word: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Some((_, socket)) => socket.read(word).await,
            None => Ok(0),
        }
    }

    /// Lets it live.
    fn keep(&mut self) -> Option<Successor> {
        let (child, socket) = self.0.take()?;
        Some(Successor { socket, process: child.id() })
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let Some((mut child, socket)) = self.0.take() else { return };
        spawn_blocking(move || {
            // One that has ended needs no killing, and is waited for all the same.
            let _ = child.kill();
            let _ = child.wait();
            // Not before: it would take it for this vipd's end, and begin.
            drop(socket);
        });
    }
}
