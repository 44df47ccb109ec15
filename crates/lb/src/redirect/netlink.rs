//! Tells the kernel: one netlink(7) socket, whose end is the table's end.

use std::io;

use nft::{Batch, Refusal, Socket, Step};
use rustix::io::Errno;

use super::{Table, Tie};

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

/// A table in the kernel, as long as this lives, and not longer than the process.
#[derive(Debug)]
pub(crate) struct Redirect {
    socket: Socket,
    table: Table,
}

impl Redirect {
    /// Makes the table, in place of one that an earlier process has left.
    pub(crate) fn install(table: Table) -> Result<Self, Error> {
        let socket = Socket::open().map_err(meaning_anywhere)?;
        if carry_out(&socket, &table, |tie| table.install(tie).end())? == Tie::Loose {
            tracing::warn!(
                table = table.name(),
                "this kernel does not tie a table to its process: if vipd is killed, its port stays redirected until it runs again"
            );
        }
        Ok(Self { socket, table })
    }

    /// Leads no further connection to the balancer; those that it has go on.
    pub(crate) fn close(&self) {
        self.tell(&self.table.close());
    }

    fn tell(&self, batch: &Batch) {
        if let Err(refusal) = self.socket.exchange(batch) {
            let error = meaning(refusal, &self.table);
            tracing::warn!(table = self.table.name(), %error, "failed to take a redirected port back");
        }
    }
}

impl Drop for Redirect {
    fn drop(&mut self) {
        self.tell(&self.table.remove());
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
    let tie =
        carry_out(&Socket::open().map_err(meaning_anywhere)?, &table, |tie| table.install(tie).rehearsal())?;
    Ok(tie == Tie::Owned)
}

/// Sends a batch that ties the table to this process, or, to a kernel that can't, one that does not.
fn carry_out(socket: &Socket, table: &Table, batch: impl Fn(Tie) -> Batch) -> Result<Tie, Error> {
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
fn meaning(refusal: Refusal, table: &Table) -> Error {
    if refusal.errno == Errno::PERM && refusal.step != Step::Frame {
        return Error::Taken { table: table.name().to_owned() };
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

#[cfg(test)]
mod tests {
    use super::*;
    use nft::{Family, Verb, attribute};

    fn told(step: Step, errno: Errno) -> String {
        let table = Table::new(6443, vec!["10.0.0.9:16443".parse().unwrap()]);
        meaning(Refusal { step, errno }, &table).to_string()
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
            let table = Table::new(6443, vec!["10.0.0.9:16443".parse().unwrap()]);
            let socket = Socket::open().unwrap();
            let tie = carry_out(&socket, &table, |tie| match tie {
                Tie::Owned => {
                    let mut batch = Batch::begin(Family::Inet);
                    let flags = table.named(attribute::TABLE_NAME).number(attribute::TABLE_FLAGS, 1 << 30);
                    batch.add(Step::Table, Verb::NewTable, &flags);
                    batch.end()
                }
                Tie::Loose => table.install(Tie::Loose).end(),
            });
            assert_eq!(tie.unwrap(), Tie::Loose);
            // A later process takes the place of one that has ended, and nobody that of one that runs.
            let later = Redirect::install(table.clone()).unwrap();
            assert!(matches!(Redirect::install(table.clone()), Err(Error::Taken { .. })));
            drop(later);
            drop(Redirect::install(table).unwrap());
        });
        inside.join().unwrap();
    }
}
