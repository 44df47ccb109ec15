//! Looks at the segment for an election between two: does the tie-break answer, and has anybody the address?
//!
//! While the other host is silent the election asks for looks, one after the other; what each has shown is told to it, and to nobody
//! else. Otherwise one look now and then is enough to say, before it matters, whether the tie-break answers.

use std::net::IpAddr;
use std::time::Duration;

use leader::clock::asleep;
use leader::quorum::{Arbitration, Sight};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};
use vip::lookout::Look;
use vip::probe::Watch;

use crate::config::TieBreak;

/// How often the tie-break is asked while its vote isn't needed: often enough that an operator sees a dead one, and no load.
const IDLE_INTERVAL: Duration = Duration::from_secs(5);

/// How long such a look lasts.
const IDLE_LOOK: Duration = Duration::from_millis(250);

/// What is known of the tie-break.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// What the configuration calls it.
    pub(crate) rule: TieBreak,
    /// Its address; none while there is no default route.
    pub(crate) address: Option<IpAddr>,
    /// Whether it answered when it was asked last.
    pub(crate) answers: Option<bool>,
}

/// The eyes of an election.
pub(super) struct Eyes {
    pub(super) interface: String,
    pub(super) addresses: Vec<vip::Address>,
    pub(super) rule: TieBreak,
    pub(super) election: leader::Handle,
    pub(super) arbitration: watch::Receiver<Arbitration>,
    pub(super) known: watch::Sender<Known>,
}

impl Eyes {
    /// Looks whenever it is asked to. Ends only when aborted, which may happen at any await: nothing is held.
    pub(super) async fn run(mut self) {
        let mut watch: Option<Watch> = None;
        let mut idle_at = Instant::now();
        loop {
            let looks = self.arbitration.borrow_and_update().looks;
            let idle = idle_at <= Instant::now();
            if looks.is_some() || idle {
                if idle {
                    // The router may have become another, and the interface may have been made anew.
                    idle_at = Instant::now() + IDLE_INTERVAL;
                    watch = self.open(watch).await;
                }
                let look = match &mut watch {
                    Some(watch) => watch.look(looks.unwrap_or(IDLE_LOOK)).await,
                    // Nothing to look with: tried again when the next idle look is due.
                    None => {
                        self.wait(idle_at, looks).await;
                        continue;
                    }
                };
                match look {
                    Ok(look) => self.tell(look, looks.is_some()).await,
                    Err(error) => {
                        debug!(%error, "failed to look at the segment");
                        watch = None;
                        idle_at = Instant::now() + IDLE_LOOK;
                    }
                }
            } else {
                self.wait(idle_at, looks).await;
            }
        }
    }

    /// Waits until the next idle look, or until looks are asked for that weren't. May be cancelled.
    async fn wait(&mut self, until: Instant, looks: Option<Duration>) {
        tokio::select! {
            () = sleep_until(until) => {}
            changed = self.arbitration.wait_for(|now| now.looks != looks) => {
                if changed.is_err() {
                    // The election has ended, and whoever runs this is about to abort it.
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    /// Sockets to look with: those that there are, while the tie-break is the same.
    async fn open(&self, present: Option<Watch>) -> Option<Watch> {
        let address = match self.rule {
            TieBreak::Address(ip) => Some(ip),
            TieBreak::Gateway => gateway(&self.interface, &self.addresses).await,
        };
        let changed = self.known.send_if_modified(|known| {
            let answers = known.answers.filter(|_| known.address == address);
            let news = known.address != address;
            (known.address, known.answers) = (address, answers);
            news
        });
        let Some(ip) = address else {
            if changed {
                warn!(
                    interface = self.interface,
                    "no default route leads over the interface: there is no tie-break"
                );
            }
            return None;
        };
        if changed {
            info!(tie_break = %ip, interface = self.interface, "decides between the two hosts when one of them is silent");
        } else if present.is_some() {
            return present;
        }
        let virtual_ips: Vec<IpAddr> = self.addresses.iter().map(|address| address.ip).collect();
        match Watch::open(&self.interface, &virtual_ips, ip, asleep).await {
            Ok(watch) => Some(watch),
            Err(error) => {
                debug!(%error, interface = self.interface, "failed to open sockets to look at the segment");
                None
            }
        }
    }

    /// Tells the election, by whose clock it was asked.
    async fn tell(&self, look: Look, asked_for: bool) {
        let Look { asked, answered, owner, contested, whole } = look;
        if asked_for {
            let sight = Sight { asked, answered: answered && whole, owned: owner.is_some(), contested };
            self.election.saw(sight).await;
        }
        let changed = self.known.send_if_modified(|known| {
            let before = known.answers.replace(answered);
            before != Some(answered)
        });
        if changed && !answered {
            let known = self.known.borrow().address.map(|ip| ip.to_string());
            warn!(
                tie_break = known,
                "the tie-break does not answer: while it is so, neither host leads without the other"
            );
        } else if changed {
            debug!("the tie-break answers");
        }
    }
}

/// The router of the default route over this interface, of the family of the first address where there is one.
pub(crate) async fn gateway(interface: &str, addresses: &[vip::Address]) -> Option<IpAddr> {
    let prefer_ipv4 = addresses.first().is_none_or(|address| address.ip.is_ipv4());
    let found = vip::linux::default_gateway(interface, prefer_ipv4).await;
    found.unwrap_or_else(|error| {
        debug!(%error, interface, "failed to look up the router");
        None
    })
}
