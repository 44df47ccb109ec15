//! An Event (events.k8s.io/v1): what happened on a node, where `kubectl describe node` and `kubectl get events` show it.
//!
//! It regards the Node, since that is what an operator looks at, and is related to the Lease, where one elects. A node belongs to no
//! namespace, so its Events are in `default`, where `kubectl get events` looks by itself. The bytes are made here and not by the library's
//! type, which would bring the whole of the old form along.

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::MicroTime, jiff::Timestamp};
use serde::Serialize;

use crate::lease::Stamp;

/// The namespace of Events about what belongs to none.
pub const EVENT_NAMESPACE: &str = "default";

/// Who tells, as `kubectl` shows it.
const CONTROLLER: &str = "vipd";

/// The API takes no longer note (`NoteLengthLimit`).
pub(super) const NOTE_BYTES_MAX: usize = 1024;

/// The API takes no longer name of an instance (`ReportingInstanceLengthLimit`).
const INSTANCE_BYTES_MAX: usize = 128;

/// So much of a node's name goes into an Event's, which may have 253 bytes in all.
const NAME_BYTES_MAX: usize = 200;

/// How much an Event matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Weight {
    /// All goes its way.
    Normal,
    /// Somebody should look.
    Warning,
}

/// Something that happened on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The node's name at the API.
    pub node: String,
    /// When.
    pub at: Stamp,
    /// Another for each of a process: several things may happen at one time.
    pub serial: u16,
    /// How much it matters.
    pub weight: Weight,
    /// What happened, in one word of letters: programs select by it.
    pub reason: &'static str,
    /// What was done, likewise.
    pub action: &'static str,
    /// What happened, for people; cut after 1024 bytes.
    pub note: String,
    /// The Lease that elects: its namespace and name.
    pub lease: Option<(String, String)>,
}

impl Event {
    /// Its name: a second try of the same has the same, so nothing is told twice.
    fn name(&self) -> String {
        let node = cut(&self.node, NAME_BYTES_MAX).trim_end_matches(['.', '-']);
        format!("{node}.{:016x}{:04x}", self.at.0, self.serial)
    }

    /// The object as JSON.
    pub(super) fn body(&self) -> Vec<u8> {
        let object = Object {
            api_version: "events.k8s.io/v1",
            kind: "Event",
            metadata: Metadata { name: self.name(), namespace: EVENT_NAMESPACE },
            // What was read from a clock fits.
            event_time: MicroTime(Timestamp::from_microsecond(self.at.0).unwrap_or(Timestamp::UNIX_EPOCH)),
            r#type: self.weight,
            reason: self.reason,
            action: self.action,
            note: cut(&self.note, NOTE_BYTES_MAX),
            reporting_controller: CONTROLLER,
            reporting_instance: cut(&self.node, INSTANCE_BYTES_MAX),
            regarding: Reference {
                api_version: "v1",
                kind: "Node",
                namespace: None,
                name: &self.node,
                // As the kubelet does: `kubectl describe node` asks for Events of this one, too, and to know the other takes a right
                // to read nodes.
                uid: Some(&self.node),
            },
            related: self.lease.as_ref().map(|(namespace, name)| Reference {
                api_version: "coordination.k8s.io/v1",
                kind: "Lease",
                namespace: Some(namespace),
                name,
                uid: None,
            }),
        };
        serde_json::to_vec(&object).expect("texts and a time make JSON")
    }
}

/// A text that is no longer than this.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Object<'a> {
    api_version: &'static str,
    kind: &'static str,
    metadata: Metadata,
    event_time: MicroTime,
    r#type: Weight,
    reason: &'a str,
    action: &'a str,
    note: &'a str,
    reporting_controller: &'static str,
    reporting_instance: &'a str,
    regarding: Reference<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    related: Option<Reference<'a>>,
}

#[derive(Serialize)]
struct Metadata {
    name: String,
    namespace: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Reference<'a> {
    api_version: &'static str,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<&'a str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        Event {
            node: "master-1".to_owned(),
            at: Stamp(1_700_000_000_000_001),
            serial: 0x2a,
            weight: Weight::Warning,
            reason: "VirtualIPClaimed",
            action: "Claim",
            note: "10.0.0.9/24 is here".to_owned(),
            lease: Some(("kube-system".to_owned(), "plndr-cp-lock".to_owned())),
        }
    }

    #[test]
    fn it_regards_the_node_by_the_name_that_kubectl_asks_for_and_is_related_to_the_lease() {
        let object: serde_json::Value = serde_json::from_slice(&event().body()).unwrap();
        assert_eq!(
            object,
            serde_json::json!({
                "apiVersion": "events.k8s.io/v1",
                "kind": "Event",
                "metadata": {"name": "master-1.00060a24181e4001002a", "namespace": "default"},
                "eventTime": "2023-11-14T22:13:20.000001Z",
                "type": "Warning",
                "reason": "VirtualIPClaimed",
                "action": "Claim",
                "note": "10.0.0.9/24 is here",
                "reportingController": "vipd",
                "reportingInstance": "master-1",
                "regarding": {"apiVersion": "v1", "kind": "Node", "name": "master-1", "uid": "master-1"},
                "related": {
                    "apiVersion": "coordination.k8s.io/v1",
                    "kind": "Lease",
                    "namespace": "kube-system",
                    "name": "plndr-cp-lock",
                },
            })
        );
        let alone = Event { lease: None, ..event() };
        let object: serde_json::Value = serde_json::from_slice(&alone.body()).unwrap();
        assert!(object.get("related").is_none());
    }

    #[test]
    fn what_is_too_long_for_the_api_is_cut() {
        // A name that would end in a dot where it is cut.
        let node = format!("{}.{}", "n".repeat(NAME_BYTES_MAX - 1), "x".repeat(40));
        let long = Event { node, note: "ä".repeat(600), ..event() };
        assert_eq!(long.name(), format!("{}.00060a24181e4001002a", "n".repeat(NAME_BYTES_MAX - 1)));
        let object: serde_json::Value = serde_json::from_slice(&long.body()).unwrap();
        assert_eq!(object["note"].as_str().unwrap().len(), NOTE_BYTES_MAX);
        assert_eq!(object["reportingInstance"].as_str().unwrap().len(), INSTANCE_BYTES_MAX);
        assert_eq!(object["regarding"]["name"], long.node);
    }
}
