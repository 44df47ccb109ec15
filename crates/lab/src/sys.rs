//! The system calls that the compiler cannot check: the only unsafe code of the lab.

use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, Signal, getpid, pidfd_open, set_parent_process_death_signal};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use socket2::{SockAddr, SockAddrStorage};

/// Moves the calling thread into new namespaces (for `NEWPID`: its future children).
///
/// # Errors
/// The kernel's: mostly `EPERM` without root.
pub(crate) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    assert!(!flags.contains(UnshareFlags::FILES), "file descriptors are shared between the lab's threads");
    // SAFETY: the danger of this call is `FILES`, ruled out above.
    Ok(unsafe { unshare_unsafe(flags) }?)
}

/// Has the kernel kill the command's process (SIGKILL) when the calling thread ends, however it ends.
///
/// # Errors
/// The kernel's, if it has no pidfd.
pub(crate) fn die_with_parent(command: &mut Command) -> io::Result<()> {
    let parent = pidfd_open(getpid(), PidfdFlags::empty())?;
    let tie = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the line above; then nobody would ever send the signal.
        let mut exited = [PollFd::new(&parent, PollFlags::IN)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        if poll(&mut exited, Some(&at_once))? > 0 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes two system calls, and neither allocates nor locks.
    unsafe { command.pre_exec(tie) };
    Ok(())
}

/// `struct sockaddr_ll` of packet(7).
#[repr(C)]
struct LinkLayerAddress {
    family: u16,
    protocol: u16,
    interface: i32,
    hardware_type: u16,
    packet_type: u8,
    address_length: u8,
    address: [u8; 8],
}

/// The address that binds an AF_PACKET socket to one EtherType on one interface.
pub(crate) fn link_layer_address(ethertype: u16, interface: u32) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: a plain C struct of integers, smaller than and aligned like `sockaddr_storage`; all bits are valid.
    let address = unsafe { storage.view_as::<LinkLayerAddress>() };
    address.family = rustix::net::AddressFamily::PACKET.as_raw();
    address.protocol = ethertype.to_be();
    address.interface = i32::try_from(interface).expect("interface numbers are small");
    let length = u32::try_from(size_of::<LinkLayerAddress>()).expect("it has 20 bytes");
    // SAFETY: the storage holds an initialised address of this length.
    unsafe { SockAddr::new(storage, length) }
}

/// A file descriptor as the number that netlink wants.
pub(crate) fn number(fd: &impl std::os::fd::AsFd) -> i32 {
    fd.as_fd().as_raw_fd()
}

/// What a packet socket can be told (packet(7)).
#[derive(Debug, Clone, Copy)]
pub(crate) enum PacketOption {
    /// `PACKET_VNET_HDR`: each frame begins with a `struct virtio_net_hdr`, both ways.
    Header = 15,
    /// `PACKET_IGNORE_OUTGOING`: frames that this machine sends are not received.
    IgnoreOutgoing = 23,
}

/// Sets an option of a packet socket.
///
/// # Errors
/// The kernel's, if it does not know the option.
pub(crate) fn set_packet_option(socket: &impl std::os::fd::AsFd, option: PacketOption) -> io::Result<()> {
    let one: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of_val(&one)).expect("it has four bytes");
    // SAFETY: the descriptor is open during the call, and the kernel reads one `c_int`, of which the length is given.
    let result = unsafe {
        libc::setsockopt(
            number(socket),
            libc::SOL_PACKET,
            option as libc::c_int,
            (&raw const one).cast(),
            length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
