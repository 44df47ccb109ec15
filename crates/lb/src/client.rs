//! A client on its way in: counted among those of its host, and known by what a trusted proxy says of it.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use tokio::time::timeout;
use tracing::{debug, warn};

use crate::account::{Account, Ending};
use crate::flow::Flow;
use crate::lane::{Entry, Lane};
use crate::leg::Leg;
use crate::listen::Accepted;
use crate::proxy_protocol::{HEADER_MAX, Heard, parse};
use crate::relay::Opening;
use crate::room::Permit;
use crate::socket;
use crate::sources::Place;

/// How long a proxy may take to say on whose behalf it comes. It is the first thing that it sends.
const HEADER_PATIENCE: Duration = Duration::from_secs(5);

/// Hosts whose address begins so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    ip: IpAddr,
    prefix: u8,
}

impl Network {
    /// The network of this address and prefix length; `None` if the address has fewer bits.
    #[must_use]
    pub fn new(ip: IpAddr, prefix: u8) -> Option<Self> {
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        (prefix <= bits).then_some(Self { ip, prefix })
    }

    /// Whether an address is of this network.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        let same = |one: u128, other: u128, bits: u32| (one ^ other).checked_shr(bits).unwrap_or(0) == 0;
        let prefix = u32::from(self.prefix);
        match (self.ip, ip) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => {
                same(u32::from(own).into(), u32::from(ip).into(), 32 - prefix)
            }
            (IpAddr::V6(own), IpAddr::V6(ip)) => same(own.into(), ip.into(), 128 - prefix),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// A client that is let in when there is room for it.
pub(crate) struct Client {
    leg: Leg,
    /// Both ends, as the client sees them.
    ends: (Option<SocketAddr>, Option<SocketAddr>),
    /// It comes through a proxy that says on whose behalf.
    by_proxy: bool,
    account: Option<Box<Account>>,
    place: Option<Box<Place>>,
}

impl Client {
    /// Takes over a connection that was accepted.
    pub(crate) fn take(lane: &Lane, accepted: Accepted) -> Option<Self> {
        let (shared, settings) = (&lane.shared, lane.settings());
        shared.accepted.add(1);
        let ip = accepted.client.map(|client| client.ip());
        let by_proxy = ip.is_some_and(|ip| settings.proxies.iter().any(|proxy| proxy.contains(ip)));
        // A proxy's connections are those of many hosts.
        let place = match (&settings.sources, ip) {
            (Some(sources), Some(ip)) if !by_proxy => match sources.enter(ip) {
                Some(place) => Some(Box::new(place)),
                None => {
                    shared.rejected.add(1);
                    debug!(frontend = shared.name, client = %ip, "too many connections of one host: reset");
                    socket::reset_when_closed(&accepted.socket);
                    return None;
                }
            },
            // Whose it is isn't known, or doesn't matter.
            (Some(_) | None, _) => None,
        };
        let account = settings.access_log.then(|| Box::new(Account::open(accepted.client)));
        let leg = Leg::new(accepted.socket, &lane.kit.reactor);
        let leg = leg.inspect_err(|error| {
            warn!(frontend = shared.name, %error, "a connection can't be watched: client reset");
        });
        Some(Self { leg: leg.ok()?, ends: (accepted.client, None), by_proxy, account, place })
    }

    /// Starts its flow.
    pub(crate) fn start(mut self, lane: &Rc<Lane>, permit: Permit) {
        let settings = lane.settings();
        let virtual_ips = &settings.virtual_ips;
        // Where nobody wants to know, the kernel need not be asked.
        if !virtual_ips.is_empty() || settings.proxy_protocol.is_some() {
            self.ends.1 = self.leg.local_address().ok();
        }
        let virtual_ip = self.ends.1.map(|local| local.ip()).filter(|ip| virtual_ips.contains(ip));
        let entry = lane.enter(virtual_ip, self.place.take());
        if self.by_proxy {
            lane.tasks.spawn_local(self.introduced(entry, permit));
        } else {
            lane.tasks.spawn_local(self.flow(entry, permit));
        }
    }

