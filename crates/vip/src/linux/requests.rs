//! What is asked of the kernel over rtnetlink(7).

use crate::address::{Address, Mac};
use crate::error::Error;
use crate::failure::{is, unless};
use crate::network::Link;
use crate::ownership::kernel_lifetime;
use futures_util::TryStreamExt as _;
use rtnetlink::Handle;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, CacheInfo,
};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rustix::io::Errno;
use std::io;
use std::net::IpAddr;
use std::time::Duration;
use tokio::task::JoinSet;

/// The origin that marks our addresses (`IFA_PROTO`, Linux 5.18): the letter v. The kernel uses 1 to 3 itself.
pub const ADDRESS_PROTOCOL: u8 = b'v';

/// A connection to the kernel for requests. It ends when it is dropped.
#[derive(Debug)]
pub(super) struct Requests {
    handle: Handle,
    _connection: JoinSet<()>,
}

/// An address in the kernel's list, with what tells whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) address: Address,
    pub(super) index: u32,
    pub(super) protocol: Option<u8>,
    flags: AddressFlags,
    /// Preferred and valid lifetime in seconds; `u32::MAX` is for ever.
    preferred: u32,
    valid: u32,
}

impl Requests {
    pub(super) fn open() -> Result<Self, Error> {
        // Strict: the kernel lists only the interface that is asked for, and not all of a node's.
        let (connection, handle, _) =
            rtnetlink::new_connection_with_strict_check().map_err(Error::Netlink)?;
        let mut tasks = JoinSet::new();
        tasks.spawn(connection);
        Ok(Self { handle, _connection: tasks })
    }

    /// Returns the interface of this name, if there is one.
    pub(super) async fn link(&self, name: &str) -> Result<Option<Link>, Error> {
        find_link(&self.handle, name).await
    }

    /// Returns whether somebody has set the interface up, whatever its carrier; `None` if there is none of this name.
    pub(super) async fn is_enabled(&self, name: &str) -> Result<Option<bool>, Error> {
        let found = find_message(&self.handle, name).await?;
        Ok(found.map(|message| message.header.flags.contains(LinkFlags::Up)))
    }

    /// Another way to the same connection, which doesn't keep it open.
    pub(super) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Returns all interfaces with an Ethernet address.
    pub(super) async fn links(&self) -> Result<Vec<Link>, Error> {
        let list = self.handle.link().get().execute().try_collect::<Vec<_>>();
        let messages =
            answered(list).await.map_err(|source| Error::List { what: "the interfaces", source })?;
        Ok(messages.iter().filter_map(|message| to_link(message).ok()).collect())
    }

    /// Returns the addresses of one interface, or of all; none if the interface is gone.
    pub(super) async fn entries(&self, index: Option<u32>) -> Result<Vec<Entry>, Error> {
        let mut get = self.handle.address().get();
        get.message_mut().header.index = index.unwrap_or(0);
        let found = unless(Errno::NODEV, answered(get.execute().try_collect::<Vec<_>>()).await);
        let messages = found.map_err(|source| Error::List { what: "the addresses", source })?;
        let entries = messages.iter().flatten().filter_map(to_entry);
        // A kernel before 5.0 knows no strict check and lists all.
        Ok(entries.filter(|entry| index.is_none_or(|index| entry.index == index)).collect())
    }

    /// Adds the address, or renews it.
    pub(super) async fn hold(&self, index: u32, address: Address, valid_for: Duration) -> io::Result<()> {
        let mut add = self.handle.address().add(index, address.ip, address.prefix).replace();
        let message = add.message_mut();
        // A broadcast address would be of no use, and brings routes of its own.
        message.attributes.retain(|attribute| !matches!(attribute, AddressAttribute::Broadcast(_)));
        let mut lifetime = CacheInfo::default();
        lifetime.ifa_valid = u32::try_from(kernel_lifetime(valid_for).as_secs()).unwrap_or(u32::MAX);
        // Deprecated from the start: never chosen as a source by accident.
        lifetime.ifa_preferred = 0;
        let mut flags = AddressFlags::Noprefixroute;
        if address.ip.is_ipv6() {
            // The former owner may still answer for it: duplicate address detection would wait a second and then
            // refuse it. Who owns it was decided elsewhere.
            flags |= AddressFlags::Nodad;
        }
        message.attributes.push(AddressAttribute::CacheInfo(lifetime));
        message.attributes.push(AddressAttribute::Flags(flags));
        message.attributes.push(AddressAttribute::Protocol(AddressProtocol::from(ADDRESS_PROTOCOL)));
        answered(add.execute()).await
    }

