//! Backends that the API tells where no election asks it: the apiservers by their own word, for a vipd that only balances.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use leader::kubernetes::{Access, Discovery, Endpoints};
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_local};
use tracing::{info, warn};

use super::own::Own;
use crate::config::Balancer;
use crate::listed;

/// What the load balancers are told of the apiservers. Of the event loop alone.
pub(super) struct ApiBackends {
    /// The frontends whose backends are discovered.
    discovered: RefCell<Discovered>,
    known: watch::Receiver<Endpoints>,
}

/// The frontends whose backends are discovered, by name: what they had beforehand, and their own addresses, which an apiserver that
/// has nothing better may call its own.
pub(super) type Discovered = BTreeMap<String, (Vec<lb::Backend>, Own)>;

impl ApiBackends {
    /// Begins to ask, and gives the balancer, which is about to start, what was remembered.
    pub(super) fn start(access: Access, balancer: &mut Balancer) -> (Rc<Self>, JoinHandle<()>) {
        let agent = format!("vipd/{}", env!("CARGO_PKG_VERSION"));
        let (discovery, known) = Discovery::new(access, &agent);
        let this = Self { discovered: RefCell::default(), known };
        let discovered = this.fill(balancer);
        this.discover(discovered);
        // On the threads of the runtime, of which there is one.
        (Rc::new(this), spawn_local(discovery.run()))
    }

    /// Gives a configuration of the balancer, which isn't in force yet, the backends as they are known now.
    pub(super) fn fill(&self, balancer: &mut Balancer) -> Discovered {
        let mut discovered = Discovered::new();
        for frontend in &mut balancer.config.frontends {
            if balancer.discovered.contains_key(&frontend.name) {
                let before = std::mem::take(&mut frontend.backends);
                let own = Own::of(frontend);
                frontend.backends = backends(&self.known.borrow(), &before, &own);
                discovered.insert(frontend.name.clone(), (before, own));
            }
        }
        discovered
    }

    /// Notes whose backends are discovered from now on.
    pub(super) fn discover(&self, discovered: Discovered) {
        self.discovered.replace(discovered);
    }

    /// Follows what is known. Ends only when aborted, which may happen at any await: nothing is held.
    pub(super) async fn follow(self: Rc<Self>, balancer: lb::BackendsHandle) {
        let mut known = self.known.clone();
        while known.changed().await.is_ok() {
            info!(
                apiservers = listed(&known.borrow_and_update().apiservers),
                "the apiservers of the cluster"
            );
            self.tell(&balancer);
        }
    }

    /// Gives the load balancers their backends.
    pub(super) fn tell(&self, balancer: &lb::BackendsHandle) {
        for (frontend, (before, own)) in &*self.discovered.borrow() {
            let backends = backends(&self.known.borrow(), before, own);
            if let Err(error) = balancer.set(frontend, backends) {
                warn!(%error, frontend, "the apiservers can't be its backends; those it has stay");
            }
        }
    }
}

/// The apiservers; while none is known, what was there beforehand. One keeps the name that the file gives it.
fn backends(known: &Endpoints, before: &[lb::Backend], own: &Own) -> Vec<lb::Backend> {
    let found: Vec<lb::Backend> = known
        .apiservers
        .iter()
        .filter(|address| !own.contains(**address))
        .map(|address| {
            let named = before.iter().find(|backend| backend.address == *address);
            let name = named.map_or_else(|| address.to_string(), |backend| backend.name.clone());
            lb::Backend { name, address: *address, cordoned: false }
        })
        .collect();
    if found.is_empty() { before.to_vec() } else { found }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn the_apiservers_are_the_backends_and_until_they_are_known_those_of_the_file() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let before =
            [lb::Backend { name: "first".to_owned(), address: address("10.0.0.1:6443"), cordoned: false }];
        let own = Own::at(&["10.0.0.9"], &[6443]);
        let shown = |known: &[&str]| -> Vec<String> {
            let known = Endpoints { apiservers: known.iter().map(|text| address(text)).collect() };
            let found = backends(&known, &before, &own).into_iter();
            found.map(|backend| format!("{} {}", backend.name, backend.address)).collect()
        };

        assert_eq!(shown(&[]), ["first 10.0.0.1:6443"]);
        assert_eq!(
            shown(&["10.0.0.1:6443", "10.0.0.2:6443", "10.0.0.9:6443"]),
            ["first 10.0.0.1:6443", "10.0.0.2:6443 10.0.0.2:6443"]
        );
        assert_eq!(shown(&["10.0.0.9:6443"]), ["first 10.0.0.1:6443"], "it is none of its own backends");
    }
}
