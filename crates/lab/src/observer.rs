//! A thread that watches: its own runtime, a raised priority, stopped and joined when its handle is dropped.

use std::future::Future;
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::namespace::Namespace;

/// What is measured must not wait behind what measures it, and the other way round: a little is enough.
const NICE: i32 = -10;

/// The handle of a watching thread.
#[derive(Debug)]
pub struct Observer {
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Observer {
    /// Starts a thread in a namespace; the future that is made there gets a token that says when to end.
    ///
    /// Returns after `ready` has been sent by the future: from then on nothing is missed.
    ///
    /// # Errors
    /// If the thread cannot be started, or its future fails before it is ready.
    pub async fn start<F>(
        name: &str,
        namespace: Arc<Namespace>,
        make: impl FnOnce(CancellationToken, tokio::sync::oneshot::Sender<()>) -> F + Send + 'static,
    ) -> Result<Self>
    where
        F: Future<Output = Result<()>>,
    {
        let stop = CancellationToken::new();
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        let (failed, failure) = tokio::sync::oneshot::channel();
        let token = stop.clone();
        let watch = move || -> Result<()> {
            namespace.enter()?;
            if let Err(error) = rustix::process::setpriority_process(None, NICE) {
                warn!(%error, "the observer runs without raised priority");
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(make(token, ready))
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            if let Err(error) = watch() {
                warn!(error = format!("{error:#}"), "an observer ended");
                failed.send(error).ok();
            }
        })?;
        let observer = Self { stop, thread: Some(thread) };
        match is_ready.await {
            Ok(()) => Ok(observer),
            Err(_) => Err(failure.await.context("the observer ended without a reason")?),
        }
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
