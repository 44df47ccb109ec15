//! A server that answers over TLS what an apiserver does: with a certificate, and with what a client may do.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::rig::Place;

/// Where it listens.
pub(crate) const ADDRESS: &str = "10.0.0.1:6443";

/// What it says of who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Attitude {
    /// He may do anything.
    Permits,
    /// He may do anything but this verb.
    Denies(&'static str),
    /// He is not known.
    Refuses,
}

/// Makes an authority and a certificate for these names, and a kubeconfig of it in this folder; gives what a server needs.
pub(crate) fn identity(folder: &Path, names: &[&str]) -> Arc<ServerConfig> {
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = parameters.self_signed(&key).unwrap();
    let issuer = Issuer::new(parameters, key);
    let own_key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let own = CertificateParams::new(names).unwrap().signed_by(&own_key, &issuer).unwrap();
    fs::write(folder.join("ca.crt"), authority.pem()).unwrap();
    kubeconfig(folder, &format!("https://{ADDRESS}"));
    let key = PrivateKeyDer::try_from(own_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(config.with_no_client_auth().with_single_cert(vec![own.der().clone()], key).unwrap())
}

/// Writes the kubeconfig anew, for this server.
pub(crate) fn kubeconfig(folder: &Path, server: &str) {
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         clusters: [{{name: c, cluster: {{server: \"{server}\", certificate-authority: {}}}}}]\n\
         contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\nusers: [{{name: u, user: {{token: secret}}}}]\n",
        folder.join("ca.crt").display()
    );
    fs::write(folder.join("admin.conf"), text).unwrap();
}

/// Serves in this place until the test ends.
pub(crate) fn serve(place: &Place, config: Arc<ServerConfig>, attitude: Attitude) {
    let listener = place.enter(|| TcpListener::bind(ADDRESS).unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let config = Arc::clone(&config);
            // Who only looks at the certificate says nothing more.
            thread::spawn(move || converse(stream.unwrap(), config, attitude));
        }
    });
}

/// Answers one request after the other, until the client is gone.
fn converse(stream: TcpStream, config: Arc<ServerConfig>, attitude: Attitude) -> Option<()> {
    let mut stream = BufReader::new(StreamOwned::new(ServerConnection::new(config).ok()?, stream));
    loop {
        let (mut first, mut length) = (String::new(), 0);
        stream.read_line(&mut first).ok().filter(|read| *read > 0)?;
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).ok().filter(|read| *read > 0)?;
            let line = line.trim().to_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).ok()?;
        let (code, answer) = answer(&first, &String::from_utf8_lossy(&body), attitude);
        let head = format!(
            "HTTP/1.1 {code} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            answer.len()
        );
        stream.get_mut().write_all(head.as_bytes()).ok()?;
        stream.get_mut().write_all(answer.as_bytes()).ok()?;
        stream.get_mut().flush().ok()?;
    }
}

fn answer(request: &str, body: &str, attitude: Attitude) -> (u16, String) {
    let status = |code: u16, reason: &str| {
        let text = format!(
            "{{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"metadata\":{{}},\"status\":\"Failure\",\
             \"message\":\"{reason}\",\"reason\":\"{reason}\",\"code\":{code}}}"
        );
        (code, text)
    };
    if matches!(attitude, Attitude::Refuses) {
        return status(401, "Unauthorized");
    }
    if !request.starts_with("POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews") {
        return status(404, "NotFound");
    }
    let is_denied =
        matches!(attitude, Attitude::Denies(verb) if body.contains(&format!("\"verb\":\"{verb}\"")));
    let text = format!(
        "{{\"kind\":\"SelfSubjectAccessReview\",\"apiVersion\":\"authorization.k8s.io/v1\",\"metadata\":{{}},\"spec\":{{}},\
         \"status\":{{\"allowed\":{}}}}}",
        !is_denied
    );
    (201, text)
}
