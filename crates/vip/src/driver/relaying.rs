//! The driver's part in passing on what still comes for addresses that were given up.

use super::{Driver, State};
use crate::address::Mac;
use crate::network::Network;
use crate::relay::Errand;
use std::time::Instant;

impl<N: Network> Driver<N> {
    /// Begins to catch frames, where addresses that are held are about to be given up by word: the lease is taken back while it
    /// lives and the link is up. A lease that has run out is another matter, since somebody else may have the addresses by now.
    ///
    /// To be called before anything is given up, so that no frame is lost in between.
    pub(super) fn begin_to_relay(&mut self, now: Instant) {
        // Without announcements a successor would never be known.
        let wanted = self.config.relay && self.config.announce;
        if wanted && self.ownership.state(now) == State::Active {
            self.farewell.begin(now);
            self.relay(now);
        }
    }

    /// Takes the news that another station announces the addresses as its own.
    pub(super) fn hear_of_successor(&mut self, mac: Mac, now: Instant) {
        if self.farewell.errand(now).is_some() {
            self.farewell.handle_claim(mac, now);
            self.relay(now);
        }
    }

    /// Ends it, if it goes on: before an address is held anew, and when the link is gone.
    pub(super) fn end_relaying(&mut self, now: Instant) {
        if self.farewell.poll_timeout(now).is_some() {
            self.farewell.end();
            self.relay(now);
        }
    }

    /// Ends it when its time is over, and connections' respite before.
    pub(super) fn look_at_relaying(&mut self, now: Instant) {
        if self.farewell.errand(now).is_none() {
            self.end_relaying(now);
        }
        self.telling.parting(self.farewell.spares(now));
    }

    /// Whether frames are still caught.
    pub(super) fn is_relaying(&self, now: Instant) -> bool {
        self.farewell.errand(now).is_some()
    }

    fn relay(&mut self, now: Instant) {
        // The network counts by the runtime's clock.
        let errand = self.farewell.errand(now);
        let errand = errand.map(|errand| Errand { until: self.clock.due(errand.until).into_std(), ..errand });
        if let Err(error) = self.network.relay(errand) {
            // The move goes on without: a client whose first packet is lost sends it again.
            self.farewell.end();
            self.telling.failed(&error, now);
        }
        self.telling.parting(self.farewell.spares(now));
    }
}
