//! A queue of log lines, and the thread that writes them.
//!
//! It is a pair of connected sockets: the kernel keeps the lines apart, bounds them, and takes one or doesn't within microseconds.
//! Threads of a real-time class share no lock with the one that writes, which is an ordinary one and may be kept from a busy processor
//! for long.
//!
//! ```text
//!  any thread ── put ──▶ inlet ▓▓▓▓▓▓ outlet ──▶ vipd-log ──▶ standard error
//!             ◀─ flushed ─────────────────────────┘
//! ```

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair, sockopt,
};
use tokio::time::Instant;
use tracing::warn;

/// What may wait, in bytes as the kernel counts them, the half of a kilobyte that it takes for each line included: a thousand lines,
/// more than vipd writes at the level `info` in a day. A kernel may grant less.
const WAITING_MAX: usize = 1 << 20;

/// No line is longer; what is, is cut. That of the longest message, a backtrace, is a fraction.
const LINE_MAX: usize = 32 * 1024;

/// Something for the thread to do.
pub(super) type Errand = Box<dyn FnOnce() + Send>;

/// Asks the thread to do its errand.
const ERRAND: &[u8] = &[1];

/// Asks the thread to answer: no line is like this, as each ends in a line feed.
const FLUSH: &[u8] = &[0];

/// The end that is written to.
#[derive(Debug)]
pub(super) struct Queue {
    inlet: OwnedFd,
    dropped: Arc<AtomicU64>,
    errands: SyncSender<Errand>,
}

impl Queue {
    /// Opens one, onto standard error. Its thread ends with the process.
    ///
    /// # Errors
    /// No socket, or no thread.
    pub(super) fn open() -> io::Result<Self> {
        Self::onto(io::stderr())
    }

    fn onto(out: impl Write + Send + 'static) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let (inlet, outlet) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        // Beyond the host's limit only with NET_ADMIN; with less there is a shorter queue.
        if sockopt::set_socket_send_buffer_size_force(&inlet, WAITING_MAX).is_err() {
            sockopt::set_socket_send_buffer_size(&inlet, WAITING_MAX)?;
        }
        let dropped = Arc::new(AtomicU64::new(0));
        let (errands, taken) = sync_channel(1);
        let writer = Writer { outlet, dropped: Arc::clone(&dropped), errands: taken, out };
        std::thread::Builder::new().name(THREAD.to_owned()).spawn(move || writer.run())?;
        Ok(Self { inlet, dropped, errands })
    }

