//! What fuzzing calls of what the API says, and of the kubeconfig. See [`crate::fuzzing`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Node, discovery::v1::EndpointSlice};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde::{Serialize, de::DeserializeOwned};

use super::credentials::{Credentials, Origin};
use super::endpoints::{Endpoints, Slices};
use super::failure::Failure;
use super::nodes::ControlPlane;
use super::servers::SERVERS_MAX;
use super::{object, recorder};
use crate::NodeId;
use crate::lease::{Ask, Config, Election, Observed, Reply, Stamp, Timing, Version};

/// Who takes part.
const ME: &str = "master-1";
/// Objects in one input.
const OBJECTS_MAX: usize = 64;
/// What one participant may ask for at one time.
const ASKED_MAX: usize = 16;
/// Timeouts that are due at one time.
const DUE_MAX: usize = 64;

/// Leases as somebody writes them over each other, who may: each is JSON, with a zero between, and what comes between a zero and a tab is
/// the seconds until then. A participant sees each, and the store takes its own writes.
///
/// What is read of a Lease is written as it was read; a lease never reaches beyond its length, and nobody leads who has read that another
/// does.
pub fn lease(bytes: &[u8]) {
    let mut store = Store::new();
    for text in bytes.split(|byte| *byte == 0).take(OBJECTS_MAX) {
        let (later, text) = match text.iter().position(|byte| *byte == b'\t') {
            Some(at @ 1..=2) => (text[..at].iter().map(|byte| u64::from(*byte)).sum(), &text[at + 1..]),
            Some(_) | None => (1, text),
        };
        store.pass(Duration::from_secs(later));
        if let Ok(lease) = serde_json::from_slice::<Lease>(text) {
            written_as_read(&lease);
            store.overwritten(&lease);
        }
    }
}

fn written_as_read(lease: &Lease) {
    let read = object::observed(lease);
    let annotations = BTreeMap::new();
    let again = object::written(Some(lease), ("n", "l"), (&annotations, None), &read.record);
    assert_eq!(object::observed(&again), read);
    let text = serde_json::to_vec(&again).expect("an object makes JSON");
    let parsed: Lease = serde_json::from_slice(&text).expect("which is one");
    assert_eq!(object::observed(&parsed), read);
}

/// The Lease, and a participant that always reaches it.
struct Store {
    election: Election,
    lease: Option<Observed>,
    version: u64,
    now: Instant,
}

impl Store {
    fn new() -> Self {
        let now = crate::clock::now();
        let me = NodeId::new(ME).expect("a name");
        let mut election = Election::new(&Config { me, timing: Timing::DEFAULT, preserve: false }, 1, now);
        election.set_watching(true, now);
        let mut store = Self { election, lease: None, version: 0, now };
        store.answer();
        store
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..DUE_MAX {
            let Some(due) = self.election.poll_timeout().filter(|due| *due <= end) else { break };
            self.now = self.now.max(due);
            self.election.handle_timeout(self.now);
            self.answer();
            assert!(self.election.poll_timeout().is_none_or(|next| next > self.now), "due again at once");
        }
        self.now = end;
        self.election.handle_timeout(self.now);
        self.answer();
    }

    fn overwritten(&mut self, lease: &Lease) {
        let record = object::observed(lease).record;
        // One that was struck out is written in again.
        let is_others = record.holder.as_deref().is_some_and(|holder| holder != ME);
        let observed = self.put(record);
        self.election.handle_seen(observed, self.now);
        if is_others {
            assert!(self.election.lease_end(self.now).is_none(), "it leads, and has read that another does");
        }
        self.answer();
    }

    fn put(&mut self, record: crate::lease::Record) -> Observed {
        self.version += 1;
        let observed = Observed { version: Version::new(&self.version.to_string()), record };
        self.lease = Some(observed.clone());
        observed
    }

    fn answer(&mut self) {
        let mut asked = 0;
        while let Some(request) =
            self.election.poll_request(Stamp(i64::try_from(self.version).unwrap_or(0)), self.now)
        {
            asked += 1;
            assert!(asked <= ASKED_MAX, "there is no end of what it asks");
            let reply = match (request.ask, self.lease.clone()) {
                (Ask::Get, Some(lease)) => Reply::Done(lease),
                (Ask::Get | Ask::Update(..), None) => Reply::Absent,
                (Ask::Create(record), None) => Reply::Done(self.put(record)),
                (Ask::Update(version, record), Some(lease)) if lease.version == version => {
                    Reply::Done(self.put(record))
                }
                (Ask::Create(_) | Ask::Update(..), Some(_)) => Reply::Conflict,
            };
            self.election.handle_reply(request.id, reply, self.now);
        }
        while self.election.poll_event().is_some() {}
        if let Some(until) = self.election.lease_end(self.now) {
            assert!(
                until <= self.now + Timing::DEFAULT.lease_duration(),
                "a lease that is longer than it is"
            );
        }
    }
}

