//! Who holds the virtual addresses, as the kernel of each node tells it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::{StreamExt as _, TryStreamExt as _};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::journal::Journal;
use crate::namespace::Namespace;
use crate::network::virtual_addresses;
use crate::observer::Observer;

/// Changes remembered; an hour of a failover every second.
const MEMORY: usize = 16_384;
/// Two events of different namespaces that lie closer together can be seen in the wrong order,
/// so a shorter overlap is not one.
pub const GRAIN: Duration = Duration::from_millis(2);

/// An address came to a node or left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// When the observer was told.
    pub at: Instant,
    /// The node, by its place.
    pub node: usize,
    /// The address.
    pub address: IpAddr,
    /// Whether the node has it from now on.
    pub held: bool,
}

/// A time in which two or more nodes held the same address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap {
    /// The address.
    pub address: IpAddr,
    /// The nodes that held it.
    pub nodes: BTreeSet<usize>,
    /// How long.
    pub duration: Duration,
}

/// Watches the addresses of all nodes until it is dropped.
#[derive(Debug)]
pub struct OwnershipObserver {
    changes: Arc<Journal<Change>>,
    _observer: Observer,
}

impl OwnershipObserver {
    /// Starts to watch; what is there already is told as changes of now.
    ///
    /// # Errors
    /// If a netlink socket cannot be had.
    pub async fn start(nodes: Vec<Arc<Namespace>>) -> Result<Self> {
        let changes = Arc::new(Journal::new(MEMORY));
        let journal = Arc::clone(&changes);
        let home = nodes.first().map(Arc::clone).context("there is no node to observe")?;
        let observer = Observer::start("ownership", home, move |stop, ready| async move {
            let mut watches = tokio::task::JoinSet::new();
            for (node, namespace) in nodes.into_iter().enumerate() {
                let watch = Watch::open(node, &namespace, Arc::clone(&journal)).await?;
                watches.spawn(watch.run(stop.clone()));
            }
            ready.send(()).ok();
            watches.join_all().await;
            Ok(())
        });
        Ok(Self { changes, _observer: observer.await? })
    }

    /// All changes so far.
    pub fn changes(&self) -> &Journal<Change> {
        &self.changes
    }

    /// The nodes that hold an address now.
    pub fn holders(&self, address: IpAddr) -> BTreeSet<usize> {
        self.changes.read(|changes| holders(changes, address))
    }
}

/// The nodes that hold an address after these changes.
pub fn holders<'a>(changes: impl IntoIterator<Item = &'a Change>, address: IpAddr) -> BTreeSet<usize> {
    let mut holders = BTreeSet::new();
    for change in changes.into_iter().filter(|change| change.address == address) {
        if change.held {
            holders.insert(change.node)
        } else {
            holders.remove(&change.node)
        };
    }
    holders
}

/// The overlaps between two instants, longer than the observer's grain.
pub fn overlaps(changes: &[Change], from: Instant, until: Instant) -> Vec<Overlap> {
    let mut sorted: Vec<&Change> = changes.iter().filter(|change| change.at < until).collect();
    sorted.sort_by_key(|change| change.at);
    let mut holding: BTreeMap<IpAddr, (BTreeSet<usize>, Instant)> = BTreeMap::new();
    let mut found = Vec::new();
    let mut close = |address: IpAddr, nodes: &BTreeSet<usize>, since: Instant, end: Instant| {
        let duration = end.saturating_duration_since(since.max(from));
        if nodes.len() > 1 && duration > GRAIN {
            found.push(Overlap { address, nodes: nodes.clone(), duration });
        }
    };
    for change in sorted {
        let (nodes, since) = holding.entry(change.address).or_insert_with(|| (BTreeSet::new(), change.at));
        close(change.address, nodes, *since, change.at);
        if change.held {
            nodes.insert(change.node)
        } else {
            nodes.remove(&change.node)
        };
        *since = change.at;
    }
    for (address, (nodes, since)) in &holding {
        close(*address, nodes, *since, until);
    }
    found
}

/// An address came to another node than before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// When.
    pub at: Instant,
    /// The node that got it the last time.
    pub from: usize,
    /// The node that has got it now.
    pub to: usize,
}

/// The moves of an address since an instant.
pub fn moves(changes: &[Change], address: IpAddr, since: Instant) -> Vec<Move> {
    let mut last = None;
    let mut found = Vec::new();
    for change in changes.iter().filter(|change| change.address == address && change.held) {
        if let Some(from) = last.replace(change.node).filter(|from| *from != change.node)
            && change.at >= since
        {
            found.push(Move { at: change.at, from, to: change.node });
        }
    }
    found
}

