//! Is the virtual address free on the segment? An election that has no other witness asks.
//!
//! `startAsLeader`: the right to lead alone is given only where nobody answers for the address. It is asked once the link is up,
//! and then listened to: a conflicting owner that shows itself later takes the right away.
//!
//! A Lease that is missing, or in this node's own name, may be taken at once only where nobody acts upon another. An answer
//! counts only after the Lease was seen, so it is asked again and again as long as nobody leads.

use std::time::Duration;

use leader::Leadership;
use leader::quorum::Segment;
use tracing::{debug, info, warn};
use vip::Address;

/// How long an owner has to answer a probe. Hosts answer ARP in well under a millisecond; three probes are sent in
/// this time, so that one lost frame decides nothing.
const PROBE_TIME: Duration = Duration::from_millis(250);

/// The pause after a probe that could not be sent.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The pause between two probes while nobody leads: some frames a second are no load, and a start waits no longer.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Probes as long as nobody leads. Ends only when aborted, which may happen at any await: nothing is held.
pub(super) async fn ask_while_nobody_leads(
    interface: String,
    addresses: Vec<Address>,
    election: leader::Handle,
    address: vip::driver::Handle,
) {
    let mut link = address.link_up();
    let mut leadership = election.leadership();
    loop {
        let nobody = |leadership: &Leadership| *leadership == Leadership::Follower { leader: None };
        if link.wait_for(|up| *up).await.is_err() || leadership.wait_for(nobody).await.is_err() {
            return;
        }
        match probe(&interface, &addresses).await {
            Ok(segment) => election.set_segment(segment),
            Err(error) => debug!(%error, interface, "failed to ask the segment for the address's owner"),
        }
        tokio::time::sleep(ASK_AGAIN_AFTER).await;
    }
}

/// Probes until there is an answer to give, then watches for conflicts. Ends only when aborted, which may happen at any
/// await: nothing is held.
pub(super) async fn run(
    interface: String,
    addresses: Vec<Address>,
    election: leader::Handle,
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
                if segment == Segment::Occupied {
                    info!("another host answers for the address: not leading alone");
                }
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
            debug!(address = %address.ip, mac = %vip::Station(mac), "another host answers for the address");
            return Ok(Segment::Occupied);
        }
    }
    Ok(Segment::Free)
}
