//! What a running vipd gives up of what it was started with: all that it reads comes from a network, and should somebody get hold of it that
//! way, there is little to be had.
//!
//! | what | when | of whom |
//! |---|---|---|
//! | capabilities but for [`capabilities::KEPT`], the way to get others, core dumps, being traced | before a thread is begun or a packet read | the process |
//! | writing, making and running files but in a few folders ([`files`]) | when the configuration is known | the process |
//! | system calls that it doesn't make ([`calls`]) | likewise | the process |
//! | all capabilities | when they begin | threads that read what strangers send, and need none ([`capabilities::renounce`]) |
//!
//! What the kernel refuses is told, and vipd does its work all the same: each is a defence of its own. A vipd that takes over from one that runs
//! has what that one was left with.

mod calls;
pub(crate) mod capabilities;
mod files;

use std::fmt;
use std::path::PathBuf;

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::set_no_new_privs;
use tracing::{info, warn};

/// What could be given up, in words for the log, and what could not, with the reason.
#[derive(Debug, Default)]
pub(crate) struct Confinement {
    done: Vec<&'static str>,
    failed: Vec<String>,
}

impl Confinement {
    /// Begins, unless the operator wants none of it.
    pub(crate) fn unless(unconfined: bool) -> Option<Self> {
        (!unconfined).then(Self::begin)
    }

    /// Gives up capabilities, and the way to get them back. For a process of one thread: those that are begun later have no more.
    fn begin() -> Self {
        let mut this = Self::default();
        this.note("no new privileges", set_no_new_privs(true));
        this.note("capabilities", capabilities::keep());
        // Neither a core dump nor another process of the same user shows what keys are in memory.
        this.note("no core dumps", set_dumpable_behavior(DumpableBehavior::NotDumpable));
        this
    }

    /// Gives up files and system calls, and tells what has become of all. `folders` are those that vipd writes in. One that takes over has
    /// what its predecessor was left with: of filters that lie on one another there is an end.
    pub(crate) fn complete(mut self, folders: &[PathBuf], takes_over: bool) {
        if !takes_over {
            self.note("files", files::restrict(folders));
            self.note("system calls", calls::restrict());
        }
        info!(given_up = self.done.join(", "), "vipd is confined");
        for failure in self.failed {
            warn!(failure, "vipd is less confined than it could be");
        }
    }

    fn note<E: fmt::Display>(&mut self, what: &'static str, outcome: Result<(), E>) {
        match outcome {
            Ok(()) => self.done.push(what),
            Err(error) => self.failed.push(format!("{what}: {error}")),
        }
    }
}

#[cfg(test)]
mod tests;
