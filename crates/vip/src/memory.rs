//! A network that exists only in memory, for tests in virtual time.

use crate::address::{Address, Mac};
use crate::announce::Frame;
use crate::error::Error;
use crate::network::{Event, Events, Link, Network};
use crate::ownership::kernel_lifetime;
use crate::relay::{Errand, Fate, Relay};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
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
    /// All that were ever held.
    known: BTreeSet<IpAddr>,
    armed: Option<Instant>,
    frames: Vec<(Instant, Frame)>,
    holds: usize,
    withdrawals: usize,
    holds_fail: bool,
    withdrawals_fail: bool,
    relays_fail: bool,
    errand: Option<Errand>,
    relay: Option<Relay>,
    /// What was relayed, with what stood before it.
    relayed: Vec<Vec<u8>>,
}

impl Memory {
    /// An interface that is up and has no addresses.
    #[must_use]
    pub fn new(name: &str, mac: Mac) -> (Self, Events) {
        let (sender, events) = Events::new();
        let segment = Segment {
            link: Link { index: 1, name: name.to_owned(), mac, up: true },
            addresses: BTreeMap::new(),
            known: BTreeSet::new(),
            armed: None,
            frames: Vec::new(),
            holds: 0,
            withdrawals: 0,
            holds_fail: false,
            withdrawals_fail: false,
            relays_fail: false,
            errand: None,
            relay: None,
            relayed: Vec::new(),
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

    /// Returns until when the addresses are answered for; `None` when they are not.
    #[must_use]
    pub fn armed(&self) -> Option<Instant> {
        self.lock().armed.filter(|until| Instant::now() < *until)
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

    /// Lets no frame be caught from now on.
    pub fn fail_to_relay(&self) {
        self.lock().relays_fail = true;
    }

    /// Returns what is to be done now with frames for addresses that were given up.
    #[must_use]
    pub fn errand(&self) -> Option<Errand> {
        let now = Instant::now().into_std();
        self.lock().errand.filter(|errand| now < errand.until)
    }

    /// Lets a parcel come for these addresses, as a client sends it that has not heard of their withdrawal.
    pub fn arrive(&self, mut parcel: Vec<u8>) {
        let mut segment = self.lock();
        let Segment { relay: Some(relay), relayed, .. } = &mut *segment else { return };
        if relay.handle_parcel(&mut parcel, Instant::now().into_std()) == Fate::Passed {
            relayed.push(parcel);
        }
    }

    /// Returns what was relayed so far.
    #[must_use]
    pub fn relayed(&self) -> Vec<Vec<u8>> {
        self.lock().relayed.clone()
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
        segment.known.insert(address.ip);
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

    fn is_fenced(&self) -> bool {
        true
    }

    fn arm(&self, until: Option<std::time::Instant>) {
        self.lock().armed = until.map(Instant::from_std);
    }

    fn relay(&mut self, errand: Option<Errand>) -> Result<(), Error> {
        let mut segment = self.lock();
        if segment.relays_fail && errand.is_some() {
            let interface = segment.link.name.clone();
            return Err(Error::Packets { interface, source: refused() });
        }
        segment.errand = errand;
        let Some(errand) = errand else {
            segment.relay = None;
            return Ok(());
        };
        let (own, addresses) = (segment.link.mac, segment.known.iter().copied().collect());
        let Segment { relay, relayed, .. } = &mut *segment;
        let relay = relay.get_or_insert_with(|| Relay::new(own, addresses, errand));
        relay.set_errand(errand);
        relayed.extend(std::iter::from_fn(|| relay.poll_held(Instant::now().into_std())));
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
