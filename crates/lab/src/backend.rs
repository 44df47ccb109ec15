//! A stand-in for kube-apiserver: HTTPS with `/readyz`, `/livez`, `/healthz` and `/version`, cheap and killable.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

use crate::isolation::Signals;
use crate::pki::Pki;

/// More than a prober with its in-flight limit and three balancers' checks ever open.
const MAX_CONNECTIONS: usize = 4096;
/// A request head of a health check has a few hundred bytes.
const MAX_HEAD: usize = 8192;
/// A client that has connected and says nothing is not kept.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What every connection needs to know.
#[derive(Debug)]
pub(crate) struct Answers {
    node: String,
    ready: AtomicBool,
}

/// Serves until SIGTERM; SIGUSR1 toggles readiness.
///
/// # Errors
/// If the certificates cannot be read or the port is taken.
pub async fn serve(listen: SocketAddr, node: String, certificates: &Path) -> Result<()> {
    let tls = TlsAcceptor::from(Pki::open(certificates).server()?);
    let listener =
        TcpListener::bind(listen).await.with_context(|| format!("failed to listen on {listen}"))?;
    let answers = Arc::new(Answers::new(node));
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut toggle = signal(SignalKind::user_defined1())?;
    let mut end = Signals::new()?;
    let mut connections = JoinSet::new();
    info!(node = answers.node, %listen, "serving");
    loop {
        tokio::select! {
            accepted = listener.accept(), if places.available_permits() > 0 => match accepted {
                Ok((stream, _)) => {
                    let place = Arc::clone(&places).try_acquire_owned().context("one was free")?;
                    let (tls, answers) = (tls.clone(), Arc::clone(&answers));
                    connections.spawn(async move {
                        let _place = place;
                        stream.set_nodelay(true).ok();
                        if let Err(error) = converse(stream, &tls, &answers).await {
                            debug!(%error, "connection ended early");
                        }
                    });
                }
                Err(error) => warn!(%error, "failed to accept"),
            },
            Some(_) = connections.join_next() => {}
            _ = toggle.recv() => answers.toggle(),
            _ = end.next() => return Ok(()),
        }
    }
}

/// Answers the requests of one connection until the client closes it or asks for its end.
///
/// # Errors
/// If the client breaks it off, or does not speak TLS.
pub(crate) async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    tls: &TlsAcceptor,
    answers: &Answers,
) -> Result<()> {
    let mut stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await??;
    let mut head = Vec::with_capacity(1024);
    loop {
        let end = loop {
            if let Some(end) = head.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end + 4;
            }
            if head.len() >= MAX_HEAD || stream.read_buf(&mut head).await? == 0 {
                return Ok(());
            }
        };
        let request = String::from_utf8_lossy(&head[..end]).into_owned();
        head.drain(..end);
        let last = request.to_ascii_lowercase().contains("\r\nconnection: close");
        stream.write_all(answers.answer(&request, last).as_bytes()).await?;
        if last {
            stream.shutdown().await?;
            return Ok(());
        }
    }
}

impl Answers {
    /// Those of a node that is ready.
    pub(crate) fn new(node: String) -> Self {
        Self { node, ready: AtomicBool::new(true) }
    }

    /// Changes whether it is ready.
    pub(crate) fn toggle(&self) {
        let ready = !self.ready.fetch_xor(true, Ordering::Relaxed);
        info!(ready, "readiness changed");
    }

    fn answer(&self, request: &str, last: bool) -> String {
        let mut words = request.split_ascii_whitespace();
        let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let path = target.split('?').next().unwrap_or("");
        let version = format!(r#"{{"gitVersion":"v0.0.0-lab","node":"{}"}}"#, self.node);
        let (status, body) = match (method, path) {
            ("GET" | "HEAD", "/readyz") if !self.ready.load(Ordering::Relaxed) => {
                ("503 Service Unavailable", "shutting down")
            }
            ("GET" | "HEAD", "/readyz" | "/livez" | "/healthz") => ("200 OK", "ok"),
            ("GET" | "HEAD", "/version") => ("200 OK", version.as_str()),
            ("GET" | "HEAD", _) => ("404 Not Found", "not found"),
            _ => ("405 Method Not Allowed", "only GET"),
        };
        let connection = if last { "close" } else { "keep-alive" };
        let (node, length) = (&self.node, body.len());
        let sent = if method == "HEAD" { "" } else { body };
        format!(
            "HTTP/1.1 {status}\r\nserver: {node}\r\ncontent-length: {length}\r\nconnection: {connection}\r\n\r\n{sent}"
        )
    }
}
