//! What the segment shows: the addresses' subnets, who has them, and whether the other hosts are there.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;

use super::Finding;
use crate::config::{Election, TieBreak, Vip};
use crate::daemon::tie_break::gateway;
use crate::exit;

/// How long an owner of the address, or a peer, has to answer.
const ANSWER_TIME: Duration = Duration::from_millis(500);

/// A virtual address outside the interface's subnets is reachable only through routes that nobody announces.
pub(super) async fn subnets(addresses: &[vip::Address], name: &str) -> Vec<Finding> {
    let own = match vip::linux::interface_addresses(name).await {
        Ok(own) => own,
        Err(error) => {
            return vec![Finding::doubtful(
                format!("failed to list the addresses of {name}: {error}"),
                "look at `ip address`",
            )];
        }
    };
    addresses
        .iter()
        .map(|address| {
            let inside = own.iter().any(|other| other.ip != address.ip && other.contains(address.ip));
            if inside {
                return Finding::good(format!("{} lies in a subnet of {name}", address.ip));
            }
            let subnets = own.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            Finding::doubtful(
                format!("{} lies outside the subnets of {name} ({subnets})", address.ip),
                "choose a free address of the hosts' subnet: others can't be reached without a route of your own",
            )
        })
        .collect()
}

/// An address with the subnet's own prefix can become the primary one of its subnet, and take the others along when it goes.
pub(super) fn secondaries(addresses: &[vip::Address], name: &str) -> Option<Finding> {
    let shares = addresses.iter().any(|address| address.ip.is_ipv4() && address.prefix < 32);
    if !shares || vip::linux::promotes_secondaries(name).unwrap_or(true) {
        return None;
    }
    Some(Finding::doubtful(
        format!(
            "{name} does not promote secondary addresses: releasing the virtual address may take the host's own along"
        ),
        format!(
            "`sysctl -w net.ipv4.conf.{name}.promote_secondaries=1`, or give the virtual address no prefix"
        ),
    ))
}

/// Does anybody else answer for an address?
pub(super) async fn strangers(addresses: &[vip::Address], name: &str, findings: &mut Vec<Finding>) {
    for address in addresses {
        match vip::probe::owner_of(name, address.ip, ANSWER_TIME).await {
            Ok(None) => findings.push(Finding::good(format!("nobody answers for {}", address.ip))),
            Ok(Some(mac)) => {
                findings.push(Finding::doubtful(
                    format!("{} is in use: {} answers for it", address.ip, vip::Station(mac)),
                    "if that is another vipd of this cluster, or what vipd replaces, all is well; otherwise choose a free address",
                ));
            }
            Err(error) => findings.push(Finding::doubtful(
                format!("failed to ask the segment who has {}: {error}", address.ip),
                "run as root, or with the capability NET_RAW",
            )),
        }
    }
}

