//! Clients of the servers, and one request that goes from server to server until it is answered.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use http::header::{HeaderValue, USER_AGENT};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client, Error, api::PostParams};
use tokio::time::timeout;

use super::{
    credentials::Credentials,
    failure::{Failure, Kind},
    servers::Servers,
};
use crate::lease::Reply;

/// The name that an apiserver's certificate has whatever its address: kubeadm, k3s and RKE2 all put it in.
const SERVER_NAME: &str = "kubernetes";

/// The way to the API: the servers, what they are asked with, and the clients that were made of both.
pub(super) struct Access {
    pub(super) servers: Servers,
    credentials: Credentials,
    /// Servers whose certificate is valid for their address only.
    by_address: Vec<SocketAddr>,
    clients: BTreeMap<SocketAddr, Client>,
    patience: Duration,
    agent: String,
}

/// What is asked of the servers.
#[derive(Clone, Debug)]
pub(super) enum Call {
    Get,
    Create(Box<Lease>),
    Replace(Box<Lease>),
}

/// Where the Lease is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) namespace: String,
    pub(super) name: String,
}

/// What became of a call.
pub(super) struct Outcome {
    pub(super) reply: Reply,
    /// The Lease as it is, where the reply says that it was read or written.
    pub(super) lease: Option<Lease>,
    /// Who answered.
    pub(super) server: Option<SocketAddr>,
    /// Who didn't, and why.
    pub(super) failures: Vec<(SocketAddr, Failure)>,
}

impl Access {
    pub(super) fn new(servers: Servers, credentials: Credentials, patience: Duration, agent: String) -> Self {
        let mut access =
            Self { servers, credentials, by_address: Vec::new(), clients: BTreeMap::new(), patience, agent };
        access.servers.set_named(access.credentials.named());
        access
    }

    /// Uses these credentials from now on, if they are others; tells whether they are.
    pub(super) fn renew(&mut self, credentials: Credentials) -> bool {
        let known = &self.credentials;
        let differ = known.origin != credentials.origin || known.fingerprint != credentials.fingerprint;
        if differ {
            self.servers.set_named(credentials.named());
            self.credentials = credentials;
            self.clients.clear();
        }
        differ
    }

    /// Takes note of who answered and who didn't.
    pub(super) fn learn(&mut self, outcome: &Outcome, now: Instant) {
        for (server, failure) in &outcome.failures {
            match failure.kind {
                Kind::Name if !self.by_address.contains(server) => {
                    self.by_address.push(*server);
                    self.clients.remove(server);
                }
                Kind::Name | Kind::Server => self.servers.fail(*server, now),
                Kind::Credentials => {}
            }
        }
        if let Some(server) = outcome.server {
            self.servers.succeed(server);
        }
    }

    /// Clients for single requests, in the order in which the servers are to be asked.
    pub(super) fn clients(&mut self, now: Instant) -> Result<Vec<(SocketAddr, Client)>, Failure> {
        let order = self.servers.order(now);
        self.clients.retain(|server, _| order.contains(server));
        let mut clients = Vec::new();
        for server in order {
            let client = match self.clients.get(&server) {
                Some(client) => client.clone(),
                None => self.connect(server)?,
            };
            self.clients.insert(server, client.clone());
            clients.push((server, client));
        }
        Ok(clients)
    }

    /// A client with connections of its own. Nothing is sent yet.
    pub(super) fn connect(&self, server: SocketAddr) -> Result<Client, Failure> {
        let mut config = self.credentials.config.clone();
        config.cluster_url = format!("https://{server}").parse().expect("a socket address is an authority");
        if self.by_address.contains(&server) {
            config.tls_server_name = None;
        } else {
            config.tls_server_name.get_or_insert_with(|| SERVER_NAME.to_owned());
        }
        if let Ok(agent) = HeaderValue::from_str(&self.agent) {
            config.headers.push((USER_AGENT, agent));
        }
        super::connect::client(&config, self.patience / 2).map_err(|error| Failure::unusable(&error))
    }
}

/// Asks one server after the other until one answers, within this time. A write names the version that it replaces, so it does no
/// harm that it may reach two of them.
pub(super) async fn call(
    clients: Vec<(SocketAddr, Client)>,
    place: Place,
    call: Call,
    patience: Duration,
) -> Outcome {
    let deadline = tokio::time::Instant::now() + patience;
    let mut failures = Vec::new();
    let mut clients = clients.into_iter();
    while let Some((server, client)) = clients.next() {
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        let share = share(left, clients.len());
        if share.is_zero() {
            break;
        }
        let api: Api<Lease> = Api::namespaced(client, &place.namespace);
        let answer = match timeout(share, ask(&api, &place.name, &call)).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::timed_out()),
        };
        match answer {
            Ok((reply, lease)) => return Outcome { reply, lease, server: Some(server), failures },
            Err(failure) => {
                let stop = failure.kind == Kind::Credentials;
                failures.push((server, failure));
                if stop {
                    break;
                }
            }
        }
    }
    Outcome { reply: Reply::Failed, lease: None, server: None, failures }
}

/// How long one server may take, where so much time is left, and so many other servers: half of it, so that one that only listens
/// doesn't use up the others'.
fn share(left: Duration, others: usize) -> Duration {
    if others == 0 { left } else { left / 2 }
}

async fn ask(api: &Api<Lease>, name: &str, call: &Call) -> Result<(Reply, Option<Lease>), Failure> {
    let params = PostParams::default();
    let answer = match call {
        Call::Get => api.get(name).await,
        Call::Create(lease) => api.create(&params, lease).await,
        Call::Replace(lease) => api.replace(name, &params, lease).await,
    };
    meaning(answer)
}

/// What an answer is to an election. Who came too late with a write, or finds no Lease, was answered all the same.
fn meaning(answer: Result<Lease, Error>) -> Result<(Reply, Option<Lease>), Failure> {
    match answer {
        Ok(lease) => Ok((Reply::Done(super::object::observed(&lease)), Some(lease))),
        Err(Error::Api(status)) if status.code == 409 => Ok((Reply::Conflict, None)),
        Err(Error::Api(status)) if status.code == 404 => Ok((Reply::Absent, None)),
        Err(error) => Err(Failure::of(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_only_listens_leaves_the_others_half_of_the_time() {
        let all = Duration::from_secs(8);
        assert_eq!([2, 1, 0].map(|others| share(all, others)), [all / 2, all / 2, all]);
        assert_eq!(share(Duration::ZERO, 0), Duration::ZERO);
    }

    #[test]
    fn who_comes_too_late_or_finds_nothing_was_answered_all_the_same() {
        let meant = |code| {
            let status = kube::core::Status { code, ..kube::core::Status::default() };
            meaning(Err(Error::Api(Box::new(status)))).map(|(reply, lease)| (reply, lease.is_some()))
        };
        assert_eq!(meant(409).unwrap(), (Reply::Conflict, false));
        assert_eq!(meant(404).unwrap(), (Reply::Absent, false));
        assert_eq!(meant(500).unwrap_err().kind, Kind::Server);
        assert_eq!(meant(403).unwrap_err().kind, Kind::Credentials);
    }
}