    /// Puts some bytes, of whole lines, into the queue; or drops and counts them where it is full.
    pub(super) fn put(&self, lines: &[u8]) {
        let cut = [&lines[..lines.len().min(LINE_MAX)], b"\n"];
        let sent = if lines.len() > LINE_MAX {
            send(&self.inlet, &cut.concat(), SendFlags::DONTWAIT)
        } else {
            send(&self.inlet, lines, SendFlags::DONTWAIT)
        };
        if sent.is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Has the thread do something, once it has written what is in the queue; false where that is full, or another errand waits.
    pub(super) fn ask(&self, errand: Errand) -> bool {
        self.errands.try_send(errand).is_ok() && send(&self.inlet, ERRAND, SendFlags::DONTWAIT).is_ok()
    }

    /// Waits until all that is in the queue is written, or for as long as this; says whether it is.
    pub(super) fn flush(&self, patience: Duration) -> bool {
        // What the thread itself has to say, it says by itself.
        if std::thread::current().name() == Some(THREAD) {
            return false;
        }
        let deadline = Instant::now() + patience;
        loop {
            match send(&self.inlet, FLUSH, SendFlags::DONTWAIT) {
                Ok(_) => break,
                Err(Errno::AGAIN) if self.wait(PollFlags::OUT, deadline) => {}
                Err(_) => return false,
            }
        }
        self.wait(PollFlags::IN, deadline) && recv(&self.inlet, &mut [0; 1], RecvFlags::DONTWAIT).is_ok()
    }

    fn wait(&self, what: PollFlags, deadline: Instant) -> bool {
        loop {
            let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now()));
            let Ok(left) = left else { return false };
            match poll(&mut [PollFd::new(&self.inlet, what)], Some(&left)) {
                Ok(ready) => return ready > 0,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }
}

impl Write for &Queue {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.put(lines);
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The thread's part.
struct Writer<W> {
    outlet: OwnedFd,
    dropped: Arc<AtomicU64>,
    errands: Receiver<Errand>,
    out: W,
}

impl<W: Write> Writer<W> {
    /// Writes until the queue has no other end.
    fn run(mut self) {
        let mut line = vec![0; LINE_MAX + 1];
        loop {
            let flags = if self.dropped.load(Ordering::Relaxed) > 0 {
                // Once there is room, how many there were is told.
                RecvFlags::DONTWAIT
            } else {
                RecvFlags::empty()
            };
            match recv(&self.outlet, &mut *line, flags) {
                Ok((_, 0)) => return,
                Ok((_, len)) if line[..len] == *FLUSH => {
                    // Whoever asked may have given up, and then more of these may lie here than there is room for.
                    let _ = send(&self.outlet, FLUSH, SendFlags::DONTWAIT);
                }
                Ok((_, len)) if line[..len] == *ERRAND => {
                    if let Ok(errand) = self.errands.try_recv() {
                        errand();
                    }
                }
                // A line that can't be written has nobody to read it.
                Ok((_, len)) => drop(self.out.write_all(&line[..len])),
                Err(Errno::AGAIN) => {
                    let lines = self.dropped.swap(0, Ordering::Relaxed);
                    warn!(lines, "lines of the log were dropped: nobody read them for a while");
                }
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }
}

const THREAD: &str = "vipd-log";

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn lines_come_out_in_order_and_whole() {
        let (out, mut read) = UnixStream::pair().unwrap();
        let queue = Queue::onto(out).unwrap();
        let mut expected = String::new();
        for number in 0..100 {
            let line = format!("line {number}\n");
            queue.put(line.as_bytes());
            expected += &line;
        }
        assert!(queue.flush(LONG));
        let mut got = vec![0; expected.len()];
        read.read_exact(&mut got).unwrap();
        assert_eq!(String::from_utf8(got).unwrap(), expected);
        let long = "x".repeat(2 * LINE_MAX);
        queue.put(long.as_bytes());
        let mut got = vec![0; LINE_MAX + 1];
        read.read_exact(&mut got).unwrap();
        assert_eq!(got, format!("{}\n", "x".repeat(LINE_MAX)).as_bytes());
    }

    #[test]
    fn where_nobody_reads_lines_are_dropped_and_nobody_waits_for_long() {
        let (out, read) = UnixStream::pair().unwrap();
        let queue = Queue::onto(out).unwrap();
        let line = [b'x'; 1000];
        let mut put = 0;
        while queue.dropped.load(Ordering::Relaxed) == 0 {
            queue.put(&line);
            put += 1;
            assert!(put < 1_000_000, "a queue without bound");
        }
        assert!(!queue.flush(Duration::from_millis(10)));
        // A reader that comes back gets what was kept.
        let reading = std::thread::spawn(move || {
            let mut got = 0;
            let mut buffer = [0; 4096];
            for_each_read(read, &mut buffer, |len| {
                got += len;
                got < line.len() * (put - 1)
            });
        });
        reading.join().unwrap();
        assert!(queue.flush(LONG));
    }

    fn for_each_read(mut from: UnixStream, buffer: &mut [u8], mut what: impl FnMut(usize) -> bool) {
        loop {
            let len = from.read(buffer).unwrap();
            assert!(len > 0);
            if !what(len) {
                return;
            }
        }
    }

    #[test]
    fn a_queue_whose_lines_cannot_be_written_goes_on() {
        let (out, read) = UnixStream::pair().unwrap();
        drop(read);
        let queue = Queue::onto(out).unwrap();
        queue.put(b"to nobody\n");
        assert!(queue.flush(LONG));
        queue.put(b"nor this\n");
        assert!(queue.flush(LONG));
    }
}
