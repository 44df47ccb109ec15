//! Listens for stations that claim our addresses.

use super::filter::{Instruction, Protocol};
use crate::address::{Address, Mac};
use crate::failure::{at_once, unless};
use crate::network::{Event, Link};
use crate::rawsock::Listener;
use crate::{arp, ndp};
use rustix::io::Errno;
use std::io;
use std::net::IpAddr;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// The task that listens on one protocol.
///
/// It waits on the packet socket and on the link, whose index decides where to listen, and sends [`Event::Claimed`].
/// May be cancelled at any time: it leaves nothing behind.
pub(super) struct Claims {
    pub(super) protocol: Protocol,
    pub(super) addresses: Vec<Address>,
    pub(super) link: watch::Receiver<Option<Link>>,
    pub(super) events: mpsc::Sender<Event>,
}

impl Claims {
    pub(super) async fn run(mut self) {
        loop {
            let index = self.link.borrow_and_update().as_ref().map(|link| link.index);
            let end = match index {
                Some(index) => self.listen(index).await,
                None => self.link.changed().await.map_err(|_| End::Closed),
            };
            match end {
                Ok(()) => {}
                Err(End::Closed) => return,
                Err(End::Failed(error)) => {
                    tracing::warn!(%error, protocol = ?self.protocol, "listening for conflicting stations failed");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Listens until the interface has another index.
    async fn listen(&mut self, index: u32) -> Result<(), End> {
        let listener = open(self.protocol, &self.addresses, index).map_err(End::Failed)?;
        loop {
            let mut frame = [0; LONGEST_FRAME];
            tokio::select! {
                changed = self.link.changed() => {
                    changed.map_err(|_| End::Closed)?;
                    if self.link.borrow_and_update().as_ref().map(|link| link.index) != Some(index) {
                        return Ok(());
                    }
                }
                received = listener.recv(&mut frame) => {
                    self.tell(&listener, received, frame).await?;
                }
            }
        }
    }

    /// Tells one frame and those that have come with it, each station once.
    async fn tell(
        &self,
        listener: &Listener,
        mut received: io::Result<usize>,
        mut frame: [u8; LONGEST_FRAME],
    ) -> Result<(), End> {
        let mut told: Vec<(IpAddr, Mac)> = Vec::new();
        for _ in 0..BATCH {
            match at_once(unless(Errno::NETDOWN, received)).map_err(End::Failed)? {
                Some(Some(length)) => {
                    if let Some(claim) = claim(self.protocol, &frame[..length])
                        && !told.contains(&claim)
                    {
                        told.push(claim);
                    }
                }
                // The link went down; it is told once, and the socket stays good.
                Some(None) => {}
                None => break,
            }
            received = listener.try_recv(&mut frame);
        }
        for (ip, mac) in told {
            self.events.send(Event::Claimed { ip, mac }).await.map_err(|_| End::Closed)?;
        }
        tokio::time::sleep(BREATH).await;
        Ok(())
    }
}

enum End {
    Closed,
    Failed(io::Error),
}

/// Opens a socket that receives nothing but claims of these addresses.
pub(crate) fn open(protocol: Protocol, addresses: &[Address], index: u32) -> io::Result<Listener> {
    let filter: Vec<_> = protocol.claims(addresses).into_iter().map(Instruction::to_socket).collect();
    Listener::open(index, protocol.ethertype(), &filter)
}

/// Opens a socket that receives what is said by stations with these addresses, and what is asked for them.
pub(crate) fn open_about(protocol: Protocol, addresses: &[IpAddr], index: u32) -> io::Result<Listener> {
    let filter: Vec<_> = protocol.about(addresses).into_iter().map(Instruction::to_socket).collect();
    Listener::open(index, protocol.ethertype(), &filter)
}

/// Returns which address a frame claims, and for which station.
pub(crate) fn claim(protocol: Protocol, frame: &[u8]) -> Option<(IpAddr, Mac)> {
    match protocol {
        Protocol::Arp => {
            let arp = arp::Repr::parse(frame)?;
            Some((arp.sender_ip.into(), arp.sender_mac))
        }
        Protocol::NeighborDiscovery => {
            let ndp::Repr { message, source_mac, .. } = ndp::Repr::parse(frame)?;
            match message {
                ndp::Message::Advertisement { target, link_layer, .. } => {
                    Some((target.into(), link_layer.unwrap_or(source_mac)))
                }
                ndp::Message::Solicitation { .. } => None,
            }
        }
    }
}

/// Longer than any ARP packet, and than an advertisement with options worth reading.
pub(crate) const LONGEST_FRAME: usize = 512;

/// Frames that are taken together. A flood overflows the socket's buffer instead of our time.
const BATCH: usize = 32;

/// After a batch, this long nothing is heard: at most 100 wake-ups a second, whatever is sent at us.
const BREATH: Duration = Duration::from_millis(10);

/// Between tries when no socket can be had, or it fails.
const PAUSE: Duration = Duration::from_secs(1);
