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

/// Octets that a header may have: those of version 1, and of version 2 with 232 of extensions (TLVs). One with more is refused.
pub(crate) const HEADER_MAX: usize = 16 + 36 + 232;

/// What a header that begins a connection says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// More octets are needed.
    Part,
    /// A header of so many octets.
    Whole {
        length: usize,
        /// Client and server as the client saw them; `None` for a connection of the sender's own, or one whose ends it doesn't know.
        ends: Option<(SocketAddr, SocketAddr)>,
    },
    /// This is none.
    Garbage,
}

/// Reads the header at the beginning of `octets`, of either version.
pub(crate) fn parse(octets: &[u8]) -> Heard {
    let begins = |with: &[u8]| !octets.is_empty() && (octets.starts_with(with) || with.starts_with(octets));
    if begins(SIGNATURE) {
        parse_2(octets)
    } else if begins(b"PROXY ") {
        parse_1(octets)
    } else if octets.is_empty() {
        Heard::Part
    } else {
        Heard::Garbage
    }
}

/// The longest line of version 1 (§2.1).
const LINE_MAX: usize = 107;

fn parse_1(octets: &[u8]) -> Heard {
    let seen = &octets[..octets.len().min(LINE_MAX)];
    let Some(end) = seen.windows(2).position(|two| two == b"\r\n") else {
        return if octets.len() < LINE_MAX { Heard::Part } else { Heard::Garbage };
    };
    let length = end + 2;
    let Ok(line) = str::from_utf8(&seen[..end]) else { return Heard::Garbage };
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        ["PROXY", "UNKNOWN", ..] => Heard::Whole { length, ends: None },
        ["PROXY", family @ ("TCP4" | "TCP6"), from, to, from_port, to_port] => {
            let end = |ip: &str, port: &str| Some(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?));
            match (end(from, from_port), end(to, to_port)) {
                (Some(from), Some(to))
                    if from.is_ipv4() == (family == "TCP4") && from.is_ipv4() == to.is_ipv4() =>
                {
                    Heard::Whole { length, ends: Some((from, to)) }
                }
                _ => Heard::Garbage,
            }
        }
        _ => Heard::Garbage,
    }
}

fn parse_2(octets: &[u8]) -> Heard {
    let Some((head, rest)) = octets.split_first_chunk::<16>() else { return Heard::Part };
    let content = usize::from(u16::from_be_bytes([head[14], head[15]]));
    let length = head.len() + content;
    if length > HEADER_MAX || !matches!(head[12], LOCAL | PROXIED) {
        return Heard::Garbage;
    }
    let Some(content) = rest.get(..content) else { return Heard::Part };
    if head[12] == LOCAL {
        return Heard::Whole { length, ends: None };
    }
    let port = |octets: &[u8]| u16::from_be_bytes([octets[0], octets[1]]);
    let ends = match (head[13], content.len()) {
        (family, 12..) if family == STREAMS[0] => {
            let ip = |octets: &[u8]| <[u8; 4]>::try_from(octets).map(std::net::IpAddr::from);
            (ip(&content[..4]).ok()).zip(ip(&content[4..8]).ok()).map(|(from, to)| {
                (SocketAddr::new(from, port(&content[8..])), SocketAddr::new(to, port(&content[10..])))
            })
        }
        (family, 36..) if family == STREAMS[1] => {
            let ip = |octets: &[u8]| <[u8; 16]>::try_from(octets).map(std::net::IpAddr::from);
            (ip(&content[..16]).ok()).zip(ip(&content[16..32]).ok()).map(|(from, to)| {
                (SocketAddr::new(from, port(&content[32..])), SocketAddr::new(to, port(&content[34..])))
            })
        }
        // Of a kind that isn't TCP, or unknown: the connection is taken as it is (§2.2).
        (family, _) if !STREAMS.contains(&family) => None,
        _ => return Heard::Garbage,
    };
    Heard::Whole { length, ends }
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
    fn what_is_written_is_read_octet_by_octet() {
        for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
            for (client, server) in
                [("10.0.0.10:1", "10.0.0.162:65535"), ("[fd00::10]:258", "[fd00::162]:6443")]
            {
                let header = header(version, client, server);
                for cut in 0..header.len() {
                    assert_eq!(parse(&header[..cut]), Heard::Part, "{version:?} {client} up to {cut}");
                }
                let ends = Some((client.parse().unwrap(), server.parse().unwrap()));
                let whole = Heard::Whole { length: header.len(), ends };
                assert_eq!(parse(&header), whole);
                assert_eq!(
                    parse(&[&header[..], b"GET / HTTP/1.1"].concat()),
                    whole,
                    "what follows isn't its own"
                );
            }
            let own = version.own_header();
            assert_eq!(parse(&own), Heard::Whole { length: own.len(), ends: None });
        }
    }

    #[test]
    fn garbage_is_told_at_once() {
        for garbage in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"PROXY TCP4 10.0.0.1 10.0.0.2 1\r\n",
            b"PROXY TCP4 10.0.0.1 10.0.0.2 1 65536\r\n",
            b"PROXY TCP4 fd00::1 fd00::2 1 2\r\n",
            b"PROXY TCP6 10.0.0.1 10.0.0.2 1 2\r\n",
            b"PROXY TCP4  10.0.0.1 10.0.0.2 1 2\r\n",
            b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2 3\r\n",
            b"PROXY \xff\r\n",
            &[b"PROXY ", &[b'x'; 200][..]].concat(),
            // Version 3, an unknown command, too short for its family, too long.
            b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c",
            b"\r\n\r\n\0\r\nQUIT\n\x22\x11\0\x0c",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x02ab",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
        ] {
            assert_eq!(parse(garbage), Heard::Garbage, "{garbage:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_octets_panic(octets in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400), known in 0..3_u8) {
            let mut octets = octets;
            match known {
                0 => octets.splice(..octets.len().min(12), SIGNATURE.iter().copied()).for_each(drop),
                1 => octets.splice(..octets.len().min(6), b"PROXY ".iter().copied()).for_each(drop),
                _ => {}
            }
            if let Heard::Whole { length, .. } = parse(&octets) {
                proptest::prop_assert!(length <= octets.len());
            }
        }
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
