//! What fuzzing calls of the status. See [`crate::fuzzing`].

use std::collections::BTreeMap;

use leader::NodeId;
use leader::peers::Note;
use tokio::sync::watch;

use super::report::{Reporter, Snapshot};
use super::show::text;
use super::socket::parsed;
use crate::daemon::Pulse;

/// What another node says of itself, or what answers on the status socket.
///
/// What is read is told on as it was read; no text of another moves anything on the screen of whoever looks; and what is shown of another
/// isn't more than a few times what it said.
pub fn status(bytes: &[u8]) {
    let Ok(snapshot) = parsed(bytes) else { return };
    let shown = text(&snapshot);
    let is_odd = |c: char| c.is_control() && c != '\n';
    assert!(!shown.contains(is_odd), "{shown:?}");
    let told = serde_json::to_vec(&snapshot).expect("it makes JSON");
    let again: Snapshot = serde_json::from_slice(&told).expect("which is read again");
    assert_eq!(serde_json::to_vec(&again).expect("it makes JSON"), told);

    // As this node tells of it, to whoever asks this one.
    let note = Note { heard: leader::clock::now(), bytes: bytes.into() };
    let name = NodeId::new("master-2").expect("a name");
    let (_told, others) = watch::channel(BTreeMap::from([(name, note)]));
    let reporter = Reporter::of_others(others, Pulse::of_one_beat());
    let whole = serde_json::to_vec(&reporter.snapshot()).expect("it makes JSON");
    let whole = parsed(&whole).expect("which is read");
    assert_eq!(whole.others.len(), 1);
    assert!(!text(&whole).contains(is_odd));
}
