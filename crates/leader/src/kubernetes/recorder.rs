//! What is written to the API beside an election: Events, and a label on nodes. Nothing is decided by it, and nobody waits for it.

use std::{fmt, net::SocketAddr, time::Duration};

use http::{
    Method, Request,
    header::{ACCEPT, CONTENT_TYPE},
};
use kube::{Client, Error};
use serde::Deserialize;
use tokio::{sync::watch, time::timeout};

use super::{
    access::{self, Outcome},
    config::Access,
    credentials::Credentials,
    event::{EVENT_NAMESPACE, Event},
    failure::{Failure, Kind},
    nodes::ControlPlane,
    servers::{SERVERS_MAX, Servers},
    telling::told,
};
use crate::{clock::now, lease::Reply};

/// How long a server may take to answer; several are asked in turn.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long all of them may take together.
const PATIENCE_IN_ALL: Duration = Duration::from_secs(15);

/// The metadata of objects alone.
const METADATA: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

/// Why something was not written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The API lets this node not do that, or doesn't know it. Another try changes nothing until a person does.
    #[error("{0}")]
    Forbidden(String),
    /// The API has no such object, can't take what was sent, or gives an answer that nobody understands. Another try changes nothing.
    #[error("{0}")]
    Refused(String),
    /// The object has changed since it was looked at. Nothing was written.
    #[error("it has changed meanwhile")]
    Changed,
    /// Nobody has carried it out, as far as is known.
    #[error("{0}")]
    Unreached(String),
}

/// A node that has a label, as it was when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labelled {
    /// Its name.
    pub name: String,
    version: String,
}

/// The way to the API for what is told there. It sends one request at a time, to one server after the other until one answers; a request
/// may be cancelled at any point.
pub struct Recorder {
    config: Access,
    agent: String,
    /// Where the election knows it: other servers to ask.
    control_plane: Option<watch::Receiver<ControlPlane>>,
    access: Option<access::Access>,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("config", &self.config).finish_non_exhaustive()
    }
}

/// A request that can be sent again.
struct Errand {
    method: Method,
    path: String,
    /// Its header that isn't the usual one.
    header: (http::HeaderName, &'static str),
    body: Vec<u8>,
}

impl Errand {
    fn request(&self) -> Result<Request<Vec<u8>>, http::Error> {
        let (name, value) = &self.header;
        let request = Request::builder().method(&self.method).uri(&self.path).header(name, *value);
        request.body(self.body.clone())
    }
}

impl Recorder {
    /// One that has asked nothing yet. The agent is what it calls itself in the servers' logs.
    pub fn new(config: Access, agent: &str, control_plane: Option<watch::Receiver<ControlPlane>>) -> Self {
        Self { config, agent: agent.to_owned(), control_plane, access: None }
    }

    /// Writes an Event.
    ///
    /// # Errors
    ///
    /// See [`RecordError`]; where nobody was reached it may have been written all the same, and trying again does no harm.
    pub async fn tell(&mut self, event: &Event) -> Result<(), RecordError> {
        let path = format!("/apis/events.k8s.io/v1/namespaces/{EVENT_NAMESPACE}/events");
        let header = (CONTENT_TYPE, "application/json");
        match self.run(Errand { method: Method::POST, path, header, body: event.body() }).await {
            // An earlier try was carried out.
            Ok(_) | Err(RecordError::Changed) => Ok(()),
            Err(
                error @ (RecordError::Forbidden(_) | RecordError::Refused(_) | RecordError::Unreached(_)),
            ) => Err(error),
        }
    }

    /// The nodes that have this label with this value. Both must be of the form that the API takes.
    ///
    /// # Errors
    ///
    /// See [`RecordError`].
    pub async fn labelled(&mut self, label: &str, value: &str) -> Result<Vec<Labelled>, RecordError> {
        // A slash and an equals sign need no escape in a query.
        let path = format!("/api/v1/nodes?limit={SERVERS_MAX}&labelSelector={label}={value}");
        let header = (ACCEPT, METADATA);
        let text = self.run(Errand { method: Method::GET, path, header, body: Vec::new() }).await?;
        listed(&text)
    }

