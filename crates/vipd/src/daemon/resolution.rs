//! Backends that are known by DNS names: looked up at start, and again and again while vipd runs.
//!
//! The system's resolver is asked, on threads that may block. Each address of a name is a backend. What has been heard once stays until
//! something else is heard: a name server that is silent, or knows the name no more, takes no backend away.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{Semaphore, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{info, warn};

use super::own::Own;
use crate::config::{Balancer, Listed, Named};
use crate::listed;

/// From one look at all names to the next.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The same while a name has had no address yet.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// An answer that takes longer is none; the thread that waits for it may wait on, by the resolver's own rules.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a start, or a changed file, waits for names that have no address yet: it goes on without them.
const FIRST_PATIENCE: Duration = Duration::from_secs(2);

/// Names that are asked for at one time. Each takes a thread.
const LOOKUPS: usize = 8;

/// What is known of names. Of the event loop alone.
pub(super) struct Resolution {
    /// The load balancers that are in force, and their own addresses.
    wanted: watch::Sender<Wanted>,
    /// The addresses of each name, as heard last.
    known: RefCell<BTreeMap<String, Vec<IpAddr>>>,
    /// The names that had no answer the last time, which was told.
    failing: RefCell<BTreeSet<String>>,
    /// One permit per lookup that may still begin.
    room: Arc<Semaphore>,
}

/// What is wanted, by the load balancer's name.
type Wanted = BTreeMap<String, (Vec<Listed>, Own)>;

impl Resolution {
    /// Looks up the names of a balancer that is about to start, and gives it the backends that are found in time.
    pub(super) async fn begin(balancer: Option<&mut Balancer>) -> Rc<Self> {
        let this = Self {
            wanted: watch::Sender::default(),
            known: RefCell::default(),
            failing: RefCell::default(),
            room: Arc::new(Semaphore::new(LOOKUPS)),
        };
        if let Some(balancer) = balancer {
            let wanted = this.fill(balancer).await;
            this.want(wanted);
        }
        Rc::new(this)
    }

    /// Gives a balancer's configuration, which isn't in force yet, the backends that its names lead to. Names of which nothing is known are
    /// looked up before, for a moment.
    ///
    /// May be cancelled: nothing but what was heard is kept.
    pub(super) async fn fill(&self, balancer: &mut Balancer) -> WantedNames {
        let named = std::mem::take(&mut balancer.named);
        self.forget_all_but(hosts(&named).map(str::to_owned).chain(self.hosts()).collect());
        let unknown = hosts(&named).filter(|host| !self.known.borrow().contains_key(*host));
        let unknown: BTreeSet<String> = unknown.map(str::to_owned).collect();
        self.look(unknown, Instant::now() + FIRST_PATIENCE).await;
        let mut wanted = Wanted::new();
        for frontend in &mut balancer.config.frontends {
            if let Some(listed) = named.get(&frontend.name) {
                let own = Own::of(frontend);
                frontend.backends = backends(listed, &own, &self.known.borrow());
                wanted.insert(frontend.name.clone(), (listed.clone(), own));
            }
        }
        WantedNames(wanted)
    }

    /// Follows these names from now on.
    pub(super) fn want(&self, WantedNames(wanted): WantedNames) {
        self.wanted.send_replace(wanted);
        self.forget_all_but(self.hosts());
    }

    /// The tables are no longer than the file.
    fn forget_all_but(&self, wanted: BTreeSet<String>) {
        self.known.borrow_mut().retain(|host, _| wanted.contains(host));
        self.failing.borrow_mut().retain(|host| wanted.contains(host));
    }

