//! How backends are checked: what follows from the configuration, once for all of a frontend.

use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::TlsConnector;

use crate::Error;
use crate::config::{Check, CheckKind, Frontend};
use crate::forward::Protocol;
use crate::proxy_protocol::ProxyProtocol;
use crate::readiness::Told;
use crate::tls;

/// How the backends of one frontend are checked.
pub(crate) struct Plan {
    pub(super) check: Check,
    pub(super) proxy_protocol: Option<ProxyProtocol>,
    pub(super) method: Method,
    pub(super) told: Arc<Told>,
    /// See [`Timeouts::closing`](crate::Timeouts::closing). Zero: flows end at once.
    pub(super) closing: Duration,
}

/// What is asked, and how.
#[derive(Clone)]
pub(super) enum Method {
    Nothing,
    Connect,
    Request { connector: TlsConnector, path: String, auto: bool },
}

impl Plan {
    /// Prepares TLS.
    pub(crate) fn new(frontend: &Frontend) -> Result<Self, Error> {
        let request = |path: &str, ca, auto| {
            let connector =
                tls::connector(ca).map_err(|reason| Error::Ca { frontend: frontend.name.clone(), reason })?;
            Ok(Method::Request { connector, path: path.to_owned(), auto })
        };
        let method = match &frontend.check.kind {
            CheckKind::None => Method::Nothing,
            CheckKind::Tcp => Method::Connect,
            CheckKind::Auto { path, ca } => request(path, ca, true)?,
            CheckKind::Https { path, ca } => request(path, ca, false)?,
        };
        let (check, proxy_protocol) = (frontend.check.clone(), frontend.proxy_protocol);
        // Nobody has begun anything with datagrams.
        let closing = match frontend.listen.protocol() {
            Protocol::Tcp => frontend.timeouts.closing,
            Protocol::Udp => Duration::ZERO,
        };
        Ok(Self { check, proxy_protocol, method, told: Arc::default(), closing })
    }

    /// Whether it asks the same in the same way.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let of = |plan: &Self| (plan.proxy_protocol, plan.closing);
        self.check == other.check && of(self) == of(other)
    }
}
