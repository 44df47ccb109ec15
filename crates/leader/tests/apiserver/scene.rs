//! A Lease of a test's own, participants, and a client that looks at what they have written.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use k8s_openapi::{api::coordination::v1::Lease, serde::de::DeserializeOwned};
use kube::{
    Api, Client,
    config::{KubeConfigOptions, Kubeconfig},
};
use leader::{
    Handle, Leadership, NodeId,
    kubernetes::{Access, Config, Driver, Monitor, Status},
    lease::Timing,
};
use tokio::{
    sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use crate::consumer::consumer;

/// What is awaited here takes milliseconds, or a lease or two. The machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The shortest lease that there is.
pub(crate) const LEASE: Duration = Duration::from_secs(2);

/// Between two looks at what nobody tells.
const LOOK: Duration = Duration::from_millis(20);

/// The namespace of the Leases.
pub(crate) const NAMESPACE: &str = "kube-system";

/// Who takes an apiserver away is alone.
static SERVERS_STAND: RwLock<()> = RwLock::const_new(());

/// The lab's three.
pub(crate) fn servers() -> [SocketAddr; 3] {
    [163, 164, 165].map(|host| SocketAddr::from(([10, 0, 0, host], 6443)))
}

/// Where nobody listens.
pub(crate) fn nobody() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 163], 1))
}

