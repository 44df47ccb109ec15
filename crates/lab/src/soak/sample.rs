//! What vipd counts itself: its metrics.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::site::METRICS;
use crate::namespace::Namespace;

/// An answer comes by then.
const PATIENCE: Duration = Duration::from_secs(20);
/// Most bytes of an exposition that are read.
const MOST: u64 = 1 << 20;

/// vipd's metrics at one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Metrics {
    samples: BTreeMap<String, f64>,
}

impl Metrics {
    /// Asks vipd for them, from its own host.
    ///
    /// # Errors
    /// If it does not answer, or not as it should.
    pub(super) async fn fetch(host: &Arc<Namespace>) -> Result<Self> {
        let text = host.run(|| async { timeout(PATIENCE, get()).await.context("no answer")? }).await;
        Self::read(&text.context("vipd's metrics")?)
    }

    pub(super) fn read(text: &str) -> Result<Self> {
        let (head, body) = text.split_once("\r\n\r\n").context("an answer has a head")?;
        ensure!(head.starts_with("HTTP/1.1 200"), "the metrics are answered by {head}");
        let samples = body.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let (name, value) = line.rsplit_once(' ').with_context(|| format!("no sample: {line}"))?;
            Ok((name.to_owned(), value.parse().with_context(|| format!("no number: {line}"))?))
        });
        Ok(Self { samples: samples.collect::<Result<_>>()? })
    }

    /// A sample of the one load balancer.
    pub(super) fn frontend(&self, metric: &str) -> Option<u64> {
        self.whole(&format!("vipd_frontend_{metric}{{frontend=\"soak\"}}"))
    }

    /// A sample of one of its backends; none while vipd doesn't know it.
    pub(super) fn backend(&self, metric: &str, backend: SocketAddr) -> Option<u64> {
        self.whole(&format!("vipd_backend_{metric}{{frontend=\"soak\",backend=\"{backend}\"}}"))
    }

    /// Bytes that were handed on, in this direction.
    pub(super) fn bytes(&self, backend: SocketAddr, direction: &str) -> Option<u64> {
        self.whole(&format!(
            "vipd_backend_bytes_total{{frontend=\"soak\",backend=\"{backend}\",direction=\"{direction}\"}}"
        ))
    }

    /// Whether a backend is in this state.
    pub(super) fn is(&self, backend: SocketAddr, state: &str) -> bool {
        let name = format!("vipd_backend_state{{frontend=\"soak\",backend=\"{backend}\",state=\"{state}\"}}");
        self.whole(&name) == Some(1)
    }

    /// Seconds that vipd had a processor.
    pub(super) fn cpu(&self) -> f64 {
        self.samples.get("process_cpu_seconds_total{}").copied().unwrap_or(f64::NAN)
    }

    fn whole(&self, name: &str) -> Option<u64> {
        // Counts of this size are exact in an f64.
        self.samples.get(name).map(|value| *value as u64)
    }
}

async fn get() -> Result<String> {
    let mut stream = TcpStream::connect(METRICS).await?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: balancer\r\nconnection: close\r\n\r\n").await?;
    let mut text = String::new();
    stream.take(MOST).read_to_string(&mut text).await?;
    Ok(text)
}