    /// Removes the address. That it isn't there, nor the interface, is success.
    pub(super) async fn withdraw(&self, index: u32, address: Address) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = match address.ip {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        message.header.index = index;
        message.header.prefix_len = address.prefix;
        message.attributes.push(AddressAttribute::Local(address.ip));
        message.attributes.push(AddressAttribute::Address(address.ip));
        unless_gone(answered(self.handle.address().del(message).execute()).await)
    }
}

/// That there is nothing to remove is success.
fn unless_gone(answer: io::Result<()>) -> io::Result<()> {
    match answer {
        Err(error) if GONE.into_iter().any(|errno| is(&error, errno)) => Ok(()),
        other => other,
    }
}

/// What the kernel answers where there is nothing to remove: no such address, no such interface, no IPv6 on it (its MTU is too small).
const GONE: [Errno; 3] = [Errno::ADDRNOTAVAIL, Errno::NODEV, Errno::NXIO];

/// Returns the interface of this name, if there is one.
pub(super) async fn find_link(handle: &Handle, name: &str) -> Result<Option<Link>, Error> {
    let found = find_message(handle, name).await?;
    let link = found.as_ref().map(to_link).transpose();
    link.map_err(|octets| Error::NotEthernet { interface: name.to_owned(), octets })
}

/// Returns what the kernel says of the interface of this name, if there is one.
async fn find_message(handle: &Handle, name: &str) -> Result<Option<LinkMessage>, Error> {
    let found = handle.link().get().match_name(name.to_owned()).execute().try_collect::<Vec<_>>();
    let found = unless(Errno::NODEV, answered(found).await);
    let messages = found.map_err(|source| Error::List { what: "the interfaces", source })?;
    Ok(messages.and_then(|messages| messages.into_iter().next()))
}

/// Returns whether an interface with these flags carries frames.
pub(super) fn is_up(flags: LinkFlags) -> bool {
    flags.contains(LinkFlags::Up | LinkFlags::LowerUp)
}

/// Returns those of the entries that we have put on the interface in an earlier life.
///
/// They are known by their origin. A kernel that keeps no origins (before 5.18) shows none at all, not even at its own
/// addresses; there ours are known by what nobody else combines: deprecated, without a prefix route, and with less than
/// a minute to live.
pub(super) fn leftovers(entries: &[Entry], index: u32) -> impl Iterator<Item = &Entry> {
    let keeps_origins = entries.iter().any(|entry| entry.protocol.is_some());
    entries.iter().filter(move |entry| entry.index == index && entry.is_ours(keeps_origins))
}

/// Returns the entry that makes it impossible to own the address here: the same one, put there by somebody else.
pub(super) fn foreign(entries: &[Entry], address: Address) -> Option<&Entry> {
    let keeps_origins = entries.iter().any(|entry| entry.protocol.is_some());
    entries.iter().find(|entry| entry.address.ip == address.ip && !entry.is_ours(keeps_origins))
}

impl Entry {
    fn is_ours(&self, keeps_origins: bool) -> bool {
        if keeps_origins {
            return self.protocol == Some(ADDRESS_PROTOCOL);
        }
        let longest = kernel_lifetime(Duration::MAX).as_secs();
        self.preferred == 0
            && u64::from(self.valid) <= longest
            && self.flags.contains(AddressFlags::Noprefixroute)
    }
}

pub(super) fn to_entry(message: &AddressMessage) -> Option<Entry> {
    let (mut local, mut peer, mut protocol) = (None, None, None);
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    let (mut preferred, mut valid) = (u32::MAX, u32::MAX);
    for attribute in &message.attributes {
        if let AddressAttribute::Local(ip) = attribute {
            local = Some(*ip);
        } else if let AddressAttribute::Address(ip) = attribute {
            peer = Some(*ip);
        } else if let AddressAttribute::Protocol(origin) = attribute {
            protocol = Some(u8::from(*origin));
        } else if let AddressAttribute::Flags(all) = attribute {
            flags = *all;
        } else if let AddressAttribute::CacheInfo(lifetime) = attribute {
            (preferred, valid) = (lifetime.ifa_preferred, lifetime.ifa_valid);
        }
    }
    // On a point-to-point interface `Address` is the other end; everywhere else they are equal or only it is there.
    let address = Address { ip: local.or(peer)?, prefix: message.header.prefix_len };
    Some(Entry { address, index: message.header.index, protocol, flags, preferred, valid })
}