    /// Puts a label on a node.
    ///
    /// # Errors
    ///
    /// See [`RecordError`].
    pub async fn put_label(&mut self, node: &str, label: &str, value: &str) -> Result<(), RecordError> {
        let patch = serde_json::json!({"metadata": {"labels": {label: value}}});
        self.patch(node, &patch).await
    }

    /// Takes a label off a node, unless the node has changed since it was looked at.
    ///
    /// # Errors
    ///
    /// See [`RecordError`].
    pub async fn take_label(&mut self, node: &Labelled, label: &str) -> Result<(), RecordError> {
        let labels = serde_json::json!({label: null});
        let patch = serde_json::json!({"metadata": {"labels": labels, "resourceVersion": node.version}});
        self.patch(&node.name, &patch).await
    }

    async fn patch(&mut self, node: &str, patch: &serde_json::Value) -> Result<(), RecordError> {
        let path = format!("/api/v1/nodes/{node}");
        let header = (CONTENT_TYPE, "application/merge-patch+json");
        let body = patch.to_string().into_bytes();
        self.run(Errand { method: Method::PATCH, path, header, body }).await.map(drop)
    }

    /// Has a request carried out: with the first credentials that are let in, by the first server that answers.
    async fn run(&mut self, errand: Errand) -> Result<String, RecordError> {
        let tried = timeout(PATIENCE_IN_ALL, self.with_each(&errand)).await;
        tried.unwrap_or_else(|_| {
            Err(RecordError::Unreached(format!("nobody has answered for {PATIENCE_IN_ALL:?}")))
        })
    }

    async fn with_each(&mut self, errand: &Errand) -> Result<String, RecordError> {
        let files = self.config.kubeconfigs.iter().filter(|file| file.is_file()).count();
        let mut first = None;
        for skip in 0..files.max(1) {
            match self.with(skip, errand).await {
                // Another kubeconfig may do: during `kubeadm init`, only the second is let in.
                Err(RecordError::Forbidden(text)) => drop(first.get_or_insert(text)),
                done @ (Ok(_)
                | Err(RecordError::Refused(_) | RecordError::Changed | RecordError::Unreached(_))) => {
                    return done;
                }
            }
        }
        Err(RecordError::Forbidden(first.unwrap_or_default()))
    }

