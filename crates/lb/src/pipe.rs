//! Pipes through which bulk data goes from socket to socket without being copied (splice(2)).
//!
//! A direction that moves much has one for as long as bytes are in it. There are few of them: whoever finds none copies through
//! the worker's buffer.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

/// Bytes of a pipe: the most that an unprivileged process may have (fs.pipe-max-size).
pub(crate) const PIPE: usize = 1024 * 1024;

/// Pipes of one worker. Each may hold [`PIPE`] bytes of the kernel's memory for as long as a destination takes nothing.
const PIPES: usize = 32;

/// The pipes of one worker.
#[derive(Debug)]
pub(crate) struct Pipes {
    empty: RefCell<Vec<Pipe>>,
    /// How many more may be made.
    left: Rc<Cell<usize>>,
    refused: Cell<bool>,
}

/// Both ends of a pipe, which don't block, and how much is in it.
#[derive(Debug)]
pub(crate) struct Pipe {
    pub(crate) exit: OwnedFd,
    pub(crate) entrance: OwnedFd,
    /// Bytes that wait in it.
    pub(crate) filled: usize,
    _place: Place,
}

/// Counts a pipe.
#[derive(Debug)]
struct Place(Rc<Cell<usize>>);

impl Place {
    fn take(left: &Rc<Cell<usize>>) -> Option<Self> {
        left.set(left.get().checked_sub(1)?);
        Some(Self(Rc::clone(left)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

impl Default for Pipes {
    fn default() -> Self {
        Self { empty: RefCell::default(), left: Rc::new(Cell::new(PIPES)), refused: Cell::new(false) }
    }
}

impl Pipes {
    /// An empty pipe; none if all are in use, no descriptor is left for another, or splicing is refused.
    pub(crate) fn take(&self) -> Option<Pipe> {
        if self.refused.get() {
            return None;
        }
        let empty = self.empty.borrow_mut().pop();
        empty.or_else(|| {
            let place = Place::take(&self.left)?;
            let (exit, entrance) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
            // A smaller one works as well, in more turns.
            let _ = fcntl_setpipe_size(&entrance, PIPE);
            Some(Pipe { exit, entrance, filled: 0, _place: place })
        })
    }

    /// Takes back a pipe that is empty. One that isn't is dropped with what is in it.
    pub(crate) fn put(&self, pipe: Pipe) {
        debug_assert_eq!(pipe.filled, 0, "somebody else would send what is in it");
        self.empty.borrow_mut().push(pipe);
    }

    /// Whether splicing failed because the kernel, or a filter of system calls, has none of it. Nobody tries again then.
    pub(crate) fn is_refused(&self, error: &io::Error) -> bool {
        let refuses = [Errno::INVAL, Errno::NOSYS, Errno::PERM, Errno::OPNOTSUPP];
        let refused = Errno::from_io_error(error).is_some_and(|errno| refuses.contains(&errno));
        if refused {
            self.refused.set(true);
            self.empty.borrow_mut().clear();
        }
        refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_so_many_and_an_empty_one_is_used_again() {
        let pipes = Pipes::default();
        let mut all: Vec<Pipe> = std::iter::from_fn(|| pipes.take()).collect();
        assert_eq!(all.len(), PIPES);

        pipes.put(all.pop().unwrap());

        assert!(pipes.take().is_some());
    }

    #[test]
    fn one_that_is_dropped_with_bytes_in_it_makes_room_for_a_new_one() {
        let pipes = Pipes::default();
        let mut all: Vec<Pipe> = std::iter::from_fn(|| pipes.take()).collect();
        rustix::io::write(&all[0].entrance, b"of somebody").unwrap();
        all[0].filled = 11;
        all.remove(0);

        let fresh = pipes.take().unwrap();

        assert_eq!(rustix::io::read(&fresh.exit, &mut [0; 4]).unwrap_err(), Errno::AGAIN);
    }

    #[test]
    fn where_splicing_is_refused_nobody_tries_again() {
        let pipes = Pipes::default();
        pipes.put(pipes.take().unwrap());

        assert!(!pipes.is_refused(&Errno::CONNRESET.into()));
        assert!(pipes.take().is_some(), "a broken connection says nothing about splicing");
        let in_use = pipes.take();
        assert!(pipes.is_refused(&Errno::PERM.into()));
        drop(in_use);

        assert!(pipes.take().is_none());
    }
}
