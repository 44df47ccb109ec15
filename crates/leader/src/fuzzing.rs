//! What fuzzing calls, and `cargo test` with the corpus: each entry takes bytes as they would come from outside, whatever they are, and
//! asserts what must hold of what is made of them. `fuzz/` has the targets of the same names; `docs/fuzzing.md` says what each is for.

mod conversation;

pub use conversation::conversation;
use ring::hmac;

pub use crate::kubernetes::fuzzing::{cluster, kubeconfig, lease};
use crate::message::Version;
use crate::node::NodeId;
use crate::timing::LEASE_MAX;
use crate::wire::{Envelope, Key, Unreadable};

/// An entry, with the name of its target and corpus.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("datagram", datagram),
    ("conversation", conversation),
    ("lease", lease),
    ("cluster", cluster),
    ("kubeconfig", kubeconfig),
];

/// The secret of the key that datagrams are signed with here.
const SECRET: &[u8] = b"sixteen bytes or more";
const KEY_ID: u8 = 1;
/// Where a datagram says which key signed it.
const KEY_AT: usize = 1;

fn node(name: &str) -> NodeId {
    NodeId::new(name).expect("a name")
}

fn key() -> Key {
    Key::new(KEY_ID, SECRET).expect("long enough")
}

/// The bytes with their key named, and their signature behind them.
fn signed(content: &[u8]) -> Vec<u8> {
    let mut signed = content.to_vec();
    if let Some(id) = signed.get_mut(KEY_AT) {
        *id = KEY_ID;
    }
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), &signed);
    signed.extend_from_slice(tag.as_ref());
    signed
}

/// A datagram of a peer, signed or not.
///
/// What is read is written as it was read, in no more bytes; a signature changes nothing of what is read; and nobody gets in without it.
pub fn datagram(bytes: &[u8]) {
    let expected = node("master-1");
    let mut unsigned = bytes.to_vec();
    if let Some(id) = unsigned.get_mut(KEY_AT) {
        *id = 0;
    }
    let read = Envelope::open(&unsigned, &[], &expected);
    if let Ok(envelope) = &read {
        assert!(envelope.gossip.lease <= LEASE_MAX);
        let mut again = Vec::new();
        envelope.emit(&[], &mut again);
        assert!(again.len() <= unsigned.len(), "{} bytes became {}", unsigned.len(), again.len());
        assert_eq!(Envelope::open(&again, &[], &expected).as_ref(), Ok(envelope));
        let version = envelope.gossip.version;
        assert_eq!(Version::new(version.as_str()), version);
    }

    // With less there is no saying which key it would be.
    if bytes.len() <= KEY_AT + 1 {
        return;
    }
    let keys = [key()];
    assert!(Envelope::open(bytes, &keys, &expected).is_err(), "a signature was guessed");
    let mut signed = signed(bytes);
    let opened = Envelope::open(&signed, &keys, &expected);
    // A signature makes it longer, and may make it too long.
    assert!(opened == read || opened == Err(Unreadable::Malformed), "{opened:?} is signed, {read:?} is not");
    if let Some(last) = signed.last_mut() {
        *last ^= 1;
        assert!(Envelope::open(&signed, &keys, &expected).is_err(), "a wrong signature is taken");
    }
}

#[cfg(test)]
#[path = "../../../fuzz/kept.rs"]
mod kept;
