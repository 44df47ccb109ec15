//! What this node is, as one line for the service manager: who leads, and what has become of the addresses.

use std::rc::Rc;

use futures_util::future::{join, join_all};
use leader::{Leadership, NodeId};
use tokio::sync::watch;
use vip::State;

use super::owner::Owner;
use super::parts::Parts;
use super::witness::Witness;
use crate::listed;
use crate::service::Service;

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Lead {
    Nobody,
    ThisNode,
    Other(NodeId),
}

/// Where an election and its addresses stand. No state on a witness.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Standing {
    lead: Lead,
    state: Option<State>,
}

/// The watches of one election. Renewals come by often and change nothing here.
struct Seat {
    leadership: watch::Receiver<Leadership>,
    /// None on a witness.
    address: Option<watch::Receiver<State>>,
    /// What is said of it beside its standing.
    name: String,
}

/// Tells the service manager where this node stands.
pub(super) struct Standings {
    service: Rc<Service>,
    seats: Vec<Seat>,
    stopping: watch::Receiver<bool>,
}

impl Standings {
    /// Begins to watch the parts.
    pub(super) fn of(parts: &Parts, service: Rc<Service>) -> Self {
        let owned = parts.owners.iter().map(Seat::of_owner);
        let seats = owned.chain(parts.witnesses.iter().map(Seat::of_witness)).collect();
        Self { service, seats, stopping: parts.stopping.subscribe() }
    }

    /// Says that all is started, then whatever changes, and at last that a stop was asked for. May be cancelled at any time.
    pub(super) async fn follow(mut self) {
        let names: Vec<String> = self.seats.iter().map(|seat| seat.name.clone()).collect();
        let (known, mut seen) = watch::channel(self.seats.iter().map(Seat::standing).collect::<Vec<_>>());
        let known = &known;
        let seats = self.seats.iter_mut().enumerate();
        let watching = join_all(seats.map(|(index, seat)| async move {
            loop {
                let standing = seat.changed().await;
                known.send_modify(|known| known[index] = standing);
            }
        }));
        let service = &self.service;
        let telling = async {
            let mut told = line(&names, &seen.borrow_and_update());
            service.ready(&told).await;
            while seen.changed().await.is_ok() {
                let line = line(&names, &seen.borrow_and_update());
                if line != told {
                    service.status(&line).await;
                    told = line;
                }
            }
        };
        // Both go on until the stop.
        let both = join(watching, telling);
        tokio::select! {
            _ = both => {}
            _ = self.stopping.wait_for(|stopping| *stopping) => service.stopping().await,
        }
    }
}

impl Seat {
    fn of_owner(owner: &Owner) -> Self {
        let name = format!("{} on {}", listed(&owner.addresses), owner.interface);
        Self { leadership: owner.election.leadership(), address: Some(owner.address.state()), name }
    }

    fn of_witness(witness: &Witness) -> Self {
        Self { leadership: witness.election.leadership(), address: None, name: listed(&witness.addresses) }
    }

    fn standing(&self) -> Standing {
        Standing {
            lead: lead(&self.leadership.borrow()),
            state: self.address.as_ref().map(|state| *state.borrow()),
        }
    }

    /// The next standing that differs from the one now. May be cancelled; for ever pending once the parts have ended.
    async fn changed(&mut self) -> Standing {
        let before = self.standing();
        let differs = |now: &Leadership| !is(&before.lead, now);
        let ended = tokio::select! {
            now = self.leadership.wait_for(differs) => now.is_err(),
            now = moved(self.address.as_mut(), before.state) => !now,
        };
        if ended {
            return std::future::pending().await;
        }
        self.standing()
    }
}

/// Waits for another state; false if there will be none. For ever pending where there is no address.
async fn moved(address: Option<&mut watch::Receiver<State>>, before: Option<State>) -> bool {
    match address {
        Some(address) => address.wait_for(|now| Some(*now) != before).await.is_ok(),
        None => std::future::pending().await,
    }
}

fn lead(leadership: &Leadership) -> Lead {
    match leadership {
        Leadership::Leader { .. } => Lead::ThisNode,
        Leadership::Follower { leader: Some(leader) } => Lead::Other(leader.clone()),
        Leadership::Follower { leader: None } => Lead::Nobody,
    }
}

/// Whether it is that lead; without taking memory, as renewals ask it.
fn is(lead: &Lead, leadership: &Leadership) -> bool {
    match (lead, leadership) {
        (Lead::ThisNode, Leadership::Leader { .. })
        | (Lead::Nobody, Leadership::Follower { leader: None }) => true,
        (Lead::Other(known), Leadership::Follower { leader: Some(leader) }) => known == leader,
        (Lead::Nobody | Lead::Other(_), Leadership::Leader { .. })
        | (Lead::ThisNode | Lead::Nobody | Lead::Other(_), Leadership::Follower { .. }) => false,
    }
}

fn line(names: &[String], standings: &[Standing]) -> String {
    if names.is_empty() {
        return "balances only: no virtual address".to_owned();
    }
    let each = names.iter().zip(standings).map(|(name, Standing { lead, state })| {
        let leader = match lead {
            Lead::Nobody => "no leader known".to_owned(),
            Lead::ThisNode => "this node leads".to_owned(),
            Lead::Other(leader) => format!("{leader} leads"),
        };
        let state = match state {
            Some(state) => format!("{state:?}").to_lowercase(),
            None => "witness".to_owned(),
        };
        format!("{leader}, {name}: {state}")
    });
    each.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use leader::Term;

    use super::*;

    fn follower(leader: Option<&str>) -> Leadership {
        Leadership::Follower { leader: leader.map(|name| NodeId::new(name).unwrap()) }
    }

    fn leading(renewal: u64) -> Leadership {
        let until = tokio::time::Instant::now().into_std() + Duration::from_secs(renewal);
        Leadership::Leader { term: Term(1), until }
    }

    #[test]
    fn a_line_names_leader_address_and_state() {
        let name = ["10.0.0.9/24 on eth0".to_owned(), "10.0.0.10/24 on eth0".to_owned()];
        let standing = |leadership: &Leadership, state| Standing { lead: lead(leadership), state };
        let here = standing(&leading(1), Some(State::Active));
        assert_eq!(
            line(&name[..1], std::slice::from_ref(&here)),
            "this node leads, 10.0.0.9/24 on eth0: active"
        );
        let there = standing(&follower(Some("b")), Some(State::Standby));
        assert_eq!(
            line(&name, &[here, there]),
            "this node leads, 10.0.0.9/24 on eth0: active; b leads, 10.0.0.10/24 on eth0: standby"
        );
        let unknown = standing(&follower(None), None);
        assert_eq!(line(&name[..1], &[unknown]), "no leader known, 10.0.0.9/24 on eth0: witness");
        assert_eq!(line(&[], &[]), "balances only: no virtual address");
    }

    #[test]
    fn a_renewal_is_the_same_lead_and_another_node_is_another() {
        let all = [follower(None), follower(Some("b")), follower(Some("c")), leading(1)];
        for (index, one) in all.iter().enumerate() {
            for (other, leadership) in all.iter().enumerate() {
                assert_eq!(is(&lead(one), leadership), index == other, "{one:?} {leadership:?}");
            }
        }
        assert!(is(&lead(&leading(1)), &leading(2)));
    }
}
