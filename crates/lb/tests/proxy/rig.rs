//! Backends, clients and waiting for the tests. Everything a test starts ends with it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use lb::{
    Backend, BackendStatus, Balancer, Ca, Check, CheckKind, Config, Frontend, FrontendStatus, Health, Limits,
    Listen, Monitor, Policy, Timeouts,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::server::TlsStream;

/// For anything that takes milliseconds on a quiet machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Fails the test instead of hanging it.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes milliseconds on a quiet machine")
}

type Conversation = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A backend process: its listener and connections, which die together.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) accepted: Arc<AtomicUsize>,
    /// Every open connection has a clone of it.
    open: Arc<()>,
    life: JoinSet<()>,
}

impl Server {
    /// Serves every connection with `serve`, on a loopback address of its own.
    pub(crate) async fn start<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::start_at(SocketAddr::new(own_ip(), 0), serve).await
    }

    pub(crate) async fn start_at<F>(
        address: SocketAddr,
        serve: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        let open = Arc::new(());
        let each = Arc::clone(&open);
        let mut life = JoinSet::new();
        life.spawn(async move {
            let mut connections: JoinSet<()> = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                let (conversation, open): (Conversation, _) = (Box::pin(serve(stream)), Arc::clone(&each));
                connections.spawn(async move {
                    conversation.await;
                    drop(open);
                });
            }
        });
        Self { address, accepted, open, life }
    }

    /// Ends it as `kill -9` would: the kernel closes the listener and every connection.
    pub(crate) async fn kill(mut self) -> SocketAddr {
        self.life.shutdown().await;
        self.address
    }

    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Connections that it serves now.
    pub(crate) fn open(&self) -> usize {
        // One is its own, one its listener's.
        Arc::strong_count(&self.open) - 2
    }
}

/// An address in 127.0.0.0/8 that no other test uses, so that a port that was closed stays closed.
pub(crate) fn own_ip() -> IpAddr {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let process = u8::try_from(std::process::id() % 100).expect("it is below 100") + 100;
    IpAddr::V4(Ipv4Addr::new(127, process, high, low))
}

/// An address where nobody listens.
pub(crate) async fn closed_address() -> SocketAddr {
    Server::start(async |_| {}).await.kill().await
}

/// Says its name first, then repeats what it hears until the client has ended.
pub(crate) async fn named_echo(name: &'static str) -> Server {
    Server::start(move |mut stream| async move {
        let _ = stream.write_all(name.as_bytes()).await;
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = write.shutdown().await;
    })
    .await
}

/// Repeats what it hears until the client has ended.
pub(crate) async fn echo(mut stream: TcpStream) {
    let (mut read, mut write) = stream.split();
    let _ = tokio::io::copy(&mut read, &mut write).await;
    let _ = write.shutdown().await;
}

/// Certificate authority and server identity for 127.0.0.0/8.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) ca_pem: Vec<u8>,
    acceptor: tokio_rustls::TlsAcceptor,
}

impl Identity {
    /// A new CA that has signed a certificate for `ip`.
    pub(crate) fn new(ip: IpAddr) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        // Two CAs of one name would look like one whose signature is wrong.
        parameters.distinguished_name.push(rcgen::DnType::CommonName, own_ip().to_string());
        let ca = parameters.self_signed(&key).unwrap();
        let issuer = rcgen::Issuer::new(parameters, key);
        let leaf_key = rcgen::KeyPair::generate().unwrap();
        let leaf = rcgen::CertificateParams::new(vec![ip.to_string()])
            .unwrap()
            .signed_by(&leaf_key, &issuer)
            .unwrap();
        let key = PrivateKeyDer::try_from(leaf_key.serialize_der()).unwrap();
        let chain: Vec<CertificateDer<'static>> = vec![leaf.der().clone()];
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        Self { ca_pem: ca.pem().into_bytes(), acceptor: tokio_rustls::TlsAcceptor::from(Arc::new(config)) }
    }

    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.acceptor.accept(stream).await
    }
}

/// A backend that speaks HTTPS as a kube-apiserver does.
pub(crate) struct ApiServer {
    pub(crate) server: Server,
    pub(crate) identity: Identity,
    pub(crate) name: String,
    answer: watch::Sender<Vec<u8>>,
}

/// A complete answer with this status.
pub(crate) fn status(code: u16) -> Vec<u8> {
    format!("HTTP/1.1 {code} X\r\nContent-Length: 2\r\n\r\nok").into_bytes()
}

