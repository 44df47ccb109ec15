//! Which apiserver to ask: this node's own first, then the others, never the virtual address.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

/// A server that failed is left alone for this long: shorter than the restart of an apiserver, long enough not to
/// spend each request's time on one that is gone.
const REST: Duration = Duration::from_secs(5);
/// A control plane has a handful of servers; a list that says otherwise is cut here.
pub(super) const SERVERS_MAX: usize = 32;

/// The servers in the order in which they are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Servers {
    never: BTreeSet<IpAddr>,
    own: SocketAddr,
    /// Those that the configuration names.
    known: Vec<SocketAddr>,
    /// Those that the cluster names.
    discovered: Vec<SocketAddr>,
    /// What the credentials name; it may lead through something that isn't a node.
    named: Option<SocketAddr>,
    resting: Vec<(SocketAddr, Instant)>,
}

impl Servers {
    /// The servers that are known before anything is asked.
    pub(super) fn new(own: SocketAddr, known: &[SocketAddr], never: &BTreeSet<IpAddr>) -> Self {
        let mut known = known.to_vec();
        known.truncate(SERVERS_MAX);
        Self { never: never.clone(), own, known, discovered: Vec::new(), named: None, resting: Vec::new() }
    }

    /// Takes the control-plane nodes' servers as the cluster has them.
    pub(super) fn set_discovered(&mut self, mut servers: Vec<SocketAddr>) {
        servers.truncate(SERVERS_MAX);
        self.discovered = servers;
    }

    /// Takes the server that the credentials name, if it has an address: a name would need DNS, which may need the cluster.
    pub(super) fn set_named(&mut self, named: Option<SocketAddr>) {
        self.named = named;
    }

    /// All of them, the best first: those that haven't failed lately before those that have.
    pub(super) fn order(&self, now: Instant) -> Vec<SocketAddr> {
        let all = [self.own].into_iter().chain(self.known.iter().copied());
        let all = all.chain(self.discovered.iter().copied()).chain(self.named);
        let mut order: Vec<SocketAddr> = Vec::new();
        for server in all {
            if !self.never.contains(&server.ip()) && !order.contains(&server) {
                order.push(server);
            }
        }
        order.truncate(SERVERS_MAX);
        // Stable: among equals the order is as above.
        order.sort_by_key(|server| self.resting_until(*server).filter(|until| now < *until));
        order
    }

    /// Whether a server is left alone for now.
    #[cfg(test)]
    fn is_resting(&self, server: SocketAddr, now: Instant) -> bool {
        self.resting_until(server).is_some_and(|until| now < until)
    }

    fn resting_until(&self, server: SocketAddr) -> Option<Instant> {
        self.resting.iter().find(|(resting, _)| *resting == server).map(|(_, until)| *until)
    }

    /// A server gave no answer, or none that helps.
    pub(super) fn fail(&mut self, server: SocketAddr, now: Instant) {
        self.resting.retain(|(resting, until)| *resting != server && now < *until);
        self.resting.push((server, now + REST));
    }

    /// A server answered.
    pub(super) fn succeed(&mut self, server: SocketAddr) {
        self.resting.retain(|(resting, _)| *resting != server);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 6443))
    }

    fn servers() -> Servers {
        Servers::new(at(1), &[at(2), at(1)], &BTreeSet::from([at(9).ip()]))
    }

    #[expect(clippy::disallowed_methods, reason = "any instant will do as an origin")]
    fn origin() -> Instant {
        Instant::now()
    }

    #[test]
    fn the_own_server_comes_first_then_the_known_then_the_discovered_then_the_one_of_the_credentials() {
        let mut servers = servers();
        servers.set_discovered(vec![at(3), at(2)]);
        servers.set_named(Some(at(4)));
        assert_eq!(servers.order(origin()), [at(1), at(2), at(3), at(4)]);
    }

    #[test]
    fn the_virtual_address_is_never_among_them() {
        let mut servers = servers();
        servers.set_discovered(vec![at(9)]);
        servers.set_named(Some(SocketAddr::new(at(9).ip(), 8443)));
        assert_eq!(servers.order(origin()), [at(1), at(2)]);
    }

    #[test]
    fn a_server_that_failed_rests_behind_the_others_and_comes_back() {
        let mut servers = servers();
        let now = origin();
        servers.fail(at(1), now);
        assert_eq!(servers.order(now), [at(2), at(1)]);
        assert!(servers.is_resting(at(1), now + REST - Duration::from_nanos(1)));
        assert_eq!(servers.order(now + REST), [at(1), at(2)]);
        servers.fail(at(1), now);
        servers.succeed(at(1));
        assert_eq!(servers.order(now), [at(1), at(2)]);
    }

    #[test]
    fn where_all_have_failed_the_one_that_failed_first_is_asked_first() {
        let mut servers = servers();
        let now = origin();
        servers.fail(at(2), now);
        servers.fail(at(1), now + Duration::from_millis(1));
        assert_eq!(servers.order(now + Duration::from_millis(2)), [at(2), at(1)]);
    }

    #[test]
    fn no_list_grows_without_end() {
        let mut servers = servers();
        servers.set_discovered((0..=u8::MAX).map(|n| SocketAddr::from(([10, 0, 1, n], 6443))).collect());
        assert_eq!(servers.order(origin()).len(), SERVERS_MAX);
        for n in 0..=u8::MAX {
            servers.fail(SocketAddr::from(([10, 0, 1, n], 6443)), origin() + REST * u32::from(n));
        }
        assert!(servers.resting.len() <= 2);
    }
}
