//! Capabilities (capabilities(7)).

use std::io;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, no_new_privs, remove_capability_from_bounding_set,
    set_capabilities,
};
use tracing::debug;

/// What vipd needs while it runs: the address, routes and nf_tables; raw sockets for ARP, neighbour discovery and tickles; ports below
/// 1024; real-time priority; memory that stays in RAM. Files are read and sockets made as the user that it runs as.
pub(crate) const KEPT: CapabilitySet = CapabilitySet::NET_ADMIN
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_NICE)
    .union(CapabilitySet::IPC_LOCK);

/// Gives up all others of the calling thread, and those that a program it starts could have. What the thread hasn't got it doesn't get.
///
/// # Errors
/// The kernel's refusal.
pub(crate) fn keep() -> io::Result<()> {
    let held = capabilities(None)?;
    if held.effective.contains(CapabilitySet::SETPCAP) {
        for capability in CapabilitySet::all().difference(KEPT).iter() {
            // The kernel knows fewer than the library does, where it is older.
            let _unknown = remove_capability_from_bounding_set(capability);
        }
    }
    let left = CapabilitySets {
        effective: held.effective.intersection(KEPT),
        permitted: held.permitted.intersection(KEPT),
        inheritable: held.inheritable.intersection(KEPT),
    };
    set_capabilities(None, left)?;
    Ok(())
}

/// Gives up all of the calling thread's, for one that needs none: in a process that has given up its own, and so isn't to keep them.
pub(crate) fn renounce() {
    if no_new_privs() == Ok(true)
        && let Err(error) = drop_all()
    {
        let thread = std::thread::current();
        debug!(%error, thread = thread.name(), "a thread keeps its capabilities");
    }
}

/// Gives up all of the calling thread's.
///
/// # Errors
/// The kernel's refusal.
pub(super) fn drop_all() -> io::Result<()> {
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    Ok(())
}