impl ApiServer {
    /// Answers /readyz with `answer` (nothing at all if empty) and any other path with its name.
    pub(crate) async fn start(name: &str, answer: Vec<u8>) -> Self {
        let ip = own_ip();
        Self::start_at(SocketAddr::new(ip, 0), name, answer, Identity::new(ip)).await
    }

    pub(crate) async fn start_at(
        address: SocketAddr,
        name: &str,
        answer: Vec<u8>,
        identity: Identity,
    ) -> Self {
        let answer = watch::Sender::new(answer);
        let (answers, tls, own_name) = (answer.subscribe(), identity.clone(), name.to_owned());
        let server = Server::start_at(address, move |stream| {
            let (answers, tls, name) = (answers.clone(), tls.clone(), own_name.clone());
            async move {
                let Ok(mut stream) = tls.accept(stream).await else { return };
                while let Some(request) = read_head(&mut stream).await {
                    let reply = if request.starts_with("GET /readyz ") {
                        answers.borrow().clone()
                    } else {
                        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len())
                            .into_bytes()
                    };
                    if stream.write_all(&reply).await.is_err() || stream.flush().await.is_err() {
                        return;
                    }
                    if reply.windows(17).any(|window| window == b"Connection: close") {
                        let _ = stream.shutdown().await;
                        return;
                    }
                }
            }
        })
        .await;
        Self { server, identity, name: name.to_owned(), answer }
    }

    pub(crate) fn answer(&self, answer: Vec<u8>) {
        self.answer.send_replace(answer);
    }

    pub(crate) fn backend(&self) -> Backend {
        backend(&self.name, self.server.address)
    }
}

