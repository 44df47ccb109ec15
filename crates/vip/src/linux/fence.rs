//! The dead-man switch: the kernel answers for an address only while a lease lives that is renewed again and again.
//!
//! ```text
//!  table inet vipd-fence-10.0.0.162 {      # of no process: it has to outlive this one
//!    set armed { type ipv4_addr; flags timeout; elements = { 10.0.0.162 timeout 150ms expires 120ms } }
//!    chain input { type filter hook input priority filter; ip daddr 10.0.0.162 ip daddr != @armed drop }
//!  }
//!  table arp vipd-fence-10.0.0.162 {
//!    set armed { type ipv4_addr; flags timeout; elements = { 10.0.0.162 timeout 150ms expires 120ms } }
//!    chain output { type filter hook output priority filter; arp saddr ip 10.0.0.162 arp saddr ip != @armed drop }
//!  }
//!  table inet vipd-fence-fd00--162 {
//!    ...
//!    chain output { ...; icmpv6 type nd-neighbor-advert icmpv6 taddr fd00::162 icmpv6 taddr != @armed drop }
//!  }
//! ```
//!
//! * Each renewal of the lease puts the element in anew, to the lease's end. Whoever is killed, stopped or starved puts
//!   none in, and the host falls silent with nobody acting; the address itself follows by its lifetime of whole seconds.
//! * What is asked passes: a standby, and a fenced owner, may look for whoever has the address now, and learn of it.
//!   So nothing is dropped of ARP and neighbour discovery that comes in; there is no answer that does not go out.
//! * The frames of this program's own announcements go past nf_tables; its driver looks at the lease before each.
//! * Who changes nf_tables waits for whoever changes it already, which on a host with many services can take long: so a
//!   thread of its own does it, and the loop that renews leases does not wait.
//! * A fence that somebody takes away stops nobody from answering. It is back with the next renewal.

mod tables;

use crate::address::Address;
use crate::clock::Clock;
use nft::{Refusal, Socket, Step};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::io;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tables::{Renewal, Tables, milliseconds};
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

