//! The segment as this crate needs it: six verbs, and what it tells unasked.

use crate::address::{Address, Mac};
use crate::announce::Frame;
use crate::error::Error;
use crate::relay::Errand;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// One interface, in the kernel or pretended.
///
/// [`Linux`](crate::linux::Linux) is the kernel's; [`Memory`](crate::memory::Memory) is for tests in virtual time.
pub trait Network {
    /// Lists the addresses that are on the interface, whoever put them there; none if the interface is gone.
    ///
    /// # Errors
    ///
    /// The kernel did not answer.
    fn addresses(&self) -> impl Future<Output = Result<BTreeSet<Address>, Error>> + Send;

    /// Puts the address on the interface for this long, rounded up to what
    /// [`kernel_lifetime`](crate::ownership::kernel_lifetime) says; renews it if it is there.
    ///
    /// # Errors
    ///
    /// The interface is gone or the kernel refuses. The address may be there or not.
    fn hold(&self, address: Address, valid_for: Duration) -> impl Future<Output = Result<(), Error>> + Send;

    /// Takes the address off the interface. That it isn't there is success.
    ///
    /// # Errors
    ///
    /// The kernel refuses. The address may be there still, until its lifetime ends.
    fn withdraw(&self, address: Address) -> impl Future<Output = Result<(), Error>> + Send;

    /// Has the addresses answered for until then, and not after, whatever becomes of this process; or, with `None`, not from
    /// now on. Doesn't wait for it. [`hold`](Self::hold) does, for an address that isn't there yet.
    ///
    /// A network that can't do so ignores it; what it does wrong, it tells.
    fn arm(&self, until: Option<Instant>);

    /// Whether what is [armed](Self::arm) is kept to by others than this process.
    fn is_fenced(&self) -> bool;

    /// Catches the frames that come for the addresses from now on, and does with them what the errand says; or, with `None`, no
    /// more. It ends by itself when the errand's time is over.
    ///
    /// # Errors
    ///
    /// They can't be caught: the interface is gone, or no socket can be had.
    fn relay(&mut self, errand: Option<Errand>) -> Result<(), Error>;

    /// Sends a frame as it is.
    ///
    /// # Errors
    ///
    /// The interface is gone or down, or its queue is full. The frame is lost.
    fn announce(&self, frame: Frame) -> impl Future<Output = Result<(), Error>> + Send;
}

/// What there is to know about an interface to own an address on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it; another one after it was deleted and made again.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub mac: Mac,
    /// Administratively up and with a carrier.
    pub up: bool,
}

/// What a network tells unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An address was removed from the interface, or news of it were lost: the list is to be read again.
    AddressesChanged,
    /// The interface changed; `None` while no interface has its name. A flap is told as down and up.
    Link(Option<Link>),
    /// A port of the interface, which is a bridge or a bond, has won or lost its carrier, come or gone: frames may take another
    /// way from now on.
    Uplink,
    /// A station claims one of the virtual IPs; it may be this one, reflected by the network.
    Claimed {
        /// The address.
        ip: IpAddr,
        /// The hardware address that is said to have it.
        mac: Mac,
    },
}

/// The stream of [`Event`]s, and the tasks that feed it: they end when it is dropped.
#[derive(Debug)]
pub struct Events {
    receiver: mpsc::Receiver<Event>,
    sources: JoinSet<()>,
}

impl Events {
    /// An empty stream and its inlet.
    pub(crate) fn new() -> (mpsc::Sender<Event>, Self) {
        let (sender, receiver) = mpsc::channel(EVENTS_BOUND);
        (sender, Self { receiver, sources: JoinSet::new() })
    }

    /// Adds a task that feeds the stream.
    pub(crate) fn feed(&mut self, source: impl Future<Output = ()> + Send + 'static) {
        self.sources.spawn(source);
    }

    /// Returns the next event; `None` when all sources have ended. May be cancelled: no event is lost.
    pub async fn next(&mut self) -> Option<Event> {
        self.receiver.recv().await
    }

    /// Returns an event that is there already.
    pub fn try_next(&mut self) -> Option<Event> {
        self.receiver.try_recv().ok()
    }
}

/// Events that wait for the driver. A source that finds it full waits, and the kernel's own socket buffer, which says
/// when it overflows, takes the rest; so this only has to hold one wake-up's worth.
const EVENTS_BOUND: usize = 64;
