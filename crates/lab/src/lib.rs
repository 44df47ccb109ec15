//! Three nodes, a switch and a client in network namespaces of this machine.
//!
//! The lab is the demo, the ground of the fault tests, and the failover benchmark beside keepalived. It touches nothing
//! of the host: see [`isolation`]. What runs where is drawn in [`network`]; the systems under test are in [`system`],
//! the faults and what is measured around them in [`fault`], the protocol for scripts in [`control`].
//!
//! ```text
//! vipd-lab demo                 shows, step by step, what a client sees when things break
//! vipd-lab compare              the same faults for vipd and keepalived in one run
//! vipd-lab storm                faults in a row, drawn from a seed: never two owners, always one again
//! vipd-lab starve               eight busy loops beside it: does the address stay?
//! vipd-lab balance              loads for vipd's balancer, haproxy, nginx and the kernel's DNAT in one run
//! vipd-lab soak                 mixed load for hours while backends come and go: books that add up, flat memory
//! vipd-lab clocks               steps the wall clock of vipd alone: does anything come of it?
//! vipd-lab exec -- CMD ARGS…    runs a command on the client, with the control socket in LAB_SOCKET
//! vipd-lab shell                keeps the lab up and says how to enter its namespaces
//! ```

pub mod arp;
pub mod attack;
pub mod backend;
pub mod balance;
pub mod compare;
pub mod control;
pub mod delay;
pub mod demo;
pub mod endurance;
pub mod fault;
mod inflict;
pub mod isolation;
pub mod journal;
pub mod kubernetes;
pub mod lab;
pub mod namespace;
pub mod network;
pub mod node;
pub mod observer;
pub mod ownership;
pub mod pki;
pub mod prober;
pub mod process;
pub mod soak;
pub mod starve;
pub mod storm;
pub mod system;
mod taken;
pub mod upgrade;
pub mod wall_clock;

#[expect(
    unsafe_code,
    reason = "unshare, pre_exec, sockaddr_ll and options of packet sockets have no checked form; each block says why it holds"
)]
mod sys;
