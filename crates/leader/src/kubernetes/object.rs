//! The Lease object and what an election reads and writes of it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};

use crate::{
    NodeId,
    lease::{Observed, Record, Stamp, Version},
};

/// The annotation that names who should take a released Lease: `NODE@TRANSITIONS`, so that one that another client carries
/// along means nothing later.
///
/// Kubernetes has a field for this, `preferredHolder`, which can't be used: it is refused without a `strategy`, and that
/// would give the Lease away to the coordinated election of newer control planes.
const SUCCESSOR: &str = "vipd.io/successor";

/// The annotation that tells people of the holder: `NODE@TRANSITIONS: …`, so that one that another client carries along is seen to
/// be old.
const OWNER: &str = "vipd.io/owner";

/// What a Lease object says.
pub(super) fn observed(lease: &Lease) -> Observed {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let transitions = spec.lease_transitions.unwrap_or(0);
    let annotations = lease.metadata.annotations.as_ref();
    let record = Record {
        holder: spec.holder_identity.filter(|holder| !holder.is_empty()).map(Arc::from),
        duration: seconds.filter(|seconds| *seconds > 0).map(Duration::from_secs),
        acquired: spec.acquire_time.map(stamp),
        renewed: spec.renew_time.map(stamp),
        transitions,
        successor: annotations
            .and_then(|all| all.get(SUCCESSOR))
            .and_then(|text| successor(text, transitions)),
    };
    Observed { version: Version::new(lease.metadata.resource_version.as_deref().unwrap_or("")), record }
}

fn successor(text: &str, transitions: i32) -> Option<NodeId> {
    let (name, at) = text.rsplit_once('@')?;
    NodeId::new(name).ok().filter(|_| at.parse() == Ok(transitions))
}

fn stamp(time: MicroTime) -> Stamp {
    Stamp(time.0.as_microsecond())
}

