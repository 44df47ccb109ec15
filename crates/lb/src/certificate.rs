//! For which names is a server's certificate? Asked by who checks a configuration: clients reach the server through the balancer, by the
//! virtual address or a name of it, and compare that with the certificate.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustls::CertificateError;
use rustls::client::verify_server_name;
use rustls::pki_types::ServerName;
use rustls::server::ParsedCertificate;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::Ca;
use crate::tls::{self, Failure};

/// A name that apiservers of every distribution have, and hardly anything else.
const APISERVER: &str = "kubernetes";

/// What a server's certificate says of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// Those of the names that were asked for that the certificate is not for.
    pub missing: Vec<String>,
    /// Names that it is for, as far as they were told; empty where nothing is missing.
    pub presented: Vec<String>,
    /// It is an apiserver's, by its names.
    pub is_apiserver: bool,
}

/// Why there is no certificate to look at.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server can't be reached in this time, or closed the connection.
    #[error("{0}")]
    Silent(io::Error),
    /// It doesn't speak TLS.
    #[error("it does not speak TLS")]
    NotTls,
    /// It speaks TLS, and no certificate came of it that could be read.
    #[error("{0}")]
    Unreadable(String),
}

/// Connects to a server by TLS, and compares the certificate that it shows with these addresses and DNS names. Whose certificate it is
/// isn't asked: clients do.
///
/// # Errors
///
/// It shows none in this time.
pub async fn served(address: SocketAddr, names: &[String], patience: Duration) -> Result<Served, Error> {
    let connector = tls::connector(&Ca::None).map_err(Error::Unreadable)?;
    let handshake = async {
        let stream = TcpStream::connect(address).await.map_err(Error::Silent)?;
        let name = ServerName::try_from(APISERVER).expect("it is a DNS name");
        connector.connect(name, stream).await.map_err(|error| match tls::classify(&error) {
            Failure::NotTls => Error::NotTls,
            Failure::Alert(text) | Failure::Certificate(text) => Error::Unreadable(text),
            Failure::Broken(text) => Error::Silent(io::Error::other(text)),
        })
    };
    let late = |_| Error::Silent(io::ErrorKind::TimedOut.into());
    let stream = timeout(patience, handshake).await.map_err(late)??;
    let (_, connection) = stream.get_ref();
    let shown = connection.peer_certificates().and_then(<[_]>::first);
    let shown = shown.ok_or_else(|| Error::Unreadable("it shows no certificate".to_owned()))?;
    let certificate = ParsedCertificate::try_from(shown)
        .map_err(|error| Error::Unreadable(format!("its certificate can't be read: {error}")))?;
    let mut found = Served { missing: Vec::new(), presented: Vec::new(), is_apiserver: false };
    for name in names {
        if let Err(presented) = covers(&certificate, name) {
            found.missing.push(name.clone());
            found.presented = presented;
        }
    }
    found.is_apiserver = covers(&certificate, APISERVER).is_ok();
    Ok(found)
}

/// Whether a certificate is for a name, or else for which.
fn covers(certificate: &ParsedCertificate<'_>, name: &str) -> Result<(), Vec<String>> {
    let Ok(wanted) = ServerName::try_from(name) else { return Err(Vec::new()) };
    match verify_server_name(certificate, &wanted) {
        Ok(()) => Ok(()),
        Err(rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext {
            presented,
            ..
        })) => Err(presented),
        Err(_) => Err(Vec::new()),
    }
}
