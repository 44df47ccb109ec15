//! The kernel's side: addresses by rtnetlink(7), frames by packet(7).

mod claims;
mod courier;
mod delivery;
mod fence;
mod filter;
mod forwarded;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod monitor;
mod patience;
mod requests;
mod routes;
mod sockets;
mod tickler;

pub use crate::network::Link;
pub use fence::{FenceError, rehearse_fence};
pub use forwarded::Forwarded;
pub use requests::ADDRESS_PROTOCOL;
pub use routes::{default_gateway, default_interface};
pub use sockets::Sockets;
pub use tickler::Tickler;

pub(crate) use claims::{LONGEST_FRAME, claim, open as open_listener, open_about};
pub(crate) use filter::Protocol;
pub(crate) use patience::patiently;

use crate::address::Address;
use crate::announce::Frame;
use crate::clock::Clock;
use crate::error::Error;
use crate::network::{Events, Network};
use crate::rawsock::Sender;
use crate::relay::Errand;
use claims::Claims;
use courier::Courier;
use fence::Fence;
use monitor::{Monitor, Notifications, Uplinks};
use requests::Requests;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// One interface of this network namespace, by its name: if it is deleted and another gets the name, that is followed.
#[derive(Debug)]
pub struct Linux {
    interface: String,
    addresses: Vec<Address>,
    requests: Requests,
    sender: Sender,
    link: watch::Receiver<Option<Link>>,
    /// Where the addresses were last put; 0 is nowhere. The interface of our name may have become another meanwhile
    /// (renamed, made anew), and what was put on the old one has to be taken from there.
    held_on: AtomicU32,
    /// None where the kernel has none, and before [`fence`](Self::fence).
    fence: Option<Fence>,
    /// While there is something to relay.
    courier: Option<Courier>,
    /// The IPv6 addresses, and whether each was seen to be taken in since it was put on the interface: a renewal needs no look.
    taken_in: BTreeMap<Ipv6Addr, AtomicBool>,
}

impl Linux {
    /// Opens the interface, and listens for stations that claim one of the addresses.
    ///
    /// Changes nothing. The tasks that feed the events end when they are dropped.
    ///
    /// # Errors
    ///
    /// There is no such interface, it isn't Ethernet, or a socket can't be had, for which `CAP_NET_RAW` is needed.
    pub async fn open(interface: &str, addresses: &[Address]) -> Result<(Self, Events), Error> {
        let packets = |source| Error::Packets { interface: interface.to_owned(), source };
        // Before the link is looked at: what changes in between is told.
        let notifications = Notifications::open().map_err(Error::Netlink)?;
        let requests = Requests::open()?;
        let found = requests.link(interface).await?;
        let link = found.ok_or_else(|| Error::NoInterface { interface: interface.to_owned() })?;
        let sender = Sender::open().map_err(packets)?;
        let (sends, mut events) = Events::new();
        let (link_sender, link) = watch::channel(Some(link));
        for protocol in [Protocol::Arp, Protocol::NeighborDiscovery] {
            let addresses: Vec<_> =
                addresses.iter().copied().filter(|address| Protocol::of(address.ip) == protocol).collect();
            if !addresses.is_empty() {
                events.feed(Claims { protocol, addresses, link: link.clone(), events: sends.clone() }.run());
            }
        }
        let handle = requests.handle();
        let interface = interface.to_owned();
        events.feed(
            Monitor {
                interface: interface.clone(),
                handle,
                link: link_sender,
                events: sends,
                notifications,
                uplinks: Uplinks::default(),
            }
            .run(),
        );
        let network = Self {
            interface,
            addresses: addresses.to_vec(),
            requests,
            sender,
            link,
            held_on: AtomicU32::new(0),
            fence: None,
            courier: None,
            taken_in: addresses
                .iter()
                .filter_map(|address| ipv6(address.ip))
                .map(|ip| (ip, AtomicBool::new(false)))
                .collect(),
        };
        Ok((network, events))
    }

    /// Returns the interface as it is now; `None` while none has its name.
    #[must_use]
    pub fn link(&self) -> Option<Link> {
        self.link.borrow().clone()
    }

    /// Checks that none of the addresses is there already from another hand, on this interface or another.
    ///
    /// # Errors
    ///
    /// [`Error::Foreign`] if one is.
    pub async fn refuse_foreign(&self, addresses: &[Address]) -> Result<(), Error> {
        let entries = self.requests.entries(None).await?;
        for address in addresses {
            if let Some(entry) = requests::foreign(&entries, *address) {
                let links = self.requests.links().await?;
                let name = links.into_iter().find(|link| link.index == entry.index).map(|link| link.name);
                return Err(Error::Foreign {
                    address: *address,
                    found: entry.address,
                    interface: name.unwrap_or_else(|| format!("interface {}", entry.index)),
                });
            }
        }
        Ok(())
    }

