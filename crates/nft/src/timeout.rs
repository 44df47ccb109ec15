//! How long the kernel remembers a TCP connection, where that is to be another time than the host's (nf_tables' object `ct timeout`).

use crate::attribute::{OBJECT_DATA, OBJECT_NAME, OBJECT_TABLE, OBJECT_TYPE};
use crate::message::{Attributes, Batch, Step, Verb};
use crate::rule::protocol_family;

impl Batch {
    /// Adds to a table, under this name, that a TCP connection is forgotten after so many seconds in which its handshake makes no step.
    /// In other states it has the host's times (`net.netfilter.nf_conntrack_tcp_timeout_*`), as they are now.
    ///
    /// Needs `CONFIG_NF_CONNTRACK_TIMEOUT`. It is for connections of IPv4 and of IPv6.
    pub fn add_handshake_timeout(&mut self, table: &str, name: &str, seconds: u32) {
        let times = Attributes::default().number(STATE_SYN_SENT, seconds).number(STATE_SYN_RECEIVED, seconds);
        // The kernel keeps the family and asks nobody for it.
        let family = u16::from(protocol_family([0; 4].into()));
        let data = Attributes::default()
            .bytes(FAMILY, &family.to_be_bytes())
            .bytes(PROTOCOL, &[TCP])
            .nest(TIMES, &times);
        let attributes = Attributes::default()
            .text(OBJECT_TABLE, table)
            .text(OBJECT_NAME, name)
            .number(OBJECT_TYPE, TIMEOUT)
            .nest(OBJECT_DATA, &data);
        self.add(Step::Timeout, Verb::NewObject, &attributes);
    }
}

impl Attributes {
    /// Adds: the connection that this packet begins has the times of that name, of the same table.
    #[must_use]
    pub fn give_timeout(self, name: &str) -> Self {
        const TYPE: u16 = 1;
        const NAME: u16 = 2;
        self.expression("objref", &Self::default().number(TYPE, TIMEOUT).text(NAME, name))
    }
}

/// `NFT_OBJECT_CT_TIMEOUT`
const TIMEOUT: u32 = 7;
/// `IPPROTO_TCP`
const TCP: u8 = 6;
/// `NFTA_CT_TIMEOUT_L3PROTO`
const FAMILY: u16 = 1;
/// `NFTA_CT_TIMEOUT_L4PROTO`
const PROTOCOL: u16 = 2;
/// `NFTA_CT_TIMEOUT_DATA`
const TIMES: u16 = 3;
/// `CTA_TIMEOUT_TCP_SYN_SENT`
const STATE_SYN_SENT: u16 = 1;
/// `CTA_TIMEOUT_TCP_SYN_RECV`
const STATE_SYN_RECEIVED: u16 = 2;