/// What else the API says, by the first byte: nodes, EndpointSlices, a list of names, an error; and what was remembered in a file.
///
/// Tables keep to their bounds, what is remembered is read as it was written, and what an operator reads is one line.
pub fn cluster(bytes: &[u8]) {
    let Some((kind, text)) = bytes.split_first() else { return };
    match kind {
        b'n' => {
            let Ok(nodes) = serde_json::from_slice::<Vec<Node>>(text) else { return };
            let mut all = ControlPlane::default();
            all.replace(&nodes);
            for node in &nodes {
                all.put(node);
            }
            assert!(all.nodes.len() <= SERVERS_MAX && all.cordoned.len() <= SERVERS_MAX);
            assert!(all.backends(true, 6443, &BTreeSet::new()).len() <= SERVERS_MAX);
            assert_eq!(all.servers(6443).len(), all.nodes.len(), "each has an address");
            remembered(&ControlPlane { cordoned: BTreeSet::new(), ..all.clone() });
            for node in &nodes {
                all.remove(node);
            }
            assert!(all.nodes.is_empty() && all.cordoned.is_empty());
        }
        b's' => {
            let Ok(slices) = serde_json::from_slice::<Vec<EndpointSlice>>(text) else { return };
            let mut all = Slices::of(&slices);
            if let Some(endpoints) = all.endpoints() {
                assert!((1..=SERVERS_MAX).contains(&endpoints.apiservers.len()));
                assert!(endpoints.apiservers.iter().all(|server| server.port() != 0));
                remembered(&endpoints);
            }
            slices.iter().for_each(|slice| all.remove(slice));
            assert_eq!(all.endpoints(), None);
        }
        b'l' => {
            let _ = std::str::from_utf8(text).map(recorder::listed);
        }
        b'm' => {
            recalled::<ControlPlane>(text);
            recalled::<Endpoints>(text);
        }
        _ => {
            let Ok(status) = serde_json::from_slice(text) else { return };
            let told = Failure::of(&kube::Error::Api(status)).to_string();
            assert!(!told.contains(char::is_control), "{told:?}");
        }
    }
}

fn remembered<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(what: &T) {
    let text = serde_json::to_vec_pretty(what).expect("it makes JSON");
    assert_eq!(&serde_json::from_slice::<T>(&text).expect("which is read again"), what);
}

fn recalled<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(text: &[u8]) {
    if let Ok(what) = serde_json::from_slice::<T>(text) {
        remembered(&what);
    }
}

/// A kubeconfig, as far as it names no other file.
///
/// A server that is named by its address has a port, and the error is told without a panic.
pub fn kubeconfig(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(kubeconfig) = Kubeconfig::from_yaml(text) else { return };
    let clusters = kubeconfig.clusters.iter().filter_map(|named| named.cluster.as_ref());
    let users = kubeconfig.auth_infos.iter().filter_map(|named| named.auth_info.as_ref());
    let files = clusters.filter_map(|cluster| cluster.certificate_authority.as_ref());
    let own = users.flat_map(|user| [&user.client_certificate, &user.client_key, &user.token_file]).flatten();
    if files.chain(own).next().is_some() {
        return;
    }
    let fingerprint = super::credentials::fingerprint(text, &kubeconfig);
    assert_eq!(fingerprint, super::credentials::fingerprint(text, &kubeconfig));
    let first = KubeConfigOptions::default();
    let made = kube::Config::from_custom_kubeconfig(kubeconfig, &first);
    match made.now_or_never() {
        Some(Ok(config)) => {
            let credentials = Credentials { origin: Origin::ServiceAccount, config, fingerprint };
            let named: Option<SocketAddr> = credentials.named();
            assert!(named.is_none_or(|named| named.to_string().parse() == Ok(named)));
        }
        Some(Err(error)) => drop(error.to_string()),
        None => {}
    }
}
