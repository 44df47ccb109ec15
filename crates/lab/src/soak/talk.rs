//! What a client and a backend say to each other: rounds, each a head, the client's content, the backend's, and a receipt.
//!
//! ```text
//! client ──▶  head (48 bytes: who, which round, how much, in which order) │ content
//! backend ─▶  content │ receipt (16 bytes: checksum and number of the bytes that came)
//! ```

use std::io;

/// Bytes of a head.
pub(super) const HEAD: usize = 48;
/// Bytes of a receipt.
pub(super) const RECEIPT: usize = 16;

/// How a repeatable head begins: like the record of a TLS handshake (RFC 8446, 5.1), by which vipd knows first bytes that it may say again
/// to another backend. No version of TLS has this number.
const REPEATABLE: [u8; 4] = [0x16, 0x03, b'S', b'K'];
/// How any other begins.
const PLAIN: [u8; 4] = *b"SOAK";

/// How the two sides of a round follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// The backend answers when it has all of the client's content.
    InTurn,
    /// Both speak at once; the receipt comes when all has come.
    Together,
    /// The client ends its stream behind its content, and the backend answers then, and ends.
    ClientEnds,
    /// The backend answers and ends its stream before it reads on; the client ends when it has said all. There is no receipt.
    BackendEnds,
}

impl Order {
    const ALL: [Self; 4] = [Self::InTurn, Self::Together, Self::ClientEnds, Self::BackendEnds];
}

/// What one round is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// The head may be said again to another backend.
    pub(super) repeatable: bool,
    /// Who speaks when.
    pub(super) order: Order,
    /// Its number within the stream, from 0 on.
    pub(super) round: u32,
    /// Which stream.
    pub(super) stream: u64,
    /// Bytes of the client's content.
    pub(super) up: u64,
    /// Bytes of the backend's content.
    pub(super) down: u64,
    /// For how many milliseconds the backend waits before it answers.
    pub(super) think: u32,
    /// How many bytes of content a second each side sends at most; 0: as many as it can.
    pub(super) pace: u64,
}

impl Head {
    /// Its bytes.
    pub(super) fn bytes(self) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        bytes[..4].copy_from_slice(if self.repeatable { &REPEATABLE } else { &PLAIN });
        bytes[4] =
            Order::ALL.iter().zip(0..).find(|(order, _)| **order == self.order).map_or(0, |(_, code)| code);
        bytes[8..12].copy_from_slice(&self.round.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.think.to_le_bytes());
        for (place, number) in [self.stream, self.up, self.down, self.pace].into_iter().enumerate() {
            bytes[16 + 8 * place..24 + 8 * place].copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// Reads one.
    ///
    /// # Errors
    /// If it is none: a byte has changed, or is missing before it.
    pub(super) fn read(bytes: &[u8; HEAD]) -> io::Result<Self> {
        let number = |place: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&bytes[16 + 8 * place..24 + 8 * place]);
            u64::from_le_bytes(number)
        };
        let order = Order::ALL.get(usize::from(bytes[4])).copied().ok_or(io::ErrorKind::InvalidData)?;
        let head = Self {
            repeatable: bytes[..4] == REPEATABLE,
            order,
            round: u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]),
            think: u32::from_le_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]),
            stream: number(0),
            up: number(1),
            down: number(2),
            pace: number(3),
        };
        if head.bytes() == *bytes { Ok(head) } else { Err(io::ErrorKind::InvalidData.into()) }
    }
}

/// Whether a connection that begins with these bytes speaks TLS: it is one of vipd's checks.
pub(super) fn is_tls(begin: [u8; 4]) -> bool {
    begin[..2] == REPEATABLE[..2] && begin != REPEATABLE
}

/// The bytes of a receipt for content with this checksum and length.
pub(super) fn receipt((sum, length): (u64, u64)) -> [u8; RECEIPT] {
    let mut bytes = [0; RECEIPT];
    bytes[..8].copy_from_slice(&sum.to_le_bytes());
    bytes[8..].copy_from_slice(&length.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_as_they_are_written_and_nothing_else_is_one() {
        for order in Order::ALL {
            for repeatable in [false, true] {
                let head = Head {
                    repeatable,
                    order,
                    round: 3,
                    stream: u64::MAX - 5,
                    up: 1 << 40,
                    down: 17,
                    think: 9,
                    pace: 1000,
                };
                let bytes = head.bytes();
                assert_eq!(Head::read(&bytes).unwrap(), head);
                assert!(!is_tls([bytes[0], bytes[1], bytes[2], bytes[3]]));
                for place in [0, 1, 2, 3, 5, 7] {
                    let mut wrong = bytes;
                    wrong[place] ^= 0x40;
                    assert!(Head::read(&wrong).is_err(), "byte {place}");
                }
            }
        }
        assert!(is_tls([0x16, 0x03, 0x01, 0x02]));
    }
}
