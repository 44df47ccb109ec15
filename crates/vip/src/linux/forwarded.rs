//! The kernel's memory of connections: who is connected to a virtual IP whose connections it leads elsewhere, so that no socket of
//! this host has them.

use std::io;
use std::net::IpAddr;

use nft::conntrack::{Memory, Protocol};

use crate::tickle::Connection;

/// A way to ask for connections that the kernel leads elsewhere.
#[derive(Debug)]
pub struct Forwarded {
    memory: Memory,
    ports: Vec<u16>,
}

impl Forwarded {
    /// Opens it, in the calling thread's network namespace, for connections to these ports.
    ///
    /// # Errors
    ///
    /// The kernel has no netfilter.
    pub fn open(ports: Vec<u16>) -> io::Result<Self> {
        Ok(Self { memory: Memory::open()?, ports })
    }

    /// Lists those to these addresses that are established, at most so many of them. The kernel's whole memory of connections is
    /// walked.
    ///
    /// # Errors
    ///
    /// The kernel doesn't tell.
    pub fn connections(&self, vips: &[IpAddr], limit: usize) -> io::Result<Vec<Connection>> {
        let mut found = Vec::new();
        for port in &self.ports {
            self.memory.each(Protocol::Tcp, *port, |flow| {
                let led = vips.contains(&flow.wanted.ip()) && flow.answering != flow.wanted;
                if led && flow.is_open && !flow.is_unanswered && found.len() < limit {
                    found.extend(Connection::new(flow.client, flow.wanted));
                }
            })?;
        }
        Ok(found)
    }
}
