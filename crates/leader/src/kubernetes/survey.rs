//! What may this node do at the API? Asked once, by who checks a configuration; nothing is changed there.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
    core::v1::ConfigMap,
};
use kube::{Api, Client, api::PostParams};
use tokio::time::timeout;

use super::{
    access::{self, Outcome},
    config::Access,
    credentials::{Credentials, CredentialsError},
    failure::{Failure, Kind},
    servers::Servers,
    telling::told,
};
use crate::{clock::now, lease::Reply};

/// A server that knows itself by its address only is asked again by that.
const ROUNDS: usize = 2;

/// Something that is done at the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Right {
    /// As the API calls it, such as `get`.
    pub verb: &'static str,
    /// The API group of the resource; empty for the core.
    pub group: &'static str,
    /// The resource, in the plural.
    pub resource: &'static str,
    /// The namespace; `None` for what belongs to none.
    pub namespace: Option<String>,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        match &self.namespace {
            Some(namespace) => write!(f, " in {namespace}"),
            None => Ok(()),
        }
    }
}

/// What was found with the first credentials that have all rights, or else with the first of all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// Where the credentials are from.
    pub credentials: String,
    /// The DNS name by which the credentials reach the API, if it is one.
    pub name: Option<String>,
    /// Who answered; `None` if nobody did.
    pub server: Option<SocketAddr>,
    /// Who didn't, and why.
    pub silent: Vec<(SocketAddr, String)>,
    /// Rights that were asked for and are missing.
    pub missing: Vec<Right>,
    /// Why the rights could not be asked for, although somebody answered.
    pub refusal: Option<String>,
    /// The configuration of kube-proxy, where it may be read.
    pub proxy: Option<String>,
}

/// Why nothing could be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SurveyError {
    /// There are no credentials, or not yet.
    #[error("{0}")]
    Absent(String),
    /// There are some, and they can't be used.
    #[error("{0}")]
    Unusable(String),
}

impl Survey {
    /// Asks the servers, one after the other, with each of the credentials in turn; each has this time to answer.
    ///
    /// # Errors
    ///
    /// There are no credentials that could be used.
    pub async fn make(
        config: &Access,
        rights: &[Right],
        agent: &str,
        patience: Duration,
    ) -> Result<Self, SurveyError> {
        let files = config.kubeconfigs.iter().filter(|file| file.is_file()).count();
        let mut first = None;
        for skip in 0..files.max(1) {
            let credentials = match Credentials::read(&config.kubeconfigs, skip).await {
                Ok(credentials) => credentials,
                Err(_) if first.is_some() => continue,
                Err(error @ CredentialsError::None { .. }) => {
                    return Err(SurveyError::Absent(told(&error)));
                }
                Err(
                    error @ (CredentialsError::Unreadable { .. }
                    | CredentialsError::Invalid { .. }
                    | CredentialsError::NoAuthority { .. }
                    | CredentialsError::ServiceAccount(_)),
                ) => return Err(SurveyError::Unusable(told(&error))),
            };
            let survey = Self::with(config, credentials, rights, agent, patience).await?;
            if survey.lacks_nothing() {
                return Ok(survey);
            }
            first.get_or_insert(survey);
        }
        first.ok_or_else(|| SurveyError::Absent("no credentials".to_owned()))
    }

    fn lacks_nothing(&self) -> bool {
        self.server.is_some() && self.missing.is_empty() && self.refusal.is_none()
    }

    async fn with(
        config: &Access,
        credentials: Credentials,
        rights: &[Right],
        agent: &str,
        patience: Duration,
    ) -> Result<Self, SurveyError> {
        let mut survey = Self {
            credentials: credentials.origin.to_string(),
            name: name(&credentials),
            server: None,
            silent: Vec::new(),
            missing: Vec::new(),
            refusal: None,
            proxy: None,
        };
        let servers = Servers::new(config.own, &config.servers, &config.never);
        let mut access = access::Access::new(servers, credentials, patience, agent.to_owned());
        for _ in 0..ROUNDS {
            let clients =
                access.clients(now()).map_err(|failure| SurveyError::Unusable(failure.to_string()))?;
            let mut failures = Vec::new();
            for (server, client) in clients {
                let asked = timeout(patience, missing(&client, rights)).await;
                match asked.unwrap_or_else(|_| Err(Failure::timed_out())) {
                    Ok(missing) => survey.missing = missing,
                    Err(failure) if failure.kind == Kind::Credentials => {
                        survey.refusal = Some(failure.to_string());
                    }
                    Err(failure) => {
                        failures.push((server, failure));
                        continue;
                    }
                }
                survey.server = Some(server);
                survey.proxy = timeout(patience, proxy(&client)).await.unwrap_or_default();
                break;
            }
            survey.silent = failures.iter().map(|(server, failure)| (*server, failure.to_string())).collect();
            let by_address = failures.iter().any(|(_, failure)| failure.kind == Kind::Name);
            if survey.server.is_some() || !by_address {
                break;
            }
            access.learn(&Outcome { reply: Reply::Failed, lease: None, server: None, failures }, now());
        }
        Ok(survey)
    }
}

/// The host that the credentials name, unless it is an address.
fn name(credentials: &Credentials) -> Option<String> {
    let host = credentials.config.cluster_url.host()?;
    let is_address = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    (!is_address && host != "localhost").then(|| host.to_owned())
}

/// Which of these rights the client lacks, by the server's own word (`SelfSubjectAccessReview`).
async fn missing(client: &Client, rights: &[Right]) -> Result<Vec<Right>, Failure> {
    let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let mut missing = Vec::new();
    for right in rights {
        let attributes = ResourceAttributes {
            group: Some(right.group.to_owned()),
            namespace: right.namespace.clone(),
            resource: Some(right.resource.to_owned()),
            verb: Some(right.verb.to_owned()),
            ..ResourceAttributes::default()
        };
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(attributes),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let answer = api.create(&PostParams::default(), &review).await;
        let answer = answer.map_err(|error| Failure::of(&error))?;
        if !answer.status.is_some_and(|status| status.allowed) {
            missing.push(right.clone());
        }
    }
    Ok(missing)
}

/// What kubeadm wrote for kube-proxy.
async fn proxy(client: &Client) -> Option<String> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    let map = api.get_opt("kube-proxy").await.ok()??;
    map.data?.remove("config.conf")
}