/// Reads what the kernel says of an interface; the length of its hardware address if that isn't an Ethernet one.
pub(super) fn to_link(message: &LinkMessage) -> Result<Link, usize> {
    let (mut name, mut mac) = (String::new(), Err(0));
    for attribute in &message.attributes {
        if let LinkAttribute::IfName(text) = attribute {
            name.clone_from(text);
        } else if let LinkAttribute::Address(octets) = attribute {
            mac = Mac::try_from(&octets[..]).map_err(|_| octets.len());
        }
    }
    Ok(Link { index: message.header.index, name, mac: mac?, up: is_up(message.header.flags) })
}

/// Waits for an answer no longer than [`PATIENCE`].
pub(super) async fn answered<T>(request: impl Future<Output = Result<T, rtnetlink::Error>>) -> io::Result<T> {
    match tokio::time::timeout(PATIENCE, request).await {
        Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(rtnetlink::Error::NetlinkError(message))) => Err(message.to_io()),
        Ok(Err(other)) => Err(io::Error::other(other)),
    }
}

/// The kernel answers in microseconds, or after whoever holds its configuration lock: a long list of routes or rules
/// takes tens of milliseconds. Beyond this the request counts as failed, and the address's lifetime as the fence.
const PATIENCE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_are_known_by_their_origin() {
        let ours = entry("10.0.0.9/32", 2, Some(ADDRESS_PROTOCOL));
        let entries = [
            entry("127.0.0.1/8", 1, Some(1)),
            entry("10.0.0.1/24", 2, None),
            ours.clone(),
            entry("10.0.0.8/32", 2, Some(ADDRESS_PROTOCOL - 1)),
            entry("10.0.0.7/32", 3, Some(ADDRESS_PROTOCOL)),
        ];

        assert_eq!(leftovers(&entries, 2).collect::<Vec<_>>(), [&ours]);
    }

    /// A node that took the one for the other would say that it has let go while it still answers.
    #[test]
    fn what_is_not_there_is_removed_and_what_the_kernel_did_not_remove_is_not() {
        let answer = |errno: Errno| unless_gone(Err(errno.into()));
        assert!(unless_gone(Ok(())).is_ok());
        assert!(GONE.into_iter().all(|errno| answer(errno).is_ok()));
        for failed in [Errno::PERM, Errno::BUSY, Errno::NOBUFS] {
            assert!(is(&answer(failed).unwrap_err(), failed));
        }
        assert_eq!(
            unless_gone(Err(io::ErrorKind::TimedOut.into())).unwrap_err().kind(),
            io::ErrorKind::TimedOut
        );
    }

    #[test]
    fn on_a_kernel_without_origins_they_are_known_by_their_make() {
        let ours = Entry {
            flags: AddressFlags::Noprefixroute | AddressFlags::Deprecated,
            preferred: 0,
            valid: 1,
            ..entry("10.0.0.9/32", 2, None)
        };
        let lookalikes = [
            Entry { valid: u32::MAX, ..ours.clone() },
            Entry { preferred: 1, ..ours.clone() },
            Entry { flags: AddressFlags::Deprecated, ..ours.clone() },
        ];
        let mut entries = vec![entry("127.0.0.1/8", 1, None), ours.clone()];
        entries.extend(lookalikes);

        assert_eq!(leftovers(&entries, 2).collect::<Vec<_>>(), [&ours]);
        entries.push(entry("fe80::1/64", 2, Some(3)));
        assert_eq!(leftovers(&entries, 2).count(), 0, "this kernel would have kept the origin");
    }

    #[test]
    fn the_same_address_from_somebody_else_is_foreign_whatever_its_prefix_and_interface() {
        let wanted = "10.0.0.162".parse().unwrap();
        let entries = [entry("127.0.0.1/8", 1, Some(1)), entry("10.0.0.162/24", 3, None)];

        assert_eq!(foreign(&entries, wanted), Some(&entries[1]));
        assert_eq!(foreign(&entries, "10.0.0.163".parse().unwrap()), None);
        let ours = [entry("10.0.0.162/32", 3, Some(ADDRESS_PROTOCOL))];
        assert_eq!(foreign(&ours, wanted), None);
    }

    fn entry(address: &str, index: u32, protocol: Option<u8>) -> Entry {
        let (ip, prefix) = address.split_once('/').unwrap();
        let address = Address { ip: ip.parse().unwrap(), prefix: prefix.parse().unwrap() };
        let flags = AddressFlags::Permanent;
        Entry { address, index, protocol, flags, preferred: u32::MAX, valid: u32::MAX }
    }
}
