//! The scheduling class of the thread that renews leases and withdraws addresses.
//!
//! An owner that wakes late gives its address up late. On a busy host the ordinary class wakes a thread tens of
//! milliseconds late; a real-time class doesn't. This is the one module of the binary with unsafe code: no safe wrapper
//! for these calls is in the tree.

use std::io;

/// A low real-time priority: above every ordinary thread, below the kernel's own and any deliberate real-time work.
const PRIORITY: libc::c_int = 1;

/// Puts the calling thread into the round-robin real-time class. Threads it starts later are ordinary ones.
///
/// # Errors
/// The kernel's refusal, usually for lack of CAP_SYS_NICE; the thread's class is then unchanged.
#[expect(unsafe_code, reason = "sched_setscheduler(2) has no safe wrapper in the tree")]
pub(crate) fn raise() -> io::Result<()> {
    let parameter = libc::sched_param { sched_priority: PRIORITY };
    // SAFETY: `parameter` is a valid sched_param that outlives the call; 0 names the calling thread; the call
    // changes nothing but that thread's scheduling.
    let result = unsafe {
        libc::sched_setscheduler(0, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, &raw const parameter)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether the calling thread is in that class.
#[expect(unsafe_code, reason = "sched_getscheduler(2) has no safe wrapper in the tree")]
pub(crate) fn is_raised() -> bool {
    // SAFETY: 0 names the calling thread; nothing is changed.
    let class = unsafe { libc::sched_getscheduler(0) };
    class & !libc::SCHED_RESET_ON_FORK == libc::SCHED_RR
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raised_thread_is_in_the_class_and_what_it_starts_is_not() {
        let inside = std::thread::spawn(|| {
            assert!(!is_raised(), "a thread is an ordinary one at first");
            if let Err(error) = raise() {
                assert!(!is_raised(), "a refusal changes nothing");
                return eprintln!("SKIPPED: this machine permits no real-time class: {error}");
            }
            assert!(is_raised());
            let started = std::thread::spawn(is_raised);
            assert!(!started.join().expect("it only asks"), "a thread that it starts is an ordinary one");
            assert!(is_raised(), "and the one that started it is what it was");
        });
        inside.join().expect("each of it held");
    }
}
