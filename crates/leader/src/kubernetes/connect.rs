//! A client of one server, for an election: no Nagle's algorithm, and no time limit of its own on reading.
//!
//! kube's ready-made client has Nagle's algorithm and a read timeout. On a fresh connection the server acknowledges the end of
//! the TLS handshake 40 ms late, and with Nagle's algorithm (RFC 896) the request waits for that. A read timeout also ends
//! connections that are idle, so that a follower's first request would always need a fresh one.

use std::time::Duration;

use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder, ConfigExt as _},
};
use tower::{BoxError, ServiceBuilder};

/// Makes a client; nothing is sent yet. Connections must open within this time; how long an answer may take is the caller's to
/// limit: a request that is dropped takes its connection with it.
///
/// # Errors
///
/// Where the credentials make no TLS client.
pub(super) fn client(config: &Config, patience: Duration) -> kube::Result<Client> {
    let mut tcp = HttpConnector::new();
    // The scheme is https; TLS is added around it.
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(patience));
    let tls = config.rustls_https_connector_with_connector(tcp)?;
    let http: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new()).build(tls);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(ClientBuilder::new(service, config.default_namespace.clone()).build())
}
