//! What fuzzing calls, and `cargo test` with the corpus: each entry takes bytes as they would come from outside, whatever they are, and
//! asserts what must hold of what is made of them. `fuzz/` has the targets of the same names; `docs/fuzzing.md` says what each is for.

use crate::first_flight::{FirstFlight, KEPT};
use crate::http::{self, HEAD, Malformed, Progress};
use crate::proxy_protocol::{self, HEADER_MAX, Heard, ProxyProtocol};

/// An entry, with the name of its target and corpus.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] =
    &[("proxy_header", proxy_header), ("health_answer", health_answer), ("first_flight", first_flight)];

/// How a stream was cut, where trying all ways would take too long.
const CUTS_MAX: usize = 64;

/// Where a stream of this length may have been cut: everywhere, or at places that follow from its length.
fn cuts(length: usize) -> impl Iterator<Item = usize> {
    let step = length.div_ceil(CUTS_MAX).max(1);
    (0..=length).step_by(step).chain([length])
}

/// What a client says first, where proxies introduce their clients.
///
/// However the stream is cut, the same is heard, and nothing that was decided is taken back; a header ends within its bound; and what one
/// says is what this balancer writes to say the same.
pub fn proxy_header(bytes: &[u8]) {
    let mut decided = None;
    for cut in 0..=bytes.len().min(HEADER_MAX + 8) {
        let heard = proxy_protocol::parse(&bytes[..cut]);
        match decided {
            None if heard == Heard::Part => assert!(cut < HEADER_MAX, "{cut} octets decide nothing"),
            None => decided = Some(heard),
            Some(decided) => assert_eq!(heard, decided, "at {cut}"),
        }
    }
    let Some(Heard::Whole { length, ends }) = decided else { return };
    assert!((1..=HEADER_MAX).contains(&length) && length <= bytes.len());
    let Some((client, server)) = ends else { return };
    assert_eq!(client.is_ipv4(), server.is_ipv4());
    for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
        let header = version.header(Some(client), Some(server));
        assert_eq!(proxy_protocol::parse(&header), Heard::Whole { length: header.len(), ends });
    }
}

/// What a backend answers to a health check.
///
/// However it comes in pieces, it ends in the same; a head has its bound; and of what was read no later byte changes the status.
pub fn health_answer(bytes: &[u8]) {
    let mut last: Option<Result<Progress, Malformed>> = None;
    for cut in cuts(bytes.len()) {
        let now = http::parse(&bytes[..cut]);
        match (last, now) {
            (_, Ok(Progress::Head)) => {
                assert!(matches!(last, None | Some(Ok(Progress::Head))), "{last:?}, then {now:?}");
                assert!(cut < HEAD, "{cut} bytes are no head");
            }
            (Some(Err(before)), _) => assert_eq!(now, Err(before)),
            (Some(Ok(Progress::Complete(before))), _) => {
                let Ok(Progress::Complete(now)) = now else { panic!("complete, then {now:?}") };
                // More than was asked for: the connection is of no more use.
                assert!(now.status == before.status && (before.reusable || !now.reusable));
            }
            (Some(Ok(Progress::Body(before))), Ok(Progress::Body(now) | Progress::Complete(now))) => {
                assert_eq!(now.status, before.status);
            }
            (Some(Ok(Progress::Body(_))), Err(error)) => assert_eq!(error, Malformed::Body),
            (None | Some(Ok(Progress::Head)), Ok(Progress::Body(_) | Progress::Complete(_)) | Err(_)) => {}
        }
        if let Ok(Progress::Body(answer) | Progress::Complete(answer)) = now {
            assert!((200..=999).contains(&answer.status), "{}", answer.status);
        }
        last = Some(now);
    }
}

/// What a client says before a backend has answered.
///
/// However it is cut, it is kept whole or not at all, and no more of it than the bound.
pub fn first_flight(bytes: &[u8]) {
    let mut whole = FirstFlight::default();
    let kept = whole.keep(bytes);
    for cut in cuts(bytes.len()) {
        let mut flight = FirstFlight::default();
        let both = flight.keep(&bytes[..cut]) && flight.keep(&bytes[cut..]);
        assert_eq!(both, kept, "cut at {cut}");
        assert!(flight.bytes().len() <= KEPT);
        if kept {
            assert_eq!(flight.bytes(), bytes);
            assert_eq!(flight.is_empty(), bytes.is_empty());
        }
    }
}

#[cfg(test)]
#[path = "../../../fuzz/kept.rs"]
mod kept;