    /// Removes what an earlier life of this program has left on the interface; returns it.
    ///
    /// # Errors
    ///
    /// The kernel refuses; some of it may be gone.
    pub async fn clean(&self) -> Result<Vec<Address>, Error> {
        let Some(Link { index, .. }) = self.link() else {
            return Ok(Vec::new());
        };
        // All interfaces are listed: the loopback's own addresses show whether this kernel keeps origins.
        let entries = self.requests.entries(None).await?;
        let leftovers: Vec<_> = requests::leftovers(&entries, index).map(|entry| entry.address).collect();
        for address in &leftovers {
            self.remove(index, *address).await?;
        }
        Ok(leftovers)
    }

    /// Has the kernel answer for the addresses only while they are [armed](Network::arm). Where it can't, that is told once,
    /// and they have their lifetime alone. `urgent` is called first on the thread that does it.
    pub(crate) async fn fence(&mut self, addresses: &[Address], urgent: fn(), clock: Clock) {
        match Fence::raise(addresses, urgent, clock).await {
            Ok(fence) => self.fence = Some(fence),
            Err(error) => {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(%error, source, "{}", fence::MEANING);
            }
        }
    }

    /// Waits until the kernel takes in what comes for an address, if it was put on the interface just now.
    async fn await_delivery(&self, index: u32, ip: Ipv6Addr) {
        let taken_in = self.taken_in.get(&ip);
        if taken_in.is_some_and(|seen| seen.load(Ordering::Relaxed)) {
            return;
        }
        if !delivery::is_delivered(&self.requests, index, ip).await {
            tracing::debug!(%ip, interface = self.interface, "the kernel shows no local route for the address");
        }
        // Seen or not: a renewal is no time to wait.
        if let Some(seen) = taken_in {
            seen.store(true, Ordering::Relaxed);
        }
    }

    async fn remove(&self, index: u32, address: Address) -> Result<(), Error> {
        let removed = self.requests.withdraw(index, address).await;
        removed.map_err(|source| Error::Withdraw { address, interface: self.interface.clone(), source })
    }
}

impl Network for Linux {
    async fn addresses(&self) -> Result<BTreeSet<Address>, Error> {
        match self.link() {
            Some(Link { index, .. }) => {
                let entries = self.requests.entries(Some(index)).await?;
                Ok(entries.into_iter().map(|entry| entry.address).collect())
            }
            None => Ok(BTreeSet::new()),
        }
    }

    async fn hold(&self, address: Address, valid_for: Duration) -> Result<(), Error> {
        let Some(Link { index, .. }) = self.link() else {
            return Err(Error::NoInterface { interface: self.interface.clone() });
        };
        self.held_on.store(index, Ordering::Relaxed);
        if let Some(fence) = &self.fence {
            fence.expect(address).await;
        }
        let held = self.requests.hold(index, address, valid_for).await;
        held.map_err(|source| Error::hold(address, self.interface.clone(), source))?;
        if let IpAddr::V6(ip) = address.ip {
            self.await_delivery(index, ip).await;
        }
        Ok(())
    }

    async fn withdraw(&self, address: Address) -> Result<(), Error> {
        match self.held_on.load(Ordering::Relaxed) {
            0 => {}
            index => self.remove(index, address).await?,
        }
        if let Some(seen) = ipv6(address.ip).and_then(|ip| self.taken_in.get(&ip)) {
            seen.store(false, Ordering::Relaxed);
        }
        if let Some(fence) = &self.fence {
            fence.forget(address);
        }
        Ok(())
    }

    fn arm(&self, until: Option<Instant>) {
        if let Some(fence) = &self.fence {
            fence.arm(until);
        }
    }

    fn is_fenced(&self) -> bool {
        self.fence.as_ref().is_some_and(Fence::is_there)
    }

    fn relay(&mut self, errand: Option<Errand>) -> Result<(), Error> {
        match (errand, &self.courier) {
            (None, _) => self.courier = None,
            (Some(errand), Some(courier)) => courier.set_errand(errand),
            (Some(errand), None) => {
                let interface = self.interface.clone();
                let link = self.link().ok_or_else(|| Error::NoInterface { interface: interface.clone() })?;
                let courier = Courier::start(&link, &self.addresses, errand);
                self.courier = Some(courier.map_err(|source| Error::Packets { interface, source })?);
            }
        }
        Ok(())
    }

