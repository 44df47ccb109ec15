//! What fuzzing calls, and `cargo test` with the corpus: each entry takes bytes as they would come from outside, whatever they are, and
//! asserts what must hold of what is made of them. `fuzz/` has the targets of the same names; `docs/fuzzing.md` says what each is for.

use std::net::SocketAddr;

use crate::conntrack;
use crate::reading::{attributes, next_message};
use crate::ruleset::{Hook, Packet, Ruleset, Transport};
use crate::socket;

/// An entry, with the name of its target and corpus.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[("kernel_answer", kernel_answer), ("ruleset", ruleset)];

/// How deep attributes are followed into each other.
const DEPTH: usize = 8;

/// What netfilter answers: messages of nf_tables and of its memory of connections.
///
/// There are no more messages and attributes than there is room for, and an answer is one of a step or none.
pub fn kernel_answer(bytes: &[u8]) {
    let mut rest = bytes;
    let mut messages = 0;
    while let Some((_, body)) = next_message(&mut rest) {
        messages += 1;
        walk(body, DEPTH);
        let _ = body.get(4..).and_then(conntrack::parse);
    }
    assert!(messages <= bytes.len() / 16);
    let _ = socket::parse(bytes);
    let _ = socket::failure(bytes);
    if let Some(flow) = conntrack::parse(bytes) {
        assert_eq!(flow.client.is_ipv4(), flow.client.ip().is_ipv4());
    }
}

fn walk(list: &[u8], depth: usize) {
    let mut octets = 0;
    for (_, value) in attributes(list) {
        octets += 4 + value.len();
        if depth > 0 {
            walk(value, depth - 1);
        }
    }
    assert!(octets <= list.len() + 3, "attributes have {octets} octets of {}", list.len());
}

/// Chains and rules as the kernel lists them, each behind a family, a kind and its length: may the election's packets come in?
///
/// It is told in a time that is bounded by what there is, the same each time.
pub fn ruleset(bytes: &[u8]) {
    let mut found = Ruleset::default();
    let mut rest = bytes;
    while let Some((head, tail)) = rest.split_first_chunk::<4>() {
        let [kind, family, length @ ..] = *head;
        let length = usize::from(u16::from_be_bytes(length));
        let (list, tail) = tail.split_at(length.min(tail.len()));
        rest = tail;
        let family = [1, 2, 10, 7][usize::from(family & 3)];
        if kind & 1 == 0 {
            found.take_chain(family, list);
        } else {
            found.take_rule(family, list);
        }
    }
    let at = |text: &str| -> SocketAddr { text.parse().expect("an address") };
    for (source, destination) in [("10.0.0.2:10000", "10.0.0.1:10000"), ("[fd00::2]:1", "[fd00::1]:6443")] {
        for transport in [Transport::Udp, Transport::Tcp] {
            let packet = Packet {
                transport,
                source: Some(at(source)),
                destination: at(destination),
                comes_by: Some("eth0".to_owned()),
            };
            for hook in [Hook::Input, Hook::Forward] {
                let told = found.drops(hook, &packet);
                assert_eq!(told, found.drops(hook, &packet));
            }
        }
    }
}

#[cfg(test)]
#[path = "../../../fuzz/kept.rs"]
mod kept;
