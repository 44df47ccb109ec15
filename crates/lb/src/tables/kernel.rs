//! Tells the kernel: one netlink(7) socket for each table, whose end is the table's end.

use std::io;

use nft::{Batch, Refusal, Socket, Step};
use rustix::io::Errno;

use super::Tie;

/// Why the kernel redirects no port. Nothing of it is left in the kernel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel was built, or booted, without a part that is needed.
    #[error("this kernel has no {missing}")]
    Unsupported {
        /// Which part, with the name of its setting.
        missing: &'static str,
    },
    /// Another process has a table of the same name: it redirects the same port of the same address.
    #[error("another process redirects it already (nftables table inet {table})")]
    Taken {
        /// Name of the table.
        table: String,
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
}

/// A table in the kernel, as long as somebody takes it away, and not longer than the process.
#[derive(Debug)]
pub(crate) struct Table {
    socket: Socket,
    name: String,
}

impl Error {
    /// All that is missing is a time limit for handshakes of their own.
    pub(crate) fn is_about_timeouts(&self) -> bool {
        matches!(self, Self::Unsupported { missing } if *missing == NO_TIMEOUTS)
    }
}

impl Table {
    /// Makes the table, in place of one that an earlier process has left.
    pub(crate) fn install(name: &str, batch: impl Fn(Tie) -> Batch) -> Result<Self, Error> {
        let socket = Socket::open().map_err(meaning_anywhere)?;
        if carry_out(&socket, name, batch)? == Tie::Loose {
            tracing::warn!(
                table = name,
                "this kernel does not tie a table to its process: if vipd is killed, its port stays redirected until it runs again"
            );
        }
        Ok(Self { socket, name: name.to_owned() })
    }

    /// Puts another of the same name in its place at once.
    ///
    /// # Errors
    /// The kernel refuses it. The one that is there stays.
    pub(crate) fn replace(&self, batch: impl Fn(Tie) -> Batch) -> Result<(), Error> {
        carry_out(&self.socket, &self.name, batch).map(drop)
    }

    /// Has something changed.
    pub(crate) fn change(&self, batch: &Batch) -> Result<(), Error> {
        self.socket.exchange(batch).map_err(|refusal| meaning(refusal, &self.name))
    }

    /// Has something taken away; a failure is logged.
    pub(crate) fn tell(&self, batch: &Batch) {
        if let Err(error) = self.change(batch) {
            tracing::warn!(table = self.name, %error, "failed to take a port's rules back");
        }
    }
}

/// Tries whether the kernel would make a table, and changes nothing. False: it would, and would not tie it to the life of the
/// process.
pub(crate) fn rehearse(name: &str, batch: impl Fn(Tie) -> Batch) -> Result<bool, Error> {
    let socket = Socket::open().map_err(meaning_anywhere)?;
    Ok(carry_out(&socket, name, batch)? == Tie::Owned)
}

/// Sends a batch that ties the table to this process, or, to a kernel that can't, one that does not.
fn carry_out(socket: &Socket, table: &str, batch: impl Fn(Tie) -> Batch) -> Result<Tie, Error> {
    match socket.exchange(&batch(Tie::Owned)) {
        Ok(()) => Ok(Tie::Owned),
        // Flags that a kernel does not know, it refuses.
        Err(Refusal { step: Step::Table, errno: Errno::OPNOTSUPP | Errno::INVAL }) => {
            let tried = socket.exchange(&batch(Tie::Loose));
            tried.map(|()| Tie::Loose).map_err(|refusal| meaning(refusal, table))
        }
        Err(refusal) => Err(meaning(refusal, table)),
    }
}

/// What a refusal means for this table.
fn meaning(refusal: Refusal, table: &str) -> Error {
    if refusal.errno == Errno::PERM && refusal.step != Step::Frame {
        return Error::Taken { table: table.to_owned() };
    }
    meaning_anywhere(refusal)
}

