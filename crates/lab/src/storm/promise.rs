//! What is promised of each system and fault: how long there may be no answer.

use std::time::Duration;

use crate::fault::Fault;
use crate::system::{Pace, System, Timing};

/// Three control planes share the machine's processors with whatever else runs there, so each step of an election may be late.
const LATE: Duration = Duration::from_secs(2);
/// etcd's `--election-timeout`, as it is if nothing is said.
const ETCD_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a client may see no answer where a majority of the nodes hears each other; `None` where nothing is promised. It is told
/// beside what was seen and decides nothing: how fast a busy machine is proves nothing.
pub(super) fn answered_within(system: System, fault: Fault) -> Option<Duration> {
    // An answer takes several ways along the slow cable.
    let slow = fault.slowness().is_some();
    let is_default = matches!(
        system,
        System::Vipd(Timing::Default)
            | System::VipdSamePort(Timing::Default)
            | System::VipdKernel
            | System::VipdAddress(Timing::Default)
    );
    (is_default && fault.leaves_a_majority() && !by_chance(fault) && !slow)
        .then_some(Duration::from_millis(200))
}

/// How long nobody may answer for the address where vipd elects by a Lease; `None` where nothing is promised. It is an upper bound
/// that follows from the durations, far above what is usual, and it decides.
///
/// Each of the faults leaves two apiservers at two members of etcd that hear each other. Two killed vipds leave the third, which
/// needs no other: the majority is etcd's.
pub(super) fn owned_within(system: System, fault: Fault) -> Option<Duration> {
    let System::VipdLease(pace, _) = system else { return None };
    let etcd = if fault.takes_etcd() { etcd_election(fault) } else { Duration::ZERO };
    (!by_chance(fault)).then(|| etcd + takeover(pace) + LATE)
}

/// Lost frames cost renewals, and etcd's own elections, as chance will have it; a machine without processors what it pleases.
fn by_chance(fault: Fault) -> bool {
    matches!(fault, Fault::Loss1 | Fault::Loss10 | Fault::Loss30 | Fault::Starved)
}

/// How long etcd may have no leader when it loses a member.
///
/// A follower asks for votes when it has heard no leader for one to two timeouts, by lot. Where both that are left ask at once,
/// neither is elected, and they draw again: two rounds are allowed for. A leader that is heard but hears nobody keeps the others from
/// asking until it notices, which it looks for once in a timeout and so after two at most.
///
/// It adds to the lease and doesn't run beside it: a write that waits for the election may be applied at its end, and whoever sees it
/// then counts a whole lease from there.
fn etcd_election(fault: Fault) -> Duration {
    let notices = if fault == Fault::Deaf { 2 } else { 0 };
    ETCD_TIMEOUT * (2 * 2 + notices)
}

/// From the last change of a Lease to its next owner.
///
/// Others count the whole duration from their sight of the change, and a tenth of a retry period more by lot. Where no apiserver was
/// well, as while etcd had no leader, no node is fit, and the unfit wait another retry period. Then the next one looks and writes.
/// Each of its requests may be lost to a server that doesn't answer, for a third of the renew deadline, with a quarter of a retry
/// period before the next: two are allowed for, and the one that succeeds. (`leader::lease`, in `asking.rs`, has these parts.)
fn takeover(pace: Pace) -> Duration {
    let retry = pace.retry_period();
    pace.lease_duration() + retry / 10 + retry + 3 * (pace.renew_deadline() / 3) + 2 * (retry / 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::Balancer;

    #[test]
    fn a_lease_is_taken_over_within_what_its_durations_promise() {
        let lease = System::VipdLease(Pace::Two, Balancer::Off);
        let promised = |fault| owned_within(lease, fault).map(|within| within.as_millis());
        // 2000 + 50 + 500 + 1500 + 250, and 2000 for the machine.
        assert_eq!(promised(Fault::Sigkill), Some(6300));
        assert_eq!(promised(Fault::SigkillTwo), Some(6300));
        assert_eq!(promised(Fault::LinkDown), Some(10_300));
        assert_eq!(promised(Fault::Deaf), Some(12_300));
        assert_eq!(promised(Fault::Loss1), None);
        assert_eq!(owned_within(System::Vipd(Timing::Default), Fault::Sigkill), None);
    }

    #[test]
    fn peers_promise_their_clients_an_answer_where_a_majority_is_left() {
        let promised = |fault| answered_within(System::Vipd(Timing::Default), fault);
        assert!(promised(Fault::Sigkill).is_some());
        assert!(promised(Fault::SigkillTwo).is_none() && promised(Fault::Jitter).is_none());
    }
}
