//! Runs the tasks of one thread: whoever is woken has its turn, then the thread sleeps until a socket or another thread calls.
//!
//! A runtime of its own would do the same with one more epoll instance around the [reactor](crate::reactor)'s, so with one more system
//! call each time that the thread wakes, and with a second callback in the kernel for each packet. So the tasks are a [`LocalSet`], and
//! the thread sleeps in the reactor's instance alone. Timers are those of a runtime on another thread, which is entered here.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Wake, Waker};

use rustix::event::{EventfdFlags, eventfd};
use tokio::task::LocalSet;

use crate::reactor::{Reactor, Told};

/// Runs a future, and all that it spawns on this thread, to the end. Timers need an entered runtime.
///
/// # Errors
/// No file descriptor is left, or no watch. Nothing has begun then.
pub(crate) fn run(reactor: &Rc<Reactor>, work: impl Future<Output = ()> + 'static) -> io::Result<()> {
    let bell = Arc::new(Bell::new()?);
    reactor.listen_to(&bell.descriptor)?;
    let waker = Waker::from(Arc::clone(&bell));
    let mut context = Context::from_waker(&waker);
    let tasks = LocalSet::new();
    tasks.spawn_local(work);
    let mut tasks = pin!(tasks);
    let mut told = Told::default();
    while tasks.as_mut().poll(&mut context).is_pending() {
        let taken = if bell.may_sleep() { reactor.wait(&mut told) } else { reactor.look(&mut told) };
        bell.awake();
        if let Err(error) = taken {
            // The instance is ours alone and valid: the kernel has no reason to refuse. Without it, nothing would ever move again.
            panic!("the worker's sockets can't be watched: {error}");
        }
        reactor.dispatch(&told);
    }
    Ok(())
}

/// The tasks are running, and nobody has called since they were last.
const AWAKE: u8 = 0;
/// The thread sleeps, or is about to.
const ASLEEP: u8 = 1;
/// Somebody has called.
const CALLED: u8 = 2;

/// Wakes the thread; nothing but a note is needed as long as it doesn't sleep.
#[derive(Debug)]
struct Bell {
    descriptor: OwnedFd,
    state: AtomicU8,
}

impl Bell {
    fn new() -> io::Result<Self> {
        let descriptor = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { descriptor, state: AtomicU8::new(AWAKE) })
    }

    /// Whether nobody has called; whoever does from now on rings.
    fn may_sleep(&self) -> bool {
        // Acquire: what the caller did before is seen by the tasks.
        self.state.compare_exchange(AWAKE, ASLEEP, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Notes that the tasks run next: calls up to now are heard by that.
    fn awake(&self) {
        self.state.swap(AWAKE, Ordering::AcqRel);
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.swap(CALLED, Ordering::AcqRel) == ASLEEP {
            // Each writing is an event (EPOLLET), so nobody has to read. The counter can't come near its end, where this would fail.
            let _ = rustix::io::write(&self.descriptor, &1_u64.to_ne_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::mpsc;

    use super::*;

    /// Far more than anything here takes.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// A runtime that runs on a thread of its own until the test ends, for timers.
    fn timers() -> (tokio::runtime::Handle, std::sync::mpsc::Sender<()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let handle = runtime.handle().clone();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        std::thread::spawn(move || {
            runtime.block_on(async { drop(tokio::task::spawn_blocking(move || ended.recv()).await) });
        });
        (handle, end)
    }

    /// Runs a future on a thread that must come to its end.
    fn finishes<F: Future<Output = ()> + 'static>(work: impl FnOnce() -> F + Send + 'static) {
        let (timers, _end) = timers();
        let (done, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let _timers = timers.enter();
            let reactor = Rc::new(Reactor::new().unwrap());
            run(&reactor, work()).unwrap();
            done.send(()).unwrap();
        });
        ended.recv_timeout(PATIENCE).expect("it never ended");
    }

    #[test]
    fn what_was_spawned_is_run_to_its_end() {
        let (end, ended) = std::sync::mpsc::channel();
        finishes(|| async move {
            for number in 0..1000 {
                let end = end.clone();
                tokio::task::spawn_local(async move {
                    // More turns than a set of tasks takes at a time.
                    for _ in 0..number % 7 {
                        tokio::task::yield_now().await;
                    }
                    end.send(number).unwrap();
                });
            }
        });
        assert_eq!(ended.iter().count(), 1000);
    }

    #[test]
    fn timers_come_from_the_runtime_that_was_entered() {
        finishes(|| async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let late = tokio::time::timeout(Duration::from_millis(20), std::future::pending::<()>());
            assert!(late.await.is_err());
        });
    }

    /// A call that is lost between the last look at the tasks and the sleep would be the end: each is waited for before the next.
    #[test]
    fn no_call_from_another_thread_is_ever_lost() {
        let (ask, mut asked) = mpsc::channel::<u32>(1);
        let (answer, mut answered) = mpsc::channel::<u32>(1);
        let other = std::thread::spawn(move || {
            for number in 0..20_000 {
                ask.blocking_send(number).unwrap();
                assert_eq!(answered.blocking_recv(), Some(number));
            }
        });
        finishes(move || async move {
            while let Some(number) = asked.recv().await {
                answer.send(number).await.unwrap();
            }
        });
        other.join().unwrap();
    }
}
