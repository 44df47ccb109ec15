//! A port that another program has too, such as kube-apiserver's on `*:6443`: nobody else can listen on the virtual IP
//! there, but the kernel can lead to the balancer's own port what comes for it.
//!
//! ```text
//!                          ┌───────────── this host ───────────────┐
//!  client ──▶ VIP:6443 ────┼─ VIP is here? ─yes─▶ VIP:16443 balancer ──▶ backends, NODE:6443
//!  local process ──▶ ──────┼─      │ no                             │
//!                          │       └─▶ goes on to the host that has it
//!  client ──▶ NODE:6443 ───┼─────────────────────▶ *:6443 apiserver │
//!                          └────────────────────────────────────────┘
//!
//!  table inet vipd-10.0.0.162-6443 {        # flags owner: goes with the process that made it, also by SIGKILL
//!    chain balancer { ip daddr 10.0.0.162 tcp dport 6443 fib daddr type local dnat ip to 10.0.0.162:16443 }
//!    chain prerouting { type nat hook prerouting priority dstnat - 10; jump balancer }
//!    chain output { type nat hook output priority -110; jump balancer }
//!  }
//!  table inet vipd-10.0.0.162-6443-flows {  # of no process
//!    chain places { type nat hook prerouting priority dstnat - 10; }
//!    chain memory { meta nfproto ipv4 meta l4proto tcp dnat ip to 127.0.0.1:6443; … }
//!  }
//! ```
//!
//! * Only the port changes. The balancer's socket has the virtual IP as its address, on the standby too
//!   (`IP_FREEBIND`), so nothing new listens on the hosts' own addresses, and flows are known as the virtual IP's.
//! * Whether the virtual IP is here, the kernel's routes say, for every connection anew (`fib`). A move needs nothing
//!   from this program, and what a standby sends to the virtual IP leaves for its owner. A connection that a standby had
//!   begun and that nobody answered ends, when the virtual IP comes to it, at its own apiserver.
//! * What the balancer sends goes to the backends' own addresses, which no rule names.
//! * Only the first packet of a connection meets the rules; the kernel remembers the rest, as long as any rule in it
//!   translates addresses. So the ways to the rules go when the balancer stops accepting, the rules when its last flow
//!   has ended.
//! * A process that is killed closes its files in no order to count on: once the table is gone, the ends of its flows
//!   would leave from a port that no client knows, and a client that says nothing would wait for ever. So that the
//!   kernel goes on remembering, a second table stays that does nothing, until vipd starts or stops here again.
//! * Ten before what others do to destinations: where kube-proxy or a container engine publishes the same port on every
//!   address of the host, the virtual IP's is still ours.
//!
//! What the rules are is pure.

use std::net::{IpAddr, SocketAddr};

use nft::conntrack::Protocol;
use nft::{Attributes, Batch, octets};

use crate::tables::{Names, Tie, WAYS, destination, kernel, to_port};

pub use kernel::Error;

/// The table of one frontend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    names: Names,
    /// The port that clients connect to.
    port: u16,
    /// Where the balancer listens: the addresses are those that clients connect to.
    listen: Vec<SocketAddr>,
}

impl Table {
    /// The table for a port and the balancer's own sockets.
    pub(crate) fn new(port: u16, listen: Vec<SocketAddr>) -> Self {
        Self { names: Names::new(listen.iter().map(SocketAddr::ip), Protocol::Tcp, port), port, listen }
    }

    /// One that leads from nowhere to nowhere, for a rehearsal.
    fn specimen() -> Self {
        let listen = [IpAddr::from([0_u8; 4]), IpAddr::from([0_u16; 8])].map(|ip| SocketAddr::new(ip, 1));
        Self { names: Names::specimen(), port: 1, listen: listen.to_vec() }
    }

    /// Everything, in place of what an earlier process may have left under this name.
    fn install(&self, tie: Tie) -> Batch {
        self.fill(self.names.begin(tie), tie)
    }

    /// Everything, in place of what this process has under this name.
    fn succeed(&self, tie: Tie) -> Batch {
        self.fill(self.names.begin_again(tie), tie)
    }

