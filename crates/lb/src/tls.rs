//! TLS for health checks, and nothing else: no byte of a client goes through here.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_rustls::TlsConnector;

use crate::config::Ca;

/// Builds the connector for one frontend's checks.
///
/// # Errors
///
/// In words, when the CA holds no usable certificate.
pub(crate) fn connector(ca: &Ca) -> Result<TlsConnector, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    // No ALPN: a server that shares no protocol with us must refuse then (RFC 7301 §3.2), and HTTP/1.1 is
    // what servers speak without it.
    let config = match ca {
        Ca::None => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AcceptAny { provider }))
            .with_no_client_auth(),
        Ca::Pem(pem) => builder.with_root_certificates(roots(pem)?).with_no_client_auth(),
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

/// The name a backend's certificate must carry. An IP address is never sent as SNI (RFC 6066 §3).
pub(crate) fn server_name(address: SocketAddr) -> ServerName<'static> {
    ServerName::IpAddress(address.ip().into())
}

fn roots(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| format!("it is not PEM: {error}"))?;
        roots.add(certificate).map_err(|error| format!("a certificate can't be used: {error}"))?;
    }
    if roots.is_empty() { Err("it holds no certificate".into()) } else { Ok(roots) }
}

/// Why a handshake failed, as far as it tells something about the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The server sent bytes that are not TLS.
    NotTls,
    /// The server speaks TLS and refused ours.
    Alert(String),
    /// The server's certificate is not acceptable.
    Certificate(String),
    /// The connection ended, or TLS failed in another way.
    Broken(String),
}

/// Sorts a failed handshake.
pub(crate) fn classify(error: &io::Error) -> Failure {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(
            rustls::Error::InvalidMessage(_)
            | rustls::Error::InappropriateMessage { .. }
            | rustls::Error::InappropriateHandshakeMessage { .. },
        ) => Failure::NotTls,
        Some(rustls::Error::AlertReceived(alert)) => Failure::Alert(format!("TLS alert {alert:?}")),
        Some(error @ rustls::Error::InvalidCertificate(_)) => Failure::Certificate(error.to_string()),
        Some(error) => Failure::Broken(error.to_string()),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            Failure::Broken("connection closed during the TLS handshake".into())
        }
        None => Failure::Broken(error.to_string()),
    }
}

/// Accepts every certificate; see [`Ca::None`] for what that risks.
#[derive(Debug)]
struct AcceptAny {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
