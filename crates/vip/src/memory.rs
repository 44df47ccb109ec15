//! A network that exists only in memory, for tests in virtual time.

use crate::address::{Address, Mac};
use crate::announce::Frame;
use crate::error::Error;
use crate::network::{Event, Events, Link, Network};
use crate::ownership::kernel_lifetime;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// One pretended interface. Lifetimes run out as in a kernel; what a test does to it is told as events.
///
/// Clones are the same interface: one for the driver, one for the test.
#[derive(Clone, Debug)]
pub struct Memory {
    // A test and the driver look at the same interface; no decision is taken under the lock, and nothing awaited.
    segment: Arc<Mutex<Segment>>,
    events: mpsc::Sender<Event>,
}

#[derive(Debug)]
struct Segment {
    link: Link,
    addresses: BTreeMap<Address, Instant>,
    frames: Vec<(Instant, Frame)>,
    holds: usize,
    withdrawals: usize,
    holds_fail: bool,
    withdrawals_fail: bool,
}

impl Memory {
    /// An interface that is up and has no addresses.
    #[must_use]
    pub fn new(name: &str, mac: Mac) -> (Self, Events) {
        let (sender, events) = Events::new();
        let segment = Segment {
            link: Link { index: 1, name: name.to_owned(), mac, up: true },
            addresses: BTreeMap::new(),
            frames: Vec::new(),
            holds: 0,
            withdrawals: 0,
            holds_fail: false,
            withdrawals_fail: false,
        };
        (Self { segment: Arc::new(Mutex::new(segment)), events: sender }, events)
    }

    /// Returns the interface as it is now.
    #[must_use]
    pub fn link(&self) -> Link {
        self.lock().link.clone()
    }

    /// Returns the addresses whose lifetime runs.
    #[must_use]
    pub fn held(&self) -> BTreeSet<Address> {
        let now = Instant::now();
        self.lock().addresses.iter().filter(|(_, until)| now < **until).map(|(address, _)| *address).collect()
    }

    /// Returns the frames sent so far, with their times.
    #[must_use]
    pub fn frames(&self) -> Vec<(Instant, Frame)> {
        self.lock().frames.clone()
    }

    /// Returns how often an address was asked to be held, and to be withdrawn.
    #[must_use]
    pub fn requests(&self) -> (usize, usize) {
        let segment = self.lock();
        (segment.holds, segment.withdrawals)
    }

    /// Lets requests fail from now on.
    pub fn fail(&self, holds: bool, withdrawals: bool) {
        let mut segment = self.lock();
        segment.holds_fail = holds;
        segment.withdrawals_fail = withdrawals;
    }

    /// Deletes an address as another agent would, and tells nobody.
    pub fn delete(&self, address: Address) {
        self.lock().addresses.remove(&address);
    }

    /// Changes the link's state.
    pub async fn set_up(&self, up: bool) {
        let link = {
            let mut segment = self.lock();
            segment.link.up = up;
            segment.link.clone()
        };
        self.tell(Event::Link(Some(link))).await;
    }

    /// Tells the driver something.
    pub async fn tell(&self, event: Event) {
        // A driver that has ended hears nothing more, which is no concern of the network.
        let _ = self.events.send(event).await;
    }

    fn lock(&self) -> MutexGuard<'_, Segment> {
        self.segment.lock().expect("nothing panics while it holds the lock")
    }
}

impl Network for Memory {
    async fn addresses(&self) -> Result<BTreeSet<Address>, Error> {
        Ok(self.held())
    }

    async fn hold(&self, address: Address, valid_for: Duration) -> Result<(), Error> {
        let mut segment = self.lock();
        segment.holds += 1;
        if segment.holds_fail {
            let interface = segment.link.name.clone();
            return Err(Error::Hold { address, interface, source: refused() });
        }
        segment.addresses.insert(address, Instant::now() + kernel_lifetime(valid_for));
        Ok(())
    }

    async fn withdraw(&self, address: Address) -> Result<(), Error> {
        let mut segment = self.lock();
        segment.withdrawals += 1;
        if segment.withdrawals_fail {
            let interface = segment.link.name.clone();
            return Err(Error::Withdraw { address, interface, source: refused() });
        }
        segment.addresses.remove(&address);
        Ok(())
    }

    async fn announce(&self, frame: Frame) -> Result<(), Error> {
        self.lock().frames.push((Instant::now(), frame));
        Ok(())
    }
}

fn refused() -> io::Error {
    io::Error::from(io::ErrorKind::PermissionDenied)
}
