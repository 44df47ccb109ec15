//! From one configuration to another: which frontend goes on as which, what is bound anew. Nothing of it is in force yet.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Instant;

use crate::config::{Backend, Config, Frontend, Listen};
use crate::forward::Forward;
use crate::frontend::{Bells, Settings, Shared};
use crate::listen::{self, Bound};
use crate::probe::Plan;
use crate::{Error, transparent};

/// A frontend of the configuration in force, and where it listens.
#[derive(Debug)]
pub(crate) struct Station {
    pub(crate) shared: Arc<Shared>,
    pub(crate) listen: Listen,
    /// The addresses that it really listens on, or that the kernel leads to its backends.
    pub(crate) at: Vec<SocketAddr>,
}

impl Station {
    /// The addresses of its sockets.
    pub(crate) fn sockets(&self) -> &[SocketAddr] {
        if self.forward().is_some() { &[] } else { &self.at }
    }

    /// Whether the kernel leads its connections somewhere by tables that belong to this process.
    pub(crate) fn is_tied(&self) -> bool {
        match self.listen {
            Listen::Redirected { .. } | Listen::Forwarded(_) => true,
            Listen::Any { .. } | Listen::Addresses { .. } | Listen::Nowhere => false,
        }
    }

    /// What the kernel leads to its backends, if it does.
    pub(crate) fn forward(&self) -> Option<&Forward> {
        forward(&self.listen)
    }
}

/// What is in force.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    /// In the order of the configuration.
    pub(crate) stations: Vec<Station>,
    /// Frontends that are no part of it any more and have connections.
    pub(crate) leaving: Vec<Arc<Shared>>,
    /// The number that the next new frontend gets.
    next: u64,
    /// Listening sockets of another process, by their address, for the first configuration.
    inherited: Inherited,
}

/// Listening sockets that are there already.
type Inherited = BTreeMap<SocketAddr, Vec<TcpListener>>;

/// A frontend as it is to be.
pub(crate) struct Part {
    pub(crate) station: Station,
    pub(crate) frontend: Frontend,
    pub(crate) settings: Arc<Settings>,
    pub(crate) plan: Plan,
    /// It was none before.
    pub(crate) is_new: bool,
}

/// A checked configuration whose new addresses are bound. Dropped, it leaves everything as it was.
pub(crate) struct Change {
    pub(crate) parts: Vec<Part>,
    /// For each worker, its new listeners.
    pub(crate) listeners: Vec<Vec<TcpListener>>,
}

impl Standing {
    /// Nothing yet, beside listening sockets of another process.
    pub(crate) fn inheriting(listeners: Vec<TcpListener>) -> Self {
        let mut inherited = Inherited::new();
        for listener in listeners {
            // One that has no address is none.
            if let Ok(address) = listener.local_addr() {
                inherited.entry(address).or_default().push(listener);
            }
        }
        Self { inherited, ..Self::default() }
    }

    /// The frontend of each address that is listened on.
    pub(crate) fn posts(&self) -> BTreeMap<SocketAddr, u64> {
        let of = |station: &Station| {
            let id = station.shared.id;
            station.sockets().iter().map(|address| (*address, id)).collect::<Vec<_>>()
        };
        self.stations.iter().flat_map(of).collect()
    }

    /// All frontends, those that are leaving last.
    pub(crate) fn frontends(&self) -> Vec<Arc<Shared>> {
        let present = self.stations.iter().map(|station| &station.shared);
        present.chain(&self.leaving).map(Arc::clone).collect()
    }

    /// Takes the place of what was, and gives the frontends that are no part of it any more.
    pub(crate) fn replace(&mut self, stations: Vec<Station>) -> Vec<Arc<Shared>> {
        let is_there = |shared: &Arc<Shared>| {
            stations.iter().any(|station: &Station| Arc::ptr_eq(&station.shared, shared))
        };
        self.leaving.retain(|shared| !is_there(shared));
        let gone = self.stations.iter().map(|station| &station.shared);
        let gone: Vec<_> = gone.filter(|shared| !is_there(shared)).map(Arc::clone).collect();
        self.leaving.extend(gone.iter().map(Arc::clone));
        self.stations = stations;
        gone
    }

    /// Refuses a configuration in which the kernel leads other connections to backends than it does.
    ///
    /// # Errors
    /// It is one.
    pub(crate) fn refuse_other_forwards(&self, config: &Config) -> Result<(), Error> {
        let running =
            self.stations.iter().filter_map(|station| Some((&station.shared.name, station.forward()?)));
        let wanted = config.frontends.iter().filter_map(|it| Some((&it.name, forward(&it.listen)?)));
        let (mut running, mut wanted): (Vec<_>, Vec<_>) = (running.collect(), wanted.collect());
        // What is on both sides is no change.
        running.retain(|one| match wanted.iter().position(|other| one == other) {
            Some(place) => {
                wanted.swap_remove(place);
                false
            }
            None => true,
        });
        match wanted.first().or_else(|| running.first()) {
            Some((frontend, _)) => Err(Error::OtherForward { frontend: (*frontend).clone() }),
            None => Ok(()),
        }
    }

