//! Which sockets of a worker's flows can be read or written: an epoll instance of the worker's own.
//!
//! A runtime could watch them, too. Its registration of a socket takes several times the memory of a slot here, is shared
//! between threads where a worker has only one, and doesn't tell that a peer has said all it has to say, which saves a system
//! call and a packet where a connection ends.
//!
//! Sockets are watched edge by edge (`EPOLLET`, epoll(7)): a slot remembers what was told until an operation finds that it is
//! over. All of it lives on one thread, so cells do and nothing is locked.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll, Waker};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use slab::Slab;

/// Events taken at a time; what is left is told at the next turn, when the flows have had theirs.
const EVENTS: usize = 256;

/// The key of what is listened to and has no slot: none has it, before memory ends.
const NO_SLOT: u64 = u64::MAX;

/// The epoll instance, and what is known of the sockets in it.
#[derive(Debug)]
pub(crate) struct Reactor {
    epoll: OwnedFd,
    /// Bounded by the limits of connections: two for each, and one for each listener.
    slots: RefCell<Slab<Slot>>,
}

/// What is known of a socket.
#[derive(Debug, Default)]
struct Slot {
    readiness: Readiness,
    /// The task that waits for more.
    waker: Option<Waker>,
}

/// What may be tried on a socket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Readiness {
    pub(crate) read: bool,
    pub(crate) write: bool,
    /// Nothing comes any more but what is here already.
    pub(crate) ended: bool,
    /// The connection is broken; why, the next operation tells.
    pub(crate) broken: bool,
}

/// What the kernel has told of sockets, [`EVENTS`] at most.
pub(crate) struct Told(Vec<Event>);

impl Default for Told {
    fn default() -> Self {
        Self(Vec::with_capacity(EVENTS))
    }
}

