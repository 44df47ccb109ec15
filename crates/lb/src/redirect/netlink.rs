//! Tells the kernel: one netlink(7) socket, whose end is the table's end.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::message::{Batch, Step};
use super::{Table, Tie};

/// Longer than an answer, which repeats the message that it answers.
const ANSWER: usize = 4096;

/// Answers to one batch: at most one for each message, of which there are some dozens.
const ANSWERS: usize = 1024;

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
    socket: OwnedFd,
    table: Table,
}

impl Redirect {
    /// Makes the table, in place of one that an earlier process has left.
    pub(crate) fn install(table: Table) -> Result<Self, Error> {
        let socket = open()?;
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
        if let Err(refusal) = exchange(&self.socket, batch) {
            let error = refusal.into_error(&self.table);
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
    let tie = carry_out(&open()?, &table, |tie| table.install(tie).rehearsal())?;
    Ok(tie == Tie::Owned)
}

/// Sends a batch that ties the table to this process, or, to a kernel that can't, one that does not.
fn carry_out(socket: &OwnedFd, table: &Table, batch: impl Fn(Tie) -> Batch) -> Result<Tie, Error> {
    match exchange(socket, &batch(Tie::Owned)) {
        Ok(()) => Ok(Tie::Owned),
        // Flags that a kernel does not know, it refuses.
        Err(Refusal { step: Step::Table, errno: Errno::OPNOTSUPP | Errno::INVAL }) => {
            let tried = exchange(socket, &batch(Tie::Loose));
            tried.map(|()| Tie::Loose).map_err(|refusal| refusal.into_error(table))
        }
        Err(refusal) => Err(refusal.into_error(table)),
    }
}

fn open() -> Result<OwnedFd, Error> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(NETFILTER),
    );
    socket.map_err(|errno| Refusal { step: Step::Frame, errno }.into_any_error())
}

/// What the kernel did not do.
#[derive(Debug)]
struct Refusal {
    step: Step,
    errno: Errno,
}

/// Sends a batch. The kernel has carried it out, and queued what it says of it, when the call returns.
fn exchange(socket: &OwnedFd, batch: &Batch) -> Result<(), Refusal> {
    let whole = |errno| Refusal { step: Step::Frame, errno };
    let kernel = SocketAddrNetlink::new(0, 0);
    rustix::net::sendto(socket, batch.bytes(), SendFlags::empty(), &kernel).map_err(whole)?;
    let mut outcome = Err(whole(Errno::NODATA));
    for _ in 0..ANSWERS {
        let mut answer = [0; ANSWER];
        let length = match rustix::net::recv(socket, &mut answer, RecvFlags::DONTWAIT) {
            Ok((length, _)) => length,
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => break,
            Err(errno) => return Err(whole(errno)),
        };
        let Some((sequence, errno)) = parse(answer.get(..length).unwrap_or_default()) else { continue };
        outcome = match (outcome, errno) {
            // The first refusal is the one that matters: what follows from it is refused too.
            (Err(refusal), _) if refusal.errno != Errno::NODATA => Err(refusal),
            (_, Some(errno)) => Err(Refusal { step: batch.step(sequence).unwrap_or(Step::Frame), errno }),
            (_, None) => Ok(()),
        };
    }
    outcome
}

/// The sequence number of the message that is answered, and how it failed (`NLMSG_ERROR`, with 0 for success).
fn parse(answer: &[u8]) -> Option<(u32, Option<Errno>)> {
    const ERROR: u16 = 2;
    let number = |at: usize| <[u8; 4]>::try_from(answer.get(at..at + 4)?).ok();
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    if kind != ERROR {
        return None;
    }
    let code = i32::from_ne_bytes(number(16)?);
    Some((u32::from_ne_bytes(number(8)?), (code != 0).then(|| Errno::from_raw_os_error(-code))))
}

impl Refusal {
    /// What it means for this table.
    fn into_error(self, table: &Table) -> Error {
        if self.errno == Errno::PERM && self.step != Step::Frame {
            return Error::Taken { table: table.name().to_owned() };
        }
        self.into_any_error()
    }

    fn into_any_error(self) -> Error {
        let (what, missing) = match self.step {
            Step::Frame => ("message", "nf_tables (CONFIG_NF_TABLES)"),
            Step::Replace | Step::Table => {
                ("table", "tables for IPv4 and IPv6 in nf_tables (CONFIG_NF_TABLES_INET)")
            }
            Step::Chain => ("chain", "address translation in nf_tables (CONFIG_NFT_NAT)"),
            Step::Rule => {
                ("rule", "expression `fib` or `nat` in nf_tables (CONFIG_NFT_FIB_INET, CONFIG_NFT_NAT)")
            }
            Step::Remove => ("removal", "nf_tables (CONFIG_NF_TABLES)"),
        };
        match self.errno {
            Errno::OPNOTSUPP | Errno::NOENT | Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT => {
                Error::Unsupported { missing }
            }
            // Whoever may not do this at all is told so at the beginning of the batch.
            Errno::PERM if self.step == Step::Frame => Error::Refused {
                what: "rules: the capability NET_ADMIN is missing",
                source: Errno::PERM.into(),
            },
            errno => Error::Refused { what, source: errno.into() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::Verb;
    use super::*;

    fn meaning(step: Step, errno: Errno) -> String {
        let table = Table::new(6443, vec!["10.0.0.9:16443".parse().unwrap()]);
        Refusal { step, errno }.into_error(&table).to_string()
    }

    #[test]
    fn a_refusal_says_what_is_missing_and_who_is_in_the_way() {
        assert!(meaning(Step::Frame, Errno::OPNOTSUPP).contains("no nf_tables (CONFIG_NF_TABLES)"));
        assert!(meaning(Step::Chain, Errno::NOENT).contains("CONFIG_NFT_NAT"));
        assert!(meaning(Step::Rule, Errno::NOENT).contains("CONFIG_NFT_FIB_INET"));
        assert!(meaning(Step::Replace, Errno::PERM).contains("table inet vipd-10.0.0.9-6443"));
        assert!(meaning(Step::Frame, Errno::PERM).contains("NET_ADMIN is missing"));
        assert!(meaning(Step::Rule, Errno::NOMEM).contains("refused the nftables rule"));
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
            let socket = open().unwrap();
            let tie = carry_out(&socket, &table, |tie| match tie {
                Tie::Owned => {
                    let mut batch = Batch::begin();
                    let flags =
                        table.named(super::super::TABLE_NAME).number(super::super::TABLE_FLAGS, 1 << 30);
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

    #[test]
    fn an_answer_that_is_cut_off_or_no_answer_says_nothing() {
        let mut answer = [0; 36];
        answer[4..6].copy_from_slice(&2_u16.to_ne_bytes());
        answer[8..12].copy_from_slice(&7_u32.to_ne_bytes());
        assert_eq!(parse(&answer), Some((7, None)));
        answer[16..20].copy_from_slice(&(-1_i32).to_ne_bytes());
        assert_eq!(parse(&answer), Some((7, Some(Errno::PERM))));
        assert_eq!(parse(&answer[..19]), None);
        answer[4..6].copy_from_slice(&3_u16.to_ne_bytes());
        assert_eq!(parse(&answer), None);
    }
}