    /// Checks a configuration, and binds what isn't yet.
    ///
    /// A frontend goes on as the one of its name, the first of that name as the first. An address that the balancer has already is
    /// kept, whichever frontend had it: no connection on its way there is lost.
    ///
    /// # Errors
    /// It can't work, or an address can't be bound. Everything is as before.
    pub(crate) fn prepare(&mut self, config: Config, bells: &Bells, now: Instant) -> Result<Change, Error> {
        config.validate()?;
        refuse_overlaps(&config)?;
        // What of it nobody wants is closed at the end.
        let mut inherited = std::mem::take(&mut self.inherited);
        let posts = self.posts();
        let mut listeners: Vec<Vec<_>> = (0..config.workers).map(|_| Vec::new()).collect();
        let mut namesakes: Vec<_> = self.stations.iter().map(Some).collect();
        let mut leaving: Vec<_> = self.leaving.iter().map(Some).collect();
        let (mut parts, mut next) = (Vec::new(), self.next);
        for mut frontend in config.frontends {
            let plan = Plan::new(&frontend)?;
            if !frontend.transparent_source.is_empty() {
                let error = |source| Error::TransparentSource { frontend: frontend.name.clone(), source };
                transparent::rehearse().map_err(error)?;
            }
            let namesake = take(&mut namesakes, |station| station.shared.name == frontend.name);
            let known = namesake.map(|station| &station.shared);
            let known = known.or_else(|| take(&mut leaving, |shared| shared.name == frontend.name));
            let at = match namesake.filter(|station| station.listen == frontend.listen) {
                Some(station) => station.at.clone(),
                None => at(&frontend, &posts, &mut inherited, &mut listeners)?,
            };
            let before = known.map(|shared| shared.settings());
            let sources = before.as_ref().and_then(|settings| settings.sources.as_ref());
            let settings = Arc::new(Settings::new(&frontend, at.clone(), sources));
            let shared = known.map_or_else(
                || {
                    next += 1;
                    Arc::new(Shared::new(next, &frontend, Arc::clone(&settings), bells.clone(), now))
                },
                Arc::clone,
            );
            let listen = std::mem::replace(&mut frontend.listen, Listen::Nowhere);
            let is_new = known.is_none();
            let station = Station { shared, listen, at };
            parts.push(Part { station, frontend, settings, plan, is_new });
        }
        self.next = next;
        Ok(Change { parts, listeners })
    }
}

/// Refuses two frontends of which one would take the connections of the other.
fn refuse_overlaps(config: &Config) -> Result<(), Error> {
    let mut seen: Vec<SocketAddr> = Vec::new();
    for frontend in &config.frontends {
        let wanted = listen::addresses(&frontend.listen);
        let chosen = |address: &SocketAddr| address.port() != 0;
        let taken = |one: &SocketAddr| {
            seen.iter().any(|other| listen::covers(*one, *other) || listen::covers(*other, *one))
        };
        if wanted.iter().filter(|address| chosen(address)).any(taken) {
            let reason = "another frontend listens on the same address and port";
            return Err(Error::Impossible { frontend: frontend.name.clone(), reason });
        }
        seen.extend(wanted.into_iter().filter(chosen));
    }
    Ok(())
}

/// Takes the first that is so.
fn take<'a, T>(from: &mut [Option<&'a T>], is_meant: impl Fn(&T) -> bool) -> Option<&'a T> {
    from.iter_mut().find(|entry| entry.is_some_and(&is_meant))?.take()
}

/// Where a frontend listens: what it asks for, bound if it isn't, and what it covers that is bound already.
fn at(
    frontend: &Frontend,
    posts: &BTreeMap<SocketAddr, u64>,
    inherited: &mut Inherited,
    listeners: &mut [Vec<TcpListener>],
) -> Result<Vec<SocketAddr>, Error> {
    if let Some(forward) = forward(&frontend.listen) {
        return Ok(forward.addresses());
    }
    let mut at = Vec::new();
    for wanted in listen::addresses(&frontend.listen) {
        if !posts.contains_key(&wanted) {
            let overlaps = |post: &SocketAddr| listen::covers(wanted, *post) || listen::covers(*post, wanted);
            let beside = wanted.port() != 0 && posts.keys().chain(inherited.keys()).any(overlaps);
            let Bound { address, listeners: bound } = match inherited.get_mut(&inheritable(wanted, inherited))
            {
                Some(there) => listen::join(frontend, std::mem::take(there), listeners.len())?,
                None => listen::bind(frontend, wanted, listeners.len(), beside)?,
            };
            at.push(address);
            if posts.contains_key(&address) {
                // That of IPv4 in place of every address, where there is no IPv6.
                continue;
            }
            for (worker, listener) in listeners.iter_mut().zip(bound) {
                worker.push(listener);
            }
        } else {
            at.push(wanted);
        }
        // What comes there goes on coming there, whoever else listens: closed, it would lose what is on its way.
        let covered = posts.keys().filter(|post| **post != wanted && listen::covers(wanted, **post));
        at.extend(covered);
    }
    Ok(at)
}

/// The address under which an inherited socket does what is wanted: every address is that of IPv4, where there is no IPv6.
fn inheritable(wanted: SocketAddr, inherited: &Inherited) -> SocketAddr {
    let every = SocketAddr::from((Ipv6Addr::UNSPECIFIED, wanted.port()));
    let of_ipv4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, wanted.port()));
    if wanted == every && !inherited.contains_key(&every) { of_ipv4 } else { wanted }
}

fn forward(listen: &Listen) -> Option<&Forward> {
    match listen {
        Listen::Forwarded(forward) => Some(forward),
        Listen::Any { .. } | Listen::Addresses { .. } | Listen::Redirected { .. } | Listen::Nowhere => None,
    }
}

impl Part {
    /// Puts it in force, as far as no worker is concerned; gives what is left to do.
    pub(crate) fn put_in_force(self, now: Instant) -> (Station, Plan) {
        let Self { station, mut frontend, settings, plan, .. } = self;
        let shared = &station.shared;
        shared.set_settings(settings, &frontend);
        shared.set_leaving(false);
        let backends: Vec<Backend> = std::mem::take(&mut frontend.backends);
        shared.set_backends(backends, now);
        (station, plan)
    }
}
