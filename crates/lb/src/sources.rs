//! How many connections each client host has, where that is bounded.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The hosts that have connections to one frontend, over all workers.
#[derive(Debug)]
pub(crate) struct Sources {
    most: AtomicUsize,
    /// Only those that have any: bounded by the frontend's limit and the connections that wait for it. Held for a lookup at a time.
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection's place among those of its host, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    sources: Arc<Sources>,
    source: IpAddr,
}

impl Sources {
    pub(crate) fn new(most: NonZeroUsize) -> Self {
        Self { most: AtomicUsize::new(most.get()), open: Mutex::default() }
    }

    /// Changes how many each may have, from its next connection on.
    pub(crate) fn set_most(&self, most: NonZeroUsize) {
        self.most.store(most.get(), Ordering::Relaxed);
    }

    /// A place for a connection from this address; none if its host has as many as it may have.
    pub(crate) fn enter(self: &Arc<Self>, client: IpAddr) -> Option<Place> {
        let source = host(client);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(source).or_insert(0);
        if *count >= self.most.load(Ordering::Relaxed) {
            return None;
        }
        *count += 1;
        Some(Place { sources: Arc::clone(self), source })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.sources.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.source);
            }
        }
    }
}

/// What counts as one host: an IPv4 address; of IPv6 a /64, of which any host of the segment may take every address (RFC 4291 §2.5.4).
fn host(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip) >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_host_has_as_many_as_it_may_have_and_no_trace_of_it_is_left() {
        let sources = Arc::new(Sources::new(NonZeroUsize::new(2).unwrap()));
        let first = sources.enter(ip("10.0.0.1")).unwrap();
        let second = sources.enter(ip("::ffff:10.0.0.1")).unwrap();
        assert!(sources.enter(ip("10.0.0.1")).is_none());
        let other = sources.enter(ip("10.0.0.2")).unwrap();

        drop(first);

        assert!(sources.enter(ip("10.0.0.1")).is_some(), "and that one is dropped at once");
        sources.set_most(NonZeroUsize::MIN);
        assert!(sources.enter(ip("10.0.0.2")).is_none(), "one is the most now, and is there");
        drop((second, other));
        assert!(sources.open.lock().unwrap().is_empty());
    }

    #[test]
    fn a_host_may_have_many_addresses_of_ipv6() {
        let sources = Arc::new(Sources::new(NonZeroUsize::MIN));
        let _first = sources.enter(ip("fd00::1:2:3:4")).unwrap();
        assert!(sources.enter(ip("fd00::ffff:2:3:4")).is_none());
        assert!(sources.enter(ip("fd00:0:0:1::4")).is_some());
    }
}
