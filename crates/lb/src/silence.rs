//! How long a flow has been silent, and how long its client has asked for nothing. Pure: somebody counts, now and then.

use std::cell::Cell;

/// For how many counts in a row nothing has happened; of what has just begun, none.
#[derive(Debug, Default)]
pub(crate) struct Silence(Cell<u8>);

impl Silence {
    /// Begins anew.
    pub(crate) fn end(&self) {
        self.0.set(0);
    }

    /// Counts once more; gives how many it were in a row before, so the first since something has happened is none.
    pub(crate) fn count(&self) -> u8 {
        self.0.replace(self.0.get().saturating_add(1))
    }

    /// The same as of the last count.
    pub(crate) fn counted(&self) -> u8 {
        self.0.get().saturating_sub(1)
    }
}

/// How many bytes a client is told for each that it says by way of acknowledgement, at least. The flow control of HTTP/2 takes some:
/// Go's says 48 bytes, of two frames in one TLS record, for 4 KiB or more; others wait for more.
const TOLD_FOR_SAID: u16 = 64;

/// Bytes told that are waiting to be acknowledged, at most. So nothing longer than 128 bytes passes for an acknowledgement, into which a
/// request that writes something hardly fits; and whoever is told more than this in one piece, and acknowledges it bit by bit, counts as
/// asking.
const UNACKNOWLEDGED_MAX: u16 = 128 * TOLD_FOR_SAID;

/// For how many counts in a row a client has said nothing but what acknowledges what it was told. Whoever waits for an answer has asked;
/// a watch asks once.
#[derive(Debug, Default)]
pub(crate) struct Listening {
    silence: Silence,
    unacknowledged: Cell<u16>,
}

impl Listening {
    /// Notes bytes that go to the client.
    pub(crate) fn told(&self, bytes: usize) {
        let bytes = u16::try_from(bytes).unwrap_or(u16::MAX);
        self.unacknowledged.set(self.unacknowledged.get().saturating_add(bytes).min(UNACKNOWLEDGED_MAX));
    }

    /// Notes bytes that come from it.
    pub(crate) fn said(&self, bytes: usize) {
        let wanted = u16::try_from(bytes).unwrap_or(u16::MAX).saturating_mul(TOLD_FOR_SAID);
        let left = self.unacknowledged.get().checked_sub(wanted);
        self.unacknowledged.set(left.unwrap_or(0));
        if left.is_none() {
            self.silence.end();
        }
    }

    /// Begins anew.
    pub(crate) fn end(&self) {
        self.silence.end();
    }

    /// Counts once more; gives how many it were in a row.
    pub(crate) fn count(&self) -> u8 {
        self.silence.count()
    }

    /// The same as of the last count.
    pub(crate) fn counted(&self) -> u8 {
        self.silence.counted()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Go's HTTP/2 client says when it has read 4 KiB: WINDOW_UPDATE for the stream and for the connection, in one record of TLS 1.3.
    const ACKNOWLEDGEMENT: usize = 2 * (9 + 4) + 5 + 1 + 16;

    #[test]
    fn the_first_count_after_something_happened_is_none() {
        let silence = Silence::default();
        assert_eq!([silence.count(), silence.count(), silence.count()], [0, 1, 2]);
        assert_eq!(silence.counted(), 2);
        silence.end();
        assert_eq!(silence.counted(), 0);
        assert_eq!([silence.count(), silence.count()], [0, 1]);
        silence.0.set(u8::MAX);
        assert_eq!([silence.count(), silence.count()], [u8::MAX; 2]);
    }

    #[test]
    fn who_acknowledges_a_stream_listens_whatever_its_rate_is() {
        for event in [30, 300, 4096, 8192] {
            let listening = Listening::default();
            listening.count();
            let (mut unread, mut counts) = (0, 0);
            for _ in 0..100 {
                listening.told(event);
                unread += event;
                while unread >= 4096 {
                    listening.said(ACKNOWLEDGEMENT);
                    unread -= 4096;
                }
                counts = listening.count();
            }
            assert_eq!(counts, 100, "events of {event} bytes");
        }
    }

    #[test]
    fn who_asks_does_not_listen_however_much_it_was_told() {
        let listening = Listening::default();
        listening.count();
        for request in [130, 1000, 100_000] {
            listening.told(1 << 30);
            assert!(listening.count() > 0);
            listening.said(request);
            assert_eq!(listening.count(), 0, "a request of {request} bytes");
        }
        // Nothing was told that it could acknowledge.
        listening.said(1);
        assert_eq!(listening.count(), 0);
    }

    #[test]
    fn no_length_is_too_much() {
        let listening = Listening::default();
        listening.told(usize::MAX);
        listening.told(usize::MAX);
        listening.said(usize::MAX);
        assert_eq!(listening.count(), 0);
    }
}
