//! Tells the kernel, over a netlink(7) socket.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::message::{Batch, Step};

/// A way to nf_tables of the network namespace that it was opened in. Tables that are owned end with it.
#[derive(Debug)]
pub struct Socket(OwnedFd);

/// What the kernel did not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the message was for that it refused.
    pub step: Step,
    /// What it said.
    pub errno: Errno,
}

impl Socket {
    /// Opens one.
    ///
    /// # Errors
    ///
    /// This kernel knows no netfilter, or no descriptor is left.
    pub fn open() -> Result<Self, Refusal> {
        open().map(Self).map_err(|errno| Refusal { step: Step::Frame, errno })
    }

    /// Sends a batch. The kernel has carried it out, and queued what it says of it, when the call returns; it waits for who
    /// else changes nf_tables in this network namespace.
    ///
    /// # Errors
    ///
    /// The first refusal. Nothing of the batch was done.
    pub fn exchange(&self, batch: &Batch) -> Result<(), Refusal> {
        let whole = |errno| Refusal { step: Step::Frame, errno };
        send(&self.0, batch.bytes()).map_err(whole)?;
        let mut outcome = Err(whole(Errno::NODATA));
        for _ in 0..ANSWERS {
            let mut answer = [0; ANSWER];
            let length = match rustix::net::recv(&self.0, &mut answer, RecvFlags::DONTWAIT) {
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
}

/// A way to netfilter of the calling thread's network namespace.
pub(crate) fn open() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(NETFILTER))
}

/// Sends whole messages to the kernel.
pub(crate) fn send(socket: &OwnedFd, messages: &[u8]) -> rustix::io::Result<()> {
    rustix::net::sendto(socket, messages, SendFlags::empty(), &SocketAddrNetlink::new(0, 0)).map(drop)
}

/// `NLMSG_ERROR`, which is also how success is told.
pub(crate) const ERROR: u16 = 2;

/// The sequence number of the message that is answered, and how it failed (`NLMSG_ERROR`, with 0 for success).
pub(crate) fn parse(answer: &[u8]) -> Option<(u32, Option<Errno>)> {
    let number = |at: usize| <[u8; 4]>::try_from(answer.get(at..at + 4)?).ok();
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    if kind != ERROR {
        return None;
    }
    number(16)?;
    Some((u32::from_ne_bytes(number(8)?), failure(answer.get(16..)?)))
}

/// How a message failed, by what comes behind the header of an `NLMSG_ERROR`; `None` for success. What can't be an error's number
/// (errno(3)) is `EIO`.
pub(crate) fn failure(body: &[u8]) -> Option<Errno> {
    const LARGEST: i32 = 4095;
    match body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code)) {
        0 => None,
        code => {
            let number = code.checked_neg().filter(|number| (1..=LARGEST).contains(number));
            Some(number.map_or(Errno::IO, Errno::from_raw_os_error))
        }
    }
}

/// Longer than an answer, which repeats the message that it answers.
const ANSWER: usize = 4096;

/// Answers to one batch: at most one for each message, of which there are some dozens.
const ANSWERS: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_cut_off_or_no_answer_says_nothing() {
        let mut answer = [0; 36];
        answer[4..6].copy_from_slice(&2_u16.to_ne_bytes());
        answer[8..12].copy_from_slice(&7_u32.to_ne_bytes());
        assert_eq!(parse(&answer), Some((7, None)));
        answer[16..20].copy_from_slice(&(-1_i32).to_ne_bytes());
        assert_eq!(parse(&answer), Some((7, Some(Errno::PERM))));
        assert_eq!(parse(&answer[..19]), None);
        for odd in [i32::MIN, 1, -4096] {
            answer[16..20].copy_from_slice(&odd.to_ne_bytes());
            assert_eq!(parse(&answer), Some((7, Some(Errno::IO))), "{odd}");
        }
        answer[4..6].copy_from_slice(&3_u16.to_ne_bytes());
        assert_eq!(parse(&answer), None);
    }
}
