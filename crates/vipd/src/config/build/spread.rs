//! Addresses that are spread over the hosts: each with an election of its own, and a host that it is meant for.

use std::net::{IpAddr, SocketAddr};

use leader::NodeId;
use leader::peers::{self, Subject};
use vip::Address;

use crate::config::file::File;
use crate::config::reader::Reader;
use crate::config::source::Step;

/// Each address costs an election's datagrams, and a port on every host.
const SPREAD_MAX: usize = 16;

/// What the host that an address is meant for has; the next one in turn has one less.
const PRIORITY_MAX: u8 = u8::MAX;

/// Addresses that move together, with the election that decides where.
type Group = (Vec<Address>, peers::Config);

/// All addresses with the one election, or each with one of its own where the file says `spread`; `None` after an error was noted.
///
/// The address in place `n` of the list uses the port of each host plus `n`, and is meant for the `n`th host by name, or
/// after the last one for the first again. Those that follow by name take over from it in turn.
pub(super) fn groups(
    reader: &mut Reader<'_>,
    file: &File,
    election: peers::Config,
    addresses: &[Address],
) -> Option<Vec<Group>> {
    if file.spread != Some(true) {
        return Some(vec![(addresses.to_vec(), election)]);
    }
    if election.peers.is_empty() {
        reader.warn(
            &[Step::Key("spread")],
            "`spread` has no effect on a single host, which has all addresses",
            "remove the key, or list every other host under `remotePeers`",
        );
        return Some(vec![(addresses.to_vec(), election)]);
    }
    if file.priority.is_some() {
        reader.error(
            &[Step::Key("priority")],
            "`priority` contradicts `spread`: each address is meant for another host",
            "remove `priority`; the first address is meant for the first host by name, and so on",
        );
        return None;
    }
    if addresses.len() > SPREAD_MAX {
        reader.error(
            &[Step::Key("spread")],
            format!("{} addresses are too many to be spread; at most {SPREAD_MAX} can be", addresses.len()),
            "each has an election of its own: list fewer, or let them move together without `spread`",
        );
        return None;
    }
    if !ports_suffice(reader, file, addresses.len()) {
        return None;
    }
    Some((0_u8..).zip(addresses).map(|(place, address)| group(&election, place, *address)).collect())
}

/// A Lease has one holder for all addresses.
pub(super) fn refused_by_lease(reader: &mut Reader<'_>, file: &File) {
    if file.spread == Some(true) {
        reader.error(
            &[Step::Key("spread")],
            "`spread` needs an election among peers: with `election: kubernetes`, one Lease decides about all addresses",
            "list every other host under `remotePeers` and remove `election`, or remove `spread`",
        );
    }
}

/// Whether every host's port leaves room for those of the further addresses.
fn ports_suffice(reader: &mut Reader<'_>, file: &File, count: usize) -> bool {
    let local = file.local_peer.iter().map(|peer| (peer, vec![Step::Key("localPeer")]));
    let remote = file.remote_peers.iter().flatten().enumerate();
    let remote = remote.map(|(index, peer)| (peer, vec![Step::Key("remotePeers"), index.into()]));
    let mut suffice = true;
    for (peer, mut path) in local.chain(remote) {
        let last = usize::from(peer.port) + count - 1;
        if last > usize::from(u16::MAX) {
            path.push("port".into());
            reader.error(
                &path,
                format!(
                    "with `spread`, {count} addresses use the ports {} to {last}, and the last is 65535",
                    peer.port
                ),
                "choose a lower port, such as 10000, on every host",
            );
            suffice = false;
        }
    }
    suffice
}

fn group(common: &peers::Config, place: u8, address: Address) -> Group {
    let mut election = common.clone();
    let next = |at: SocketAddr| SocketAddr::new(at.ip(), at.port() + u16::from(place));
    election.listen = next(common.listen);
    election.peers = common.peers.iter().map(|(id, at)| (id.clone(), next(*at))).collect();
    election.subject = Some(subject(address.ip));
    election.quorum.priority = priority(&common.quorum, place);
    (vec![address], election)
}

/// The address itself: hosts whose lists differ hold no election together that would be about two addresses.
fn subject(ip: IpAddr) -> Subject {
    Subject(match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    })
}

/// The highest on the host whose turn it is, one less on the next by name, and so on around.
fn priority(quorum: &leader::quorum::Config, place: u8) -> u8 {
    let hosts: Vec<&NodeId> = quorum.members.difference(&quorum.witnesses).collect();
    let Some(rank) = hosts.iter().position(|host| **host == quorum.me) else { return quorum.priority };
    let steps = (rank + hosts.len() - usize::from(place) % hosts.len()) % hosts.len();
    PRIORITY_MAX - u8::try_from(steps).expect("there are fewer members than priorities")
}
