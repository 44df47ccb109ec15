//! How it ends, why addresses were released, and that nothing is done where all is well.

use super::*;
use crate::relay::SUCCESSOR_WITHIN;

/// A driver with these events in place of the network's own, Active on a lease of ten minutes.
async fn hearing(events: Events) -> Rig {
    let (memory, _) = Memory::new("eth0", MAC);
    let (lease, granted) = watch::channel(None);
    let config = Config {
        interface: "eth0".to_owned(),
        addresses: addresses().into(),
        announce: true,
        relay: true,
        urgent: || {},
        asleep: || ASLEEP.get(),
    };
    let (driver, handle) = Driver::new(memory.clone(), events, Some(memory.link()), config, granted);
    let rig = Rig { memory, handle, lease, task: tokio::spawn(driver.run()) };
    rig.grant(ms(600_000));
    rig.becomes(State::Active).await;
    rig
}

#[tokio::test(start_paused = true)]
async fn who_hears_no_more_of_the_network_lets_go_and_says_so() {
    let (sender, events) = Events::new();
    let mut rig = hearing(events).await;

    drop(sender);

    let error = (&mut rig.task).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Blind { .. }), "{error}");
    assert!(rig.memory.held().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_can_hear_of_no_successor_any_more_is_over_at_once_and_no_failure() {
    let (sender, events) = Events::new();
    let mut rig = hearing(events).await;
    let began = VirtualInstant::now();

    rig.handle.stop();
    rig.becomes(State::Standby).await;
    assert!(rig.memory.errand().is_some());
    sleep(ms(10)).await;
    assert!(!rig.task.is_finished(), "a successor may be heard yet");
    drop(sender);

    assert!((&mut rig.task).await.unwrap().is_ok());
    assert!(began.elapsed() < SUCCESSOR_WITHIN);
}

#[tokio::test(start_paused = true)]
async fn the_patience_of_a_stop_ends_when_it_ends() {
    let mut rig = Rig::active().await;
    rig.memory.fail(false, true);
    // The withdrawal is tried again every 50 ms from here on.
    rig.lease.send_replace(None);
    sleep(ms(10)).await;
    let began = VirtualInstant::now();

    rig.handle.stop();

    assert!((&mut rig.task).await.unwrap().is_err());
    assert_eq!(began.elapsed(), STOP_PATIENCE);
}

#[tokio::test(start_paused = true)]
async fn it_is_remembered_why_the_addresses_were_released_and_for_how_long_they_were_held() {
    let released = |rig: &Rig| rig.handle.status().last_release;

    let rig = Rig::start();
    rig.grant(ms(200));
    rig.becomes(State::Active).await;
    rig.becomes(State::Standby).await;
    assert_eq!(released(&rig), Some((Reason::LeaseEnded, ms(200))));

    let rig = Rig::active().await;
    sleep(ms(300)).await;
    rig.lease.send_replace(None);
    rig.becomes(State::Standby).await;
    assert_eq!(released(&rig), Some((Reason::LeaseGivenUp, ms(300))));

    let rig = Rig::active().await;
    rig.memory.set_up(false).await;
    rig.becomes(State::Standby).await;
    assert_eq!(released(&rig).map(|(reason, _)| reason), Some(Reason::LinkDown));

    let rig = Rig::active().await;
    rig.handle.stop();
    rig.becomes(State::Standby).await;
    assert_eq!(released(&rig).map(|(reason, _)| reason), Some(Reason::Stopped));

    // Nobody took the lease: the kernel renews the lifetime no more, and lets go.
    let rig = Rig::active().await;
    rig.memory.fail(true, false);
    rig.becomes(State::Standby).await;
    assert_eq!(released(&rig).map(|(reason, _)| reason), Some(Reason::Failed));
}

#[tokio::test(start_paused = true)]
async fn what_is_there_is_let_be() {
    let rig = Rig::made_with(|config| config.addresses.truncate(1));
    rig.grant(ms(600_000));
    rig.becomes(State::Active).await;

    sleep(ms(10_000)).await;

    assert_eq!(rig.memory.requests(), (1, 0));
    assert_eq!(rig.handle.status().repairs, 0);
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_hears_nothing_more_is_as_patient_as_any() {
    let (sender, events) = Events::new();
    let mut rig = hearing(events).await;
    rig.memory.fail(false, true);
    let began = VirtualInstant::now();

    rig.handle.stop();
    sleep(ms(10)).await;
    drop(sender);

    assert!((&mut rig.task).await.unwrap().is_err());
    assert_eq!(began.elapsed(), STOP_PATIENCE);
}