    async fn announce(&self, frame: Frame) -> Result<(), Error> {
        let Some(Link { index, .. }) = self.link() else {
            return Err(Error::NoInterface { interface: self.interface.clone() });
        };
        let sent = self.sender.send(index, &frame.0);
        sent.map_err(|source| Error::Send { interface: self.interface.clone(), source })
    }
}

fn ipv6(ip: IpAddr) -> Option<Ipv6Addr> {
    match ip {
        IpAddr::V4(_) => None,
        IpAddr::V6(ip) => Some(ip),
    }
}

/// Returns whether the kernel keeps the other addresses of a subnet when the first one of it is removed.
///
/// It matters for a virtual IP with a prefix shorter than /32: if the node's own address of that subnet is taken away and
/// put back while the virtual IP is held (a restart of the network configuration does that), the virtual IP is the first
/// one, and without this setting (`net.ipv4.conf.*.promote_secondaries`) its withdrawal takes the node's own address
/// along. IPv6 has no such rule.
///
/// # Errors
///
/// The setting can't be read: there is no such interface, or no /proc.
pub fn promotes_secondaries(interface: &str) -> io::Result<bool> {
    // One or the other is enough: the kernel takes either.
    for scope in ["all", interface] {
        let path = format!("/proc/sys/net/ipv4/conf/{scope}/promote_secondaries");
        if std::fs::read_to_string(path)?.trim() != "0" {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns the interface of this name.
///
/// # Errors
///
/// There is none, it isn't Ethernet, or the kernel does not answer.
pub async fn interface(name: &str) -> Result<Link, Error> {
    let found = Requests::open()?.link(name).await?;
    found.ok_or_else(|| Error::NoInterface { interface: name.to_owned() })
}

/// Returns whether the interface of this name is set up, whatever its carrier.
///
/// # Errors
///
/// There is none, or the kernel does not answer.
pub async fn is_enabled(name: &str) -> Result<bool, Error> {
    let found = Requests::open()?.is_enabled(name).await?;
    found.ok_or_else(|| Error::NoInterface { interface: name.to_owned() })
}

/// An address as somebody else has put it on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// The address, with the prefix that it has there.
    pub address: Address,
    /// The interface that it is on.
    pub interface: String,
}

/// Returns those of the addresses that are on this host from another hand than this program's, on whatever interface.
///
/// # Errors
///
/// The kernel does not answer.
pub async fn foreign(addresses: &[Address]) -> Result<Vec<Foreign>, Error> {
    let requests = Requests::open()?;
    let entries = requests.entries(None).await?;
    let links = requests.links().await?;
    let name = |index| links.iter().find(|link| link.index == index).map(|link| link.name.clone());
    let found = addresses.iter().filter_map(|address| requests::foreign(&entries, *address));
    let foreign = |entry: &requests::Entry| Foreign {
        address: entry.address,
        interface: name(entry.index).unwrap_or_else(|| format!("interface {}", entry.index)),
    };
    Ok(found.map(foreign).collect())
}

/// Returns the interfaces whose own addresses' subnets an address lies in, each with that subnet.
///
/// # Errors
///
/// The kernel does not answer.
pub async fn interfaces_towards(ip: IpAddr) -> Result<Vec<(String, Address)>, Error> {
    let requests = Requests::open()?;
    let entries = requests.entries(None).await?;
    let links = requests.links().await?;
    let towards = entries.iter().filter(|entry| entry.address.ip != ip && entry.address.contains(ip));
    let named = towards.filter_map(|entry| {
        let link = links.iter().find(|link| link.index == entry.index)?;
        Some((link.name.clone(), entry.address))
    });
    Ok(named.collect())
}

/// Returns all interfaces with an Ethernet address, the loopback among them.
///
/// # Errors
///
/// The kernel does not answer.
pub async fn interfaces() -> Result<Vec<Link>, Error> {
    Requests::open()?.links().await
}

/// Returns the addresses of an interface, whoever put them there.
///
/// # Errors
///
/// There is no such interface, it isn't Ethernet, or the kernel does not answer.
pub async fn interface_addresses(name: &str) -> Result<Vec<Address>, Error> {
    let requests = Requests::open()?;
    let found = requests.link(name).await?;
    let link = found.ok_or_else(|| Error::NoInterface { interface: name.to_owned() })?;
    let entries = requests.entries(Some(link.index)).await?;
    Ok(entries.into_iter().map(|entry| entry.address).collect())
}