    /// Looks at the names again and again. Ends only when aborted, which may happen at any await: nothing is held.
    pub(super) async fn follow(self: Rc<Self>, balancer: lb::BackendsHandle) {
        let mut wanted = self.wanted.subscribe();
        loop {
            let hosts = self.hosts();
            if hosts.is_empty() {
                if wanted.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let all_known = hosts.iter().all(|host| self.known.borrow().contains_key(host));
            sleep(if all_known { LOOK_EVERY } else { RETRY_AFTER }).await;
            self.look(self.hosts(), Instant::now() + PATIENCE).await;
            self.tell(&balancer);
        }
    }

    /// Gives the load balancers their backends, as far as they are known.
    pub(super) fn tell(&self, balancer: &lb::BackendsHandle) {
        for (frontend, (listed, own)) in &*self.wanted.borrow() {
            let backends = backends(listed, own, &self.known.borrow());
            if let Err(error) = balancer.set(frontend, backends) {
                warn!(%error, frontend, "the addresses of names can't be its backends; those it has stay");
            }
        }
    }

    /// The names that are followed.
    fn hosts(&self) -> BTreeSet<String> {
        let wanted = self.wanted.borrow();
        let listed = wanted.values().flat_map(|(listed, _)| listed);
        listed.filter_map(host).map(str::to_owned).collect()
    }

    /// Looks these names up, and keeps what is heard until the deadline.
    async fn look(&self, hosts: BTreeSet<String>, deadline: Instant) {
        let lookups = hosts.iter().map(|host| async move { (host, self.look_up(host, deadline).await) });
        for (host, found) in join_all(lookups).await {
            self.hear(host, found);
        }
    }

    async fn look_up(&self, host: &str, deadline: Instant) -> io::Result<Vec<IpAddr>> {
        let late = || io::Error::new(io::ErrorKind::TimedOut, "no answer in time");
        let room = timeout_at(deadline, Arc::clone(&self.room).acquire_owned()).await.map_err(|_| late())?;
        let name = host.to_owned();
        let lookup = spawn_blocking(move || {
            let found = addresses(&name);
            // However long it takes, no other takes its thread.
            drop(room);
            found
        });
        timeout_at(deadline, lookup).await.map_err(|_| late())??
    }

    fn hear(&self, host: &str, found: io::Result<Vec<IpAddr>>) {
        match found {
            Ok(found) => {
                if self.failing.borrow_mut().remove(host) {
                    info!(name = host, addresses = listed(&found), "the name of a backend resolves");
                }
                self.known.borrow_mut().insert(host.to_owned(), found);
            }
            Err(error) => {
                if !self.failing.borrow_mut().insert(host.to_owned()) {
                    return;
                }
                match self.known.borrow().get(host) {
                    Some(known) => {
                        let addresses = listed(known);
                        warn!(name = host, %error, addresses, "the name of a backend does not resolve any more: its addresses stay");
                    }
                    None => {
                        warn!(name = host, %error, "the name of a backend does not resolve: asking again until it does");
                    }
                }
            }
        }
    }
}

/// Names that are to be followed once their balancer is in force.
pub(super) struct WantedNames(Wanted);

/// Looks one name up, for a check.
///
/// # Errors
/// The resolver's; or it has not answered in time.
pub(crate) async fn look_up(host: &str) -> io::Result<Vec<IpAddr>> {
    let host = host.to_owned();
    let lookup = spawn_blocking(move || addresses(&host));
    timeout(PATIENCE, lookup).await.map_err(|_| io::ErrorKind::TimedOut)??
}

/// The addresses of a name, in an order of their own: name servers change theirs from answer to answer.
fn addresses(host: &str) -> io::Result<Vec<IpAddr>> {
    let found: BTreeSet<IpAddr> =
        (host, 0).to_socket_addrs()?.map(|address| address.ip().to_canonical()).collect();
    let found: Vec<_> = found.into_iter().filter(|ip| !ip.is_unspecified() && !ip.is_multicast()).collect();
    if found.is_empty() {
        return Err(io::Error::other("it has no address of a host"));
    }
    Ok(found)
}

fn hosts(named: &Named) -> impl Iterator<Item = &str> {
    named.values().flatten().filter_map(host)
}

/// The name that is looked up.
pub(crate) fn host(listed: &Listed) -> Option<&str> {
    match listed {
        Listed::Known(_) => None,
        Listed::Named { host, .. } => Some(host),
    }
}

/// The backends of a load balancer, in the order of the file; each address once.
fn backends(listed: &[Listed], own: &Own, known: &BTreeMap<String, Vec<IpAddr>>) -> Vec<lb::Backend> {
    let mut backends: Vec<lb::Backend> = Vec::new();
    for listed in listed {
        let found = match listed {
            Listed::Known(backend) => vec![backend.clone()],
            Listed::Named { name, host, port } => {
                let ips = known.get(host).map(Vec::as_slice).unwrap_or_default();
                let addresses = ips.iter().map(|ip| SocketAddr::new(*ip, *port));
                let backend = |address| lb::Backend { name: name.clone(), address, cordoned: false };
                addresses.filter(|address| !own.contains(*address)).map(backend).collect()
            }
        };
        for backend in found {
            if backends.iter().all(|other| other.address != backend.address) {
                backends.push(backend);
            }
        }
    }
    backends
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(host: &str) -> Listed {
        Listed::Named { name: host.to_owned(), host: host.to_owned(), port: 6443 }
    }

    fn shown(listed: &[Listed], known: &[(&str, &[&str])]) -> Vec<String> {
        let ips = |ips: &[&str]| ips.iter().map(|ip| ip.parse().unwrap()).collect();
        let known = known.iter().map(|(host, found)| ((*host).to_owned(), ips(found))).collect();
        let own = Own::at(&["10.0.0.40"], &[6443, 16443]);
        let backends = backends(listed, &own, &known).into_iter();
        backends.map(|backend| format!("{} {}", backend.name, backend.address)).collect()
    }

    #[test]
    fn each_address_of_a_name_is_a_backend_and_each_address_is_one_once() {
        let address = "10.0.0.1:6443".parse().unwrap();
        let known = Listed::Known(lb::Backend { name: "first".to_owned(), address, cordoned: false });
        let listed = [named("b"), known, named("c"), named("unknown")];

        let found =
            shown(&listed, &[("b", &["10.0.0.2", "fd00::2"]), ("c", &["10.0.0.1", "10.0.0.2", "10.0.0.3"])]);

        assert_eq!(found, ["b 10.0.0.2:6443", "b [fd00::2]:6443", "first 10.0.0.1:6443", "c 10.0.0.3:6443"]);
        assert_eq!(shown(&[named("b")], &[]), [""; 0]);
    }

    #[test]
    fn a_name_that_leads_back_to_the_load_balancer_is_none_of_its_backends() {
        let found = shown(&[named("api")], &[("api", &["10.0.0.1", "10.0.0.40"])]);
        assert_eq!(found, ["api 10.0.0.1:6443"]);
    }

    #[tokio::test]
    async fn what_was_heard_once_stays_until_something_else_is_heard() {
        let resolution = Resolution::begin(None).await;
        let ips = |text: &str| vec![text.parse::<IpAddr>().unwrap()];
        let failure = || Err(io::Error::other("SERVFAIL"));
        let known = || resolution.known.borrow().get("a").cloned();

        resolution.hear("a", failure());
        assert_eq!(known(), None);
        resolution.hear("a", Ok(ips("10.0.0.1")));
        resolution.hear("a", failure());
        assert_eq!(known(), Some(ips("10.0.0.1")));
        resolution.hear("a", Ok(ips("10.0.0.2")));
        assert_eq!(known(), Some(ips("10.0.0.2")));
        // Nobody wants it any more.
        resolution.want(WantedNames(Wanted::new()));
        assert_eq!(known(), None);
    }

    #[tokio::test]
    async fn a_name_that_the_system_knows_is_looked_up() {
        let resolution = Resolution::begin(None).await;
        let found = resolution.look_up("localhost", Instant::now() + Duration::from_secs(20)).await.unwrap();
        assert!(found.iter().all(IpAddr::is_loopback) && !found.is_empty(), "{found:?}");
    }
}
