//! How often the lead went from one node to another, as this node saw it.

use leader::{Leadership, NodeId};
use tokio::sync::watch;

/// Counts changes of the leader, whatever elects it. Only the main loop counts.
pub(super) struct Transitions {
    last: Option<Holder>,
    count: watch::Sender<u64>,
}

/// Who was known to lead.
#[derive(PartialEq, Eq)]
enum Holder {
    ThisNode,
    Other(NodeId),
}

impl Transitions {
    /// Begins with none.
    pub(super) fn new(count: watch::Sender<u64>) -> Self {
        Self { last: None, count }
    }

    /// Notes who leads now. The first leader known is no transition, and neither is a time without one.
    pub(super) fn note(&mut self, leadership: &Leadership) {
        let holder = match leadership {
            Leadership::Leader { .. } => Holder::ThisNode,
            Leadership::Follower { leader: Some(leader) } => Holder::Other(leader.clone()),
            Leadership::Follower { leader: None } => return,
        };
        if self.last.as_ref() == Some(&holder) {
            return;
        }
        if self.last.replace(holder).is_some() {
            self.count.send_modify(|count| *count += 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use leader::Term;

    use super::*;

    #[test]
    fn a_lead_that_changes_hands_counts_once() {
        let (count, seen) = watch::channel(0);
        let mut transitions = Transitions::new(count);
        let until = tokio::time::Instant::now().into_std();
        let me = |renewal| Leadership::Leader { term: Term(1), until: until + Duration::from_secs(renewal) };
        let other = |name| Leadership::Follower { leader: Some(NodeId::new(name).unwrap()) };
        let nobody = Leadership::Follower { leader: None };
        let steps = [
            (nobody.clone(), 0),
            (me(0), 0),
            (me(1), 0),
            (nobody.clone(), 0),
            (me(2), 0),
            (other("b"), 1),
            (nobody, 1),
            (other("b"), 1),
            (other("c"), 2),
            (me(3), 3),
        ];
        for (index, (leadership, expected)) in steps.into_iter().enumerate() {
            transitions.note(&leadership);
            assert_eq!(*seen.borrow(), expected, "after step {index}");
        }
    }
}