    async fn with(&mut self, skip: usize, errand: &Errand) -> Result<String, RecordError> {
        let credentials = Credentials::read(&self.config.kubeconfigs, skip).await;
        let credentials = credentials.map_err(|error| RecordError::Unreached(told(&error)))?;
        let access = match &mut self.access {
            Some(access) => {
                access.renew(credentials);
                access
            }
            None => {
                let servers = Servers::new(self.config.own, &self.config.servers, &self.config.never);
                let access = access::Access::new(servers, credentials, PATIENCE, self.agent.clone());
                self.access.insert(access)
            }
        };
        if let Some(known) = &self.control_plane {
            access.servers.set_discovered(known.borrow().servers(self.config.port));
        }
        let clients = access.clients(now()).map_err(|failure| RecordError::Forbidden(failure.to_string()))?;
        let mut failures = Vec::new();
        let mut outcome = None;
        let mut answered = None;
        for (server, client) in clients {
            match timeout(PATIENCE, send(&client, errand)).await {
                Ok(Ok(done)) => {
                    outcome = Some(done);
                    answered = Some(server);
                    break;
                }
                Ok(Err(failure)) => failures.push((server, failure)),
                Err(_) => failures.push((server, Failure::timed_out())),
            }
            // Others would say the same.
            if failures.last().is_some_and(|(_, failure)| failure.kind == Kind::Credentials) {
                break;
            }
        }
        let last = failures.last().cloned();
        access.learn(&Outcome { reply: Reply::Failed, lease: None, server: answered, failures }, now());
        outcome.unwrap_or_else(|| Err(unreached(last)))
    }
}

/// What it means that nobody has carried it out.
fn unreached(last: Option<(SocketAddr, Failure)>) -> RecordError {
    match last {
        Some((_, failure)) if failure.kind == Kind::Credentials => {
            RecordError::Forbidden(failure.to_string())
        }
        Some((server, failure)) => RecordError::Unreached(format!("{server}: {failure}")),
        None => RecordError::Unreached("no apiserver is known: name one (`kubernetes.server`)".to_owned()),
    }
}

/// Has one server carry it out. The inner error is an answer that any server would give; for the outer one, another may be asked.
async fn send(client: &Client, errand: &Errand) -> Result<Result<String, RecordError>, Failure> {
    let Ok(request) = errand.request() else {
        return Ok(Err(RecordError::Refused(format!("{} can't be asked for", errand.path))));
    };
    match client.request_text(request).await {
        Ok(text) => Ok(Ok(text)),
        Err(Error::Api(status)) if status.code == 409 => Ok(Err(RecordError::Changed)),
        Err(Error::Api(status)) if matches!(status.code, 400 | 404 | 422) => {
            let message = status.message.trim().replace(char::is_control, " ");
            Ok(Err(RecordError::Refused(format!("{}: {message}", status.code))))
        }
        Err(error) => Err(Failure::explained(&error, "`vipd manifest rbac` has the rule")),
    }
}

/// The nodes of a list.
pub(super) fn listed(text: &str) -> Result<Vec<Labelled>, RecordError> {
    let list: List = serde_json::from_str(text)
        .map_err(|error| RecordError::Refused(format!("the list of nodes can't be read: {error}")))?;
    let items = list.items.into_iter().flatten().map(|item| item.metadata);
    Ok(items.map(|Meta { name, resource_version }| Labelled { name, version: resource_version }).collect())
}

#[derive(Deserialize)]
struct List {
    /// Null where there are none.
    items: Option<Vec<Item>>,
}

#[derive(Deserialize)]
struct Item {
    metadata: Meta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    name: String,
    resource_version: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Kubernetes 1.37 answers.
    #[test]
    fn a_list_of_nodes_has_names_and_versions_or_nothing_at_all() {
        let list = |items: &str| {
            listed(&format!("{{\"kind\":\"PartialObjectMetadataList\",\"metadata\":{{}},\"items\":{items}}}"))
        };
        let node = Labelled { name: "a".to_owned(), version: "7".to_owned() };
        let one = r#"[{"metadata":{"name":"a","uid":"u","resourceVersion":"7","labels":{"kube-vip.io/has-ip":"10.0.0.9"}}}]"#;
        assert_eq!(list(one), Ok(vec![node]));
        assert_eq!(list("null"), Ok(Vec::new()));
        assert!(matches!(list("[7]"), Err(RecordError::Refused(_))));
    }

    #[test]
    fn what_only_a_person_can_mend_is_told_from_what_time_can() {
        let server = "10.0.0.1:6443".parse().unwrap();
        let silent = unreached(Some((server, Failure::timed_out())));
        assert_eq!(silent, RecordError::Unreached("10.0.0.1:6443: no answer in time".to_owned()));
        let status =
            serde_json::json!({"code": 403, "message": "events is forbidden", "reason": "Forbidden"});
        let refused = Error::Api(serde_json::from_value(status).unwrap());
        let failure = Failure::explained(&refused, "the rule");
        let expected = "403, not allowed: events is forbidden (the rule)".to_owned();
        assert_eq!(unreached(Some((server, failure))), RecordError::Forbidden(expected));
        assert!(
            matches!(unreached(None), RecordError::Unreached(text) if text.contains("kubernetes.server"))
        );
    }
}
