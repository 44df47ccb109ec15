//! DNS names in place of virtual addresses: resolved at start, and looked at again while vipd runs.
//!
//! The system's resolver is asked, on a thread that may block. An address that is held never depends on an answer: a
//! change is told, and takes effect when vipd is restarted.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::{info, warn};

/// The pause before a name that has no address is asked for again.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// How often names are looked at again: name servers keep records for minutes.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Chooses among the addresses of a name.
type Choose = Box<dyn Fn(&[IpAddr]) -> Vec<IpAddr>>;

/// A name whose addresses are virtual ones.
pub(super) struct Followed {
    /// The name.
    pub(super) name: String,
    /// Those of its addresses that were taken.
    pub(super) chosen: Vec<IpAddr>,
    /// The rule by which they were.
    pub(super) choose: Choose,
}

/// The addresses of a name, once there are some that will do; until then one line tells what is waited for.
///
/// May be cancelled: nothing is held.
pub(super) async fn resolve(name: &str, will_do: impl Fn(&[IpAddr]) -> bool) -> Vec<IpAddr> {
    let mut told = false;
    loop {
        let reason = match addresses(name).await {
            Ok(found) if will_do(&found) => {
                info!(name, addresses = join(&found), "the name of the virtual address resolves");
                return found;
            }
            Ok(found) => format!("none of its addresses ({}) is of the kind that is asked for", join(&found)),
            Err(error) => error.to_string(),
        };
        if !std::mem::replace(&mut told, true) {
            warn!(
                name,
                reason, "the name of the virtual address does not resolve: asking again until it does"
            );
        }
        sleep(RETRY_AFTER).await;
    }
}

/// Looks at the names again and again, and tells when the address of one has changed. Ends only when aborted, which may
/// happen at any await: nothing is held.
pub(super) async fn follow(mut names: Vec<Followed>) {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick is at once, and the names were resolved just now.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        for followed in &mut names {
            // A name server that doesn't answer changes nothing.
            let Ok(found) = addresses(&followed.name).await else { continue };
            if let Some(chosen) = change(followed, &found) {
                let (name, before, now) = (&followed.name, join(&followed.chosen), join(&chosen));
                warn!(
                    name,
                    before,
                    now,
                    "the name of the virtual address has another address now: restart vipd to use it"
                );
                followed.chosen = chosen;
            }
        }
    }
}

/// The addresses that would be taken now, where they are others. With several records, name servers change the order:
/// as long as those that were taken are among them, nothing has changed.
fn change(followed: &Followed, found: &[IpAddr]) -> Option<Vec<IpAddr>> {
    let chosen = (followed.choose)(found);
    let still = !followed.chosen.is_empty() && followed.chosen.iter().all(|ip| found.contains(ip));
    (!chosen.is_empty() && !still).then_some(chosen)
}

async fn addresses(name: &str) -> io::Result<Vec<IpAddr>> {
    let mut found: Vec<IpAddr> = Vec::new();
    for address in tokio::net::lookup_host((name, 0)).await? {
        if !found.contains(&address.ip()) {
            found.push(address.ip());
        }
    }
    Ok(found)
}

fn join(ips: &[IpAddr]) -> String {
    ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(text: &str) -> Vec<IpAddr> {
        text.split(' ').filter_map(|ip| ip.parse().ok()).collect()
    }

    fn followed(chosen: &str) -> Followed {
        let choose = Box::new(|found: &[IpAddr]| found.iter().copied().take(1).collect());
        Followed { name: "vip.example".to_owned(), chosen: ips(chosen), choose }
    }

    #[test]
    fn a_name_has_changed_when_the_address_that_was_taken_is_gone() {
        let followed = followed("10.0.0.40");
        assert_eq!(change(&followed, &ips("10.0.0.40")), None);
        assert_eq!(change(&followed, &ips("10.0.0.41 10.0.0.40")), None, "only the order has changed");
        assert_eq!(change(&followed, &ips("")), None, "no records are no new address");
        assert_eq!(change(&followed, &ips("10.0.0.41")), Some(ips("10.0.0.41")));
    }

    #[tokio::test]
    async fn a_name_that_the_system_knows_resolves() {
        let found = resolve("localhost", |found| !found.is_empty()).await;
        assert!(found.iter().all(IpAddr::is_loopback), "{found:?}");
    }
}
