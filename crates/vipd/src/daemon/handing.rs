//! How one vipd gives its listening sockets to the next: over a pair of connected sockets, of which the next has one as its standard input.
//!
//! ```text
//!   the one that runs                              the next, its child
//!     SIGUSR2
//!     L with listeners, as often as needed  ──▶
//!     .                                     ──▶     reads its configuration, accepts
//!     from now on it stops           ◀── T (taken)
//!     its elections have ended, its
//!     addresses and sockets are given up: R ──▶     takes part in elections, opens its sockets
//!     its connections go on
//! ```
//!
//! Each message is one byte, which carries descriptors or doesn't (`SCM_RIGHTS`, unix(7)). Nobody else can speak here: the pair has no name.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// Listeners in one message; the kernel takes 253 descriptors.
const AT_A_TIME: usize = 64;

/// More listeners than 256 workers have for several load balancers.
const LISTENERS_MAX: usize = 4096;

/// Carries listeners.
const LISTENERS: u8 = b'L';
/// Those were all.
const ALL: u8 = b'.';
/// The next one accepts.
pub(super) const TAKEN: u8 = b'T';
/// The one before has no address and no socket any more.
pub(super) const RELEASED: u8 = b'R';

/// Sends all listeners. It doesn't wait: so many fit into the socket.
///
/// # Errors
/// The kernel's, or there are too many.
pub(super) fn send(socket: impl AsFd, listeners: &[TcpListener]) -> io::Result<()> {
    if listeners.len() > LISTENERS_MAX {
        return Err(io::Error::other(format!("{} listeners are more than {LISTENERS_MAX}", listeners.len())));
    }
    for some in listeners.chunks(AT_A_TIME) {
        let descriptors: Vec<BorrowedFd<'_>> = some.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_A_TIME))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        sendmsg(
            &socket,
            &[IoSlice::new(&[LISTENERS])],
            &mut ancillary,
            SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
        )?;
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    sendmsg(&socket, &[IoSlice::new(&[ALL])], &mut SendAncillaryBuffer::default(), flags)?;
    Ok(())
}

/// Receives all listeners, and waits for them as long as the socket does.
///
/// # Errors
/// The kernel's, or whoever is there doesn't speak as a vipd does.
pub(super) fn receive(socket: impl AsFd) -> io::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    loop {
        let mut word = [0];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_A_TIME))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received =
            recvmsg(&socket, &mut [IoSliceMut::new(&mut word)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                listeners.extend(descriptors.map(TcpListener::from));
            }
        }
        match (received.bytes, word[0]) {
            (1, LISTENERS) if listeners.len() <= LISTENERS_MAX => {}
            (1, ALL) => return Ok(listeners),
            (0, _) => return Err(io::ErrorKind::UnexpectedEof.into()),
            (_, word) => {
                return Err(io::Error::other(format!("it says {word:#04x}, which is no word of a vipd's")));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpStream;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn listeners_arrive_and_are_the_same_sockets() {
        let (one, other) = UnixStream::pair().unwrap();
        let own: Vec<_> = (0..AT_A_TIME + 3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<_> = own.iter().map(|listener| listener.local_addr().unwrap()).collect();

        send(&one, &own).unwrap();
        let received = receive(&other).unwrap();

        assert!(received.iter().map(|listener| listener.local_addr().unwrap()).eq(addresses.iter().copied()));
        let _client = TcpStream::connect(addresses[70 % addresses.len()]).unwrap();
        drop(own);
        received[70 % addresses.len()].accept().unwrap();
        send(&one, &[]).unwrap();
        assert!(receive(&other).unwrap().is_empty());
    }

    #[test]
    fn whoever_speaks_otherwise_or_ends_early_is_no_vipd() {
        let (mut one, other) = UnixStream::pair().unwrap();
        one.write_all(b"GET").unwrap();
        assert!(receive(&other).unwrap_err().to_string().contains("0x47"));
        let (one, other) = UnixStream::pair().unwrap();
        drop(one);
        assert_eq!(receive(&other).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