    fn fill(&self, mut batch: Batch, tie: Tie) -> Batch {
        for listen in &self.listen {
            self.names.rule(&mut batch, WAYS, &rule(listen.ip(), self.port, listen.port()));
        }
        self.names.lead(&mut batch, tie, self.port);
        batch
    }
}

/// A port that is redirected as long as this lives, and not longer than the process.
#[derive(Debug)]
pub(crate) struct Redirect {
    made: kernel::Table,
    table: Table,
}

impl Redirect {
    /// Makes the table, in place of one that an earlier process has left.
    pub(crate) fn install(table: Table) -> Result<Self, Error> {
        let made = kernel::Table::install(&table.names.rules, |tie| table.install(tie).end())?;
        Ok(Self { made, table })
    }

    /// Puts another table of the same name in its place at once, and gives what was.
    ///
    /// # Errors
    /// The kernel refuses it. The one that is there stays.
    pub(crate) fn replace(&mut self, table: Table) -> Result<Table, Error> {
        debug_assert!(self.is_named_as(&table));
        self.made.replace(|tie| table.succeed(tie).end())?;
        Ok(std::mem::replace(&mut self.table, table))
    }

    /// What it leads where.
    pub(crate) fn table(&self) -> &Table {
        &self.table
    }

    /// Whether a table would have its name, and so its place.
    pub(crate) fn is_named_as(&self, table: &Table) -> bool {
        self.table.names == table.names
    }

    /// Name of the table.
    pub(crate) fn name(&self) -> &str {
        &self.table.names.rules
    }

    /// Leads no further connection to the balancer; those that it has go on.
    pub(crate) fn close(&self) {
        self.made.tell(&self.table.names.close());
    }
}

impl Drop for Redirect {
    fn drop(&mut self) {
        self.made.tell(&self.table.names.remove());
    }
}

/// Tries whether the kernel would redirect a port, and changes nothing. False: it would, and would not tie it to the life
/// of the process.
///
/// # Errors
///
/// Those of doing it.
pub fn rehearse() -> Result<bool, Error> {
    let table = Table::specimen();
    kernel::rehearse(&table.names.rules, |tie| table.install(tie).rehearsal())
}

/// TCP to this port of this address, while the address is this host's, goes to the other port.
fn rule(ip: IpAddr, port: u16, to: u16) -> Attributes {
    let (offset, length) = destination(ip);
    to_port(ip, Protocol::Tcp, port, |packets| {
        packets.load_header(nft::Header::Network, offset, length).must_equal(&octets(ip))
    })
    .lead_to(ip, to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nft::Step;

    #[test]
    fn every_message_of_a_batch_is_whole_and_known_by_its_number() {
        let listen = ["10.0.0.9:16443", "[fd00::9]:16444"].map(|at| at.parse().unwrap());
        let batch = Table::new(6443, listen.to_vec()).install(Tie::Owned).end();

        let mut rest = batch.bytes();
        let mut steps = Vec::new();
        while let Some((length, _)) = rest.split_first_chunk::<4>() {
            let length = usize::try_from(u32::from_ne_bytes(*length)).unwrap();
            let (message, others) = rest.split_at(length);
            assert!(length >= 20 && length.is_multiple_of(4));
            let sequence = u32::from_ne_bytes(message[8..12].try_into().unwrap());
            steps.push(batch.step(sequence).unwrap());
            rest = others;
        }

        let table = [&[Step::Frame][..], &[Step::Replace; 4], &[Step::Table]].concat();
        let redirect = [Step::Chain, Step::Rule, Step::Rule];
        let hooked = [Step::Chain, Step::Rule, Step::Chain, Step::Rule];
        let flows = [Step::Table, Step::Chain, Step::Chain, Step::Rule, Step::Rule];
        assert_eq!(steps, [&table[..], &redirect, &hooked, &flows, &[Step::Frame]].concat());
        assert_eq!(batch.step(u32::try_from(steps.len()).unwrap()), None);
    }
}