impl Readiness {
    fn add(&mut self, flags: EventFlags) {
        let any = |of: EventFlags| flags.intersects(of);
        self.broken |= any(EventFlags::ERR);
        self.read |= any(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        self.write |= any(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR);
        self.ended |= any(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
    }
}

impl Reactor {
    /// An instance that watches nothing yet.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, slots: RefCell::default() })
    }

    /// Has [`wait`](Self::wait) return whenever something is written there (eventfd(2)), too; until it is closed.
    ///
    /// # Errors
    /// No watch is left (fs.epoll.max_user_watches).
    pub(crate) fn listen_to(&self, bell: impl AsFd) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, bell, EventData::new_u64(NO_SLOT), EventFlags::IN | EventFlags::ET)?)
    }

    /// Watches a socket that doesn't block, until [`deregister`](Self::deregister) and its closing; gives its key.
    ///
    /// # Errors
    /// No watch is left (fs.epoll.max_user_watches).
    pub(crate) fn register(&self, socket: impl AsFd) -> io::Result<usize> {
        let key = self.slots.borrow_mut().insert(Slot::default());
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        if let Err(error) = epoll::add(&self.epoll, socket, EventData::new_u64(key as u64), flags) {
            self.deregister(key);
            return Err(error.into());
        }
        Ok(key)
    }

    /// Forgets a socket, which is closed next: the kernel forgets it then. It must have no duplicates.
    pub(crate) fn deregister(&self, key: usize) {
        self.slots.borrow_mut().remove(key);
    }

    /// Forgets a socket that may have duplicates.
    pub(crate) fn unwatch(&self, key: usize, socket: impl AsFd) {
        // It is watched: the kernel has no reason to refuse.
        let _ = epoll::delete(&self.epoll, socket);
        self.deregister(key);
    }

    /// Tells what may be tried on a socket; whoever finds nothing is woken when there is more.
    pub(crate) fn readiness(&self, key: usize, context: &Context<'_>) -> Readiness {
        let slot = &mut self.slots.borrow_mut()[key];
        match &mut slot.waker {
            Some(waker) if waker.will_wake(context.waker()) => {}
            waker => *waker = Some(context.waker().clone()),
        }
        slot.readiness
    }

    /// Whether something may be there to be read.
    pub(crate) fn may_read(&self, key: usize) -> bool {
        self.slots.borrow()[key].readiness.read
    }

    /// Whether the connection is known to be broken.
    pub(crate) fn is_broken(&self, key: usize) -> bool {
        self.slots.borrow()[key].readiness.broken
    }

    /// Notes that nothing more is to be read, until told otherwise.
    pub(crate) fn clear_read(&self, key: usize) {
        self.slots.borrow_mut()[key].readiness.read = false;
    }

    /// Notes that no more can be written, until told otherwise.
    pub(crate) fn clear_write(&self, key: usize) {
        self.slots.borrow_mut()[key].readiness.write = false;
    }

    /// Does something that may find nothing to read; ready when it did not. Tells beside it what was known before: what is here then is
    /// all there is, if the peer had ended.
    pub(crate) fn poll_read<T>(
        &self,
        key: usize,
        context: &Context<'_>,
        operation: impl FnMut() -> rustix::io::Result<T>,
    ) -> Poll<io::Result<(T, Readiness)>> {
        let readiness = self.readiness(key, context);
        let tried = readiness.read.then(|| uninterrupted(operation));
        match tried {
            Some(Err(Errno::AGAIN)) => self.clear_read(key),
            Some(result) => return Poll::Ready(result.map(|done| (done, readiness)).map_err(Into::into)),
            None => {}
        }
        Poll::Pending
    }

    /// Does something that may find no room to write; ready when it did not.
    pub(crate) fn poll_write<T>(
        &self,
        key: usize,
        context: &Context<'_>,
        operation: impl FnMut() -> rustix::io::Result<T>,
    ) -> Poll<io::Result<T>> {
        let tried = self.readiness(key, context).write.then(|| uninterrupted(operation));
        match tried {
            Some(Err(Errno::AGAIN)) => self.clear_write(key),
            Some(result) => return Poll::Ready(result.map_err(Into::into)),
            None => {}
        }
        Poll::Pending
    }

    /// Waits until the kernel has something to tell, or a signal comes.
    ///
    /// # Errors
    /// None that leaves the instance of use.
    pub(crate) fn wait(&self, told: &mut Told) -> io::Result<()> {
        self.take(told, None)
    }

    /// Takes what the kernel has to tell already.
    ///
    /// # Errors
    /// As for [`wait`](Self::wait).
    pub(crate) fn look(&self, told: &mut Told) -> io::Result<()> {
        self.take(told, Some(&Timespec::default()))
    }

    fn take(&self, Told(events): &mut Told, patience: Option<&Timespec>) -> io::Result<()> {
        events.clear();
        match epoll::wait(&self.epoll, spare_capacity(events), patience) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Tells the tasks what was taken; nothing may be closed between that and this.
    pub(crate) fn dispatch(&self, Told(events): &Told) {
        let mut slots = self.slots.borrow_mut();
        for event in events {
            let key = usize::try_from(event.data.u64()).ok();
            // Whatever is closed is out of the set.
            if let Some(slot) = key.and_then(|key| slots.get_mut(key)) {
                slot.readiness.add(event.flags);
                if let Some(waker) = &slot.waker {
                    waker.wake_by_ref();
                }
            }
        }
    }
}

/// Does something until no signal interrupts it.
fn uninterrupted<T>(mut operation: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match operation() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

#[cfg(test)]
impl Reactor {
    /// Tells tasks of the calling thread's runtime what the kernel tells, for ever.
    pub(crate) async fn run(&self) -> io::Result<std::convert::Infallible> {
        use tokio::io::unix::AsyncFd;

        let epoll = self.epoll.try_clone()?;
        // SAFETY: an OwnedFd is the same open descriptor from here to its drop, and nobody takes it out.
        #[expect(unsafe_code)]
        let epoll = unsafe { AsyncFd::register_with_interest(epoll, tokio::io::Interest::READABLE)? };
        let mut told = Told::default();
        loop {
            let mut ready = epoll.readable().await?;
            self.look(&mut told)?;
            if told.0.len() < EVENTS {
                ready.clear_ready();
            }
            self.dispatch(&told);
            tokio::task::yield_now().await;
        }
    }
}
