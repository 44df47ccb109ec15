//! `startAsLeader`: is the virtual address free on the segment?
//!
//! The right to lead alone is given only where nobody answers for the address. This task asks once the link is up, and
//! goes on listening: a conflicting owner that shows itself later takes the right away.

use std::time::Duration;

use leader::peers::Segment;
use tracing::{info, warn};
use vip::Address;

/// How long an owner has to answer a probe. Hosts answer ARP in well under a millisecond; three probes are sent in
/// this time, so that one lost frame decides nothing.
const PROBE_TIME: Duration = Duration::from_millis(250);

/// The pause after a probe that could not be sent.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Probes until there is an answer to give, then watches for conflicts. Ends only when aborted, which may happen at any
/// await: nothing is held.
pub(super) async fn run(
    interface: String,
    addresses: Vec<Address>,
    election: leader::peers::Handle,
    address: vip::driver::Handle,
) {
    let mut link = address.link_up();
    let mut conflicts = address.conflict();
    loop {
        if link.wait_for(|up| *up).await.is_err() {
            return;
        }
        match probe(&interface, &addresses).await {
            Ok(segment) => {
                election.set_segment(segment);
                break;
            }
            Err(error) => {
                warn!(%error, interface, "failed to ask the segment for the address's owner; trying again");
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
    }
    // Each conflict heard while the address is held is another owner.
    while conflicts.changed().await.is_ok() {
        election.set_segment(Segment::Occupied);
    }
}

async fn probe(interface: &str, addresses: &[Address]) -> Result<Segment, vip::Error> {
    for address in addresses {
        if let Some(mac) = vip::probe::owner_of(interface, address.ip, PROBE_TIME).await? {
            info!(address = %address.ip, mac = %vip::Station(mac), "another host answers for the address: not leading alone");
            return Ok(Segment::Occupied);
        }
    }
    Ok(Segment::Free)
}
