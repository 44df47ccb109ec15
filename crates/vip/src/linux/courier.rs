//! Catches frames for addresses that this node has given up, and passes them on.

use super::filter::{Instruction, Protocol, packets_for};
use crate::address::Address;
use crate::failure::at_once;
use crate::network::Link;
use crate::rawsock::Tap;
use crate::relay::{Errand, Fate, OFFLOAD_LEN, Relay};
use std::io;
use std::time::Instant;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep_until;

/// A task that relays, and the way to tell it to whom. It ends when this is dropped, or when the errand's time is over.
#[derive(Debug)]
pub(super) struct Courier {
    errand: watch::Sender<Errand>,
    _task: JoinSet<()>,
}

impl Courier {
    /// Opens the sockets and starts to relay: from when this returns, no frame for the addresses is missed. The packet
    /// filter's and the kernel's own tables don't matter to what is caught: it is seen before them.
    pub(super) fn start(link: &Link, addresses: &[Address], errand: Errand) -> io::Result<Self> {
        let tap = |ipv4: bool| -> io::Result<Option<Tap>> {
            if !addresses.iter().any(|address| address.ip.is_ipv4() == ipv4) {
                return Ok(None);
            }
            let ethertype = if ipv4 { IPV4 } else { Protocol::NeighborDiscovery.ethertype() };
            let filter: Vec<_> =
                packets_for(ipv4, addresses).into_iter().map(Instruction::to_socket).collect();
            Tap::open(link.index, ethertype, &filter).map(Some)
        };
        let ips = addresses.iter().map(|address| address.ip).collect();
        let (sender, receiver) = watch::channel(errand);
        let round = Round {
            ipv4: tap(true)?,
            ipv6: tap(false)?,
            relay: Relay::new(link.mac, ips, errand),
            errand: receiver,
            buffer: vec![0; PARCEL_MAX],
            failed: 0,
        };
        let mut task = JoinSet::new();
        task.spawn(round.run());
        Ok(Self { errand: sender, _task: task })
    }

    /// Sets what is to be done from now on.
    pub(super) fn set_errand(&self, errand: Errand) {
        self.errand.send_replace(errand);
    }
}

/// The task. It waits on the two sockets, on the errand and on its end, and sends frames. May be cancelled at any time: frames that
/// were held back are lost.
struct Round {
    ipv4: Option<Tap>,
    ipv6: Option<Tap>,
    relay: Relay,
    errand: watch::Receiver<Errand>,
    buffer: Vec<u8>,
    /// Frames that the interface did not take.
    failed: u64,
}

enum Wake {
    Errand,
    Over,
    Caught { ipv4: bool },
}

impl Round {
    async fn run(mut self) {
        // Such as that the link went down: then there is nothing more to catch.
        let end = self.relay().await.err();
        let (tally, error) = (self.relay.tally(), end.map(|error| error.to_string()));
        tracing::debug!(
            passed = tally.passed,
            dropped = tally.dropped,
            failed = self.failed,
            error,
            "relayed"
        );
    }

    async fn relay(&mut self) -> io::Result<()> {
        loop {
            let errand = *self.errand.borrow_and_update();
            self.relay.set_errand(errand);
            self.pass_on_held();
            let wake = tokio::select! {
                biased;
                changed = self.errand.changed() => if changed.is_ok() { Wake::Errand } else { Wake::Over },
                () = sleep_until(errand.until.into()) => Wake::Over,
                ready = readable(self.ipv4.as_ref()) => ready.map(|()| Wake::Caught { ipv4: true })?,
                ready = readable(self.ipv6.as_ref()) => ready.map(|()| Wake::Caught { ipv4: false })?,
            };
            match wake {
                Wake::Errand => {}
                Wake::Over => return Ok(()),
                Wake::Caught { ipv4 } => {
                    self.take_caught(ipv4)?;
                    // Whatever comes here, the thread renews leases as well.
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    fn take_caught(&mut self, ipv4: bool) -> io::Result<()> {
        let tap = if ipv4 { &self.ipv4 } else { &self.ipv6 };
        let tap = tap.as_ref().expect("it was readable");
        for _ in 0..BATCH {
            let Some(length) = at_once(tap.try_recv(&mut self.buffer))? else { return Ok(()) };
            if length == self.buffer.len() {
                // Cut off, perhaps: longer than any frame that an interface passes up.
                continue;
            }
            let parcel = &mut self.buffer[..length];
            if self.relay.handle_parcel(parcel, now()) == Fate::Passed
                && tap.send(parcel, OFFLOAD_LEN).is_err()
            {
                self.failed += 1;
            }
        }
        Ok(())
    }

    fn pass_on_held(&mut self) {
        while let Some(parcel) = self.relay.poll_held(now()) {
            // By either socket: what it receives doesn't matter to what it sends.
            let tap = self.ipv4.as_ref().or(self.ipv6.as_ref());
            if tap.is_none_or(|tap| tap.send(&parcel, OFFLOAD_LEN).is_err()) {
                self.failed += 1;
            }
        }
    }
}

/// Waits for a frame; for ever, where there is no socket.
async fn readable(tap: Option<&Tap>) -> io::Result<()> {
    match tap {
        Some(tap) => tap.readable().await,
        None => std::future::pending().await,
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Frames that are taken together, before the other tasks of the thread have their turn.
const BATCH: usize = 32;

/// A frame that the kernel has put together of many is as long as an IP packet can be; its headers come on top.
const PARCEL_MAX: usize = OFFLOAD_LEN + (1 << 16) + 64;

const IPV4: u16 = 0x0800;
