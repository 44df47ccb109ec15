//! The text of a configuration file, mirrored key by key.
//!
//! Everything is optional and nothing is judged here but shape: unknown keys and wrong types are refused by serde,
//! with their place. What the values mean, and whether they fit together, is [`super::build`]'s question.
//! Addresses and durations stay text, so that a wrong one can be shown where it stands.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, MapAccess, Visitor};

use super::source::Step;

/// The whole file: the keys of kube-vip 0.1 and vipd's own.
#[derive(Debug, Default, Deserialize)]
#[serde(
    rename_all = "camelCase",
    deny_unknown_fields,
    expecting = "keys such as `vip:`, `interface:` and `loadBalancers:`"
)]
pub(super) struct File {
    pub(super) local_peer: Option<Peer>,
    pub(super) remote_peers: Option<Vec<Peer>>,
    pub(super) vip: Option<String>,
    pub(super) vips: Option<Vec<String>>,
    pub(super) spread: Option<bool>,
    #[serde(rename = "gratuitousARP")]
    pub(super) gratuitous_arp: Option<bool>,
    pub(super) single_node: Option<bool>,
    pub(super) start_as_leader: Option<bool>,
    pub(super) interface: Option<String>,
    pub(super) load_balancers: Option<Vec<LoadBalancer>>,

    pub(super) node: Option<String>,
    pub(super) election: Option<Election>,
    pub(super) kubernetes: Option<Kubernetes>,
    pub(super) timing: Option<Timing>,
    pub(super) priority: Option<u8>,
    pub(super) preempt: Option<bool>,
    pub(super) preempt_delay: Option<String>,
    pub(super) tie_break: Option<String>,
    pub(super) peer_keys: Option<Vec<PeerKey>>,
    pub(super) health_check: Option<HealthCheck>,
    pub(super) workers: Option<usize>,
    pub(super) drain_timeout: Option<String>,
    pub(super) reload_on_change: Option<bool>,
    pub(super) socket: Option<String>,
    #[serde(default, deserialize_with = "listener")]
    pub(super) metrics: Option<String>,
    pub(super) health_port: Option<u16>,

    // Keys of kube-vip 0.1.5 to 0.1.8 that are obsolete: they warn.
    pub(super) vip_cidr: Option<Scalar>,
    pub(super) add_peers_as_backends: Option<bool>,
    pub(super) enable_load_balancer: Option<bool>,
    pub(super) enable_leader_election: Option<bool>,
    #[serde(rename = "enableBGP")]
    pub(super) enable_bgp: Option<bool>,
    pub(super) enable_packet: Option<bool>,
}

/// The election by Kubernetes Lease, and what the API is told beside it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Kubernetes {
    pub(super) kubeconfig: Option<String>,
    pub(super) lease: Option<String>,
    pub(super) lease_duration: Option<String>,
    pub(super) renew_deadline: Option<String>,
    pub(super) retry_period: Option<String>,
    pub(super) server: Option<String>,
    pub(super) servers: Option<Vec<String>>,
    pub(super) port: Option<u16>,
    pub(super) preserve: Option<bool>,
    pub(super) annotations: Option<BTreeMap<String, String>>,
    pub(super) events: Option<bool>,
    pub(super) node_label: Option<bool>,
    pub(super) memory: Option<String>,
}

/// One host of the peer list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Peer {
    pub(super) id: String,
    pub(super) address: String,
    pub(super) port: u16,
    pub(super) witness: Option<bool>,
}

impl Peer {
    /// Whether it is said to vote and never to have the address.
    pub(super) fn is_witness(&self) -> bool {
        self.witness == Some(true)
    }
}

impl File {
    /// Whether this host is said to be a witness.
    pub(super) fn is_of_witness(&self) -> bool {
        self.local_peer.as_ref().is_some_and(Peer::is_witness)
    }

    /// The host that is called a witness first, as a path into the file.
    pub(super) fn witness(&self) -> Option<Vec<Step>> {
        if self.is_of_witness() {
            return Some(vec!["localPeer".into(), "witness".into()]);
        }
        let place = self.remote_peers.iter().flatten().position(Peer::is_witness)?;
        Some(vec!["remotePeers".into(), place.into(), "witness".into()])
    }
}

/// One frontend with its backends.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct LoadBalancer {
    pub(super) name: Option<String>,
    #[serde(rename = "type")]
    pub(super) kind: Option<Protocol>,
    pub(super) port: u16,
    pub(super) bind: Option<Vec<String>>,
    pub(super) bind_to_vip: Option<bool>,
    pub(super) same_port: Option<bool>,
    pub(super) listen_port: Option<u16>,
    pub(super) backends: Option<Vec<Backend>>,
    pub(super) mode: Option<Mode>,
    pub(super) policy: Option<Policy>,
    pub(super) slow_start: Option<String>,
    pub(super) check: Option<Check>,
    pub(super) connect_timeout: Option<String>,
    pub(super) idle_timeout: Option<String>,
    pub(super) max_connection_age: Option<String>,
    pub(super) max_connections: Option<usize>,
    pub(super) max_connections_per_source: Option<usize>,
    pub(super) access_log: Option<bool>,
    pub(super) rebalance: Option<usize>,
    pub(super) proxy_protocol: Option<ProxyProtocol>,
    pub(super) accept_proxy_protocol: Option<Vec<String>>,
    pub(super) transparent_source: Option<TransparentSource>,
    pub(super) discover: Option<bool>,
    pub(super) backend_port: Option<u16>,
}

