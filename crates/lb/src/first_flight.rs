//! The client's first bytes, kept while they may have to be said again to another backend.
//!
//! A TLS handshake may be repeated: until the server's first byte, the client has seen nothing and the server
//! has done nothing that lasts. (Early data, RFC 8446 §8, may be replayed by anyone on the path already.) Of
//! any other protocol that is unknown, so other bytes are never kept.

/// Most bytes kept. A ClientHello with post-quantum key shares and a resumption ticket stays under 4 KiB; a
/// TLS record holds 16 KiB at most (RFC 8446 §5.1).
pub(crate) const KEPT: usize = 16 * 1024;

/// First bytes of a TLS record that carries a handshake: its type, and the major version that all of TLS
/// shares.
const HANDSHAKE: [u8; 2] = [0x16, 0x03];

/// What the client has said so far.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct FirstFlight {
    kept: Vec<u8>,
}

impl FirstFlight {
    /// Takes in what the client said next; false when it can't be said again, and this value is of no use any
    /// more.
    #[must_use]
    pub(crate) fn keep(&mut self, bytes: &[u8]) -> bool {
        if self.kept.len() + bytes.len() > KEPT {
            return false;
        }
        self.kept.extend_from_slice(bytes);
        self.kept.iter().zip(HANDSHAKE).all(|(said, expected)| *said == expected)
    }

    /// True while the client has said nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// All that the client said.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handshake_is_kept_whole_however_it_is_cut() {
        let hello = [0x16, 0x03, 0x01, 0x00, 0x05, 1, 2, 3, 4, 5];
        for cut in 0..hello.len() {
            let mut flight = FirstFlight::default();
            assert!(flight.keep(&hello[..cut]) && flight.keep(&hello[cut..]), "cut at {cut}");
            assert_eq!(flight.bytes(), hello);
        }
    }

    #[test]
    fn other_protocols_are_not_kept() {
        assert!(!FirstFlight::default().keep(b"GET / HTTP/1.1\r\n"));
        assert!(!FirstFlight::default().keep(&[0x16, 0x02]));
        assert!(!FirstFlight::default().keep(&[0x17, 0x03, 0x03]));
    }

    #[test]
    fn a_first_byte_alone_decides_only_against() {
        let mut flight = FirstFlight::default();
        assert!(flight.keep(&[0x16]));
        assert!(!flight.keep(b"x"));
    }

    #[test]
    fn more_than_the_bound_is_not_kept() {
        let mut flight = FirstFlight::default();
        let mut record = vec![0x16, 0x03, 0x01];
        record.resize(KEPT, 0);
        assert!(flight.keep(&record));
        assert!(!flight.keep(&[0]));
        assert!(flight.bytes().len() <= KEPT);
    }
}
