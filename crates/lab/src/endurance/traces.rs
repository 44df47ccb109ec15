//! What a node's network holds: what a system leaves behind shows as a difference.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::namespace::Namespace;
use crate::network::find_program;

/// Addresses and what is local by them. Neither has counters or times in it.
const TEXTS: [&str; 2] = ["if_inet6", "fib_trie"];
/// Sockets of the sorts that a system may open for itself, which are counted: their lines have inodes and sizes of queues.
const SOCKETS: [&str; 7] = ["packet", "raw", "raw6", "icmp", "icmp6", "udp", "udp6"];

/// Describes a node's network: addresses, local routes, sockets, and the rules of nf_tables.
///
/// # Errors
/// If the kernel or `nft` doesn't answer.
pub(super) fn look(namespace: &Namespace) -> Result<String> {
    let nft = find_program("nft", "nftables")?;
    namespace.within(|| {
        let read = |name: &str| {
            fs::read_to_string(format!("/proc/thread-self/net/{name}"))
                .with_context(|| format!("{name} of /proc"))
        };
        let mut text = String::new();
        for name in TEXTS {
            text += &format!("{name}:\n{}", read(name)?);
        }
        for name in SOCKETS {
            // A heading comes first.
            text += &format!("{name}: {}\n", read(name)?.lines().skip(1).count());
        }
        let rules = Command::new(nft).args(["-s", "list", "ruleset"]).output()?;
        ensure!(rules.status.success(), "nft: {}", String::from_utf8_lossy(&rules.stderr));
        Ok(text + &String::from_utf8_lossy(&rules.stdout))
    })
}