impl LoadBalancer {
    /// It has its port on the virtual address alone.
    pub(super) fn is_on_vip(&self) -> bool {
        self.bind_to_vip == Some(true) || self.same_port == Some(true)
    }
}

/// One server behind a frontend.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Backend {
    pub(super) name: Option<String>,
    pub(super) address: String,
    pub(super) port: Option<u16>,
    // kube-vip 0.1: the target of an HTTP load balancer.
    pub(super) url: Option<String>,
}

/// How a backend is judged.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Check {
    #[serde(rename = "type")]
    pub(super) kind: Option<CheckKind>,
    pub(super) path: Option<String>,
    pub(super) ca_file: Option<String>,
    pub(super) interval: Option<String>,
    pub(super) timeout: Option<String>,
    pub(super) rise: Option<u32>,
    pub(super) fall: Option<u32>,
}

/// The check of this host's own apiserver, where vipd holds an address and balances nothing.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct HealthCheck {
    pub(super) address: String,
    pub(super) port: u16,
    pub(super) path: Option<String>,
    pub(super) ca_file: Option<String>,
    pub(super) interval: Option<String>,
    pub(super) timeout: Option<String>,
    pub(super) rise: Option<u32>,
    pub(super) fall: Option<u32>,
}

/// One key of the peer protocol.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PeerKey {
    pub(super) id: u8,
    pub(super) file: String,
}

/// Who decides which node leads.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(super) enum Election {
    Peers,
    Kubernetes,
    None,
}

/// The protocol of a frontend.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(super) enum Protocol {
    Tcp,
    Udp,
    Http,
}

/// The data path of a frontend.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(super) enum Mode {
    Proxy,
    Kernel,
}

/// The order in which backends are tried.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(super) enum Policy {
    LeastConnections,
    RoundRobin,
    SourceHash,
}

/// How backends are told who the client is.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(super) enum ProxyProtocol {
    V1,
    V2,
}

/// Whose own address backends see: all clients', nobody's, or that of those from these networks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TransparentSource {
    All(bool),
    Of(Vec<String>),
}

/// Not an untagged enum: that would lose the place of an error.
impl<'de> Deserialize<'de> for TransparentSource {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SourceVisitor;

        impl<'de> Visitor<'de> for SourceVisitor {
            type Value = TransparentSource;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false, or a list of the clients' networks: [10.1.0.0/16]")
            }

            fn visit_bool<E: de::Error>(self, all: bool) -> Result<TransparentSource, E> {
                Ok(TransparentSource::All(all))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, list: A) -> Result<TransparentSource, A::Error> {
                let list = de::value::SeqAccessDeserializer::new(list);
                Vec::deserialize(list).map(TransparentSource::Of)
            }
        }
        deserializer.deserialize_any(SourceVisitor)
    }
}

/// What a check asks.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(super) enum CheckKind {
    Auto,
    Tcp,
    Https,
    None,
}

/// The election's timing: a profile's name, or both durations.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Timing {
    Profile(String),
    Custom { heartbeat: String, lease: String },
}

/// A profile as text or a map of both durations. Not an untagged enum: that would lose the place of an error.
impl<'de> Deserialize<'de> for Timing {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TimingVisitor;

        impl<'de> Visitor<'de> for TimingVisitor {
            type Value = Timing;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`fast`, `default`, `relaxed`, or {heartbeat: 50ms, lease: 200ms}")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Timing, E> {
                Ok(Timing::Profile(name.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Timing, A::Error> {
                #[derive(Deserialize)]
                #[serde(deny_unknown_fields)]
                struct Custom {
                    heartbeat: String,
                    lease: String,
                }
                let Custom { heartbeat, lease } =
                    Custom::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(Timing::Custom { heartbeat, lease })
            }
        }
        deserializer.deserialize_any(TimingVisitor)
    }
}

/// A number or a text, kept as text: old files write `vipCidr: 24` and `vipCidr: "24"`.
#[derive(Debug)]
pub(super) struct Scalar(pub(super) String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ScalarVisitor;

        impl Visitor<'_> for ScalarVisitor {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number such as 24")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar(text.to_owned()))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Scalar, E> {
                Ok(Scalar(number.to_string()))
            }
        }
        deserializer.deserialize_any(ScalarVisitor)
    }
}

/// Where to listen, as text. A key without a value is the empty text, not an absent key: its writer wanted something.
fn listener<'de, D: de::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    struct ListenerVisitor;

    impl Visitor<'_> for ListenerVisitor {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text such as \":2112\"")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<String, E> {
            Ok(number.to_string())
        }

        fn visit_unit<E: de::Error>(self) -> Result<String, E> {
            Ok(String::new())
        }
    }
    deserializer.deserialize_any(ListenerVisitor).map(Some)
}