    fn flow(self, entry: Entry, permit: Permit) -> Flow {
        let (client, server) = self.ends;
        let version = entry.lane.settings().proxy_protocol;
        let header = version.map(|version| version.header(client, server)).unwrap_or_default();
        let client = client.map(|client| client.ip());
        let opening = Box::new(Opening::new(client, entry.lane.candidates(client), header));
        Flow::new(entry, permit, self.leg, opening, self.account)
    }

    /// Hears from the proxy on whose behalf it comes, and goes on as that client's flow.
    async fn introduced(mut self, entry: Entry, permit: Permit) {
        let heard = tokio::select! {
            biased;
            end = poll_fn(|context| entry.record.poll_end(context)) => Err(Ending::Ordered(end)),
            heard = timeout(HEADER_PATIENCE, read_header(&self.leg)) => match heard {
                Ok(Ok(ends)) => Ok(ends),
                Ok(Err(error)) => {
                    debug!(frontend = entry.lane.shared.name, %error, "no header of the PROXY protocol: client reset");
                    Err(Ending::Client)
                }
                Err(_) => {
                    debug!(frontend = entry.lane.shared.name, "a proxy says nothing: client reset");
                    Err(Ending::Client)
                }
            },
        };
        match heard {
            Ok(ends) => {
                if let Some((client, server)) = ends {
                    self.ends = (Some(client), Some(server));
                    if let Some(account) = &mut self.account {
                        account.is_of(client);
                    }
                }
                self.flow(entry, permit).await;
            }
            Err(ending) => {
                if ending == Ending::Client {
                    entry.lane.shared.rejected.add(1);
                }
                if let Some(account) = self.account {
                    account.close(&entry.lane.shared.name, ending);
                }
            }
        }
    }
}

/// Takes a header from the beginning of a stream, and nothing behind it.
async fn read_header(leg: &Leg) -> io::Result<Option<(SocketAddr, SocketAddr)>> {
    let mut octets = [0; HEADER_MAX];
    loop {
        let peeked = poll_fn(|context| leg.poll_peek(context, &mut octets)).await?;
        match parse(&octets[..peeked.length]) {
            Heard::Whole { length, ends } => {
                // They are there: no less is read.
                poll_fn(|context| leg.poll_read(context, &mut octets[..length])).await?;
                if peeked.length == length && !peeked.last {
                    // Who asks whether there is more is told so: a backend's handshake isn't held up for it.
                    leg.await_more();
                }
                return Ok(ends);
            }
            Heard::Garbage => return Err(io::ErrorKind::InvalidData.into()),
            Heard::Part if peeked.last || peeked.length == octets.len() => {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Heard::Part => leg.await_more(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(ip: &str, prefix: u8) -> Network {
        Network::new(ip.parse().unwrap(), prefix).unwrap()
    }

    #[test]
    fn a_network_is_its_first_bits() {
        let contains = |network: Network, ip: &str| network.contains(ip.parse().unwrap());
        assert!(
            contains(network("10.0.0.77", 24), "10.0.0.1") && !contains(network("10.0.0.77", 24), "10.0.1.1")
        );
        assert!(
            contains(network("10.0.0.7", 32), "10.0.0.7") && !contains(network("10.0.0.7", 32), "10.0.0.6")
        );
        assert!(contains(network("0.0.0.0", 0), "255.1.2.3") && !contains(network("0.0.0.0", 0), "fd00::1"));
        assert!(
            contains(network("fd00::", 64), "fd00::9") && !contains(network("fd00::", 64), "fd00:0:0:1::9")
        );
        assert!(contains(network("::", 0), "ffff::") && contains(network("fd00::1", 128), "fd00::1"));
        assert_eq!(Network::new("10.0.0.0".parse().unwrap(), 33), None);
    }
}
