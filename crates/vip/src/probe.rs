//! Asks the segment who has an address.

use crate::address::{Address, Mac};
use crate::clock::Clock;
use crate::error::Error;
use crate::failure::unless;
use crate::linux::{
    LONGEST_FRAME, Link, Protocol, claim, interface as find, interface_addresses, open_about, open_listener,
};
use crate::lookout::{Look, Lookout};
use crate::rawsock::Listener;
use crate::{arp, ndp};
use rustix::io::Errno;
use std::io;
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Returns the hardware address of a station other than this one that has the address; `None` if none answers in time.
///
/// Asks three times within that time, at once and after each third, so that one lost frame proves nothing. No
/// neighbour's cache changes: IPv4 is asked by an ARP probe (RFC 5227 §2.1.1), IPv6 as by duplicate address detection
/// (RFC 4862 §5.4.2). This node's own answer doesn't count, nor does it hear itself. Silence is no proof of absence:
/// the link may be cut. May be cancelled at any time: it leaves nothing behind.
///
/// # Errors
///
/// There is no such interface, it isn't Ethernet or is down, or a socket can't be had, for which `CAP_NET_RAW` is needed.
pub async fn owner_of(interface: &str, ip: IpAddr, within: Duration) -> Result<Option<Mac>, Error> {
    let asker = Asker::open(interface, ip).await?;
    let start = Instant::now();
    for round in 1..=ROUNDS {
        let answer = asker.ask(start + share(within, round)).await?;
        if answer.is_some() {
            return Ok(answer);
        }
    }
    Ok(None)
}

/// Returns how long a question and its answer are on their way to the host that has the address and back, at the least; `None` if it
/// doesn't answer in this time. What this host needs for it is part of that. Asks as [`owner_of`] does.
///
/// # Errors
///
/// Those of [`owner_of`].
pub async fn round_trip(interface: &str, ip: IpAddr, within: Duration) -> Result<Option<Duration>, Error> {
    let asker = Asker::open(interface, ip).await?;
    let end = Instant::now() + within;
    let mut shortest = None;
    for _ in 0..ROUNDS {
        let began = Instant::now();
        if asker.ask(end).await?.is_some() {
            let took = began.elapsed();
            shortest = Some(shortest.map_or(took, |known: Duration| known.min(took)));
        }
    }
    Ok(shortest)
}

/// Asks for one address, over a socket that stays open.
struct Asker<'a> {
    interface: &'a str,
    mac: Mac,
    protocol: Protocol,
    question: Vec<u8>,
    listener: Listener,
}

impl<'a> Asker<'a> {
    async fn open(interface: &'a str, ip: IpAddr) -> Result<Self, Error> {
        let Link { index, mac, .. } = find(interface).await?;
        let question = match ip {
            IpAddr::V4(ip) => arp::Repr::probe(mac, ip).emit().to_vec(),
            IpAddr::V6(ip) => ndp::Repr::probe(mac, ip).emit(),
        };
        let protocol = Protocol::of(ip);
        let listener = open_listener(protocol, &[Address::host(ip)], index)
            .map_err(|source| Error::Packets { interface: interface.to_owned(), source })?;
        Ok(Self { interface, mac, protocol, question, listener })
    }

    /// Who answers until then.
    async fn ask(&self, end: Instant) -> Result<Option<Mac>, Error> {
        let answer = async {
            self.listener.send(&self.question)?;
            tokio::select! {
                answer = answer(&self.listener, self.protocol, self.mac) => answer.map(Some),
                () = sleep_until(end) => Ok(None),
            }
        };
        answer.await.map_err(|source| Error::Send { interface: self.interface.to_owned(), source })
    }
}

/// Looks at a segment again and again, over sockets that stay open.
#[derive(Debug)]
pub struct Watch {
    lookout: Lookout,
    interface: String,
    clock: Clock,
    arp: Option<Listener>,
    discovery: Option<Listener>,
}

