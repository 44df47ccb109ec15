//! What peers that run say, and whether it is understood here: by the key, and by what their configuration says.
//!
//! Before vipd runs here, this listens at its place, and takes no part: a datagram of this host could make a peer count with it. Who leads, and
//! who wants to, speaks to every member several times a second, to silent ones too; a follower does not, so silence tells nothing.
//! Where vipd runs, it has heard more, and is asked.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use leader::NodeId;
use leader::member::Member;
use leader::peers::Mismatch;
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use super::examination::Situation;
use super::{Finding, about};
use crate::status::Snapshot;

/// How many heartbeats are listened for, and the least and the longest time that this may take.
const HEARTBEATS: u32 = 3;
const SHORTEST: Duration = Duration::from_millis(400);
const LONGEST: Duration = Duration::from_secs(2);

/// The largest datagram that is read whole; those of peers are smaller.
const DATAGRAM: usize = 2048;

/// What was heard.
pub(super) struct Overheard {
    pub(super) findings: Vec<Finding>,
    /// Something of a peer came in: no firewall of this host's keeps it out.
    pub(super) heard: bool,
}

/// Listens to each election at the same time, or asks the vipd that runs here.
pub(super) async fn look(situation: &Situation<'_>) -> Overheard {
    if let Some(running) = &situation.running {
        return told(running);
    }
    let listened =
        join_all(situation.elections().filter(|election| !election.peers.is_empty()).map(listen)).await;
    let mut peers: BTreeMap<NodeId, Option<Mismatch>> = BTreeMap::new();
    for (id, mismatch) in listened.into_iter().flatten() {
        // What is wrong in one of several elections counts.
        let known = peers.entry(id).or_default();
        *known = mismatch.or_else(|| known.take());
    }
    let heard = !peers.is_empty();
    let findings = peers.iter().map(|(id, mismatch)| judged(id, mismatch.as_ref())).collect();
    Overheard { findings, heard }
}

/// What came from each peer, and what of it keeps the two from taking part together.
async fn listen(election: &leader::peers::Config) -> BTreeMap<NodeId, Option<Mismatch>> {
    let mut heard = BTreeMap::new();
    let now = leader::clock::now();
    // A port that is taken, and members that make no election, are other findings.
    let (Ok(socket), Ok(member)) = (UdpSocket::bind(election.listen).await, Member::new(election, 1, 0, now))
    else {
        return heard;
    };
    let lasting = (election.quorum.timing.heartbeat() * HEARTBEATS).clamp(SHORTEST, LONGEST);
    let deadline = Instant::now() + lasting;
    let mut datagram = [0; DATAGRAM];
    while let Ok(received) = timeout_at(deadline, socket.recv_from(&mut datagram)).await {
        let Ok((length, from)) = received else { continue };
        if let Some((peer, mismatch)) = member.overhear(from, &datagram[..length]) {
            heard.insert(peer, mismatch);
            if heard.len() == election.peers.len() {
                break;
            }
        }
    }
    heard
}

fn judged(id: &NodeId, mismatch: Option<&Mismatch>) -> Finding {
    match mismatch {
        None => Finding::good(
            &about::PEER_KEY,
            format!(
                "the peer {id} runs, and this host would understand it: the same key, the same members and timing"
            ),
        ),
        Some(mismatch) if mismatch.is_of_keys() => Finding::doubtful(
            &about::PEER_KEY,
            format!("the peer {id} runs, and this host would drop what it says: it {mismatch}"),
            "give all hosts the same `peerKeys`: copy the key's file from a host that runs, and compare with `sha256sum`",
        ),
        Some(mismatch) => Finding::doubtful(
            &about::PEER_SETTINGS,
            format!("the peer {id} runs, and is set up otherwise: it {mismatch}"),
            "compare the two configurations: only `localPeer`, `startAsLeader`, `priority` and `node` differ from host to host",
        ),
    }
}

/// A peer that was heard so lately still is: the longest lease that can be set takes two heartbeats of it.
const LATELY_MS: u64 = 30_000;

/// What the vipd that runs here says of its peers.
fn told(running: &Snapshot) -> Overheard {
    let peers: Vec<_> = running.owners.iter().flat_map(|owner| &owner.peers).collect();
    let lately = |heard_ms: Option<u64>| heard_ms.is_some_and(|ms| ms <= LATELY_MS);
    let heard = peers.iter().any(|peer| lately(peer.heard_ms));
    let findings = peers.iter().map(|peer| match (&peer.trouble, peer.heard_ms) {
        (Some(trouble), _) => Finding::doubtful(
            if is_of_keys(trouble) { &about::PEER_KEY } else { &about::PEER_SETTINGS },
            format!("the vipd that runs here doesn't count with the peer {}: it {trouble}", peer.id),
            "compare the two configurations, and the keys' files with `sha256sum`",
        ),
        (None, heard_ms) if lately(heard_ms) => {
            Finding::good(&about::PEER, format!("the vipd that runs here hears the peer {}", peer.id))
        }
        (None, heard_ms) => Finding::doubtful(
            &about::PEER,
            match heard_ms {
                Some(ms) => {
                    format!("the vipd that runs here has not heard the peer {} for {} s", peer.id, ms / 1000)
                }
                None => format!("the vipd that runs here has not heard the peer {}", peer.id),
            },
            format!("does vipd run there, and is UDP let through to {} and back?", peer.address),
        ),
    });
    Overheard { findings: findings.collect(), heard }
}

/// Whether it is the keys that differ, in the words of [`Mismatch`].
fn is_of_keys(trouble: &str) -> bool {
    trouble.contains(" key")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_was_heard_once_long_ago_is_not_heard() {
        let mut running: Snapshot = serde_json::from_str(include_str!("../status/sample.json")).unwrap();
        let peers = &mut running.owners[0].peers;
        (peers[0].heard_ms, peers[1].heard_ms) = (Some(LATELY_MS), Some(LATELY_MS + 1));
        let overheard = told(&running);
        let good: Vec<_> = overheard.findings.iter().map(|finding| finding.help.is_none()).collect();
        assert!(overheard.heard && good == [true, false], "{good:?}");
        running.owners[0].peers[0].heard_ms = Some(3_600_000);
        assert!(!told(&running).heard);
    }

    #[test]
    fn what_is_told_of_keys_is_known_by_its_words() {
        let (ours, theirs) = (Duration::from_secs(1), Duration::from_secs(2));
        let node = NodeId::new("b").unwrap();
        for mismatch in [
            Mismatch::WireVersion { theirs: 9 },
            Mismatch::Malformed,
            Mismatch::Unsigned,
            Mismatch::Signed { key: 1 },
            Mismatch::UnknownKey { key: 1 },
            Mismatch::BadSignature { key: 1 },
            Mismatch::Name { theirs: node },
            Mismatch::Lease { theirs, ours },
            Mismatch::Lease { theirs: ours, ours: theirs },
            Mismatch::Members,
            Mismatch::Witness { theirs: true },
            Mismatch::Witness { theirs: false },
            Mismatch::TieBreak,
            Mismatch::Subject,
        ] {
            assert_eq!(is_of_keys(&mismatch.to_string()), mismatch.is_of_keys(), "{mismatch}");
        }
    }
}
