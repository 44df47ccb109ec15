//! The vipd that this one takes over from, if it was started for that.

use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;
use tracing::{info, warn};

use super::handing::{self, RELEASED, TAKEN};
use crate::service::Service;

/// Says to the next vipd that its standard input leads to the one before.
pub(super) const VARIABLE: &str = "VIPD_TAKES_OVER";

/// How long the listeners are awaited: they are sent before this process begins.
const LISTENERS_MAX: Duration = Duration::from_secs(10);

/// How long the one before may take to give up its addresses: elections by Lease have seconds for it.
const RELEASE_MAX: Duration = Duration::from_secs(60);

/// The vipd before this one, which has given its listeners.
pub(super) struct Predecessor {
    socket: UnixStream,
    listeners: Vec<TcpListener>,
}

impl Predecessor {
    /// The one that has started this process, if one has; with its listeners.
    ///
    /// # Errors
    /// Something says so, and there is none.
    pub(super) fn find() -> anyhow::Result<Option<Self>> {
        if std::env::var_os(VARIABLE).is_none() {
            return Ok(None);
        }
        let receive = || -> io::Result<Self> {
            let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
            // Of anything but a socket, this can't be set.
            socket.set_read_timeout(Some(LISTENERS_MAX))?;
            let listeners = handing::receive(&socket)?;
            Ok(Self { socket, listeners })
        };
        let found = receive().with_context(|| {
            format!("no vipd is there to take over from: {VARIABLE} is set by a vipd that starts the next one, and by nobody else")
        })?;
        info!(listeners = found.listeners.len(), "takes over from the vipd before");
        Ok(Some(found))
    }

    /// Its listening sockets, once.
    pub(super) fn listeners(&mut self) -> Vec<TcpListener> {
        std::mem::take(&mut self.listeners)
    }

    /// Tells it that this one accepts, and waits until it has given up its addresses and sockets. One that is gone has.
    ///
    /// # Errors
    /// It doesn't.
    pub(super) async fn replace(self, service: &Service) -> anyhow::Result<()> {
        self.socket.set_nonblocking(true)?;
        let mut socket = tokio::net::UnixStream::from_std(self.socket)?;
        let mut word = [0];
        let released = async {
            socket.write_all(&[TAKEN]).await?;
            // The one before tells the service manager of this process when it reads that.
            service.set_heard(true);
            socket.read(&mut word).await
        };
        match timeout(RELEASE_MAX, released).await {
            Ok(Ok(1)) if word[0] == RELEASED => info!("the vipd before has given up all but its connections"),
            Ok(Ok(0)) => warn!("the vipd before has ended: its connections are gone"),
            Ok(Ok(_)) => return Err(anyhow!("the vipd before does not speak as a vipd does")),
            Ok(Err(error)) => warn!(%error, "the vipd before has ended: its connections are gone"),
            Err(_) => {
                let seconds = RELEASE_MAX.as_secs();
                return Err(anyhow!("the vipd before has not given up its addresses within {seconds} s"));
            }
        }
        Ok(())
    }
}