type Events = futures_util::stream::BoxStream<'static, RouteNetlinkMessage>;

/// The watch over one node.
struct Watch {
    node: usize,
    held: BTreeSet<IpAddr>,
    journal: Arc<Journal<Change>>,
    events: Events,
    _driver: tokio_util::task::AbortOnDropHandle<()>,
}

impl Watch {
    async fn open(node: usize, namespace: &Namespace, journal: Arc<Journal<Change>>) -> Result<Self> {
        let groups = [MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let (connection, handle, messages) =
            namespace.within(|| Ok(rtnetlink::new_multicast_connection(&groups)?))?;
        let driver = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(connection));
        let events = messages
            .filter_map(|(message, _)| async move {
                let NetlinkPayload::InnerMessage(message) = message.payload else { return None };
                Some(message)
            })
            .boxed();
        let mut watch = Self { node, held: BTreeSet::new(), journal, events, _driver: driver };
        let mut present = handle.address().get().execute();
        while let Some(message) = present.try_next().await? {
            watch.tell(&message, true);
        }
        Ok(watch)
    }

    /// Follows the events; may be cancelled at any time, an event is told as soon as it is taken.
    async fn run(mut self, stop: CancellationToken) {
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => return,
                event = self.events.next() => event,
            };
            match event {
                Some(RouteNetlinkMessage::NewAddress(message)) => self.tell(&message, true),
                Some(RouteNetlinkMessage::DelAddress(message)) => self.tell(&message, false),
                Some(_) => {}
                None => {
                    warn!(node = self.node, "the netlink socket closed");
                    return;
                }
            }
        }
    }

    /// Notes a change; a refresh of an address that is there already is none.
    fn tell(&mut self, message: &AddressMessage, held: bool) {
        let at = Instant::now();
        let address = message.attributes.iter().find_map(|attribute| {
            let AddressAttribute::Address(address) = attribute else { return None };
            Some(*address)
        });
        let Some(address) = address.filter(|address| virtual_addresses().contains(address)) else { return };
        let changed = if held { self.held.insert(address) } else { self.held.remove(&address) };
        if changed {
            self.journal.push(Change { at, node: self.node, address, held });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIP: IpAddr = IpAddr::V4(crate::network::VIP);

    fn change(start: Instant, milliseconds: u64, node: usize, held: bool) -> Change {
        Change { at: start + Duration::from_millis(milliseconds), node, address: VIP, held }
    }

    #[test]
    fn an_overlap_lasts_from_the_second_holder_to_the_first_that_lets_go() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let changes = [
            change(start, 0, 0, true),
            change(start, 100, 1, true),
            change(start, 130, 0, false),
            change(start, 200, 1, false),
        ];

        let found = overlaps(&changes, start, at(300));

        let expected = Overlap { address: VIP, nodes: [0, 1].into(), duration: Duration::from_millis(30) };
        assert_eq!(found, [expected]);
        assert!(overlaps(&changes, at(130), at(300)).is_empty(), "it was over by then");
        assert!(holders(&changes[..2], VIP).len() == 2 && holders(&changes, VIP).is_empty());
    }

    #[test]
    fn an_overlap_that_does_not_end_lasts_until_now() {
        let start = Instant::now();
        let changes = [change(start, 0, 0, true), change(start, 100, 2, true)];

        let found = overlaps(&changes, start, start + Duration::from_secs(5));

        assert_eq!(found[0].duration, Duration::from_millis(4900));
    }

    #[test]
    fn an_overlap_shorter_than_the_grain_is_two_events_in_the_wrong_order() {
        let start = Instant::now();
        let changes = [change(start, 0, 0, true), change(start, 100, 1, true), change(start, 101, 0, false)];

        assert!(overlaps(&changes, start, start + Duration::from_secs(1)).is_empty());
    }

    #[test]
    fn an_address_that_comes_back_to_its_node_has_not_moved() {
        let start = Instant::now();
        let changes = [
            change(start, 0, 0, true),
            change(start, 10, 0, false),
            change(start, 20, 0, true),
            change(start, 30, 0, false),
            change(start, 40, 1, true),
        ];

        let moved = moves(&changes, VIP, start);

        assert_eq!(moved, [Move { at: start + Duration::from_millis(40), from: 0, to: 1 }]);
    }
}
