//! Who takes no part in an election hears where the apiservers are: one watch, at whichever of them answers.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use futures_util::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{
    Api, Client,
    api::{ListParams, WatchEvent, WatchParams},
};
use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};

use super::{
    access::{self, Outcome},
    config::Access,
    credentials::Credentials,
    endpoints::{Endpoints, Slices},
    failure::{Failure, Kind},
    memory,
    servers::Servers,
    telling::told,
};
use crate::{clock::now, lease::Reply};

/// How long a server may take to answer; several are asked in turn.
const PATIENCE: Duration = Duration::from_secs(5);

/// After this time a server ends a watch (the client's own default), and it is opened anew.
const WATCH_SECONDS: u32 = 290;

/// The pause after nobody has answered.
const RETRY: Duration = Duration::from_secs(5);

/// Rights are given by a person.
const FORBIDDEN_RETRY: Duration = Duration::from_secs(30);

/// The task that keeps the apiservers known. It waits on a watch, and publishes [`Endpoints`]; nothing ends it: what is wrong is told,
/// and tried again. It may be cancelled at any point.
pub struct Discovery {
    config: Access,
    agent: String,
    found: watch::Sender<Endpoints>,
    access: Option<access::Access>,
    told: Option<String>,
}

impl fmt::Debug for Discovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Discovery").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Discovery {
    /// One that has asked nothing yet, and what it knows: at first what was remembered. The agent is what it calls itself in the servers'
    /// logs.
    pub fn new(config: Access, agent: &str) -> (Self, watch::Receiver<Endpoints>) {
        let remembered = config.memory.as_deref().map(memory::recall).transpose();
        let remembered = remembered.unwrap_or_else(|error| {
            warn!(%error, file = ?config.memory, "failed to read the remembered apiservers; they are looked up again");
            None
        });
        let (found, known) = watch::channel(remembered.unwrap_or_default());
        (Self { config, agent: agent.to_owned(), found, access: None, told: None }, known)
    }

    /// Follows the apiservers for ever.
    pub async fn run(mut self) {
        loop {
            match self.round().await {
                Ok(()) => {}
                Err((text, pause)) => {
                    self.complain(text);
                    sleep(pause).await;
                }
            }
        }
    }

    /// Follows one watch to its end. The error says why there is none, and how long to wait.
    async fn round(&mut self) -> Result<(), (String, Duration)> {
        self.load().await.map_err(|text| (text, RETRY))?;
        let Some(access) = &mut self.access else { return Err(("no credentials".to_owned(), RETRY)) };
        access.servers.set_discovered(self.found.borrow().apiservers.iter().copied().collect());
        let clients = access.clients(now()).map_err(|failure| (failure.to_string(), RETRY))?;
        let mut failures = Vec::new();
        for (server, client) in clients {
            match open(client).await {
                Ok((api, slices, version)) => {
                    self.learn(Some(server), failures);
                    self.recovered(server);
                    self.hear(&slices).await;
                    let ended = self.follow(api, slices, &version).await;
                    if let Err(failure) = ended {
                        debug!(%server, %failure, "the watch of the apiservers ended");
                        self.learn(None, vec![(server, failure)]);
                    }
                    return Ok(());
                }
                Err(failure) => failures.push((server, failure)),
            }
        }
        let last = failures.last().map(|(server, failure)| {
            let pause = if failure.kind == Kind::Credentials { FORBIDDEN_RETRY } else { RETRY };
            (format!("{server}: {failure}"), pause)
        });
        self.learn(None, failures);
        Err(last.unwrap_or_else(|| {
            ("no apiserver is known: name one under `backends` or `kubernetes.servers`".to_owned(), RETRY)
        }))
    }

    /// Reads the credentials, on a thread of its own, as a disk may be slow.
    async fn load(&mut self) -> Result<(), String> {
        let files: Vec<PathBuf> = self.config.kubeconfigs.clone();
        let runtime = tokio::runtime::Handle::current();
        let read = spawn_blocking(move || runtime.block_on(Credentials::read(&files, 0))).await;
        let credentials = read.map_err(|error| error.to_string())?.map_err(|error| told(&error))?;
        match &mut self.access {
            Some(access) => {
                let origin = credentials.origin.clone();
                if access.renew(credentials) {
                    info!(credentials = %origin, "uses other credentials for the API");
                }
            }
            None => {
                info!(credentials = %credentials.origin, "credentials for the API");
                let servers = Servers::new(self.config.own, &self.config.servers, &self.config.never);
                let access = access::Access::new(servers, credentials, PATIENCE, self.agent.clone());
                self.access = Some(access);
            }
        }
        Ok(())
    }

    /// Passes on what a watch tells until it ends.
    async fn follow(
        &self,
        api: Api<EndpointSlice>,
        mut slices: Slices,
        version: &str,
    ) -> Result<(), Failure> {
        let params = WatchParams::default().labels(Slices::LABEL).timeout(WATCH_SECONDS);
        let opened =
            timeout(PATIENCE, api.watch(&params, version)).await.map_err(|_| Failure::timed_out())?;
        let mut stream = opened.map_err(|error| meaning(&error))?.boxed();
        while let Some(event) = stream.try_next().await.map_err(|error| meaning(&error))? {
            match event {
                WatchEvent::Added(slice) | WatchEvent::Modified(slice) => slices.put(&slice),
                WatchEvent::Deleted(slice) => slices.remove(&slice),
                WatchEvent::Bookmark(_) => continue,
                WatchEvent::Error(status) => return Err(meaning(&kube::Error::Api(status))),
            }
            self.hear(&slices).await;
        }
        Ok(())
    }

    /// Publishes what is known now, and writes it down.
    async fn hear(&self, slices: &Slices) {
        let Some(endpoints) = slices.endpoints() else { return };
        let changed = self.found.send_if_modified(|known| {
            let changed = *known != endpoints;
            known.clone_from(&endpoints);
            changed
        });
        let Some(file) = self.config.memory.clone().filter(|_| changed) else { return };
        let remember = move || {
            if let Err(error) = memory::remember(&endpoints, &file) {
                warn!(file = %file.display(), %error, "failed to remember the apiservers: a start without an API won't know them");
            }
        };
        // One after the other: what is heard last is what is remembered. It doesn't panic.
        let _ = spawn_blocking(remember).await;
    }

    fn learn(&mut self, server: Option<SocketAddr>, failures: Vec<(SocketAddr, Failure)>) {
        if let Some(access) = &mut self.access {
            let outcome = Outcome { reply: Reply::Failed, lease: None, server, failures };
            access.learn(&outcome, now());
        }
    }

    fn recovered(&mut self, server: SocketAddr) {
        if let Some(trouble) = self.told.take() {
            info!(%server, after = trouble, "the API answers again");
        }
    }

    /// Tells of trouble once, until it is over or another.
    fn complain(&mut self, text: String) {
        if self.told.as_ref() != Some(&text) {
            warn!(
                error = text,
                "the Kubernetes API doesn't tell where the apiservers are; what was known stays, trying again"
            );
            self.told = Some(text);
        }
    }
}

/// Lists the slices at one server; a watch goes on from the version.
async fn open(client: Client) -> Result<(Api<EndpointSlice>, Slices, String), Failure> {
    let api: Api<EndpointSlice> = Api::namespaced(client, Slices::NAMESPACE);
    let params = ListParams::default().labels(Slices::LABEL);
    let list = timeout(PATIENCE, api.list(&params)).await.map_err(|_| Failure::timed_out())?;
    let list = list.map_err(|error| meaning(&error))?;
    let version = list.metadata.resource_version.clone().unwrap_or_default();
    Ok((api, Slices::of(&list.items), version))
}

fn meaning(error: &kube::Error) -> Failure {
    Failure::explained(error, "docs/balancer-alone.md has the Role that is needed")
}
