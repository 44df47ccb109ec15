//! Asks the segment who has an address.

use crate::address::{Address, Mac};
use crate::error::Error;
use crate::linux::{LONGEST_FRAME, Link, Protocol, claim, interface as find, open_listener};
use crate::rawsock::Listener;
use crate::{arp, ndp};
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
    let Link { index, mac, .. } = find(interface).await?;
    let question = match ip {
        IpAddr::V4(ip) => arp::Repr::probe(mac, ip).emit().to_vec(),
        IpAddr::V6(ip) => ndp::Repr::probe(mac, ip).emit(),
    };
    let protocol = Protocol::of(ip);
    let listener = open_listener(protocol, &[Address::host(ip)], index)
        .map_err(|source| Error::Packets { interface: interface.to_owned(), source })?;
    let start = Instant::now();
    for round in 1..=ROUNDS {
        let answer = async {
            listener.send(&question)?;
            let end = start + within * round / ROUNDS;
            tokio::select! {
                answer = answer(&listener, protocol, mac) => answer.map(Some),
                () = sleep_until(end) => Ok(None),
            }
        };
        match answer.await {
            Ok(None) => {}
            found => return found.map_err(|source| Error::Send { interface: interface.to_owned(), source }),
        }
    }
    Ok(None)
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

/// RFC 5227 probes three times (`PROBE_NUM`).
const ROUNDS: u32 = 3;
