//! What streams consist of: bytes that follow from a seed, and a checksum of them.

/// The bytes of one direction of one round. Any part of them can be had without what is before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Content {
    key: u64,
}

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// From the client to the backend.
    Up,
    /// From the backend to the client.
    Down,
}

/// The golden ratio's share of 2^64, as splitmix64 steps by it.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Bytes that are made and compared at once.
const PIECE: usize = 1024;

impl Content {
    /// What is said in this round of this stream, this way.
    pub(super) fn new(seed: u64, stream: u64, round: u32, way: Way) -> Self {
        let way = match way {
            Way::Up => 1,
            Way::Down => 2,
        };
        Self { key: mixed(mixed(mixed(seed) ^ stream) ^ (u64::from(round) << 8 | way)) }
    }

    /// Writes what comes at this position.
    pub(super) fn fill(self, from: u64, buffer: &mut [u8]) {
        let (mut at, mut rest) = (from, buffer);
        while !rest.is_empty() {
            let word = mixed(self.key.wrapping_add((at / 8).wrapping_mul(STEP))).to_le_bytes();
            let word = &word[(at % 8) as usize..];
            let length = word.len().min(rest.len());
            let (now, later) = rest.split_at_mut(length);
            now.copy_from_slice(&word[..length]);
            (at, rest) = (at + length as u64, later);
        }
    }

    /// Where these bytes, which came at this position, are the first time not what they should be.
    pub(super) fn first_wrong(self, from: u64, bytes: &[u8]) -> Option<u64> {
        let mut expected = [0; PIECE];
        let mut at = from;
        for piece in bytes.chunks(PIECE) {
            let expected = &mut expected[..piece.len()];
            self.fill(at, expected);
            if piece != expected {
                let place = piece.iter().zip(expected.iter()).position(|(is, should)| is != should);
                return Some(at + place.unwrap_or(0) as u64);
            }
            at += piece.len() as u64;
        }
        None
    }
}

/// The end of splitmix64: each bit of the argument changes half of those of the result.
fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// A checksum of bytes in their order, however they were cut when they came. It is to find errors, not forgers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Checksum {
    sum: u64,
    length: u64,
    /// Those that don't fill a word yet.
    rest: Vec<u8>,
}

impl Checksum {
    /// Takes in what comes next.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        let mut bytes = bytes;
        if !self.rest.is_empty() {
            let missing = (8 - self.rest.len()).min(bytes.len());
            self.rest.extend_from_slice(&bytes[..missing]);
            bytes = &bytes[missing..];
            if self.rest.len() == 8 {
                let word = std::mem::take(&mut self.rest);
                self.take_in(&word);
            }
        }
        let whole = bytes.len() / 8 * 8;
        for word in bytes[..whole].chunks_exact(8) {
            self.take_in(word);
        }
        self.rest.extend_from_slice(&bytes[whole..]);
    }

    fn take_in(&mut self, word: &[u8]) {
        let mut number = [0; 8];
        number[..word.len()].copy_from_slice(word);
        self.sum = (self.sum ^ u64::from_le_bytes(number)).wrapping_mul(STEP).rotate_left(29);
    }

    /// The sum of all so far, and how many they are.
    pub(super) fn value(&self) -> (u64, u64) {
        let mut all = self.clone();
        all.take_in(&self.rest);
        (mixed(all.sum ^ self.length), self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_the_same_however_it_is_cut() {
        let content = Content::new(7, 1, 2, Way::Up);
        let mut whole = [0; 5000];
        content.fill(0, &mut whole);
        for cut in [1, 7, 8, 9, 1024, 4999] {
            let mut rest = vec![0; whole.len() - cut];
            content.fill(cut as u64, &mut rest);
            assert_eq!(rest, whole[cut..], "cut at {cut}");
            assert_eq!(content.first_wrong(cut as u64, &rest), None);
        }
    }

    #[test]
    fn a_wrong_byte_is_found_where_it_is() {
        let content = Content::new(7, 1, 2, Way::Down);
        let mut bytes = [0; 4000];
        content.fill(100, &mut bytes);
        bytes[3333] ^= 1;
        assert_eq!(content.first_wrong(100, &bytes), Some(3433));
    }

    #[test]
    fn streams_rounds_and_directions_differ() {
        let begins = [(1, 1, Way::Up), (1, 1, Way::Down), (1, 2, Way::Up), (2, 1, Way::Up)].map(
            |(stream, round, way)| {
                let mut begin = [0; 16];
                Content::new(7, stream, round, way).fill(0, &mut begin);
                begin
            },
        );
        for (place, begin) in begins.iter().enumerate() {
            assert!(!begins[..place].contains(begin));
        }
    }

    #[test]
    fn a_checksum_knows_bytes_and_their_order_and_not_how_they_were_cut() {
        let sum = |pieces: &[&[u8]]| {
            let mut sum = Checksum::default();
            pieces.iter().for_each(|piece| sum.add(piece));
            sum.value()
        };
        let bytes: Vec<u8> = (0..=99).collect();
        let whole = sum(&[&bytes]);
        for cut in 0..bytes.len() {
            assert_eq!(sum(&[&bytes[..cut], &bytes[cut..]]), whole, "cut at {cut}");
        }
        let mut swapped = bytes.clone();
        swapped.swap(3, 4);
        assert_ne!(sum(&[&swapped]).0, whole.0);
        assert_ne!(sum(&[&bytes[..99]]).0, sum(&[&bytes[..99], &[0]]).0);
    }
}