fn time(stamp: Stamp) -> MicroTime {
    // What was read from a clock or a Lease fits; anything else is nobody's time.
    MicroTime(Timestamp::from_microsecond(stamp.0).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// The object that says this: a new one, or the known one with all that isn't about the election left as it was. Annotations are those
/// of the configuration, and a remark about the holder.
pub(super) fn written(
    known: Option<&Lease>,
    (namespace, name): (&str, &str),
    (annotations, remark): (&BTreeMap<String, String>, Option<&str>),
    record: &Record,
) -> Lease {
    let mut lease = known.cloned().unwrap_or_else(|| Lease {
        metadata: ObjectMeta {
            namespace: Some(namespace.to_owned()),
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        spec: None,
    });
    let mut all = lease.metadata.annotations.take().unwrap_or_default();
    all.extend(annotations.clone());
    all.remove(SUCCESSOR);
    if let Some(successor) = &record.successor {
        all.insert(SUCCESSOR.to_owned(), format!("{successor}@{}", record.transitions));
    }
    all.remove(OWNER);
    if let (Some(holder), Some(remark)) = (&record.holder, remark) {
        all.insert(OWNER.to_owned(), format!("{holder}@{}: {remark}", record.transitions));
    }
    lease.metadata.annotations = Some(all).filter(|all| !all.is_empty());
    // Left to the server, which refuses what it doesn't expect.
    lease.metadata.managed_fields = None;
    let seconds = record.duration.map(|duration| i32::try_from(duration.as_secs()).unwrap_or(i32::MAX));
    lease.spec = Some(LeaseSpec {
        // client-go writes an empty name, and not none, when it lets go.
        holder_identity: Some(record.holder.as_deref().unwrap_or("").to_owned()),
        lease_duration_seconds: seconds,
        acquire_time: record.acquired.map(time),
        renew_time: record.renewed.map(time),
        lease_transitions: Some(record.transitions),
        ..lease.spec.take().unwrap_or_default()
    });
    lease
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            holder: Some("master-1".into()),
            duration: Some(Duration::from_secs(15)),
            acquired: Some(Stamp(1_700_000_000_000_001)),
            renewed: Some(Stamp(1_700_000_010_123_456)),
            transitions: 7,
            successor: None,
        }
    }

    fn write(known: Option<&Lease>, record: &Record) -> Lease {
        written(known, ("kube-system", "plndr-cp-lock"), (&BTreeMap::new(), None), record)
    }

    #[test]
    fn what_is_written_is_read_as_it_was() {
        let released = Record {
            holder: None,
            duration: Some(Duration::from_secs(1)),
            successor: Some(NodeId::new("master-2").unwrap()),
            ..record()
        };
        for record in [record(), released] {
            assert_eq!(observed(&write(None, &record)).record, record);
        }
    }

    #[test]
    fn the_fields_are_those_of_client_go() {
        let text = serde_json::to_value(write(None, &record())).unwrap();
        assert_eq!(
            text["spec"],
            serde_json::json!({
                "holderIdentity": "master-1",
                "leaseDurationSeconds": 15,
                "acquireTime": "2023-11-14T22:13:20.000001Z",
                "renewTime": "2023-11-14T22:13:30.123456Z",
                "leaseTransitions": 7,
            })
        );
        assert_eq!(
            text["metadata"],
            serde_json::json!({"namespace": "kube-system", "name": "plndr-cp-lock"})
        );
    }

    #[test]
    fn what_others_have_put_on_the_lease_stays_there() {
        let mut known = write(None, &record());
        known.metadata.labels = Some(BTreeMap::from([("mine".to_owned(), "yes".to_owned())]));
        known.metadata.annotations = Some(BTreeMap::from([("note".to_owned(), "keep".to_owned())]));
        known.metadata.resource_version = Some("42".to_owned());
        let own = BTreeMap::from([("ours".to_owned(), "1".to_owned())]);

        let lease = written(Some(&known), ("n", "l"), (&own, None), &record());

        let annotations = lease.metadata.annotations.unwrap();
        assert_eq!(annotations["note"], "keep");
        assert_eq!(annotations["ours"], "1");
        assert_eq!(lease.metadata.labels, known.metadata.labels);
        assert_eq!(lease.metadata.resource_version.as_deref(), Some("42"));
    }

    #[test]
    fn a_remark_stands_on_the_lease_while_it_is_held_by_whom_it_is_about() {
        let none = BTreeMap::new();
        let write = |known: Option<&Lease>, remark, record: &Record| {
            let lease = written(known, ("n", "l"), (&none, remark), record);
            let annotations = lease.metadata.annotations.clone().unwrap_or_default();
            (annotations.get(OWNER).cloned(), lease)
        };
        let (told, lease) = write(None, Some("has it"), &record());
        assert_eq!(told.as_deref(), Some("master-1@7: has it"));
        assert_eq!(write(Some(&lease), None, &record()).0, None, "one that is not so any more");
        let released = Record { holder: None, ..record() };
        assert_eq!(write(Some(&lease), Some("has it"), &released).0, None);
    }

    #[test]
    fn a_successor_that_was_named_for_an_earlier_release_is_none() {
        let successor = Some(NodeId::new("master-2").unwrap());
        let mut lease = write(None, &Record { successor: successor.clone(), ..record() });
        assert_eq!(observed(&lease).record.successor, successor);
        // Another client carries the annotation along when it takes the Lease.
        lease.spec.as_mut().unwrap().lease_transitions = Some(8);
        assert_eq!(observed(&lease).record.successor, None);
    }

    #[test]
    fn nonsense_in_a_lease_is_nothing() {
        let mut lease = write(None, &record());
        let spec = lease.spec.as_mut().unwrap();
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(-3);
        lease.metadata.annotations =
            Some(BTreeMap::from([(SUCCESSOR.to_owned(), "@@ two words @x".to_owned())]));
        let observed = observed(&lease);
        assert_eq!((observed.record.holder, observed.record.duration), (None, None));
        assert_eq!(observed.record.successor, None);
        assert_eq!(super::observed(&Lease::default()).record.holder, None);
    }
}
