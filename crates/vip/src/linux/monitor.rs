//! Follows the interface over rtnetlink(7): its link, and the removal of its addresses.

use super::requests::{find_link, is_up};
use crate::error::Error;
use crate::failure::unless;
use crate::network::{Event, Link};
use futures_util::FutureExt as _;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::sys::{AsyncSocket as _, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE};
use rtnetlink::{Handle, MulticastGroup};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// The task that follows the interface.
///
/// It waits on the kernel's notifications and sends [`Event`]s. What a notification says is only the reason to look:
/// the link's state is asked anew, so that none has to be in order or complete, and a notification that was lost (the
/// socket's buffer overflowed) is one more reason. May be cancelled at any time: it leaves nothing behind.
pub(super) struct Monitor {
    pub(super) interface: String,
    pub(super) handle: Handle,
    pub(super) link: watch::Sender<Option<Link>>,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) notifications: Notifications,
    pub(super) uplinks: Uplinks,
}

/// The ports of the interface, where it is a bridge or a bond: it keeps its own carrier while they take turns.
#[derive(Debug, Default)]
pub(super) struct Uplinks {
    /// Which are known, and whether they carry frames. The kernel lets a bridge have 1023.
    carriers: BTreeMap<u32, bool>,
}

impl Uplinks {
    /// Takes the news that a port carries frames, doesn't, or with `None` is no port any more; says whether that is new. Of
    /// a port that was not known it is.
    fn note(&mut self, index: u32, carries: Option<bool>) -> bool {
        match carries {
            Some(carries) => self.carriers.insert(index, carries) != Some(carries),
            None => self.carriers.remove(&index).is_some(),
        }
    }
}

/// The socket on which the kernel tells changes, and the buffer for one datagram.
pub(super) struct Notifications {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

/// What a batch of notifications is a reason for.
#[derive(Clone, Copy, Debug, Default)]
struct News {
    addresses: bool,
    link: bool,
    /// A port of the interface came or went.
    uplink: bool,
    /// The link was down in between.
    flapped: bool,
}

impl Monitor {
    pub(super) async fn run(mut self) {
        loop {
            let news = match self.read_batch().await {
                Ok(news) => news,
                Err(error) => {
                    tracing::warn!(interface = self.interface, %error, "the kernel's notifications failed");
                    self.reopen().await;
                    News { addresses: true, link: true, ..News::default() }
                }
            };
            if news.link && self.tell_link(news.flapped).await.is_none() {
                return;
            }
            if news.uplink && self.events.send(Event::Uplink).await.is_err() {
                return;
            }
            if news.addresses && self.events.send(Event::AddressesChanged).await.is_err() {
                return;
            }
        }
    }

    /// Waits for a notification and takes all that are there with it.
    async fn read_batch(&mut self) -> io::Result<News> {
        let mut news = News::default();
        let first = self.notifications.read().await;
        self.weigh(first, &mut news)?;
        for _ in 1..BATCH {
            let Some(next) = self.notifications.read().now_or_never() else {
                break;
            };
            self.weigh(next, &mut news)?;
        }
        Ok(news)
    }

    fn weigh(&mut self, read: io::Result<Vec<RouteNetlinkMessage>>, news: &mut News) -> io::Result<()> {
        let Some(messages) = unless(Errno::NOBUFS, read)? else {
            tracing::debug!(interface = self.interface, "the kernel's notifications overflowed");
            *news = News { addresses: true, link: true, ..*news };
            return Ok(());
        };
        let index = self.link.borrow().as_ref().map(|link| link.index);
        for message in messages {
            if let Some((port, carries)) = port(&message, index) {
                news.uplink |= self.uplinks.note(port, carries);
            }
            if let RouteNetlinkMessage::DelAddress(message) = message {
                news.addresses |= Some(message.header.index) == index;
            } else if let RouteNetlinkMessage::NewLink(message) | RouteNetlinkMessage::DelLink(message) =
                message
            {
                let ours = Some(message.header.index) == index;
                // Who has no interface looks at any: it may have the name now.
                news.link |= ours || index.is_none();
                news.flapped |= ours && !is_up(message.header.flags);
            }
        }
        Ok(())
    }

