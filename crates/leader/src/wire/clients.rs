//! What datagrams say of clients.
//!
//! ```text
//!  chapter:  volume u64, after u64, until u64, count u8, change each
//!  change:   1 bit: it went; 7 bits: length; bytes
//!  bookmark: volume u64, line u64
//! ```

use super::{Reader, put_u64};
use crate::clients::{Bookmark, Change, Chapter, Client};

/// The bit of a change that says that the client went.
const GONE: u8 = 1 << 7;

pub(super) fn put_chapter(out: &mut Vec<u8>, chapter: &Chapter) {
    let Chapter { volume, after, until, changes } = chapter;
    [volume, after, until].into_iter().for_each(|number| put_u64(out, *number));
    out.push(u8::try_from(changes.len()).expect("a chapter has a bound"));
    for change in changes {
        let (client, gone) = match change {
            Change::Came(client) => (client, 0),
            Change::Gone(client) => (client, GONE),
        };
        out.push(u8::try_from(client.as_bytes().len()).expect("a client has a few bytes") | gone);
        out.extend_from_slice(client.as_bytes());
    }
}

pub(super) fn put_bookmark(out: &mut Vec<u8>, bookmark: Bookmark) {
    put_u64(out, bookmark.volume);
    put_u64(out, bookmark.line);
}

impl Reader<'_> {
    pub(super) fn chapter(&mut self) -> Option<Chapter> {
        let (volume, after, until) = (self.u64()?, self.u64()?, self.u64()?);
        let count = self.u8()?;
        let changes = (0..count).map(|_| self.change()).collect::<Option<Vec<_>>>()?;
        (after <= until).then_some(Chapter { volume, after, until, changes })
    }

    fn change(&mut self) -> Option<Change> {
        let head = self.u8()?;
        let client = Client::new(self.bytes(usize::from(head & !GONE))?)?;
        Some(if head & GONE == 0 { Change::Came(client) } else { Change::Gone(client) })
    }

    pub(super) fn bookmark(&mut self) -> Option<Bookmark> {
        Some(Bookmark { volume: self.u64()?, line: self.u64()? })
    }
}
