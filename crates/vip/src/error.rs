//! What can go wrong between this crate and the kernel.

use crate::address::Address;
use std::io;

/// Why an operation on the network failed. Unless a variant says otherwise, nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No netlink socket: not a network namespace of Linux, or no file descriptors left.
    #[error("failed to open a netlink socket")]
    Netlink(#[source] io::Error),

    /// No interface has this name.
    #[error("failed to find interface {interface}")]
    NoInterface {
        /// The name.
        interface: String,
    },

    /// The interface can't carry ARP or neighbour discovery as this crate speaks it.
    #[error("failed to use interface {interface}: its hardware address has {octets} octets, Ethernet has 6")]
    NotEthernet {
        /// The name.
        interface: String,
        /// Length of its hardware address.
        octets: usize,
    },

    /// The kernel did not tell the state of the interfaces or their addresses.
    #[error("failed to list {what}")]
    List {
        /// What was asked for.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },

    /// An address that is to be owned is there already, and isn't a leftover of ours.
    #[error(
        "failed to take {address}: {interface} carries it already as {found}, and not from us; \
         take it out of the node's own network configuration, or choose another virtual IP"
    )]
    Foreign {
        /// The virtual IP.
        address: Address,
        /// As what it stands on the interface.
        found: Address,
        /// The interface that has it: the wanted one or another of this node.
        interface: String,
    },

    /// The kernel did not add or renew an address, which may now be there or not.
    #[error("failed to add {address} to {interface}")]
    Hold {
        /// The address.
        address: Address,
        /// The interface.
        interface: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },

    /// The interface has no IPv6, so the kernel takes no such address there.
    #[error(
        "failed to add {address} to {interface}, which has no IPv6: its MTU is below 1280, or \
         net.ipv6.conf.{interface}.disable_ipv6 is 1"
    )]
    NoIpv6 {
        /// The address.
        address: Address,
        /// The interface.
        interface: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },

    /// The kernel did not remove an address, which may still be there until its lifetime ends.
    #[error("failed to remove {address} from {interface}")]
    Withdraw {
        /// The address.
        address: Address,
        /// The interface.
        interface: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },

    /// No packet socket on the interface: usually a missing `CAP_NET_RAW`.
    #[error("failed to open a packet socket on {interface}")]
    Packets {
        /// The interface.
        interface: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },

    /// A frame did not leave.
    #[error("failed to send a frame on {interface}")]
    Send {
        /// The interface.
        interface: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },

    /// The network's events have ended: the driver is blind, and has withdrawn the addresses.
    #[error("failed to follow interface {interface}: its event sources ended")]
    Blind {
        /// The interface.
        interface: String,
    },
}

impl Error {
    /// What it is that the kernel refuses an address with this answer.
    pub(crate) fn hold(address: Address, interface: String, source: io::Error) -> Self {
        // Without IPv6 (`disable_ipv6`) it says EACCES, and where the MTU leaves none EINVAL; a missing right is EPERM.
        let no_ipv6 = matches!(source.raw_os_error(), Some(libc::EACCES | libc::EINVAL));
        if address.ip.is_ipv6() && no_ipv6 {
            Self::NoIpv6 { address, interface, source }
        } else {
            Self::Hold { address, interface, source }
        }
    }

    /// Whether the kernel gave no answer in time, so that the same request may succeed a moment later.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        match self {
            Self::List { source, .. } | Self::Hold { source, .. } | Self::Withdraw { source, .. } => {
                source.kind() == io::ErrorKind::TimedOut
            }
            Self::Netlink(_)
            | Self::NoInterface { .. }
            | Self::NotEthernet { .. }
            | Self::NoIpv6 { .. }
            | Self::Foreign { .. }
            | Self::Packets { .. }
            | Self::Send { .. }
            | Self::Blind { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_ipv6_address_that_the_kernel_has_no_room_for_is_told_as_ipv6_that_is_off() {
        let refused = |ip: &str, number| {
            let address = Address::host(ip.parse().unwrap());
            Error::hold(address, "eth0".to_owned(), io::Error::from_raw_os_error(number))
        };
        for number in [libc::EACCES, libc::EINVAL] {
            assert!(matches!(refused("fd00::7", number), Error::NoIpv6 { .. }), "{number}");
            assert!(matches!(refused("10.0.0.7", number), Error::Hold { .. }), "{number}");
        }
        assert!(matches!(refused("fd00::7", libc::EPERM), Error::Hold { .. }), "a right that is missing");
    }
}