    /// Asks for the link and tells it, if it is another; `None` when nobody listens any more.
    async fn tell_link(&mut self, flapped: bool) -> Option<()> {
        let found = loop {
            match find_link(&self.handle, &self.interface).await {
                Ok(found) => break found,
                // Some other kind of interface has the name now: as good as none.
                Err(Error::NotEthernet { .. }) => break None,
                Err(error) => {
                    tracing::warn!(interface = self.interface, %error, "the link's state is unknown");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        };
        let before = self.link.borrow().clone();
        let stays_up = [&before, &found].iter().all(|link| link.as_ref().is_some_and(|link| link.up));
        let is_another = before.as_ref().map(|link| link.index) != found.as_ref().map(|link| link.index);
        if stays_up && (flapped || is_another) {
            let down = before.clone().map(|link| Link { up: false, ..link });
            self.events.send(Event::Link(down)).await.ok()?;
        } else if found == before {
            return Some(());
        }
        self.link.send_replace(found.clone());
        self.events.send(Event::Link(found)).await.ok()
    }

    async fn reopen(&mut self) {
        loop {
            tokio::time::sleep(PAUSE).await;
            match Notifications::open() {
                Ok(notifications) => {
                    self.notifications = notifications;
                    return;
                }
                Err(error) => tracing::warn!(interface = self.interface, %error, "no notifications yet"),
            }
        }
    }
}

impl Notifications {
    pub(super) fn open() -> io::Result<Self> {
        Self::of(&[MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr])
    }

    /// Listens to these alone.
    pub(super) fn of(groups: &[MulticastGroup]) -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        let mask = groups.iter().fold(0, |mask, group| mask | 1 << (*group as u32 - 1));
        socket.socket_mut().bind(&SocketAddr::new(0, mask))?;
        Ok(Self { socket, buffer: Vec::with_capacity(DATAGRAM) })
    }

    /// Receives one datagram. May be cancelled: none is lost.
    pub(super) async fn read(&mut self) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.buffer.clear();
        let Self { socket, buffer } = self;
        poll_fn(|context| socket.poll_recv(context, buffer)).await?;
        Ok(decode(buffer))
    }
}

/// Reads the messages of a datagram up to the first that is none.
pub(super) fn decode(mut datagram: &[u8]) -> Vec<RouteNetlinkMessage> {
    let mut messages = Vec::new();
    while let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(datagram) {
        let length = usize::try_from(message.header.length).unwrap_or(usize::MAX).next_multiple_of(4);
        if let NetlinkPayload::InnerMessage(inner) = message.payload {
            messages.push(inner);
        }
        // None is empty: a header counts itself.
        datagram = datagram.get(length..).unwrap_or_default();
    }
    messages
}

/// Which other interface a message is about, and whether it is a port of the interface with this index that carries frames;
/// `None` if it is no port of it.
pub(super) fn port(message: &RouteNetlinkMessage, of: Option<u32>) -> Option<(u32, Option<bool>)> {
    let (RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link)) = message else {
        return None;
    };
    let stays = matches!(message, RouteNetlinkMessage::NewLink(_));
    let controller = link.attributes.iter().find_map(|attribute| {
        if let LinkAttribute::Controller(controller) = attribute { Some(*controller) } else { None }
    });
    let is_port = stays && of.is_some_and(|of| controller == Some(of));
    Some((link.header.index, is_port.then(|| is_up(link.header.flags))))
}

/// Notifications that are taken together: when a node starts its pods there are hundreds, and one look is enough.
const BATCH: usize = 64;

/// A notification about an interface with many virtual functions is the longest; the kernel sends up to 32 kB.
const DATAGRAM: usize = 64 * 1024;

/// Between tries while the kernel fails us, which happens when it is out of memory or descriptors.
const PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use rtnetlink::packet_core::NetlinkHeader;
    use rtnetlink::packet_route::link::{LinkFlags, LinkMessage};

    const BRIDGE: u32 = 2;

    fn link(index: u32, controller: Option<u32>, flags: LinkFlags) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = flags;
        message.attributes.extend(controller.map(LinkAttribute::Controller));
        message
    }

    #[test]
    fn a_port_is_one_of_this_interface_alone_as_long_as_it_stays() {
        let up = LinkFlags::Up | LinkFlags::LowerUp;
        let new = |controller, flags| RouteNetlinkMessage::NewLink(link(5, controller, flags));
        assert_eq!(port(&new(Some(BRIDGE), up), Some(BRIDGE)), Some((5, Some(true))));
        assert_eq!(port(&new(Some(BRIDGE), LinkFlags::Up), Some(BRIDGE)), Some((5, Some(false))));
        let none = Some((5, None));
        assert_eq!(port(&new(Some(BRIDGE + 1), up), Some(BRIDGE)), none, "another's");
        assert_eq!(port(&new(None, up), Some(BRIDGE)), none, "nobody's");
        assert_eq!(port(&new(None, up), None), none, "there is no interface that it could be one of");
        let gone = RouteNetlinkMessage::DelLink(link(5, Some(BRIDGE), up));
        assert_eq!(port(&gone, Some(BRIDGE)), none);
        assert_eq!(port(&RouteNetlinkMessage::NewRoute(Default::default()), Some(BRIDGE)), None);
    }

    #[test]
    fn a_port_that_is_as_it_was_is_no_news() {
        let mut uplinks = Uplinks::default();
        assert!(uplinks.note(5, Some(true)), "it was not known");
        assert!(!uplinks.note(5, Some(true)));
        assert!(uplinks.note(5, Some(false)) && uplinks.note(5, Some(true)));
        assert!(uplinks.note(5, None));
        assert!(!uplinks.note(5, None) && !uplinks.note(6, None));
    }

    /// As the kernel packs them when much changes at once.
    #[test]
    fn all_messages_of_a_datagram_are_read() {
        let all: Vec<_> =
            (1..4).map(|index| RouteNetlinkMessage::NewLink(link(index, None, LinkFlags::Up))).collect();
        let mut datagram = Vec::new();
        for message in &all {
            let mut message = NetlinkMessage::new(NetlinkHeader::default(), message.clone().into());
            message.finalize();
            let begin = datagram.len();
            datagram.resize(begin + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut datagram[begin..][..message.buffer_len()]);
        }
        assert_eq!(decode(&datagram), all);
        datagram.truncate(datagram.len() - 1);
        assert_eq!(decode(&datagram), all[..2]);
        assert_eq!(decode(&[]), []);
    }
}
