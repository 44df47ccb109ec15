use super::*;
use crate::memory::Memory;
use crate::ownership::REPAIR_SPACING;
use crate::{arp, ndp};
use std::cell::Cell;
use std::net::IpAddr;
use tokio::task::JoinHandle;
use tokio::time::{Instant as VirtualInstant, advance, sleep};

mod ending;
mod relaying;
mod status;

#[tokio::test(start_paused = true)]
async fn a_lease_makes_it_active_and_the_first_frames_leave_at_that_instant() {
    let rig = Rig::start();
    let began = VirtualInstant::now();

    rig.grant(ms(200));
    rig.becomes(State::Active).await;
    tokio::task::yield_now().await;

    assert_eq!(rig.memory.held(), addresses().into());
    let (IpAddr::V4(v4), IpAddr::V6(v6)) = (addresses()[0].ip, addresses()[1].ip) else { unreachable!() };
    let expected = [
        arp::Repr::gratuitous_request(MAC, v4).emit().to_vec(),
        arp::Repr::gratuitous_reply(MAC, v4).emit().to_vec(),
        ndp::Repr::unsolicited_advertisement(MAC, v6).emit(),
    ];
    let frames = rig.memory.frames();
    assert_eq!(frames.iter().map(|(_, frame)| frame.0.clone()).collect::<Vec<_>>(), expected);
    assert!(frames.iter().all(|(at, _)| *at == began));
    assert_eq!(rig.handle.status().claims, 1);
}

#[tokio::test(start_paused = true)]
async fn the_burst_keeps_its_schedule_while_the_lease_is_renewed() {
    let rig = Rig::start();
    let began = VirtualInstant::now();

    rig.renew_for(ms(6000), ms(200)).await;

    let mut rounds: Vec<_> = rig.memory.frames().iter().map(|(at, _)| (*at - began).as_millis()).collect();
    rounds.dedup();
    assert_eq!(rounds, [0, 50, 200, 500, 1100, 2200, 5000]);
    assert_eq!(rig.handle.status().announcements, 21);
}