/// A request's head, or `None` at the end of the stream.
pub(crate) async fn read_head(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

/// Asks through TLS for the name of the backend.
pub(crate) async fn whoami(stream: TcpStream) -> io::Result<String> {
    let connector = accept_any();
    let mut stream = connector.connect("api.test".try_into().unwrap(), stream).await?;
    stream.write_all(b"GET /whoami HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    while !answer.windows(4).any(|window| window == b"\r\n\r\n") || answer.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut answer).await? == 0 {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&answer).rsplit("\r\n").next().unwrap_or_default().to_owned())
}

pub(crate) fn accept_any() -> tokio_rustls::TlsConnector {
    #[derive(Debug)]
    struct Any;
    impl rustls::client::danger::ServerCertVerifier for Any {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &rustls::pki_types::ServerName<'_>,
            _: &[u8],
            _: rustls::pki_types::UnixTime,
        ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
            Ok(rustls::client::danger::ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Any))
        .with_no_client_auth();
    tokio_rustls::TlsConnector::from(Arc::new(config))
}

pub(crate) fn backend(name: &str, address: SocketAddr) -> Backend {
    Backend { name: name.to_owned(), address, cordoned: false }
}

/// A frontend on a loopback address of its own, checked quickly by connections alone.
pub(crate) fn frontend(backends: Vec<Backend>) -> Frontend {
    Frontend {
        name: "api".into(),
        listen: Listen::Addresses { ips: vec![own_ip()], port: 0 },
        backends,
        policy: Policy::LeastConnections,
        slow_start: None,
        check: Check {
            kind: CheckKind::Tcp,
            interval: Duration::from_millis(50),
            timeout: Duration::from_secs(2),
            rise: 2,
            fall: 3,
        },
        timeouts: Timeouts::default(),
        limits: Limits { max_connections: 1000, per_source: None },
        virtual_ips: Vec::new(),
        rebalance: None,
        proxies: Vec::new(),
        transparent_source: Vec::new(),
        proxy_protocol: None,
        access_log: false,
    }
}

/// The default check of an apiserver, but quick.
pub(crate) fn readyz(kind: fn(String, Ca) -> CheckKind, ca: Ca) -> Check {
    Check { kind: kind("/readyz".into(), ca), ..frontend(Vec::new()).check }
}

pub(crate) fn https(path: String, ca: Ca) -> CheckKind {
    CheckKind::Https { path, ca }
}

pub(crate) fn auto(path: String, ca: Ca) -> CheckKind {
    CheckKind::Auto { path, ca }
}

/// A running balancer with one frontend, of which most is told, or more.
pub(crate) struct Rig {
    pub(crate) balancer: Balancer,
    pub(crate) held: watch::Sender<BTreeSet<IpAddr>>,
    pub(crate) address: SocketAddr,
}

impl Rig {
    pub(crate) fn start(frontend: Frontend) -> Self {
        Self::start_all(vec![frontend])
    }

    /// The first one is what is told of.
    pub(crate) fn start_all(frontends: Vec<Frontend>) -> Self {
        let held = watch::Sender::new(frontends[0].virtual_ips.iter().copied().collect());
        let config = Config { frontends, workers: 2 };
        let balancer = Balancer::start(config, held.subscribe()).unwrap();
        let address = balancer.status().frontends[0].listen[0];
        Self { balancer, held, address }
    }

    /// Once every backend has been asked.
    pub(crate) async fn judged(frontend: Frontend) -> Self {
        let rig = Self::start(frontend);
        rig.wait(|status| status.backends.iter().all(|backend| backend.health != Health::Unknown)).await;
        rig
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        soon(TcpStream::connect(self.address)).await.unwrap()
    }

    /// Connects, and tells whether the connection was reset before a word was said.
    pub(crate) async fn resets(&self) -> bool {
        match soon(TcpStream::connect(self.address)).await {
            Ok(mut stream) => ended_by_reset(&mut stream).await,
            // The reset was faster than we.
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    pub(crate) fn set(&self, backends: &[Backend]) {
        self.balancer.backends().set("api", backends.to_vec()).unwrap();
    }

    pub(crate) fn status(&self) -> FrontendStatus {
        self.balancer.status().frontends.remove(0)
    }

    pub(crate) fn backend(&self, name: &str) -> BackendStatus {
        self.status().backends.into_iter().find(|backend| backend.name == name).unwrap()
    }

    pub(crate) async fn wait_health(&self, name: &str, health: Health) {
        self.wait(|status| {
            status.backends.iter().any(|backend| backend.name == name && backend.health == health)
        })
        .await;
    }

    /// Waits until the status is as wanted.
    pub(crate) async fn wait(&self, wanted: impl Fn(&FrontendStatus) -> bool) {
        wait(&self.balancer.monitor(), wanted).await;
    }
}

/// Waits until the status is as wanted. Changes of health wake it; counters have no event and are looked at
/// again.
pub(crate) async fn wait(monitor: &Monitor, wanted: impl Fn(&FrontendStatus) -> bool) {
    let mut changes = monitor.changes();
    let look = async {
        loop {
            changes.borrow_and_update();
            if wanted(&monitor.status().frontends[0]) {
                return;
            }
            let _ = tokio::time::timeout(Duration::from_millis(5), changes.changed()).await;
        }
    };
    if tokio::time::timeout(PATIENCE, look).await.is_err() {
        panic!("the wanted state did not come; it is {:#?}", monitor.status());
    }
}

/// Waits until something that has no event is so.
pub(crate) async fn until(wanted: impl Fn() -> bool) {
    let look = async {
        while !wanted() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(look).await;
}

/// The name that a `named_echo` backend says.
pub(crate) async fn read_name(stream: &mut TcpStream) -> io::Result<String> {
    let mut name = [0; 1];
    soon(stream.read_exact(&mut name)).await?;
    Ok(String::from_utf8_lossy(&name).into_owned())
}

/// Checks as in the other tests, but only those that something asks for come in time.
pub(crate) fn once() -> Check {
    Check { interval: Duration::from_secs(3600), ..frontend(Vec::new()).check }
}

/// A `named_echo` and its place in a set.
pub(crate) async fn named(name: &'static str) -> (Server, Backend) {
    let server = named_echo(name).await;
    let backend = backend(name, server.address);
    (server, backend)
}

/// A flow whose backend has said its name.
pub(crate) async fn flow(rig: &Rig, name: &str) -> TcpStream {
    let mut client = rig.connect().await;
    assert_eq!(read_name(&mut client).await.unwrap(), name);
    client
}

/// Sends a byte there and back.
pub(crate) async fn exchange(client: &mut TcpStream) {
    client.write_all(b"x").await.unwrap();
    assert_eq!(soon(client.read_u8()).await.unwrap(), b'x');
}

/// Counts the names that answer `connections` connections.
pub(crate) async fn spread(rig: &Rig, connections: usize) -> BTreeMap<String, usize> {
    let mut names = BTreeMap::new();
    for _ in 0..connections {
        let name = read_name(&mut rig.connect().await).await.unwrap();
        *names.entry(name).or_insert(0) += 1;
    }
    names
}

/// Waits for the connection's end and tells whether it was a reset.
pub(crate) async fn ended_by_reset(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    match soon(stream.read_to_end(&mut rest)).await {
        Ok(_) => false,
        Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
    }
}