impl Watch {
    /// Opens the sockets. `addresses` are the virtual IPs; `tie_break` has to be on the interface's own link. Looks are told by the
    /// election's clock, which is ahead by the time `asleep`: an answer to a question from before a suspend is as old as it is.
    ///
    /// # Errors
    ///
    /// There is no such interface, it isn't Ethernet or is down, or a socket can't be had, for which `CAP_NET_RAW` is needed.
    pub async fn open(
        interface: &str,
        addresses: &[IpAddr],
        tie_break: IpAddr,
        asleep: fn() -> Duration,
    ) -> Result<Self, Error> {
        let Link { index, mac, .. } = find(interface).await?;
        let own = interface_addresses(interface).await?;
        let lookout = Lookout::new(mac, source_for(&own, addresses, tie_break), addresses, tie_break);
        let concerned: Vec<IpAddr> = lookout.concerns().collect();
        let open = |protocol: Protocol| {
            if !concerned.iter().any(|ip| Protocol::of(*ip) == protocol) {
                return Ok(None);
            }
            let socket = open_about(protocol, &concerned, index);
            socket.map(Some).map_err(|source| Error::Packets { interface: interface.to_owned(), source })
        };
        let (arp, discovery) = (open(Protocol::Arp)?, open(Protocol::NeighborDiscovery)?);
        Ok(Self { lookout, interface: interface.to_owned(), clock: Clock(asleep), arp, discovery })
    }

    /// Asks, and listens for so long. May be cancelled at any time: the look counts for nothing then.
    ///
    /// A question that can't be sent, as when the link is down, is one without an answer.
    ///
    /// # Errors
    ///
    /// A socket fails for good; open another watch then.
    pub async fn look(&mut self, lasting: Duration) -> Result<Look, Error> {
        let end = Instant::now() + lasting;
        for (ip, frame) in self.lookout.ask(lasting, self.clock.now()) {
            let listener = if ip.is_ipv4() { &self.arp } else { &self.discovery };
            if let Some(error) = listener.as_ref().and_then(|listener| listener.send(&frame).err()) {
                tracing::trace!(%error, %ip, "failed to ask");
            }
        }
        let (mut by_arp, mut by_discovery) = ([0; LONGEST_FRAME], [0; LONGEST_FRAME]);
        for _ in 0..FRAMES_MAX {
            let heard = tokio::select! {
                // What has come by the end of the look is part of it.
                biased;
                received = receive(self.arp.as_ref(), &mut by_arp) => received.map(|length| &by_arp[..length]),
                received = receive(self.discovery.as_ref(), &mut by_discovery) => {
                    received.map(|length| &by_discovery[..length])
                }
                () = sleep_until(end) => {
                    return Ok(self.lookout.conclude().expect("it was begun above"));
                }
            };
            // Without a frame, the link went down; it is told once, and the socket stays good.
            let heard = unless(Errno::NETDOWN, heard);
            let failed = |source| Error::Packets { interface: self.interface.clone(), source };
            if let Some(frame) = heard.map_err(failed)? {
                self.lookout.hear(frame);
            }
        }
        sleep_until(end).await;
        // In a flood the one frame that matters may be lost: such a look shows nothing.
        let look = self.lookout.conclude().expect("it was begun above");
        Ok(Look { answered: false, ..look })
    }
}

/// Frames read in one look. Each of a few stations has one or two to say.
const FRAMES_MAX: usize = 256;

/// One of the node's own addresses that the tie-break can answer to: of its subnet, or link-local for one that is.
fn source_for(own: &[Address], virtual_ips: &[IpAddr], tie_break: IpAddr) -> Option<IpAddr> {
    let usable = |address: &&Address| !virtual_ips.contains(&address.ip) && address.contains(tie_break);
    own.iter().find(usable).map(|address| address.ip)
}

async fn receive(listener: Option<&Listener>, buffer: &mut [u8]) -> io::Result<usize> {
    match listener {
        Some(listener) => listener.recv(buffer).await,
        None => std::future::pending().await,
    }
}

async fn answer(listener: &Listener, protocol: Protocol, own: Mac) -> io::Result<Mac> {
    let mut frame = [0; LONGEST_FRAME];
    loop {
        let length = listener.recv(&mut frame).await?;
        if let Some((_, mac)) = claim(protocol, &frame[..length])
            && mac != own
        {
            return Ok(mac);
        }
    }
}

/// The part of the time that is over with this round, of equal ones.
fn share(within: Duration, round: u32) -> Duration {
    within * round / ROUNDS
}

/// RFC 5227 probes three times (`PROBE_NUM`).
const ROUNDS: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_rounds_of_equal_length_take_as_long_as_was_allowed() {
        let shares = [1, 2, 3].map(|round| share(Duration::from_millis(300), round).as_millis());
        assert_eq!(shares, [100, 200, 300]);
    }
}
