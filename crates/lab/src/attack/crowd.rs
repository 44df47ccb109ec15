//! Clients that take a place and say next to nothing (slow-loris).

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use super::sender::{Sender, pause};
use crate::namespace::Namespace;

/// How many there are at a time.
const CROWD: usize = 300;
/// Each says a byte so often.
const INTERVAL: Duration = Duration::from_millis(200);
/// A connect waits no longer.
const PATIENCE: Duration = Duration::from_secs(1);
/// What they say, over and over: a head of a request without an end.
const WORDS: &[u8] = b"GET /readyz HTTP/1.1\r\nx: ";

/// Keeps a crowd connected from a host, and counts the bytes that it says. Who is thrown out comes again.
pub(super) fn gather(from: &Arc<Namespace>, target: SocketAddr) -> Result<Sender> {
    let mut here: Vec<Option<TcpStream>> = (0..CROWD).map(|_| None).collect();
    let mut turn = 0;
    let namespace = Arc::clone(from);
    Sender::start(move || {
        let byte = WORDS[turn % WORDS.len()];
        turn += 1;
        let mut said = 0;
        for place in &mut here {
            if place.is_none() {
                *place = namespace.within(|| Ok(TcpStream::connect_timeout(&target, PATIENCE)?)).ok();
            }
            let wrote = place.as_mut().is_some_and(|stream| stream.write_all(&[byte]).is_ok());
            said += u64::from(wrote);
            if !wrote {
                *place = None;
            }
        }
        pause(INTERVAL);
        said
    })
}