/// What it means for any table.
fn meaning_anywhere(refusal: Refusal) -> Error {
    let (what, missing) = match refusal.step {
        Step::Frame => ("message", "nf_tables (CONFIG_NF_TABLES)"),
        Step::Replace | Step::Table => {
            ("table", "tables for IPv4 and IPv6 in nf_tables (CONFIG_NF_TABLES_INET)")
        }
        Step::Chain => ("chain", "address translation in nf_tables (CONFIG_NFT_NAT)"),
        Step::Rule => {
            ("rule", "expression `fib` or `nat` in nf_tables (CONFIG_NFT_FIB_INET, CONFIG_NFT_NAT)")
        }
        Step::Timeout => ("time limit", NO_TIMEOUTS),
        Step::Set | Step::Element => ("set", "sets in nf_tables (CONFIG_NF_TABLES)"),
        Step::Remove => ("removal", "nf_tables (CONFIG_NF_TABLES)"),
    };
    match refusal.errno {
        Errno::OPNOTSUPP | Errno::NOENT | Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT => {
            Error::Unsupported { missing }
        }
        // Whoever may not do this at all is told so at the beginning of the batch.
        Errno::PERM if refusal.step == Step::Frame => {
            Error::Refused { what: "rules: the capability NET_ADMIN is missing", source: Errno::PERM.into() }
        }
        errno => Error::Refused { what, source: errno.into() },
    }
}

/// What a kernel lacks that has one time limit of handshakes for all.
const NO_TIMEOUTS: &str = "time limits of single connections (CONFIG_NF_CONNTRACK_TIMEOUT)";

#[cfg(test)]
mod tests {
    use super::*;
    use nft::conntrack::Protocol;
    use nft::{Family, Verb, attribute};

    use crate::tables::Names;

    fn told(step: Step, errno: Errno) -> String {
        meaning(Refusal { step, errno }, "vipd-10.0.0.9-6443").to_string()
    }

    #[test]
    fn a_refusal_says_what_is_missing_and_who_is_in_the_way() {
        assert!(told(Step::Frame, Errno::OPNOTSUPP).contains("no nf_tables (CONFIG_NF_TABLES)"));
        assert!(told(Step::Chain, Errno::NOENT).contains("CONFIG_NFT_NAT"));
        assert!(told(Step::Rule, Errno::NOENT).contains("CONFIG_NFT_FIB_INET"));
        assert!(told(Step::Replace, Errno::PERM).contains("table inet vipd-10.0.0.9-6443"));
        assert!(told(Step::Frame, Errno::PERM).contains("NET_ADMIN is missing"));
        assert!(told(Step::Rule, Errno::NOMEM).contains("refused the nftables rule"));
    }

    /// No such kernel is at hand: this one is shown a flag that it does not know in the place of the owner's.
    #[test]
    fn a_kernel_that_ties_no_table_to_its_process_makes_one_that_is_not() {
        if !rustix::process::geteuid().is_root() {
            return eprintln!("SKIPPED: network namespaces need root");
        }
        let inside = std::thread::spawn(|| {
            // SAFETY: only the network namespace of this short-lived thread changes, and no memory is shared through it.
            #[expect(unsafe_code, reason = "rustix marks unshare as unsafe for flags that aren't used here")]
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
            let names = Names::new(["10.0.0.9".parse().unwrap()].into_iter(), Protocol::Tcp, 6443);
            let whole = |tie| {
                let mut batch = names.begin(tie);
                names.lead(&mut batch, tie, 6443);
                batch.end()
            };
            let tie = carry_out(&Socket::open().unwrap(), &names.rules, |tie| match tie {
                Tie::Owned => {
                    let mut batch = Batch::begin(Family::Inet);
                    let flags = names.rules(attribute::TABLE_NAME).number(attribute::TABLE_FLAGS, 1 << 30);
                    batch.add(Step::Table, Verb::NewTable, &flags);
                    batch.end()
                }
                Tie::Loose => whole(Tie::Loose),
            });
            assert_eq!(tie.unwrap(), Tie::Loose);
            // A later process takes the place of one that has ended, and nobody that of one that runs.
            let install = || Table::install(&names.rules, whole);
            let later = install().unwrap();
            assert!(matches!(install(), Err(Error::Taken { .. })));
            later.tell(&names.remove());
            drop(later);
            install().unwrap().tell(&names.remove());
        });
        inside.join().unwrap();
    }
}
