//! Frames that come for addresses which were given up.

use super::*;
use crate::relay::{FOLLOWS_FOR, OFFLOAD_LEN, SPARED_FOR, SUCCESSOR_WITHIN};

#[tokio::test(start_paused = true)]
async fn a_lease_given_up_has_frames_caught_before_the_address_goes_and_passed_on_once_the_successor_is_heard()
 {
    let rig = Rig::active().await;
    rig.memory.fail(false, true);
    rig.memory.arrive(syn(1));
    rig.lease.send_replace(None);
    rig.becomes(State::Releasing).await;
    assert_eq!(rig.memory.held(), addresses().into(), "not gone yet");
    assert!(rig.memory.errand().is_some_and(|errand| errand.to.is_none()));
    rig.memory.fail(false, false);
    rig.becomes(State::Standby).await;
    assert!(*rig.handle.parting().borrow());

    rig.memory.arrive(syn(2));
    assert!(rig.memory.relayed().is_empty());
    rig.memory.tell(Event::Claimed { ip: addresses()[0].ip, mac: MAC }).await;
    sleep(ms(1)).await;
    assert!(rig.memory.relayed().is_empty(), "its own announcement, come back");
    rig.memory.tell(Event::Claimed { ip: addresses()[0].ip, mac: OTHER }).await;
    sleep(ms(1)).await;
    rig.memory.arrive(syn(3));

    let to: Vec<_> = rig.memory.relayed().iter().map(|parcel| parcel[OFFLOAD_LEN..][..12].to_vec()).collect();
    assert_eq!(
        to,
        [[OTHER, MAC].concat(), [OTHER, MAC].concat()],
        "not what came while the address was held"
    );
    assert!(*rig.handle.parting().borrow());
    sleep(SPARED_FOR).await;
    assert!(!*rig.handle.parting().borrow());
    assert!(rig.memory.errand().is_some());
    sleep(FOLLOWS_FOR).await;
    rig.memory.arrive(syn(4));
    assert_eq!((rig.memory.errand(), rig.memory.relayed().len()), (None, 2));
}

#[tokio::test(start_paused = true)]
async fn on_a_machine_that_slept_the_network_is_told_the_end_by_its_own_clock() {
    ASLEEP.set(ms(3_600_000));
    let rig = Rig::active().await;
    rig.lease.send_replace(None);
    rig.becomes(State::Standby).await;
    let until = rig.memory.errand().unwrap().until;
    assert_eq!(until, VirtualInstant::now().into_std() + SUCCESSOR_WITHIN);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_relayed_after_a_lease_that_ran_out_or_a_link_that_was_lost() {
    let rig = Rig::start();
    rig.grant(ms(200));
    rig.becomes(State::Active).await;
    rig.becomes(State::Standby).await;
    assert_eq!(rig.memory.errand(), None, "another may have had it for a while");
    assert!(!*rig.handle.parting().borrow());
    rig.lease.send_replace(None);
    sleep(ms(1)).await;
    assert_eq!(rig.memory.errand(), None);

    let rig = Rig::active().await;
    rig.memory.set_up(false).await;
    rig.becomes(State::Standby).await;
    assert_eq!(rig.memory.errand(), None);

    // Nor any more, when it is lost in the meantime.
    let rig = Rig::active().await;
    rig.lease.send_replace(None);
    rig.becomes(State::Standby).await;
    assert!(rig.memory.errand().is_some());
    rig.memory.set_up(false).await;
    sleep(ms(1)).await;
    assert_eq!(rig.memory.errand(), None);
}

#[tokio::test(start_paused = true)]
async fn an_address_that_is_held_anew_is_relayed_to_nobody() {
    let rig = Rig::active().await;
    rig.lease.send_replace(None);
    rig.becomes(State::Standby).await;
    rig.memory.tell(Event::Claimed { ip: addresses()[0].ip, mac: OTHER }).await;
    sleep(ms(1)).await;
    assert_eq!(rig.memory.errand().and_then(|errand| errand.to), Some(OTHER));

    rig.grant(ms(600_000));
    rig.becomes(State::Active).await;

    assert_eq!(rig.memory.errand(), None);
    rig.memory.arrive(syn(1));
    assert!(rig.memory.relayed().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stop_withdraws_at_once_and_returns_when_nothing_more_is_to_be_relayed() {
    for successor in [false, true] {
        let mut rig = Rig::active().await;
        let began = VirtualInstant::now();
        rig.handle.stop();
        rig.becomes(State::Standby).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert!(rig.memory.held().is_empty());
        sleep(ms(3)).await;
        rig.memory.arrive(syn(1));
        if successor {
            rig.memory.tell(Event::Claimed { ip: addresses()[0].ip, mac: OTHER }).await;
        }

        assert!((&mut rig.task).await.unwrap().is_ok());

        let expected = if successor { ms(3) + FOLLOWS_FOR } else { SUCCESSOR_WITHIN };
        assert!(began.elapsed() - expected < ms(3), "{:?}, with the timer's grain", began.elapsed());
        assert_eq!(rig.memory.relayed().len(), usize::from(successor));
    }
}

#[tokio::test(start_paused = true)]
async fn without_the_right_to_catch_frames_or_the_wish_the_address_moves_all_the_same() {
    for wish in [false, true] {
        let mut rig = Rig::made_with(|config| config.relay = wish);
        rig.grant(ms(600_000));
        rig.becomes(State::Active).await;
        rig.memory.fail_to_relay();
        let began = VirtualInstant::now();

        rig.handle.stop();

        assert!((&mut rig.task).await.unwrap().is_ok());
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert!(rig.memory.held().is_empty());
        assert_eq!(rig.handle.status().failures, u64::from(wish));
    }
}

/// The beginning of a connection to the first address, as a client sends it to this station.
fn syn(port: u16) -> Vec<u8> {
    let IpAddr::V4(vip) = addresses()[0].ip else { unreachable!() };
    let mut parcel = vec![0; OFFLOAD_LEN];
    etherparse::PacketBuilder::ethernet2([0x02, 0, 0, 0, 0, 9], MAC)
        .ipv4([10, 0, 0, 9], vip.octets(), 64)
        .tcp(port, 8443, 1, 1000)
        .syn()
        .write(&mut parcel, &[])
        .unwrap();
    parcel
}
