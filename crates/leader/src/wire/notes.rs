//! What datagrams carry of notes.
//!
//! ```text
//!  page: note u64, place u8, of u8, length u16, bytes
//! ```

use super::{Reader, put_u64};
use crate::notes::{PAGE_BYTES_MAX, PAGES_MAX, Page};

pub(super) fn put_page(out: &mut Vec<u8>, page: &Page) {
    let Page { note, place, of, bytes } = page;
    put_u64(out, *note);
    let length = u16::try_from(bytes.len()).expect("a page has a bound");
    out.extend([*place, *of]);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
}

impl Reader<'_> {
    pub(super) fn page(&mut self) -> Option<Page> {
        let (note, place, of) = (self.u64()?, self.u8()?, self.u8()?);
        let length = usize::from(u16::from_be_bytes([self.u8()?, self.u8()?]));
        let is_so = place < of && of <= PAGES_MAX && (1..=PAGE_BYTES_MAX).contains(&length);
        let bytes = self.bytes(length).filter(|_| is_so)?.to_vec();
        Some(Page { note, place, of, bytes })
    }
}
