//! Who leads? Election of one node among several.
//!
//! # The story
//!
//! Three nodes share an address that one of them may have at a time. There is no disk to remember votes on, no log, and no
//! clock that two of them agree about; only datagrams that get lost, and each node's own monotonic clock.
//!
//! **A vote is a promise with an end.** Each member has one vote. Asked for it, it promises it to the one that asks for a
//! little longer than a lease, and to nobody else in that time, whatever it is told. A member that has the promises of a
//! majority leads. As two majorities have a member in common, and this one has one vote, two members can't lead.
//!
//! **The leader is always the first to know.** A candidate counts its lease from *before* it asks, and a voter its promise
//! from when it is asked, a fifth longer. So a lease is over before the first of the votes behind it is free, as long as
//! the members' clocks run at about the same rate. That needs no message: leading is [a value with an
//! end](Leadership::Leader), and a leader that is cut off is a follower by the passing of time.
//!
//! ```text
//!  candidate   asks            granted by a majority: leads              lease ends
//!              ├───────────────────┼─────────────────────────────────────────┤
//!  voter          ├──────────────────── promised to it ─────────────────────────────┤ free
//!                 asked                                                      ├─guard─┤
//! ```
//!
//! **Heartbeats are renewals.** Some times per lease the leader asks again, in a new round; each round that a majority grants
//! is worth one lease from its own start. The other members send a sign of life, and all of them say in every message how
//! they are ([`message::Gossip`]).
//!
//! **When a leader dies,** the votes become free at about the same time. The best of the living, by eligibility, priority and
//! name, asks first, each of the others a moment later. Before it asks in earnest it canvasses: *would you?* So one that
//! can't win disturbs nobody, and raises no term. If votes split nevertheless, a candidate that can't win gives back at once
//! what it got.
//!
//! **When a leader leaves,** nobody has to wait. It is a follower at once; its owner of the address withdraws that, and
//! confirms it; then the leader releases its term by name and names the best of the living, which asks without a canvass and
//! is granted. That takes as long as four datagrams. One that was told to leave by an operator names whom the operator
//! did; then it rests, and says so: for ten leases it gets the lead from nobody who can hand it to another that is fit.
//!
//! **A process that begins** has forgotten what it promised in an earlier life. It votes for nobody, itself included, until
//! any such promise would be over. For the same reason promises are made to processes and not to nodes: each has a random
//! number, its incarnation.
//!
//! **Recordings** of any of this are worthless. Peers share a key, and a session of two incarnations begins with a proof of
//! life; within it each datagram counts once.
//!
//! # The parts
//!
//! | module | what it is |
//! |---|---|
//! | [`quorum`] | one member as a pure machine: messages and time in, messages and deadlines out |
//! | [`member`] | the same over datagrams: signatures, sessions, and what is wrong with a peer |
//! | [`peers`] | the loop around it: one UDP socket, one task |
//! | [`message`], [`node`] | what is said, and by whom |
//! | [`clients`] | whom the leader serves, told to the others beside the election |
//! | `notes` | what else members tell each other: the program knows what it means |
//!
//! | [`lease`] | a participant in an election by Kubernetes Lease, as a pure machine; it tells its own story |
//! | [`kubernetes`] | the loop around that: a client of the API, one task |
//! | [`clock`] | the time that both loops go by, which goes on while the machine sleeps |
//!
//! Only [`peers`] and [`kubernetes`] know of sockets, clocks and tasks; both are driven by the same [`Handle`]. `tests/contract` has
//! each rule by name, `tests/mutations` breaks each of them once, `tests/model.rs` tries all orders of events of the static peers
//! up to a horizon, and `tests/simulation` tries many of both elections at random.

pub mod clients;
pub mod clock;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod kubernetes;
pub mod lease;
pub mod member;
pub mod message;
pub mod node;
pub mod peers;
pub mod quorum;

pub use handle::Handle;
pub use leadership::Leadership;
pub use node::{NodeId, NodeIdError, Term};
pub use timing::{Timing, TimingError};

mod dice;
mod exchange;
mod handle;
mod leadership;
mod notes;
mod session;
mod timing;
mod wire;