/// Does what decides between two hosts answer? And fast enough: a look at the segment lasts half a heartbeat.
pub(super) async fn tie_break(rule: TieBreak, vip: &Vip, name: &str) -> Finding {
    let address = match rule {
        TieBreak::Address(ip) => Some(ip),
        TieBreak::Gateway => gateway(name, &vip.addresses).await,
    };
    let Some(ip) = address else {
        return Finding::bad(
            exit::CONFIG,
            format!("`tieBreak: gateway`, and no default route leads over {name}"),
            "write the address of a host of the subnet that is always up: `tieBreak: ADDRESS`",
        );
    };
    let on_link = vip::linux::interface_addresses(name).await.unwrap_or_default();
    if !on_link.iter().any(|own| own.contains(ip)) {
        return Finding::bad(
            exit::CONFIG,
            format!("the tie-break {ip} is in no subnet of {name}: it can't be asked by ARP or ND"),
            "write `gateway`, or the address of a host of the same subnet",
        );
    }
    let virtual_ips: Vec<IpAddr> = vip.addresses.iter().map(|address| address.ip).collect();
    let Election::Peers(election) = &vip.election else {
        return Finding::good("a Lease decides, and no tie-break");
    };
    let lasting = election.quorum.timing.heartbeat() / 2;
    let looked = async {
        let mut watch = vip::probe::Watch::open(name, &virtual_ips, ip, leader::clock::asleep).await?;
        // The first answer may take longer: both sides' neighbour caches are empty.
        let (first, second) = (watch.look(ANSWER_TIME).await?, watch.look(lasting).await?);
        Ok::<_, vip::Error>((first.answered, second.answered))
    };
    match looked.await {
        Ok((_, true)) => Finding::good(format!("the tie-break {ip} answers")),
        Ok((true, false)) => Finding::doubtful(
            format!("the tie-break {ip} answers, but not within {lasting:?}"),
            "a longer heartbeat gives it more time (`timing: relaxed`); or choose another host",
        ),
        Ok((false, false)) => Finding::doubtful(
            format!("the tie-break {ip} does not answer: neither host would lead without the other"),
            "is it up, and on the same subnet?",
        ),
        Err(error) => Finding::doubtful(
            format!("failed to ask for the tie-break {ip}: {error}"),
            "run as root, or with the capability NET_RAW",
        ),
    }
}

/// Are the peers there? A host answers ARP or ND; its vipd has the port open.
pub(super) async fn peers(vips: &[Vip], name: &str, findings: &mut Vec<Finding>) {
    let elections: Vec<_> = vips.iter().filter_map(of_peers).collect();
    let Some((election, further)) = elections.split_first() else { return };
    for (id, address) in &election.peers {
        if election.quorum.witnesses.contains(id) {
            // It may be anywhere that UDP reaches.
            findings.push(peer_vipd(id, *address, false).await);
            continue;
        }
        match vip::probe::owner_of(name, address.ip(), ANSWER_TIME).await {
            Ok(Some(_)) => findings.push(peer_vipd(id, *address, true).await),
            Ok(None) => findings.push(Finding::doubtful(
                format!("the peer {id} does not answer: no host has {} on this segment", address.ip()),
                "is it up, is its address right, and is it on the same subnet?",
            )),
            Err(error) => findings.push(Finding::doubtful(
                format!("failed to ask for the peer {id} at {address}: {error}"),
                "run as root, or with the capability NET_RAW",
            )),
        }
    }
    // The same hosts, at the ports of the other elections.
    let further = further.iter().flat_map(|election| &election.peers);
    findings.extend(join_all(further.map(|(id, address)| peer_vipd(id, *address, false))).await);
}

fn of_peers(vip: &Vip) -> Option<&leader::peers::Config> {
    match &vip.election {
        Election::Peers(election) => Some(election),
        Election::Kubernetes(_) => None,
    }
}

/// A closed port is answered by ICMP, which the socket reports; an open one takes a byte in silence, and so does a host that is not
/// there, where it was not seen before.
pub(super) async fn peer_vipd(id: &leader::NodeId, address: SocketAddr, seen: bool) -> Finding {
    let unspecified =
        if address.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let ask = async {
        let socket = tokio::net::UdpSocket::bind((unspecified, 0)).await?;
        socket.connect(address).await?;
        socket.send(&[0]).await?;
        let mut answer = [0; 1];
        socket.recv(&mut answer).await
    };
    match tokio::time::timeout(ANSWER_TIME, ask).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Finding::good(format!("the peer {id} is up; no vipd runs there yet ({address} is closed)"))
        }
        Ok(Err(error)) => Finding::doubtful(
            format!("the peer {id} is up, but {address} can't be reached: {error}"),
            "let UDP through between the hosts",
        ),
        Ok(Ok(_)) | Err(_) if seen => Finding::good(format!("the peer {id} is up, and {address} is open")),
        Ok(Ok(_)) | Err(_) => Finding::good(format!(
            "{address} of the peer {id} is not known to be closed; `vipd status` will show whether it is heard"
        )),
    }
}