#[tokio::test(start_paused = true)]
async fn a_lapse_withdraws_at_the_leases_end_and_silences_the_announcer() {
    let rig = Rig::start();
    let began = VirtualInstant::now();
    rig.grant(ms(200));

    rig.becomes(State::Active).await;
    assert!(rig.memory.armed().is_some());
    rig.becomes(State::Standby).await;
    assert_eq!(rig.memory.armed(), None);

    assert_eq!(began.elapsed(), ms(200));
    assert!(rig.memory.held().is_empty());
    let frames = rig.memory.frames().len();
    sleep(ms(60_000)).await;
    assert_eq!(rig.memory.frames().len(), frames);
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_slept_beyond_its_lease_lets_go_when_it_wakes() {
    let rig = Rig::active().await;
    assert!(rig.memory.armed().is_some());
    let (began, frames) = (VirtualInstant::now(), rig.memory.frames().len());

    // Ten minutes of its lease are left by the clock that slept.
    ASLEEP.set(ms(3_600_000));
    rig.memory.tell(Event::AddressesChanged).await;
    rig.becomes(State::Standby).await;

    assert_eq!(began.elapsed(), Duration::ZERO);
    assert!(rig.memory.held().is_empty() && rig.memory.armed().is_none());
    assert_eq!(rig.memory.frames().len(), frames);
    // A lease by the clock that goes on is one.
    rig.grant(ms(200));
    rig.becomes(State::Active).await;
    rig.becomes(State::Standby).await;
    assert_eq!(began.elapsed(), ms(200));
}

#[tokio::test(start_paused = true)]
async fn a_rolling_lease_of_16_ms_never_loses_the_address_and_asks_the_kernel_seldom() {
    let rig = Rig::start();
    rig.grant(ms(16));
    rig.becomes(State::Active).await;

    for _ in 0..2000 {
        sleep(ms(5)).await;
        rig.grant(ms(16));
        let until = VirtualInstant::now() + ms(16);
        assert_eq!(rig.memory.held().len(), 2);
        assert_eq!(*rig.handle.state().borrow(), State::Active);
        tokio::task::yield_now().await;
        assert_eq!(rig.memory.armed(), Some(until), "the kernel learns of each renewal");
    }

    let (holds, withdrawals) = rig.memory.requests();
    assert_eq!(withdrawals, 0);
    assert!(holds <= 2 * 26, "{holds} requests for two addresses in 10 s");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_address_is_put_back_at_once() {
    let rig = Rig::active().await;
    let began = VirtualInstant::now();

    rig.memory.delete(addresses()[0]);
    rig.memory.tell(Event::AddressesChanged).await;
    rig.repaired(1).await;

    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(rig.memory.held(), addresses().into());
}

#[tokio::test(start_paused = true)]
async fn a_deletion_that_nobody_told_is_found_within_a_second() {
    let rig = Rig::active().await;
    let began = VirtualInstant::now();

    rig.memory.delete(addresses()[1]);
    rig.repaired(1).await;

    assert!(began.elapsed() <= CHECK_INTERVAL + ms(2), "{:?}, with the timer's grain", began.elapsed());
    assert_eq!(rig.memory.held(), addresses().into());
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_deletes_without_end_is_answered_at_a_bounded_rate() {
    let rig = Rig::active().await;
    let (before, _) = rig.memory.requests();

    for _ in 0..1000 {
        rig.memory.delete(addresses()[0]);
        rig.memory.tell(Event::AddressesChanged).await;
        sleep(ms(1)).await;
    }

    let (after, _) = rig.memory.requests();
    let most = 1000 / REPAIR_SPACING.as_millis() as usize + 1;
    assert!(after - before <= most * 2, "{} requests in a second", after - before);
    assert_eq!(*rig.handle.state().borrow(), State::Active);
}

#[tokio::test(start_paused = true)]
async fn a_lost_link_withdraws_and_a_returned_one_claims_and_announces_anew() {
    let rig = Rig::active().await;
    sleep(ms(10_000)).await;
    let frames = rig.memory.frames().len();

    rig.memory.set_up(false).await;
    rig.becomes(State::Standby).await;
    assert!(rig.memory.held().is_empty());
    assert!(!*rig.handle.link_up().borrow());
    rig.memory.set_up(true).await;
    rig.becomes(State::Active).await;
    sleep(ms(60)).await;

    assert_eq!(rig.memory.held(), addresses().into());
    assert_eq!(rig.memory.frames().len(), frames + 6, "the rounds at 0 and 50 ms");
}

#[tokio::test(start_paused = true)]
async fn a_flap_that_is_told_in_one_go_announces_anew() {
    let rig = Rig::active().await;
    sleep(ms(10_000)).await;
    let frames = rig.memory.frames().len();

    let up = rig.memory.link();
    rig.memory.tell(Event::Link(Some(Link { up: false, ..up.clone() }))).await;
    rig.memory.tell(Event::Link(Some(up))).await;
    sleep(ms(10)).await;

    assert_eq!(rig.memory.frames().len(), frames + 3);
    assert_eq!(*rig.handle.state().borrow(), State::Active);
}

#[tokio::test(start_paused = true)]
async fn an_interface_that_vanishes_and_comes_back_is_followed() {
    let rig = Rig::active().await;

    rig.memory.tell(Event::Link(None)).await;
    rig.becomes(State::Standby).await;
    let other = Link { index: 9, mac: OTHER, ..rig.memory.link() };
    rig.memory.tell(Event::Link(Some(other))).await;
    rig.becomes(State::Active).await;
    sleep(ms(1)).await;

    let frame = rig.memory.frames().pop().unwrap().1;
    assert_eq!(frame.0[6..12], OTHER, "announced with the new hardware address");
}

#[tokio::test(start_paused = true)]
async fn a_new_hardware_address_is_announced_at_once() {
    let rig = Rig::active().await;
    sleep(ms(10_000)).await;
    let frames = rig.memory.frames().len();

    rig.memory.tell(Event::Link(Some(Link { mac: OTHER, ..rig.memory.link() }))).await;
    sleep(ms(1)).await;

    let sent = rig.memory.frames().split_off(frames);
    assert_eq!(sent.len(), 3);
    assert!(sent.iter().all(|(_, frame)| frame.0[6..12] == OTHER));
}

#[tokio::test(start_paused = true)]
async fn a_conflicting_station_is_counted_and_answered() {
    let rig = Rig::active().await;
    sleep(ms(10_000)).await;
    let frames = rig.memory.frames().len();
    let ip = addresses()[0].ip;

    rig.memory.tell(Event::Claimed { ip, mac: MAC }).await;
    sleep(ms(1)).await;
    assert_eq!(rig.memory.frames().len(), frames, "our own frame, come back");
    rig.memory.tell(Event::Claimed { ip, mac: OTHER }).await;
    sleep(ms(1)).await;

    assert_eq!(rig.memory.frames().len(), frames + 3);
    assert_eq!(*rig.handle.conflict().borrow(), 1);
    assert_eq!(rig.handle.status().conflicts, 1);
}

#[tokio::test(start_paused = true)]
async fn a_standby_hears_the_owners_claims_without_an_answer() {
    let rig = Rig::start();

    rig.memory.tell(Event::Claimed { ip: addresses()[0].ip, mac: OTHER }).await;
    sleep(ms(100)).await;

    assert!(rig.memory.frames().is_empty());
    assert_eq!(*rig.handle.conflict().borrow(), 0);
}

#[tokio::test(start_paused = true)]
async fn without_announcing_no_frame_leaves() {
    let rig = Rig::with(false);
    rig.grant(ms(60_000));
    rig.becomes(State::Active).await;

    rig.memory.tell(Event::Claimed { ip: addresses()[0].ip, mac: OTHER }).await;
    rig.memory.tell(Event::Link(Some(Link { mac: OTHER, ..rig.memory.link() }))).await;
    sleep(ms(50_000)).await;

    assert!(rig.memory.frames().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_kernel_that_refuses_leaves_it_standby_until_it_obeys() {
    let rig = Rig::start();
    rig.memory.fail(true, false);
    rig.grant(ms(60_000));

    sleep(ms(10_000)).await;
    assert_eq!(*rig.handle.state().borrow(), State::Standby);
    let status = rig.handle.status();
    assert_eq!(
        status.last_failure.as_deref(),
        Some("failed to add 10.0.0.162/24 to eth0: permission denied")
    );
    assert!((5..20).contains(&status.failures), "{} tries in 10 s", status.failures);
    rig.memory.fail(false, false);

    rig.becomes(State::Active).await;
    assert_eq!(rig.memory.held(), addresses().into());
}

#[tokio::test(start_paused = true)]
async fn a_stop_withdraws_and_returns() {
    let mut rig = Rig::active().await;

    rig.handle.stop();

    assert!((&mut rig.task).await.unwrap().is_ok());
    assert!(rig.memory.held().is_empty());
    assert_eq!(*rig.handle.state().borrow(), State::Standby);
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_cannot_withdraw_returns_the_reason_and_leaves_it_to_the_kernel() {
    let mut rig = Rig::active().await;
    rig.memory.fail(false, true);
    let began = VirtualInstant::now();

    rig.handle.stop();

    let error = (&mut rig.task).await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "failed to remove 10.0.0.162/24 from eth0");
    assert_eq!(began.elapsed(), STOP_PATIENCE);
    sleep(ms(60_000)).await;
    assert!(rig.memory.held().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_lease_source_is_a_stop() {
    let Rig { memory, lease, task, .. } = Rig::active().await;

    drop(lease);

    assert!(task.await.unwrap().is_ok());
    assert!(memory.held().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_killed_driver_leaves_the_address_to_the_kernels_lifetime() {
    let rig = Rig::start();
    rig.grant(ms(200));
    rig.becomes(State::Active).await;

    rig.task.abort();

    sleep(ms(990)).await;
    assert_eq!(rig.memory.held().len(), 2);
    sleep(ms(20)).await;
    assert!(rig.memory.held().is_empty());
}

#[tokio::test(start_paused = true)]
async fn after_a_long_pause_an_expired_lease_is_withdrawn_before_anything_else() {
    let rig = Rig::start();
    rig.grant(ms(900));
    rig.becomes(State::Active).await;
    sleep(ms(100)).await;
    let (holds, _) = rig.memory.requests();
    let frames = rig.memory.frames().len();

    // All of it waits when the process comes back: a missing address, a conflict, a round of the burst.
    rig.memory.delete(addresses()[0]);
    rig.memory.tell(Event::AddressesChanged).await;
    rig.memory.tell(Event::Claimed { ip: addresses()[0].ip, mac: OTHER }).await;
    advance(ms(30_000)).await;
    rig.becomes(State::Standby).await;

    assert_eq!(rig.memory.requests(), (holds, 2));
    assert_eq!(rig.memory.frames().len(), frames);
}

const MAC: Mac = [0x02, 0, 0, 0, 0, 0x0a];
const OTHER: Mac = [0x02, 0, 0, 0, 0, 0x0b];

thread_local! {
    /// How long the machine of this thread's test was suspended.
    static ASLEEP: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

fn now() -> Instant {
    VirtualInstant::now().into_std() + ASLEEP.get()
}

struct Rig {
    memory: Memory,
    handle: Handle,
    lease: watch::Sender<Option<Instant>>,
    task: JoinHandle<Result<(), Error>>,
}

impl Rig {
    fn start() -> Self {
        Self::with(true)
    }

    fn with(announce: bool) -> Self {
        Self::made_with(|config| config.announce = announce)
    }

    fn made_with(change: impl FnOnce(&mut Config)) -> Self {
        let (memory, events) = Memory::new("eth0", MAC);
        let (lease, granted) = watch::channel(None);
        let mut config = Config {
            interface: "eth0".to_owned(),
            addresses: addresses().into(),
            announce: true,
            relay: true,
            urgent: || {},
            asleep: || ASLEEP.get(),
        };
        change(&mut config);
        let (driver, handle) = Driver::new(memory.clone(), events, Some(memory.link()), config, granted);
        Self { memory, handle, lease, task: tokio::spawn(driver.run()) }
    }

    /// A driver that is Active on a lease of ten minutes.
    async fn active() -> Self {
        let rig = Self::start();
        rig.grant(ms(600_000));
        rig.becomes(State::Active).await;
        rig
    }

    fn grant(&self, lease: Duration) {
        self.lease.send_replace(Some(now() + lease));
    }

    async fn renew_for(&self, time: Duration, lease: Duration) {
        let end = VirtualInstant::now() + time;
        while VirtualInstant::now() < end {
            self.grant(lease);
            sleep(lease / 4).await;
        }
    }

    async fn becomes(&self, state: State) {
        let mut states = self.handle.state();
        let waited = tokio::time::timeout(ms(600_000), states.wait_for(|now| *now == state)).await;
        waited.expect("it takes no ten minutes").expect("the driver lives");
    }

    async fn repaired(&self, times: u64) {
        let mut waited = 0;
        while self.handle.status().repairs < times {
            tokio::task::yield_now().await;
            waited += 1;
            if waited > 100 {
                sleep(ms(1)).await;
            }
            assert!(waited < 5000, "no repair");
        }
    }
}

fn addresses() -> [Address; 2] {
    ["10.0.0.162/24", "fd00::162/64"].map(|text| text.parse().unwrap())
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
