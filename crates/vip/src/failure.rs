//! Which failures of the kernel's answers are answers themselves: there is none, not yet, not now.
//!
//! All others are failures. Whoever takes one of these for another lets go of an address because the kernel was busy, or listens for ever
//! on a socket that hears nothing.

use std::io;

use rustix::io::Errno;

/// What was asked for; `None` where the kernel says this.
pub(crate) fn unless<T>(errno: Errno, answer: io::Result<T>) -> io::Result<Option<T>> {
    match answer {
        Err(error) if is(&error, errno) => Ok(None),
        other => other.map(Some),
    }
}

/// What is there; `None` where one would have to wait for it.
pub(crate) fn at_once<T>(answer: io::Result<T>) -> io::Result<Option<T>> {
    match answer {
        // tokio's own has no number.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        other => other.map(Some),
    }
}

/// Whether the kernel said this.
pub(crate) fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(errno: Errno) -> io::Result<u8> {
        Err(errno.into())
    }

    /// An owner lets go of everything where there is no interface, and of nothing because the kernel was busy.
    #[test]
    fn a_kernel_that_says_something_else_or_nothing_has_not_said_that_there_is_none() {
        assert_eq!(unless(Errno::NODEV, Ok(7)).unwrap(), Some(7));
        assert_eq!(unless(Errno::NODEV, failed(Errno::NODEV)).unwrap(), None);
        let other = unless(Errno::NODEV, failed(Errno::NOBUFS)).unwrap_err();
        assert!(is(&other, Errno::NOBUFS) && !is(&other, Errno::NODEV));
        let silence = unless::<u8>(Errno::NODEV, Err(io::ErrorKind::TimedOut.into()));
        assert_eq!(silence.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn what_would_have_to_be_waited_for_is_not_there() {
        assert_eq!(at_once(Ok(7)).unwrap(), Some(7));
        assert_eq!(at_once(failed(Errno::AGAIN)).unwrap(), None);
        assert_eq!(at_once::<u8>(Err(io::ErrorKind::WouldBlock.into())).unwrap(), None);
        assert!(is(&at_once(failed(Errno::NETDOWN)).unwrap_err(), Errno::NETDOWN));
    }
}
