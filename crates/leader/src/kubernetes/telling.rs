//! What the driver tells an operator: one line a change.

use tracing::{debug, info, warn};

use crate::{NodeId, lease::Event};

/// An error with its causes, in one line.
pub(super) fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text += &format!(": {cause_text}");
        }
        source = cause.source();
    }
    text.replace('\n', " ")
}

/// Writes a change down, once.
pub(super) fn log(event: &Event) {
    match event {
        Event::Elected { term } => info!(%term, "became leader"),
        Event::Lost { term, loss } => info!(%term, ?loss, "lost leadership"),
        Event::Preserved { term } => {
            warn!(%term, "no apiserver renews the Lease; leads on, as `preserve` says: another node may lead as well");
        }
        Event::HandingOver { term, cause, to } => {
            info!(%term, ?cause, to = to.as_ref().map(NodeId::as_str), "handing over");
        }
        Event::Released { term } => debug!(%term, "released"),
        Event::NotReleased { term } => {
            warn!(%term, "failed to release the Lease in time; it lapses by itself")
        }
        Event::Twin => warn!(
            "another process writes this node's name into the Lease: give every node a name of its own (`node`)"
        ),
        Event::LongLease { holder, duration } => {
            warn!(
                %holder,
                ?duration,
                "the Lease is held for longer than this node's own lease duration: if that holder is gone, or none of yours, delete the \
                 Lease (`kubectl delete lease`), and one of the nodes writes it anew"
            );
        }
    }
}
