//! What is told of a driver: counts, and changes, each once.

use super::telling::{Reason, Warnings};
use super::*;

#[tokio::test(start_paused = true)]
async fn the_status_tells_the_lease_the_fence_the_link_and_how_long_the_claim_took() {
    let rig = Rig::start();
    let status = || rig.handle.status();
    assert_eq!((status().lease, status().last_claim), (None, None));

    rig.grant(ms(600_000));
    rig.becomes(State::Active).await;
    tokio::task::yield_now().await;
    assert_eq!(status().lease, *rig.lease.borrow());
    assert!(status().fenced && status().link_up);
    assert_eq!(status().last_claim, Some(Duration::ZERO), "this kernel answers at once");

    rig.memory.set_up(false).await;
    rig.becomes(State::Standby).await;
    assert!(!status().link_up);
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_is_tried_again_took_as_long_as_all_of_it() {
    let rig = Rig::start();
    rig.memory.fail(true, true);
    rig.grant(ms(600_000));
    sleep(ms(20)).await;
    // Between the tries it was not Standby: what may be there could not be removed.
    rig.memory.fail(false, false);
    rig.becomes(State::Active).await;

    let status = rig.handle.status();
    assert_eq!((status.claims, status.last_claim), (1, Some(ms(50))));
}

#[tokio::test(start_paused = true)]
async fn claims_releases_and_repairs_are_counted() {
    let rig = Rig::start();
    for times in 1..=3 {
        rig.grant(ms(600_000));
        rig.becomes(State::Active).await;
        rig.memory.delete(addresses()[0]);
        rig.memory.tell(Event::AddressesChanged).await;
        rig.repaired(times).await;
        rig.lease.send_replace(None);
        rig.becomes(State::Standby).await;

        let status = rig.handle.status();
        assert_eq!((status.claims, status.releases, status.repairs), (times, times, times));
        assert_eq!(*rig.handle.repairs().borrow(), times);
    }
}

#[tokio::test(start_paused = true)]
async fn who_follows_the_link_or_the_parting_is_woken_by_changes_alone() {
    let rig = Rig::active().await;
    let (mut link, mut parting) = (rig.handle.link_up(), rig.handle.parting());
    link.mark_unchanged();
    parting.mark_unchanged();

    rig.memory.tell(Event::Link(Some(rig.memory.link()))).await;
    rig.memory.tell(Event::AddressesChanged).await;
    sleep(ms(10)).await;
    assert!(!link.has_changed().unwrap() && !parting.has_changed().unwrap());

    rig.lease.send_replace(None);
    sleep(ms(10)).await;
    assert!(parting.has_changed().unwrap() && *parting.borrow_and_update());
    rig.memory.set_up(false).await;
    sleep(ms(10)).await;
    assert!(link.has_changed().unwrap() && !*link.borrow());
    assert!(parting.has_changed().unwrap() && !*parting.borrow());
}

#[test]
fn of_a_burst_of_warnings_one_is_told_and_the_next_counts_the_others() {
    let (began, mut warnings) = (now(), Warnings::default());
    let mut at = |millis: u64| warnings.next(began + ms(millis));

    assert_eq!([at(0), at(1), at(5000), at(9999)], [Some(0), None, None, None]);
    assert_eq!([at(10_000), at(10_001), at(19_999)], [Some(3), None, None]);
    assert_eq!([at(20_000), at(60_000)], [Some(2), Some(0)]);
}

#[test]
fn reasons_read_as_in_a_sentence() {
    let texts = [
        (Reason::LeaseEnded, "the lease ended"),
        (Reason::LeaseGivenUp, "the lease was given up"),
        (Reason::LinkDown, "the link is down"),
        (Reason::Stopped, "stopped"),
        (Reason::Failed, "the claim failed"),
    ];
    for (reason, text) in texts {
        assert_eq!(reason.to_string(), text);
    }
}

#[test]
fn an_address_with_a_subnet_endangers_the_nodes_own_where_the_kernel_promotes_none() {
    let parsed = |text: &str| text.parse::<Address>().unwrap();
    let (alone, shared) = (parsed("10.0.0.161"), parsed("10.0.0.162/31"));
    let (v6, both) = (parsed("fd00::162/64"), [parsed("10.0.0.161"), parsed("10.0.0.162/31")]);
    assert_eq!(endangers_primary(&both, false), Some(&shared));
    assert_eq!(endangers_primary(&both, true), None);
    assert_eq!(endangers_primary(&[alone, v6], false), None);
}
