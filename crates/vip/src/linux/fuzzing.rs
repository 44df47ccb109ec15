//! What fuzzing calls of what the kernel tells. See [`crate::fuzzing`].

use super::monitor::{decode, port};
use super::requests::{to_entry, to_link};
use super::routes::{default_route, gateway};
use netlink_packet_sock_diag::SockDiagMessage;
use rtnetlink::packet_core::NetlinkMessage;
use rtnetlink::packet_route::RouteNetlinkMessage;

/// The header of a netlink message, the least that one takes.
const HEADER: usize = 16;

/// A datagram of rtnetlink(7) or sock_diag(7): what changes, or an answer.
///
/// There are no more messages than there is room for; and each is read to the end, whatever is in it.
pub fn link_news(bytes: &[u8]) {
    let messages = decode(bytes);
    assert!(messages.len() <= bytes.len() / HEADER + 1);
    for message in &messages {
        let found = port(message, Some(2));
        assert!(found.is_none_or(|_| matches!(
            message,
            RouteNetlinkMessage::NewLink(_) | RouteNetlinkMessage::DelLink(_)
        )));
        if let RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) = message {
            let _ = to_link(link).map(|link| link.up);
        } else if let RouteNetlinkMessage::NewAddress(address) = message {
            assert!(to_entry(address).is_none_or(|entry| entry.index == address.header.index));
        } else if let RouteNetlinkMessage::NewRoute(route) = message {
            let _ = (default_route(route), gateway(route, 2));
        }
    }
    let _ = NetlinkMessage::<SockDiagMessage>::deserialize(bytes).map(|message| message.header.length);
}
