//! The interface of the default route, for those who name none.

use super::requests::{Requests, answered};
use crate::error::Error;
use crate::network::Link;
use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType};
use std::net::IpAddr;

/// Returns the interface of the default route, of IPv4 or else of IPv6; `None` without either.
///
/// Of several default routes the one with the smallest metric counts, as it does for the kernel. One whose interface
/// can't carry ARP (a tunnel) is passed over: no address that moves could be announced there.
///
/// # Errors
///
/// The kernel does not answer.
pub async fn default_interface() -> Result<Option<Link>, Error> {
    super::patiently(find_default).await
}

async fn find_default() -> Result<Option<Link>, Error> {
    let requests = Requests::open()?;
    let links = requests.links().await?;
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut query = RouteMessage::default();
        query.header.address_family = family;
        let list = requests.handle().route().get(query).execute().try_collect::<Vec<_>>();
        let routes = answered(list).await.map_err(|source| Error::List { what: "the routes", source })?;
        let mut defaults: Vec<(u32, u32)> = routes.iter().filter_map(default_route).collect();
        // Stable: of two with the same metric the kernel's first counts.
        defaults.sort_by_key(|&(metric, _)| metric);
        let found = defaults
            .iter()
            .find_map(|&(_, index)| links.iter().find(|link| link.index == index && link.name != "lo"));
        if let Some(link) = found {
            return Ok(Some(link.clone()));
        }
    }
    Ok(None)
}

/// Returns the router that default routes on this interface lead to, of the preferred family or else of the other; `None` without one.
///
/// Of several default routes the one with the smallest metric counts.
///
/// # Errors
///
/// There is no such interface, or the kernel does not answer.
pub async fn default_gateway(interface: &str, prefer_ipv4: bool) -> Result<Option<IpAddr>, Error> {
    let requests = Requests::open()?;
    let found = requests.link(interface).await?;
    let link = found.ok_or_else(|| Error::NoInterface { interface: interface.to_owned() })?;
    let mut families = [AddressFamily::Inet, AddressFamily::Inet6];
    if !prefer_ipv4 {
        families.reverse();
    }
    for family in families {
        let mut query = RouteMessage::default();
        query.header.address_family = family;
        let list = requests.handle().route().get(query).execute().try_collect::<Vec<_>>();
        let routes = answered(list).await.map_err(|source| Error::List { what: "the routes", source })?;
        let mut gateways: Vec<(u32, IpAddr)> = routes
            .iter()
            .filter_map(|route| Some((default_route(route)?, gateway(route, link.index)?)))
            .map(|((metric, _), gateway)| (metric, gateway))
            .collect();
        gateways.sort_by_key(|&(metric, _)| metric);
        if let Some((_, gateway)) = gateways.first() {
            return Ok(Some(*gateway));
        }
    }
    Ok(None)
}

/// The router of a route, or of that of its hops that leaves by this interface.
pub(super) fn gateway(route: &RouteMessage, index: u32) -> Option<IpAddr> {
    let (mut interface, mut gateway) = (None, None);
    for attribute in &route.attributes {
        if let RouteAttribute::Oif(number) = attribute {
            interface = Some(*number);
        } else if let RouteAttribute::Gateway(address) = attribute {
            gateway = to_ip(address);
        } else if let RouteAttribute::MultiPath(hops) = attribute
            && let Some(hop) = hops.iter().find(|hop| hop.interface_index == index)
        {
            interface = Some(index);
            gateway = hop.attributes.iter().find_map(|attribute| {
                let RouteAttribute::Gateway(address) = attribute else { return None };
                to_ip(address)
            });
        }
    }
    gateway.filter(|_| interface == Some(index))
}

fn to_ip(address: &RouteAddress) -> Option<IpAddr> {
    if let RouteAddress::Inet(ip) = address {
        Some(IpAddr::V4(*ip))
    } else if let RouteAddress::Inet6(ip) = address {
        Some(IpAddr::V6(*ip))
    } else {
        None
    }
}

/// Metric and interface of a default route of the main table.
pub(super) fn default_route(route: &RouteMessage) -> Option<(u32, u32)> {
    if route.header.destination_prefix_length != 0 || route.header.kind != RouteType::Unicast {
        return None;
    }
    let (mut table, mut metric, mut interface) = (u32::from(route.header.table), 0, None);
    for attribute in &route.attributes {
        if let RouteAttribute::Table(number) = attribute {
            table = *number;
        } else if let RouteAttribute::Priority(number) = attribute {
            metric = *number;
        } else if let RouteAttribute::Oif(index) = attribute {
            interface = Some(*index);
        } else if let RouteAttribute::MultiPath(hops) = attribute {
            interface = interface.or_else(|| hops.first().map(|hop| hop.interface_index));
        }
    }
    (table == u32::from(RouteHeader::RT_TABLE_MAIN)).then_some((metric, interface?))
}