/// Why the kernel has no fence. What was there under its name may be there still.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FenceError {
    /// The kernel was built, or booted, without a part that is needed.
    #[error("this kernel has no {missing}")]
    Unsupported {
        /// Which part, with the name of its setting.
        missing: &'static str,
    },
    /// The kernel refused for another reason; for `PermissionDenied` it is the capability `NET_ADMIN` that is missing.
    #[error("the kernel refused the nftables {what}")]
    Refused {
        /// What it refused.
        what: &'static str,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// No thread could be had for it.
    #[error("failed to start the thread of the fence")]
    Thread(#[source] io::Error),
}

/// Tries whether the kernel would take a fence, and changes nothing.
///
/// # Errors
///
/// Those of raising one.
pub fn rehearse_fence() -> Result<(), FenceError> {
    let socket = Socket::open().map_err(meaning)?;
    socket.exchange(&Tables::specimen().install(Some(1)).rehearsal()).map_err(meaning)
}

/// The fence of some addresses in the kernel, and the thread that keeps it.
///
/// When this is dropped, it goes, unless an address may be there still: then it stays and keeps that one silent.
#[derive(Debug)]
pub(super) struct Fence {
    /// Taken at the end: it is how the thread knows.
    wish: Option<watch::Sender<Wish>>,
    done: watch::Receiver<Done>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread has come to.
#[derive(Clone, Copy, Debug)]
struct Done {
    /// Of the last wish that was carried out.
    number: u64,
    /// Whether the kernel has it.
    is_there: bool,
}

/// How the fence should be.
#[derive(Clone, Debug, Default)]
struct Wish {
    /// Counts the wishes.
    number: u64,
    /// Open until then; or closed.
    until: Option<Instant>,
    /// Addresses that may be on the interface.
    there: BTreeSet<Address>,
}

impl Fence {
    /// Makes it, closed, in place of what an earlier process may have left. `urgent` is called on its thread first.
    pub(super) async fn raise(addresses: &[Address], urgent: fn(), clock: Clock) -> Result<Self, FenceError> {
        let socket = Socket::open().map_err(meaning)?;
        let (wish, wished) = watch::channel(Wish::default());
        let (does, done) = watch::channel(Done { number: 0, is_there: true });
        let (sender, raised) = oneshot::channel();
        let tables = Tables::new(addresses);
        let keeper = Keeper {
            clock,
            socket,
            renewal: tables.renewal(),
            tables,
            tick: tick(),
            wished,
            done: does,
            is_open: false,
            is_there: true,
        };
        let runtime = Handle::current();
        let thread = std::thread::Builder::new().name("vip-fence".to_owned()).spawn(move || {
            urgent();
            let installed = keeper.install(None).map_err(meaning);
            let is_there = installed.is_ok();
            if sender.send(installed).is_ok() && is_there {
                keeper.run(&runtime);
            }
        });
        let thread = Some(thread.map_err(FenceError::Thread)?);
        let fence = Self { wish: Some(wish), done, thread };
        match raised.await {
            Ok(Ok(())) => Ok(fence),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(FenceError::Thread(io::Error::other("it ended"))),
        }
    }

    /// Opens it until then, or closes it, as soon as the kernel takes it.
    pub(super) fn arm(&self, until: Option<Instant>) {
        if let Some(wish) = &self.wish {
            wish.send_modify(|wish| {
                wish.number += 1;
                wish.until = until;
            });
        }
    }

    /// Whether the kernel has it, as last seen.
    pub(super) fn is_there(&self) -> bool {
        self.done.borrow().is_there
    }

    /// The address is about to be put on the interface. If it wasn't there, waits until what was wished last is done.
    pub(super) async fn expect(&self, address: Address) {
        let Some(wish) = &self.wish else { return };
        let mut number = None;
        wish.send_if_modified(|wish| {
            number = wish.there.insert(address).then_some(wish.number);
            false
        });
        if let Some(number) = number {
            let mut done = self.done.clone();
            // In vain, if the kernel is busy: the address comes before its answers then, which does no harm.
            let _ = tokio::time::timeout(PATIENCE, done.wait_for(|done| done.number >= number)).await;
        }
    }

    /// The address has been taken off the interface.
    pub(super) fn forget(&self, address: Address) {
        if let Some(wish) = &self.wish {
            wish.send_if_modified(|wish| {
                wish.there.remove(&address);
                false
            });
        }
    }
}

impl Drop for Fence {
    fn drop(&mut self) {
        self.wish = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the thread of the fence panicked");
        }
    }
}

/// The thread's part.
struct Keeper {
    clock: Clock,
    socket: Socket,
    tables: Tables,
    renewal: Renewal,
    tick: Duration,
    wished: watch::Receiver<Wish>,
    done: watch::Sender<Done>,
    is_open: bool,
    /// That the kernel has none has been told, if it hasn't.
    is_there: bool,
}

impl Keeper {
    /// Does what is wished until nobody can wish any more.
    fn run(mut self, runtime: &Handle) {
        while runtime.block_on(self.wished.changed()).is_ok() {
            let (number, until) = {
                let wish = self.wished.borrow_and_update();
                (wish.number, wish.until)
            };
            self.settle(until);
            self.done.send_replace(Done { number, is_there: self.is_there });
        }
        if self.wished.borrow().there.is_empty()
            && let Err(refusal) = self.socket.exchange(&self.tables.remove())
        {
            tracing::warn!(error = %told(refusal), "failed to take the fence out of nftables");
        }
    }

    fn settle(&mut self, until: Option<Instant>) {
        let open_for = self.open_for(until);
        if open_for.is_none() && !self.is_open {
            return;
        }
        let told = match open_for {
            Some(milliseconds) => self.socket.exchange(self.renewal.open_for(milliseconds)),
            None => self.socket.exchange(&self.tables.close()),
        };
        if told.is_err() {
            self.restore(until);
        }
        self.is_open = open_for.is_some();
        if until.is_some_and(|until| came_too_late(until, self.clock.now())) {
            let _ = self.socket.exchange(&self.tables.close());
            self.is_open = false;
        }
    }

    /// Puts back what somebody has taken away. What can't be put back is taken away whole, so that it silences nobody.
    fn restore(&mut self, until: Option<Instant>) {
        match self.install(until) {
            Ok(()) => {
                self.is_there = true;
                tracing::warn!(
                    "somebody changed the fence in nftables, such as by `nft flush ruleset`: put back"
                );
            }
            Err(refusal) => {
                let _ = self.socket.exchange(&self.tables.remove());
                if std::mem::replace(&mut self.is_there, false) {
                    tracing::warn!(error = %told(refusal), "{MEANING}");
                }
            }
        }
    }

    fn install(&self, until: Option<Instant>) -> Result<(), Refusal> {
        self.socket.exchange(&self.tables.install(self.open_for(until)).end())
    }

    fn open_for(&self, until: Option<Instant>) -> Option<u64> {
        let left = until?.saturating_duration_since(self.clock.now());
        (!left.is_zero()).then(|| milliseconds(left.min(LONGEST), self.tick))
    }
}

/// Whether what was to hold until then was carried out at this time only. The kernel began to count when it came to it, so it would go on
/// beyond the lease.
fn came_too_late(until: Instant, now: Instant) -> bool {
    until + LATE < now
}

/// What it means that there is no fence.
pub(super) const MEANING: &str = "no fence in the kernel: an owner that is killed or frozen answers for the virtual IP \
     until its address's lifetime ends, up to a second or two after its lease";

/// A refusal in one line.
fn told(refusal: Refusal) -> String {
    let error = meaning(refusal);
    match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn meaning(refusal: Refusal) -> FenceError {
    let (what, missing) = match refusal.step {
        Step::Frame => ("message", "nf_tables (CONFIG_NF_TABLES)"),
        Step::Replace | Step::Table => {
            ("table", "tables for IP or ARP in nf_tables (CONFIG_NF_TABLES_INET, CONFIG_NF_TABLES_ARP)")
        }
        Step::Chain => {
            ("chain", "filters for IP or ARP in nf_tables (CONFIG_NF_TABLES_INET, CONFIG_NF_TABLES_ARP)")
        }
        Step::Set | Step::Element => ("set", "sets with timeouts in nf_tables (CONFIG_NF_TABLES)"),
        // A fence limits no connection's time.
        Step::Rule | Step::Timeout => ("rule", "sets with timeouts in nf_tables (CONFIG_NF_TABLES)"),
        Step::Remove => ("removal", "nf_tables (CONFIG_NF_TABLES)"),
    };
    match refusal.errno {
        Errno::OPNOTSUPP | Errno::NOENT | Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT => {
            FenceError::Unsupported { missing }
        }
        Errno::PERM => FenceError::Refused {
            what: "tables: the capability NET_ADMIN is missing",
            source: Errno::PERM.into(),
        },
        errno => FenceError::Refused { what, source: errno.into() },
    }
}

/// How long the kernel's tick is: its timeouts are whole ones.
fn tick() -> Duration {
    let tick = rustix::time::clock_getres(rustix::time::ClockId::MonotonicCoarse);
    Duration::try_from(tick).unwrap_or(Duration::from_millis(10))
}

/// As for an address: a lease "for ever" is renewed here before that.
const LONGEST: Duration = Duration::from_secs(60);

/// A lease that ended this long ago while the kernel was told of it: no tick is that long.
const LATE: Duration = Duration::from_millis(10);

/// How long an address waits for its fence: as long as for any answer of the kernel.
const PATIENCE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_that_the_kernel_took_after_its_time_is_taken_back() {
        let until = tokio::time::Instant::now().into_std();
        assert!(!came_too_late(until + LATE * 2, until), "there is time left");
        assert!(!came_too_late(until, until + LATE), "a tick does no harm");
        assert!(came_too_late(until, until + LATE + Duration::from_nanos(1)));
        assert!(came_too_late(until, until + Duration::from_mins(1)));
    }

    #[test]
    fn a_refusal_is_told_in_one_line_with_its_cause_or_with_what_the_kernel_lacks() {
        let refused = |errno| told(Refusal { step: Step::Chain, errno });
        let missing = refused(Errno::OPNOTSUPP);
        assert!(missing.contains("filters for IP or ARP in nf_tables"), "{missing}");
        let (what, cause) = (refused(Errno::NOMEM), io::Error::from(Errno::NOMEM).to_string());
        assert!(what.contains("chain") && what.ends_with(&format!(": {cause}")), "{what}");
        assert!(refused(Errno::PERM).contains("NET_ADMIN"));
    }

    /// Without it an element would live for a tick longer than the lease: the kernel rounds up.
    #[test]
    fn the_kernels_tick_is_known() {
        let ticks = [100, 250, 300, 1000].map(|hertz| Duration::from_secs(1) / hertz);
        let near = |wanted: &Duration| wanted.abs_diff(tick()) < Duration::from_micros(1);
        assert!(ticks.iter().any(near), "{:?}", tick());
    }
}
