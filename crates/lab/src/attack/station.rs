//! A station of the segment that isn't what it says, and one that keeps what it hears.

use std::io::Read as _;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::time::Instant;

use super::packet::{PEER_PORT, advertisement, arp_reply};
use super::sender::{Raw, Sender, nothing_yet};
use crate::namespace::Namespace;
use crate::network::{Host, VIP, VIP6};
use crate::sys;

const ETHERTYPE_ARP: u16 = 0x0806;
/// All protocols: frames that this machine sends are then heard as well (packet(7)).
const ETHERTYPE_ALL: u16 = 3;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERNET_HEADER: usize = 14;
const UDP: u8 = 17;
/// So often the spoofer claims the addresses without being asked.
const CLAIM_INTERVAL: Duration = Duration::from_millis(20);
/// So long it listens before it looks at the time again.
const LISTEN: Duration = Duration::from_millis(5);
/// Datagrams of peers that are kept to be played back: some seconds of three nodes.
const KEPT: usize = 4096;

/// Claims the virtual addresses for a host: answers each ARP request for the one, and tells all of both every 20 ms.
pub(super) fn spoof(host: &Host) -> Result<Sender> {
    let socket = open(&host.namespace, ETHERTYPE_ARP, host.interface)?;
    let mac = host.mac;
    let mut next = Instant::now();
    let to_all = (VIP, [0xff; 6]);
    Sender::start(move || {
        let mut sent = 0;
        let mut say = |frame: Vec<u8>| sent += u64::from(socket.send(&frame).is_ok());
        if Instant::now() >= next {
            say(arp_reply(VIP, mac, to_all));
            say(advertisement(VIP6, mac));
            next = Instant::now() + CLAIM_INTERVAL;
        }
        let mut frame = [0; 128];
        if let Ok(length) = (&socket).read(&mut frame)
            && let Some(asker) = asks_for_the_address(&frame[..length])
        {
            say(arp_reply(VIP, mac, asker));
        }
        sent
    })
}

/// Who asks by ARP where the virtual address is.
fn asks_for_the_address(frame: &[u8]) -> Option<(Ipv4Addr, crate::arp::Mac)> {
    let frame = frame.get(..42)?;
    let is_request = frame[12..14] == ETHERTYPE_ARP.to_be_bytes() && frame[20..22] == [0, 1];
    if !is_request || frame[38..42] != VIP.octets() {
        return None;
    }
    let ip: [u8; 4] = frame[28..32].try_into().ok()?;
    Some((ip.into(), frame[22..28].try_into().ok()?))
}

/// Records the datagrams of peers that a host sends and receives, for a while.
pub(super) async fn record(host: &Host, lasts: Duration) -> Result<Vec<Vec<u8>>> {
    let socket = open(&host.namespace, ETHERTYPE_ALL, host.interface)?;
    let until = Instant::now() + lasts;
    let listening = tokio::task::spawn_blocking(move || {
        let mut heard = Vec::new();
        let mut frame = [0; 2048];
        while Instant::now() < until && heard.len() < KEPT {
            match (&socket).read(&mut frame) {
                Ok(length) => heard.extend(of_peers(&frame[..length]).map(<[u8]>::to_vec)),
                Err(error) if nothing_yet(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(heard)
    });
    listening.await?.context("the segment can't be listened to")
}

/// The IPv4 packet in a frame, if it is a datagram of a peer's.
fn of_peers(frame: &[u8]) -> Option<&[u8]> {
    let packet = frame.get(ETHERNET_HEADER..)?;
    let is_udp = frame[12..14] == ETHERTYPE_IPV4 && *packet.get(9)? == UDP;
    let to = packet.get(22..24)?;
    (is_udp && to == PEER_PORT.to_be_bytes()).then_some(packet)
}

/// Plays them back from a host, again and again as fast as it can.
pub(super) fn play_back(from: &Namespace, datagrams: Vec<Vec<u8>>) -> Result<Sender> {
    let raw = Raw::open(from)?;
    Sender::start(move || datagrams.iter().map(|datagram| raw.send(datagram)).sum())
}

fn open(namespace: &Namespace, ethertype: u16, interface: u32) -> Result<Socket> {
    let socket = namespace.within(|| {
        let protocol = Protocol::from(i32::from(ethertype.to_be()));
        Ok(Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?)
    })?;
    socket.bind(&sys::link_layer_address(ethertype, interface))?;
    socket.set_read_timeout(Some(LISTEN))?;
    Ok(socket)
}
