//! The kernel's table of TCP sockets (sock_diag(7)): who is connected to a virtual IP, whatever program serves it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt as _;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_packet_sock_diag::{AF_INET, AF_INET6, IPPROTO_TCP, SockDiagMessage};
use rtnetlink::packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use rtnetlink::proto::ConnectionHandle;
use rtnetlink::sys::{SocketAddr as Kernel, protocols::NETLINK_SOCK_DIAG};
use tokio::task::JoinSet;

use crate::tickle::Connection;

/// A connection to the kernel that asks for this host's TCP sockets. It ends when it is dropped.
#[derive(Debug)]
pub struct Sockets {
    handle: ConnectionHandle<SockDiagMessage>,
    _connection: JoinSet<()>,
}

impl Sockets {
    /// Opens the connection, in the calling thread's network namespace; runs on the current tokio runtime.
    ///
    /// # Errors
    ///
    /// The kernel has no `sock_diag` (`CONFIG_INET_DIAG`).
    pub fn open() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::proto::new_connection(NETLINK_SOCK_DIAG)?;
        let mut tasks = JoinSet::new();
        tasks.spawn(connection);
        Ok(Self { handle, _connection: tasks })
    }

    /// Lists the established connections to these addresses, at most so many of them.
    ///
    /// # Errors
    ///
    /// The kernel did not answer, or not within half a second.
    pub async fn connections(&self, vips: &[IpAddr], limit: usize) -> io::Result<Vec<Connection>> {
        let list = async {
            let mut found = Vec::new();
            // A socket of IPv6 has a client of IPv4 as well, where it listens for both.
            let ipv4 = vips.iter().any(IpAddr::is_ipv4).then_some((AF_INET, SocketId::new_v4()));
            for (family, any) in ipv4.into_iter().chain([(AF_INET6, SocketId::new_v6())]) {
                self.list(family, any, vips, limit, &mut found).await?;
            }
            Ok(found)
        };
        tokio::time::timeout(PATIENCE, list).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn list(
        &self,
        family: u8,
        any: SocketId,
        vips: &[IpAddr],
        limit: usize,
        found: &mut Vec<Connection>,
    ) -> io::Result<()> {
        let request = InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::empty(),
            states: StateFlags::ESTABLISHED,
            socket_id: any,
        };
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
        let mut answers = self.handle.request(message, Kernel::new(0, 0)).map_err(io::Error::other)?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = &answer.payload {
                return Err(error.to_io());
            }
            let NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(socket)) = answer.payload else {
                continue;
            };
            let ends = &socket.header.socket_id;
            let server = ends.source_address.to_canonical();
            // The rest of the answer is read in any case: the next one comes after it.
            if found.len() < limit && vips.contains(&server) {
                let client = SocketAddr::new(ends.destination_address, ends.destination_port);
                found.extend(Connection::new(client, SocketAddr::new(server, ends.source_port)));
            }
        }
        Ok(())
    }
}

/// Thousands of sockets take milliseconds.
const PATIENCE: Duration = Duration::from_millis(500);
