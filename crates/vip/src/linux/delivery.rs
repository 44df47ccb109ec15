//! Whether the kernel takes in what comes for an address.
//!
//! An IPv4 address that was added is in use when the kernel answers. An IPv6 address is not: its route of the table `local`, by
//! which packets for it are taken in, comes from a queue of work a moment later, also without duplicate address detection. Who
//! announces it before loses what the neighbours send at once.

use super::monitor::Notifications;
use super::requests::{Requests, answered};
use futures_util::TryStreamExt as _;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use std::net::Ipv6Addr;
use std::time::Duration;

/// Waits until the kernel takes in packets for an address that was added to the interface; gives false if it doesn't within a
/// time in which it should.
pub(super) async fn is_delivered(requests: &Requests, index: u32, ip: Ipv6Addr) -> bool {
    // Mostly it is there by now.
    if has_local_route(requests, index, ip).await {
        return true;
    }
    let waited = async {
        let Ok(mut changes) = Notifications::of(&[MulticastGroup::Ipv6Route]) else { return };
        // Looked at again after each change, and once more before the first.
        while !has_local_route(requests, index, ip).await {
            if changes.read().await.is_err() {
                return;
            }
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, waited).await.is_ok();
    in_time && has_local_route(requests, index, ip).await
}

async fn has_local_route(requests: &Requests, index: u32, ip: Ipv6Addr) -> bool {
    let mut query = RouteMessage::default();
    query.header.address_family = AddressFamily::Inet6;
    query.header.destination_prefix_length = 128;
    query.attributes.push(RouteAttribute::Destination(RouteAddress::Inet6(ip)));
    // Where the interface has routing tables of its own (a VRF), these count.
    query.attributes.push(RouteAttribute::Oif(index));
    let found = requests.handle().route().get(query).execute().try_collect::<Vec<_>>();
    // An error is as good as no route: there is none to the address at all.
    answered(found).await.is_ok_and(|routes| routes.iter().any(|route| route.header.kind == RouteType::Local))
}

/// A queue of work is served in well under a millisecond. Where the route is not seen for so long, something else is wrong, and
/// the address is better announced than not.
const PATIENCE: Duration = Duration::from_millis(100);
