//! A driver on a thread of its own, and who grants its leases.

use crate::segment::{Namespace, PATIENCE, eventually};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use vip::driver::{Config, Driver, Handle};
use vip::{Address, Error, State};

/// How leases are granted.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Lease {
    None,
    Until(Instant),
    /// Renewed for this long, four times within it.
    Rolling(Duration),
}

/// A driver that runs. Its thread ends with the test.
pub(crate) struct Owner {
    pub(crate) handle: Handle,
    orders: watch::Sender<Order>,
    frozen: Arc<AtomicBool>,
    thread: JoinHandle<Report>,
}

#[derive(Clone, Copy, Debug)]
enum Order {
    Grant(Lease),
    /// The whole thread stands still until the thaw, as a process that is stopped does.
    Freeze,
    /// Ends without a word, as a killed process does.
    Die,
}

/// What the thread measured on itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Report {
    /// Time on the processor.
    pub(crate) cpu: Duration,
    /// Longest time between two renewals.
    pub(crate) worst_gap: Duration,
}

impl Owner {
    /// Starts a driver for the addresses on the namespace's eth0.
    pub(crate) fn start(node: &Namespace, addresses: &[&str]) -> Result<Self, Error> {
        Self::start_with(node, addresses, true)
    }

    pub(crate) fn start_with(node: &Namespace, addresses: &[&str], announce: bool) -> Result<Self, Error> {
        Self::start_as(node, config(addresses, announce, || {}))
    }

    /// Starts one whose fence's thread does this first.
    pub(crate) fn start_urgent(node: &Namespace, addresses: &[&str], urgent: fn()) -> Result<Self, Error> {
        Self::start_as(node, config(addresses, true, urgent))
    }

    fn start_as(node: &Namespace, config: Config) -> Result<Self, Error> {
        let (orders, mut ordered) = watch::channel(Order::Grant(Lease::None));
        let (sender, started) = channel();
        let inside = node.clone();
        let frozen = Arc::new(AtomicBool::new(false));
        let freezing = Arc::clone(&frozen);
        let thread = std::thread::spawn(move || {
            inside.run(async move {
                let (lease, granted) = watch::channel(None);
                match Driver::start(config, granted).await {
                    Err(error) => {
                        sender.send(Err(error)).unwrap();
                        Report::default()
                    }
                    Ok((driver, handle)) => {
                        sender.send(Ok(handle)).unwrap();
                        grant(driver, &lease, &mut ordered, &freezing).await
                    }
                }
            })
        });
        let handle = started.recv_timeout(PATIENCE).expect("a start takes milliseconds")?;
        Ok(Self { handle, orders, frozen, thread })
    }

    /// Starts a driver and makes it Active on a lease that rolls.
    pub(crate) fn active(node: &Namespace, lease: Duration) -> Self {
        let owner = Self::start(node, VIPS).unwrap();
        owner.grant(Lease::Rolling(lease));
        owner.becomes(State::Active);
        owner
    }

    pub(crate) fn grant(&self, lease: Lease) {
        self.orders.send_replace(Order::Grant(lease));
    }

    pub(crate) fn state(&self) -> State {
        *self.handle.state().borrow()
    }

    pub(crate) fn becomes(&self, state: State) {
        eventually(&format!("it becomes {state:?}"), || self.state() == state);
    }

    /// Lets the driver stand still, and the lease with it.
    pub(crate) fn freeze(&self) {
        self.frozen.store(true, Ordering::Relaxed);
        self.orders.send_replace(Order::Freeze);
    }

    /// Lets it go on. The lease is not renewed any more.
    pub(crate) fn thaw(&self) {
        self.frozen.store(false, Ordering::Relaxed);
    }

    /// Ends the driver as a kill would.
    pub(crate) fn kill(self) {
        self.orders.send_replace(Order::Die);
        self.thread.join().unwrap();
    }

    /// Ends the driver in good order.
    pub(crate) fn stop(self) -> Report {
        self.handle.stop();
        self.thread.join().unwrap()
    }
}

fn config(addresses: &[&str], announce: bool, urgent: fn()) -> Config {
    let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
    let interface = "eth0".to_owned();
    Config { interface, addresses, announce, relay: true, urgent, asleep: || Duration::ZERO }
}

async fn grant(
    driver: Driver,
    lease: &watch::Sender<Option<Instant>>,
    ordered: &mut watch::Receiver<Order>,
    frozen: &AtomicBool,
) -> Report {
    let mut running = tokio::spawn(driver.run());
    let (cpu, mut renewed, mut worst_gap) = (cpu_time(), None::<Instant>, Duration::ZERO);
    loop {
        let order = *ordered.borrow_and_update();
        let pause = match order {
            Order::Die => return Report { cpu: cpu_time().saturating_sub(cpu), worst_gap },
            Order::Freeze => {
                while frozen.load(Ordering::Relaxed) {
                    std::thread::sleep(ms(1));
                }
                PATIENCE
            }
            Order::Grant(Lease::None) => {
                lease.send_replace(None);
                PATIENCE
            }
            Order::Grant(Lease::Until(end)) => {
                lease.send_replace(Some(end));
                PATIENCE
            }
            Order::Grant(Lease::Rolling(time)) => {
                let now = Instant::now();
                worst_gap =
                    worst_gap.max(renewed.map_or(Duration::ZERO, |before| now.duration_since(before)));
                renewed = Some(now);
                lease.send_replace(Some(now + time));
                time / 4
            }
        };
        tokio::select! {
            ended = &mut running => {
                ended.unwrap().unwrap();
                let last_gap = renewed.map_or(Duration::ZERO, |before| before.elapsed());
                let worst_gap = worst_gap.max(last_gap);
                return Report { cpu: cpu_time().saturating_sub(cpu), worst_gap };
            }
            _ = ordered.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Returns how long this thread has been on the processor.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

pub(crate) fn vips() -> [Address; 2] {
    [VIPS[0], VIPS[1]].map(|text| text.parse().unwrap())
}

pub(crate) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// In the subnets of the stations' own addresses: the IPv4 one is a secondary there.
pub(crate) const VIPS: &[&str] = &["10.0.0.162/24", "fd00::162/64"];

/// A rolling lease that survives a busy machine, for the tests that aren't about its length.
pub(crate) const EASY: Duration = Duration::from_secs(2);
