//! What tells a backend who its client is: the header of the PROXY protocol, versions 1 and 2
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>). Pure.

use std::net::SocketAddr;

/// A version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// A line of text.
    V1,
    /// Octets.
    V2,
}

/// Octets by which version 2 begins (§2.2).
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, on behalf of another.
const PROXIED: u8 = 0x21;
/// Version 2, on the sender's own behalf.
const LOCAL: u8 = 0x20;
/// TCP over IPv4, and over IPv6.
const STREAMS: [u8; 2] = [0x11, 0x21];

impl ProxyProtocol {
    /// The header of a connection from `client` to `server`, both as the client sees them. Where they are of two families, or one isn't
    /// known, it says that nothing is.
    pub(crate) fn header(self, client: Option<SocketAddr>, server: Option<SocketAddr>) -> Vec<u8> {
        match (self, client, server) {
            (Self::V1, Some(client), Some(server)) if client.is_ipv4() == server.is_ipv4() => {
                let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
                let (from, to) = (client.ip(), server.ip());
                format!("PROXY {family} {from} {to} {} {}\r\n", client.port(), server.port()).into_bytes()
            }
            (Self::V1, ..) => b"PROXY UNKNOWN\r\n".to_vec(),
            (Self::V2, Some(SocketAddr::V4(client)), Some(SocketAddr::V4(server))) => {
                let addresses = [client.ip().octets(), server.ip().octets()].concat();
                version_2(PROXIED, STREAMS[0], &addresses, [client.port(), server.port()])
            }
            (Self::V2, Some(SocketAddr::V6(client)), Some(SocketAddr::V6(server))) => {
                let addresses = [client.ip().octets(), server.ip().octets()].concat();
                version_2(PROXIED, STREAMS[1], &addresses, [client.port(), server.port()])
            }
            // The connection is real, its ends are not told (§2.2, AF_UNSPEC).
            (Self::V2, ..) => [&SIGNATURE[..], &[PROXIED, 0, 0, 0]].concat(),
        }
    }

    /// The header of a connection of the balancer's own, as a check is.
    pub(crate) fn own_header(self) -> Vec<u8> {
        match self {
            Self::V1 => b"PROXY UNKNOWN\r\n".to_vec(),
            Self::V2 => [&SIGNATURE[..], &[LOCAL, 0, 0, 0]].concat(),
        }
    }
}

fn version_2(command: u8, family: u8, addresses: &[u8], ports: [u16; 2]) -> Vec<u8> {
    let ports = ports.map(u16::to_be_bytes).concat();
    // At most 36 octets.
    let length = [0, u8::try_from(addresses.len() + ports.len()).unwrap_or(u8::MAX)];
    [&SIGNATURE[..], &[command, family], &length, addresses, &ports].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(version: ProxyProtocol, client: &str, server: &str) -> Vec<u8> {
        version.header(Some(client.parse().unwrap()), Some(server.parse().unwrap()))
    }

    #[test]
    fn version_1_is_a_line() {
        let line = |client, server| String::from_utf8(header(ProxyProtocol::V1, client, server)).unwrap();
        assert_eq!(
            line("10.0.0.10:41830", "10.0.0.162:6443"),
            "PROXY TCP4 10.0.0.10 10.0.0.162 41830 6443\r\n"
        );
        assert_eq!(line("[fd00::10]:1", "[fd00::162]:65535"), "PROXY TCP6 fd00::10 fd00::162 1 65535\r\n");
        assert_eq!(line("[fd00::10]:1", "10.0.0.162:2"), "PROXY UNKNOWN\r\n");
        // The longest that there may be (§2.1).
        let longest = line(
            "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
            "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
        );
        assert!(longest.len() <= 107, "{longest}");
    }

    #[test]
    fn version_2_is_as_the_specification_lays_it_out() {
        let four = header(ProxyProtocol::V2, "10.0.0.10:258", "10.0.0.162:6443");
        assert_eq!(four[..12], *b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a");
        assert_eq!(four[12..], [0x21, 0x11, 0, 12, 10, 0, 0, 10, 10, 0, 0, 162, 1, 2, 0x19, 0x2b]);
        let six = header(ProxyProtocol::V2, "[fd00::10]:1", "[fd00::162]:2");
        assert_eq!((&six[12..16], six.len()), (&[0x21, 0x21, 0, 36][..], 52));
        assert_eq!(ProxyProtocol::V2.header(None, None)[12..], [0x21, 0, 0, 0]);
        assert_eq!(ProxyProtocol::V2.own_header()[12..], [0x20, 0, 0, 0]);
    }
}