/// All that may be taken away while other tests run waits for this.
pub(crate) enum Servers {
    Stand(#[expect(dead_code, reason = "it is held")] RwLockReadGuard<'static, ()>),
    Fall(#[expect(dead_code, reason = "it is held")] RwLockWriteGuard<'static, ()>),
}

/// What a test has. Its files go with it; its Lease goes with the lab.
pub(crate) struct Scene {
    pub(crate) client: Client,
    pub(crate) folder: PathBuf,
    name: String,
    _servers: Servers,
}

impl Scene {
    /// One whose apiservers all stand; `None`, said aloud, outside the lab.
    pub(crate) async fn open(name: &str) -> Option<Self> {
        Self::with(name, Servers::Stand(SERVERS_STAND.read().await)).await
    }

    /// One that takes some away.
    pub(crate) async fn open_alone(name: &str) -> Option<Self> {
        Self::with(name, Servers::Fall(SERVERS_STAND.write().await)).await
    }

    async fn with(name: &str, servers: Servers) -> Option<Self> {
        if env::var_os("LAB_SOCKET").is_none() {
            eprintln!("SKIPPED: real apiservers are those of the lab: tests/kube/run api");
            return None;
        }
        let folder = env::temp_dir().join(format!("vipd-api-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        // The lab's file names the virtual address, which nobody has here.
        let kubeconfig = Kubeconfig::read_from(kubeconfig()).unwrap();
        let mut config =
            kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        config.cluster_url = format!("https://{}", self::servers()[2]).parse().unwrap();
        config.tls_server_name = Some("kubernetes".to_owned());
        let client = Client::try_from(config).unwrap();
        Some(Self { client, folder, name: format!("api-{name}"), _servers: servers })
    }

    /// A kubeconfig of this kind of user: `admin`, `stranger` (whom no right is given to) or `expired`.
    pub(crate) fn file_of(&self, user: &str) -> PathBuf {
        let path = self.folder.join(format!("{user}.conf"));
        fs::write(&path, text_of(user)).unwrap();
        path
    }

    pub(crate) fn access(&self, kubeconfigs: &[&Path]) -> Access {
        Access {
            kubeconfigs: kubeconfigs.iter().map(|path| path.to_path_buf()).collect(),
            own: servers()[0],
            servers: vec![servers()[1]],
            port: 6443,
            never: BTreeSet::new(),
            memory: None,
        }
    }

    pub(crate) fn config(&self, me: &str) -> Config {
        Config {
            me: NodeId::new(me).unwrap(),
            namespace: NAMESPACE.to_owned(),
            name: self.name.clone(),
            timing: Timing::new(LEASE, Duration::from_millis(1500), Duration::from_millis(500)).unwrap(),
            preserve: false,
            annotations: BTreeMap::from([("example.com/who".to_owned(), "a test".to_owned())]),
            access: self.access(&[&kubeconfig()]),
        }
    }

    pub(crate) fn start(&self, me: &str) -> Candidate {
        Candidate::start(self.config(me))
    }

    /// One that leads.
    pub(crate) async fn leader(&self) -> Candidate {
        let node = self.start("a");
        node.leads().await;
        node
    }

    /// One that leads, and one that follows it.
    pub(crate) async fn pair(&self) -> [Candidate; 2] {
        let first = self.leader().await;
        let second = self.start("b");
        second.follows("a").await;
        [first, second]
    }

    pub(crate) fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// Waits until the Lease is such, and returns it.
    pub(crate) async fn lease(&self, what: &str, is_so: impl Fn(&Lease) -> bool) -> Lease {
        eventually(what, async || self.leases().get_opt(&self.name).await.unwrap().filter(&is_so)).await
    }

    pub(crate) fn lease_name(&self) -> &str {
        &self.name
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // A file that stays does no harm.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The lab's own, of an administrator.
pub(crate) fn kubeconfig() -> PathBuf {
    PathBuf::from(env::var_os("KUBECONFIG").unwrap())
}

pub(crate) fn text_of(user: &str) -> String {
    fs::read_to_string(kubeconfig()).unwrap().replace("admin.", &format!("{user}."))
}

/// The same where the file names this server.
pub(crate) fn text_with_server(server: &str) -> String {
    let text = text_of("admin");
    let named = text.split("https://").nth(1).unwrap().split('\'').next().unwrap();
    text.replace(named, server)
}

/// Who has the Lease, by its own word.
pub(crate) fn holder(lease: &Lease) -> &str {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
}

/// A participant. What it would hold, it lets go of as soon as it is told to.
pub(crate) struct Candidate {
    pub(crate) handle: Handle,
    pub(crate) monitor: Monitor,
    driver: JoinHandle<()>,
    consumer: JoinHandle<()>,
}

impl Candidate {
    pub(crate) fn start(config: Config) -> Self {
        let (driver, handle, monitor) = Driver::start(config, "a test", 1);
        let driver = tokio::spawn(driver.run());
        let consumer = consumer(&handle);
        Self { handle, monitor, driver, consumer }
    }

    pub(crate) async fn leads(&self) {
        let is_leader = |leadership: &Leadership| matches!(leadership, Leadership::Leader { .. });
        until("it leads", self.handle.leadership(), is_leader).await;
    }

    pub(crate) async fn follows(&self, leader: &str) {
        let wanted = Leadership::Follower { leader: Some(NodeId::new(leader).unwrap()) };
        until(&format!("it follows {leader}"), self.handle.leadership(), |now| *now == wanted).await;
    }

    pub(crate) fn is_leader(&self) -> bool {
        matches!(*self.handle.leadership().borrow(), Leadership::Leader { .. })
    }

    /// Waits until it tells such a status, and returns it.
    pub(crate) async fn tells(&self, what: &str, is_so: impl Fn(&Status) -> bool) -> Status {
        until(what, self.monitor.status(), is_so).await
    }

    /// Waits until it is in this trouble.
    pub(crate) async fn complains(&self, words: &str) {
        let told = |status: &Status| status.trouble.as_ref().is_some_and(|trouble| trouble.contains(words));
        self.tells(&format!("it says: {words}"), told).await;
    }

    pub(crate) async fn ends(self) {
        self.handle.shutdown().await;
        self.driver.await.unwrap();
        self.consumer.await.unwrap();
    }
}

/// Waits until something that is watched is so, and returns it.
pub(crate) async fn until<T: Clone>(
    what: &str,
    mut watched: watch::Receiver<T>,
    is_so: impl Fn(&T) -> bool,
) -> T {
    let reached = timeout(PATIENCE, watched.wait_for(is_so)).await;
    reached.unwrap_or_else(|_| panic!("waited in vain: {what}")).unwrap().clone()
}

/// Looks until there is something.
pub(crate) async fn eventually<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "waited in vain: {what}");
        sleep(LOOK).await;
    }
}

/// Reads an object from its JSON.
pub(crate) fn object<T: DeserializeOwned>(json: serde_json::Value) -> T {
    serde_json::from_value(json).unwrap()
}
